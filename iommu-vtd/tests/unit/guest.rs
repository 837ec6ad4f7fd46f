//! Descriptors of a guest: what is sent for them, and what is refused.

use crate::rig::*;
use iommu_core::error::QueueError;
use iommu_core::guest::{
    DeviceLookup, DeviceMap, Executed, Guest, GuestDevice, GuestTag, MOST_COMMANDS, Refusal,
};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::Iommu;
use iommu_vtd::caps::Capabilities;
use iommu_vtd::guest::{GuestCommand, validate};
use proptest::prelude::*;

/// What Linux's builders produce for 200 ranges: here, what a guest writes.
const LINUX: &str = include_str!("../golden/linux-range-commands.txt");

const DOMAIN: u16 = 0x2a;
/// The guest's devices: its own ids, and the host's.
const ONE: GuestDevice = GuestDevice {
    guest: DeviceId(0x100),
    host: DEVICE,
};
const TWO: GuestDevice = GuestDevice {
    guest: DeviceId(0x108),
    host: DeviceId(0x28),
};
const PASID_BITS: u8 = 16;
/// ECAP.DIT.
const DIT: u64 = 1 << 41;

fn devices() -> DeviceMap<4> {
    let mut devices = DeviceMap::new();
    for device in [ONE, TWO] {
        devices.add(device.guest, device.host).unwrap();
    }
    devices
}

fn guest(devices: &DeviceMap<4>) -> Guest<'_> {
    Guest {
        tag: GuestTag::new(DOMAIN).unwrap(),
        devices,
        pasid_bits: PASID_BITS,
    }
}

fn command(words: [u64; 4]) -> GuestCommand {
    let mut bytes = [0; 32];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    GuestCommand::from(bytes)
}

fn sent_on(cap: u64, ecap: u64, words: [u64; 4]) -> Result<[u64; 4], Refusal> {
    let devices = devices();
    let capabilities = Capabilities::from_registers(cap, ecap);
    let host = validate(command(words), &guest(&devices), &capabilities);
    host.map(|host| host.words())
}

/// What is sent for a descriptor on QEMU's unit: its words 0 and 1.
fn sent(low: u64, high: u64) -> Result<(u64, u64), Refusal> {
    let [low, high, third, fourth] = sent_on(QEMU_CAP, COHERENT_ECAP, [low, high, 0, 0])?;
    assert_eq!((third, fourth), (0, 0));
    Ok((low, high))
}

/// A unit whose two devices are the guest's.
struct Scene(Rig);

impl Scene {
    fn new() -> Self {
        let rig = Rig::plain();
        for device in [ONE, TWO] {
            rig.unit.enable_device(device.host, WITH_TLB).unwrap();
        }
        rig.steps();
        Self(rig)
    }

    fn run(&self, commands: &[(u64, u64)]) -> Result<Executed, QueueError> {
        let commands = commands.iter();
        let commands: Vec<_> = commands
            .map(|&(low, high)| command([low, high, 0, 0]))
            .collect();
        let devices = devices();
        let guest = guest(&devices);
        self.0.unit.invalidate_for_guest(&guest, &commands)
    }
}

/// PASID-based IOTLB of all of PASID 9 in the guest's domain 7, and what is sent for it.
const IOTLB: (u64, u64) = (0x9_0007_0026, 0);
const IOTLBS: (u64, u64) = (0x9_002a_0026, 0);
/// Everything in the device TLB of each device.
const ALL: u64 = 0x7fff_ffff_ffff_f001;
const TLB: [(u64, u64); 2] = [(0x100_0000_0003, ALL), (0x108_0000_0003, ALL)];
const TLBS: [(u64, u64); 2] = [(0x20_0000_0003, ALL), (0x28_0000_0003, ALL)];
/// A wait descriptor with a status write.
const WAIT: (u64, u64) = (0x1_0000_0025, 0x1000);

