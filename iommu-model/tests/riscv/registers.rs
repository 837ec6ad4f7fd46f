//! The write rules of the registers.

use crate::bench::{
    Bench, CQB, CQCSR, CQH, CQT, DDTP, DEVICE, FAULTS, FCTL, FQB, FQCSR, FQH, FQT, IPSR, PQB,
    PQCSR, READ_ONLY, SV39, V, WRITABLE,
};
use iommu_model::riscv::{Configuration, InterruptGeneration};
use iommu_model::{Access, Hardware, Policy, Refusal, Request};

const TR_REQ_IOVA: usize = 600;
const TR_REQ_CTL: usize = 608;
const TR_RESPONSE: usize = 616;
const PPN: u64 = 0x003f_ffff_ffff_fc00;

#[test]
fn capabilities_say_what_is_configured() {
    // version 1.0; Sv39, Sv48, Sv57; Svpbmt; Sv39x4, Sv48x4, Sv57x4; MSI_FLAT; AMO_HWAD; ATS; IGS 2;
    // DBG; PAS 56; PD8, PD17, PD20; NL, S.
    let bench = Bench::new(Configuration::default());
    assert_eq!(bench.read64(0), 0x0000_0df8_a34e_8e10);
    bench.write64(0, u64::MAX);
    assert_eq!(bench.read64(0), 0x0000_0df8_a34e_8e10);
}

#[test]
fn ddtp_keeps_legal_modes_and_says_when_it_is_busy() {
    let later = Policy {
        later: true,
        ..Policy::STRICT
    };
    let configuration = Configuration {
        directory_levels: [true, false, true],
        ..Configuration::default()
    };
    let bench = Bench::off(configuration, later, 0, 3);
    let root = bench.ddt >> 12 << 10;
    bench.write64(DDTP, !0xf | 2);
    assert_eq!(bench.read64(DDTP), PPN | 0x12);
    bench.write64(DDTP, 0);
    assert_eq!(bench.complaints(), ["ddtp was written while busy"]);
    bench.machine.settle();
    assert_eq!(bench.read64(DDTP), PPN | 2);
    bench.write64(DDTP, root | 4);
    assert_eq!(bench.complaints().len(), 1, "from directory to directory");
    bench.write64(DDTP, PPN);
    bench.machine.settle();
    // 2LVL, reserved and custom modes.
    for mode in [3, 5, 13, 14, 15] {
        bench.write64(DDTP, root | mode);
        bench.machine.settle();
        assert_eq!(bench.read64(DDTP), root);
    }
    bench.write64(DDTP, root | 4);
    bench.machine.settle();
    assert_eq!(bench.read64(DDTP), root | 4);
    assert_eq!(bench.complaints(), Vec::<&str>::new());
}

#[test]
fn the_old_mode_is_in_effect_until_the_new_one_is() {
    let later = Policy {
        later: true,
        ..Policy::STRICT
    };
    let bench = Bench::with_policy(later, 0);
    let root = bench.with_first_stage();
    bench.map(root, 3, 0x4000_0000, 0x8100_0000, WRITABLE);
    bench.write64(DDTP, bench.ddt >> 12 << 10);
    assert!(bench.read(0x4000_0000).is_ok());
    bench.machine.settle();
    let refused = Err(Refusal::UnsupportedRequest);
    assert_eq!(bench.read(0x4000_0000), refused);
    assert_eq!(bench.causes(), [256]);
    // The caches keep what they have.
    bench.set_device(DEVICE, [0; 4]);
    bench.write64(DDTP, bench.ddt >> 12 << 10 | 4);
    bench.machine.settle();
    assert!(bench.read(0x4000_0000).is_ok());
}

#[test]
fn bare_mode_passes_untranslated_requests_only() {
    let bench = Bench::off(Configuration::default(), Policy::STRICT, 0, 3);
    bench.write64(DDTP, 1);
    assert_eq!(bench.read(0x1234_5678_9abc), Ok(0x1234_5678_9abc));
    let request = bench.request(0, Access::Read);
    let refused = bench.iommu.translate_for_device(&request).unwrap_err();
    assert_eq!(refused, Refusal::UnsupportedRequest);
    assert!(!bench.iommu.admits_translated(DEVICE));
}

