//! Commands of a guest: what is sent for them, and what is refused.

mod fake;

use fake::{FULL, Identity, Machine, NESTING, Platform};
use iommu_core::error::QueueError;
use iommu_core::guest::{
    DeviceLookup, DeviceMap, Executed, Guest, GuestDevice, GuestTag, MOST_COMMANDS, Refusal,
};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};
use iommu_core::testing::Event;
use iommu_smmuv3::Unit;
use iommu_smmuv3::caps::Capabilities;
use iommu_smmuv3::guest::{GuestCommand, validate};
use proptest::prelude::*;

const GOLDEN: &str = include_str!("golden/linux-guest-commands.txt");
const RANGES: &str = include_str!("golden/linux-range-commands.txt");

const TAG: u16 = 7;
/// The guest's devices: its own ids, and the host's.
const ONE: GuestDevice = GuestDevice {
    guest: DeviceId(0x20),
    host: DeviceId(0x108),
};
const TWO: GuestDevice = GuestDevice {
    guest: DeviceId(0x28),
    host: DeviceId(0x110),
};
const PASID_BITS: u8 = 10;

fn devices() -> DeviceMap<4> {
    let mut devices = DeviceMap::new();
    for device in [ONE, TWO] {
        devices.add(device.guest, device.host).unwrap();
    }
    devices
}

fn guest(devices: &DeviceMap<4>) -> Guest<'_> {
    Guest {
        tag: GuestTag::new(TAG).unwrap(),
        devices,
        pasid_bits: PASID_BITS,
    }
}

fn command([low, high]: [u64; 2]) -> GuestCommand {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&high.to_le_bytes());
    GuestCommand::from(bytes)
}

fn capabilities(identity: Identity) -> Capabilities {
    let Identity {
        idr0,
        idr1,
        idr3,
        idr5,
    } = identity;
    Capabilities::from_registers(idr0, idr1, idr3, idr5)
}

/// What is sent for a command on [`NESTING`].
fn sent(words: [u64; 2]) -> Result<[u64; 2], Refusal> {
    sent_on(NESTING, words)
}

fn sent_on(identity: Identity, words: [u64; 2]) -> Result<[u64; 2], Refusal> {
    let devices = devices();
    let host = validate(command(words), &guest(&devices), &capabilities(identity));
    host.map(|host| host.words())
}

/// A unit whose two devices are the guest's.
struct Scene {
    machine: Machine,
    unit: Unit<Platform>,
}

impl Scene {
    fn new(identity: Identity) -> Self {
        let machine = Machine::new(identity);
        let unit = Unit::probe(machine.parts()).unwrap();
        for device in [ONE, TWO] {
            let config = DeviceConfig {
                pasid_bits: 8,
                device_tlb: true,
                page_faults: PageFaults::Fatal,
            };
            unit.enable_device(device.host, config).unwrap();
        }
        machine.recorder.take();
        Self { machine, unit }
    }

    fn run(&self, commands: &[[u64; 2]]) -> Result<Executed, QueueError> {
        let commands: Vec<_> = commands.iter().map(|words| command(*words)).collect();
        let devices = devices();
        self.unit.invalidate_for_guest(&guest(&devices), &commands)
    }

    /// Commands other than CMD_SYNC since the last look, and doorbells.
    fn posted(&self) -> (Vec<Vec<u64>>, usize) {
        let events = self.machine.recorder.take();
        let doorbells = events.iter().filter(|event| **event == Event::Doorbell);
        let doorbells = doorbells.count();
        let commands = events.into_iter().filter_map(|event| match event {
            Event::Command(words) if words[0] as u8 != 0x46 => Some(words),
            _ => None,
        });
        (commands.collect(), doorbells)
    }
}

/// CMD_TLBI_NH_ASID of ASID 5, and what is sent for it.
const ASID: [u64; 2] = [0x0005_0000_0000_0011, 0];
const ASIDS: [u64; 2] = [0x0005_0007_0000_0011, 0];
/// CMD_ATC_INV of everything, by device.
const ATC: [[u64; 2]; 2] = [[0x20_0000_0040, 52], [0x28_0000_0040, 52]];
const ATCS: [[u64; 2]; 2] = [[0x108_0000_0040, 52], [0x110_0000_0040, 52]];
const SYNC: [u64; 2] = [0x46, 0];

fn words(text: &str) -> [u64; 2] {
    let (low, high) = text.trim().split_once(':').unwrap();
    [low, high].map(|word| u64::from_str_radix(word, 16).unwrap())
}

