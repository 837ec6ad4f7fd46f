//! VT-d: one lock over the ring, held but for an instant in each turn of the wait, in which it reads
//! the fault status register.

use std::array;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use super::device::{Device, SpinLock};
use super::{COMMAND, Queue, SLOTS, SYNC};
use crate::invalidate::world::{Line, World};

const FREE: u32 = 0;
const IN_USE: u32 = 1;
const DONE: u32 = 2;

/// The queue.
pub struct VtdQueue<W> {
    device: Device,
    lock: SpinLock,
    /// What the lock protects, as far as it lies in one line.
    line: Line,
    state: UnsafeCell<State>,
    /// What becomes of each slot; the hardware writes to those of syncs.
    status: [AtomicU32; SLOTS as usize],
    world: PhantomData<W>,
}

struct State {
    head: u32,
    tail: u32,
    free: u32,
}

// SAFETY: the state is accessed under the lock only.
unsafe impl<W: World> Sync for VtdQueue<W> {}

impl<W: World> VtdQueue<W> {
    pub fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            device: Device::new(),
            lock: SpinLock::new(),
            line: Line::new(),
            state: UnsafeCell::new(State {
                head: 0,
                tail: 0,
                free: SLOTS,
            }),
            status: array::from_fn(|_| AtomicU32::new(FREE)),
            world: PhantomData,
        }))
    }

    fn status(&self, position: u32) -> &AtomicU32 {
        &self.status[(position % SLOTS) as usize]
    }

    fn lock(&self) {
        self.lock.lock::<W>();
        W::atomic(&self.line);
    }

    /// Lets others take the lock for an instant.
    fn step_aside(&self) {
        self.lock.unlock();
        W::relax();
        self.lock();
    }
}

impl<W: World> Queue for &'static VtdQueue<W> {
    fn invalidate(&self, commands: usize) {
        let this = *self;
        let needed = commands as u32 + 1;
        this.lock();
        let state = this.state.get();
        loop {
            // SAFETY: the lock is held wherever the state is accessed.
            let free = unsafe { (*state).free };
            if free > needed {
                break;
            }
            this.step_aside();
        }
        // SAFETY: as above.
        let first = unsafe { (*state).head };
        let sync = first.wrapping_add(commands as u32);
        for position in 0..commands as u32 {
            let position = first.wrapping_add(position);
            this.device.put::<W>(position, COMMAND, 0);
            this.status(position).store(IN_USE, Ordering::Relaxed);
        }
        this.device.put::<W>(sync, SYNC, DONE);
        this.status(sync).store(IN_USE, Ordering::Relaxed);
        let tail = sync.wrapping_add(1);
        // SAFETY: as above.
        unsafe {
            (*state).head = tail;
            (*state).free -= needed;
        }
        this.device
            .ring::<W>(tail, |position| &this.status[(position % SLOTS) as usize]);

        while this.status(sync).load(Ordering::Acquire) != DONE {
            W::register_read();
            this.step_aside();
        }
        for position in 0..needed {
            let position = first.wrapping_add(position);
            this.status(position).store(FREE, Ordering::Relaxed);
        }
        // SAFETY: as above.
        let state = unsafe { &mut *state };
        while state.tail != state.head && this.status(state.tail).load(Ordering::Relaxed) == FREE {
            state.tail = state.tail.wrapping_add(1);
            state.free += 1;
        }
        this.lock.unlock();
    }
}
