//! The DMAR table: right ones, wrong ones, and any bytes at all.

use iommu_vtd::firmware::{DeviceScope, Dmar, DmarError, ScopeKind, Structure};

/// A table around `structures`, with the right length and checksum. Offsets are those of the
/// specification's chapter 8.
fn table(structures: &[&[u8]]) -> Vec<u8> {
    let mut table = b"DMAR\0\0\0\0\x01\0".to_vec();
    table.resize(36, 0xaa);
    table.extend([46, 0b101]);
    table.resize(48, 0);
    table.extend(structures.concat());
    seal(table)
}

fn seal(mut table: Vec<u8>) -> Vec<u8> {
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = sum.wrapping_neg();
    table
}

/// The unit at 0xfed90000 as QEMU describes it: INCLUDE_PCI_ALL, one I/O APIC at 00:1e.1 with id 0.
#[rustfmt::skip]
const UNIT: &[u8] = &[
    0, 0, 24, 0, 1, 0, 0, 0, 0x00, 0x00, 0xd9, 0xfe, 0, 0, 0, 0,
    3, 8, 0, 0, 0, 0xff, 0x1e, 1,
];

#[test]
fn a_unit_and_its_scope_are_found() {
    let bytes = table(&[UNIT]);
    let dmar = Dmar::parse(&bytes).unwrap();
    assert_eq!(dmar.host_address_width(), 47);
    assert!(dmar.interrupt_remapping() && dmar.dma_opt_in());
    let structures: Vec<_> = dmar.structures().map(Result::unwrap).collect();
    let [Structure::Unit(unit)] = structures[..] else {
        panic!("{structures:?}");
    };
    assert_eq!((unit.segment, unit.register_base), (0, 0xfed9_0000));
    assert_eq!((unit.register_bytes, unit.include_all), (4096, true));
    let scopes: Vec<DeviceScope> = unit.scopes.map(Result::unwrap).collect();
    let [scope] = scopes[..] else {
        panic!("{scopes:?}");
    };
    assert_eq!((scope.kind, scope.start_bus), (ScopeKind::IoApic, 0xff));
    assert_eq!(scope.path().collect::<Vec<_>>(), [(0x1e, 1)]);
}

#[test]
#[rustfmt::skip]
fn every_structure_is_known_and_unknown_ones_are_kept() {
    let bytes = table(&[
        // RMRR: segment 2, 0x1000 to 0x2fff, a bridge on bus 5 with a path of two.
        &[1, 0, 34, 0, 0, 0, 2, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0xff, 0x2f, 0, 0, 0, 0, 0, 0,
          2, 10, 0, 0, 7, 5, 1, 2, 3, 4],
        // ATSR: all ports of segment 1.
        &[2, 0, 8, 0, 1, 0, 1, 0],
        // RHSA.
        &[3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0, 6, 0, 0, 0],
        // ANDD: number 9.
        &[4, 0, 14, 0, 0, 0, 0, 9, b'\\', b'_', b'S', b'B', 0, 0],
        // SATC: required.
        &[5, 0, 16, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 2, 0],
        // SIDP.
        &[6, 0, 8, 0, 0, 0, 3, 0],
        &[0x34, 0x12, 6, 0, 1, 2],
    ]);
    let found: Vec<_> = Dmar::parse(&bytes).unwrap().structures().map(Result::unwrap).collect();
    let [
        Structure::ReservedMemory(memory),
        Structure::RootPortAts { segment: 1, all_ports: true, .. },
        Structure::Affinity { register_base: 0xfed9_0000, proximity_domain: 6 },
        Structure::AcpiDevice { number: 9, name: b"\\_SB" },
        Structure::PlatformAts { segment: 0, required: true, scopes },
        Structure::PlatformProperties { segment: 3, .. },
        Structure::Unknown { kind: 0x1234, body: [1, 2] },
    ] = found[..] else {
        panic!("{found:?}");
    };
    assert_eq!((memory.segment, memory.base, memory.limit), (2, 0x1000, 0x2fff));
    let scope = memory.scopes.clone().next().unwrap().unwrap();
    assert_eq!((scope.kind, scope.enumeration_id), (ScopeKind::Bridge, 7));
    assert_eq!(scope.path().collect::<Vec<_>>(), [(1, 2), (3, 4)]);
    assert_eq!(scopes.clone().next().unwrap().unwrap().kind, ScopeKind::Endpoint);
}