/// Domain 7 of the guest is its domain-id here, and device 0x100 is 0x20; nothing else changes.
#[test]
fn what_a_linux_guest_writes_is_sent_under_its_own_ids() {
    let mut sizes = [0; 4];
    for line in LINUX.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = line.split('|').skip(1).take(4).collect();
        let [psi, device_tlb, pasid_iotlb, pasid_device_tlb] = columns[..] else {
            panic!("four descriptors: {line}")
        };
        let columns = [
            (psi, 0xffff << 16, 0x2a << 16),
            (device_tlb, 0xffff << 32, 0x20 << 32),
            (pasid_iotlb, 0xffff << 16, 0x2a << 16),
            (pasid_device_tlb, 0xffff << 16, 0x20 << 16),
        ];
        for ((text, ids, ours), size) in columns.into_iter().zip(&mut sizes) {
            let (low, high) = text.trim().split_once(':').unwrap();
            let word = |text| u64::from_str_radix(text, 16).unwrap();
            let (low, high): (u64, u64) = (word(low), word(high));
            let iotlb = matches!(low & 0xf, 2 | 6);
            let expected = match high & 0x3f {
                // MAMV is 18 here.
                value @ 19.. if iotlb => Err(Refusal::ReservedValue { field: "AM", value }),
                _ => Ok((low & !ids | ours, high)),
            };
            *size += usize::from(expected.is_ok());
            assert_eq!(sent(low, high), expected, "{line}");
        }
    }
    assert!(sizes.iter().all(|size| *size >= 150), "{sizes:?}");
}

#[test]
fn invalidations_of_everything_become_the_guests_own() {
    // Global with DR and DW, of domain 7, and of the host's domain 1.
    for low in [0xd2, 0x0007_00e2, 0x0001_00e2] {
        assert_eq!(sent(low, 0), Ok((0x002a_00e2, 0)));
    }
    assert_eq!(sent(0x12, 0), Ok((0x002a_0022, 0)), "no more is waited for");
    // Word 1 says nothing without pages (6.5.2.3).
    assert_eq!(sent(0x22, 0x1234_5041), Ok((0x002a_0022, 0)));
    let no_drain = QEMU_CAP & !(0b11 << 54);
    let sent = sent_on(no_drain, COHERENT_ECAP, [0xd2, 0, 0, 0]);
    assert_eq!(sent, Ok([0x002a_0022, 0, 0, 0]));
}

#[test]
fn what_the_host_decides_is_not_the_guests() {
    // MIP says how much the guest wants under way; the host does not limit it.
    assert_eq!(sent(TLB[0].0 | 0x1f << 16, ALL), Ok(TLBS[0]));
    assert_eq!(
        sent(0x9_0100_01f8, 0x5001),
        Ok((0x9_0020_0008, 0x5001)),
        "G: every PASID of the guest's device"
    );
    // PFSID: the guest's own without DIT, and else the host's.
    let pfsid = 0xabc0_0000_0000_d000;
    let words = [TLB[0].0 | pfsid, ALL, 0, 0];
    let refusal = Refusal::ReservedBits {
        word: 0,
        bits: pfsid,
    };
    assert_eq!(sent_on(QEMU_CAP, COHERENT_ECAP, words), Err(refusal));
    let ours = TLBS[0].0 | 0x0020_0000_0000_0000;
    assert_eq!(
        sent_on(QEMU_CAP, COHERENT_ECAP | DIT, words),
        Ok([ours, ALL, 0, 0])
    );
}

#[test]
fn what_only_the_host_may_send_is_refused() {
    for opcode in [1, 4, 5, 7, 9] {
        let refusal = Refusal::HostOnly { opcode };
        assert_eq!(sent(opcode.into(), 0), Err(refusal));
        assert_eq!(sent(u64::from(opcode) | !0xe0f, !0), Err(refusal));
    }
    for opcode in (0..0x80).filter(|opcode| !(1..=9).contains(opcode)) {
        let low = u64::from(opcode & 0xf | (opcode >> 4) << 9);
        let refusal = Refusal::UnknownOpcode { opcode };
        assert_eq!(sent(low, 0), Err(refusal));
    }
}

/// Each bit, one at a time, against the masks that QEMU 11.1 checks (hw/i386/intel_iommu_internal.h,
/// VTD_INV_DESC_*_RSVD*): those of PFSID are there without DIT.
#[test]
fn reserved_bits_are_refused() {
    let masks = [
        (IOTLB, 0xfff0_0000_0000_ffc0u64, 0xf80u64),
        ((0x0007_0022, 0), 0xffff_ffff_0000_ff00, 0xf80),
        (TLB[0], 0xffff_0000_ffe0_fff0, 0xffe),
        ((0x9_0100_0008, 0), 0xfff0_0000_0000_fe00, 0x7fe),
    ];
    for ((low, high), in_low, in_high) in masks {
        let is_reserved = |words: [u64; 4]| {
            let refusal = sent_on(QEMU_CAP, COHERENT_ECAP, words).err();
            let is_reserved = matches!(refusal, Some(Refusal::ReservedBits { .. }));
            is_reserved || matches!(refusal, Some(Refusal::UnknownOpcode { .. }))
        };
        for bit in (0..64).map(|bit| 1 << bit) {
            if bit & 0xf == 0 {
                let reserved = is_reserved([low ^ bit, high, 0, 0]);
                assert_eq!(reserved, in_low & bit != 0, "{low:#x} and {bit:#x}");
            }
            let reserved = is_reserved([low, high ^ bit, 0, 0]);
            assert_eq!(reserved, in_high & bit != 0, "{low:#x}, {bit:#x} in word 1");
            assert!(is_reserved([low, high, bit, 0]) && is_reserved([low, high, 0, bit]));
        }
    }
}

