//! The machine: memory, chance, and everything in it that works by itself.

use crate::bus::Port;
use crate::hardware::Hardware;
use crate::memory::Memory;
use crate::random::Random;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How freely the hardware behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Queued work is done only in [`Machine::step`]; else as soon as the doorbell is rung.
    pub later: bool,
    /// Work that the specification does not order is done in any order.
    pub unordered: bool,
    /// Caches lose entries by chance; else they keep each for as long as they may.
    pub forgetful: bool,
    /// Entries are fetched into caches without being asked for.
    pub speculative: bool,
    /// Accesses that were translated are performed some steps later, unless something that waits
    /// for them comes first.
    pub posted: bool,
}

impl Policy {
    /// Everything at once, in order, and every cache keeps what it has: short histories.
    pub const STRICT: Self = Self {
        later: false,
        unordered: false,
        forgetful: false,
        speculative: false,
        posted: false,
    };
    /// Every freedom but forgetting, which hides mistakes as often as it shows some.
    pub const FREE: Self = Self {
        later: true,
        unordered: true,
        forgetful: false,
        speculative: true,
        posted: true,
    };
}

/// An access of a device that was translated and is not performed yet.
struct Posted {
    device: u32,
    access: Box<dyn FnOnce(&Memory) + Send>,
}

/// Idle milliseconds after which IOMMUs give up waiting for a device.
const PATIENCE: u64 = 100;

/// Work that comes between two turns of a waiting loop.
type Interrupt = Box<dyn FnOnce() + Send>;

/// One modelled machine. Its parts hold it weakly or not at all; a test owns it.
pub struct Machine {
    /// Its memory.
    pub memory: Arc<Memory>,
    /// Where its choices come from.
    pub random: Random,
    /// How freely its hardware behaves.
    pub policy: Policy,
    iommus: Mutex<Vec<Arc<dyn Hardware>>>,
    devices: Mutex<Vec<Arc<dyn Port>>>,
    posted: Mutex<Vec<Posted>>,
    /// Held while accesses are performed, so that who drains them waits for those under way.
    performing: Mutex<()>,
    nanoseconds: AtomicU64,
    /// Milliseconds in a row in which nothing happened.
    idle: AtomicU64,
    /// What the next thread that waits is interrupted with.
    interrupt: Mutex<Option<Interrupt>>,
    /// Held for one step, so that what a step does is one event for every thread.
    turn: Mutex<()>,
}

impl Machine {
    /// A machine without IOMMUs and devices.
    pub fn new(memory: Memory, policy: Policy, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            memory: Arc::new(memory),
            random: Random::new(seed),
            policy,
            iommus: Mutex::default(),
            devices: Mutex::default(),
            posted: Mutex::default(),
            performing: Mutex::default(),
            nanoseconds: AtomicU64::new(0),
            idle: AtomicU64::new(0),
            interrupt: Mutex::default(),
            turn: Mutex::default(),
        })
    }

    /// Adds an IOMMU to what works in [`step`](Self::step).
    pub fn add_iommu(&self, iommu: Arc<dyn Hardware>) {
        lock(&self.iommus).push(iommu);
    }

    /// Adds a device to what works in [`step`](Self::step).
    pub fn add_device(&self, device: Arc<dyn Port>) {
        lock(&self.devices).push(device);
    }

    /// Lets something happen that may happen by itself at this moment; false if nothing is left to
    /// do (speculation aside, of which there is no end).
    pub fn step(&self) -> bool {
        let _turn = lock(&self.turn);
        let iommus = lock(&self.iommus).clone();
        let devices = lock(&self.devices).clone();
        if self.policy.speculative && !iommus.is_empty() && self.random.once_in(4) {
            iommus[self.random.below(iommus.len() as u64) as usize].speculate();
        }
        let parts = 1 + iommus.len() + devices.len();
        let first = self.random.below(parts as u64) as usize;
        let worked = (0..parts).any(|turn| match (first + turn) % parts {
            0 => self.perform_one(),
            part if part <= iommus.len() => iommus[part - 1].step(),
            part => devices[part - 1 - iommus.len()].step(),
        });
        if worked {
            self.idle.store(0, Ordering::Relaxed);
        }
        worked
    }

    /// Lets things happen until nothing is left to do.
    ///
    /// # Panics
    ///
    /// After a million steps: something makes work for itself.
    pub fn settle(&self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the machine does not come to rest");
    }

    /// Performs an access of `device` that was translated: now, or when the policy says so.
    pub fn perform(&self, device: u32, access: impl FnOnce(&Memory) + Send + 'static) {
        if self.policy.posted {
            let access = Box::new(access);
            lock(&self.posted).push(Posted { device, access });
        } else {
            access(&self.memory);
        }
    }

    /// Performs every access that was translated before, as a completed invalidation demands. An
    /// IOMMU calls it where its specification says that older requests are done.
    pub fn drain(&self) {
        self.perform_those(|_| true);
    }

    /// Performs what `device` has posted: what it sends behind arrives later than that.
    pub fn drain_device(&self, device: u32) {
        self.perform_those(|posted| posted.device == device);
    }

    fn perform_those(&self, chosen: impl Fn(&Posted) -> bool) {
        let _performing = lock(&self.performing);
        let now: Vec<_> = {
            let mut posted = lock(&self.posted);
            let (now, later) = std::mem::take(&mut *posted).into_iter().partition(chosen);
            *posted = later;
            now
        };
        for posted in now {
            (posted.access)(&self.memory);
        }
    }

    fn perform_one(&self) -> bool {
        let _performing = lock(&self.performing);
        let posted = {
            let mut posted = lock(&self.posted);
            if posted.is_empty() {
                return false;
            }
            let any = self.random.below(posted.len() as u64) as usize;
            posted.remove(any)
        };
        (posted.access)(&self.memory);
        true
    }

    /// Does `work` on the next thread on which a driver waits, in the middle of the wait: what another
    /// CPU does meanwhile, or an interrupt handler.
    pub fn interrupt(&self, work: impl FnOnce() + Send + 'static) {
        *lock(&self.interrupt) = Some(Box::new(work));
    }

    /// One turn of a driver's waiting loop.
    pub(crate) fn relax(&self) {
        let interrupt = lock(&self.interrupt).take();
        if let Some(work) = interrupt {
            work();
        }
        if !self.step() {
            self.idle();
        }
    }

    /// Lets a millisecond pass in which nothing happens. After a hundred in a row, IOMMUs give up
    /// waiting for devices.
    pub fn idle(&self) {
        self.nanoseconds.fetch_add(1_000_000, Ordering::Relaxed);
        if self.idle.fetch_add(1, Ordering::Relaxed) + 1 == PATIENCE {
            self.idle.store(0, Ordering::Relaxed);
            let _turn = lock(&self.turn);
            for iommu in lock(&self.iommus).clone() {
                iommu.time_out_devices();
            }
        }
    }

    /// Nanoseconds since the machine began. Each look is a microsecond later than the one before.
    pub fn now(&self) -> u64 {
        self.nanoseconds.fetch_add(1000, Ordering::Relaxed)
    }
}

/// Locks what only this crate's short sections lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
