//! Memory that remembers what an SMMU that does not snoop could see after each step.

extern crate alloc;

use super::Smmu;
use alloc::sync::Arc;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::{DmaBlock, DmaMemory, Parts, Platform};
use iommu_core::testing::{FakeMmio, HeapMemory, Recorder, SteppingClock};
use std::sync::Mutex;

/// A part of memory was made visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where the entry of 64 bytes around it begins.
    pub entry: u64,
    /// The entry as it was then.
    pub words: [u64; 8],
}

pub struct ObservedMemory {
    heap: Arc<HeapMemory>,
    published: Mutex<Vec<Published>>,
}

impl ObservedMemory {
    pub fn new(heap: &Arc<HeapMemory>) -> Self {
        Self {
            heap: heap.clone(),
            published: Mutex::new(Vec::new()),
        }
    }

    /// What was published within the entry at `address`, in order, since the last call.
    pub fn take(&self, address: u64) -> Vec<[u64; 8]> {
        let all = core::mem::take(&mut *self.published.lock().unwrap());
        all.into_iter()
            .filter(|step| step.entry == address)
            .map(|step| step.words)
            .collect()
    }
}

// SAFETY: every duty of the allocation is passed on to `HeapMemory`; `clean` reads through its own
// accessors.
unsafe impl DmaMemory for ObservedMemory {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        self.heap.allocate(size, align)
    }

    unsafe fn free(&self, block: DmaBlock) {
        // SAFETY: the caller's promise is this method's own.
        unsafe { self.heap.free(block) }
    }

    fn clean(&self, block: &DmaBlock, offset: usize, length: usize) {
        self.heap.clean(block, offset, length);
        if block.size < 64 || length > 64 {
            return;
        }
        let entry = (block.physical.0 + offset as u64) & !63;
        let words =
            core::array::from_fn(|word| self.heap.load(PhysicalAddress(entry + word as u64 * 8)));
        self.published
            .lock()
            .unwrap()
            .push(Published { entry, words });
    }
}

pub struct ObservedPlatform;

impl Platform for ObservedPlatform {
    type Mmio = FakeMmio<Smmu>;
    type Memory = Arc<ObservedMemory>;
    type Clock = SteppingClock;
    type Observer = Arc<Recorder>;
}

impl super::Machine {
    /// The machine's parts with its memory under observation.
    pub fn observed_parts(&self) -> (Arc<ObservedMemory>, Parts<ObservedPlatform>) {
        let memory = Arc::new(ObservedMemory::new(&self.memory));
        let parts = Parts {
            mmio: self.mmio(),
            memory: memory.clone(),
            clock: SteppingClock::default(),
            observer: self.recorder.clone(),
        };
        (memory, parts)
    }
}
