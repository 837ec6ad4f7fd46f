//! The IORT: QEMU's own table, and whatever else the bytes may hold.

use iommu_core::ids::DeviceId;
use iommu_smmuv3::firmware::{IdMapping, Iort, IortError, NodeKind, RootComplex, SmmuV3};

/// QEMU's table as its firmware would leave it in memory.
fn qemu() -> Vec<u8> {
    with_checksum(include_bytes!("golden/qemu-iort.bin").to_vec())
}

fn with_checksum(mut table: Vec<u8>) -> Vec<u8> {
    table[9] = 0;
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = sum.wrapping_neg();
    table
}

#[test]
fn the_nodes_of_qemu() {
    let bytes = qemu();
    let table = Iort::new(&bytes).unwrap();
    let nodes: Vec<_> = table.nodes().map(Result::unwrap).collect();
    let kinds: Vec<_> = nodes.iter().map(|node| node.kind).collect();
    let smmu = SmmuV3 {
        base: 0x905_0000,
        coherent_override: true,
        model: 0,
    };
    let complex = RootComplex {
        segment: 0,
        ats: false,
    };
    assert_eq!(
        kinds,
        [
            NodeKind::ItsGroup,
            NodeKind::SmmuV3(smmu),
            NodeKind::RootComplex(complex)
        ]
    );
    let mappings: Vec<_> = nodes[2].mappings().collect();
    let first = IdMapping {
        input: 0,
        more: 0xff,
        output: 0,
        reference: 0x48,
        single: false,
    };
    assert_eq!(mappings[0], first);
    assert_eq!((mappings.len(), mappings[1].reference), (2, 0x30));
    assert_eq!(nodes[1].offset, 0x48);
}

#[test]
fn a_requester_of_qemu_has_its_own_stream_id() {
    let bytes = qemu();
    let table = Iort::new(&bytes).unwrap();
    let stream = table.stream(0, 0x08).unwrap().unwrap();
    assert_eq!((stream.device, stream.smmu.base), (DeviceId(8), 0x905_0000));
    // Bus 1 goes to the interrupt controller only, and there is no second segment.
    assert_eq!(table.stream(0, 0x100), Ok(None));
    assert_eq!(table.stream(1, 0x08), Ok(None));
}

#[test]
fn a_table_that_is_not_sound_is_refused() {
    let error = |bytes: &[u8]| Iort::new(bytes).unwrap_err();
    let good = qemu();
    assert_eq!(error(b""), IortError::Signature);
    assert_eq!(error(b"DMAR"), IortError::Signature);
    assert_eq!(
        error(&good[..7]),
        IortError::Length {
            stated: 0,
            available: 7
        }
    );
    assert_eq!(
        error(&good[..235]),
        IortError::Length {
            stated: 236,
            available: 235
        }
    );
    let mut wrong = good.clone();
    wrong[100] ^= 1;
    assert_eq!(error(&wrong), IortError::Checksum);
    wrong[4] = 47;
    assert_eq!(
        error(&wrong),
        IortError::Length {
            stated: 47,
            available: 236
        }
    );
}

#[test]
fn a_node_that_does_not_fit_is_an_error_and_the_end() {
    let broken = |at: usize, value: u8| {
        let mut bytes = qemu();
        bytes[at] = value;
        let bytes = with_checksum(bytes);
        let table = Iort::new(&bytes).unwrap();
        let nodes: Vec<_> = table
            .nodes()
            .map(|node| node.map(|node| node.offset))
            .collect();
        nodes
    };
    let cut = |offset| Err(IortError::Node { offset });
    assert_eq!(
        broken(0x49, 15),
        [Ok(0x30), cut(0x48)],
        "shorter than a node header"
    );
    assert_eq!(
        broken(0x4a, 1),
        [Ok(0x30), cut(0x48)],
        "longer than the table"
    );
    assert_eq!(
        broken(0x49, 40),
        [Ok(0x30), cut(0x48)],
        "too short for its type"
    );
    assert_eq!(
        broken(0x50, 2),
        [Ok(0x30), cut(0x48)],
        "more mappings than fit"
    );
    assert_eq!(broken(0x28, 255), [cut(255)], "nodes outside the table");
    assert_eq!(broken(0x24, 2), [Ok(0x30), Ok(0x48)]);
}

#[test]
fn an_unknown_node_is_passed_over() {
    let mut bytes = qemu();
    bytes[0x30] = 0x7f;
    let bytes = with_checksum(bytes);
    let table = Iort::new(&bytes).unwrap();
    assert_eq!(
        table.nodes().next().unwrap().unwrap().kind,
        NodeKind::Unknown(0x7f)
    );
    assert!(table.stream(0, 8).unwrap().is_some());
}

#[test]
fn a_mapping_past_the_last_id_is_an_error() {
    let mut bytes = qemu();
    // The output base of the root complex's first mapping.
    bytes[0xcc..0xd0].copy_from_slice(&u32::MAX.to_le_bytes());
    let bytes = with_checksum(bytes);
    let table = Iort::new(&bytes).unwrap();
    assert_eq!(
        table.stream(0, 0).unwrap().unwrap().device,
        DeviceId(u32::MAX)
    );
    assert!(matches!(table.stream(0, 1), Err(IortError::Overflow(_))));
}

#[test]
fn a_named_component_has_its_name() {
    let mut node = vec![1, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    node.resize(29, 0);
    node.extend_from_slice(b"\\_SB.DEV0\0");
    node[1] = node.len() as u8;
    let mut bytes = qemu()[..48].to_vec();
    bytes[0x24] = 1;
    bytes.extend_from_slice(&node);
    bytes[4] = bytes.len() as u8;
    let bytes = with_checksum(bytes);
    let table = Iort::new(&bytes).unwrap();
    let kind = table.nodes().next().unwrap().unwrap().kind;
    assert_eq!(kind, NodeKind::NamedComponent(b"\\_SB.DEV0"));
}

#[test]
fn no_bytes_make_it_panic_or_run_on() {
    let good = qemu();
    let visit = |bytes: &[u8]| {
        let Ok(table) = Iort::new(bytes) else { return };
        let mut mappings = 0;
        for node in table.nodes().flatten() {
            mappings += node.mappings().count();
        }
        assert!(mappings <= bytes.len() * bytes.len());
        for requester in [0, 8, 0x100, 0xffff] {
            let _ = table.stream(0, requester);
        }
    };
    for length in 0..good.len() {
        visit(&good[..length]);
    }
    for at in 4..good.len() {
        for value in [0, 1, 2, 4, 15, 16, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            visit(&with_checksum(bytes));
        }
    }
    // As many nodes as a header can promise.
    let mut many = good;
    many[0x24..0x28].fill(0xff);
    visit(&with_checksum(many));
}
