use super::*;
use crate::cover::Block;
use proptest::prelude::*;

const fn device(id: u32) -> DeviceId {
    DeviceId(id)
}

#[test]
fn a_map_knows_the_guests_devices_and_no_more_than_fit() {
    let mut map = DeviceMap::<3>::new();
    for (guest, host) in [(8, 0x108), (2, 0x102), (5, 0x105)] {
        map.add(device(guest), device(host)).unwrap();
    }
    let host = |map: &DeviceMap<3>, guest| map.host(device(guest)).map(|id| id.0);
    assert_eq!(
        [2, 5, 8].map(|id| host(&map, id)),
        [0x102, 0x105, 0x108].map(Some)
    );
    assert_eq!(host(&map, 0), None, "an empty place is no device");
    let add = |map: &mut DeviceMap<3>, guest, host| map.add(device(guest), device(host));
    let full = Err(MapError::Full { most: 3 });
    assert_eq!(add(&mut map, 9, 0x109), full);
    assert_eq!(
        add(&mut map, 5, 0x109),
        Err(MapError::GuestIdInUse(device(5)))
    );
    assert_eq!(
        add(&mut map, 9, 0x105),
        Err(MapError::HostIdInUse(device(0x105)))
    );
    assert_eq!(map.remove(device(2)), Some(device(0x102)));
    assert_eq!(map.remove(device(2)), None);
    assert_eq!(
        [2, 5, 8].map(|id| host(&map, id)),
        [None, Some(0x105), Some(0x108)]
    );
    assert_eq!(add(&mut map, 9, 0x102), Ok(()));
    assert_eq!(host(&map, 9), Some(0x102));
    assert_eq!(add(&mut DeviceMap::<3>::default(), 1, 1), Ok(()));
    assert_eq!(
        DeviceMap::<0>::new().add(device(1), device(1)),
        Err(MapError::Full { most: 0 })
    );
}

#[test]
fn tags_and_pasids_fit_or_are_refused() {
    assert_eq!(GuestTag::new(0), None);
    let map = DeviceMap::<1>::new();
    let guest = Guest {
        tag: GuestTag::new(0x100).unwrap(),
        devices: &map,
        pasid_bits: 8,
    };
    assert_eq!(guest.tag_of(16), Ok(0x100));
    assert_eq!(guest.tag_of(9), Ok(0x100));
    for bits in [8, 0] {
        assert_eq!(
            guest.tag_of(bits),
            Err(Refusal::TagTooWide { tag: 0x100, bits })
        );
    }
    let pasid = |value, hardware| guest.pasid(value, hardware).map(Pasid::get);
    let too_wide = |pasid, bits| Err(Refusal::PasidTooWide { pasid, bits });
    assert_eq!(pasid(0xff, 20), Ok(0xff));
    assert_eq!(pasid(0, 20), Ok(0));
    assert_eq!(pasid(0x100, 20), too_wide(0x100, 8));
    assert_eq!(pasid(0x10, 4), too_wide(0x10, 4));
    assert_eq!(pasid(0, 0), too_wide(0, 0));
    let everything = Guest {
        pasid_bits: 255,
        ..guest
    };
    assert_eq!(everything.pasid(5, 255), Ok(Pasid::new(5).unwrap()));
    let (pasid, bits) = (1 << 20, 20);
    let refusal = Refusal::PasidTooWide { pasid, bits };
    assert_eq!(everything.pasid(pasid, 255), Err(refusal));
    let unknown = Refusal::UnknownDevice(device(3));
    assert_eq!(guest.device(device(3)), Err(unknown));
}

#[test]
fn bits_outside_the_fields_are_refused_with_the_first_word_that_has_any() {
    let bits = |words, fields| check_reserved::<2>(words, fields);
    assert_eq!(bits([0xff, 0], [0xff, 0]), Ok(()));
    let refusal = |word, bits| Err(Refusal::ReservedBits { word, bits });
    assert_eq!(bits([0x1ff, 1], [0xff, 0]), refusal(0, 0x100));
    assert_eq!(bits([0xff, 3], [0xff, 1]), refusal(1, 2));
}

#[test]
fn words_are_little_endian_and_what_is_not_there_is_zero() {
    let bytes: [u8; 32] = core::array::from_fn(|index| index as u8);
    let wide = GuestCommand::<4>::from(bytes);
    assert_eq!(wide.words()[0], 0x0706_0504_0302_0100);
    assert_eq!(wide.words()[3], 0x1f1e_1d1c_1b1a_1918);
    let [half, _] = bytes.as_chunks::<16>().0 else {
        panic!("two halves")
    };
    let narrow = GuestCommand::<4>::from(*half);
    assert_eq!(narrow.words(), [wide.words()[0], wide.words()[1], 0, 0]);
    assert_eq!((narrow.bytes(), wide.bytes()), (16, 32));
    assert_eq!(GuestCommand::<2>::from(*half).words(), narrow.words()[..2]);
}

proptest! {
    /// The address bits that are not below the lowest clear one are kept (PCIe 6.0 section 10.3.1).
    #[test]
    fn a_sized_address_is_the_block_that_it_says(page in 0u64..1 << 52, order in 0u32..60) {
        let order = order.min(52);
        let address = page >> order << order << 12;
        let expected = if order == 52 { Block::ALL } else { Block { address, order } };
        let found = match order.checked_sub(1) {
            None => sized_block(address | 0xfff, false, "ADDR"),
            Some(ones) => sized_block(address | ((1 << ones) - 1) << 12, true, "ADDR"),
        };
        prop_assert_eq!(found, Ok(expected));
    }
}

#[test]
fn a_sized_address_of_ones_says_nothing() {
    let refusal = Refusal::ReservedValue {
        field: "ADDR",
        value: !0,
    };
    assert_eq!(sized_block(!0, true, "ADDR"), Err(refusal));
    let last = Block {
        address: !0xfff,
        order: 0,
    };
    assert_eq!(sized_block(!0, false, "ADDR"), Ok(last));
}