#[test]
fn what_linux_sends_for_a_guest_is_sent() {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let fields: Vec<_> = line.split('|').collect();
        let [name, guest, host] = fields[..] else {
            panic!("three fields: {line}")
        };
        assert_eq!(sent(words(guest)), Ok(words(host)), "{name}");
        count += 1;
    }
    assert_eq!(count, 14);
}

/// What Linux's builders produce for 200 ranges: here, what a guest writes.
#[test]
fn what_a_linux_guest_writes_is_sent_under_its_own_ids() {
    let lines = RANGES.lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        let [.., atc, ranges] = columns[..] else {
            panic!("columns: {line}")
        };
        // StreamID 8 and SubstreamID 9, here of the guest's device 0x20.
        let [low, high] = words(atc);
        let (guests, hosts) = (
            low & 0xffff_ffff | 0x20 << 32,
            low & 0xffff_ffff | 0x108 << 32,
        );
        assert_eq!(sent([guests, high]), Ok([hosts, high]), "{line}");
        let (ranges, _) = ranges.split_once(" n=").unwrap();
        for [low, high] in ranges.split(',').filter(|text| !text.is_empty()).map(words) {
            let ours = low | u64::from(TAG) << 32;
            assert_eq!(sent([low, high]), Ok([ours, high]), "{line}");
            count += 1;
        }
    }
    assert!(count >= 200, "{count}");
}

/// Linux passes these on as they are; what is sent here invalidates at least as much.
#[test]
fn hints_and_ignored_fields_are_left_out() {
    // 2 MiB from an address with a hint for level 2: the same pages at every level.
    assert_eq!(
        sent([0x0005_0000_0000_1012 | 8 << 20, 0x0020_0000 | 0b01_10 << 8]),
        Ok([0x0005_0007_0000_1012 | 8 << 20, 0x0020_0000 | 0b01_00 << 8])
    );
    // A single granule with a hint: by address.
    assert_eq!(
        sent([0x0005_0000_0000_0012, 0x7000 | 0b01_11 << 8 | 1]),
        Ok([0x0005_0007_0000_0012, 0x7001])
    );
    // A range of 64 KiB pages from an address between two.
    assert_eq!(
        sent([0x0000_0000_0000_1013, 0x1_7000 | 0b11_00 << 8]),
        Ok([0x0000_0007_0000_1013, 0x1_0000 | 0b11_00 << 8])
    );
    // Without SSV, the SubstreamID and G are ignored (4.5.1); so are address bits below the size.
    assert_eq!(
        sent([0x20_0000_9240, 0x1234_5000 | 9]),
        Ok([0x108_0000_0040, 0x1220_0000 | 9])
    );
    assert_eq!(sent([0x20_0000_0040, 0x1234_5000 | 52]), Ok(ATCS[0]));
}

#[test]
fn what_only_the_host_may_send_is_refused() {
    let opcodes = [
        0x01, 0x02, 0x03, 0x04, 0x07, 0x20, 0x21, 0x22, 0x23, 0x28, 0x2a, 0x41, 0x44, 0x45, 0x46,
        0x70, 0x73,
    ];
    for opcode in opcodes {
        let refusal = Refusal::HostOnly { opcode };
        assert_eq!(sent([opcode.into(), 0]), Err(refusal));
        assert_eq!(sent([u64::from(opcode) | !0xff, !0]), Err(refusal));
    }
    let executed = [0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x40];
    for opcode in (0..=0xff).filter(|code| !opcodes.contains(code) && !executed.contains(code)) {
        let refusal = Refusal::UnknownOpcode { opcode };
        assert_eq!(sent([opcode.into(), 0]), Err(refusal));
    }
}

/// Each bit that no field has, one at a time. QEMU and Linux look at none of them.
#[test]
fn reserved_bits_are_refused() {
    let fields: [[u64; 2]; 8] = [
        [0xffff_ffff_ffff_f005, 1],
        [0xffff_ffff_0000_0006, 0],
        [0x0000_ffff_0000_0010, 0],
        [0xffff_ffff_0000_0011, 0],
        [0xffff_ffff_01f1_f012, 0xffff_ffff_ffff_ff01],
        [0x0000_ffff_01f1_f013, 0xffff_ffff_ffff_ff01],
        [0x0000_0000_0000_0030, 0],
        [0xffff_ffff_ffff_fa40, 0xffff_ffff_ffff_f03f],
    ];
    for [low, high] in fields {
        let opcode = low & 0xff;
        for bit in (8..64).filter(|bit| low >> bit & 1 == 0) {
            let refusal = Refusal::ReservedBits {
                word: 0,
                bits: 1 << bit,
            };
            assert_eq!(sent([opcode | 1 << bit, 0]), Err(refusal), "{opcode:#x}");
        }
        for bit in (0..64).filter(|bit| high >> bit & 1 == 0) {
            let refusal = Refusal::ReservedBits {
                word: 1,
                bits: 1 << bit,
            };
            assert_eq!(sent([opcode, 1 << bit]), Err(refusal), "{opcode:#x}");
        }
    }
}

