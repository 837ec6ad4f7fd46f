//! A device works while the kernel changes what it may reach.

use crate::scene::{
    ADDRESS, DEVICE, PLAIN, Scene, Table, WITH_DEVICE_TLB, WRITABLE, device_tlb, invalidate, iotlb,
    page, pasid, schedules,
};
use alloc::sync::Arc;
use iommu_core::Range;
use iommu_core::error::QueueError;
use iommu_core::ids::Pasid;
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::operation::{Invalidation, Levels};
use iommu_core::page_request::{PageRequest, PageResponse, Response, Taken};
use iommu_core::platform::WalkerCoherency;
use iommu_model::device::{Answers, Ended, Transfer};
use iommu_model::riscv::{Configuration, RiscvIommu};
use iommu_model::{Access, Coherency, Hardware, Policy, Refusal, Request};
use iommu_riscv::Config;
use std::sync::Mutex;

const POISON: u64 = 0x5a5a_5a5a_5a5a_5a5a;
/// V, R, W, U, G, A, D.
const GLOBAL: u64 = 0xf7;

/// The frame behind a page is taken away again and again, and must not change once it is.
#[test]
fn a_frame_that_was_taken_away_is_left_alone() {
    for config in [PLAIN, WITH_DEVICE_TLB] {
        schedules(|policy, seed| {
            let scene = Scene::new(policy, seed, Configuration::default());
            let unit = scene.driver();
            let memory = &scene.machine.memory;
            let device = scene.device(Answers::Promptly);
            device.enable_device_tlb(config.device_tlb);
            let table = Table::new(memory, 3);
            let tag = unit.allocate_tag().unwrap();
            unit.enable_device(DEVICE, config).unwrap();
            unit.attach(DEVICE, pasid(3), tag, &table.neutral())
                .unwrap();
            let targets = [iotlb(tag), device_tlb(pasid(3))];
            let targets = if config.device_tlb {
                &targets[..]
            } else {
                &targets[..1]
            };

            let mut frame = memory.take(4096, 4096).unwrap();
            table.map(ADDRESS, frame, WRITABLE);
            for _ in 0..8 {
                for _ in 0..6 {
                    device.start(Transfer::write(Some(3), ADDRESS, vec![1; 4096]));
                }
                for _ in 0..seed % 9 {
                    scene.machine.step();
                }
                let next = memory.take(4096, 4096).unwrap();
                table.map(ADDRESS, next, WRITABLE);
                invalidate(&unit, targets, page(ADDRESS), Levels::LeafOnly).unwrap();
                memory.give_back(frame, POISON);
                scene.machine.settle();
                let words = (frame..frame + 4096).step_by(8);
                for at in words {
                    assert_eq!(memory.load(at), Ok(POISON), "seed {seed}");
                }
                frame = next;
            }
            scene.assert_specified();
        });
    }
}

#[test]
fn a_detached_device_reaches_nothing_through_its_tlb() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let device = scene.device(Answers::Promptly);
        let table = Table::new(&scene.machine.memory, 3);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, WITH_DEVICE_TLB).unwrap();
        table.map(ADDRESS, 0x8100_0000, WRITABLE);
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        let write = || device.run(Transfer::write(Some(3), ADDRESS, vec![1; 8]));
        assert_eq!(write(), Ended::Done(Vec::new()));
        unit.detach(DEVICE, pasid(3)).unwrap();
        assert_eq!(device.held(), 0);
        assert_eq!(write(), Ended::Refused(Refusal::NotPresent));
        scene.assert_specified();
    });
}

/// With PSCV, `IOTINVAL.VMA` leaves global mappings.
#[test]
fn a_page_of_the_kernels_half_goes_though_it_is_global() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let table = Table::new(&scene.machine.memory, 3);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, PLAIN).unwrap();
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        let address = 0xffff_ffd2_3456_7000;
        table.map(address, 0x8100_0000, GLOBAL);
        let ask = || scene.ask(Some(3), address, Access::Write);
        assert_eq!(ask(), Ok(0x8100_0000));
        table.unmap(address);
        invalidate(&unit, &[iotlb(tag)], page(address), Levels::LeafOnly).unwrap();
        assert_eq!(ask(), Err(Refusal::NotPresent));
        scene.assert_specified();
    });
}

/// Firmware has used the IOMMU: what its caches hold is nobody's any more.
#[test]
fn what_was_cached_before_the_driver_came_is_not_used() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let memory = &scene.machine.memory;
        let table = Table::new(memory, 3);
        table.map(ADDRESS, 0x8100_0000, GLOBAL);
        let directories = [0; 3].map(|_| memory.take(4096, 4096).unwrap());
        use_directly(
            &scene.model,
            &directories,
            |at, value| table.store(at, value),
            table.neutral().root.0,
        );
        scene.machine.settle();
        let old = scene.ask(None, ADDRESS, Access::Read);
        assert_eq!(old, Ok(0x8100_0000));
        for page in directories {
            memory.give_back(page, POISON);
        }

        let unit = scene.driver();
        let empty = Table::new(memory, 3);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, PLAIN).unwrap();
        unit.attach(DEVICE, Pasid::UNTAGGED, tag, &empty.neutral())
            .unwrap();
        let now = scene.ask(None, ADDRESS, Access::Read);
        assert_eq!(now, Err(Refusal::NotPresent));
        scene.assert_specified();
    });
}

