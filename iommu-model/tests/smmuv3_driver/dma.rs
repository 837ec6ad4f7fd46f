//! A device works while the kernel changes what it may reach, asks for pages, and waits for them.

use crate::smmuv3_bench::{Bench, DEVICE, PAGE, Table};
use crate::{ADDRESS, everywhere, page, page_table, probe};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::page_request::{PageRequest, PageResponse, Response, Taken};
use iommu_model::device::{self, Device, Ended, History, Transfer};
use iommu_model::{Hardware, ModelPlatform, Refusal};
use iommu_smmuv3::Unit;
use std::sync::Arc;

const ID: DeviceId = DeviceId(DEVICE);
const POISON: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// What a scene has: a driver, and a device that is enabled with its configuration.
struct Scene<'a> {
    unit: Unit<ModelPlatform>,
    device: Arc<Device>,
    table: Table<'a>,
    pasid: Pasid,
}

impl<'a> Scene<'a> {
    fn new(bench: &'a Bench, config: DeviceConfig) -> Self {
        let smmu: Arc<dyn Hardware> = bench.smmu.clone();
        let configuration = device::Configuration {
            device_tlb: config.device_tlb,
            page_requests: matches!(config.page_faults, PageFaults::PageRequests { .. }),
            response_needs_pasid: config.page_faults
                == PageFaults::PageRequests {
                    response_pasid: true,
                },
            ..device::Configuration::new(DEVICE)
        };
        let history = Arc::new(History::default());
        let unit = probe(bench);
        unit.enable_device(ID, config).unwrap();
        Self {
            unit,
            device: Device::new(&bench.machine, &smmu, &history, configuration),
            table: Table::new(bench),
            pasid: Pasid::new(3).unwrap(),
        }
    }

    fn attach(&self) -> [Target; 2] {
        let tag = self.unit.allocate_tag().unwrap();
        let table = page_table(&self.table);
        self.unit.attach(ID, self.pasid, tag, &table).unwrap();
        let pasid = self.pasid;
        [
            Target::Iotlb {
                tag,
                pasid: Pasid::UNTAGGED,
            },
            Target::DeviceTlb { device: ID, pasid },
        ]
    }

    /// Takes every request that is there, maps what it asks for, and answers groups that are whole.
    /// Whether there was one.
    fn serve(&self, frame: u64, response_pasid: bool) -> bool {
        let mut requests: Vec<PageRequest> = Vec::new();
        self.unit.take_page_requests(64, &mut |taken| match taken {
            Taken::Request(request) => requests.push(request),
            other => panic!("{other:?}"),
        });
        for request in &requests {
            assert_eq!(request.pasid, self.pasid);
            let address = request.address & !0xfff;
            self.table.map(address, frame + (address & 0x1000));
            if request.last {
                let response = PageResponse {
                    device: request.device,
                    pasid: response_pasid.then_some(request.pasid),
                    group: request.group,
                    origin: request.origin,
                    response: Response::Success,
                };
                self.unit.respond(&[response]).unwrap();
            }
        }
        !requests.is_empty()
    }
}

const PLAIN: DeviceConfig = DeviceConfig {
    pasid_bits: 8,
    device_tlb: false,
    page_faults: PageFaults::Fatal,
};
const WITH_DEVICE_TLB: DeviceConfig = DeviceConfig {
    device_tlb: true,
    ..PLAIN
};

/// The frame behind a page is taken away again and again, and must not change once it is.
#[test]
fn a_frame_that_was_taken_away_is_left_alone() {
    for config in [PLAIN, WITH_DEVICE_TLB] {
        everywhere(|bench| {
            let scene = Scene::new(bench, config);
            let targets = scene.attach();
            let targets = &targets[..if config.device_tlb { 2 } else { 1 }];
            let memory = bench.memory();
            let mut frame = bench.page();
            scene.table.map(ADDRESS, frame);
            for round in 0..6 {
                for _ in 0..4 {
                    let write = Transfer::write(Some(3), ADDRESS, vec![1; 4096]);
                    scene.device.start(write);
                }
                for _ in 0..2 * round {
                    bench.machine.step();
                }
                let next = bench.page();
                scene.table.map(ADDRESS, next);
                let invalidation = Invalidation {
                    targets,
                    range: page(ADDRESS),
                    levels: Levels::LeafOnly,
                };
                let ticket = scene.unit.submit(&invalidation).unwrap();
                scene.unit.wait(ticket).unwrap();
                memory.give_back(frame, POISON);
                bench.machine.settle();
                for at in (frame..frame + 4096).step_by(8) {
                    assert_eq!(memory.load(at), Ok(POISON));
                }
                frame = next;
            }
        });
    }
}

