//! The queues: consumption of commands, writing of records, global errors and interrupts (3.5,
//! 3.18, chapter 7).

use super::State;
use super::commands::{Command, Signal};
use super::events::Record;
use super::registers::{Message, OVERFLOW, QueueRegisters, Updated, cr0, gerror, irq};
use crate::bus::{InvalidationRequest, Port};
use crate::memory::NoSuchMemory;
use std::collections::VecDeque;
use std::sync::Arc;

/// SMMU_CMDQ_CONS.ERR (7.1).
const CERROR_ILL: u32 = 1;
const CERROR_ABT: u32 = 2;
const CERROR_ATC_INV_SYNC: u32 = 3;

/// Records that wait to be written, at most.
const OUTBOX: usize = 64;

/// Interrupts that nobody took, at most.
const INTERRUPTS: usize = 1024;

/// The state of command execution that no register shows.
#[derive(Debug, Default)]
pub struct CommandQueue {
    /// Consumed, and not in effect yet.
    pending: Vec<Command>,
    /// An invalidation was consumed since the last CMD_SYNC.
    unsynchronized: bool,
    /// Messages of completed CMD_SYNCs that are on their way.
    messages: VecDeque<(u64, u32)>,
    /// An ATS invalidation that the next CMD_SYNC waits for was given up.
    timed_out: bool,
    /// The next command is treated as illegal.
    pub reject_next: bool,
    /// Where the command is that was rejected, and what it says: there it stays illegal.
    rejected: Option<(u64, [u64; 2])>,
    /// Nothing is consumed any more.
    pub frozen: bool,
}

/// A connected device.
pub struct Device {
    pub port: Arc<dyn Port>,
    /// Tags of invalidations that were sent and not answered.
    sent: u32,
    /// Tags of those that were given up. They stay taken until the device answers after all.
    lost: u32,
    /// Invalidations without a tag.
    pub waiting: VecDeque<InvalidationRequest>,
}

impl Device {
    /// A device that nothing was sent to.
    pub fn new(port: Arc<dyn Port>) -> Self {
        Self {
            port,
            sent: 0,
            lost: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Sends what waits, as far as there are tags.
    pub fn send(&mut self) {
        loop {
            let itag = (self.sent | self.lost).trailing_ones();
            if itag == 32 {
                return;
            }
            let Some(request) = self.waiting.pop_front() else {
                return;
            };
            self.sent |= 1 << itag;
            self.port.invalidate(InvalidationRequest {
                itag: itag as u8,
                ..request
            });
        }
    }

    /// Completions arrived.
    pub fn completed(&mut self, itags: u32) {
        self.sent &= !itags;
        self.lost &= !itags;
        self.send();
    }

    fn is_awaited(&self) -> bool {
        self.sent != 0 || !self.waiting.is_empty()
    }
}

/// A queue in memory: its place, and arithmetic on its indices with their wrap flag.
#[derive(Clone, Copy)]
pub struct Ring {
    base: u64,
    log2_slots: u32,
    entry_bytes: u64,
}

impl Ring {
    fn mask(self) -> u32 {
        (2 << self.log2_slots) - 1
    }
    pub fn slots(self) -> u32 {
        1 << self.log2_slots
    }
    pub fn count(self, registers: QueueRegisters) -> u32 {
        registers.producer.wrapping_sub(registers.consumer) & self.mask()
    }
    fn address(self, index: u32) -> u64 {
        self.base + u64::from(index & (self.slots() - 1)) * self.entry_bytes
    }
    /// `index` after one entry more; the bits above it stay.
    pub fn advance(self, index: u32) -> u32 {
        index & !0x000f_ffff | index.wrapping_add(1) & self.mask()
    }
}

/// What may interrupt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Gerror,
    Events,
    PageRequests,
}

impl State {
    pub fn ring(&self, registers: QueueRegisters, most: u8, entry_bytes: u64) -> Ring {
        let log2_slots = ((registers.base & 0x1f) as u32).min(most.into());
        let bytes = entry_bytes << log2_slots;
        let base = registers.base & self.configuration.physical_mask() & !(bytes.max(32) - 1);
        Ring {
            base,
            log2_slots,
            entry_bytes,
        }
    }

    /// A register write, and whether it may be done at this moment.
    pub fn write(&mut self, offset: usize, width: usize, value: u64) {
        let before = (self.registers.commands, self.registers.events);
        if let Some(complaint) = self.registers.write(offset, width, value) {
            self.complain(complaint);
        }
        let (commands, events) = (self.registers.commands, self.registers.events);
        let ring = self.ring(commands, self.configuration.command_queue_log2, 16);
        let (old, new) = (ring.count(before.0), ring.count(commands));
        let moved_back = new < old && !self.registers.error_active(gerror::CMDQ);
        if self.registers.enabled(cr0::CMDQEN) && (new > ring.slots() || moved_back) {
            self.complain("CMDQ_PROD leaves the queue");
        }
        let ring = self.event_ring();
        if self.registers.enabled(cr0::EVENTQEN) && ring.count(events) > ring.count(before.1) {
            self.complain("EVENTQ_CONS leaves the queue");
        }
    }