#[test]
fn values_that_stop_the_queue_are_refused() {
    let reserved = |field, value| Err(Refusal::ReservedValue { field, value });
    assert_eq!(sent(0x02, 0), reserved("G", 0));
    assert_eq!(sent(0x06, 0), reserved("G", 0));
    assert_eq!(sent(0x16, 0), reserved("G", 1));
    assert_eq!(sent(0x32, 19), reserved("AM", 19));
    assert_eq!(sent(TLB[0].0, !0xffe), reserved("ADDR", !0xffe));
    let bits = 48;
    for address in [0x8000_0000_0000, 0x1_0000_0000_0000, 0xffff_7fff_ffff_f000] {
        let refusal = Refusal::AddressOutside { address, bits };
        assert_eq!(sent(0x9_0007_0036, address), Err(refusal));
    }
    // What the second stage translates is not sign-extended.
    let high = 0x8000_0000_0000;
    assert_eq!(sent(0x0007_0032, high), Ok((0x002a_0032, high)));
    let last = 0xffff_ffff_ffff_f000;
    assert_eq!(sent(0x9_0007_0036, last), Ok((0x9_002a_0036, last)));
    // An address in 2^36 pages, which are all there are, is any of them.
    let wide = QEMU_CAP | 0x3f << 48;
    let words = [0x9_0007_0036, 0x1234_8000_0000_0000 | 36, 0, 0];
    let all = [0x9_002a_0036, 0x1234_0000_0000_0000 | 36, 0, 0];
    assert_eq!(sent_on(wide, COHERENT_ECAP, words), Ok(all));
}

#[test]
fn what_the_hardware_lacks_is_refused() {
    let unsupported = |capability| Err(Refusal::Unsupported { capability });
    let page = [0x9_0007_0036, 0x1000, 0, 0];
    let no_pages = QEMU_CAP & !(1 << 39);
    assert_eq!(sent_on(no_pages, COHERENT_ECAP, page), unsupported("PSI"));
    let no_device_tlb = COHERENT_ECAP & !(1 << 2);
    let words = [TLB[0].0, ALL, 0, 0];
    assert_eq!(sent_on(QEMU_CAP, no_device_tlb, words), unsupported("DT"));
    // ND = 0: domain-ids of 4 bits.
    let (tag, bits) = (DOMAIN, 4);
    let refusal = Refusal::TagTooWide { tag, bits };
    assert_eq!(sent_on(QEMU_CAP & !7, COHERENT_ECAP, page), Err(refusal));
    // Types with a PASID do not fit a queue of 128-bit descriptors.
    let narrow = |low: u64, high: u64| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        let devices = devices();
        let capabilities = Capabilities::from_registers(QEMU_CAP, COHERENT_ECAP);
        let host = validate(bytes.into(), &guest(&devices), &capabilities);
        host.map(|host| host.words())
    };
    let wide = "descriptors of 256 bits";
    assert_eq!(narrow(IOTLB.0, 0), unsupported(wide));
    assert_eq!(narrow(0x9_0100_0008, 0x1000), unsupported(wide));
    assert_eq!(narrow(0x0007_0022, 0), Ok([0x002a_0022, 0, 0, 0]));
    let (low, high) = TLBS[0];
    assert_eq!(narrow(TLB[0].0, ALL), Ok([low, high, 0, 0]));
}

#[test]
fn other_peoples_devices_and_wide_pasids_are_refused() {
    let host = DEVICE.0;
    let refusal = Refusal::UnknownDevice(DEVICE);
    assert_eq!(sent(u64::from(host) << 32 | 3, 0), Err(refusal));
    assert_eq!(sent(u64::from(host) << 16 | 8, 0), Err(refusal));
    let (pasid, bits) = (1 << PASID_BITS, PASID_BITS);
    let refusal = Refusal::PasidTooWide { pasid, bits };
    assert_eq!(sent(0x1_0000_0100_0008, 0), Err(refusal));
    assert_eq!(sent(0x1_0000_0007_0026, 0), Err(refusal));
    assert_eq!(sent(0xffff_0007_0026, 0), Ok((0xffff_002a_0026, 0)));
}

