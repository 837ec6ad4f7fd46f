//! What software sees in the registers and may change.

use crate::raw::{Raw, offset};
use crate::smmuv3_bench::Bench;
use iommu_model::smmuv3::Configuration;
use iommu_model::{Access, Hardware, Policy, Refusal};

/// Field positions from Linux's arm-smmu-v3.h, values from the specification (6.3.1 to 6.3.8).
#[test]
fn identification_registers() {
    let bench = Bench::new(Configuration::default(), Policy::STRICT, 0);
    let read = |offset| bench.smmu.read(offset, 4) as u32;
    // S2P S1P TTF=2 COHACC BTM HTTU=2 Hyp ATS NS1ATS ASID16 MSI PRI VMID16 CD2L TTENDIAN=2
    // TERM_MODEL ST_LEVEL=1.
    assert_eq!(read(0x00), 0x0c4d_3ebb);
    // SIDSIZE=16 SSIDSIZE=20 PRIQS=7 EVENTQS=7 CMDQS=10 ATTR_PERMS_OVR ATTR_TYPES_OVR.
    assert_eq!(read(0x04), 0x0d47_3d10);
    // HAD XNX STT RIL BBML=2.
    assert_eq!(read(0x0c), 0x0000_1614);
    // OAS=48 GRAN4K STALL_MAX=64.
    assert_eq!(read(0x14), 0x0040_0015);
    assert_eq!(read(0x1c), 2, "SMMUv3.2");
    assert_eq!(bench.smmu.read(0x00, 8), 0, "two 32-bit registers at once");
}

#[test]
#[should_panic(expected = "defines no register")]
fn an_offset_without_a_register_is_a_mistake() {
    Bench::new(Configuration::default(), Policy::STRICT, 0)
        .smmu
        .read(0x200, 4);
}

#[test]
fn what_a_queue_or_translation_uses_is_not_written_while_it_is_on() {
    let raw = Raw::new(Configuration::default());
    let guarded = [
        (offset::STRTAB_BASE, raw.streams as u32),
        (offset::STRTAB_BASE_CFG, 10),
        (offset::CR2, 0b10),
        (offset::CMDQ_BASE, raw.commands as u32 | 4),
        (offset::CMDQ_CONS, 0),
        (offset::EVENTQ_BASE, raw.events as u32 | 2),
        (offset::EVENTQ_PROD, 0),
        (offset::PRIQ_BASE, raw.requests as u32 | 1),
        (offset::PRIQ_PROD, 0),
    ];
    for (offset, value) in guarded {
        raw.write(offset, !value);
        assert_eq!(raw.read(offset), value, "{offset:#x}");
        assert_eq!(
            raw.bench.smmu.take_complaints(),
            ["a register is written while what it configures is on"],
            "{offset:#x}"
        );
    }
    raw.write(offset::CR0, 0);
    for (offset, _) in guarded {
        raw.write(offset, 0);
        assert_eq!(raw.read(offset), 0, "{offset:#x}");
    }
    assert_eq!(raw.bench.smmu.take_complaints(), [""; 0]);
}

#[test]
fn control_fields_take_effect_when_they_are_acknowledged() {
    let policy = Policy {
        later: true,
        ..Policy::STRICT
    };
    let bench = Bench::new(Configuration::default(), policy, 0);
    let smmu = &bench.smmu;
    smmu.write(offset::CR0, 4, 0b1101);
    assert_eq!(
        (smmu.read(offset::CR0, 4), smmu.read(offset::CR0ACK, 4)),
        (0b1101, 0)
    );
    smmu.write(offset::CR0, 4, 0b1100);
    assert_eq!(
        smmu.read(offset::CR0, 4),
        0b1101,
        "not before the update completes"
    );
    assert_eq!(smmu.take_complaints().len(), 1);
    bench.machine.settle();
    assert_eq!(smmu.read(offset::CR0ACK, 4), 0b1101);
    smmu.write(offset::IRQ_CTRL, 4, 0b111);
    assert_eq!(smmu.read(offset::IRQ_CTRL + 4, 4), 0);
    bench.machine.settle();
    assert_eq!(smmu.read(offset::IRQ_CTRL + 4, 4), 0b111);
}

#[test]
fn while_it_is_off_transactions_pass_or_are_aborted() {
    let bench = Bench::new(Configuration::default(), Policy::STRICT, 0);
    let read = |address| bench.translate(Some(3), address, Access::Read);
    assert_eq!(read(0x1234).unwrap().address, 0x1234);
    assert_eq!(
        read(1 << 48),
        Err(Refusal::UnsupportedRequest),
        "wider than the output"
    );
    bench.smmu.write(offset::GBPA, 4, 1 << 20);
    assert!(read(0x1234).is_ok(), "nothing is written without UPDATE");
    assert_eq!(bench.smmu.take_complaints().len(), 1);
    bench.smmu.write(offset::GBPA, 4, 1 << 31 | 1 << 20);
    assert_eq!(bench.smmu.read(offset::GBPA, 4), 1 << 20);
    assert_eq!(read(0x1234), Err(Refusal::UnsupportedRequest));
}

#[test]
fn an_smmu_that_is_gone_reads_as_ones() {
    let raw = Raw::new(Configuration::default());
    raw.bench.smmu.remove();
    assert_eq!(raw.read(offset::CR0), u32::MAX);
    raw.write(offset::CR0, 0);
    assert_eq!(raw.bench.smmu.read(offset::CMDQ_BASE, 8), u64::MAX);
    let read = raw.bench.translate(None, 0, Access::Read);
    assert_eq!(read, Err(Refusal::UnsupportedRequest));
}
