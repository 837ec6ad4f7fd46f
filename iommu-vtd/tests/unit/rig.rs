//! A unit on the fake hardware, and a journal of what it does.

use crate::fake::{State, Vtd};
use alloc::sync::Arc;
use iommu_core::error::{OutOfMemory, ProbeError};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::platform::{DmaBlock, DmaMemory, Observer, Parts, Platform};
use iommu_core::testing::{FakeMmio, HeapMemory, SteppingClock};
use iommu_vtd::Unit;
use std::sync::Mutex;

/// CAP of QEMU 11.1.3 with first-stage translation: ND=6, PSI, MAMV=18, ESRTPS, one record at 0x220.
pub const QEMU_CAP: u64 = 0x81d2_008c_222f_0606;
/// ECAP of QEMU 11.1.3: QI, DT, PASID, PSS=19, SMTS, FSTS; neither C nor SMPWCS.
pub const QEMU_ECAP: u64 = 0x0000_8d9a_20f0_0f4e;
/// ECAP with coherent tables and walks.
pub const COHERENT_ECAP: u64 = QEMU_ECAP | 1 << 48 | 1;
pub const ESRTPS: u64 = 1 << 63;
pub const CM: u64 = 1 << 7;
pub const RWBF: u64 = 1 << 4;

pub const DEVICE: DeviceId = DeviceId::from_bdf(0, 4, 0);
pub const TAG: Tag = Tag(1);
pub const WITH_TLB: DeviceConfig = DeviceConfig {
    pasid_bits: 20,
    device_tlb: true,
    page_faults: PageFaults::Fatal,
};
pub const WITHOUT_TLB: DeviceConfig = DeviceConfig {
    pasid_bits: 20,
    device_tlb: false,
    page_faults: PageFaults::Fatal,
};
pub const TABLE: PageTable = PageTable {
    root: PhysicalAddress(0x1234_5000),
    format: Format::X86_64 { levels: 4 },
    written_back: false,
};

pub fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

/// Something that the driver did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A command other than a completing wait: words 0 and 1; the others are checked to be zero.
    Command(u64, u64),
    /// A wait descriptor with a status write.
    Sync,
    Doorbell,
    Wait,
    /// Words that were cleaned to memory: the address of the first, and what the hardware then saw.
    Clean(u64, Vec<u64>),
}

#[derive(Default)]
pub struct Journal(Mutex<Vec<Step>>);

impl Journal {
    pub fn take(&self) -> Vec<Step> {
        core::mem::take(&mut *self.0.lock().unwrap())
    }

    fn note(&self, step: Step) {
        self.0.lock().unwrap().push(step);
    }
}

/// The observer's end of the journal.
pub struct Witness(Arc<Journal>);

impl Observer for Witness {
    fn command(&self, words: &[u64]) {
        let &[low, high, 0, 0] = words else {
            panic!("a descriptor with upper words: {words:x?}");
        };
        self.0.note(if low & 0xffff_ffff == 0x25 {
            Step::Sync
        } else {
            Step::Command(low, high)
        });
    }
    fn doorbell(&self) {
        self.0.note(Step::Doorbell);
    }
    fn wait(&self) {
        self.0.note(Step::Wait);
    }
}

/// Heap memory that notes what is cleaned.
pub struct Watched {
    heap: Arc<HeapMemory>,
    journal: Arc<Journal>,
}

// SAFETY: every duty is passed on to the heap memory.
unsafe impl DmaMemory for Watched {
    fn allocate(&self, size: usize, align: usize) -> Result<DmaBlock, OutOfMemory> {
        self.heap.allocate(size, align)
    }
    unsafe fn free(&self, block: DmaBlock) {
        // SAFETY: the caller's promise is this method's own.
        unsafe { self.heap.free(block) }
    }
    fn clean(&self, block: &DmaBlock, offset: usize, length: usize) {
        let first = block.physical.0 + offset as u64;
        let words = (first..first + length as u64).step_by(8);
        let seen = words.map(|word| self.heap.load(PhysicalAddress(word)));
        self.journal.note(Step::Clean(first, seen.collect()));
    }
}

