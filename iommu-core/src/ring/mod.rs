//! The command ring: one list of commands in, one doorbell, one completion word back.
//!
//! A list goes in whole, followed by a sync that the ring adds. Positions count slots since the
//! ring was made and never wrap; a slot is a position modulo the ring's size.
//!
//! Completion is a word in memory where the hardware can write one ([`Completion::Memory`]): each
//! slot has its own word, and the sync in that slot writes the number of its lap there, so a late
//! write of an older sync can never be taken for a newer one. Only hardware that cannot write a
//! word falls back to the head register, which its specification moves past a sync only when that
//! is complete ([`Completion::Head`]).
//!
//! Slots are reused when the sync that covers them is complete, so with [`Completion::Memory`] no
//! register is read at all until a time limit passes; then the error registers are looked at.
//! Nothing is held over a wait.

mod position;
#[cfg(test)]
mod tests;

use crate::error::{OutOfMemory, QueueError, Timeout};
use crate::ids::PhysicalAddress;
use crate::iommu::{Completed, Ticket};
use crate::platform::{
    Clock, Deadline, DmaBuffer, Mmio, Observer, Parts, Platform, WalkerCoherency,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::fmt;
use position::{is_lap_done, lap};
use spin::Mutex;

/// A command of `WORDS` little-endian 64-bit words.
pub type Command<const WORDS: usize> = [u64; WORDS];

/// One element of a command list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<const WORDS: usize> {
    /// A command.
    Command(Command<WORDS>),
    /// Everything before is complete before anything after starts.
    Barrier,
}

/// How the hardware says that a sync is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It writes a 32-bit word to memory.
    Memory,
    /// Its head register moves past the sync.
    Head,
}

/// Where a sync reports its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletionWord {
    /// Where the hardware writes; a multiple of 4.
    pub address: PhysicalAddress,
    /// What it writes.
    pub value: u32,
}

/// What a backend's `queue` adds to the ring: its registers and its sync command.
pub trait QueueRegisters<const WORDS: usize>: Send + Sync + 'static {
    /// Writes the tail register: the hardware may read up to, not including, `position`, which
    /// counts slots without wrapping.
    fn write_tail(&self, mmio: &impl Mmio, position: u64);

    /// The slot that the hardware reads next, as the head register says; reduced modulo the size
    /// by the ring.
    fn read_head(&self, mmio: &impl Mmio) -> usize;

    /// The sync command. With a word, it reports there when everything before it is complete;
    /// without, it only orders ([`Item::Barrier`], or completion by head register).
    fn sync(&self, word: Option<CompletionWord>) -> Command<WORDS>;

    /// Looks at the error registers. `Some` if the queue has stopped.
    fn read_error(&self, mmio: &impl Mmio) -> Option<QueueError>;
}

/// How large a ring is and how long it waits.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Slots: a power of two, at least 4.
    pub slots: usize,
    /// How the hardware says that a sync is complete.
    pub completion: Completion,
    /// Whether the hardware reads the queue through the CPU's caches.
    pub coherency: WalkerCoherency,
    /// Nanoseconds before the error registers are looked at, and between two looks.
    pub look_at_errors: u64,
    /// Nanoseconds before a wait is given up.
    pub give_up: u64,
}

impl Config {
    /// A ring of `slots` that looks at the error registers every 100 µs and gives up after 2 s.
    pub const fn new(slots: usize, completion: Completion, coherency: WalkerCoherency) -> Self {
        let (look_at_errors, give_up) = (100_000, 2_000_000_000);
        Self {
            slots,
            completion,
            coherency,
            look_at_errors,
            give_up,
        }
    }
}

/// A command queue of one IOMMU.
pub struct Ring<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> {
    parts: Arc<Parts<P>>,
    registers: R,
    entries: DmaBuffer<P>,
    words: Option<DmaBuffer<P>>,
    config: Config,
    state: Mutex<State>,
}

struct State {
    /// Where the next command goes.
    tail: u64,
    /// Everything before is complete; always the end of a list.
    done: u64,
    /// For a slot where a list begins: the position just past the list.
    ends: Box<[u64]>,
    /// Set once the hardware has stopped.
    failed: Option<QueueError>,
}