#[test]
fn a_batch_goes_out_with_one_doorbell_and_one_wait() {
    let scene = Scene::new();
    let executed = scene.run(&[IOTLB, TLB[0], TLB[1], (0xd2, 0)]).unwrap();
    assert_eq!((executed.taken, executed.refused), (4, None));
    assert!(executed.silent.is_empty());
    let expected = [IOTLBS, TLBS[0], TLBS[1], (0x002a_00e2, 0)];
    assert_eq!(scene.0.steps(), list(&expected));
}

#[test]
fn a_batch_ends_at_the_first_command_that_is_refused() {
    let scene = Scene::new();
    let executed = scene.run(&[IOTLB, TLB[0], WAIT, TLB[1]]).unwrap();
    let refusal = Refusal::HostOnly { opcode: 5 };
    assert_eq!((executed.taken, executed.refused), (2, Some(refusal)));
    assert_eq!(scene.0.steps(), list(&[IOTLBS, TLBS[0]]));
    let executed = scene.run(&[WAIT, IOTLB]).unwrap();
    assert_eq!((executed.taken, executed.refused), (0, Some(refusal)));
    assert_eq!(scene.0.steps(), [], "the hardware hears nothing of it");
}

#[test]
fn more_commands_than_one_call_takes_are_taken_by_the_next() {
    let scene = Scene::new();
    let executed = scene.run(&[IOTLB; 150]).unwrap();
    assert_eq!((executed.taken, executed.refused), (MOST_COMMANDS, None));
    assert_eq!(scene.0.steps(), list(&[IOTLBS; MOST_COMMANDS]));
}

#[test]
fn a_silent_device_is_named_by_both_ids_and_the_others_are_done() {
    let alone = |commands: &[(u64, u64)]| -> Vec<Step> {
        let lists = commands.iter().map(|command| list(&[*command]));
        lists.flatten().collect()
    };
    // Where the hardware names the device, it is not asked again.
    for (named, then) in [
        (true, &[IOTLBS, TLBS[1], IOTLBS][..]),
        (false, &[IOTLBS, TLBS[0], TLBS[0], TLBS[1], IOTLBS]),
    ] {
        let scene = Scene::new();
        let silent = Some((ONE.host.0.into(), named));
        scene.0.hardware(|state| state.silent_device = silent);
        let executed = scene.run(&[IOTLB, TLB[0], TLB[1], IOTLB]).unwrap();
        assert_eq!((executed.taken, executed.refused), (4, None));
        assert_eq!(executed.silent.iter().collect::<Vec<_>>(), [ONE]);
        let all = list(&[IOTLBS, TLBS[0], TLBS[1], IOTLBS]);
        assert_eq!(scene.0.steps(), [all, alone(then)].concat());

        let executed = scene.run(&[TLB[1], TLB[0]]).unwrap();
        let refusal = Refusal::DeviceSilent(ONE.guest);
        assert_eq!((executed.taken, executed.refused), (1, Some(refusal)));
        scene.0.unit.quarantine(ONE.host).unwrap();
        scene.0.steps();
        let executed = scene.run(&[TLB[0], TLB[1]]).unwrap();
        assert_eq!((executed.taken, executed.refused), (2, None), "left out");
        assert_eq!(scene.0.steps(), list(&[TLBS[1]]));
    }
}

#[test]
fn a_device_that_cannot_be_asked_is_refused() {
    let scene = Scene::new();
    scene.0.unit.disable_device(ONE.host).unwrap();
    let refused = |scene: &Scene| scene.run(&[TLB[0]]).unwrap().refused;
    assert_eq!(refused(&scene), Some(Refusal::UnknownDevice(ONE.guest)));
    scene.0.unit.enable_device(ONE.host, WITHOUT_TLB).unwrap();
    assert_eq!(refused(&scene), Some(Refusal::NoDeviceTlb(ONE.guest)));
}

#[test]
fn an_error_of_the_queue_is_told() {
    let scene = Scene::new();
    scene.0.hardware(|state| state.reject_next = true);
    let error = scene.run(&[IOTLB]).unwrap_err();
    assert!(
        matches!(error, QueueError::IllegalCommand { .. }),
        "{error}"
    );
    assert_eq!(scene.run(&[IOTLB]).unwrap().taken, 1);
}

