//! Tables that firmware leaves behind: any bytes are walked to an end, without a panic.

use arbitrary::Arbitrary;
use iommu_core::firmware::device_tree::{IommuMap, iommus};
use iommu_riscv::firmware::{Node as RimtNode, Rimt};
use iommu_smmuv3::firmware::Iort;
use iommu_vtd::firmware::{Dmar, Scopes, Structure};

/// The input with the length and the checksum of its ACPI header made right in every other case, so
/// that what lies behind them is reached too. The first byte decides.
fn table(data: &[u8]) -> Vec<u8> {
    let Some((&choice, bytes)) = data.split_first() else {
        return Vec::new();
    };
    let mut bytes = bytes.to_vec();
    if choice & 1 == 0 && bytes.len() >= 10 {
        let length = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[9] = 0;
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[9] = sum.wrapping_neg();
    }
    bytes
}

/// Counts what an iterator gives; more than one item for each byte would mean that it stands still.
fn count(items: impl Iterator, bytes: usize) -> usize {
    let count = items.take(bytes + 1).count();
    assert!(count <= bytes, "an iterator that does not end");
    count
}

/// The DMAR table.
pub fn dmar(data: &[u8]) {
    let bytes = table(data);
    let Ok(dmar) = Dmar::parse(&bytes) else {
        return;
    };
    let _ = (
        dmar.host_address_width(),
        dmar.interrupt_remapping(),
        dmar.dma_opt_in(),
    );
    count(dmar.structures(), bytes.len());
    for structure in dmar.structures().flatten() {
        let scopes = match structure {
            Structure::Unit(unit) => unit.scopes,
            Structure::ReservedMemory(memory) => memory.scopes,
            Structure::RootPortAts { scopes, .. } => scopes,
            _ => continue,
        };
        walk_scopes(scopes, bytes.len());
    }
    assert!(!format!("{dmar:?}").is_empty());
}

fn walk_scopes(scopes: Scopes<'_>, bytes: usize) {
    count(scopes, bytes);
    for scope in scopes.flatten() {
        assert!(2 * count(scope.path(), bytes) <= bytes);
    }
}

/// The IORT, and the stream of an arbitrary requester.
pub fn iort(data: &[u8]) {
    let bytes = table(data);
    let Ok(iort) = Iort::new(&bytes) else {
        return;
    };
    count(iort.nodes(), bytes.len());
    for node in iort.nodes().flatten() {
        count(node.mappings(), bytes.len());
        for mapping in node.mappings() {
            assert!(!format!("{mapping:?}").is_empty());
        }
        assert!(!format!("{node:?}").is_empty());
    }
    let requester = u16::from_le_bytes([data[0], data[data.len() / 2]]);
    for segment in [0, 1, u32::from(data[data.len() - 1])] {
        let _ = iort.stream(segment, requester);
    }
}

/// The RIMT, and the device ids that it maps.
pub fn rimt(data: &[u8]) {
    let bytes = table(data);
    let Ok(rimt) = Rimt::new(&bytes) else {
        return;
    };
    count(rimt.nodes(), bytes.len());
    for node in rimt.nodes().flatten() {
        let mappings = match &node {
            RimtNode::Iommu(iommu) => {
                count(iommu.interrupt_wires(), bytes.len());
                continue;
            }
            RimtNode::RootComplex(complex) => complex.mappings,
            RimtNode::PlatformDevice(device) => device.mappings,
            _ => continue,
        };
        count(mappings.iter(), bytes.len());
        for mapping in mappings.iter() {
            let _ = rimt.iommu(&mapping);
            let _ = mapping.device_id(u32::from(data[0]));
        }
        let _ = mappings.device_id(u32::from(data[0]));
    }
}

/// Properties of the device tree.
#[derive(Arbitrary, Debug)]
struct Properties<'a> {
    requester: u16,
    mask: Option<[u8; 4]>,
    map: &'a [u8],
}

/// `iommu-map`, `iommu-map-mask` and `iommus`.
pub fn iommu_map(data: &[u8]) {
    super::structured(data, |properties: Properties<'_>| {
        let Properties {
            requester,
            mask,
            map,
        } = properties;
        let mask = mask.as_ref().map(<[u8; 4]>::as_slice);
        if let Ok(entries) = IommuMap::new(map, mask) {
            count(entries.entries(), map.len());
            let _ = entries.device_id(requester);
        }
        if let Ok(specifiers) = iommus(map) {
            count(specifiers, map.len());
        }
    });
}
