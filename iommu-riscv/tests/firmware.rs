//! The RIMT, byte by byte as its specification lays it out, and broken in every way.

use iommu_core::ids::{DeviceId, PhysicalAddress};
use iommu_riscv::firmware::{InterruptWire, Location, Node, Rimt, RimtError};

/// Little-endian fields, put where the specification's byte offsets say.
fn bytes(length: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (offset, field) in fields {
        bytes[*offset..offset + field.len()].copy_from_slice(field);
    }
    bytes
}

fn header(node_type: u8, length: u16, id: u16) -> Vec<u8> {
    let [low, high] = length.to_le_bytes();
    let [id_low, id_high] = id.to_le_bytes();
    vec![node_type, 1, low, high, 0, 0, id_low, id_high]
}

fn platform_iommu() -> Vec<u8> {
    bytes(
        56,
        &[
            (0, &header(0, 56, 0)),
            (8, b"RSCV0004"),
            (16, &0x301_0000u64.to_le_bytes()),
            (24, &2u32.to_le_bytes()),
            (28, &3u32.to_le_bytes()),
            (36, &2u16.to_le_bytes()),
            (38, &40u16.to_le_bytes()),
            (40, &36u32.to_le_bytes()),
            (44, &3u32.to_le_bytes()),
            (48, &37u32.to_le_bytes()),
        ],
    )
}

fn pcie_iommu() -> Vec<u8> {
    bytes(
        40,
        &[
            (0, &header(0, 40, 1)),
            (24, &1u32.to_le_bytes()),
            (32, &2u16.to_le_bytes()),
            (34, &0x0008u16.to_le_bytes()),
        ],
    )
}

fn mapping(source: u32, count: u32, device: u32, iommu: u32, flags: u32) -> Vec<u8> {
    [source, count, device, iommu, flags]
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect()
}

/// The specification's own example: two ranges, to device ids 0 and 0x10.
fn root_complex(iommu: u32) -> Vec<u8> {
    bytes(
        60,
        &[
            (0, &header(1, 60, 2)),
            (8, &1u32.to_le_bytes()),
            (14, &7u16.to_le_bytes()),
            (16, &20u16.to_le_bytes()),
            (18, &2u16.to_le_bytes()),
            (20, &mapping(0x0000, 0x10, 0, iommu, 0)),
            (40, &mapping(0x0100, 0x10, 0x10, iommu, 3)),
        ],
    )
}

fn platform_device(iommu: u32) -> Vec<u8> {
    bytes(
        44,
        &[
            (0, &header(2, 44, 3)),
            (8, &24u16.to_le_bytes()),
            (10, &1u16.to_le_bytes()),
            (12, b"\\_SB.DMA0\0"),
            (24, &mapping(0, 1, 0x20, iommu, 0)),
        ],
    )
}

fn unknown() -> Vec<u8> {
    bytes(12, &[(0, &header(9, 12, 4)), (8, b"what")])
}

fn with_checksum(mut table: Vec<u8>) -> Vec<u8> {
    table[9] = 0;
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = sum.wrapping_neg();
    table
}

fn table(nodes: &[Vec<u8>]) -> Vec<u8> {
    let length = 48 + nodes.iter().map(Vec::len).sum::<usize>();
    let mut table = bytes(
        48,
        &[
            (0, b"RIMT"),
            (4, &(length as u32).to_le_bytes()),
            (8, &[1]),
            (36, &(nodes.len() as u32).to_le_bytes()),
            (40, &48u32.to_le_bytes()),
        ],
    );
    table.extend(nodes.concat());
    with_checksum(table)
}

fn whole() -> Vec<u8> {
    let (platform, pcie) = (48, 48 + 56);
    table(&[
        platform_iommu(),
        pcie_iommu(),
        root_complex(platform),
        platform_device(pcie),
        unknown(),
    ])
}

fn nodes(table: &[u8]) -> Vec<Node<'_>> {
    let rimt = Rimt::new(table).unwrap();
    rimt.nodes().map(Result::unwrap).collect()
}

#[test]
fn iommus_say_where_they_are() {
    let table = whole();
    let [Node::Iommu(platform), Node::Iommu(pcie), ..] = &nodes(&table)[..] else {
        panic!("two IOMMUs first")
    };
    let address = PhysicalAddress(0x301_0000);
    assert_eq!(platform.location, Location::Platform(address));
    assert_eq!(platform.proximity_domain, Some(3));
    assert_eq!((platform.id, platform.offset), (0, 48));
    let wire = |number, is_level, is_active_high| InterruptWire {
        number,
        is_level,
        is_active_high,
    };
    let wires: Vec<_> = platform.interrupt_wires().collect();
    assert_eq!(wires, [wire(36, true, true), wire(37, false, false)]);
    let location = Location::Pcie {
        segment: 2,
        function: 8,
    };
    assert_eq!(pcie.location, location);
    assert_eq!(pcie.proximity_domain, None);
    assert_eq!((pcie.id, pcie.offset), (1, 104));
    assert_eq!(pcie.interrupt_wires().count(), 0);
}

