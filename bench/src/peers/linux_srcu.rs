//! The read side of Linux's SRCU as its documentation describes it: on entry a per-CPU increment
//! and a full fence, on exit a full fence and a per-CPU increment.
//!
//! Written for comparison from that description. The updater polls, where Linux's hands over to a
//! work queue and sleeps, so its grace periods here are shorter than there.

use std::array;
use std::hint::spin_loop;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use crate::cpu::{self, CPUS};

#[repr(align(64))]
#[derive(Default)]
struct PerCpu {
    locks: [AtomicUsize; 2],
    unlocks: [AtomicUsize; 2],
}

/// A domain.
pub struct LinuxSrcu {
    per_cpu: [PerCpu; CPUS],
    index: AtomicUsize,
    updater: Mutex<()>,
}

/// An open section.
pub struct Section<'a> {
    srcu: &'a LinuxSrcu,
    index: usize,
}

impl LinuxSrcu {
    pub fn new() -> Self {
        LinuxSrcu {
            per_cpu: array::from_fn(|_| PerCpu::default()),
            index: AtomicUsize::new(0),
            updater: Mutex::new(()),
        }
    }

    #[inline]
    pub fn read(&self) -> Section<'_> {
        let index = self.index.load(Ordering::Relaxed) & 1;
        increment(&self.this_cpu().locks[index]);
        fence(Ordering::SeqCst);
        Section { srcu: self, index }
    }

    pub fn synchronize(&self) {
        let _updater = self.updater.lock().unwrap();
        fence(Ordering::SeqCst);
        let index = self.index.load(Ordering::Relaxed) & 1;
        self.wait_for(index ^ 1);
        fence(Ordering::SeqCst);
        self.index.store(index ^ 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.wait_for(index);
        fence(Ordering::SeqCst);
    }

    fn wait_for(&self, index: usize) {
        while !self.is_idle(index) {
            spin_loop();
        }
    }

    fn is_idle(&self, index: usize) -> bool {
        let sum = |count: fn(&PerCpu) -> &[AtomicUsize; 2]| {
            self.per_cpu.iter().fold(0_usize, |sum, cpu| {
                sum.wrapping_add(count(cpu)[index].load(Ordering::Relaxed))
            })
        };
        let unlocks = sum(|cpu| &cpu.unlocks);
        fence(Ordering::SeqCst);
        sum(|cpu| &cpu.locks) == unlocks
    }

    #[inline]
    fn this_cpu(&self) -> &PerCpu {
        &self.per_cpu[cpu::number() % CPUS]
    }
}

impl Drop for Section<'_> {
    #[inline]
    fn drop(&mut self) {
        fence(Ordering::SeqCst);
        increment(&self.srcu.this_cpu().unlocks[self.index]);
    }
}

/// One plain instruction where the machine has it, as the counter's CPU is its only writer.
#[inline]
fn increment(counter: &AtomicUsize) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}