pub struct TestPlatform;

impl Platform for TestPlatform {
    type Mmio = FakeMmio<Vtd>;
    type Memory = Watched;
    type Clock = SteppingClock;
    type Observer = Witness;
}

/// The fake hardware with its memory; a unit is probed on it.
pub struct Bench {
    pub heap: Arc<HeapMemory>,
    pub hardware: Arc<Vtd>,
    pub journal: Arc<Journal>,
}

impl Bench {
    pub fn new(cap: u64, ecap: u64) -> Self {
        let heap = Arc::new(HeapMemory::new());
        let hardware = Arc::new(Vtd::new(&heap, cap, ecap));
        Self {
            heap,
            hardware,
            journal: Arc::default(),
        }
    }

    pub fn probe(&self) -> Result<Unit<TestPlatform>, ProbeError> {
        Unit::probe(Parts {
            mmio: FakeMmio(self.hardware.clone()),
            memory: Watched {
                heap: self.heap.clone(),
                journal: self.journal.clone(),
            },
            clock: SteppingClock::default(),
            observer: Witness(self.journal.clone()),
        })
    }

    pub fn load(&self, address: u64) -> u64 {
        self.heap.load(PhysicalAddress(address))
    }
}

/// A unit that is up.
pub struct Rig {
    pub bench: Bench,
    pub unit: Unit<TestPlatform>,
}

impl Rig {
    pub fn new(cap: u64, ecap: u64) -> Self {
        let bench = Bench::new(cap, ecap);
        let unit = bench.probe().expect("the hardware suffices");
        bench.journal.take();
        Self { bench, unit }
    }

    /// Coherent, nothing special.
    pub fn plain() -> Self {
        Self::new(QEMU_CAP, COHERENT_ECAP)
    }

    /// [`DEVICE`] enabled, and a PASID of it attached.
    pub fn attached(self, config: DeviceConfig, with: Pasid) -> Self {
        self.unit.enable_device(DEVICE, config).unwrap();
        self.unit.attach(DEVICE, with, TAG, &TABLE).unwrap();
        self.bench.journal.take();
        self
    }

    pub fn steps(&self) -> Vec<Step> {
        self.bench.journal.take()
    }

    pub fn hardware<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        self.bench.hardware.with(look)
    }

    /// Where the context entry of a device lies, by the fake's own walk.
    pub fn context_entry(&self, device: DeviceId) -> Option<u64> {
        let (bus, function) = (u64::from(device.0 >> 8), u64::from(device.0 & 0xff));
        let root = self.hardware(|state| state.root);
        let half = self.bench.load(root + bus * 16 + (function / 128) * 8);
        (half & 1 != 0).then_some((half & !0xfff) + function % 128 * 32)
    }

    /// Where the PASID table entry of a device lies, by the fake's own walk.
    pub fn pasid_entry(&self, device: DeviceId, pasid: Pasid) -> Option<u64> {
        let context = self.bench.load(self.context_entry(device)?);
        let index = u64::from(pasid.get()) / 64;
        assert!(index < 128 << (context >> 9 & 7), "beyond the directory");
        let entry = self.bench.load((context & !0xfff) + index * 8);
        (entry & 1 != 0).then_some((entry & !0xfff) + u64::from(pasid.get()) % 64 * 64)
    }

    pub fn words<const N: usize>(&self, address: u64) -> [u64; N] {
        core::array::from_fn(|index| self.bench.load(address + 8 * index as u64))
    }
}

/// The steps of one list: its commands, one completing wait, one doorbell, one wait.
pub fn list(commands: &[(u64, u64)]) -> Vec<Step> {
    let mut steps: Vec<Step> = commands
        .iter()
        .map(|&(low, high)| Step::Command(low, high))
        .collect();
    steps.extend([Step::Sync, Step::Doorbell, Step::Wait]);
    steps
}

/// The fence between IOTLB and device TLB: a wait descriptor (5) with FN (bit 6) alone.
pub const FENCE: (u64, u64) = (0x45, 0);
