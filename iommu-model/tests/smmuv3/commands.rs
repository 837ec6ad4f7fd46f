//! Consumption of commands: what is illegal, how the queue stops and goes on, what a CMD_SYNC
//! waits for.

use crate::raw::{FORGET_DEVICE, Raw, SYNC, offset};
use crate::smmuv3_bench::{BASE, DEVICE};
use iommu_model::smmuv3::{Configuration, FlagUpdate, StallModel};
use iommu_model::{Hardware, Policy};

const ILL: u32 = 1;
const ABT: u32 = 2;
const ATC_INV_SYNC: u32 = 3;

/// CMD_ATC_INV of a page without a SubstreamID.
const ATC_INV: [u64; 2] = [0x40 | (DEVICE as u64) << 32, 0x7000_0000];

fn refused(configuration: Configuration, command: [u64; 2]) -> bool {
    let raw = Raw::new(configuration);
    raw.post(command);
    match raw.stopped() {
        None => false,
        Some(error) => {
            assert_eq!(error, ILL, "{command:#x?}");
            assert_eq!(
                raw.read(offset::CMDQ_CONS) & 0xff,
                0,
                "it stays at the command"
            );
            true
        }
    }
}

#[test]
fn opcodes_that_do_not_exist_are_illegal() {
    let known = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x28,
        0x2a, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46,
    ];
    for opcode in 0..=0xff {
        let expected = !known.contains(&opcode);
        assert_eq!(
            refused(Configuration::default(), [opcode, 0]),
            expected,
            "{opcode:#x}"
        );
    }
}

#[test]
fn fields_that_must_not_be_what_they_are_make_a_command_illegal() {
    let full = Configuration::default();
    let illegal = [
        // SSec.
        [0x03 | 1 << 10, 0],
        // Reserved bits.
        [0x03 | 1 << 12, 0],
        [0x11, 1],
        [0x30, 1 << 63],
        // NUM, SCALE or TTL without TG; TG alone.
        [0x12 | 1 << 12, 0],
        [0x12 | 1 << 20, 0],
        [0x12, 1 << 8],
        [0x12, 1 << 10],
        // Size above 52; Resp and CS reserved.
        [0x40, 53],
        [0x41, 0b11 << 12],
        [0x46 | 0b11 << 12, 0],
    ];
    for command in illegal {
        assert!(refused(full, command), "{command:#x?}");
    }
    let ignores = Configuration {
        check_reserved: false,
        ..full
    };
    assert!(!refused(ignores, [0x11, 1]));
    assert!(
        refused(ignores, [0x12, 1 << 10]),
        "this is not a reserved field"
    );
    let without = [
        (
            Configuration {
                stage_1: false,
                ..full
            },
            0x05,
        ),
        (
            Configuration {
                stage_1: false,
                ..full
            },
            0x11,
        ),
        (
            Configuration {
                stage_2: false,
                ..full
            },
            0x28,
        ),
        (
            Configuration {
                stage_2: false,
                ..full
            },
            0x2a,
        ),
        (
            Configuration {
                hypervisor: false,
                ..full
            },
            0x20,
        ),
        (Configuration { ats: false, ..full }, 0x40),
        (Configuration { pri: false, ..full }, 0x41),
        (
            Configuration {
                stall_model: StallModel::Never,
                ..full
            },
            0x44,
        ),
        (
            Configuration {
                stall_model: StallModel::Never,
                ..full
            },
            0x45,
        ),
    ];
    for (configuration, opcode) in without {
        assert!(refused(configuration, [opcode, 0]), "{opcode:#x}");
        assert!(!refused(full, [opcode, 0]), "{opcode:#x}");
    }
    let old = Configuration {
        range_invalidation: false,
        flag_update: FlagUpdate::None,
        ..full
    };
    assert!(
        refused(old, [0x12 | 1 << 12, 1 << 10]),
        "there are no ranges"
    );
}

#[test]
fn a_stopped_queue_goes_on_when_the_error_is_acknowledged() {
    let raw = Raw::new(Configuration::default());
    raw.run(FORGET_DEVICE);
    raw.post([0xff, 0]);
    raw.post(SYNC);
    assert_eq!(raw.stopped(), Some(ILL));
    assert_eq!(raw.read(offset::CMDQ_CONS) & 0xff, 2);
    // Repaired, and not yet acknowledged.
    raw.bench.store(raw.commands + 32, SYNC[0]);
    raw.write(offset::CMDQ_PROD, 4);
    assert_eq!(raw.read(offset::CMDQ_CONS) & 0xff, 2);
    raw.write(offset::GERRORN, raw.read(offset::GERROR));
    assert_eq!(raw.read(offset::CMDQ_CONS) & 0xff, 4);
    assert_eq!(raw.stopped(), None);
    // A second error toggles the bit back.
    raw.post([0xff, 0]);
    assert_eq!(
        (raw.read(offset::GERROR) & 1, raw.stopped()),
        (0, Some(ILL))
    );
    assert_eq!(raw.bench.smmu.take_complaints(), [""; 0]);
}

#[test]
fn a_queue_that_is_not_memory_aborts() {
    let raw = Raw::new(Configuration::default());
    raw.write(offset::CR0, 0);
    raw.write64(offset::CMDQ_BASE, (BASE - 0x1000) | 4);
    raw.write(offset::CR0, 0b1000);
    raw.write(offset::CMDQ_PROD, 1);
    assert_eq!(raw.stopped(), Some(ABT));
}

