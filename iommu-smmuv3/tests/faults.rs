//! Event records become neutral faults, and the event queue survives overflow and lies.

mod fake;

use fake::{Machine, Platform, QEMU};
use iommu_core::fault::{Access, Fault, FaultSummary, Reason};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::iommu::Iommu;
use iommu_smmuv3::Unit;
use iommu_smmuv3::faults::decode;
use iommu_smmuv3::spec::events::Event;

const STREAM: u64 = 0x108 << 32;
const READ: u64 = 1 << 35;
const INSTRUCTION: u64 = 1 << 34;
const ADDRESS: u64 = 0x7f00_0000_1234;

fn probe() -> (Machine, Unit<Platform>) {
    let machine = Machine::new(QEMU);
    let unit = Unit::probe(machine.parts()).unwrap();
    (machine, unit)
}

fn take(unit: &Unit<Platform>) -> (Vec<Fault>, FaultSummary) {
    let mut faults = Vec::new();
    let summary = unit.take_faults(&mut |fault| faults.push(fault));
    (faults, summary)
}

#[test]
fn every_architected_number_has_its_meaning() {
    // Numbers and fields: IHI 0070 7.3.2 to 7.3.21; (number, has RnW and InD, has InputAddr).
    let table = [
        (0x01, true, true, Reason::Other),
        (0x02, false, false, Reason::DeviceNotConfigured),
        (0x03, false, false, Reason::TableAccess),
        (0x04, false, false, Reason::DeviceNotConfigured),
        (0x05, false, true, Reason::Other),
        (0x06, false, false, Reason::PasidNotConfigured),
        (0x08, false, false, Reason::PasidNotConfigured),
        (0x09, false, false, Reason::TableAccess),
        (0x0a, false, false, Reason::PasidNotConfigured),
        (0x0b, true, true, Reason::TableAccess),
        (0x10, true, true, Reason::NotPresent),
        (0x11, true, true, Reason::AddressSize),
        (0x12, true, true, Reason::NotPresent),
        (0x13, true, true, Reason::Permission),
        (0x20, true, true, Reason::Other),
        (0x21, false, false, Reason::Other),
        (0x24, false, true, Reason::Other),
        (0x25, false, false, Reason::TableAccess),
        (0xe0, false, false, Reason::Other),
        (0xef, false, false, Reason::Other),
        (0x00, false, false, Reason::Other),
        (0x77, false, false, Reason::Other),
        (0xff, false, false, Reason::Other),
    ];
    for (number, has_access, has_address, reason) in table {
        let fault = decode(&Event([
            STREAM | 9 << 12 | 1 << 11 | number,
            READ,
            ADDRESS,
            !0,
        ]));
        let expected = Fault {
            device: DeviceId(0x108),
            pasid: Pasid::new(9).unwrap(),
            address: has_address.then_some(ADDRESS),
            access: if has_access {
                Access::Read
            } else {
                Access::Unknown
            },
            reason,
            code: number as u32,
        };
        assert_eq!(fault, expected, "{number:#x}");
    }
}

#[test]
fn the_kind_of_access() {
    let access = |word_1| decode(&Event([0x10, word_1, 0, 0])).access;
    assert_eq!(access(0), Access::Write);
    assert_eq!(access(READ), Access::Read);
    assert_eq!(access(READ | INSTRUCTION), Access::Execute);
    // F_TRANSL_FORBIDDEN has RnW; the bit of InD is reserved.
    let forbidden = decode(&Event([0x07, READ | INSTRUCTION, ADDRESS, 0]));
    assert_eq!(
        (forbidden.access, forbidden.address),
        (Access::Read, Some(ADDRESS))
    );
}

#[test]
fn a_substream_counts_only_with_ssv_except_in_the_event_about_it() {
    let pasid = |word_0| decode(&Event([word_0, 0, 0, 0])).pasid;
    assert_eq!(pasid(9 << 12 | 0x10), Pasid::UNTAGGED);
    assert_eq!(pasid(9 << 12 | 1 << 11 | 0x10).get(), 9);
    assert_eq!(pasid(9 << 12 | 0x08).get(), 9);
    assert_eq!(pasid(0xf_ffff << 12 | 1 << 11 | 0x10), Pasid::MAX);
}

#[test]
fn no_record_makes_decoding_panic() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..100_000 {
        let words = core::array::from_fn(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        });
        let fault = decode(&Event(words));
        assert_eq!(u64::from(fault.code), words[0] & 0xff);
    }
}

#[test]
fn faults_are_handed_over_once_and_in_order() {
    let (machine, unit) = probe();
    assert_eq!(take(&unit), (vec![], FaultSummary::default()));
    for page in 0..3 {
        machine.record([STREAM | 0x10, 0, page << 12, 0]);
    }
    let (faults, summary) = take(&unit);
    let addresses: Vec<_> = faults.iter().map(|fault| fault.address.unwrap()).collect();
    assert_eq!(addresses, [0, 0x1000, 0x2000]);
    assert_eq!(
        summary,
        FaultSummary {
            reported: 3,
            lost: false
        }
    );
    assert_eq!(machine.smmu.state().eventq_cons, 3);
    assert_eq!(take(&unit).0, []);
}

#[test]
fn the_queue_wraps_around_and_can_be_full() {
    let (machine, unit) = probe();
    for round in 0..5 {
        for _ in 0..128 {
            machine.record([STREAM | 0x10, 0, round << 12, 0]);
        }
        let (faults, summary) = take(&unit);
        assert!(
            faults
                .iter()
                .all(|fault| fault.address == Some(round << 12))
        );
        assert_eq!(
            summary,
            FaultSummary {
                reported: 128,
                lost: false
            }
        );
        let state = machine.smmu.state();
        assert_eq!(state.eventq_cons, state.eventq_prod);
    }
}

#[test]
fn an_overflow_is_told_once_and_acknowledged() {
    let (machine, unit) = probe();
    machine.record([STREAM | 0x10, 0, 0, 0]);
    for flag in [1 << 31, 0] {
        {
            let mut state = machine.smmu.state();
            state.eventq_prod = state.eventq_prod & !(1 << 31) | flag;
        }
        assert!(take(&unit).1.lost);
        assert_eq!(machine.smmu.state().eventq_cons & 1 << 31, flag);
        assert!(!take(&unit).1.lost);
    }
}

#[test]
fn an_aborted_event_queue_access_is_told_and_acknowledged() {
    let (machine, unit) = probe();
    // QEMU toggles this bit when the queue is full; a command queue error beside it stays active.
    machine.smmu.state().gerror = 0b101;
    assert_eq!(
        take(&unit).1,
        FaultSummary {
            reported: 0,
            lost: true
        }
    );
    let state = machine.smmu.state();
    assert_eq!(state.gerror ^ state.gerrorn, 0b001);
    drop(state);
    assert!(!take(&unit).1.lost);
}

#[test]
fn a_producer_that_lies_costs_at_most_one_queue() {
    let (machine, unit) = probe();
    machine.smmu.state().eventq_prod = 0xf_ffff;
    let (faults, summary) = take(&unit);
    assert_eq!((faults.len(), summary.lost), (128, true));
    assert_eq!(
        machine.smmu.state().eventq_cons,
        0xff,
        "index and wrap flag only"
    );
    assert_eq!(take(&unit).0, []);
}
