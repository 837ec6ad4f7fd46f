//! Page requests and events that no device of QEMU's sends, put into the queues from outside: QEMU lets
//! anybody write VT-d's page-request tail and SMMUv3's event tail. The drivers must read them, and
//! QEMU must take VT-d's answer.

#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

use iommu_core::fault::{Access, Reason};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::page_request::{PageResponse, Response, Taken};
use iommu_core::testing::Recorder;
use shootdown_qemu_host::{Architecture, Machine, Options, Parts, Platform, Program};
use std::sync::Arc;

const DEVICE: u64 = 0x18;

fn start(options: &Options) -> Arc<Machine> {
    let program = Program::find().unwrap_or_else(|error| panic!("{error}"));
    Machine::start(&program, options).unwrap_or_else(|error| panic!("{error}"))
}

fn parts(machine: &Arc<Machine>, base: u64) -> Parts<Arc<Recorder>> {
    Platform::parts(machine, base, Arc::default())
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn vtd_page_requests_are_read_and_qemu_takes_the_answers() {
    const BASE: u64 = 0xfed9_0000;
    let mut options = Options::new(Architecture::X86_64, "q35").device(
        "intel-iommu,scalable-mode=on,fsts=on,device-iotlb=on,pasid-bits=20,svm=on,intremap=on",
    );
    options.trace = vec!["vtd_inv_desc".to_owned()];
    let machine = start(&options);
    let unit = iommu_vtd::Unit::probe(parts(&machine, BASE)).expect("probed");
    let device = DeviceId(DEVICE as u32);
    let config = DeviceConfig {
        pasid_bits: 8,
        device_tlb: true,
        page_faults: PageFaults::PageRequests {
            response_pasid: true,
        },
    };
    unit.enable_device(device, config).expect("enabled");

    // PQA has the queue's address; PQT is the offset of the next slot.
    let queue = machine.read64(BASE + 0xd0).expect("read") & !0xfff;
    let (pasid, groups) = (5, [7, 8, 300]);
    for (slot, group) in (0..).zip(groups) {
        let at = queue + 32 * slot;
        // Type 1, PASID present, requester, PASID (VT-d 7.4.1.1).
        let first = 0x1 | 1 << 8 | DEVICE << 16 | pasid << 32;
        // Address, group, last, write, read.
        machine.ram().store(at, first);
        let address = 0x7f00_0000_0000 + slot * 4096;
        machine.ram().store(at + 8, address | group << 3 | 0x7);
        machine.write64(BASE + 0xc8, 32 * (slot + 1)).expect("sent");
    }
    machine.synchronize().expect("done");
    let mut requests = Vec::new();
    let left = unit.take_page_requests(10, &mut |taken| match taken {
        Taken::Request(request) => requests.push(request),
        other => panic!("{other:?}"),
    });
    assert_eq!((requests.len(), left), (3, 0));
    for (slot, (request, group)) in requests.iter().zip(groups).enumerate() {
        assert_eq!(request.device, device);
        assert_eq!(Some(request.pasid), Pasid::new(5));
        assert_eq!(request.address, 0x7f00_0000_0000 + slot as u64 * 4096);
        assert_eq!(u64::from(request.group), group);
        assert!(request.last);
    }
    assert_eq!(machine.read64(BASE + 0xc0).ok(), Some(96), "PQH");

    machine.take_trace().expect("read");
    let responses: Vec<PageResponse> = requests
        .iter()
        .map(|request| PageResponse {
            device,
            pasid: Some(request.pasid),
            group: request.group,
            origin: request.origin,
            response: Response::Success,
        })
        .collect();
    unit.respond(&responses).expect("posted");
    let lines = machine.take_trace().expect("read");
    let answers = lines
        .iter()
        .filter(|line| line.contains("page group response"));
    assert_eq!(answers.count(), 3, "{lines:?}");
    // FSTS.IQE: QEMU would refuse a response that it cannot read.
    assert_eq!(
        machine.read32(BASE + 0x34).map(|it| it & 1 << 4).ok(),
        Some(0)
    );
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn smmuv3_events_are_read_whoever_wrote_them() {
    const BASE: u64 = 0x0c00_0000;
    let machine = start(
        &Options::new(Architecture::Aarch64, "virt,gic-version=3")
            .device("arm-smmuv3,primary-bus=pcie.0"),
    );
    let unit = iommu_smmuv3::Unit::probe(parts(&machine, BASE)).expect("probed");
    // SMMU_EVENTQ_BASE: address in bits 51:5, size in bits 4:0 (IHI 0070, 6.3.27).
    let base = machine.read64(BASE + 0xa0).expect("read");
    let (queue, log2) = (base & 0xf_ffff_ffff_ffe0, base & 0x1f);
    let slots = 1 << log2;
    // More than one turn of the queue, so that the wrap bit changes.
    for round in 0..slots * 2 + 3 {
        let at = queue + 32 * (round % slots);
        let address = 0x10_0000_0000 + round * 4096;
        // F_TRANSLATION and its stream; RnW; the address (IHI 0070, 7.3.13).
        machine.ram().store(at, 0x10 | DEVICE << 32);
        machine.ram().store(at + 8, 1 << 35);
        machine.ram().store(at + 16, address);
        machine.ram().store(at + 24, 0);
        let tail = (round + 1) % (2 * slots);
        machine.write32(BASE + 0x100a8, tail as u32).expect("sent");
        machine.synchronize().expect("done");
        let mut faults = Vec::new();
        unit.take_faults(&mut |fault| faults.push(fault));
        let [fault] = faults.as_slice() else {
            panic!("{faults:?} for one event, round {round}");
        };
        assert_eq!(fault.device, DeviceId(DEVICE as u32));
        assert_eq!(fault.address, Some(address));
        assert_eq!(fault.access, Access::Read);
        assert!(matches!(
            fault.reason,
            Reason::NotPresent | Reason::PageFault
        ));
    }
}
