use crate::rig::*;
use iommu_core::Range;
use iommu_core::cover::Costs;
use iommu_core::error::QueueError;
use iommu_core::ids::Pasid;
use iommu_core::iommu::Iommu;
use iommu_core::operation::{Invalidation, Levels, Target};

const IOTLB: Target = Target::Iotlb {
    tag: TAG,
    pasid: Pasid::UNTAGGED,
};

pub fn iotlb() -> Target {
    Target::Iotlb {
        tag: TAG,
        pasid: pasid(9),
    }
}

pub fn device_tlb() -> Target {
    Target::DeviceTlb {
        device: DEVICE,
        pasid: pasid(9),
    }
}

fn posts(rig: &Rig, targets: &[Target], start: u64, end: u64, levels: Levels) -> Vec<Step> {
    let range = Range::new(start, end).unwrap();
    let ticket = rig
        .unit
        .submit(&Invalidation {
            targets,
            range,
            levels,
        })
        .unwrap();
    rig.unit.wait(ticket).unwrap();
    rig.steps()
}

/// 6 | pages (3) << 4 | DID 1 << 16 | PASID 9 << 32; address, IH (bit 6), AM (bits 5:0).
const PAGES: u64 = 0x9_0001_0036;
const ALL: (u64, u64) = (0x9_0001_0026, 0);
/// 8 | SID 0x20 << 16 | PASID 9 << 32; address, S (bit 11).
const DEVICE_TLB: u64 = 0x9_0020_0008;

#[test]
fn one_page() {
    let rig = Rig::plain();
    let (start, end) = (0x7fff_1234_5000, 0x7fff_1234_6000);
    assert_eq!(
        posts(&rig, &[iotlb()], start, end, Levels::All),
        list(&[(PAGES, start)])
    );
    assert_eq!(
        posts(&rig, &[iotlb()], start, end, Levels::LeafOnly),
        list(&[(PAGES, start | 0x40)])
    );
    assert_eq!(
        posts(&rig, &[device_tlb()], start, end, Levels::All),
        list(&[(DEVICE_TLB, start)])
    );
    assert_eq!(
        posts(&rig, &[IOTLB], start, end, Levels::All),
        list(&[(0x1_0036, start)])
    );
}

#[test]
fn the_device_tlb_follows_behind_one_fence() {
    let rig = Rig::plain();
    let untagged = Target::DeviceTlb {
        device: DEVICE,
        pasid: Pasid::UNTAGGED,
    };
    let expected = list(&[
        (PAGES, 0x5000),
        (0x1_0036, 0x5000),
        FENCE,
        (DEVICE_TLB, 0x5000),
        (0x20_0000_0003, 0x5000),
    ]);
    let targets = [iotlb(), IOTLB, device_tlb(), untagged];
    assert_eq!(posts(&rig, &targets, 0x5000, 0x6000, Levels::All), expected);
    let disordered = [device_tlb(), untagged, iotlb(), IOTLB];
    assert_eq!(
        posts(&rig, &disordered, 0x5000, 0x6000, Levels::All),
        expected
    );
}

/// 0x4000..0x8000 is order 2: AM 2; as a size, bit 12 set and bit 13 clear.
#[test]
fn an_aligned_range_is_one_block() {
    let rig = Rig::plain();
    assert_eq!(
        posts(&rig, &[iotlb(), device_tlb()], 0x4000, 0x8000, Levels::All),
        list(&[(PAGES, 0x4002), FENCE, (DEVICE_TLB, 0x5800)])
    );
}

#[test]
fn a_range_across_a_boundary_is_two_blocks() {
    let rig = Rig::plain();
    let (start, end) = (0x3fff_f000, 0x4000_2000);
    assert_eq!(
        posts(&rig, &[iotlb(), device_tlb()], start, end, Levels::LeafOnly),
        list(&[
            (PAGES, 0x3fff_f040),
            (PAGES, 0x4000_0041),
            FENCE,
            (DEVICE_TLB, 0x3fff_f000),
            (DEVICE_TLB, 0x4000_0800),
        ])
    );
}

#[test]
fn everything_is_pasid_wide() {
    let rig = Rig::plain();
    assert_eq!(
        posts(
            &rig,
            &[iotlb(), device_tlb()],
            0,
            u64::MAX,
            Levels::LeafOnly
        ),
        list(&[ALL, FENCE, (DEVICE_TLB, 0x7fff_ffff_ffff_f800)])
    );
}

