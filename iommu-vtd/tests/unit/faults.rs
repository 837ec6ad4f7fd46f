use crate::fake::{ITE, PFO, PPF};
use crate::rig::*;
use iommu_core::fault::{Access, Fault, FaultSummary, Reason};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::iommu::Iommu;

const F: u64 = 1 << 63;

fn take(rig: &Rig) -> (Vec<Fault>, FaultSummary) {
    let mut faults = Vec::new();
    let summary = rig.unit.take_faults(&mut |fault| faults.push(fault));
    (faults, summary)
}

#[test]
fn a_record_is_reported_once_and_freed() {
    let rig = Rig::plain();
    // A read (T1) of 00:04.0 without a PASID; reason 0x71.
    let record = [0x7fff_1234_5000, F | 1 << 62 | 0x71 << 32 | 0x20];
    rig.hardware(|state| {
        state.records[0] = record;
        state.fsts = PPF;
    });
    let fault = Fault {
        device: DEVICE,
        pasid: Pasid::UNTAGGED,
        address: Some(0x7fff_1234_5000),
        access: Access::Read,
        reason: Reason::NotPresent,
        code: 0x71,
    };
    let summary = FaultSummary {
        reported: 1,
        lost: false,
    };
    assert_eq!(take(&rig), (vec![fault], summary));
    rig.hardware(|state| {
        assert_eq!(state.records[0][1], record[1] & !F);
        assert_eq!(state.fsts, 0);
    });
    assert_eq!(take(&rig), (vec![], FaultSummary::default()));
}

#[test]
fn records_are_taken_in_the_order_in_which_they_came() {
    // Four records.
    let rig = Rig::new(QEMU_CAP | 3 << 40, COHERENT_ECAP);
    rig.hardware(|state| {
        for (index, source_id) in [(3, 1), (0, 2), (1, 3)] {
            state.records[index] = [0x1000, F | 5 << 32 | source_id];
        }
        state.fsts = PPF | 3 << 8;
    });
    let (faults, summary) = take(&rig);
    let devices: Vec<_> = faults.iter().map(|fault| fault.device.0).collect();
    assert_eq!(devices, [1, 2, 3]);
    assert_eq!(summary.reported, 3);
}

#[test]
fn an_overflow_is_told_and_acknowledged_and_nothing_else_is() {
    let rig = Rig::plain();
    rig.hardware(|state| {
        state.records[0] = [0x1000, F | 5 << 32];
        state.fsts = PPF | PFO | ITE;
    });
    let (_, summary) = take(&rig);
    assert_eq!(
        summary,
        FaultSummary {
            reported: 1,
            lost: true
        }
    );
    rig.hardware(|state| assert_eq!(state.fsts, ITE));
}

#[test]
fn a_lying_index_and_endless_faults_are_bounded() {
    let rig = Rig::plain();
    rig.hardware(|state| {
        state.records[0] = [0x1000, F];
        state.fsts = PPF | 0xff << 8;
    });
    let mut seen = 0;
    let summary = rig.unit.take_faults(&mut |_| {
        seen += 1;
        rig.hardware(|state| state.records[0] = [0x1000, F]);
    });
    assert_eq!((seen, summary.reported), (1, 1));
}

#[test]
fn old_faults_are_not_the_new_owners() {
    let bench = Bench::new(QEMU_CAP, COHERENT_ECAP);
    bench.hardware.with(|state| {
        state.records[0] = [0x1000, F];
        state.fsts = PPF | PFO;
    });
    let unit = bench.probe().unwrap();
    assert_eq!(unit.take_faults(&mut |_| panic!()), FaultSummary::default());
    assert_eq!(bench.hardware.with(|state| state.fsts), 0);
}

#[test]
fn the_request_is_decoded() {
    let rig = Rig::plain();
    let with_pasid = 1u64 << 31 | 0xf_fffe << 40;
    let (t1, t2, execute) = (1u64 << 62, 1u64 << 28, 1u64 << 30);
    for (bits, pasid_value, access) in [
        (0, 0, Access::Write),
        (t1, 0, Access::Read),
        (t1 | t2, 0, Access::Write),
        (t2, 0, Access::Unknown),
        (t1 | execute | with_pasid, 0xf_fffe, Access::Execute),
        (with_pasid & !(1 << 31), 0, Access::Write),
    ] {
        rig.hardware(|state| {
            state.records[0] = [0x1fff, F | bits | 0x85 << 32 | 0xfffe];
            state.fsts = PPF;
        });
        let (faults, _) = take(&rig);
        let expected = Fault {
            device: DeviceId(0xfffe),
            pasid: pasid(pasid_value),
            address: Some(0x1000),
            access,
            reason: Reason::Permission,
            code: 0x85,
        };
        assert_eq!(faults, [expected], "{bits:#x}");
    }
}

/// The codes are those of Linux's tables of fault reasons (drivers/iommu/intel/dmar.c) and, for
/// those marked with an asterisk, what QEMU 11.1.3 was measured to record.
#[test]
fn reasons_have_their_meaning() {
    for (code, reason) in [
        (0x01, Reason::DeviceNotConfigured),
        (0x02, Reason::DeviceNotConfigured), // * context entry not present
        (0x03, Reason::MalformedEntry),
        (0x04, Reason::AddressSize),
        (0x05, Reason::Permission),
        (0x06, Reason::Permission),
        (0x08, Reason::TableAccess),
        (0x0c, Reason::MalformedEntry),
        (0x22, Reason::Interrupt), // * IRTE not present
        (0x39, Reason::DeviceNotConfigured),
        (0x41, Reason::DeviceNotConfigured),
        (0x46, Reason::PasidNotConfigured),
        (0x50, Reason::TableAccess),
        (0x51, Reason::PasidNotConfigured), // * directory entry not present
        (0x59, Reason::PasidNotConfigured),
        (0x5b, Reason::MalformedEntry), // * PASID entry invalid
        (0x71, Reason::NotPresent),     // * first-stage entry not present
        (0x72, Reason::MalformedEntry), // * first-stage entry with reserved bits
        (0x80, Reason::AddressSize),    // * not canonical
        (0x81, Reason::Permission),     // * U/S clear
        (0x85, Reason::Permission),     // * write
        (0x87, Reason::AddressSize),    // * interrupt range
        (0x00, Reason::Other),
        (0xff, Reason::Other),
    ] {
        assert_eq!(iommu_vtd::faults::reason(code), reason, "{code:#x}");
    }
}

#[test]
fn an_interrupt_fault_has_no_address() {
    let rig = Rig::plain();
    rig.hardware(|state| {
        state.records[0] = [0x12 << 48, F | 0x22 << 32];
        state.fsts = PPF;
    });
    assert_eq!(take(&rig).0[0].address, None);
}
