//! The three IOMMUs as far as their command queues go: registers that let the driver bring them up,
//! and a queue that is consumed at the doorbell and decoded by a reading of our own.

mod registers;
mod riscv;
mod smmuv3;
mod vtd;

pub use riscv::Riscv;
pub use smmuv3::Smmuv3;
pub use vtd::Vtd;

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use iommu_core::iommu::Iommu;
use iommu_core::page_table::PageTable;
use iommu_core::platform::{Clock, Mmio, Observer, Parts, Platform};

use super::effect::Effect;
use super::memory::{self, Memory};
use super::world::{Hardware, Step, World};

/// The words of a command, the last ones zero if it has fewer.
pub type Words = [u64; 4];

/// One kind of IOMMU.
pub trait Model: Send + Sync + Sized + 'static {
    /// 64-bit words in a command.
    const WORDS: usize;
    /// The offset of the tail register.
    const TAIL: usize;

    /// Reads a register.
    fn read(&self, offset: usize) -> u64;
    /// Writes a register that is not the tail.
    fn write(&self, offset: usize, value: u64);
    /// The slot that a value of the tail register stands for.
    fn tail(&self, value: u64) -> usize;
    /// Where the queue lies and how many slots it has.
    fn queue(&self) -> (u64, usize);
    /// What a command does.
    fn effect(words: &Words) -> Effect;
    /// Where a command reports its completion, and by which value, if it does.
    fn completion(words: &Words) -> Option<(u64, u32)>;
    /// A page table that it can walk.
    fn page_table() -> PageTable;
    /// A driver on it.
    fn drive<W: World>(parts: Parts<Modelled<Self, W>>) -> Arc<dyn Iommu>;
}

/// One IOMMU.
pub struct Machine<M, W> {
    pub model: M,
    hardware: Hardware,
    head: AtomicUsize,
    tail: AtomicUsize,
    world: PhantomData<W>,
}

impl<M: Model, W: World> Machine<M, W> {
    /// An IOMMU that is off.
    pub fn new(model: M) -> Arc<Self> {
        Arc::new(Self {
            model,
            hardware: Hardware::default(),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            world: PhantomData,
        })
    }

    /// A driver that has brought it up.
    pub fn drive(self: &Arc<Self>) -> Arc<dyn Iommu> {
        M::drive(Parts {
            mmio: Window(self.clone()),
            memory: Memory,
            clock: WorldClock(PhantomData),
            observer: WorldObserver(PhantomData),
        })
    }

    /// Executes what was published.
    fn consume(&self) {
        let tail = self.tail.load(Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        if head == tail {
            return;
        }
        let (base, slots) = self.model.queue();
        while head != tail {
            self.execute(&command::<M>(base, head));
            head = (head + 1) % slots;
        }
        self.head.store(head, Ordering::Relaxed);
    }

    fn execute(&self, words: &Words) {
        if W::LOOKS {
            W::effect(M::effect(words));
        }
        let step = M::completion(words).map_or(Step::Command, |(address, value)| Step::Sync {
            word: memory::word(address),
            value,
        });
        W::execute(&self.hardware, step);
    }
}

fn command<M: Model>(base: u64, slot: usize) -> Words {
    let mut words = [0; 4];
    for (index, word) in words[..M::WORDS].iter_mut().enumerate() {
        *word = memory::load(base + ((slot * M::WORDS + index) * 8) as u64);
    }
    words
}

/// The register window.
pub struct Window<M, W>(Arc<Machine<M, W>>);

impl<M: Model, W: World> Window<M, W> {
    fn read(&self, offset: usize) -> u64 {
        W::register_read();
        self.0.model.read(offset)
    }

    fn write(&self, offset: usize, value: u64) {
        let Machine { model, tail, .. } = &*self.0;
        if offset == M::TAIL {
            W::doorbell();
            tail.store(model.tail(value), Ordering::Relaxed);
        } else {
            return model.write(offset, value);
        }
        self.0.consume();
    }
}

// SAFETY: no hardware is behind it; each call is one call of the model, in program order.
unsafe impl<M: Model, W: World> Mmio for Window<M, W> {
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset) as u32
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value.into());
    }
    fn read64(&self, offset: usize) -> u64 {
        self.read(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value);
    }
}

/// The world's time.
pub struct WorldClock<W>(pub PhantomData<W>);

impl<W: World> Clock for WorldClock<W> {
    fn now(&self) -> u64 {
        W::now()
    }
    fn relax(&self) {
        W::relax();
    }
}

/// Tells the world.
pub struct WorldObserver<W>(pub PhantomData<W>);

impl<W: World> Observer for WorldObserver<W> {
    const LISTENS: bool = W::COUNTS_COMMANDS;

    fn command(&self, _: &[u64]) {
        W::command();
    }
    fn wait(&self) {
        W::wait();
    }
}

/// The platform of a modelled IOMMU in a world.
pub struct Modelled<M, W>(PhantomData<(M, W)>);

impl<M: Model, W: World> Platform for Modelled<M, W> {
    type Mmio = Window<M, W>;
    type Memory = Memory;
    type Clock = WorldClock<W>;
    type Observer = WorldObserver<W>;

    fn without_interrupts<T>(section: impl FnOnce() -> T) -> T {
        W::section(section)
    }
}
