//! A PCIe device: it reads and writes by virtual or physical address, keeps translations in a TLB
//! of its own, asks for pages, and can misbehave.
//!
//! PCI Express Base Specification 6.0, chapter 10 (ATS), section 10.4 (page requests), section 6.20
//! (PASID), section 6.6.2 (function-level reset). It is the device that a driver must be right for:
//! - a translation stays in its TLB, with the size and the rights it came with, until an
//!   invalidation request names it; it is used without asking again;
//! - an invalidation request takes exactly its block away, and is answered when the device's own
//!   requests that used the block have left it;
//! - of several translations of one address the oldest that permits the access is used.
//!
//! [`Device::start`] gives it work; it is done a piece at a time in
//! [`Machine::step`](crate::Machine::step), so that it goes on while a driver waits.

mod history;
mod hostile;
mod inbox;
mod page_requests;
#[cfg(test)]
mod tests;
mod tlb;
mod transfer;

pub use history::{History, Message, Record, Via};
pub use hostile::Mischief;
pub use inbox::Answers;
pub use transfer::{Direction, Ended, Job, Transfer};

use crate::bus::{InvalidationRequest, PageResponse, Permissions, Port, Refusal, Translation};
use crate::hardware::Hardware;
use crate::machine::{Machine, lock};
use inbox::Inbox;
use page_requests::PageRequests;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use tlb::DeviceTlb;
use transfer::Piece;

/// Steps that [`Device::run`] waits for a transfer that does not get on.
const PATIENCE: usize = 100_000;

/// What a device is.
#[derive(Clone, Copy, Debug)]
pub struct Configuration {
    /// Its requester id as the IOMMU sees it.
    pub id: u32,
    /// Whether it has a TLB, and ATS is enabled in it.
    pub device_tlb: bool,
    /// Whether it asks for pages that are not there (PRI).
    pub page_requests: bool,
    /// Whether it ignores page group responses without the PASID of the requests ("PRG Response
    /// PASID Required").
    pub response_needs_pasid: bool,
    /// How many pages of a transfer it asks for in one group, at most.
    pub group_pages: u64,
    /// How it answers invalidation requests.
    pub answers: Answers,
}

impl Configuration {
    /// A device without a TLB that answers promptly.
    pub const fn new(id: u32) -> Self {
        Self {
            id,
            device_tlb: false,
            page_requests: false,
            response_needs_pasid: true,
            group_pages: 4,
            answers: Answers::Promptly,
        }
    }
}

/// One PCIe function.
pub struct Device {
    id: u32,
    machine: Weak<Machine>,
    iommu: Weak<dyn Hardware>,
    history: Arc<History>,
    /// What the IOMMU sent. The IOMMU is inside a call of its own when it sends, so nothing else is
    /// locked together with it.
    inbox: Mutex<Inbox>,
    state: Mutex<State>,
}

struct State {
    configuration: Configuration,
    present: bool,
    jobs: VecDeque<Arc<Job>>,
    tlb: DeviceTlb,
    /// Pieces that have an address from the device's TLB and have not left the device.
    leaving: Vec<Leaving>,
    page_requests: PageRequests,
    mischief: Vec<Mischief>,
}

struct Leaving {
    piece: Piece,
    translation: Translation,
    /// The number of the TLB's entry.
    entry: u64,
}

impl Device {
    /// A device of `machine`, connected to `iommu`, that writes what it does into `history`.
    pub fn new(
        machine: &Arc<Machine>,
        iommu: &Arc<dyn Hardware>,
        history: &Arc<History>,
        configuration: Configuration,
    ) -> Arc<Self> {
        let device = Arc::new(Self {
            id: configuration.id,
            machine: Arc::downgrade(machine),
            iommu: Arc::downgrade(iommu),
            history: history.clone(),
            inbox: Mutex::default(),
            state: Mutex::new(State {
                configuration,
                present: true,
                jobs: VecDeque::new(),
                tlb: DeviceTlb::default(),
                leaving: Vec::new(),
                page_requests: PageRequests::default(),
                mischief: Vec::new(),
            }),
        });
        iommu.connect(configuration.id, device.clone());
        machine.add_device(device.clone());
        device
    }

    /// Its requester id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Gives it work.
    pub fn start(&self, transfer: Transfer) -> Arc<Job> {
        let job = Arc::new(Job::new(transfer));
        let mut state = lock(&self.state);
        if state.present {
            state.jobs.push_back(job.clone());
        } else {
            job.refuse(Refusal::UnsupportedRequest);
        }
        job
    }

