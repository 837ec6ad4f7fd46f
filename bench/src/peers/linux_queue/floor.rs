//! What no queue can be faster than: commands, one doorbell, one wait, and nobody else.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use super::device::Device;
use super::{COMMAND, Queue, SYNC};
use crate::invalidate::world::World;

/// A queue for one CPU at a time.
pub struct Floor<W> {
    device: Device,
    tail: AtomicU32,
    done: AtomicU32,
    world: PhantomData<W>,
}

impl<W: World> Floor<W> {
    pub fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            device: Device::new(),
            tail: AtomicU32::new(0),
            done: AtomicU32::new(0),
            world: PhantomData,
        }))
    }
}

impl<W: World> Queue for &'static Floor<W> {
    fn invalidate(&self, commands: usize) {
        let this = *self;
        let mut tail = this.tail.load(Ordering::Relaxed);
        for _ in 0..commands {
            this.device.put::<W>(tail, COMMAND, 0);
            tail = tail.wrapping_add(1);
        }
        let end = tail.wrapping_add(1);
        this.device.put::<W>(tail, SYNC, end);
        this.device.ring::<W>(end, |_| &this.done);
        while this.done.load(Ordering::Acquire) != end {
            W::relax();
        }
        this.tail.store(end, Ordering::Relaxed);
    }
}
