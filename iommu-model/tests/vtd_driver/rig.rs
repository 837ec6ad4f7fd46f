//! The model, the driver, a device and a kernel's page table.

use crate::page_table::PageTable;
use iommu_core::Range;
use iommu_core::error::QueueError;
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::page_table::{Format, PageTable as Described};
use iommu_core::testing::Recorder;
use iommu_model::device::{self, Device, Ended, History, Transfer};
use iommu_model::vtd::{Configuration, Vtd};
use iommu_model::{Coherency, Hardware, Machine, Memory, ModelPlatform, Policy};
use iommu_vtd::Unit;
use std::sync::Arc;

const BASE: u64 = 0x4000_0000;
pub const ADDRESS: u64 = 0x7f00_1234_5000;
pub const ID: DeviceId = DeviceId(0x20);
pub const CONFIG: DeviceConfig = DeviceConfig {
    pasid_bits: 20,
    device_tlb: true,
    page_faults: PageFaults::PageRequests {
        response_pasid: true,
    },
};

/// What a test of the driver varies.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub policy: Policy,
    pub seed: u64,
    pub configuration: Configuration,
    pub coherency: Coherency,
    pub levels: u8,
}

impl Setting {
    pub fn strict() -> Self {
        Self {
            policy: Policy::STRICT,
            seed: 0,
            configuration: Configuration::default(),
            coherency: Coherency::Coherent,
            levels: 4,
        }
    }

    pub fn free(seed: u64) -> Self {
        Self {
            policy: Policy::FREE,
            seed,
            ..Self::strict()
        }
    }
}

pub struct Rig {
    pub machine: Arc<Machine>,
    pub model: Arc<Vtd>,
    pub unit: Unit<ModelPlatform>,
    pub device: Arc<Device>,
    pub table: PageTable,
    pub pasid: Pasid,
    pub tag: Tag,
    levels: u8,
}

impl Rig {
    /// A device with a device TLB whose PASID 9 walks an empty page table.
    pub fn new(setting: Setting) -> Self {
        Self::after(setting, |_, _| ())
    }

    /// The same after firmware had the hardware.
    pub fn after(setting: Setting, firmware: impl FnOnce(&Machine, &Vtd)) -> Self {
        let memory = Memory::new(BASE, 64 << 20, setting.coherency);
        let machine = Machine::new(memory, setting.policy, setting.seed);
        let model = Vtd::new(&machine, setting.configuration);
        let hardware: Arc<dyn Hardware> = model.clone();
        machine.add_iommu(hardware.clone());
        firmware(&machine, &model);
        let recorder = Arc::new(Recorder::default());
        let unit = Unit::probe(ModelPlatform::parts(&machine, &hardware, &recorder)).unwrap();
        let device = Device::new(
            &machine,
            &hardware,
            &Arc::new(History::default()),
            device::Configuration {
                device_tlb: true,
                ..device::Configuration::new(ID.0)
            },
        );
        let table = PageTable::new(&machine.memory, setting.levels.into());
        unit.enable_device(ID, CONFIG).unwrap();
        let tag = unit.allocate_tag().unwrap();
        let pasid = Pasid::new(9).unwrap();
        let rig = Self {
            machine,
            model,
            unit,
            device,
            table,
            pasid,
            tag,
            levels: setting.levels,
        };
        rig.attach(rig.pasid);
        rig
    }

    pub fn attach(&self, pasid: Pasid) {
        let described = Described {
            root: PhysicalAddress(self.table.root),
            format: Format::X86_64 {
                levels: self.levels,
            },
            written_back: true,
        };
        self.unit.attach(ID, pasid, self.tag, &described).unwrap();
    }

    pub fn frame(&self) -> u64 {
        self.machine.memory.take(4096, 4096).unwrap()
    }

    pub fn transfer(&self, address: u64, byte: u8) -> Transfer {
        Transfer::write(Some(self.pasid.get()), address, vec![byte; 8])
    }

    pub fn write(&self, address: u64, byte: u8) -> Ended {
        self.device.run(self.transfer(address, byte))
    }

    pub fn try_invalidate(&self, start: u64, end: u64) -> Result<(), QueueError> {
        self.invalidate_levels(start, end, Levels::LeafOnly)
    }

    pub fn invalidate_levels(
        &self,
        start: u64,
        end: u64,
        levels: Levels,
    ) -> Result<(), QueueError> {
        let (tag, pasid) = (self.tag, self.pasid);
        let targets = [
            Target::Iotlb { tag, pasid },
            Target::DeviceTlb { device: ID, pasid },
        ];
        let invalidation = Invalidation {
            targets: &targets,
            range: Range::new(start, end).unwrap(),
            levels,
        };
        let ticket = self.unit.submit(&invalidation)?;
        self.unit.wait(ticket).map(drop)
    }

    pub fn invalidate(&self, start: u64, end: u64) {
        self.try_invalidate(start, end).unwrap();
    }

    /// Everything posted is performed, and what software did was allowed.
    pub fn settle(&self) {
        self.machine.settle();
        assert_eq!(self.model.take_complaints(), [""; 0]);
    }
}

/// Runs a test once in order and with many seeds freely.
pub fn everywhere(test: impl Fn(&Rig)) {
    test(&Rig::new(Setting::strict()));
    for seed in 0..50 {
        test(&Rig::new(Setting::free(seed)));
    }
}
