//! The modelled machine with the driver's IOMMU, and a CPU's page table.

use alloc::sync::Arc;
use iommu_core::Range;
use iommu_core::error::{ProbeError, QueueError};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::testing::Recorder;
use iommu_model::device::{self, Answers, Device, History};
use iommu_model::riscv::{Configuration, RiscvIommu};
use iommu_model::{
    Access, Coherency, Hardware, Machine, Memory, ModelPlatform, Policy, Refusal, Request,
};
use iommu_riscv::{Config, Unit};

pub const DEVICE: DeviceId = DeviceId(0x0108);
pub const PLAIN: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: false,
    page_faults: PageFaults::Fatal,
};
pub const WITH_DEVICE_TLB: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: true,
    page_faults: PageFaults::Fatal,
};
/// How many schedules are tried with a free hand.
pub const SEEDS: u64 = 60;
/// A page-table entry for the user, with V, R, W, U, A and D.
pub const WRITABLE: u64 = 0xd7;
pub const READ_ONLY: u64 = 0xd3;
pub const ADDRESS: u64 = 0x12_3456_7000;

/// The driver under test.
pub type Driver = Unit<ModelPlatform>;

/// A machine with one IOMMU and one device.
pub struct Scene {
    pub machine: Arc<Machine>,
    pub model: Arc<RiscvIommu>,
    pub iommu: Arc<dyn Hardware>,
}

impl Scene {
    pub fn new(policy: Policy, seed: u64, configuration: Configuration) -> Self {
        Self::with_memory(policy, seed, configuration, Coherency::Coherent)
    }

    pub fn with_memory(
        policy: Policy,
        seed: u64,
        configuration: Configuration,
        coherency: Coherency,
    ) -> Self {
        let machine = Machine::new(Memory::new(0x8000_0000, 32 << 20, coherency), policy, seed);
        let model = RiscvIommu::new(&machine, configuration);
        let iommu: Arc<dyn Hardware> = model.clone();
        machine.add_iommu(iommu.clone());
        Self {
            machine,
            model,
            iommu,
        }
    }

    pub fn try_driver(&self, config: Config) -> Result<Driver, ProbeError> {
        let recorder = Arc::new(Recorder::default());
        let parts = ModelPlatform::parts(&self.machine, &self.iommu, &recorder);
        Unit::probe_with(parts, config)
    }

    pub fn driver(&self) -> Driver {
        self.try_driver(Config::default()).unwrap()
    }

    /// A device with a TLB.
    pub fn device(&self, answers: Answers) -> Arc<Device> {
        self.device_with(|configuration| configuration.answers = answers)
    }

    /// A device with a TLB, changed.
    pub fn device_with(&self, change: impl FnOnce(&mut device::Configuration)) -> Arc<Device> {
        let mut configuration = device::Configuration {
            device_tlb: true,
            ..device::Configuration::new(DEVICE.0)
        };
        change(&mut configuration);
        let history = Arc::new(History::default());
        Device::new(&self.machine, &self.iommu, &history, configuration)
    }

    pub fn ask(&self, pasid: Option<u32>, address: u64, access: Access) -> Result<u64, Refusal> {
        let request = Request {
            device: DEVICE.0,
            pasid,
            privileged: false,
            address,
            access,
        };
        self.iommu
            .translate(&request)
            .map(|translation| translation.address)
    }

    /// Nothing was left to chance.
    pub fn assert_specified(&self) {
        assert_eq!(self.model.take_complaints(), Vec::<&str>::new());
    }
}

/// A CPU's page table in the machine's memory.
pub struct Table<'a> {
    memory: &'a Memory,
    root: u64,
    levels: u32,
}

impl<'a> Table<'a> {
    pub fn new(memory: &'a Memory, levels: u32) -> Self {
        let root = memory.take(4096, 4096).unwrap();
        Self {
            memory,
            root,
            levels,
        }
    }

    pub fn neutral(&self) -> PageTable {
        PageTable {
            root: PhysicalAddress(self.root),
            format: Format::Riscv64 {
                levels: self.levels as u8,
            },
            written_back: true,
        }
    }

    pub fn store(&self, place: u64, value: u64) {
        self.memory.cpu_store(place, value);
        self.memory.clean_range(place, 8);
    }

    /// Where the entry for `address` at a level is; tables on the way are made.
    pub fn place(&self, address: u64, level: u32) -> u64 {
        let mut table = self.root;
        for above in (level..self.levels).rev() {
            let place = table + (address >> (12 + 9 * above) & 0x1ff) * 8;
            if above == level {
                return place;
            }
            if self.memory.cpu_load(place) & 1 == 0 {
                let below = self.memory.take(4096, 4096).unwrap();
                self.store(place, below >> 12 << 10 | 1);
            }
            table = self.memory.cpu_load(place) >> 10 << 12;
        }
        unreachable!("the level is below the root's")
    }

    pub fn map(&self, address: u64, to: u64, flags: u64) {
        self.store(self.place(address, 0), to >> 12 << 10 | flags);
    }

    pub fn unmap(&self, address: u64) {
        self.store(self.place(address, 0), 0);
    }
}

pub fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

pub fn iotlb(tag: Tag) -> Target {
    Target::Iotlb {
        tag,
        pasid: Pasid::UNTAGGED,
    }
}

pub fn device_tlb(pasid: Pasid) -> Target {
    Target::DeviceTlb {
        device: DEVICE,
        pasid,
    }
}

pub fn page(address: u64) -> Range {
    Range::with_length(address, 4096).unwrap()
}

pub fn invalidate(
    unit: &Driver,
    targets: &[Target],
    range: Range,
    levels: Levels,
) -> Result<(), QueueError> {
    let invalidation = Invalidation {
        targets,
        range,
        levels,
    };
    let ticket = unit.submit(&invalidation)?;
    unit.wait(ticket).map(drop)
}

/// Once strictly, then freely with many seeds.
pub fn schedules(mut scene: impl FnMut(Policy, u64)) {
    scene(Policy::STRICT, 0);
    for seed in 0..SEEDS {
        scene(Policy::FREE, seed);
    }
}