#[test]
fn values_that_stop_the_queue_are_refused() {
    let reserved = |field, value| Err(Refusal::ReservedValue { field, value });
    // A granule with neither range nor hint (4.4.1.1).
    assert_eq!(sent([0x12, 0b01_00 << 8]), reserved("TTL", 0));
    // Level 1 of 16 KiB is no hint without SMMU_IDR5.DS.
    assert_eq!(sent([0x12, 0b10_01 << 8]), reserved("TTL", 1));
    for size in 53..64 {
        assert_eq!(sent([ATC[0][0], size]), reserved("Size", size));
    }
    // NUM, SCALE and TTL are reserved without a granule.
    let bits = |word, bits| Err(Refusal::ReservedBits { word, bits });
    assert_eq!(sent([0x1012, 0]), bits(0, 0x1000));
    assert_eq!(sent([0x12, 0x300]), bits(1, 0x300));
}

#[test]
fn what_the_hardware_lacks_is_refused() {
    let without = |bits: u32| Identity {
        idr0: NESTING.idr0 & !bits,
        ..NESTING
    };
    let tag_too_wide = |tag, bits| Err(Refusal::TagTooWide { tag, bits });
    assert_eq!(sent_on(FULL, ASID), tag_too_wide(7, 0));
    let (s8, no_ats, asid_8) = (without(1 << 18), without(1 << 10), without(1 << 12));
    assert_eq!(sent_on(s8, ASID), Ok(ASIDS));
    let devices = devices();
    let wide = Guest {
        tag: GuestTag::new(0x100).unwrap(),
        ..guest(&devices)
    };
    let refusal = validate(command(ASID), &wide, &capabilities(s8)).map(|host| host.words());
    assert_eq!(refusal, tag_too_wide(0x100, 8));
    let unsupported = Refusal::Unsupported { capability: "ATS" };
    assert_eq!(sent_on(no_ats, ATC[0]), Err(unsupported));
    let bits = 0xff << 56;
    let refusal = Refusal::ReservedBits { word: 0, bits };
    assert_eq!(sent_on(asid_8, [0xff05_0000_0000_0011, 0]), Err(refusal));
    let no_ranges = Identity { idr3: 0, ..NESTING };
    let bits = 0b11 << 10;
    let refusal = Refusal::ReservedBits { word: 1, bits };
    assert_eq!(sent_on(no_ranges, [0x12, bits]), Err(refusal));
}

#[test]
fn other_peoples_devices_and_wide_pasids_are_refused() {
    for low in [0x108_0000_0040, 0x108_0000_0005, 0x108_0000_0006] {
        let refusal = Refusal::UnknownDevice(DeviceId(0x108));
        assert_eq!(
            sent([low, 0]),
            Err(refusal),
            "the host's id is not the guest's"
        );
    }
    let (pasid, bits) = (1 << PASID_BITS, PASID_BITS);
    let refusal = Refusal::PasidTooWide { pasid, bits };
    assert_eq!(sent([0x20_0040_0840, 0]), Err(refusal));
    assert_eq!(sent([0x20_0040_0005, 0]), Err(refusal));
    assert_eq!(sent([0x20_003f_f840, 0]), Ok([0x108_003f_f840, 0]));
    // An SMMU without SubstreamIDs has context descriptor 0 only, and no SSV.
    let none = Identity {
        idr1: NESTING.idr1 & !(0x1f << 6),
        ..NESTING
    };
    let refusal = Refusal::PasidTooWide { pasid: 0, bits: 0 };
    assert_eq!(sent_on(none, [0x20_0000_0840, 0]), Err(refusal));
    let first = [0x20_0000_0005, 0];
    assert_eq!(sent_on(none, first), Ok([0x108_0000_0005, 0]));
}