#[test]
fn queue_registers_keep_what_the_size_allows() {
    let configuration = Configuration {
        log2_commands: 7,
        ..Configuration::default()
    };
    let bench = Bench::off(configuration, Policy::STRICT, 0, 3);
    bench.write64(CQB, u64::MAX);
    assert_eq!(bench.read64(CQB), PPN | 6);
    bench.write32(CQT, u32::MAX);
    assert_eq!(bench.read32(CQT), 127);
    bench.write64(FQB, PPN | 2);
    bench.write32(FQH, u32::MAX);
    assert_eq!(bench.read32(FQH), 7);
    bench.write64(FQB, PPN);
    assert_eq!(bench.read32(FQH), 1);
    for (register, value) in [(CQH, 5), (FQT, 5)] {
        bench.write32(register, value);
        assert_eq!(bench.read32(register), 0);
    }
}

#[test]
fn a_queue_says_when_it_is_on() {
    let later = Policy {
        later: true,
        ..Policy::STRICT
    };
    let bench = Bench::off(Configuration::default(), later, 0, 3);
    for register in [CQCSR, FQCSR, PQCSR] {
        bench.write32(register, 0xf00f_ff03);
        assert_eq!(bench.read32(register), 0x2_0003);
        bench.write32(register, 0);
        let complaint = "a queue's status was written while it was busy";
        assert_eq!(bench.complaints(), [complaint]);
        bench.machine.settle();
        assert_eq!(bench.read32(register), 0x1_0003);
        bench.write32(register, 2);
        assert_eq!(bench.read32(register), 0x3_0002);
        bench.machine.settle();
        assert_eq!(bench.read32(register), 2);
    }
}

#[test]
fn a_base_is_not_changed_under_a_queue() {
    let bench = Bench::new(Configuration::default());
    for register in [CQB, FQB, PQB] {
        let before = bench.read64(register);
        bench.write64(register, 0);
        assert_eq!(bench.read64(register), before);
        assert_eq!(bench.complaints().len(), 1);
    }
    bench.write32(FCTL, 2);
    assert_eq!(bench.read32(FCTL), 0);
    assert_eq!(bench.complaints().len(), 1);
}

#[test]
fn interrupts_are_chosen_where_there_is_a_choice() {
    let kinds = [
        (InterruptGeneration::Messages, [0, 0, 0]),
        (InterruptGeneration::Wires, [2, 2, 2]),
        (InterruptGeneration::Both, [0, 2, 0]),
    ];
    for (interrupts, expected) in kinds {
        let configuration = Configuration {
            interrupts,
            ..Configuration::default()
        };
        let bench = Bench::off(configuration, Policy::STRICT, 0, 3);
        let values = [0, u32::MAX, 0].map(|value| {
            bench.write32(FCTL, value);
            bench.read32(FCTL)
        });
        assert_eq!(values, expected);
    }
}

#[test]
fn registers_without_their_capability_read_zero() {
    let configuration = Configuration {
        ats: false,
        dbg: false,
        interrupts: InterruptGeneration::Wires,
        ..Configuration::default()
    };
    let bench = Bench::off(configuration, Policy::STRICT, 0, 3);
    for register in [PQB, TR_REQ_IOVA, TR_REQ_CTL, 96, 768] {
        bench.write64(register, u64::MAX);
        assert_eq!(bench.read64(register), 0);
    }
    bench.write32(PQCSR, 1);
    assert_eq!(bench.read32(PQCSR), 0);
}

#[test]
#[should_panic(expected = "no access of 4 bytes at offset 0x280")]
fn an_offset_that_is_not_defined_is_the_drivers_mistake() {
    Bench::new(Configuration::default()).read32(640);
}

#[test]
#[should_panic(expected = "no access of 8 bytes at offset 0x20")]
fn an_access_to_two_registers_is_the_drivers_mistake() {
    Bench::new(Configuration::default()).read64(CQH);
}

#[test]
fn what_was_removed_reads_ones() {
    let bench = Bench::new(Configuration::default());
    bench.iommu.remove();
    assert_eq!(bench.read64(0), u64::MAX);
    assert_eq!(bench.read32(CQCSR), u32::MAX);
    bench.write64(DDTP, 0);
    assert_eq!(bench.read(0), Err(Refusal::UnsupportedRequest));
    assert!(!bench.iommu.step());
}