/// A device directory of three levels, in which the device has an Sv39 table under PSCID 1.
fn use_directly(iommu: &RiscvIommu, directories: &[u64; 3], store: impl Fn(u64, u64), root: u64) {
    let id = u64::from(DEVICE.0);
    let [top, middle, leaf] = *directories;
    store(top + 8 * (id >> 15), middle >> 12 << 10 | 1);
    store(middle + 8 * (id >> 6 & 0x1ff), leaf >> 12 << 10 | 1);
    let context = leaf + 64 * (id & 0x3f);
    store(context, 1);
    store(context + 16, 1 << 12);
    store(context + 24, 8 << 60 | root >> 12);
    iommu.write(16, 8, top >> 12 << 10 | 4);
}

#[test]
fn requests_with_supervisor_privilege_are_refused() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let table = Table::new(&scene.machine.memory, 3);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, PLAIN).unwrap();
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        // A page of the kernel.
        table.map(ADDRESS, 0x8100_0000, WRITABLE & !0x10);
        for privileged in [false, true] {
            let request = Request {
                device: DEVICE.0,
                pasid: Some(3),
                privileged,
                address: ADDRESS,
                access: Access::Read,
            };
            assert!(scene.iommu.translate(&request).is_err());
        }
        scene.assert_specified();
    });
}

#[test]
fn a_silent_device_is_cut_off_and_can_come_back() {
    schedules(|policy, seed| {
        let scene = Scene::new(policy, seed, Configuration::default());
        let unit = scene.driver();
        let device = scene.device(Answers::Promptly);
        let table = Table::new(&scene.machine.memory, 3);
        let tag = unit.allocate_tag().unwrap();
        unit.enable_device(DEVICE, WITH_DEVICE_TLB).unwrap();
        table.map(ADDRESS, 0x8100_0000, WRITABLE);
        unit.attach(DEVICE, pasid(3), tag, &table.neutral())
            .unwrap();
        let write = || device.run(Transfer::write(Some(3), ADDRESS, vec![1; 8]));
        assert_eq!(write(), Ended::Done(Vec::new()));

        device.set_answers(Answers::Never);
        let invalidation = Invalidation {
            targets: &[device_tlb(pasid(3))],
            range: page(ADDRESS),
            levels: Levels::LeafOnly,
        };
        let ticket = unit.submit(&invalidation).unwrap();
        scene.machine.settle();
        scene.iommu.time_out_devices();
        let error = unit.wait(ticket).unwrap_err();
        assert!(matches!(error, QueueError::DeviceTimeout { .. }), "{error}");
        unit.quarantine(DEVICE).unwrap();
        // Its TLB still has the translation, which does not count any more.
        let refused = Ended::Refused(Refusal::UnsupportedRequest);
        assert_eq!(write(), refused, "seed {seed}");
        let direct = scene.ask(Some(3), ADDRESS, Access::Write);
        assert_eq!(direct, Err(Refusal::UnsupportedRequest));
        // Nothing waits for it.
        table.unmap(ADDRESS);
        let targets = [iotlb(tag), device_tlb(pasid(3))];
        invalidate(&unit, &targets, page(ADDRESS), Levels::LeafOnly).unwrap();

        device.reset();
        device.set_answers(Answers::Promptly);
        unit.restore(DEVICE).unwrap();
        device.enable_device_tlb(true);
        assert_eq!(write(), Ended::Refused(Refusal::NotPresent));
        table.map(ADDRESS, 0x8100_1000, WRITABLE);
        assert_eq!(write(), Ended::Done(Vec::new()));
        table.unmap(ADDRESS);
        invalidate(&unit, &targets, page(ADDRESS), Levels::LeafOnly).unwrap();
        assert_eq!(write(), Ended::Refused(Refusal::NotPresent));
        scene.assert_specified();
    });
}

#[test]
fn a_page_that_was_asked_for_is_used() {
    for response_pasid in [true, false] {
        schedules(|policy, seed| {
            let scene = Scene::new(policy, seed, Configuration::default());
            let unit = scene.driver();
            let device = scene.device_with(|configuration| {
                configuration.page_requests = true;
                configuration.response_needs_pasid = response_pasid;
            });
            let table = Table::new(&scene.machine.memory, 3);
            let tag = unit.allocate_tag().unwrap();
            let config = DeviceConfig {
                page_faults: PageFaults::PageRequests { response_pasid },
                ..WITH_DEVICE_TLB
            };
            unit.enable_device(DEVICE, config).unwrap();
            unit.attach(DEVICE, pasid(3), tag, &table.neutral())
                .unwrap();

            let job = device.start(Transfer::write(Some(3), ADDRESS, vec![7; 2 * 4096]));
            for _ in 0..200 {
                scene.machine.settle();
                let requests = requests(&unit);
                if requests.is_empty() {
                    break;
                }
                for request in requests {
                    assert_eq!(request.pasid, pasid(3));
                    table.map(
                        request.address,
                        0x8100_0000 + (request.address & 0x1000),
                        WRITABLE,
                    );
                    if request.last {
                        answer(&unit, &request, response_pasid);
                    }
                }
            }
            assert_eq!(job.ended(), Some(Ended::Done(Vec::new())), "seed {seed}");
            unit.detach(DEVICE, pasid(3)).unwrap();
            scene.assert_specified();
        });
    }
}

