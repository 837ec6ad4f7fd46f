use crate::rig::*;
use iommu_core::error::{AttachError, Incompatible};
use iommu_core::ids::{Pasid, Tag};
use iommu_core::iommu::Iommu;
use iommu_core::page_table::{Format, PageTable};

/// Bits from Linux's pasid.h: AW at 2 (2 is 48 bits), PGTT at 6 (1 is first level), DID at 64, page-walk snoop at 87,
/// FLPM at 130, FLPTPTR at 140.
const ENTRY: [u64; 8] = [0x49, 0x80_0001, 0x1234_5000, 0, 0, 0, 0, 0];

/// 7 | PASID-selective (1) << 4 | DID 1 << 16 | PASID 9 << 32, and
/// 6 | all in the PASID (2) << 4 | DID 1 << 16 | PASID 9 << 32.
const CACHES: [(u64, u64); 2] = [(0x9_0001_0017, 0), (0x9_0001_0026, 0)];

#[test]
fn attach_writes_a_first_stage_entry_and_posts_nothing() {
    for with in [Pasid::UNTAGGED, pasid(9), pasid(63), pasid(64), Pasid::MAX] {
        let rig = Rig::plain();
        rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
        rig.unit.attach(DEVICE, with, TAG, &TABLE).unwrap();
        let entry = rig.pasid_entry(DEVICE, with).unwrap();
        assert_eq!(rig.words::<8>(entry), ENTRY);
        assert_eq!(rig.steps(), []);
    }
}

#[test]
fn an_entry_says_how_the_table_is_walked() {
    let table = PageTable {
        format: Format::X86_64 { levels: 5 },
        written_back: true,
        ..TABLE
    };
    let rig = Rig::new(QEMU_CAP | 1 << 60, COHERENT_ECAP & !(1 << 48));
    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    rig.unit
        .attach(DEVICE, pasid(9), Tag(0xffff), &table)
        .unwrap();
    let entry = rig.pasid_entry(DEVICE, pasid(9)).unwrap();
    let expected = [0x4d, 0xffff, 0x1234_5004, 0, 0, 0, 0, 0];
    assert_eq!(rig.words::<8>(entry), expected, "5 levels, no snoop");
}

#[test]
fn caching_mode_forgets_that_the_pasid_was_not_present() {
    let rig = Rig::new(QEMU_CAP | CM, COHERENT_ECAP);
    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    rig.steps();
    rig.unit.attach(DEVICE, pasid(9), TAG, &TABLE).unwrap();
    assert_eq!(rig.steps(), list(&CACHES));
}

/// The device TLB of a PASID: 8 | SID 0x20 << 16 | PASID 9 << 32; S (bit 11) and every address bit
/// but 63.
#[test]
fn block_takes_the_entry_away_and_invalidates_device_tlb_last() {
    let rig = Rig::plain().attached(WITH_TLB, pasid(9));
    rig.unit.block(DEVICE, pasid(9)).unwrap();
    let device_tlb = [FENCE, (0x9_0020_0008, 0x7fff_ffff_ffff_f800)];
    let expected = list(&[CACHES, device_tlb].concat());
    assert_eq!(rig.steps(), expected);
    let entry: [u64; 8] = rig.words(rig.pasid_entry(DEVICE, pasid(9)).unwrap());
    assert_eq!(entry[0], 0x4a, "P clear, FPD set, the rest as it was");
    assert_eq!(entry[1..], ENTRY[1..]);

    rig.unit.block(DEVICE, pasid(9)).unwrap();
    assert_eq!(rig.steps(), [], "the second time costs nothing");
    rig.unit.detach(DEVICE, pasid(9)).unwrap();
    assert_eq!(rig.steps(), [], "nor does detaching what is blocked");
    let entry = rig.pasid_entry(DEVICE, pasid(9)).unwrap();
    assert_eq!(rig.words::<8>(entry), [0; 8]);
}

#[test]
fn detach_blocks_first() {
    let rig = Rig::plain().attached(WITHOUT_TLB, pasid(9));
    rig.unit.detach(DEVICE, pasid(9)).unwrap();
    assert_eq!(rig.steps(), list(&CACHES));
    let entry = rig.pasid_entry(DEVICE, pasid(9)).unwrap();
    assert_eq!(rig.words::<8>(entry), [0; 8]);
    rig.unit.attach(DEVICE, pasid(9), TAG, &TABLE).unwrap();
    assert_eq!(rig.words::<8>(entry), ENTRY, "the PASID can be used again");
}

