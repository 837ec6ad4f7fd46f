//! The guide's code at work, and the guide itself.

extern crate alloc;

use alloc::sync::Arc;
use core_notifier::{Notifier, NotifierKind, Range, Srcu};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress};
use iommu_core::iommu::{DeviceConfig, PageFaults};
use iommu_core::page_request::{DeviceShare, GroupQueue, Page, PageRequests};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::platform::{Clock, DmaMemory, Mmio};
use iommu_core::sva::{Failure, FailureHandler, Requests, Sva};
use iommu_core::testing::Recorder;
use iommu_model::device::{Configuration, Device, Ended, History, Transfer};
use iommu_model::{Coherency, Hardware, Machine, Memory as Ram, ModelPlatform, Policy, vtd};
use shootdown_embedding::page_faults::{Events, Pager, resolve_queued};
use shootdown_embedding::platform::{self, Heap, Kind, Registers};
use shootdown_embedding::process::{Memory, Process, free_kernel_table};
use std::sync::Mutex;

type Log = Arc<Mutex<Vec<&'static str>>>;

/// A page table that writes down what it is asked.
struct Logged(Log);

impl Logged {
    fn log(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }
}

impl Memory for Logged {
    type Frame = u64;
    fn clear(&mut self, _: Range) -> Vec<u64> {
        self.log("clear");
        vec![1]
    }
    fn write_protect(&mut self, _: Range) {
        self.log("protect");
    }
    fn unlink_tables(&mut self, _: Range) -> Vec<u64> {
        self.log("unlink");
        vec![2]
    }
    fn map(&mut self, _: u64, _: u64) {
        self.log("map");
    }
}

/// What stands for devices.
struct Devices(Log);

impl Notifier for Devices {
    fn kind(&self) -> NotifierKind {
        NotifierKind::SecondaryTlb
    }
    fn invalidate_range(&self, _: Range) {
        self.0.lock().unwrap().push("devices");
    }
    fn release(&self) {
        self.0.lock().unwrap().push("blocked");
    }
}

fn range() -> Range {
    Range::new(0x1000, 0x3000).unwrap()
}

#[test]
fn devices_forget_before_a_frame_is_free() {
    let (log, srcu) = (Log::default(), Arc::new(Srcu::new()));
    let process = Process::new(&srcu, Logged(log.clone()));
    let devices = Arc::new(Devices(log.clone()));
    process
        .notifiers
        .register(&process.memory, devices)
        .unwrap();
    let free = |_| log.lock().unwrap().push("free");
    let took = || core::mem::take(&mut *log.lock().unwrap());
    process.unmap(range(), free);
    assert_eq!(took(), ["clear", "devices", "free"]);
    process.protect(range());
    assert_eq!(took(), ["protect", "devices"]);
    process.replace(range(), 7, free);
    assert_eq!(took(), ["clear", "devices", "map", "free"]);
    process.free_tables(range(), free);
    assert_eq!(took(), ["unlink", "devices", "free"]);
    let child = process.fork(&srcu, range(), |memory| Logged(memory.0.clone()));
    assert_eq!(took(), ["protect", "devices"]);
    child.unmap(range(), free);
    assert_eq!(
        took(),
        ["clear", "free"],
        "no device has the child's memory"
    );
    free_kernel_table(range(), [&process.notifiers].into_iter(), || free(0));
    assert_eq!(took(), ["devices", "free"]);
    process.exit(range(), free);
    assert_eq!(took(), ["blocked", "clear", "free"]);
}

struct Quiet;

impl FailureHandler for Quiet {
    fn invalidation_failed(&self, failure: Failure) {
        panic!("{failure:?}");
    }
}

const ID: u32 = 0x108;
const DEVICE: DeviceId = DeviceId(ID);
const ADDRESS: u64 = 0x4000_0000;

/// A process's page table of four levels, one page of which is there once somebody asked for it.
struct Table {
    ram: Arc<Ram>,
    root: u64,
}

impl Table {
    fn new(machine: &Machine) -> Self {
        let root = machine.memory.take(4096, 4096).unwrap();
        Self {
            ram: machine.memory.clone(),
            root,
        }
    }

    /// Present, writable, user, accessed, dirty (Intel SDM volume 3, section 4.5).
    fn link(&self, table: u64, index: u64) -> u64 {
        let below = self.ram.take(4096, 4096).unwrap();
        self.ram.cpu_store(table + 8 * index, below | 0x67);
        below
    }
}

impl Memory for Table {
    type Frame = u64;
    fn clear(&mut self, _: Range) -> Vec<u64> {
        self.ram.cpu_store(self.root, 0);
        Vec::new()
    }
    fn write_protect(&mut self, _: Range) {}
    fn unlink_tables(&mut self, _: Range) -> Vec<u64> {
        Vec::new()
    }
    fn map(&mut self, address: u64, _: u64) {
        assert_eq!(address, ADDRESS);
        let third = self.link(self.root, 0);
        let second = self.link(third, ADDRESS >> 30);
        let first = self.link(second, 0);
        self.link(first, 0);
    }
}