/// MAMV is 18 here: 1 GiB.
#[test]
fn blocks_beyond_mamv_are_several_in_the_iotlb() {
    let rig = Rig::plain();
    let gigabyte = 1 << 30;
    assert_eq!(
        posts(&rig, &[iotlb()], 0, gigabyte, Levels::All),
        list(&[(PAGES, 18)])
    );
    assert_eq!(
        posts(&rig, &[iotlb(), device_tlb()], 0, 2 * gigabyte, Levels::All),
        list(&[
            (PAGES, 18),
            (PAGES, gigabyte | 18),
            FENCE,
            (DEVICE_TLB, 0x3fff_f800)
        ])
    );
    // 65 commands cost more than everything, once.
    assert_eq!(
        posts(&rig, &[iotlb()], 0, 65 * gigabyte, Levels::All),
        list(&[ALL])
    );
}

#[test]
fn everything_is_pasid_wide_however_large_a_block_may_be() {
    let rig = Rig::new(QEMU_CAP | 63 << 48, COHERENT_ECAP);
    assert_eq!(
        posts(&rig, &[iotlb()], 0, u64::MAX, Levels::All),
        list(&[ALL])
    );
    assert_eq!(
        posts(&rig, &[iotlb()], 0, 1 << 47, Levels::All),
        list(&[(PAGES, 35)])
    );
}

#[test]
fn without_page_selection_everything_is_pasid_wide_in_the_iotlb() {
    let rig = Rig::new(QEMU_CAP & !(1 << 39), COHERENT_ECAP);
    assert_eq!(
        posts(&rig, &[iotlb()], 0x5000, 0x6000, Levels::All),
        list(&[ALL])
    );
}

#[test]
fn a_range_of_the_upper_half_keeps_its_address() {
    let rig = Rig::plain();
    let (start, end) = (0xffff_ffff_ffff_e000, u64::MAX);
    assert_eq!(
        posts(&rig, &[iotlb(), device_tlb()], start, end, Levels::All),
        list(&[(PAGES, start | 1), FENCE, (DEVICE_TLB, start | 0x800)])
    );
}

#[test]
fn the_costs_decide_how_precise_a_list_is() {
    let commands = |costs, target, pages: u64| {
        let Rig { bench, unit } = Rig::plain();
        let unit = unit.with_costs(costs);
        let rig = Rig { bench, unit };
        let end = 0x7000 + (pages << 12);
        // Without the sync, the doorbell and the wait.
        posts(&rig, &[target], 0x7000, end, Levels::All).len() - list(&[]).len()
    };
    let dear = Costs {
        command: 1000,
        ..Costs::DEFAULT
    };
    // 1 + 8 pages below page 16 and 4 + 2 above: two pages too many save a block, seven another.
    let exact = Costs {
        excess_page: 26,
        ..Costs::DEFAULT
    };
    for target in [iotlb(), device_tlb()] {
        assert_eq!(commands(exact, target, 15), 4);
        assert_eq!(commands(Costs::DEFAULT, target, 15), 3);
        assert_eq!(commands(dear, target, 15), 2);
    }
    let rig = Rig::plain();
    let unit = rig.unit.with_costs(Costs {
        tag_wide: 49,
        ..Costs::DEFAULT
    });
    let rig = Rig { unit, ..rig };
    assert_eq!(
        posts(&rig, &[iotlb()], 0x7000, 0x8000, Levels::All),
        list(&[ALL])
    );
}

#[test]
fn a_list_for_many_devices_fits_the_queue() {
    let rig = Rig::plain();
    let mut targets = vec![device_tlb(); 125];
    targets.insert(0, iotlb());
    let end = 0x7000 + (0x155 << 12);
    let steps = posts(&rig, &targets, 0x7000, end, Levels::All);
    // Two blocks each and the IOTLB's, though three would be cheaper.
    assert_eq!(steps.len() - list(&[]).len(), 1 + 2 * 126);
}

#[test]
fn a_list_longer_than_the_queue_is_refused_whole() {
    let rig = Rig::plain();
    let targets = [iotlb(); 256];
    let range = Range::new(0, 0x1000).unwrap();
    let levels = Levels::All;
    let refused = rig.unit.submit(&Invalidation {
        targets: &targets,
        range,
        levels,
    });
    let error = QueueError::ListTooLong {
        commands: 257,
        capacity: 255,
    };
    assert_eq!(refused.unwrap_err(), error);
    assert_eq!(rig.steps(), []);
}

#[test]
fn the_queue_wraps() {
    let rig = Rig::plain();
    for _ in 0..400 {
        posts(&rig, &[iotlb(), device_tlb()], 0x5000, 0x6000, Levels::All);
    }
}