/// The device TLB without a PASID: 3 | SID 0x20 << 32; S is bit 0.
#[test]
fn untagged_requests_are_pasid_0_with_a_device_tlb_descriptor_of_their_own() {
    let rig = Rig::plain().attached(WITH_TLB, Pasid::UNTAGGED);
    rig.unit.detach(DEVICE, Pasid::UNTAGGED).unwrap();
    let expected = list(&[
        (0x1_0017, 0),
        (0x1_0026, 0),
        FENCE,
        (0x20_0000_0003, 0x7fff_ffff_ffff_f001),
    ]);
    assert_eq!(rig.steps(), expected);
}

#[test]
fn mistakes_are_named_and_change_nothing() {
    let rig = Rig::plain().attached(WITH_TLB, pasid(9));
    let entry = rig.pasid_entry(DEVICE, pasid(9)).unwrap();
    assert_eq!(
        rig.unit.attach(DEVICE, pasid(9), Tag(2), &TABLE),
        Err(AttachError::PasidInUse(DEVICE, pasid(9)))
    );
    let unknown = Err(AttachError::UnknownPasid(DEVICE, pasid(8)));
    assert_eq!(rig.unit.block(DEVICE, pasid(8)), unknown);
    assert_eq!(rig.unit.detach(DEVICE, pasid(8)), unknown);
    let five = PageTable {
        format: Format::X86_64 { levels: 5 },
        ..TABLE
    };
    assert_eq!(
        rig.unit.attach(DEVICE, pasid(8), TAG, &five),
        Err(AttachError::Incompatible(
            Incompatible::VirtualAddressBits { cpu: 57, iommu: 48 }
        ))
    );
    assert_eq!(rig.words::<8>(entry), ENTRY);
    assert_eq!(rig.steps(), []);
    rig.unit.detach(DEVICE, pasid(9)).unwrap();
    let twice = Err(AttachError::UnknownPasid(DEVICE, pasid(9)));
    assert_eq!(rig.unit.detach(DEVICE, pasid(9)), twice);
}

#[test]
fn a_pasid_that_the_hardware_did_not_forget_stays_attached() {
    let rig = Rig::plain().attached(WITHOUT_TLB, pasid(9));
    rig.hardware(|state| state.silent = true);
    assert!(matches!(
        rig.unit.detach(DEVICE, pasid(9)),
        Err(AttachError::Queue(_))
    ));
    let entry = rig.pasid_entry(DEVICE, pasid(9)).unwrap();
    assert_eq!(rig.bench.load(entry), 0x4a, "not present, not cleared");
    assert_eq!(
        rig.unit.attach(DEVICE, pasid(9), TAG, &TABLE),
        Err(AttachError::PasidInUse(DEVICE, pasid(9)))
    );
}

#[test]
fn a_pasid_that_could_not_be_attached_is_not_present() {
    let rig = Rig::new(QEMU_CAP | CM, COHERENT_ECAP);
    rig.unit.enable_device(DEVICE, WITHOUT_TLB).unwrap();
    rig.hardware(|state| state.silent = true);
    assert!(matches!(
        rig.unit.attach(DEVICE, pasid(9), TAG, &TABLE),
        Err(AttachError::Queue(_))
    ));
    let entry = rig.pasid_entry(DEVICE, pasid(9)).unwrap();
    assert_eq!(rig.bench.load(entry), 0x4a, "not present, not cleared");
}

#[test]
fn the_throttle_names_the_physical_function() {
    // DIT: PFSID[3:0] at 12, PFSID[15:4] at 52; here 0x20 is 0 and 2.
    let rig = Rig::new(QEMU_CAP, COHERENT_ECAP | 1 << 41).attached(WITH_TLB, pasid(9));
    rig.unit.detach(DEVICE, pasid(9)).unwrap();
    let command = Step::Command(0x20_0009_0020_0008, 0x7fff_ffff_ffff_f800);
    assert!(rig.steps().contains(&command));
    let odd = iommu_core::ids::DeviceId(0xabcd);
    rig.unit.enable_device(odd, WITH_TLB).unwrap();
    rig.unit.disable_device(odd).unwrap();
    let command = Step::Command(0xabc0_abcd_0000_d003, 0x7fff_ffff_ffff_f001);
    assert!(rig.steps().contains(&command));
}
