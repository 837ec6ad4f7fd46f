use crate::fake::WBF;
use crate::rig::*;
use iommu_core::error::{AttachError, OutOfMemory};
use iommu_core::ids::DeviceId;
use iommu_core::iommu::{DeviceConfig, Iommu, PageFaults};

/// Bits from Linux's macros: PASIDE BIT(3), DTE BIT(2), PDTS at 9, present BIT(0).
#[test]
fn enable_writes_a_context_entry() {
    let rig = Rig::plain();
    for (device, config, bits) in [
        (DEVICE, WITH_TLB, 7 << 9 | 0b1101),
        (DeviceId::from_bdf(0, 31, 7), WITHOUT_TLB, 7 << 9 | 0b1001),
        (
            DeviceId::from_bdf(255, 16, 0),
            DeviceConfig {
                pasid_bits: 14,
                device_tlb: false,
                page_faults: PageFaults::Fatal,
            },
            1 << 9 | 0b1001,
        ),
        (
            DeviceId::from_bdf(255, 15, 7),
            DeviceConfig {
                pasid_bits: 13,
                device_tlb: false,
                page_faults: PageFaults::Fatal,
            },
            0b1001,
        ),
        (DeviceId::from_bdf(3, 0, 0), DeviceConfig::default(), 0b0001),
    ] {
        assert_eq!(rig.unit.device_config(device), None);
        rig.unit.enable_device(device, config).unwrap();
        let [low, high, third, fourth] = rig.words(rig.context_entry(device).unwrap());
        assert_eq!(low & 0xfff, bits, "{device}");
        assert_eq!([high, third, fourth], [0; 3]);
        assert_eq!(rig.bench.load(low & !0xfff), 0, "the directory is empty");
        assert_eq!(rig.unit.device_config(device), Some(config));
    }
    assert_eq!(rig.steps(), []);
}

#[test]
fn a_narrow_iommu_narrows_the_device() {
    let rig = Rig::new(QEMU_CAP, COHERENT_ECAP & !(0x1f << 35) | 7 << 35);
    assert_eq!(rig.unit.features().pasid_bits, 8);
    rig.unit.enable_device(DEVICE, WITHOUT_TLB).unwrap();
    assert_eq!(rig.unit.device_config(DEVICE).unwrap().pasid_bits, 8);
    assert_eq!(
        rig.unit.attach(DEVICE, pasid(256), TAG, &TABLE),
        Err(AttachError::PasidTooWide {
            pasid: pasid(256),
            bits: 8
        })
    );
    rig.unit.attach(DEVICE, pasid(255), TAG, &TABLE).unwrap();
}

/// 1 | device (3) << 4 | SID << 32; PASID cache, domain 0; IOTLB, domain 0, drained.
#[test]
fn caching_mode_forgets_that_the_device_was_not_present() {
    let rig = Rig::new(QEMU_CAP | CM, COHERENT_ECAP);
    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    let expected = list(&[(0x20_0000_0031, 0), (0x07, 0), (0xe2, 0)]);
    assert_eq!(rig.steps(), expected);
}

/// Context cache of the device, all PASIDs, all of the IOTLB, fence, device TLB without PASID and
/// with S and every address bit but 63.
#[test]
fn disable_forgets_the_device_in_order() {
    let rig = Rig::plain();
    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    rig.unit.disable_device(DEVICE).unwrap();
    let iotlb = [(0x20_0000_0031, 0), (0x37, 0), (0xd2, 0)];
    let device_tlb = [FENCE, (0x20_0000_0003, 0x7fff_ffff_ffff_f001)];
    assert_eq!(rig.steps(), list(&[iotlb.as_slice(), &device_tlb].concat()));
    assert_eq!(rig.words::<4>(rig.context_entry(DEVICE).unwrap()), [0; 4]);
    assert_eq!(rig.unit.device_config(DEVICE), None);

    rig.unit.enable_device(DEVICE, WITHOUT_TLB).unwrap();
    rig.unit.disable_device(DEVICE).unwrap();
    assert_eq!(rig.steps(), list(&iotlb));
}

#[test]
fn mistakes_are_named_and_change_nothing() {
    let rig = Rig::plain();
    let unknown = Err(AttachError::UnknownDevice(DEVICE));
    assert_eq!(rig.unit.disable_device(DEVICE), unknown);
    assert_eq!(rig.unit.attach(DEVICE, pasid(1), TAG, &TABLE), unknown);
    assert_eq!(rig.unit.block(DEVICE, pasid(1)), unknown);
    assert_eq!(rig.unit.detach(DEVICE, pasid(1)), unknown);
    let wide = DeviceId(0x1_0000);
    assert_eq!(
        rig.unit.enable_device(wide, WITH_TLB),
        Err(AttachError::DeviceIdTooWide(wide))
    );
    assert_eq!(rig.unit.device_config(wide), None);

    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    let entry = rig.context_entry(DEVICE).unwrap();
    let before: [u64; 4] = rig.words(entry);
    assert_eq!(
        rig.unit.enable_device(DEVICE, WITHOUT_TLB),
        Err(AttachError::DeviceInUse(DEVICE))
    );
    rig.unit.attach(DEVICE, pasid(1), TAG, &TABLE).unwrap();
    assert_eq!(
        rig.unit.disable_device(DEVICE),
        Err(AttachError::PasidInUse(DEVICE, pasid(1)))
    );
    assert_eq!(rig.words::<4>(entry), before);
    assert_eq!(rig.steps(), []);
}