impl<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> Ring<WORDS, R, P> {
    /// A ring whose memory is zeroed and aligned to its own size, at least 4 KiB.
    ///
    /// The backend then writes [`physical`](Self::physical) to the base register, resets head and
    /// tail to 0, and enables the queue before the first [`submit`](Self::submit).
    pub fn new(parts: &Arc<Parts<P>>, registers: R, config: Config) -> Result<Self, OutOfMemory> {
        let slots = config.slots;
        assert!(
            slots.is_power_of_two() && slots >= 4,
            "a ring has 2^n slots, at least 4"
        );
        let bytes = slots * WORDS * 8;
        let entries = DmaBuffer::new(parts, bytes, bytes.max(4096), config.coherency)?;
        let words = match config.completion {
            Completion::Memory => Some(DmaBuffer::new(parts, slots * 4, 4096, config.coherency)?),
            Completion::Head => None,
        };
        let state = Mutex::new(State {
            tail: 0,
            done: 0,
            ends: vec![0; slots].into(),
            failed: None,
        });
        Ok(Self {
            parts: parts.clone(),
            registers,
            entries,
            words,
            config,
            state,
        })
    }

    /// Where the queue lies.
    pub fn physical(&self) -> PhysicalAddress {
        self.entries.physical()
    }

    /// The registers' side.
    pub fn registers(&self) -> &R {
        &self.registers
    }

    /// Posts the list that `emit` produces, with a sync behind it, by one doorbell.
    ///
    /// `emit` is called twice, once to count and once to write, and must produce the same list both
    /// times; it runs under the ring's lock the second time. An empty list is a bare sync. If the
    /// ring is full, waits for room without holding anything.
    pub fn submit(&self, emit: impl Fn(&mut dyn FnMut(Item<WORDS>))) -> Result<Ticket, QueueError> {
        let mut commands = 1;
        emit(&mut |_| commands += 1);
        let capacity = self.config.slots - 1;
        if commands > capacity {
            return Err(QueueError::ListTooLong { commands, capacity });
        }
        let mut watch = self.watch("waiting for room in the command queue");
        loop {
            if let Some(ticket) = self.try_write(commands, &emit)? {
                return Ok(ticket);
            }
            watch.turn()?;
        }
    }

    /// Waits until `ticket` is complete, looking at the error registers from time to time.
    ///
    /// Once the hardware has stopped with an error, this and every later call return it: nothing
    /// that was not complete by then counts as done.
    pub fn wait(&self, ticket: Ticket) -> Result<Completed, QueueError> {
        self.parts.observer.wait();
        let mut watch = self.watch("waiting for a sync");
        while !self.is_complete(&ticket) {
            watch.turn()?;
        }
        Ok(Completed { _proof: () })
    }

    /// Writes the list and rings the doorbell, if there is room.
    fn try_write(
        &self,
        commands: usize,
        emit: &impl Fn(&mut dyn FnMut(Item<WORDS>)),
    ) -> Result<Option<Ticket>, QueueError> {
        let mut state = self.state.lock();
        if let Some(error) = state.failed {
            return Err(error);
        }
        if (state.tail - state.done) as usize + commands >= self.config.slots {
            self.reclaim(&mut state);
            if (state.tail - state.done) as usize + commands >= self.config.slots {
                return Ok(None);
            }
        }
        let start = state.tail;
        emit(&mut |item| {
            let command = match item {
                Item::Command(command) => command,
                Item::Barrier => self.registers.sync(None),
            };
            self.put(&mut state, command);
        });
        let word = self.words.as_ref().map(|words| CompletionWord {
            address: PhysicalAddress(words.physical().0 + 4 * self.slot(state.tail) as u64),
            value: lap(state.tail, self.config.slots),
        });
        self.put(&mut state, self.registers.sync(word));
        state.ends[self.slot(start)] = state.tail;
        self.publish(start, state.tail);
        self.registers.write_tail(&self.parts.mmio, state.tail);
        self.parts.observer.doorbell();
        Ok(Some(Ticket { end: state.tail }))
    }

