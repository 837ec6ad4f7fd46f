//! SMMUv3: slots are claimed by one compare-and-exchange, lists become valid by a bitmap, and one of
//! those that are under way rings for all.

use std::array;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::device::Device;
use super::{COMMAND, Queue, SLOTS, SYNC};
use crate::invalidate::world::{Line, World};

/// Marks, in the producer, that somebody will ring.
const OWNED: u32 = 1 << 31;
/// Positions use the bits below.
const POSITION: u32 = OWNED - 1;

/// The queue.
pub struct SmmuQueue<W> {
    device: Device,
    /// Up to where slots are claimed, and whether somebody will ring for the last ones.
    producer: AtomicU32,
    /// Up to where they are free again, as far as is known.
    consumer: AtomicU32,
    claims_line: Line,
    /// Up to where was rung.
    rung: AtomicU32,
    rung_line: Line,
    /// How many wait for a sync.
    waiters: AtomicI32,
    waiters_line: Line,
    /// A bit a slot: valid if it differs from the lap's parity.
    valid: [AtomicU64; SLOTS as usize / 64],
    valid_line: Line,
    /// 0 once the sync of the slot is complete.
    words: [AtomicU32; SLOTS as usize],
    world: PhantomData<W>,
}

impl<W: World> SmmuQueue<W> {
    pub fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            device: Device::new(),
            producer: AtomicU32::new(0),
            consumer: AtomicU32::new(0),
            claims_line: Line::new(),
            rung: AtomicU32::new(0),
            rung_line: Line::new(),
            waiters: AtomicI32::new(0),
            waiters_line: Line::new(),
            valid: array::from_fn(|_| AtomicU64::new(0)),
            valid_line: Line::new(),
            words: array::from_fn(|_| AtomicU32::new(0)),
            world: PhantomData,
        }))
    }

    /// Claims slots: where they begin, and whether the claimant has to ring.
    fn claim(&self, count: u32) -> (u32, bool) {
        loop {
            W::atomic(&self.claims_line);
            let claims = self.producer.load(Ordering::Relaxed);
            let first = claims & POSITION;
            let used = first.wrapping_sub(self.consumer.load(Ordering::Relaxed));
            if used + count > SLOTS {
                self.look_for_room();
                continue;
            }
            let next = OWNED | (first + count);
            let taken =
                self.producer
                    .compare_exchange(claims, next, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                return (first, claims & OWNED == 0);
            }
        }
    }

    /// Takes over what the head register says, if nobody waits for a sync in the meantime.
    fn look_for_room(&self) {
        let alone =
            self.waiters
                .compare_exchange(0, i32::MIN, Ordering::Acquire, Ordering::Relaxed);
        if alone.is_ok() {
            W::register_read();
            self.consumer.store(self.device.head(), Ordering::Relaxed);
            self.waiters.fetch_sub(i32::MIN, Ordering::Release);
        }
        W::relax();
    }

    /// Flips the bits of `first..end`, which makes the slots valid.
    fn mark_valid(&self, first: u32, end: u32) {
        W::atomic(&self.valid_line);
        for (word, mask, _) in spans(first, end) {
            self.valid[word].fetch_xor(mask, Ordering::Release);
        }
    }

    fn wait_until_valid(&self, first: u32, end: u32) {
        for (word, mask, is_odd_lap) in spans(first, end) {
            let wanted = if is_odd_lap { 0 } else { mask };
            while self.valid[word].load(Ordering::Acquire) & mask != wanted {
                W::relax();
            }
        }
    }

    /// Rings for everything that was claimed since the last time.
    fn ring(&'static self, first: u32) {
        while self.rung.load(Ordering::Acquire) != first {
            W::relax();
        }
        W::atomic(&self.claims_line);
        let end = self.producer.fetch_and(!OWNED, Ordering::Relaxed) & POSITION;
        self.wait_until_valid(first, end);
        self.device
            .ring::<W>(end, |position| &self.words[(position % SLOTS) as usize]);
        W::atomic(&self.rung_line);
        self.rung.store(end, Ordering::Release);
    }
}

/// `first..end` by words of the bitmap: the word, its bits, and whether the lap is an odd one.
fn spans(first: u32, end: u32) -> impl Iterator<Item = (usize, u64, bool)> {
    let mut position = first;
    std::iter::from_fn(move || {
        let left = end.wrapping_sub(position);
        if left == 0 {
            return None;
        }
        let bit = position % 64;
        let count = left.min(64 - bit);
        let mask = (u64::MAX >> (64 - count)) << bit;
        let word = (position % SLOTS / 64) as usize;
        let is_odd_lap = position / SLOTS % 2 == 1;
        position = position.wrapping_add(count);
        Some((word, mask, is_odd_lap))
    })
}

impl<W: World> Queue for &'static SmmuQueue<W> {
    fn invalidate(&self, commands: usize) {
        let this = *self;
        let (first, rings) = this.claim(commands as u32 + 1);
        let sync = first + commands as u32;
        for position in first..sync {
            this.device.put::<W>(position, COMMAND, 0);
        }
        let word = &this.words[(sync % SLOTS) as usize];
        word.store(1, Ordering::Relaxed);
        this.device.put::<W>(sync, SYNC, 0);
        W::atomic(&this.waiters_line);
        this.waiters.fetch_add(1, Ordering::Relaxed);
        this.mark_valid(first, sync + 1);
        if rings {
            this.ring(first);
        }

        while word.load(Ordering::Acquire) != 0 {
            W::relax();
        }
        W::atomic(&this.waiters_line);
        if this.waiters.load(Ordering::Relaxed) == 1 {
            // Nobody else waits, so the consumer can be moved.
            this.consumer.store(sync + 1, Ordering::Relaxed);
        }
        this.waiters.fetch_sub(1, Ordering::Release);
    }
}
