//! Commands of a guest: what is sent for them, and what is refused.

use crate::fake::{self, ATS, Bench, CAPABILITIES, NL, NO_SECOND_STAGE, Rig};
use iommu_core::error::QueueError;
use iommu_core::guest::{
    DeviceLookup, DeviceMap, Executed, Guest, GuestDevice, GuestTag, MOST_COMMANDS, Refusal,
};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::testing::Event;
use iommu_riscv::caps::Capabilities;
use iommu_riscv::guest::{GuestCommand, validate};
use iommu_riscv::{Config, Unit};
use proptest::prelude::*;

/// Encoded by the reference model's bit fields: see `golden/README.md`.
const GOLDEN: &str = include_str!("../golden/reference-model.txt");

const GSCID: u16 = 0x5a5;
/// The guest's devices: its own ids, and the host's, one of each in a segment.
const ONE: GuestDevice = GuestDevice {
    guest: DeviceId(0x102),
    host: DeviceId(0x1234),
};
const TWO: GuestDevice = GuestDevice {
    guest: DeviceId(0x1_0203),
    host: DeviceId(0xfe_1235),
};
const PASID_BITS: u8 = 6;
/// NL and S beside everything else.
const FULL: u64 = CAPABILITIES | NL | fake::S;

fn devices() -> DeviceMap<4> {
    let mut devices = DeviceMap::new();
    for device in [ONE, TWO] {
        devices.add(device.guest, device.host).unwrap();
    }
    devices
}

fn guest(devices: &DeviceMap<4>) -> Guest<'_> {
    Guest {
        tag: GuestTag::new(GSCID).unwrap(),
        devices,
        pasid_bits: PASID_BITS,
    }
}

fn command([first, second]: [u64; 2]) -> GuestCommand {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    GuestCommand::from(bytes)
}

fn sent_on(capabilities: u64, words: [u64; 2]) -> Result<[u64; 2], Refusal> {
    let devices = devices();
    let capabilities = Capabilities::new(capabilities, 0);
    let host = validate(command(words), &guest(&devices), &capabilities);
    host.map(|host| host.words())
}

fn sent(words: [u64; 2]) -> Result<[u64; 2], Refusal> {
    sent_on(FULL, words)
}

/// A unit whose two devices are the guest's.
struct Scene {
    bench: Bench,
    unit: Unit<Rig>,
}

impl Scene {
    fn new() -> Self {
        let bench = Bench::new(FULL);
        let config = Config {
            device_id_bits: 24,
            ..Config::default()
        };
        let unit = bench.probe_with(config).unwrap();
        for device in [ONE, TWO] {
            unit.enable_device(device.host, with_tlb(true)).unwrap();
        }
        bench.forget();
        Self { bench, unit }
    }

    fn run(&self, commands: &[[u64; 2]]) -> Result<Executed, QueueError> {
        let commands: Vec<_> = commands.iter().map(|words| command(*words)).collect();
        let devices = devices();
        self.unit.invalidate_for_guest(&guest(&devices), &commands)
    }

    /// Commands since the last look, without the IOFENCE.C that end lists, and doorbells.
    fn posted(&self) -> (Vec<Vec<u64>>, usize) {
        let events = self.bench.recorder.take();
        let doorbells = events.iter().filter(|event| **event == Event::Doorbell);
        let doorbells = doorbells.count();
        let commands = events.into_iter().filter_map(|event| match event {
            Event::Command(words) if words[0] & 0x7ff != 0x402 => Some(words),
            _ => None,
        });
        (commands.collect(), doorbells)
    }
}

fn with_tlb(device_tlb: bool) -> DeviceConfig {
    DeviceConfig {
        pasid_bits: 8,
        device_tlb,
        page_faults: PageFaults::Fatal,
    }
}