    /// Does `transfer` and lets the machine work meanwhile. [`Ended::Stuck`] if it does not get on.
    pub fn run(&self, transfer: Transfer) -> Ended {
        let job = self.start(transfer);
        for _ in 0..PATIENCE {
            if let Some(ended) = job.ended() {
                return ended;
            }
            if !self.machine.upgrade().is_some_and(|machine| machine.step()) {
                break;
            }
        }
        job.ended().unwrap_or(Ended::Stuck)
    }

    /// Enables or disables its TLB, as the ATS capability's Enable bit does: a TLB that is turned on
    /// is empty.
    pub fn enable_device_tlb(&self, enabled: bool) {
        let mut state = lock(&self.state);
        state.configuration.device_tlb = enabled;
        state.tlb = DeviceTlb::default();
    }

    /// Enables or disables its page requests.
    pub fn enable_page_requests(&self, enabled: bool) {
        lock(&self.state).configuration.page_requests = enabled;
    }

    /// From now on it answers invalidation requests so.
    pub fn set_answers(&self, answers: Answers) {
        lock(&self.state).configuration.answers = answers;
    }

    /// How many translations its TLB holds.
    pub fn held(&self) -> usize {
        lock(&self.state).tlb.len()
    }

    /// Whether it has work, or something of it is on its way.
    pub fn is_busy(&self) -> bool {
        let state = lock(&self.state);
        !state.jobs.is_empty() || !state.leaving.is_empty()
    }

    /// Ends its work for one PASID, as its driver asks before the PASID is unbound: nothing new is
    /// sent, and what was sent has arrived when it returns. Its TLB keeps what it has.
    pub fn stop(&self, pasid: Option<u32>) {
        {
            let mut state = lock(&self.state);
            state.jobs.retain(|job| {
                let others = job.transfer().pasid != pasid;
                if !others {
                    job.refuse(Refusal::UnsupportedRequest);
                }
                others
            });
            let theirs = |leaving: &Leaving| leaving.piece.job.transfer().pasid == pasid;
            let (now, later): (Vec<_>, _) = std::mem::take(&mut state.leaving)
                .into_iter()
                .partition(theirs);
            state.leaving = later;
            for leaving in now {
                self.leave(leaving);
            }
            if let (true, Some(iommu)) = (state.configuration.page_requests, self.iommu.upgrade()) {
                self.ask(&*iommu, page_requests::stop_marker(self.id, pasid));
            }
        }
        if let Some(machine) = self.machine.upgrade() {
            machine.drain_device(self.id);
        }
    }

