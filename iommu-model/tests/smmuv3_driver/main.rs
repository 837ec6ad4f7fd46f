//! The driver of SMMUv3 on the model: brought up, attached, invalidated, faulted, in every order
//! that the hardware is free to choose.

#![allow(clippy::std_instead_of_alloc)]

mod dma;
#[path = "../smmuv3_bench/mod.rs"]
mod smmuv3_bench;

use iommu_core::Range;
use iommu_core::error::QueueError;
use iommu_core::fault::Reason;
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::iommu::{DeviceConfig, Iommu};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::testing::Recorder;
use iommu_model::smmuv3::{Configuration, StallModel};
use iommu_model::{Access, Coherency, Hardware, ModelPlatform, Policy, Refusal, Request};
use iommu_smmuv3::Unit;
use smmuv3_bench::{Bench, DEVICE, Endpoint, PAGE, READ_ONLY, Table};
use std::sync::Arc;

const SEEDS: u64 = 8;
const ADDRESS: u64 = 0x7f12_3456_7000;

/// The driver of the bench's SMMU.
fn probe(bench: &Bench) -> Unit<ModelPlatform> {
    let smmu: Arc<dyn Hardware> = bench.smmu.clone();
    let recorder = Arc::new(Recorder::default());
    let parts = ModelPlatform::parts(&bench.machine, &smmu, &recorder);
    Unit::probe(parts).expect("the SMMU comes up")
}

/// A driver on the bench, with one device enabled.
struct Driven {
    unit: Unit<ModelPlatform>,
    device: DeviceId,
    endpoint: Arc<Endpoint>,
}

impl Driven {
    fn new(bench: &Bench, pasid_bits: u8, device_tlb: bool) -> Self {
        let unit = probe(bench);
        let endpoint = bench.connect(DEVICE);
        endpoint.answer_always();
        let device = DeviceId(DEVICE);
        let config = DeviceConfig {
            pasid_bits,
            device_tlb,
            ..DeviceConfig::default()
        };
        unit.enable_device(device, config)
            .expect("the device is enabled");
        Self {
            unit,
            device,
            endpoint,
        }
    }

    fn attach(&self, table: &Table<'_>, pasid: Pasid) -> Tag {
        let tag = self.unit.allocate_tag().unwrap();
        self.unit
            .attach(self.device, pasid, tag, &page_table(table))
            .unwrap();
        tag
    }

    fn invalidate(
        &self,
        tag: Tag,
        pasid: Pasid,
        range: Range,
        levels: Levels,
    ) -> Result<(), QueueError> {
        let targets = [
            Target::Iotlb {
                tag,
                pasid: Pasid::UNTAGGED,
            },
            Target::DeviceTlb {
                device: self.device,
                pasid,
            },
        ];
        let device_tlb = self.unit.device_config(self.device).unwrap().device_tlb;
        let targets = if device_tlb {
            &targets[..]
        } else {
            &targets[..1]
        };
        let invalidation = Invalidation {
            targets,
            range,
            levels,
        };
        let ticket = self.unit.submit(&invalidation)?;
        self.unit.wait(ticket).map(drop)
    }
}

fn page_table(table: &Table<'_>) -> PageTable {
    PageTable {
        root: PhysicalAddress(table.root),
        format: Format::Aarch64 {
            virtual_bits: 48,
            physical_bits: 48,
            memory_attributes: 0xff,
        },
        written_back: true,
    }
}

fn page(address: u64) -> Range {
    Range::new(address, address + 0x1000).unwrap()
}

/// Lets a scene play on every kind of bench. Whatever it does, the driver must stay within what the
/// specification gives a meaning to.
fn everywhere(scene: impl Fn(&Bench)) {
    let play = |policy, seed, coherency| {
        // Shown if the scene fails.
        println!("{policy:?}, seed {seed}, {coherency:?}");
        let bench = Bench::with_memory(Configuration::default(), policy, seed, coherency);
        scene(&bench);
        assert_eq!(
            bench.smmu.take_complaints(),
            [""; 0],
            "{policy:?}, seed {seed}"
        );
    };
    play(Policy::STRICT, 0, Coherency::Coherent);
    for seed in 0..SEEDS {
        play(Policy::FREE, seed, Coherency::Coherent);
        play(Policy::FREE, seed, Coherency::NonCoherent);
    }
}