/// IOTINVAL.VMA of everything, and what is sent for it.
const IOTINVAL: [u64; 2] = [1, 0];
const IOTINVALS: [u64; 2] = [0x5a5 << 44 | 1 << 33 | 1, 0];
/// ATS.INVAL of everything, by device.
const ALL: u64 = 0x7fff_ffff_ffff_f800;
const INVAL: [[u64; 2]; 2] = [
    [0x102 << 40 | 4, ALL],
    [1 << 56 | 0x203 << 40 | 1 << 33 | 4, ALL],
];
const INVALS: [[u64; 2]; 2] = [
    [0x1234 << 40 | 4, ALL],
    [0xfe << 56 | 0x1235 << 40 | 1 << 33 | 4, ALL],
];
/// IOFENCE.C that only orders, and one that writes a word.
const FENCE: [u64; 2] = [0x3002, 0];
const FENCE_WITH_WORD: [u64; 2] = [7 << 32 | 0x402, 0x1000];

#[test]
fn what_the_reference_model_encodes_is_sent() {
    let words = |name: &str| -> [u64; 2] {
        let found = GOLDEN.lines().find_map(|line| line.strip_prefix(name));
        let words = found.expect(name).split_whitespace();
        let words = words.map(|word| u64::from_str_radix(word, 16).unwrap());
        words.collect::<Vec<_>>().try_into().unwrap()
    };
    let names = GOLDEN
        .lines()
        .filter_map(|line| line.strip_prefix("guest_"));
    let mut count = 0;
    for name in names.map(|line| line.split(' ').next().unwrap()) {
        let guests = words(&format!("guest_{name} "));
        assert_eq!(sent(guests), Ok(words(&format!("host_{name} "))), "{name}");
        count += 1;
    }
    assert_eq!(count, 13);
}

#[test]
fn what_only_the_host_may_send_is_refused() {
    let host_only = [0x081, 0x003, 0x084];
    for opcode in host_only {
        let refusal = Refusal::HostOnly { opcode };
        assert_eq!(sent([opcode.into(), 0]), Err(refusal));
        assert_eq!(sent([u64::from(opcode) | !0x3ff, !0]), Err(refusal));
    }
    let refusal = Refusal::HostOnly { opcode: 2 };
    for words in [FENCE_WITH_WORD, [0x802, 0], [0xc02, 0x1000]] {
        assert_eq!(sent(words), Err(refusal));
    }
    let executed =
        [0x001, 0x002, 0x183, 0x004].map(|code| if code == 0x183 { 0x083 } else { code });
    for opcode in 0..0x400 {
        if !host_only.contains(&opcode) && !executed.contains(&opcode) {
            let refusal = Refusal::UnknownOpcode { opcode };
            assert_eq!(sent([opcode.into(), 0]), Err(refusal));
        }
    }
}

/// Each bit that no operand has, one at a time, as the fields "rsvd" of the specification's diagrams say.
#[test]
fn reserved_bits_are_refused() {
    let (nl, s) = (1 << 34, 1 << 9);
    let reserved = [
        (
            0x001,
            FULL,
            0xf000_0ff8_0000_0800u64,
            0xc000_0000_0000_01ffu64,
        ),
        (
            0x001,
            CAPABILITIES,
            0xf000_0ff8_0000_0800 | nl,
            0xc000_0000_0000_01ff | s,
        ),
        (0x002, FULL, 0x0000_0000_ffff_c000, 0xc000_0000_0000_0000),
        (0x083, FULL, 0x0000_00fd_0000_0c00, !0),
        (0x004, FULL, 0x0000_00fc_0000_0c00, 0x0000_0000_0000_07fe),
    ];
    for (code, capabilities, in_first, in_second) in reserved {
        for bit in (0..64).map(|bit| 1u64 << bit) {
            for (word, words, mask) in [(0, [code | bit, 0], in_first), (1, [code, bit], in_second)]
            {
                if word == 0 && bit & 0x3ff != 0 {
                    continue;
                }
                let refusal = Refusal::ReservedBits { word, bits: bit };
                let is_refused = sent_on(capabilities, words) == Err(refusal);
                assert_eq!(is_refused, mask & bit != 0, "{code:#x}, {bit:#x} in {word}");
            }
        }
    }
}

