//! The hardware's end of a queue.

use std::array;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::{SLOTS, SYNC};
use crate::invalidate::world::{Hardware, Line, Step, World};

/// A queue in memory, and the hardware that reads it. Positions count without wrapping.
pub struct Device {
    slots: [[AtomicU64; 2]; SLOTS as usize],
    hardware: Hardware,
    head: AtomicU32,
}

impl Device {
    pub fn new() -> Self {
        Self {
            slots: array::from_fn(|_| array::from_fn(|_| AtomicU64::new(0))),
            hardware: Hardware::default(),
            head: AtomicU32::new(0),
        }
    }

    /// Up to where the hardware has read.
    pub fn head(&self) -> u32 {
        self.head.load(Ordering::Relaxed)
    }

    /// Writes a command, of which the second word says for a sync what is to be written.
    pub fn put<W: World>(&self, position: u32, command: u64, value: u32) {
        let [kind, operand] = &self.slots[(position % SLOTS) as usize];
        kind.store(command, Ordering::Relaxed);
        operand.store(value.into(), Ordering::Relaxed);
        W::command();
    }

    /// Rings the doorbell: everything before `tail` may be read. `word` says where the sync at a
    /// position reports.
    pub fn ring<W: World>(&self, tail: u32, word: impl Fn(u32) -> &'static AtomicU32) {
        W::doorbell();
        let mut head = self.head.load(Ordering::Relaxed);
        while head != tail {
            let [kind, operand] = &self.slots[(head % SLOTS) as usize];
            let step = match kind.load(Ordering::Relaxed) {
                SYNC => Step::Sync {
                    word: word(head),
                    value: operand.load(Ordering::Relaxed) as u32,
                },
                _ => Step::Command,
            };
            W::execute(&self.hardware, step);
            head = head.wrapping_add(1);
        }
        self.head.store(head, Ordering::Relaxed);
    }
}

/// A spin lock.
pub struct SpinLock {
    taken: AtomicBool,
    line: Line,
}

impl SpinLock {
    pub const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            line: Line::new(),
        }
    }

    pub fn lock<W: World>(&self) {
        W::atomic(&self.line);
        while self.taken.swap(true, Ordering::Acquire) {
            while self.taken.load(Ordering::Relaxed) {
                W::relax();
            }
        }
    }

    pub fn unlock(&self) {
        self.taken.store(false, Ordering::Release);
    }
}