#[test]
fn a_detached_device_reaches_nothing_through_its_tlb() {
    everywhere(|bench| {
        let scene = Scene::new(bench, WITH_DEVICE_TLB);
        scene.attach();
        scene.table.map(ADDRESS, bench.page());
        let write = || {
            scene
                .device
                .run(Transfer::write(Some(3), ADDRESS, vec![1; 8]))
        };
        assert_eq!(write(), Ended::Done(Vec::new()));
        assert_ne!(scene.device.held(), 0);
        scene.unit.detach(ID, scene.pasid).unwrap();
        assert_eq!(scene.device.held(), 0);
        assert!(matches!(write(), Ended::Refused(_)));
        scene.unit.disable_device(ID).unwrap();
        assert!(matches!(write(), Ended::Refused(_)));
    });
}

#[test]
fn a_page_that_was_asked_for_is_used() {
    for response_pasid in [true, false] {
        everywhere(|bench| {
            let page_faults = PageFaults::PageRequests { response_pasid };
            let config = DeviceConfig {
                page_faults,
                ..WITH_DEVICE_TLB
            };
            let scene = Scene::new(bench, config);
            scene.attach();
            let frames = bench.memory().take(8192, 8192).unwrap();
            let job =
                scene
                    .device
                    .start(Transfer::write(Some(3), ADDRESS & !0x1fff, vec![7; 8192]));
            for _ in 0..100 {
                bench.machine.settle();
                if !scene.serve(frames, response_pasid) {
                    break;
                }
            }
            assert_eq!(job.ended(), Some(Ended::Done(Vec::new())));
            assert_eq!(bench.memory().load(frames), Ok(0x0707_0707_0707_0707));
            scene.unit.detach(ID, scene.pasid).unwrap();
        });
    }
}

#[test]
fn a_stalled_transaction_goes_on_when_its_page_is_there() {
    everywhere(|bench| {
        let config = DeviceConfig {
            page_faults: PageFaults::Stall,
            ..PLAIN
        };
        let scene = Scene::new(bench, config);
        scene.attach();
        let frames = bench.memory().take(8192, 8192).unwrap();
        let job = scene
            .device
            .start(Transfer::write(Some(3), ADDRESS & !0x1fff, vec![7; 8192]));
        for _ in 0..100 {
            bench.machine.settle();
            if !scene.serve(frames, true) {
                break;
            }
        }
        assert_eq!(job.ended(), Some(Ended::Done(Vec::new())));
        // One that nobody answers ends when the device is disabled.
        let lost = Transfer::write(Some(3), ADDRESS + 0x10_0000, vec![1; 8]);
        let lost = scene.device.start(lost);
        bench.machine.settle();
        assert_eq!(lost.ended(), None);
        scene.unit.detach(ID, scene.pasid).unwrap();
        scene.unit.disable_device(ID).unwrap();
        bench.machine.settle();
        assert_eq!(lost.ended(), Some(Ended::Refused(Refusal::NotPresent)));
    });
}

/// A clean, readable page becomes writable: the stale entry may fault until it is invalidated.
#[test]
fn more_permission_counts_after_an_invalidation() {
    everywhere(|bench| {
        let scene = Scene::new(bench, PLAIN);
        let targets = scene.attach();
        let frame = bench.page();
        scene
            .table
            .set(ADDRESS, 3, frame | PAGE | crate::smmuv3_bench::READ_ONLY);
        let write = || {
            scene
                .device
                .run(Transfer::write(Some(3), ADDRESS, vec![1; 8]))
        };
        assert_eq!(write(), Ended::Refused(Refusal::NotPresent));
        scene.table.map(ADDRESS, frame);
        let invalidation = Invalidation {
            targets: &targets[..1],
            range: page(ADDRESS),
            levels: Levels::LeafOnly,
        };
        let ticket = scene.unit.submit(&invalidation).unwrap();
        scene.unit.wait(ticket).unwrap();
        assert_eq!(write(), Ended::Done(Vec::new()));
    });
}