#[test]
fn values_that_are_illegal_or_left_open_are_refused() {
    let reserved = |field, value| Err(Refusal::ReservedValue { field, value });
    let range = 1 << 10 | 1;
    // "The behavior is UNSPECIFIED" (section "Address Range Invalidation Extension").
    let ones = 0x3fff_ffff_ffff_fe00;
    assert_eq!(sent([range, ones]), reserved("ADDR", !0xfff));
    assert_eq!(sent([4 | 0x102 << 40, !0x7ff]), reserved("PAYLOAD", !0x7ff));
    assert_eq!(sent([0x083, 0]), reserved("DV", 0));
    // "The command may or may not perform any invalidations." Sv48 is the widest here.
    let bits = 48;
    for address in [0x8000_0000_0000u64, 0xffff_7fff_ffff_f000] {
        let refusal = Refusal::AddressOutside { address, bits };
        assert_eq!(sent([range, address >> 2]), Err(refusal));
    }
    // All of it is every address, however it is written.
    let all = 0x1fff_ffff_ffff_fe00;
    assert_eq!(sent([range, all]), Ok([IOTINVALS[0] | 1 << 10, all]));
}

#[test]
fn what_the_hardware_lacks_is_refused() {
    let unsupported = Refusal::Unsupported { capability: "ATS" };
    assert_eq!(sent_on(FULL & !ATS, INVAL[0]), Err(unsupported));
    let refusal = Refusal::TagTooWide {
        tag: GSCID,
        bits: 0,
    };
    assert_eq!(sent_on(NO_SECOND_STAGE, IOTINVAL), Err(refusal));
}

#[test]
fn other_peoples_devices_and_wide_pasids_are_refused() {
    let refusal = Refusal::UnknownDevice(ONE.host);
    assert_eq!(sent([0x1234 << 40 | 4, 0]), Err(refusal), "the host's id");
    assert_eq!(sent([0x1234 << 40 | 1 << 33 | 0x083, 0]), Err(refusal));
    // The same requester in another segment is another device.
    let elsewhere = Refusal::UnknownDevice(DeviceId(0x2_0102));
    assert_eq!(
        sent([2 << 56 | 0x102 << 40 | 1 << 33 | 4, 0]),
        Err(elsewhere)
    );
    let (pasid, bits) = (1 << PASID_BITS, PASID_BITS);
    let refusal = Refusal::PasidTooWide { pasid, bits };
    assert_eq!(sent([0x102 << 40 | 1 << 32 | 0x4_0004, 0]), Err(refusal));
    assert_eq!(sent([0x102 << 40 | 1 << 33 | 0x4_0083, 0]), Err(refusal));
    let widest = 0x102 << 40 | 1 << 32 | 0x3_f004;
    let expected = 0x1234 << 40 | 1 << 32 | 0x3_f004;
    assert_eq!(sent([widest, 0]), Ok([expected, 0]));
}

#[test]
fn a_batch_goes_out_with_one_doorbell_and_one_wait() {
    let scene = Scene::new();
    let process = [0x102 << 40 | 1 << 33 | 0x5083, 0];
    let commands = [process, IOTINVAL, FENCE, INVAL[0], INVAL[1]];
    let executed = scene.run(&commands).unwrap();
    assert_eq!((executed.taken, executed.refused), (5, None));
    assert!(executed.silent.is_empty());
    let events = scene.bench.recorder.take();
    let command = |words: [u64; 2]| Event::Command(words.to_vec());
    let [
        commands @ ..,
        Event::Command(sync),
        Event::Doorbell,
        Event::Wait,
    ] = &events[..]
    else {
        panic!("one list: {events:x?}")
    };
    assert_eq!(sync[0] & 0xffff_ffff, 0x3402);
    let process = [0x1234 << 40 | 1 << 33 | 0x5083, 0];
    let expected = [process, IOTINVALS, FENCE, INVALS[0], INVALS[1]];
    assert_eq!(commands, expected.map(command));
}

#[test]
fn a_batch_ends_at_the_first_command_that_is_refused() {
    let scene = Scene::new();
    let commands = [IOTINVAL, INVAL[0], FENCE_WITH_WORD, INVAL[1]];
    let executed = scene.run(&commands).unwrap();
    let refusal = Refusal::HostOnly { opcode: 2 };
    assert_eq!((executed.taken, executed.refused), (2, Some(refusal)));
    let expected = vec![IOTINVALS.to_vec(), INVALS[0].to_vec()];
    assert_eq!(scene.posted(), (expected, 1));
    let executed = scene.run(&[FENCE_WITH_WORD, IOTINVAL]).unwrap();
    assert_eq!((executed.taken, executed.refused), (0, Some(refusal)));
    assert_eq!(
        scene.posted(),
        (vec![], 0),
        "the hardware hears nothing of it"
    );
}