#[test]
fn a_device_tlb_needs_the_capability() {
    let rig = Rig::new(QEMU_CAP, COHERENT_ECAP & !(1 << 2));
    assert!(!rig.unit.features().device_tlb);
    assert_eq!(
        rig.unit.enable_device(DEVICE, WITH_TLB),
        Err(AttachError::NoDeviceTlb)
    );
    rig.unit.enable_device(DEVICE, WITHOUT_TLB).unwrap();
}

#[test]
fn a_required_write_buffer_flush_follows_every_table_change() {
    let rig = Rig::new(QEMU_CAP | RWBF, COHERENT_ECAP);
    let flushes = || rig.hardware(|state| core::mem::take(&mut state.write_buffer_flushes));
    assert_eq!(flushes(), 1);
    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    assert_eq!(flushes(), 1);
    rig.unit.attach(DEVICE, pasid(9), TAG, &TABLE).unwrap();
    assert_eq!(flushes(), 1);
    rig.unit.block(DEVICE, pasid(9)).unwrap();
    assert_eq!(flushes(), 1);
    rig.unit.detach(DEVICE, pasid(9)).unwrap();
    rig.unit.disable_device(DEVICE).unwrap();
    assert_eq!(flushes(), 1);
}

#[test]
fn a_device_that_the_hardware_may_still_look_at_is_kept() {
    let rig = Rig::plain();
    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    let blocks = rig.bench.heap.live_blocks();
    rig.hardware(|state| state.silent = true);
    assert!(matches!(
        rig.unit.disable_device(DEVICE),
        Err(AttachError::Queue(_))
    ));
    let [low, ..] = rig.words::<4>(rig.context_entry(DEVICE).unwrap());
    assert_eq!(low & 1, 0, "but it is not present");
    assert_eq!(rig.bench.heap.live_blocks(), blocks);
}

#[test]
fn a_device_that_could_not_be_enabled_is_not_present_and_its_memory_is_kept() {
    let rig = Rig::new(QEMU_CAP | CM, COHERENT_ECAP);
    let blocks = rig.bench.heap.live_blocks();
    rig.hardware(|state| state.silent = true);
    assert!(matches!(
        rig.unit.enable_device(DEVICE, WITH_TLB),
        Err(AttachError::Queue(_))
    ));
    let [low, ..] = rig.words::<4>(rig.context_entry(DEVICE).unwrap());
    assert_eq!(low & 1, 0);
    let context_table_and_directory = 2;
    assert_eq!(
        rig.bench.heap.live_blocks(),
        blocks + context_table_and_directory
    );
}

#[test]
fn a_stuck_write_buffer_is_a_time_out() {
    let rig = Rig::new(QEMU_CAP | RWBF, COHERENT_ECAP);
    rig.hardware(|state| state.stuck = WBF);
    assert!(matches!(
        rig.unit.enable_device(DEVICE, WITH_TLB),
        Err(AttachError::Queue(_))
    ));
    let [low, ..] = rig.words::<4>(rig.context_entry(DEVICE).unwrap());
    assert_eq!(low & 1, 0);
}

#[test]
fn out_of_memory_changes_nothing() {
    for left in 0..2 {
        let rig = Rig::plain();
        let blocks = rig.bench.heap.live_blocks();
        rig.bench.heap.fail_after(left);
        assert!(matches!(
            rig.unit.enable_device(DEVICE, WITH_TLB),
            Err(AttachError::OutOfMemory(OutOfMemory { .. }))
        ));
        assert_eq!(rig.unit.device_config(DEVICE), None);
        assert_eq!(rig.bench.heap.live_blocks(), blocks);
        rig.bench.heap.fail_after(usize::MAX);
        rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    }
    let rig = Rig::plain();
    rig.unit.enable_device(DEVICE, WITH_TLB).unwrap();
    rig.bench.heap.fail_after(0);
    assert!(matches!(
        rig.unit.attach(DEVICE, pasid(9), TAG, &TABLE),
        Err(AttachError::OutOfMemory(OutOfMemory { bytes: 4096 }))
    ));
    assert_eq!(rig.pasid_entry(DEVICE, pasid(9)), None);
    rig.bench.heap.fail_after(usize::MAX);
    rig.unit.attach(DEVICE, pasid(9), TAG, &TABLE).unwrap();
}
