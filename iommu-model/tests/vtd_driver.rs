//! The real VT-d driver on the model.

// A test has std.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

#[path = "vtd/page_table.rs"]
mod page_table;

use iommu_core::Range;
use iommu_core::fault::Reason;
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::page_table::{Format, PageTable as Described};
use iommu_core::testing::Recorder;
use iommu_model::device::{self, Device, Ended, History, Transfer};
use iommu_model::vtd::{Configuration, Vtd};
use iommu_model::{Coherency, Hardware, Machine, Memory, ModelPlatform, Policy};
use iommu_vtd::Unit;
use page_table::PageTable;
use std::sync::Arc;

const BASE: u64 = 0x4000_0000;
const ADDRESS: u64 = 0x7f00_1234_5000;
const ID: DeviceId = DeviceId(0x20);
const CONFIG: DeviceConfig = DeviceConfig {
    pasid_bits: 20,
    device_tlb: true,
    page_faults: PageFaults::Fatal,
};

struct Rig {
    machine: Arc<Machine>,
    model: Arc<Vtd>,
    unit: Unit<ModelPlatform>,
    device: Arc<Device>,
    table: PageTable,
    pasid: Pasid,
    tag: Tag,
}

impl Rig {
    fn new(policy: Policy, seed: u64, configuration: Configuration, coherency: Coherency) -> Self {
        let memory = Memory::new(BASE, 64 << 20, coherency);
        let machine = Machine::new(memory, policy, seed);
        let model = Vtd::new(&machine, configuration);
        let hardware: Arc<dyn Hardware> = model.clone();
        machine.add_iommu(hardware.clone());
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
        let table = PageTable::new(&machine.memory, 4);
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
        };
        rig.attach();
        rig
    }

    fn attach(&self) {
        let described = Described {
            root: PhysicalAddress(self.table.root),
            format: Format::X86_64 { levels: 4 },
            written_back: true,
        };
        self.unit
            .attach(ID, self.pasid, self.tag, &described)
            .unwrap();
    }

    fn frame(&self) -> u64 {
        self.machine.memory.take(4096, 4096).unwrap()
    }

    fn write(&self, address: u64, byte: u8) -> Ended {
        let pasid = Some(self.pasid.get());
        self.device
            .run(Transfer::write(pasid, address, vec![byte; 8]))
    }

    fn invalidate(&self, start: u64, end: u64) {
        let (tag, pasid) = (self.tag, self.pasid);
        let targets = [
            Target::Iotlb { tag, pasid },
            Target::DeviceTlb { device: ID, pasid },
        ];
        let invalidation = Invalidation {
            targets: &targets,
            range: Range::new(start, end).unwrap(),
            levels: Levels::LeafOnly,
        };
        let ticket = self.unit.submit(&invalidation).unwrap();
        self.unit.wait(ticket).unwrap();
    }

    /// Everything posted is performed, and what software did was allowed.
    fn settle(&self) {
        self.machine.settle();
        assert_eq!(self.model.take_complaints(), [""; 0]);
    }
}

fn everywhere(test: impl Fn(&Rig)) {
    let default = Configuration::default();
    test(&Rig::new(Policy::STRICT, 0, default, Coherency::Coherent));
    for seed in 0..50 {
        test(&Rig::new(Policy::FREE, seed, default, Coherency::Coherent));
    }
}

#[test]
fn a_mapped_page_is_written_and_an_unmapped_one_is_not() {
    everywhere(|rig| {
        let frames = [rig.frame(), rig.frame()];
        rig.table.map(ADDRESS, frames[0]);
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.table.map(ADDRESS, frames[1]);
        rig.invalidate(ADDRESS, ADDRESS + 4096);
        rig.machine.memory.give_back(frames[0], 0xdead);
        assert!(rig.write(ADDRESS, 0x22).is_done());
        rig.table.unmap(ADDRESS);
        rig.invalidate(ADDRESS, ADDRESS + 4096);
        assert!(!rig.write(ADDRESS, 0x33).is_done());
        rig.settle();
        let memory = &rig.machine.memory;
        assert_eq!(memory.load(frames[0]), Ok(0xdead), "the old frame");
        assert_eq!(memory.load(frames[1]), Ok(0x2222_2222_2222_2222));
    });
}

#[test]
fn a_blocked_pasid_reaches_nothing_and_can_come_back_with_another_table() {
    everywhere(|rig| {
        rig.table.map(ADDRESS, rig.frame());
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.unit.block(ID, rig.pasid).unwrap();
        assert!(!rig.write(ADDRESS, 0x22).is_done());
        rig.unit.detach(ID, rig.pasid).unwrap();
        rig.table.map(ADDRESS, rig.frame());
        let frame = rig.table.entry(ADDRESS, 1) & 0xf_ffff_f000;
        rig.attach();
        assert!(rig.write(ADDRESS, 0x33).is_done());
        rig.settle();
        assert_eq!(rig.machine.memory.load(frame), Ok(0x3333_3333_3333_3333));
        rig.unit.detach(ID, rig.pasid).unwrap();
        rig.unit.disable_device(ID).unwrap();
        assert!(!rig.write(ADDRESS, 0x44).is_done());
    });
}

#[test]
fn refused_requests_are_reported() {
    let default = Configuration::default();
    let rig = Rig::new(Policy::STRICT, 0, default, Coherency::Coherent);
    rig.device.enable_device_tlb(false);
    assert!(!rig.write(ADDRESS, 1).is_done());
    let mut faults = Vec::new();
    let summary = rig.unit.take_faults(&mut |fault| faults.push(fault));
    assert_eq!((summary.reported, summary.lost), (1, false));
    assert_eq!(faults[0].device, ID);
    assert_eq!(faults[0].pasid, rig.pasid);
    assert_eq!(faults[0].address, Some(ADDRESS));
    assert_eq!(faults[0].reason, Reason::NotPresent);
    assert_eq!(faults[0].code, 0x71);
}

/// A walk that does not snoop cannot set accessed and dirty bits: the kernel has them set before.
#[test]
fn nothing_needs_to_snoop() {
    for seed in 0..20 {
        let configuration = Configuration::non_coherent();
        let rig = Rig::new(Policy::FREE, seed, configuration, Coherency::NonCoherent);
        let set = page_table::ACCESSED | page_table::DIRTY;
        let frame = rig.frame();
        rig.table
            .map_page(ADDRESS, frame, page_table::DATA | set, 1);
        assert!(rig.write(ADDRESS, 0x11).is_done());
        rig.unit.detach(ID, rig.pasid).unwrap();
        assert!(!rig.write(ADDRESS, 0x22).is_done());
        rig.settle();
        assert_eq!(rig.machine.memory.load(frame), Ok(0x1111_1111_1111_1111));
    }
}