#[test]
fn a_batch_goes_out_with_one_doorbell_and_one_wait() {
    let scene = Scene::new(NESTING);
    let descriptor = [0x20_0000_9005, 1];
    let executed = scene.run(&[descriptor, ASID, ATC[0], ATC[1]]).unwrap();
    assert_eq!((executed.taken, executed.refused), (4, None));
    assert!(executed.silent.is_empty());
    let events = scene.machine.recorder.take();
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
    assert_eq!(sync[0] as u8, 0x46);
    let expected = [[0x108_0000_9005, 1], ASIDS, ATCS[0], ATCS[1]];
    assert_eq!(commands, expected.map(command));
}

#[test]
fn a_batch_ends_at_the_first_command_that_is_refused() {
    let scene = Scene::new(NESTING);
    let executed = scene.run(&[ASID, ATC[0], SYNC, ATC[1]]).unwrap();
    let refusal = Refusal::HostOnly { opcode: 0x46 };
    assert_eq!((executed.taken, executed.refused), (2, Some(refusal)));
    assert_eq!(scene.posted(), (vec![ASIDS.to_vec(), ATCS[0].to_vec()], 1));
    let executed = scene.run(&[SYNC, ASID]).unwrap();
    assert_eq!((executed.taken, executed.refused), (0, Some(refusal)));
    assert_eq!(
        scene.posted(),
        (vec![], 0),
        "the hardware hears nothing of it"
    );
    let executed = scene.run(&[]).unwrap();
    assert_eq!((executed.taken, executed.refused), (0, None));
    assert_eq!(scene.posted(), (vec![], 0));
}

#[test]
fn more_commands_than_one_call_takes_are_taken_by_the_next() {
    let scene = Scene::new(NESTING);
    let commands = [ASID; 150];
    let mut rest = &commands[..];
    let mut taken = Vec::new();
    while !rest.is_empty() {
        let executed = scene.run(rest).unwrap();
        assert_eq!(executed.refused, None);
        taken.push(executed.taken);
        rest = &rest[executed.taken..];
    }
    assert_eq!(taken, [MOST_COMMANDS, MOST_COMMANDS, 22]);
    let (posted, doorbells) = scene.posted();
    assert_eq!((posted.len(), doorbells), (150, 3));
}

#[test]
fn a_silent_device_is_named_by_both_ids_and_the_others_are_done() {
    let scene = Scene::new(NESTING);
    scene.machine.smmu.state().silent_device = Some(ONE.host.0);
    let executed = scene.run(&[ASID, ATC[0], ATC[1], ASID]).unwrap();
    assert_eq!((executed.taken, executed.refused), (4, None));
    assert_eq!(executed.silent.iter().collect::<Vec<_>>(), [ONE]);
    // All, then each for itself; the silent one twice, as the error names nobody.
    let all = [ASIDS, ATCS[0], ATCS[1], ASIDS];
    let alone = [ASIDS, ATCS[0], ATCS[0], ATCS[1], ASIDS];
    let expected: Vec<_> = all
        .iter()
        .chain(&alone)
        .map(|words| words.to_vec())
        .collect();
    assert_eq!(scene.posted(), (expected, 6));

    let refusal = Refusal::DeviceSilent(ONE.guest);
    let executed = scene.run(&[ATC[1], ATC[0]]).unwrap();
    assert_eq!((executed.taken, executed.refused), (1, Some(refusal)));
    assert!(executed.silent.is_empty());

    scene.unit.quarantine(ONE.host).unwrap();
    scene.posted();
    let executed = scene.run(&[ATC[0], ATC[1]]).unwrap();
    assert_eq!((executed.taken, executed.refused), (2, None), "left out");
    assert_eq!(scene.posted(), (vec![ATCS[1].to_vec()], 1));
}

#[test]
fn a_device_that_cannot_be_asked_is_refused() {
    let scene = Scene::new(NESTING);
    scene.unit.disable_device(ONE.host).unwrap();
    for words in [ATC[0], [0x20_0000_0006, 0]] {
        let executed = scene.run(&[words]).unwrap();
        let refusal = Refusal::UnknownDevice(ONE.guest);
        assert_eq!(executed.refused, Some(refusal));
    }
    let config = DeviceConfig::default();
    scene.unit.enable_device(ONE.host, config).unwrap();
    let executed = scene.run(&[[0x20_0000_0006, 0], ATC[0]]).unwrap();
    let refusal = Refusal::NoDeviceTlb(ONE.guest);
    assert_eq!((executed.taken, executed.refused), (1, Some(refusal)));
}