#[test]
fn a_mapping_is_used_until_it_is_invalidated_and_not_after() {
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, false);
        let table = Table::new(bench);
        let (old, new) = (bench.page(), bench.page());
        table.map(ADDRESS, old);
        let pasid = Pasid::new(5).unwrap();
        let tag = driven.attach(&table, pasid);
        let read = || bench.translate(Some(5), ADDRESS + 0x123, Access::Read);
        assert_eq!(read().unwrap().address, old + 0x123);
        table.map(ADDRESS, new);
        assert_eq!(read().unwrap().address, old + 0x123, "the TLB keeps it");
        driven
            .invalidate(tag, pasid, page(ADDRESS), Levels::LeafOnly)
            .unwrap();
        assert_eq!(read().unwrap().address, new + 0x123);
    });
}

#[test]
fn a_freed_table_page_is_not_walked_after_an_invalidation_of_all_levels() {
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, false);
        let table = Table::new(bench);
        let (old, new) = (bench.page(), bench.page());
        table.map(ADDRESS, old);
        let pasid = Pasid::new(9).unwrap();
        let tag = driven.attach(&table, pasid);
        let read = || bench.translate(Some(9), ADDRESS, Access::Read);
        assert_eq!(read().unwrap().address, old);
        // Another table of pages takes the place of the first.
        let tables = bench.page();
        bench.store(tables + 8 * (ADDRESS >> 12 & 0x1ff), new | PAGE);
        table.set(ADDRESS, 2, tables | 0b11);
        driven
            .invalidate(tag, pasid, page(ADDRESS), Levels::LeafOnly)
            .unwrap();
        assert_eq!(read().unwrap().address, old, "by the old table");
        driven
            .invalidate(tag, pasid, page(ADDRESS), Levels::All)
            .unwrap();
        assert_eq!(read().unwrap().address, new);
    });
}

#[test]
fn ranges_of_every_size_are_invalidated_whole() {
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, false);
        let table = Table::new(bench);
        let pasid = Pasid::new(3).unwrap();
        let (old, new) = (bench.page(), bench.page());
        let tag = driven.attach(&table, pasid);
        for pages in [1, 2, 31, 33, 65, 130] {
            let all = || (0..pages).map(|number| ADDRESS + 0x1000 * number);
            all().for_each(|address| table.map(address, old));
            let range = Range::new(ADDRESS, ADDRESS + 0x1000 * pages).unwrap();
            driven
                .invalidate(tag, pasid, range, Levels::LeafOnly)
                .unwrap();
            for address in all() {
                let now = bench.translate(Some(3), address, Access::Write);
                assert_eq!(now.unwrap().address, old);
            }
            all().for_each(|address| table.map(address, new));
            driven
                .invalidate(tag, pasid, range, Levels::LeafOnly)
                .unwrap();
            for address in all() {
                let now = bench.translate(Some(3), address, Access::Write);
                assert_eq!(now.unwrap().address, new, "{pages} pages");
            }
        }
    });
}

#[test]
fn untagged_requests_use_their_own_table() {
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, false);
        let (one, other) = (Table::new(bench), Table::new(bench));
        let (first, second) = (bench.page(), bench.page());
        one.map(ADDRESS, first);
        other.map(ADDRESS, second);
        driven.attach(&one, Pasid::UNTAGGED);
        driven.attach(&other, Pasid::new(1).unwrap());
        let read = |pasid| bench.translate(pasid, ADDRESS, Access::Read);
        assert_eq!(read(None).unwrap().address, first);
        assert_eq!(read(Some(1)).unwrap().address, second);
        assert_eq!(read(Some(0)), Err(Refusal::CompleterAbort));
        assert_eq!(read(Some(2)), Err(Refusal::CompleterAbort));
    });
}