#[test]
fn devices_are_mapped_to_device_ids_of_an_iommu() {
    let table = whole();
    let rimt = Rimt::new(&table).unwrap();
    let [
        _,
        _,
        Node::RootComplex(complex),
        Node::PlatformDevice(device),
        _,
    ] = &nodes(&table)[..]
    else {
        panic!("a root complex and a device")
    };
    assert_eq!((complex.id, complex.segment), (2, 7));
    assert!(complex.has_ats && !complex.has_page_requests);
    let device_id = |source| complex.mappings.device_id(source).map(|(id, _)| id);
    assert_eq!(device_id(0x0f), Some(DeviceId(0x0f)));
    assert_eq!(device_id(0x10), None);
    assert_eq!(device_id(0xff), None);
    assert_eq!(device_id(0x100), Some(DeviceId(0x10)));
    assert_eq!(device_id(0x10f), Some(DeviceId(0x1f)));
    let (_, mapping) = complex.mappings.device_id(0x100).unwrap();
    assert!(mapping.needs_ats && mapping.needs_page_requests);
    assert_eq!(rimt.iommu(&mapping).unwrap().id, 0);

    assert_eq!((device.id, device.name), (3, &b"\\_SB.DMA0"[..]));
    let (id, mapping) = device.mappings.device_id(0).unwrap();
    assert_eq!(id, DeviceId(0x20));
    assert_eq!(rimt.iommu(&mapping).unwrap().id, 1);
}

#[test]
fn an_unknown_node_is_handed_over() {
    let table = whole();
    let nodes = nodes(&table);
    assert!(matches!(
        nodes.last(),
        Some(Node::Unknown { node_type: 9, bytes }) if *bytes == unknown()
    ));
}

#[test]
fn a_mapping_that_leads_past_the_last_device_id_leads_nowhere() {
    let mut node = root_complex(48);
    node[20..40].copy_from_slice(&mapping(0, u32::MAX, u32::MAX - 1, 48, 0));
    let table = table(&[node]);
    let [Node::RootComplex(complex)] = &nodes(&table)[..] else {
        panic!("a root complex")
    };
    let device_id = |source| complex.mappings.device_id(source).map(|(id, _)| id);
    assert_eq!(device_id(1), Some(DeviceId(u32::MAX)));
    assert_eq!(device_id(2), None);
}

#[test]
fn a_table_with_a_wrong_header_is_refused() {
    let good = whole();
    let length = good.len() as u32;
    assert_eq!(
        Rimt::new(&good[..47]).unwrap_err(),
        RimtError::Length { length, bytes: 47 }
    );
    assert_eq!(
        Rimt::new(&[]).unwrap_err(),
        RimtError::Length {
            length: 0,
            bytes: 0
        }
    );
    let mut bad = good.clone();
    bad[0] = b'D';
    assert_eq!(Rimt::new(&bad).unwrap_err(), RimtError::Signature(*b"DIMT"));
    let mut bad = good.clone();
    bad[60] ^= 1;
    assert!(matches!(Rimt::new(&bad), Err(RimtError::Checksum { .. })));
    let mut bad = good.clone();
    bad[4..8].copy_from_slice(&47u32.to_le_bytes());
    assert!(matches!(
        Rimt::new(&bad),
        Err(RimtError::Length { length: 47, .. })
    ));
    let mut longer = good.clone();
    longer.push(0x55);
    assert_eq!(Rimt::new(&longer).unwrap().nodes().count(), 5);
}

#[test]
fn a_node_that_does_not_fit_ends_the_walk_with_an_error() {
    let broken = |change: fn(&mut Vec<u8>)| {
        let mut table = whole();
        change(&mut table);
        let table = with_checksum(table);
        let rimt = Rimt::new(&table).unwrap();
        let found: Vec<_> = rimt.nodes().collect();
        let (last, before) = found.split_last().unwrap();
        assert!(before.iter().all(Result::is_ok));
        (before.len(), last.clone().map(|_| ()))
    };
    let at = |offset| Err(RimtError::Node { offset });
    // The node array begins outside; the second node has no length; the second is too short for
    // its type; its wires, the root complex's mappings, or the device's name do not fit.
    assert_eq!(broken(|table| table[41] = 0x10), (0, at(0x1030)));
    assert_eq!(broken(|table| table[106] = 0), (1, at(104)));
    assert_eq!(broken(|table| table[106] = 39), (1, at(104)));
    assert_eq!(
        broken(|table| (table[140], table[142]) = (1, 40)),
        (1, at(104))
    );
    assert_eq!(broken(|table| table[162] = 3), (2, at(144)));
    assert_eq!(
        broken(|table| table[204 + 12..248].fill(b'A')),
        (3, at(204))
    );
    // More nodes promised than there are.
    assert_eq!(broken(|table| table[36] = 9), (5, at(260)));
}

/// A cheap fuzzer: every byte of a good table takes every value, and nothing panics or goes on for
/// ever.
#[test]
fn no_byte_can_make_it_panic_or_run_away() {
    let good = whole();
    for position in 0..good.len() {
        for value in 0..=u8::MAX {
            let mut table = good.clone();
            table[position] = value;
            let table = with_checksum(table);
            let Ok(rimt) = Rimt::new(&table) else {
                continue;
            };
            let mut count = 0;
            for node in rimt.nodes().filter_map(Result::ok) {
                count += 1;
                match node {
                    Node::Iommu(iommu) => count += iommu.interrupt_wires().count(),
                    Node::RootComplex(complex) => count += complex.mappings.iter().count(),
                    Node::PlatformDevice(device) => {
                        count += device.mappings.iter().count();
                        let _ = device.mappings.device_id(u32::MAX);
                    }
                    _ => {}
                }
            }
            assert!(count < 40, "{count} items after {position} = {value}");
        }
    }
}