    fn put(&self, state: &mut State, command: Command<WORDS>) {
        let first = self.slot(state.tail) * WORDS;
        for (word, value) in command.into_iter().enumerate() {
            self.entries.store(first + word, value);
        }
        self.parts.observer.command(&command);
        state.tail += 1;
    }

    /// Makes the commands from `start` to `end` visible to hardware that does not snoop.
    fn publish(&self, start: u64, end: u64) {
        let (first, count) = (self.slot(start), (end - start) as usize);
        let before_wrap = count.min(self.config.slots - first);
        self.entries.publish(first * WORDS, before_wrap * WORDS);
        if count > before_wrap {
            self.entries.publish(0, (count - before_wrap) * WORDS);
        }
    }

    fn is_complete(&self, ticket: &Ticket) -> bool {
        if self.words.is_some() {
            return self.is_sync_done(ticket.end);
        }
        let mut state = self.state.lock();
        if state.done < ticket.end {
            self.reclaim(&mut state);
        }
        state.done >= ticket.end
    }

    /// Whether the completion word of the list that ends at `end` was written.
    fn is_sync_done(&self, end: u64) -> bool {
        let sync = end - 1;
        self.words.as_ref().is_some_and(|words| {
            is_lap_done(words.load32(self.slot(sync)), lap(sync, self.config.slots))
        })
    }

    /// Moves `done` over every list that is complete.
    fn reclaim(&self, state: &mut State) {
        let consumed = match self.words {
            Some(_) => state.tail,
            None => self.consumed(state),
        };
        while state.done < consumed {
            let end = state.ends[self.slot(state.done)];
            let complete = match self.words {
                Some(_) => self.is_sync_done(end),
                None => end <= consumed,
            };
            if !complete {
                break;
            }
            state.done = end;
        }
    }

    /// The position that the head register stands for. At most `slots` - 1 slots are in use, so
    /// the distance from `done` is unambiguous; one beyond the tail is a lie and counts as none.
    fn consumed(&self, state: &State) -> u64 {
        let slots = self.config.slots;
        let head = self.registers.read_head(&self.parts.mmio) % slots;
        let distance = (head + slots - self.slot(state.done)) % slots;
        let position = state.done + distance as u64;
        if position <= state.tail {
            position
        } else {
            state.done
        }
    }

    fn slot(&self, position: u64) -> usize {
        (position % self.config.slots as u64) as usize
    }

    fn watch(&self, operation: &'static str) -> Watch<'_, WORDS, R, P> {
        Watch {
            ring: self,
            operation,
            deadlines: None,
        }
    }
}

/// One wait: keeps its deadline and looks at the error registers when it is time.
struct Watch<'a, const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> {
    ring: &'a Ring<WORDS, R, P>,
    operation: &'static str,
    /// When to look at the error registers next, and when to give up.
    deadlines: Option<(Deadline, Deadline)>,
}

impl<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> Watch<'_, WORDS, R, P> {
    /// One turn of a waiting loop. The clock is not read before the first turn, so a wait that is
    /// over at once costs nothing.
    fn turn(&mut self) -> Result<(), QueueError> {
        let Ring { parts, config, .. } = self.ring;
        let clock = &parts.clock;
        clock.relax();
        let look_later = || Deadline::after(clock, config.look_at_errors);
        let (look, give_up) = self
            .deadlines
            .get_or_insert_with(|| (look_later(), Deadline::after(clock, config.give_up)));
        if !look.has_passed(clock) {
            return Ok(());
        }
        *look = look_later();
        let timed_out = give_up
            .has_passed(clock)
            .then_some(QueueError::Timeout(Timeout {
                operation: self.operation,
                nanoseconds: config.give_up,
            }));
        let mut state = self.ring.state.lock();
        let error = self.ring.registers.read_error(&parts.mmio).or(timed_out);
        state.failed = state.failed.or(error);
        state.failed.map_or(Ok(()), Err)
    }
}

impl<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> fmt::Debug for Ring<WORDS, R, P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("physical", &self.physical())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