    /// Does everything that is to be done.
    pub fn run(&mut self) {
        while self.work() {}
    }

    /// Does one piece of work; false if there is none.
    pub fn work(&mut self) -> bool {
        const PIECES: u64 = 6;
        let first = if self.policy.unordered {
            self.random.below(PIECES)
        } else {
            0
        };
        (0..PIECES).any(|turn| match (first + turn) % PIECES {
            0 => self.update(),
            1 => self.write_record(),
            2 => self.record_stalled(),
            3 => self.complete(),
            4 => self.write_message(),
            _ => self.consume(),
        })
    }

    /// Lets a written control field take effect.
    fn update(&mut self) -> bool {
        let (unordered, random) = (self.policy.unordered, &self.random);
        let choose = |count| if unordered { random.below(count) } else { 0 };
        match self.registers.update(choose) {
            None => return false,
            // Every transaction that waits is terminated (6.3.9.6).
            Some(Updated::Disabled(cr0::SMMUEN)) => self.terminate(|_| true),
            // What was committed becomes visible first (6.3.9.4).
            Some(Updated::Disabled(cr0::EVENTQEN)) => {
                self.registers.cr0ack |= cr0::EVENTQEN;
                while self.write_record() {}
                self.registers.cr0ack &= !cr0::EVENTQEN;
            }
            Some(_) => {}
        }
        true
    }

    /// Lets one consumed command take effect.
    fn complete(&mut self) -> bool {
        let pending = &mut self.commands.pending;
        if pending.is_empty() {
            return false;
        }
        let any = self.random.below(pending.len() as u64) as usize;
        let command = pending.remove(any);
        self.execute(command);
        true
    }

    /// Consumes one command; false if there is none, or it waits.
    fn consume(&mut self) -> bool {
        let registers = self.registers.commands;
        let ring = self.ring(registers, self.configuration.command_queue_log2, 16);
        let count = ring.count(registers);
        let running = self.registers.enabled(cr0::CMDQEN)
            && !self.registers.error_active(gerror::CMDQ)
            && !self.commands.frozen;
        // Indices that contradict each other stop the queue, as 3.5.1 permits.
        if !running || count == 0 || count > ring.slots() {
            return false;
        }
        let at = ring.address(registers.consumer);
        let words = match (self.memory.load(at), self.memory.load(at + 8)) {
            (Ok(low), Ok(high)) => [low, high],
            _ => return self.stop(CERROR_ABT),
        };
        let command = match self.decode_command(words) {
            Ok(command) => command,
            Err(_) => return self.stop(CERROR_ILL),
        };
        let is_sync = matches!(command, Command::Sync(_));
        if self.commands.rejected.take() == Some((at, words))
            || !is_sync && std::mem::take(&mut self.commands.reject_next)
        {
            self.commands.rejected = Some((at, words));
            return self.stop(CERROR_ILL);
        }
        match command {
            Command::Sync(signal) => return self.synchronize(ring, signal),
            Command::Resume { .. } | Command::Terminate { .. } | Command::Respond { .. } => {
                self.execute(command);
            }
            _ => {
                self.commands.unsynchronized |= !matches!(command, Command::Prefetch { .. });
                if self.policy.unordered {
                    self.commands.pending.push(command);
                } else {
                    self.execute(command);
                }
            }
        }
        self.registers.commands.consumer = ring.advance(registers.consumer);
        true
    }

    /// The command at the head cannot be consumed (7.1).
    fn stop(&mut self, error: u32) -> bool {
        let consumer = &mut self.registers.commands.consumer;
        *consumer = *consumer & 0x000f_ffff | error << 24;
        self.raise(gerror::CMDQ);
        true
    }

    /// CMD_SYNC at the head: consumed when everything before it is done (4.7.3).
    fn synchronize(&mut self, ring: Ring, signal: Signal) -> bool {
        if std::mem::take(&mut self.commands.timed_out) {
            return self.stop(CERROR_ATC_INV_SYNC);
        }
        let awaited = self.devices.values().any(Device::is_awaited);
        if awaited || !self.commands.pending.is_empty() || !self.commands.messages.is_empty() {
            return false;
        }
        let invalidated = std::mem::take(&mut self.commands.unsynchronized);
        if invalidated && let Some(machine) = self.machine.upgrade() {
            machine.drain();
        }
        while self.write_record() {}
        while self.record_stalled() {}
        if invalidated {
            for stalled in &mut self.stalled {
                stalled.outdated |= stalled.record.is_some();
            }
        }
        let consumer = &mut self.registers.commands.consumer;
        *consumer = ring.advance(*consumer);
        if let Signal::Interrupt { address, data } = signal {
            self.tell("CMD_SYNC");
            if self.configuration.msi && address != 0 {
                self.commands.messages.push_back((address, data));
                if !self.policy.later {
                    self.write_message();
                }
            }
        }
        true
    }