/// Words that are now and then a descriptor: of any type, with most bits clear in some.
fn words() -> impl Strategy<Value = [u64; 4]> {
    let word = || {
        prop_oneof![
            any::<u64>(),
            any::<[u64; 3]>().prop_map(|[a, b, c]| a & b & c)
        ]
    };
    let device = prop_oneof![Just(0x100u64), Just(0x108), Just(0x20), 0u64..0x200];
    let kind = prop_oneof![Just(2u64), Just(3), Just(6), Just(8), any::<u64>()];
    let fields = prop_oneof![
        Just([0x000f_ffff_ffff_01f0u64, !0x7fe]),
        Just([0x0000_ffff_001f_0000, !0xffe]),
        Just([0x000f_ffff_ffff_0030, !0xf80]),
        Just([!0, !0])
    ];
    let address = prop_oneof![Just(!0u64), Just(0x7fff_ffff_ffff), Just(0xffff_f03f)];
    let rest = prop_oneof![9 => Just([0, 0]), 1 => any::<[u64; 2]>()];
    ((kind, word(), word(), device), fields, address, rest).prop_map(
        |((kind, low, high, device), [in_low, in_high], address, [third, fourth])| {
            let low = low & in_low & !0xf | kind & 0xf;
            let low = match kind {
                3 => low & !(0xffff << 32) | device << 32,
                8 => low & !(0xffff << 16) | device << 16,
                _ => low,
            };
            [low, high & in_high & address, third, fourth]
        },
    )
}

/// What 6.5.2 says of a descriptor on QEMU's unit: that no reserved bit is set, and whose domain or
/// device it concerns. `None` if it may not be sent for a guest.
fn concerns([low, high, third, fourth]: [u64; 4]) -> Option<Result<u64, u64>> {
    let clear = |in_low: u64, in_high: u64| {
        low & in_low == 0 && high & in_high == 0 && third == 0 && fourth == 0
    };
    let (granularity, mask) = (low >> 4 & 3, high & 0x3f);
    let (low_16, low_32) = (low >> 16 & 0xffff, low >> 32 & 0xffff);
    let is_pasid = low >> 32 & 0xf_ffff < 1 << PASID_BITS;
    let (concerns, is_legal) = match low & 0xf {
        // Global invalidations are not a guest's.
        2 => (
            Ok(low_16),
            clear(0xffff_ffff_0000_ff00, 0xf80) && granularity >= 2 && mask <= 18,
        ),
        3 => (
            Err(low_32),
            clear(0xffff_0000_ffe0_fff0, 0xffe) && high >> 12 != !0 >> 12,
        ),
        6 => {
            let clear = clear(0xfff0_0000_0000_ffc0, 0xf80);
            (
                Ok(low_16),
                clear && is_pasid && granularity >= 2 && mask <= 18,
            )
        }
        8 => {
            let clear = clear(0xfff0_0000_0000_fe00, 0x7fe);
            (Err(low_16), clear && is_pasid && high >> 11 != !0 >> 11)
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
    fn any_command_is_refused_or_legal_and_for_the_guest(words in words()) {
        if let Ok(host) = sent_on(QEMU_CAP, COHERENT_ECAP, words) {
            let concerned = concerns(host);
            prop_assert!(concerned.is_some(), "{words:x?} became {host:x?}");
            match concerned.unwrap() {
                Ok(domain) => prop_assert_eq!(domain, u64::from(DOMAIN)),
                Err(source) => {
                    let asked = if words[0] & 0xf == 3 { words[0] >> 32 } else { words[0] >> 16 };
                    let asked = DeviceId(asked as u16 as u32);
                    prop_assert_eq!(devices().host(asked), Some(DeviceId(source as u32)));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(300))]

    /// The fake stops at an illegal descriptor.
    #[test]
    fn any_batch_leaves_the_queue_running(all in prop::collection::vec(words(), 0..8)) {
        let scene = Scene::new();
        let commands: Vec<_> = all.iter().copied().map(command).collect();
        let devices = devices();
        let executed = scene.0.unit.invalidate_for_guest(&guest(&devices), &commands).unwrap();
        prop_assert_eq!(executed.taken == all.len(), executed.refused.is_none());
        let doorbells = scene.0.steps().iter().filter(|step| **step == Step::Doorbell).count();
        prop_assert_eq!(doorbells, usize::from(executed.taken > 0));
    }
}