fn requests(unit: &crate::scene::Driver) -> Vec<PageRequest> {
    let mut requests = Vec::new();
    unit.take_page_requests(64, &mut |taken| match taken {
        Taken::Request(request) => requests.push(request),
        other => panic!("{other:?}"),
    });
    requests
}

fn answer(unit: &crate::scene::Driver, request: &PageRequest, response_pasid: bool) {
    let response = PageResponse {
        device: request.device,
        pasid: response_pasid.then_some(request.pasid),
        group: request.group,
        origin: request.origin,
        response: Response::Success,
    };
    unit.respond(&[response]).unwrap();
}

/// A block of the size at which the driver goes over to the tag.
#[test]
fn large_ranges_go_entirely() {
    for order in [13, 21, 24, 30, 36, 38, 39] {
        schedules(|policy, seed| {
            let scene = Scene::new(policy, seed, Configuration::default());
            let unit = scene.driver();
            let table = Table::new(&scene.machine.memory, 4);
            let tag = unit.allocate_tag().unwrap();
            unit.enable_device(DEVICE, PLAIN).unwrap();
            unit.attach(DEVICE, pasid(3), tag, &table.neutral())
                .unwrap();
            let range = Range::with_length(1 << 40, 1 << order).unwrap();
            let ends = [1 << 40, (1 << 40) + (1 << order) - 4096];
            for address in ends {
                table.map(address, 0x8100_0000, WRITABLE);
                assert!(scene.ask(Some(3), address, Access::Read).is_ok());
                table.unmap(address);
            }
            invalidate(&unit, &[iotlb(tag)], range, Levels::LeafOnly).unwrap();
            for address in ends {
                assert!(scene.ask(Some(3), address, Access::Read).is_err());
            }
            scene.assert_specified();
        });
    }
}

/// A request comes after each store that the hardware sees.
#[test]
fn a_request_sees_a_whole_context_or_none() {
    for directory_levels in [[true, true, true], [false, false, true]] {
        let configuration = Configuration {
            directory_levels,
            ..Configuration::default()
        };
        let scene = Scene::with_memory(Policy::STRICT, 0, configuration, Coherency::NonCoherent);
        let config = Config {
            coherency: WalkerCoherency::NonCoherent,
            ..Config::default()
        };
        let unit = scene.try_driver(config).unwrap();
        let table = Table::new(&scene.machine.memory, 3);
        table.map(ADDRESS, 0x8100_0000, WRITABLE);
        let tag = unit.allocate_tag().unwrap();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let (iommu, told) = (Arc::downgrade(&scene.iommu), answers.clone());
        scene.machine.memory.watch(move || {
            let request = Request {
                device: DEVICE.0,
                pasid: Some(0x12345),
                privileged: false,
                address: ADDRESS,
                access: Access::Read,
            };
            if let Some(iommu) = iommu.upgrade() {
                let answer = iommu.translate(&request);
                let address = answer.map(|translation| translation.address);
                told.lock().unwrap().push(address);
            }
        });
        let wide = DeviceConfig {
            pasid_bits: 20,
            ..PLAIN
        };
        for _ in 0..2 {
            unit.enable_device(DEVICE, wide).unwrap();
            let process = pasid(0x12345);
            unit.attach(DEVICE, process, tag, &table.neutral()).unwrap();
            unit.detach(DEVICE, process).unwrap();
            unit.disable_device(DEVICE).unwrap();
        }
        // Reading the fault queue is a moment to look, too.
        let answers = core::mem::take(&mut *answers.lock().unwrap());
        // No device, no process, or the page; never a table that is not there, nor another address.
        let whole = [
            Err(Refusal::UnsupportedRequest),
            Err(Refusal::NotPresent),
            Ok(0x8100_0000),
        ];
        assert!(whole.iter().all(|answer| answers.contains(answer)));
        assert!(
            answers.iter().all(|answer| whole.contains(answer)),
            "{answers:x?}"
        );
        // What is refused is so for want of a valid entry.
        let mut codes = Vec::new();
        unit.take_faults(&mut |fault| codes.push(fault.code));
        assert!(
            codes.iter().all(|code| [258, 266].contains(code)),
            "{codes:?}"
        );
        scene.assert_specified();
    }
}