    /// A function-level reset: work, TLB, page requests and unanswered invalidation requests are
    /// gone; ATS and PRI are off.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        *lock(&self.inbox) = Inbox::default();
        for job in state.jobs.drain(..) {
            job.refuse(Refusal::UnsupportedRequest);
        }
        for leaving in state.leaving.drain(..) {
            leaving.piece.refuse(Refusal::UnsupportedRequest);
        }
        state.tlb = DeviceTlb::default();
        state.page_requests.abandon();
        state.mischief.clear();
        state.configuration.device_tlb = false;
        state.configuration.page_requests = false;
        self.history.say(Message::Forgot(self.id));
    }

    /// The device is pulled out: nothing comes from it any more, no answer either.
    pub fn remove(&self) {
        self.reset();
        lock(&self.state).present = false;
    }

    /// Does one piece of one job.
    fn work(&self, state: &mut State, iommu: &dyn Hardware) -> bool {
        while let Some(job) = state.jobs.pop_front() {
            // One that has no piece left comes back if a piece is to be tried again.
            if let Some(piece) = Job::next(&job) {
                state.jobs.push_back(job);
                self.issue(state, iommu, piece);
                return true;
            }
        }
        false
    }

    fn issue(&self, state: &mut State, iommu: &dyn Hardware, mut piece: Piece) {
        piece.issued = self.now();
        let transfer = piece.job.transfer();
        if transfer.translated {
            return self.forge(iommu, piece);
        }
        let request = piece.request(self.id);
        if !state.configuration.device_tlb {
            piece.via = Via::Iommu;
            return match iommu.translate(&request) {
                Ok(translation) => self.arrive(piece, translation),
                Err(Refusal::Stalled(number)) => {
                    self.history.say(Message::Stalled(self.id, number));
                    state.page_requests.stalled(number, piece);
                }
                Err(refusal) => self.refused(piece, refusal),
            };
        }
        piece.via = Via::DeviceTlb;
        if let Some((entry, translation)) = state.tlb.find(&request) {
            return self.use_entry(state, piece, entry, translation);
        }
        match iommu.translate_for_device(&request) {
            Ok(translation) => {
                let entry = state.tlb.insert(&request, translation);
                self.use_entry(state, piece, entry, translation);
            }
            Err(Refusal::NotPresent) if state.configuration.page_requests => {
                self.ask_for_pages(state, iommu, piece);
            }
            Err(refusal) => self.refused(piece, refusal),
        }
    }

    /// A request leaves with the address that the TLB gave, at once or later.
    fn use_entry(&self, state: &mut State, piece: Piece, entry: u64, translation: Translation) {
        let leaving = Leaving {
            piece,
            translation,
            entry,
        };
        let posted = |machine: Arc<Machine>| machine.policy.posted;
        if self.machine.upgrade().is_some_and(posted) {
            state.leaving.push(leaving);
        } else {
            self.leave(leaving);
        }
    }

    fn leave(&self, leaving: Leaving) {
        let Leaving {
            piece, translation, ..
        } = leaving;
        match self.iommu.upgrade() {
            Some(iommu) if iommu.admits_translated(self.id) => self.arrive(piece, translation),
            _ => self.refused(piece, Refusal::UnsupportedRequest),
        }
    }

    /// A request with a physical address that nobody gave the device.
    fn forge(&self, iommu: &dyn Hardware, mut piece: Piece) {
        piece.via = Via::Forged;
        if !iommu.admits_translated(self.id) {
            return self.refused(piece, Refusal::UnsupportedRequest);
        }
        let translation = Translation {
            address: piece.address,
            size: 4096,
            permissions: Permissions {
                read: true,
                write: true,
                execute: false,
            },
        };
        self.arrive(piece, translation);
    }

    /// A request is on its way to memory.
    fn arrive(&self, piece: Piece, translation: Translation) {
        let Some(machine) = self.machine.upgrade() else {
            return;
        };
        let (device, clock, history) = (self.id, self.machine.clone(), self.history.clone());
        machine.perform(device, move |memory| {
            let ended = clock.upgrade().map_or(0, |machine| machine.now());
            let refusal = piece.perform(memory, translation.address).err();
            history.record(piece.record(device, ended, Some(translation.address), refusal));
        });
    }

    fn refused(&self, piece: Piece, refusal: Refusal) {
        let record = piece.record(self.id, self.now(), None, Some(refusal));
        self.history.record(record);
        piece.refuse(refusal);
    }

    fn now(&self) -> u64 {
        self.machine.upgrade().map_or(0, |machine| machine.now())
    }

    fn below(&self, bound: u64) -> u64 {
        let below = |machine: Arc<Machine>| machine.random.below(bound);
        self.machine.upgrade().map_or(0, below)
    }
}

impl Port for Device {
    fn invalidate(&self, request: InvalidationRequest) {
        lock(&self.inbox).invalidate(request);
    }

    fn respond(&self, response: PageResponse) {
        self.history.say(Message::Answered(self.id, response));
        lock(&self.inbox).responses.push_back(response);
    }

    fn resume(&self, stalled: u32, retry: bool) {
        self.history.say(Message::Resumed(self.id, stalled));
        lock(&self.inbox).resumes.push_back((stalled, retry));
    }

    fn step(&self) -> bool {
        let Some(iommu) = self.iommu.upgrade() else {
            return false;
        };
        let mut state = lock(&self.state);
        if !state.present {
            return false;
        }
        let first = self.below(5);
        (0..5).any(|turn| match (first + turn) % 5 {
            0 => self.answer(&mut state, &*iommu),
            1 => self.read_responses(&mut state),
            2 => self.misbehave(&mut state, &*iommu),
            3 => self.leave_one(&mut state),
            _ => self.work(&mut state, &*iommu),
        })
    }
}

impl Device {
    fn leave_one(&self, state: &mut State) -> bool {
        if state.leaving.is_empty() {
            return false;
        }
        let any = self.below(state.leaving.len() as u64) as usize;
        self.leave(state.leaving.swap_remove(any));
        true
    }
}
