//! The engine's ring alone, with prepared commands: what the peers' queues do and nothing more.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iommu_core::platform::{Mmio, Parts, Platform, WalkerCoherency};
use iommu_core::ring::{
    Command, Completion, CompletionWord, Config, Item, QueueRegisters, Ring, Stop,
};

use super::hardware::{WorldClock, WorldObserver};
use super::memory::{self, Memory};
use super::world::{Hardware, Step, World};
use crate::peers::linux_queue::Queue;

const SLOTS: usize = 256;
/// The first word of a sync with a completion word.
const SYNC: u64 = 1 << 63;

/// A ring and the hardware that reads it.
pub struct PlainRing<W: World>(Ring<2, Registers, Plain<W>>);

impl<W: World> PlainRing<W> {
    pub fn new() -> Self {
        let parts: Arc<Parts<Plain<W>>> = Arc::new(Parts {
            mmio: Device {
                base: AtomicU64::new(0),
                head: AtomicU64::new(0),
                hardware: Hardware::default(),
                world: PhantomData,
            },
            memory: Memory,
            clock: WorldClock(PhantomData),
            observer: WorldObserver(PhantomData),
        });
        let config = Config::new(SLOTS, Completion::Memory, WalkerCoherency::Coherent);
        let ring = Ring::new(&parts, Registers, config).expect("there is memory");
        parts.mmio.base.store(ring.physical().0, Ordering::Relaxed);
        Self(ring)
    }
}

impl<W: World> Queue for PlainRing<W> {
    #[inline]
    fn invalidate(&self, commands: usize) {
        let emit = |put: &mut dyn FnMut(Item<2>)| {
            (0..commands).for_each(|command| put(Item::Command([command as u64, 0])));
        };
        let ticket = self.0.submit(emit).expect("the list is short");
        self.0.wait(ticket).expect("the hardware answers");
    }
}

/// A tail register that takes positions, and syncs of two words: the value, and where it goes.
struct Registers;

impl QueueRegisters<2> for Registers {
    fn write_tail(&self, mmio: &impl Mmio, position: u64) {
        mmio.write64(0, position);
    }
    fn read_head(&self, mmio: &impl Mmio) -> usize {
        mmio.read64(0) as usize
    }
    fn sync(&self, word: Option<CompletionWord>) -> Command<2> {
        word.map_or([0, 0], |word| {
            [SYNC | u64::from(word.value), word.address.0]
        })
    }
    fn read_stop(&self, _: &impl Mmio) -> Option<Stop> {
        None
    }
    fn restart(&self, _: &impl Mmio, _: Stop, _: u64) {}
}

pub struct Device<W> {
    base: AtomicU64,
    head: AtomicU64,
    hardware: Hardware,
    world: PhantomData<W>,
}

// SAFETY: no hardware is behind it; each call is one call of the model, in program order.
unsafe impl<W: World> Mmio for Device<W> {
    fn read32(&self, _: usize) -> u32 {
        unreachable!("there is one register of 64 bits")
    }
    fn write32(&self, _: usize, _: u32) {
        unreachable!("there is one register of 64 bits")
    }
    fn read64(&self, _: usize) -> u64 {
        W::register_read();
        self.head.load(Ordering::Relaxed)
    }

    fn write64(&self, _: usize, tail: u64) {
        W::doorbell();
        let base = self.base.load(Ordering::Relaxed);
        let head = self.head.load(Ordering::Relaxed);
        for position in head..tail {
            let slot = base + position % SLOTS as u64 * 16;
            let command = memory::load(slot);
            let step = if command & SYNC != 0 {
                Step::Sync {
                    word: memory::word(memory::load(slot + 8)),
                    value: command as u32,
                }
            } else {
                Step::Command
            };
            W::execute(&self.hardware, step);
        }
        self.head.store(tail, Ordering::Relaxed);
    }
}

struct Plain<W>(PhantomData<W>);

impl<W: World> Platform for Plain<W> {
    type Mmio = Device<W>;
    type Memory = Memory;
    type Clock = WorldClock<W>;
    type Observer = WorldObserver<W>;

    fn without_interrupts<T>(section: impl FnOnce() -> T) -> T {
        W::section(section)
    }
}