#[test]
fn more_commands_than_one_call_takes_are_taken_by_the_next() {
    let scene = Scene::new();
    let executed = scene.run(&[IOTINVAL; 150]).unwrap();
    assert_eq!((executed.taken, executed.refused), (MOST_COMMANDS, None));
    let (posted, doorbells) = scene.posted();
    assert_eq!((posted.len(), doorbells), (MOST_COMMANDS, 1));
}

#[test]
fn a_silent_device_is_named_by_both_ids_and_the_others_are_done() {
    let scene = Scene::new();
    scene.bench.fake.state().silent_device = Some(0x1234);
    let commands = [IOTINVAL, INVAL[0], INVAL[1], IOTINVAL];
    let executed = scene.run(&commands).unwrap();
    assert_eq!((executed.taken, executed.refused), (4, None));
    assert_eq!(executed.silent.iter().collect::<Vec<_>>(), [ONE]);
    // All, then each for itself; the silent one twice, as the error names nobody.
    let all = [IOTINVALS, INVALS[0], INVALS[1], IOTINVALS];
    let alone = [IOTINVALS, INVALS[0], INVALS[0], INVALS[1], IOTINVALS];
    let expected: Vec<_> = all
        .iter()
        .chain(&alone)
        .map(|words| words.to_vec())
        .collect();
    assert_eq!(scene.posted(), (expected, 6));

    let refusal = Refusal::DeviceSilent(ONE.guest);
    let executed = scene.run(&[INVAL[1], INVAL[0]]).unwrap();
    assert_eq!((executed.taken, executed.refused), (1, Some(refusal)));
    scene.unit.quarantine(ONE.host).unwrap();
    scene.posted();
    let executed = scene.run(&INVAL).unwrap();
    assert_eq!((executed.taken, executed.refused), (2, None), "left out");
    assert_eq!(scene.posted(), (vec![INVALS[1].to_vec()], 1));
}

#[test]
fn a_device_that_cannot_be_asked_is_refused() {
    let scene = Scene::new();
    scene.unit.disable_device(ONE.host).unwrap();
    let refused = |scene: &Scene, words| scene.run(&[words]).unwrap().refused;
    let process = [0x102 << 40 | 1 << 33 | 0x5083, 0];
    for words in [INVAL[0], process] {
        let refusal = Refusal::UnknownDevice(ONE.guest);
        assert_eq!(refused(&scene, words), Some(refusal));
    }
    scene.unit.enable_device(ONE.host, with_tlb(false)).unwrap();
    let refusal = Refusal::NoDeviceTlb(ONE.guest);
    assert_eq!(refused(&scene, INVAL[0]), Some(refusal));
    assert_eq!(refused(&scene, process), None);
}

#[test]
fn an_error_of_the_queue_is_told() {
    let scene = Scene::new();
    scene.bench.fake.state().illegal_at = vec![0];
    let error = scene.run(&[IOTINVAL]).unwrap_err();
    assert!(
        matches!(error, QueueError::IllegalCommand { .. }),
        "{error}"
    );
    assert_eq!(scene.run(&[IOTINVAL]).unwrap().taken, 1);
}

