//! Shared by the tests.
#![allow(dead_code, reason = "each test file uses a part")]

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use core_notifier::{AddressSpace, AddressSpaceLock, Notifier, Range, Srcu};

/// What a [`Recorder`] was called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Release,
    ClearFlushYoung(Range),
    ClearYoung(Range),
    TestYoung(u64),
    ChangePte(u64, u64),
    Start(Range),
    End(Range),
    Invalidate(Range),
}

/// The calls of all recorders that share it, each with the recorder's name.
pub type Log = Arc<Mutex<Vec<(char, Call)>>>;

/// Writes down what it is called for and answers as it is told to.
pub struct Recorder {
    name: char,
    log: Log,
    young: bool,
}

impl Recorder {
    pub fn create(name: char, log: &Log, young: bool) -> Arc<dyn Notifier> {
        Arc::new(Recorder {
            name,
            log: log.clone(),
            young,
        })
    }

    fn record(&self, call: Call) {
        self.log.lock().unwrap().push((self.name, call));
    }
}

impl Notifier for Recorder {
    fn release(&self) {
        self.record(Call::Release);
    }

    fn clear_flush_young(&self, range: Range) -> bool {
        self.record(Call::ClearFlushYoung(range));
        self.young
    }

    fn clear_young(&self, range: Range) -> bool {
        self.record(Call::ClearYoung(range));
        self.young
    }

    fn test_young(&self, address: u64) -> bool {
        self.record(Call::TestYoung(address));
        self.young
    }

    fn change_pte(&self, address: u64, entry: u64) {
        self.record(Call::ChangePte(address, entry));
    }

    fn invalidate_range_start(&self, range: Range) {
        self.record(Call::Start(range));
    }

    fn invalidate_range_end(&self, range: Range) {
        self.record(Call::End(range));
    }

    fn invalidate_range(&self, range: Range) {
        self.record(Call::Invalidate(range));
    }
}

/// A kernel's lock over one address space.
#[derive(Default)]
pub struct MemoryMapLock(Mutex<()>);

impl AddressSpaceLock for MemoryMapLock {
    type Guard<'a> = MutexGuard<'a, ()>;

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap()
    }
}

impl MemoryMapLock {
    /// Whether somebody holds it.
    pub fn is_held(&self) -> bool {
        self.0.try_lock().is_err()
    }
}

pub fn new_space() -> AddressSpace {
    AddressSpace::new(Arc::new(new_srcu()))
}

/// A domain whose waits let other threads run, as the tests have more threads than CPUs.
pub fn new_srcu() -> Srcu {
    Srcu::with_relax(std::thread::yield_now)
}

/// Takes what has been logged.
pub fn drain(log: &Log) -> Vec<(char, Call)> {
    core::mem::take(&mut *log.lock().unwrap())
}

pub const RANGE: Range = match Range::new(0x1000, 0x3000) {
    Ok(range) => range,
    Err(_) => panic!(),
};

/// Stops the threads of a scope also if the test fails, which would wait for them for ever.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
