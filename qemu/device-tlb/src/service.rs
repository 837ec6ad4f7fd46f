//! The device's side of the protocol: what QEMU asks on its channel, in a thread of its own.

use crate::answers::Answers;
use crate::history::{Event, What};
use crate::memory::Memory;
use crate::tlb::{Block, DeviceTlb, Translation};
use crate::wire::{self, IotlbMessage, Message};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{
    BackendReq, FrontendReq, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};

/// `VIRTIO_F_VERSION_1` and `VIRTIO_F_ACCESS_PLATFORM` (Virtio 1.3, 6).
const VIRTIO_FEATURES: u64 = 1 << 32 | 1 << 33;
const FEATURES: u64 = VIRTIO_FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
const PROTOCOL_FEATURES: VhostUserProtocolFeatures =
    VhostUserProtocolFeatures::REPLY_ACK.union(VhostUserProtocolFeatures::BACKEND_REQ);
/// What a reply says of a request that was done, and of one that was not.
const DONE: u64 = 0;
const NOT_DONE: u64 = 1;
/// What QEMU is given to answer a miss. It may be waiting for this device's own late answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events that are kept.
const KEPT: usize = 1 << 18;

/// What the device's threads share.
pub struct Shared {
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    state: Mutex<State>,
    /// Told of every change of the state.
    changed: Condvar,
    /// One question at a time is on the device's own channel.
    asking: Mutex<()>,
}

/// What they share under a lock. Memory is accessed under it, so that an invalidation is answered
/// when no access that used the translation is under way.
pub struct State {
    pub memory: Memory,
    pub tlb: DeviceTlb,
    pub answers: Answers,
    pub history: Vec<Event>,
    /// Invalidations that came and are not answered.
    pub unanswered: usize,
    /// Whether the machine's driver has started the device.
    pub running: bool,
    /// The device's own channel.
    questions: Option<Arc<UnixStream>>,
    /// What is asked on it: an address, and whether for a write.
    question: Option<(u64, bool)>,
    /// Why nothing more will happen, if so.
    pub end: Option<String>,
}

impl Shared {
    pub fn new(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self {
            clock: Box::new(clock),
            state: Mutex::new(State {
                memory: Memory::default(),
                tlb: DeviceTlb::default(),
                answers: Answers::After(Duration::ZERO),
                history: Vec::new(),
                unanswered: 0,
                running: false,
                questions: None,
                question: None,
                end: None,
            }),
            changed: Condvar::new(),
            asking: Mutex::new(()),
        }
    }

    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what happens; when that is.
    pub fn note(&self, state: &mut State, what: What) -> u64 {
        let at = self.now();
        if state.history.len() == KEPT {
            state.history.drain(..KEPT / 2);
        }
        state.history.push(Event { at, what });
        self.changed.notify_all();
        at
    }