/// Words that are now and then a command: of any opcode, with most bits clear in some.
fn words() -> impl Strategy<Value = [u64; 2]> {
    let word = || {
        prop_oneof![
            any::<u64>(),
            any::<[u64; 3]>().prop_map(|[a, b, c]| a & b & c)
        ]
    };
    let device = prop_oneof![Just(0x102u64), Just(0x1_0203), Just(0x1234), 0u64..0x200];
    let code = prop_oneof![
        Just(0x001u64),
        Just(0x002),
        Just(0x083),
        Just(0x004),
        any::<u16>().prop_map(|code| u64::from(code) & 0x3ff)
    ];
    let fields = prop_oneof![
        Just([0x0fff_f007_ffff_f400u64, 0x3fff_ffff_ffff_fe00u64]),
        Just([0x0000_0003_0003_f000, 0]),
        Just([0x0000_0003_0003_f000, !0x7fe]),
        Just([!0, !0])
    ];
    let second = prop_oneof![Just(!0u64), Just(0x1fff_ffff_fe00), Just(0xffff_ffff_f801)];
    (code, word(), word(), device, fields, second, any::<bool>()).prop_map(
        |(code, first, second, device, [in_first, in_second], within, names_device)| {
            let first = first & in_first & !0x3ff | code;
            let first = match names_device {
                true => first & ((1 << 40) - 1) | device << 40 | 1 << 33,
                false => first,
            };
            // RID and DSEG are the halves of a device id, the other way round than in DID.
            let first = match code {
                4 if names_device => first & ((1 << 40) - 1) | (device & 0xff_ffff) << 40,
                _ => first,
            };
            [first, second & in_second & within]
        },
    )
}

/// What the specification says of a command: that no reserved bit is set and no encoding illegal, and
/// whom it concerns: a VM, or a device. `None` if it may not be sent for a guest.
fn concerns([first, second]: [u64; 2]) -> Option<Concern> {
    let clear = |in_first: u64, in_second: u64| first & in_first == 0 && second & in_second == 0;
    let bit = |number: u32| first >> number & 1 == 1;
    let process_is_its = first >> 12 & 0xf_ffff < 1 << PASID_BITS;
    let (concern, is_legal) = match first & 0x3ff {
        0x001 => {
            let gscid = bit(33).then_some(first >> 44 & 0xffff);
            let clear = clear(0xf000_0ff8_0000_0800, 0xc000_0000_0000_01ff);
            let all_ones = second == 0x3fff_ffff_ffff_fe00;
            (Concern::Vm(gscid), clear && !(bit(10) && all_ones))
        }
        0x002 => (Concern::Nobody, clear(0xffff_ffff_ffff_cc00, !0)),
        0x083 => {
            let clear = clear(0x0000_00fd_0000_0c00, !0);
            (
                Concern::Device(first >> 40),
                clear && bit(33) && process_is_its,
            )
        }
        0x004 => {
            let clear = clear(0x0000_00fc_0000_0c00, 0x7fe);
            let segment = if bit(33) { first >> 56 } else { 0 };
            let device = segment << 16 | first >> 40 & 0xffff;
            let is_legal = clear && (!bit(32) || process_is_its) && second >> 11 != !0 >> 11;
            (Concern::Device(device), is_legal)
        }
        _ => return None,
    };
    is_legal.then_some(concern)
}

#[derive(Debug)]
enum Concern {
    Vm(Option<u64>),
    Device(u64),
    Nobody,
}

/// So many, and a failure is not written to a file.
fn cases(count: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(count)
    }
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn any_command_is_refused_or_legal_and_for_the_guest(words in words()) {
        if let Ok(host) = sent(words) {
            let concern = concerns(host);
            prop_assert!(concern.is_some(), "{words:x?} became {host:x?}");
            match concern.unwrap() {
                Concern::Vm(gscid) => prop_assert_eq!(gscid, Some(u64::from(GSCID))),
                Concern::Device(device) => {
                    let Some(Concern::Device(asked)) = concerns(words) else {
                        panic!("{words:x?} names no device");
                    };
                    let host = devices().host(DeviceId(asked as u32));
                    prop_assert_eq!(host, Some(DeviceId(device as u32)));
                }
                Concern::Nobody => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(300))]

    /// The fake stops at an illegal command.
    #[test]
    fn any_batch_leaves_the_queue_running(list in prop::collection::vec(words(), 0..8)) {
        let scene = Scene::new();
        let executed = scene.run(&list).unwrap();
        prop_assert_eq!(executed.taken == list.len(), executed.refused.is_none());
        let (posted, doorbells) = scene.posted();
        prop_assert_eq!(posted.len(), executed.taken);
        prop_assert_eq!(doorbells, usize::from(executed.taken > 0));
    }
}