    /// Writes the message of a completed CMD_SYNC.
    fn write_message(&mut self) -> bool {
        let Some((address, data)) = self.commands.messages.pop_front() else {
            return false;
        };
        if self.write_32(address, data).is_err() {
            self.raise(gerror::MSI_CMDQ_ABT);
        }
        true
    }

    fn write_32(&self, address: u64, data: u32) -> Result<(), NoSuchMemory> {
        let address = address & self.configuration.physical_mask();
        self.memory.store32(address, data)
    }

    /// [`Hardware::time_out_devices`](crate::Hardware::time_out_devices).
    pub fn time_out_devices(&mut self) {
        for device in self.devices.values_mut() {
            if device.is_awaited() {
                device.lost |= std::mem::take(&mut device.sent);
                device.waiting.clear();
                self.commands.timed_out = true;
            }
        }
    }

    /// Records an event: at once, or when the policy says so.
    pub fn record(&mut self, record: Option<Record>) {
        let Some(record) = record else { return };
        self.outbox.push_back(record);
        while !self.outbox.is_empty() && (!self.policy.later || self.outbox.len() > OUTBOX) {
            self.write_record();
        }
    }

    /// Writes one record that waits, or discards it if the queue is not writable (7.2.1, 7.4).
    fn write_record(&mut self) -> bool {
        let Some(record) = self.outbox.pop_front() else {
            return false;
        };
        if self.events_are_writable() {
            self.push_event(record);
            return true;
        }
        let registers = &mut self.registers.events;
        let acknowledged = (registers.producer ^ registers.consumer) & OVERFLOW == 0;
        if self.registers.cr0ack & cr0::EVENTQEN != 0
            && !self.registers.error_active(gerror::EVENTQ_ABT)
            && acknowledged
        {
            self.registers.events.producer ^= OVERFLOW;
        }
        true
    }

    fn event_ring(&self) -> Ring {
        let most = self.configuration.event_queue_log2;
        self.ring(self.registers.events, most, 32)
    }

    pub fn events_are_writable(&self) -> bool {
        let ring = self.event_ring();
        self.registers.enabled(cr0::EVENTQEN)
            && !self.registers.error_active(gerror::EVENTQ_ABT)
            && ring.count(self.registers.events) < ring.slots()
    }

    pub fn push_event(&mut self, record: Record) {
        let ring = self.event_ring();
        let empty = ring.count(self.registers.events) == 0;
        if self.push(ring, self.registers.events, &record).is_err() {
            self.raise(gerror::EVENTQ_ABT);
            return;
        }
        self.registers.events.producer = ring.advance(self.registers.events.producer);
        if empty {
            self.interrupt(Source::Events);
        }
    }

    pub fn push(
        &self,
        ring: Ring,
        queue: QueueRegisters,
        words: &[u64],
    ) -> Result<(), NoSuchMemory> {
        let at = ring.address(queue.producer);
        for (&word, at) in words.iter().zip((at..).step_by(8)) {
            self.memory.store(at, word)?;
        }
        Ok(())
    }

    /// Activates a global error (7.5).
    pub fn raise(&mut self, bit: u32) {
        if self.registers.error_active(bit) {
            return;
        }
        self.registers.gerror ^= bit;
        if bit != gerror::MSI_GERROR_ABT {
            self.interrupt(Source::Gerror);
        }
    }

    /// Interrupts, if that is enabled: by wire, and by a message if one is configured (3.18).
    pub fn interrupt(&mut self, source: Source) {
        let (name, enable, message, aborted): (_, _, Message, _) = match source {
            Source::Gerror => (
                "GERROR",
                irq::GERROR,
                self.registers.gerror_message,
                gerror::MSI_GERROR_ABT,
            ),
            Source::Events => (
                "Event queue",
                irq::EVENTQ,
                self.registers.events_message,
                gerror::MSI_EVENTQ_ABT,
            ),
            Source::PageRequests => (
                "PRI queue",
                irq::PRIQ,
                self.registers.page_requests_message,
                gerror::MSI_PRIQ_ABT,
            ),
        };
        if self.registers.irq_ctrlack & enable == 0 {
            return;
        }
        self.tell(name);
        let sent = !self.configuration.msi
            || message.address == 0
            || self.write_32(message.address, message.data).is_ok();
        if !sent {
            self.raise(aborted);
        }
    }

    fn tell(&mut self, name: &'static str) {
        if self.interrupts.len() < INTERRUPTS {
            self.interrupts.push(name);
        }
    }
}