    /// Changes the state and tells whoever waits.
    pub fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state());
        self.changed.notify_all();
        result
    }

    /// Waits until `condition` holds; whether it does before the device ends or `limit` is over.
    pub fn wait_until(&self, limit: Duration, condition: impl Fn(&State) -> bool) -> bool {
        let waiting = |state: &mut State| !condition(state) && state.end.is_none();
        let waited = self
            .changed
            .wait_timeout_while(self.state(), limit, waiting);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        condition(&state)
    }

    /// Nothing more happens, and nobody waits.
    pub fn end(&self, why: &str) {
        self.change(|state| {
            state.end.get_or_insert_with(|| why.to_owned());
            if let Some(questions) = &state.questions {
                let _ = questions.shutdown(std::net::Shutdown::Both);
            }
        });
    }

    /// Does what QEMU asks until the connection ends.
    pub fn serve(&self, socket: &UnixStream) {
        let end = loop {
            match wire::receive(socket) {
                Ok(Some(message)) if message.is_reply() => {}
                Ok(Some(message)) => {
                    if let Err(error) = self.handle(socket, message) {
                        break error.to_string();
                    }
                }
                Ok(None) => break "QEMU closed the connection".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        self.end(&end);
    }

    fn handle(&self, socket: &UnixStream, message: Message) -> io::Result<()> {
        let (request, needs_reply) = (message.request, message.needs_reply());
        let value = match FrontendReq::try_from(request) {
            Ok(FrontendReq::GET_FEATURES) => Some(FEATURES),
            Ok(FrontendReq::GET_PROTOCOL_FEATURES) => Some(PROTOCOL_FEATURES.bits()),
            // The ring's number comes back, with the index 0: nothing was taken from it.
            Ok(FrontendReq::GET_VRING_BASE) => {
                self.stop();
                Some(message.word()? & u64::from(u32::MAX))
            }
            _ => None,
        };
        if let Some(value) = value {
            return wire::reply(socket, request, &value.to_ne_bytes());
        }
        let done = self.do_silently(message)?;
        if needs_reply {
            let how = if done { DONE } else { NOT_DONE };
            wire::reply(socket, request, &how.to_ne_bytes())?;
        }
        Ok(())
    }

    /// What has no reply of its own; whether it was done.
    fn do_silently(&self, mut message: Message) -> io::Result<bool> {
        let Ok(request) = FrontendReq::try_from(message.request) else {
            return Ok(false);
        };
        match request {
            FrontendReq::SET_MEM_TABLE => {
                let memory = Memory::map(message.memory_table()?)?;
                self.change(|state| state.memory = memory);
            }
            FrontendReq::SET_BACKEND_REQ_FD => {
                let Some(file) = message.files.pop() else {
                    return Ok(false);
                };
                let channel = UnixStream::from(OwnedFd::from(file));
                channel.set_read_timeout(Some(PATIENCE))?;
                self.change(|state| state.questions = Some(Arc::new(channel)));
            }
            FrontendReq::IOTLB_MSG => match IotlbMessage::decode(&message.payload)? {
                IotlbMessage::Update(translation) => self.keep(translation),
                IotlbMessage::Invalidate(block) => return Ok(self.invalidate(block)),
                IotlbMessage::Miss { .. } | IotlbMessage::Other(_) => return Ok(false),
            },
            FrontendReq::SET_VRING_ENABLE => {
                let running = message.word()? >> 32 != 0;
                self.change(|state| state.running = running);
            }
            FrontendReq::SET_FEATURES
            | FrontendReq::SET_PROTOCOL_FEATURES
            | FrontendReq::SET_OWNER
            | FrontendReq::SET_VRING_NUM
            | FrontendReq::SET_VRING_ADDR
            | FrontendReq::SET_VRING_BASE
            | FrontendReq::SET_VRING_KICK
            | FrontendReq::SET_VRING_CALL
            | FrontendReq::SET_VRING_ERR => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Keeps a translation. QEMU says of any that writes are allowed, but it looked whether they are
    /// only if the device asked for a write.
    fn keep(&self, mut translation: Translation) {
        let mut state = self.state();
        if let Some((iova, write)) = state.question
            && translation.block.contains(iova)
        {
            translation.write &= write;
        }
        state.tlb.keep(translation);
        self.note(&mut state, What::Received(translation));
    }

    /// Waits as long as the device is told to, and forgets; false if the device ends first.
    fn invalidate(&self, block: Block) -> bool {
        let received = Instant::now();
        let mut state = self.state();
        state.unanswered += 1;
        self.note(&mut state, What::InvalidationReceived(block));
        loop {
            if state.end.is_some() {
                return false;
            }
            let left = state.answers.left(received, Instant::now());
            if left == Some(Duration::ZERO) {
                break;
            }
            let left = left.unwrap_or(PATIENCE);
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.tlb.invalidate(&block);
        state.unanswered -= 1;
        self.note(&mut state, What::InvalidationAnswered(block));
        true
    }

    /// The machine's driver stops the device: whatever it had is gone.
    fn stop(&self) {
        let mut state = self.state();
        state.running = false;
        state.tlb.clear();
        self.note(&mut state, What::Reset);
    }

    /// Asks for a translation; false if there is none. If there is one, it has come.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn miss(&self, iova: u64, write: bool) -> io::Result<bool> {
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = {
            let mut state = self.state();
            state.question = Some((iova, write));
            state.questions.clone()
        };
        let channel = channel.ok_or(io::ErrorKind::NotConnected)?;
        let request = BackendReq::IOTLB_MSG.into();
        wire::ask(&channel, request, &IotlbMessage::miss(iova, write))?;
        let answer = wire::receive(&channel)?;
        self.state().question = None;
        match answer {
            Some(reply) if reply.is_reply() && reply.request == request => {
                Ok(reply.word()? == DONE)
            }
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