#[test]
fn a_blocked_or_detached_pasid_reaches_nothing() {
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, true);
        let table = Table::new(bench);
        table.map(ADDRESS, bench.page());
        let pasid = Pasid::new(4).unwrap();
        driven.attach(&table, pasid);
        let read = || bench.translate(Some(4), ADDRESS, Access::Read);
        assert!(read().is_ok());
        driven.unit.block(driven.device, pasid).unwrap();
        assert_eq!(read(), Err(Refusal::NotPresent));
        bench.machine.settle();
        let mut faults = 0;
        driven.unit.take_faults(&mut |_| faults += 1);
        assert_eq!(faults, 0, "a dying process makes no noise");
        driven.unit.detach(driven.device, pasid).unwrap();
        assert_eq!(read(), Err(Refusal::CompleterAbort));
        driven.unit.disable_device(driven.device).unwrap();
        assert_eq!(read(), Err(Refusal::CompleterAbort));
    });
}

/// The other device goes on filling the TLB under the same ASID, and a TLB hit needs no walk: what
/// EPD0 disables is only the walk (5.4.1.1).
#[test]
fn a_blocked_device_does_not_live_on_the_translations_of_another() {
    const OTHER: u32 = 0x0210;
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, true);
        let other = DeviceId(OTHER);
        bench.connect(OTHER).answer_always();
        let config = driven.unit.device_config(driven.device).unwrap();
        driven.unit.enable_device(other, config).unwrap();
        let table = Table::new(bench);
        table.map(ADDRESS, bench.page());
        let pasid = Pasid::new(4).unwrap();
        let tag = driven.attach(&table, pasid);
        let shared = page_table(&table);
        driven.unit.attach(other, pasid, tag, &shared).unwrap();
        driven.unit.block(driven.device, pasid).unwrap();
        let request = Bench::request(Some(4), ADDRESS, Access::Read);
        let of_other = Request {
            device: OTHER,
            ..request
        };
        assert!(bench.smmu.translate(&of_other).is_ok());
        assert_eq!(bench.smmu.translate(&request), Err(Refusal::NotPresent));
        let granted = bench.smmu.translate_for_device(&request);
        assert_eq!(granted, Err(Refusal::NotPresent), "to the device's own TLB");
    });
}

#[test]
fn faults_are_reported_with_their_reasons() {
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, false);
        let table = Table::new(bench);
        table.set(ADDRESS, 3, bench.page() | PAGE | READ_ONLY);
        driven.attach(&table, Pasid::new(6).unwrap());
        let refused = |pasid, address, access| {
            bench.translate(Some(pasid), address, access).unwrap_err();
        };
        refused(6, ADDRESS, Access::Write);
        refused(6, ADDRESS + 0x1000, Access::Read);
        refused(7, ADDRESS, Access::Read);
        bench.machine.settle();
        let mut faults = Vec::new();
        let summary = driven.unit.take_faults(&mut |fault| faults.push(fault));
        assert!(!summary.lost);
        let told: Vec<_> = faults
            .iter()
            .map(|fault| (fault.pasid.get(), fault.address, fault.reason))
            .collect();
        assert_eq!(
            told,
            [
                (6, Some(ADDRESS), Reason::Permission),
                (6, Some(ADDRESS + 0x1000), Reason::NotPresent),
                (7, None, Reason::PasidNotConfigured),
            ]
        );
    });
}

#[test]
fn the_device_tlb_is_invalidated_after_the_tlb() {
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, true);
        let table = Table::new(bench);
        let (old, new) = (bench.page(), bench.page());
        table.map(ADDRESS, old);
        let pasid = Pasid::new(5).unwrap();
        let tag = driven.attach(&table, pasid);
        let request = Bench::request(Some(5), ADDRESS, Access::Write);
        let granted = bench.smmu.translate_for_device(&request).unwrap();
        assert_eq!(granted.address, old);
        assert!(bench.smmu.admits_translated(DEVICE));
        driven.endpoint.received.lock().unwrap().history.clear();
        table.map(ADDRESS, new);
        driven
            .invalidate(tag, pasid, page(ADDRESS), Levels::LeafOnly)
            .unwrap();
        let received = driven.endpoint.received.lock().unwrap();
        assert!(
            received.invalidations.is_empty(),
            "answered before the wait ended"
        );
        let [only] = received.history[..] else {
            panic!("{:?}", received.history)
        };
        assert_eq!(
            (only.pasid, only.address, only.size),
            (Some(5), ADDRESS, 0x1000)
        );
        drop(received);
        assert_eq!(
            bench.smmu.translate_for_device(&request).unwrap().address,
            new
        );
    });
}