#[test]
fn indices_wrap_with_their_flag() {
    let raw = Raw::new(Configuration::default());
    for _ in 0..40 {
        raw.run(FORGET_DEVICE);
    }
    assert_eq!(raw.read(offset::CMDQ_CONS) & 0xff, 80 % 32);
    raw.write(offset::CMDQ_PROD, 80 % 32 + 17);
    assert_eq!(
        raw.bench.smmu.take_complaints(),
        ["CMDQ_PROD leaves the queue"]
    );
}

#[test]
fn a_sync_writes_its_message_and_interrupts() {
    let raw = Raw::new(Configuration::default());
    let word = raw.bench.page();
    // CS = SIG_IRQ, inner shareable, write-back, data 7.
    raw.run([0x0000_0007_0fc0_1046, word + 4]);
    assert_eq!(raw.bench.memory().cpu_load(word), 7 << 32);
    assert_eq!(raw.bench.smmu.take_interrupts(), ["CMD_SYNC"]);
    // CS = SIG_SEV and SIG_NONE ignore the message.
    raw.run([0x0000_0009_0fc0_2046, word]);
    raw.run([0x0000_0009_0fc0_0046, word]);
    assert_eq!(raw.bench.memory().cpu_load(word), 7 << 32);
    raw.run([0x0000_0009_0fc0_1046, BASE - 64]);
    assert_eq!(raw.read(offset::GERROR), 1 << 4, "MSI_CMDQ_ABT_ERR");
}

#[test]
fn a_sync_waits_for_the_device_and_32_tags_are_all() {
    let raw = Raw::new(Configuration::default());
    let endpoint = raw.bench.connect(DEVICE);
    for _ in 0..3 {
        for _ in 0..12 {
            raw.post(ATC_INV);
        }
    }
    assert_eq!(endpoint.received.lock().unwrap().invalidations.len(), 32);
    raw.post(SYNC);
    let waiting = raw.read(offset::CMDQ_PROD) - 1;
    assert_eq!(raw.read(offset::CMDQ_CONS), waiting);
    let tags: u32 = {
        let received = endpoint.received.lock().unwrap();
        received
            .invalidations
            .iter()
            .fold(0, |tags, it| tags | 1 << it.itag)
    };
    assert_eq!(tags, u32::MAX);
    assert_eq!(endpoint.answer(), 32);
    assert_eq!(
        raw.read(offset::CMDQ_CONS),
        waiting,
        "four were sent only now"
    );
    assert_eq!(endpoint.answer(), 4);
    assert_eq!(raw.read(offset::CMDQ_CONS), waiting + 1);
}

#[test]
fn an_invalidation_request_names_its_block() {
    let raw = Raw::new(Configuration::default());
    let endpoint = raw.bench.connect(DEVICE);
    endpoint.answer_always();
    let [opcode, _] = ATC_INV;
    let tagged = opcode | 9 << 12 | 1 << 11;
    for command in [
        [tagged, 0x7f12_3456_7000],
        [tagged, 0x7f12_3456_7000 | 9],
        [tagged | 1 << 9, 52],
        [opcode | 1 << 9, 0xffff_f000 | 52],
    ] {
        raw.run(command);
    }
    let received = endpoint.received.lock().unwrap();
    let told = received.history.iter();
    let told: Vec<_> = told
        .map(|it| (it.pasid, it.global, it.address, it.size))
        .collect();
    assert_eq!(
        told,
        [
            (Some(9), false, 0x7f12_3456_7000, 0x1000),
            (Some(9), false, 0x7f12_3440_0000, 0x20_0000),
            (Some(9), true, 0, 0),
            (None, false, 0, 0),
        ]
    );
}

#[test]
fn a_silent_device_stops_the_queue_at_the_sync() {
    let raw = Raw::new(Configuration::default());
    let endpoint = raw.bench.connect(DEVICE);
    raw.post(ATC_INV);
    raw.post(SYNC);
    raw.bench.smmu.time_out_devices();
    assert_eq!(raw.stopped(), Some(ATC_INV_SYNC));
    assert_eq!(raw.read(offset::CMDQ_CONS) & 0xff, 1, "at the CMD_SYNC");
    raw.write(offset::GERRORN, raw.read(offset::GERROR));
    assert_eq!(
        raw.read(offset::CMDQ_CONS) & 0xff,
        2,
        "which waits for nothing any more"
    );
    // The tag of the lost one is not used again before the device answers.
    raw.post(ATC_INV);
    assert_eq!(endpoint.received.lock().unwrap().invalidations[1].itag, 1);
    assert_eq!(endpoint.answer(), 2);
    raw.run(FORGET_DEVICE);
}

#[test]
fn an_invalidation_for_a_device_that_is_not_there_ends_at_once() {
    let raw = Raw::new(Configuration::default());
    raw.run(ATC_INV);
    assert_eq!(raw.stopped(), None);
}

#[test]
fn a_sync_comes_after_everything_before_it_in_any_order() {
    for seed in 0..50 {
        let raw = Raw::with_policy(Configuration::default(), Policy::FREE, seed);
        let endpoint = raw.bench.connect(DEVICE);
        let word = raw.bench.page();
        for _ in 0..5 {
            raw.post(FORGET_DEVICE);
            raw.post(ATC_INV);
        }
        raw.post([0x0000_0007_0fc0_1046, word]);
        raw.bench.machine.settle();
        assert_eq!(raw.bench.memory().cpu_load(word), 0, "the device is silent");
        assert_eq!(endpoint.answer(), 5);
        raw.bench.machine.settle();
        assert_eq!(raw.bench.memory().cpu_load(word), 7);
    }
}