#[test]
fn the_header_is_checked() {
    let good = table(&[UNIT]);
    let mut wrong = good.clone();
    wrong[0] = b'X';
    assert_eq!(
        Dmar::parse(&wrong).unwrap_err(),
        DmarError::Signature(*b"XMAR")
    );
    let mut wrong = good.clone();
    wrong[20] ^= 0x10;
    assert!(matches!(
        Dmar::parse(&wrong),
        Err(DmarError::Checksum { .. })
    ));
    let available = good.len();
    for claimed in [0, 47, available + 1, u32::MAX as usize] {
        let mut wrong = good.clone();
        wrong[4..8].copy_from_slice(&(claimed as u32).to_le_bytes());
        assert_eq!(
            Dmar::parse(&wrong).unwrap_err(),
            DmarError::Length { claimed, available }
        );
    }
    assert_eq!(
        Dmar::parse(&good[..47]).unwrap_err(),
        DmarError::Length {
            claimed: 0,
            available: 47
        }
    );
    let mut longer = good.clone();
    longer.extend([1, 2, 3]);
    assert!(
        Dmar::parse(&longer).is_ok(),
        "bytes behind the table are not its"
    );
}

#[test]
fn a_structure_of_the_wrong_length_ends_the_iteration() {
    for length in [0u8, 3, 15, 25, 0xff] {
        let mut unit = UNIT.to_vec();
        unit[2] = length;
        let bytes = table(&[&unit]);
        let found: Vec<_> = Dmar::parse(&bytes).unwrap().structures().collect();
        let (offset, length) = (48, usize::from(length));
        let [Err(error)] = found[..] else {
            panic!("{length}: {found:?}");
        };
        assert_eq!(error, DmarError::StructureLength { offset, length });
    }
    let bytes = table(&[UNIT, &[0, 0]]);
    let found: Vec<_> = Dmar::parse(&bytes).unwrap().structures().collect();
    let [Ok(_), Err(error)] = found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(
        error,
        DmarError::StructureLength {
            offset: 72,
            length: 0
        }
    );
}

#[test]
fn a_scope_of_the_wrong_length_ends_the_iteration() {
    for length in [0u8, 5, 7, 9, 0xff] {
        let mut unit = UNIT.to_vec();
        unit[17] = length;
        let bytes = table(&[&unit]);
        let structure = Dmar::parse(&bytes).unwrap().structures().next().unwrap();
        let Ok(Structure::Unit(unit)) = structure else {
            panic!("{structure:?}");
        };
        let scopes: Vec<_> = unit.scopes.collect();
        let length = usize::from(length);
        assert_eq!(scopes, [Err(DmarError::ScopeLength { length })]);
    }
}

/// Every table that differs from a good one in one byte, and every prefix of one, is parsed to its
/// end without a panic.
#[test]
fn damaged_tables_are_read_to_their_end() {
    let good = table(&[UNIT, UNIT, &[0x34, 0x12, 6, 0, 1, 2]]);
    let walk = |bytes: &[u8]| {
        let Ok(dmar) = Dmar::parse(bytes) else {
            return 0;
        };
        let mut seen = 0;
        for structure in dmar.structures() {
            seen += 1;
            if let Ok(Structure::Unit(unit)) = structure {
                seen += unit.scopes.count();
            }
        }
        seen
    };
    assert_eq!(walk(&good), 5);
    for at in 48..good.len() {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
            let mut damaged = good.clone();
            damaged[at] = value;
            assert!(walk(&seal(damaged)) <= good.len());
        }
        assert!(walk(&seal(good[..at].to_vec())) <= 5);
    }
}
