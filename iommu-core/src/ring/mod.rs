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
//! Nothing is held over a wait. With many waiters they share syncs.
//!
//! An error is the list's whose command failed: everybody else's complete, and the ring goes on. See
//! [`Loss`].

mod lists;
mod position;
mod sequencer;
mod slots;
mod watch;

#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;

use crate::error::{OutOfMemory, QueueError};
use crate::ids::PhysicalAddress;
use crate::iommu::{Completed, Ticket};
use crate::planted::{self, Fault};
use crate::platform::{Mmio, Observer, Parts, Platform, WalkerCoherency};
use alloc::sync::Arc;
use core::fmt;
use sequencer::{Doorbell, Sequencer};
use slots::RingSlots;
use watch::Watch;

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

/// Why a queue has stopped, and what that means for the lists in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// What the lists concerned get to know.
    pub error: QueueError,
    /// Which they are.
    pub loss: Loss,
}

/// Which lists an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The command in this slot was not executed, and the hardware waits in front of it. The ring
    /// puts a bare sync in its place and restarts; only the list of that command has failed.
    Command {
        /// The slot.
        slot: usize,
    },
    /// The sync in this slot found that a device did not answer, and the hardware waits in front of
    /// it, to execute it again. What the sync stands for has failed.
    Sync {
        /// The slot.
        slot: usize,
    },
    /// The syncs between what is complete and the head register were dropped and will never be
    /// reported. Every list that begins in front of the head has failed.
    PendingSyncs,
    /// The hardware does not go on.
    Queue,
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
    fn read_stop(&self, mmio: &impl Mmio) -> Option<Stop>;

    /// Acknowledges `stop` and lets the hardware go on up to `position`. Called under the ring's
    /// lock, after the slot of a failed command was overwritten; not for [`Loss::Queue`].
    fn restart(&self, mmio: &impl Mmio, stop: Stop, position: u64);
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
    /// Syncs in flight from which on waiters share one; at least 1.
    pub most_syncs: usize,
    /// Nanoseconds before the error registers are looked at, and between two looks.
    pub look_at_errors: u64,
    /// Nanoseconds before a wait is given up.
    pub give_up: u64,
}

impl Config {
    /// A ring of `slots` with two syncs in flight, that looks at the error registers every 100 µs
    /// and gives up after 2 s.
    pub const fn new(slots: usize, completion: Completion, coherency: WalkerCoherency) -> Self {
        Self {
            slots,
            completion,
            coherency,
            most_syncs: 2,
            look_at_errors: 100_000,
            give_up: 2_000_000_000,
        }
    }
}

/// A command queue of one IOMMU.
pub struct Ring<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> {
    sequencer: Sequencer<RingSlots<WORDS, R, P>>,
    config: Config,
}

impl<const WORDS: usize, R: QueueRegisters<WORDS>, P: Platform> Ring<WORDS, R, P> {
    /// A ring whose memory is zeroed and aligned to its own size, at least 4 KiB.
    ///
    /// The backend then writes [`physical`](Self::physical) to the base register, resets head and
    /// tail to 0, and enables the queue before the first [`submit`](Self::submit).
    pub fn new(parts: &Arc<Parts<P>>, registers: R, config: Config) -> Result<Self, OutOfMemory> {
        assert!(
            config.slots.is_power_of_two() && config.slots >= 4 && config.most_syncs > 0,
            "a ring has 2^n slots, at least 4, and at least one sync"
        );
        let slots = RingSlots::new(parts, registers, config)?;
        Ok(Self {
            sequencer: Sequencer::new(slots, config.slots, config.most_syncs),
            config,
        })
    }

    /// Where the queue lies.
    pub fn physical(&self) -> PhysicalAddress {
        self.sequencer.slots.physical()
    }

    /// The registers' side.
    pub fn registers(&self) -> &R {
        self.sequencer.slots.registers()
    }

    /// Posts the list that `emit` produces, with a sync behind it, by one doorbell.
    ///
    /// `emit` writes straight into the ring, under its lock, and is called again if there was no room;
    /// it must not call back into the ring. An empty list is a bare sync. If the ring is full, waits
    /// for room without holding anything.
    ///
    /// With [`Config::most_syncs`] in flight, sync and doorbell come later, from whoever waits
    /// first for a list of the group.
    pub fn submit(&self, emit: impl Fn(&mut dyn FnMut(Item<WORDS>))) -> Result<Ticket, QueueError> {
        self.append(Doorbell::Shared, emit)
    }

    /// Posts the list that `emit` produces as [`submit`](Self::submit) does, for who does not wait:
    /// the doorbell is rung at once, however many syncs are in flight.
    pub fn post(&self, emit: impl Fn(&mut dyn FnMut(Item<WORDS>))) -> Result<(), QueueError> {
        let doorbell = if planted::is(Fault::PostedNotRung) {
            Doorbell::Shared
        } else {
            Doorbell::AtOnce
        };
        self.append(doorbell, emit).map(drop)
    }

    fn append(
        &self,
        doorbell: Doorbell,
        emit: impl Fn(&mut dyn FnMut(Item<WORDS>)),
    ) -> Result<Ticket, QueueError> {
        let left_out =
            |item: &Item<WORDS>| *item == Item::Barrier && planted::is(Fault::BarrierLeftOut);
        let bare_sync = self.registers().sync(None);
        let mut watch = Watch::new(
            &self.sequencer,
            &self.config,
            "waiting for room in the queue",
        );
        loop {
            let posted = self.sequencer.post(doorbell, |put| {
                emit(&mut |item| match item {
                    Item::Command(command) => put(command),
                    Item::Barrier if left_out(&item) => {}
                    Item::Barrier => put(bare_sync),
                });
            })?;
            match posted {
                Some(ticket) => return Ok(ticket),
                None => watch.turn(None)?,
            }
        }
    }

    /// Waits until `ticket` is complete, looking at the error registers from time to time.
    ///
    /// # Errors
    ///
    /// What went wrong with the list itself ([`Loss`]); others are not concerned. Once the hardware
    /// does not go on at all, this and every later call return that error, and nothing that was not
    /// complete by then counts as done.
    pub fn wait(&self, ticket: Ticket) -> Result<Completed, QueueError> {
        self.sequencer.slots.parts().observer.wait();
        let mut watch = Watch::new(&self.sequencer, &self.config, "waiting for a sync");
        while !self.sequencer.poll(&ticket)? {
            while planted::is(Fault::WordLoadedOnce) {
                watch.turn(None)?;
            }
            watch.turn(Some(&ticket))?;
        }
        Ok(Completed { _proof: () })
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
