//! Records that hardware writes for devices: any bits decode, to what they say and no more.

use arbitrary::Arbitrary;
use iommu_core::fault::{Fault, Reason};
use iommu_riscv::spec::events::FaultRecord as RiscvRecord;
use iommu_smmuv3::spec::events::Event;
use iommu_vtd::spec::events::FaultRecord as VtdRecord;

/// One record of some IOMMU, as it lies in memory.
#[derive(Arbitrary, Debug)]
enum Record {
    Vtd([u64; 2]),
    SmmuV3([u64; 4]),
    Riscv([u64; 4]),
}

/// Decodes one record.
pub fn run(data: &[u8]) {
    super::structured(data, |record: Record| match record {
        Record::Vtd(words) => vtd(words),
        Record::SmmuV3(words) => smmuv3(words),
        Record::Riscv(words) => riscv(words),
    });
}

/// What holds for a fault of any IOMMU, whatever the bits.
fn check(fault: &Fault, device: u64, code: u64) {
    assert_eq!(
        u64::from(fault.device.0),
        device,
        "the device is as recorded"
    );
    assert_eq!(u64::from(fault.code), code, "the code is as recorded");
    assert!(fault.pasid.get() < 1 << 20);
    assert!(!fault.to_string().is_empty());
}

fn vtd([low, high]: [u64; 2]) {
    let fault = iommu_vtd::faults::decode(VtdRecord { low, high });
    check(&fault, high & 0xffff, high >> 32 & 0xff);
    if high >> 31 & 1 == 1 {
        assert_eq!(u64::from(fault.pasid.get()), high >> 40 & 0xf_ffff);
    } else {
        assert!(fault.pasid.is_untagged());
    }
    match fault.address {
        Some(address) => assert_eq!(address, low & !0xfff),
        None => assert_eq!(fault.reason, Reason::Interrupt),
    }
}

fn smmuv3(words: [u64; 4]) {
    let event = Event(words);
    let fault = iommu_smmuv3::faults::decode(&event);
    check(&fault, words[0] >> 32, words[0] & 0xff);
    // C_BAD_SUBSTREAMID (8) has no SSV: its substream always counts (IHI 0070, 7.3.7).
    if words[0] >> 11 & 1 == 0 && words[0] & 0xff != 8 {
        assert!(fault.pasid.is_untagged());
    }
    if let Some(address) = fault.address {
        assert_eq!(address, words[2]);
    }
}

fn riscv(words: [u64; 4]) {
    let fault = iommu_riscv::faults::decode(RiscvRecord(words));
    check(&fault, words[0] >> 40, words[0] & 0xfff);
    if words[0] >> 32 & 1 == 1 {
        assert_eq!(u64::from(fault.pasid.get()), words[0] >> 12 & 0xf_ffff);
    } else {
        assert!(fault.pasid.is_untagged());
    }
    if let Some(address) = fault.address {
        assert_eq!(address, words[2]);
    }
}