#[test]
fn an_interrupt_comes_once_until_it_is_cleared() {
    let bench = Bench::new(Configuration::default());
    bench.write32(FQCSR, 3);
    let miss = || assert!(bench.read(0x5000).is_err());
    miss();
    miss();
    assert_eq!(bench.iommu.take_interrupts(), ["fip"]);
    assert_eq!(bench.read32(IPSR), 2);
    bench.write32(IPSR, 2);
    assert_eq!(bench.read32(IPSR), 0);
    miss();
    assert_eq!(bench.iommu.take_interrupts(), ["fip"]);
    // An overflow is a condition that stays.
    (0..FAULTS).for_each(|_| miss());
    bench.iommu.take_interrupts();
    bench.write32(IPSR, 2);
    assert_eq!(bench.read32(IPSR), 2);
    assert_eq!(bench.iommu.take_interrupts(), ["fip"]);
}

#[test]
fn a_message_goes_where_the_table_says_unless_it_is_masked() {
    let bench = Bench::new(Configuration::default());
    let target = bench.take();
    // `icvec.fiv` is 3.
    bench.write64(760, 0x30);
    bench.write64(768 + 48, target + 4);
    bench.write32(768 + 56, 0x99);
    bench.write32(768 + 60, 1);
    bench.write32(FQCSR, 3);
    let _ = bench.read(0x5000);
    assert_eq!(bench.load(target), 0);
    bench.write32(768 + 60, 0);
    assert_eq!(bench.load(target), 0x99 << 32);
    // Where there is no memory, that is a fault of its own (273), of no device.
    bench.write64(768 + 48, 0x1000);
    bench.write32(IPSR, 2);
    bench.faults();
    let _ = bench.read(0x5000);
    let records = bench.faults();
    assert_eq!(records[1], [273, 0, 0x1000, 0]);
}

#[test]
fn the_debug_registers_translate() {
    let bench = Bench::new(Configuration::default());
    let root = bench.with_first_stage();
    bench.map(root, 3, 0x4000_0000, 0x8100_0000, READ_ONLY | 1 << 61);
    let place = bench.entry_place(root, 3, 0x4020_0000, 1);
    bench.store(place, &[0x8120_0000 >> 12 << 10 | WRITABLE]);
    let ask = |address, flags: u64| {
        bench.write64(TR_REQ_IOVA, address);
        bench.write64(TR_REQ_CTL, u64::from(DEVICE) << 40 | flags | 1);
        assert_eq!(bench.read64(TR_REQ_CTL) & 1, 0);
        bench.read64(TR_RESPONSE)
    };
    // NW; a read.
    assert_eq!(ask(0x4000_0000, 8), 0x8100_0000 >> 12 << 10 | 1 << 7);
    assert_eq!(ask(0x4000_0000, 0), 1);
    // Exe and NW.
    assert_eq!(ask(0x4000_0000, 0xc), 1);
    assert_eq!(bench.causes(), [15, 12]);
    // 2 MiB: eight ones below a zero.
    assert_eq!(ask(0x4034_5678, 0), (0x8_1200 | 0xff) << 10 | 1 << 9);
    assert_eq!(bench.complaints(), Vec::<&str>::new());
}

#[test]
fn reset_values_that_are_not_specified_are_anything() {
    let values: Vec<u64> = (0..20)
        .map(|seed| {
            let bench = Bench::off(Configuration::default(), Policy::FREE, seed, 3);
            assert_eq!(bench.read32(CQCSR) & 0x3_0003, 0);
            assert_eq!(bench.read32(IPSR), 0);
            assert!(bench.read64(DDTP) & 0xf <= 1);
            bench.turn_on();
            let root = bench.take();
            bench.set_device(DEVICE, [V, 0, 0, SV39 | root >> 12]);
            assert_eq!(bench.read(0), Err(Refusal::NotPresent));
            bench.read64(TR_REQ_IOVA)
        })
        .collect();
    assert!(values.iter().any(|&value| value != values[0]));
}

#[test]
fn a_device_id_beyond_the_directory_is_refused() {
    for (levels, msi_flat, bits) in [(1, true, 6), (2, true, 15), (1, false, 7), (2, false, 16)] {
        let configuration = Configuration {
            msi_flat,
            ..Configuration::default()
        };
        let bench = Bench::off(configuration, Policy::STRICT, 0, levels);
        bench.turn_on();
        for (device, cause) in [((1u32 << bits) - 1, 258), (1 << bits, 260)] {
            let request = Request {
                device,
                ..bench.request(0, Access::Read)
            };
            bench.iommu.translate(&request).unwrap_err();
            assert_eq!(bench.causes(), [cause]);
        }
    }
}