/// A device finds no page, asks, is answered by a thread, and goes on; then the process ends.
#[test]
fn a_device_works_in_a_process_of_the_guide() {
    let ram = Ram::new(0x8000_0000, 16 << 20, Coherency::Coherent);
    let machine = Machine::new(ram, Policy::FREE, 5);
    let hardware: Arc<dyn Hardware> = vtd::Vtd::new(&machine, vtd::Configuration::default());
    machine.add_iommu(hardware.clone());
    let config = Configuration {
        device_tlb: true,
        page_requests: true,
        ..Configuration::new(ID)
    };
    let device = Device::new(&machine, &hardware, &Arc::new(History::default()), config);
    let parts = ModelPlatform::parts(&machine, &hardware, &Arc::new(Recorder::default()));
    let iommu = platform::probe(Kind::Vtd, parts).unwrap();
    let config = DeviceConfig {
        pasid_bits: 8,
        device_tlb: true,
        page_faults: PageFaults::PageRequests {
            response_pasid: true,
        },
    };
    iommu.enable_device(DEVICE, config).unwrap();
    let page_requests = PageRequests::new(iommu.clone());
    page_requests.add_device(DEVICE, DeviceShare(8)).unwrap();
    let events = Events::new(page_requests.clone());

    let memory = Table::new(&machine);
    let table = PageTable {
        root: PhysicalAddress(memory.root),
        format: Format::X86_64 { levels: 4 },
        written_back: true,
    };
    let sva = Sva::new(Pasid::new(255).unwrap(), Arc::new(Quiet));
    let process = Arc::new(Process::new(&Arc::new(Srcu::new()), memory));
    let shared = process.share(&sva, table).unwrap();
    let pager = Pager {
        process: Arc::downgrade(&process),
        fault_in: |process: &Process<Table>, page: Page| {
            process.memory.0.lock().map(page.address, 0);
            page.permissions.write
        },
    };
    let queue = Arc::new(GroupQueue::new(8, || ()));
    shared
        .bind_with_page_requests(&page_requests, DEVICE, Requests::Tagged, queue.clone())
        .unwrap();

    let pasid = Some(shared.pasid().get());
    let job = device.start(Transfer::write(pasid, ADDRESS, vec![7; 8]));
    for _ in 0..10_000 {
        if job.ended().is_some() {
            break;
        }
        machine.step();
        events.wake();
        events.work(&mut |fault| panic!("{fault}")).unwrap();
        resolve_queued(&queue, &pager).unwrap();
    }
    assert!(job.ended().is_some_and(|ended| ended.is_done()));

    process.exit(range(), |_: u64| ());
    let late = device.run(Transfer::write(pasid, ADDRESS, vec![7; 8]));
    assert!(!matches!(late, Ended::Done(_)), "its memory is gone");
    Process::<Table>::unbind(&shared, &iommu, DEVICE).unwrap();
    drop(shared);
    drop(process);
    page_requests.remove_device(DEVICE);
    iommu.disable_device(DEVICE).unwrap();
}

#[test]
fn the_platform_keeps_its_promises() {
    let block = Heap.allocate(4096, 64).unwrap();
    assert!(block.physical.0.is_multiple_of(4096));
    // SAFETY: the block is memory, aligned, and nobody else's.
    let registers = unsafe { Registers::new(block.pointer) };
    assert_eq!(registers.read64(8), 0);
    registers.write64(8, 0x1_0000_0002);
    assert_eq!((registers.read32(8), registers.read32(12)), (2, 1));
    registers.write32(12, 3);
    assert_eq!(registers.read64(8), 0x3_0000_0002);
    assert_eq!(platform::Counter.now(), 0);
    // SAFETY: the block is this instance's, and nobody uses it any more.
    unsafe { Heap.free(block) };
}

/// Every mark that the guide includes is there, and every mark is included.
#[test]
fn the_guide_shows_this_code() {
    let guide = include_str!("../../src/embedding.md");
    let sources = [
        ("platform", include_str!("../src/platform.rs")),
        ("process", include_str!("../src/process.rs")),
        ("page_faults", include_str!("../src/page_faults.rs")),
        ("device", include_str!("../src/device.rs")),
    ];
    let mut shown = 0;
    for (file, source) in sources {
        let marks = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix("// ANCHOR: "));
        for mark in marks {
            let include = format!("{{{{#include ../embedding/src/{file}.rs:{mark}}}}}");
            assert!(guide.contains(&include), "{include}");
            assert!(source.contains(&format!("// ANCHOR_END: {mark}")), "{mark}");
            shown += 1;
        }
    }
    assert_eq!(guide.matches("{{#include").count(), shown);
}
