//! RISC-V: each command goes in under a lock and with a doorbell of its own; completion is the head
//! register, read beside the status register in each turn of the wait.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use super::device::{Device, SpinLock};
use super::{COMMAND, Queue, SLOTS, SYNC};
use crate::invalidate::world::{Line, World};

/// The queue.
pub struct RiscvQueue<W> {
    device: Device,
    lock: SpinLock,
    line: Line,
    tail: UnsafeCell<u32>,
    /// The head register as it moves past syncs.
    head: AtomicU32,
    world: PhantomData<W>,
}

// SAFETY: the tail is accessed under the lock only.
unsafe impl<W: World> Sync for RiscvQueue<W> {}

impl<W: World> RiscvQueue<W> {
    pub fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            device: Device::new(),
            lock: SpinLock::new(),
            line: Line::new(),
            tail: UnsafeCell::new(0),
            head: AtomicU32::new(0),
            world: PhantomData,
        }))
    }

    /// Posts one command; returns its position.
    fn send(&'static self, command: u64) -> u32 {
        self.lock.lock::<W>();
        W::atomic(&self.line);
        // SAFETY: the lock is held.
        let position = unsafe { *self.tail.get() };
        while position.wrapping_sub(self.read_head()) >= SLOTS - 1 {
            W::register_read();
        }
        let end = position.wrapping_add(1);
        self.device.put::<W>(position, command, end);
        self.device.ring::<W>(end, |_| &self.head);
        // SAFETY: as above.
        unsafe { *self.tail.get() = end };
        self.lock.unlock();
        position
    }

    fn read_head(&self) -> u32 {
        self.head.load(Ordering::Acquire)
    }
}

impl<W: World> Queue for &'static RiscvQueue<W> {
    fn invalidate(&self, commands: usize) {
        for _ in 0..commands {
            self.send(COMMAND);
        }
        let end = self.send(SYNC).wrapping_add(1);
        loop {
            // The head, then the status.
            W::register_read();
            let head = self.read_head();
            W::register_read();
            if (head.wrapping_sub(end) as i32) >= 0 {
                return;
            }
            W::relax();
        }
    }
}