#[test]
fn an_error_of_the_queue_is_told() {
    let scene = Scene::new(NESTING);
    scene.machine.smmu.state().illegal_at = vec![0];
    let error = scene.run(&[ASID]).unwrap_err();
    assert!(
        matches!(error, QueueError::IllegalCommand { .. }),
        "{error}"
    );
    assert_eq!(scene.run(&[ASID]).unwrap().taken, 1);
}

/// Words that are now and then a command: of any opcode, with most bits clear in some.
fn any_words() -> impl Strategy<Value = [u64; 2]> {
    let word = || {
        prop_oneof![
            any::<u64>(),
            any::<[u64; 3]>().prop_map(|[a, b, c]| a & b & c)
        ]
    };
    let device = prop_oneof![Just(0x20u64), Just(0x28), Just(0x108), 0u64..0x200];
    let opcode = prop_oneof![
        Just(0x05u64),
        Just(0x06),
        Just(0x10),
        Just(0x11),
        Just(0x12),
        Just(0x13),
        Just(0x30),
        Just(0x40),
        any::<u8>().prop_map(u64::from)
    ];
    let fields = prop_oneof![
        Just([0xffff_ffff_01f1_fa00, !0xfe]),
        Just([!0, !0]),
        Just([0, 0])
    ];
    (opcode, word(), word(), device, fields, any::<bool>()).prop_map(
        |(opcode, low, high, device, [in_low, in_high], names_device)| {
            let low = low & in_low & !0xff | opcode;
            let low = if names_device {
                low & 0xffff_ffff | device << 32
            } else {
                low
            };
            [low, high & in_high]
        },
    )
}

/// What chapter 4 says of a command of the non-secure queue: that no reserved bit is set, and whom it
/// concerns. `None` if it may not be sent for a guest.
fn concerns([low, high]: [u64; 2]) -> Option<Result<u64, u64>> {
    let clear = |in_low: u64, in_high: u64| low & in_low == 0 && high & in_high == 0;
    let (vmid, stream) = (Ok(low >> 32 & 0xffff), Err(low >> 32));
    let (num_scale, tg, ttl) = (low & 0x01f1_f000, high >> 10 & 3, high >> 8 & 3);
    let legal_range = match tg {
        0 => num_scale == 0 && ttl == 0,
        _ => num_scale != 0 || ttl != 0,
    };
    let (concerns, is_legal) = match low & 0xff {
        0x05 => (stream, clear(0x0f00, !1)),
        0x06 => (stream, clear(0xffff_ff00, !0)),
        0x10 => (vmid, clear(0xffff_0000_ffff_ff00, !0)),
        0x11 => (vmid, clear(0xffff_ff00, !0)),
        0x12 => (vmid, clear(0xfe0e_0f00, 0xfe) && legal_range),
        0x13 => (vmid, clear(0xffff_0000_fe0e_0f00, 0xfe) && legal_range),
        0x40 => {
            let no_substream = low & 0x800 != 0 || low & 0xffff_f200 == 0;
            (
                stream,
                clear(0x0500, 0xfc0) && no_substream && high & 0x3f <= 52,
            )
        }
        _ => return None,
    };
    is_legal.then_some(concerns)
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
    fn any_command_is_refused_or_legal_and_for_the_guest(words in any_words()) {
        if let Ok(host) = sent(words) {
            let concerned = concerns(host);
            prop_assert!(concerned.is_some(), "{words:x?} became {host:x?}");
            match concerned.unwrap() {
                Ok(vmid) => prop_assert_eq!(vmid, u64::from(TAG)),
                Err(stream) => {
                    let stream = DeviceId(stream as u32);
                    let asked = DeviceId((words[0] >> 32) as u32);
                    prop_assert_eq!(devices().host(asked), Some(stream));
                }
            }
            let substream = (host[0] >> 12 & 0xf_ffff) as u32;
            let has_substream = host[0] & 0xff == 5 || host[0] & 0x8ff == 0x840;
            prop_assert!(!has_substream || substream >> PASID_BITS == 0);
        }
    }
}

proptest! {
    #![proptest_config(cases(300))]

    /// The fake panics at a reserved bit and stops at an illegal command.
    #[test]
    fn any_batch_leaves_the_queue_running(list in prop::collection::vec(any_words(), 0..8)) {
        let scene = Scene::new(NESTING);
        let executed = scene.run(&list).unwrap();
        prop_assert_eq!(executed.taken == list.len(), executed.refused.is_none());
        let (posted, doorbells) = scene.posted();
        prop_assert_eq!(posted.len(), executed.taken);
        prop_assert_eq!(doorbells, usize::from(executed.taken > 0));
    }
}