#[test]
fn a_device_that_does_not_answer_is_told_of_and_the_queue_goes_on() {
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, true);
        let table = Table::new(bench);
        let pasid = Pasid::new(5).unwrap();
        let tag = driven.attach(&table, pasid);
        driven.endpoint.received.lock().unwrap().answers = false;
        let targets = [
            Target::Iotlb {
                tag,
                pasid: Pasid::UNTAGGED,
            },
            Target::DeviceTlb {
                device: driven.device,
                pasid,
            },
        ];
        let invalidation = Invalidation {
            targets: &targets,
            range: page(ADDRESS),
            levels: Levels::LeafOnly,
        };
        let ticket = driven.unit.submit(&invalidation).unwrap();
        bench.machine.settle();
        bench.smmu.time_out_devices();
        let error = driven.unit.wait(ticket).unwrap_err();
        assert_eq!(error, QueueError::DeviceTimeout { device: None });
        driven.endpoint.answer_always();
        driven
            .invalidate(tag, pasid, page(ADDRESS), Levels::LeafOnly)
            .unwrap();
    });
}

#[test]
fn an_illegal_command_fails_its_own_list_only() {
    everywhere(|bench| {
        let driven = Driven::new(bench, 8, false);
        let table = Table::new(bench);
        let pasid = Pasid::new(5).unwrap();
        let tag = driven.attach(&table, pasid);
        bench.smmu.reject_next();
        let range = page(ADDRESS);
        let error = driven.invalidate(tag, pasid, range, Levels::LeafOnly);
        assert!(
            matches!(error, Err(QueueError::IllegalCommand { .. })),
            "{error:?}"
        );
        driven
            .invalidate(tag, pasid, range, Levels::LeafOnly)
            .unwrap();
    });
}

#[test]
fn the_driver_comes_up_on_every_kind_of_smmu() {
    let full = Configuration::default();
    let kinds = [
        Configuration {
            hypervisor: false,
            ..full
        },
        Configuration { msi: false, ..full },
        Configuration {
            ats: false,
            pri: false,
            ..full
        },
        Configuration {
            stage_2: false,
            ..full
        },
        Configuration {
            asid_16: false,
            ..full
        },
        Configuration {
            two_level_streams: false,
            stream_bits: 12,
            ..full
        },
        Configuration {
            two_level_contexts: false,
            ..full
        },
        Configuration {
            range_invalidation: false,
            ..full
        },
        Configuration {
            stall_model: StallModel::Never,
            ..full
        },
        Configuration {
            override_types: false,
            override_permissions: false,
            ..full
        },
        Configuration {
            broadcast_maintenance: false,
            ..full
        },
        Configuration {
            event_queue_log2: 0,
            command_queue_log2: 7,
            ..full
        },
    ];
    for configuration in kinds {
        for seed in 0..4 {
            let bench = Bench::new(configuration, Policy::FREE, seed);
            let driven = Driven::new(&bench, 8, false);
            let table = Table::new(&bench);
            let frame = bench.page();
            table.map(ADDRESS, frame);
            driven.attach(&table, Pasid::new(1).unwrap());
            let read = bench.translate(Some(1), ADDRESS, Access::Read);
            assert_eq!(read.unwrap().address, frame, "{configuration:?}");
        }
    }
}

#[test]
fn an_smmu_that_is_gone_ends_every_call() {
    let bench = Bench::new(Configuration::default(), Policy::FREE, 1);
    let driven = Driven::new(&bench, 8, false);
    let table = Table::new(&bench);
    let pasid = Pasid::new(5).unwrap();
    let tag = driven.attach(&table, pasid);
    bench.smmu.remove();
    let error = driven.invalidate(tag, pasid, page(ADDRESS), Levels::LeafOnly);
    assert!(error.is_err());
    driven.unit.take_faults(&mut |_| {});
}
