//! Device ids in a device tree: `iommu-map`, `iommu-map-mask` and `iommus`.
//!
//! Source: the device-tree bindings `pci/pci-iommu` and `iommu/iommu`. Arm SMMUv3 and the RISC-V
//! IOMMU both use one cell for a device id (`#iommu-cells` = 1), so the same properties describe
//! StreamIDs and device_ids.

use crate::ids::DeviceId;
use core::error::Error;
use core::fmt;

const CELL: usize = 4;

/// Why a property cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// The property is not a whole number of entries.
    Length {
        /// Its name.
        property: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The length of one entry in bytes.
        entry: usize,
    },
    /// No entry covers the requester id: the device is not behind an IOMMU.
    Unmapped {
        /// The requester id, masked.
        requester: u32,
    },
    /// The entry leads past the last 32-bit device id.
    Overflow(IommuMapEntry),
}

impl fmt::Display for MapError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length {
                property,
                bytes,
                entry,
            } => {
                write!(
                    formatter,
                    "{property} has {bytes} bytes, which are not entries of {entry}"
                )
            }
            Self::Unmapped { requester } => {
                write!(
                    formatter,
                    "iommu-map does not mention requester {requester:#x}"
                )
            }
            Self::Overflow(entry) => write!(
                formatter,
                "iommu-map leads past the last device id: {} ids from {:#x}",
                entry.length, entry.iommu_base
            ),
        }
    }
}

impl Error for MapError {}

/// A device id at one IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specifier {
    /// The phandle of the IOMMU's node.
    pub phandle: u32,
    /// The device id there.
    pub device: DeviceId,
}

/// One entry of `iommu-map`.
///
/// ```text
///     cell 0     cell 1    cell 2      cell 3
///   +----------+---------+------------+--------+
///   | rid-base | phandle | iommu-base | length |   big-endian
///   +----------+---------+------------+--------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuMapEntry {
    /// The first requester id (bus, device, function).
    pub requester_base: u32,
    /// The phandle of the IOMMU's node.
    pub phandle: u32,
    /// The device id of the first requester.
    pub iommu_base: u32,
    /// How many ids the entry maps.
    pub length: u32,
}

/// The properties `iommu-map` and `iommu-map-mask` of a PCIe host bridge.
#[derive(Clone, Copy, Debug)]
pub struct IommuMap<'a> {
    entries: &'a [u8],
    mask: u32,
}

impl<'a> IommuMap<'a> {
    /// The map of a host bridge, from the bytes of its properties. Without `iommu-map-mask`, all
    /// bits of a requester id count.
    ///
    /// # Errors
    ///
    /// [`MapError::Length`] if a property is cut off.
    pub fn new(iommu_map: &'a [u8], iommu_map_mask: Option<&[u8]>) -> Result<Self, MapError> {
        let entries = whole(iommu_map, "iommu-map", 4 * CELL)?;
        let mask = match iommu_map_mask {
            None => u32::MAX,
            Some(bytes) => {
                let wrong = MapError::Length {
                    property: "iommu-map-mask",
                    bytes: bytes.len(),
                    entry: CELL,
                };
                u32::from_be_bytes(bytes.try_into().map_err(|_| wrong)?)
            }
        };
        Ok(Self { entries, mask })
    }

    /// The entries in their order.
    pub fn entries(&self) -> impl Iterator<Item = IommuMapEntry> + use<'a> {
        self.entries
            .chunks_exact(4 * CELL)
            .map(|entry| IommuMapEntry {
                requester_base: cell(entry, 0),
                phandle: cell(entry, 1),
                iommu_base: cell(entry, 2),
                length: cell(entry, 3),
            })
    }

    /// Where requests of `requester` (bus, device, function) go, by the first entry that covers it.
    ///
    /// # Errors
    ///
    /// [`MapError::Unmapped`] without such an entry, [`MapError::Overflow`] if its device ids do
    /// not fit 32 bits.
    pub fn device_id(&self, requester: u16) -> Result<Specifier, MapError> {
        let requester = u32::from(requester) & self.mask;
        let covers = |entry: &IommuMapEntry| {
            requester
                .checked_sub(entry.requester_base)
                .is_some_and(|offset| offset < entry.length)
        };
        let entry = self
            .entries()
            .find(covers)
            .ok_or(MapError::Unmapped { requester })?;
        let device = entry
            .iommu_base
            .checked_add(requester - entry.requester_base)
            .ok_or(MapError::Overflow(entry))?;
        Ok(Specifier {
            phandle: entry.phandle,
            device: DeviceId(device),
        })
    }
}

/// The property `iommus` of a device that is not behind a bus with requester ids, for IOMMUs with
/// one `#iommu-cells`.
///
/// # Errors
///
/// [`MapError::Length`] if the property is cut off.
pub fn iommus(property: &[u8]) -> Result<impl Iterator<Item = Specifier>, MapError> {
    let entries = whole(property, "iommus", 2 * CELL)?.chunks_exact(2 * CELL);
    Ok(entries.map(|entry| Specifier {
        phandle: cell(entry, 0),
        device: DeviceId(cell(entry, 1)),
    }))
}

fn whole<'a>(bytes: &'a [u8], property: &'static str, entry: usize) -> Result<&'a [u8], MapError> {
    if bytes.len().is_multiple_of(entry) {
        Ok(bytes)
    } else {
        Err(MapError::Length {
            property,
            bytes: bytes.len(),
            entry,
        })
    }
}

/// Cell number `index` of an entry that was cut out whole.
fn cell(entry: &[u8], index: usize) -> u32 {
    entry
        .chunks_exact(CELL)
        .nth(index)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn cells(values: &[u32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect()
    }

    #[test]
    fn qemu_virt_maps_every_requester_to_the_same_stream_id() {
        // `-M virt,iommu=smmuv3,dumpdtb=...`: iommu-map = <0 &smmu 0 0x10000>.
        let bytes = cells(&[0, 0x8004, 0, 0x1_0000]);
        let map = IommuMap::new(&bytes, None).unwrap();
        let device = |requester| map.device_id(requester).unwrap();
        assert_eq!(device(0x0008).device, DeviceId(0x0008));
        assert_eq!(device(0xffff).device, DeviceId(0xffff));
        assert_eq!(device(0).phandle, 0x8004);
    }

    #[test]
    fn an_iommu_that_is_itself_on_the_bus_is_left_out() {
        // QEMU's riscv-iommu-pci at 00:01.0 leaves a hole at its own requester id.
        let bytes = cells(&[0, 7, 0, 8, 9, 7, 9, 0xfff7]);
        let map = IommuMap::new(&bytes, None).unwrap();
        assert_eq!(map.device_id(7).unwrap().device, DeviceId(7));
        assert_eq!(map.device_id(8), Err(MapError::Unmapped { requester: 8 }));
        assert_eq!(map.device_id(9).unwrap().device, DeviceId(9));
        assert_eq!(map.entries().count(), 2);
    }

    #[test]
    fn the_mask_is_applied_before_the_lookup_and_the_base_after_it() {
        let bytes = cells(&[0x100, 1, 0x4000, 0x100]);
        let mask = cells(&[0xfff8]);
        let map = IommuMap::new(&bytes, Some(&mask)).unwrap();
        assert_eq!(map.device_id(0x10b).unwrap().device, DeviceId(0x4008));
        assert_eq!(
            map.device_id(0x0ff),
            Err(MapError::Unmapped { requester: 0xf8 })
        );
        assert_eq!(
            map.device_id(0x200),
            Err(MapError::Unmapped { requester: 0x200 })
        );
    }

    #[test]
    fn hostile_properties_are_errors() {
        for bytes in [1, 4, 15, 17, 31] {
            assert!(IommuMap::new(&[0; 32][..bytes], None).is_err());
        }
        assert!(IommuMap::new(&[], Some(&[0; 3])).is_err());
        assert!(iommus(&[0; 12]).is_err());

        let bytes = cells(&[0, 1, u32::MAX, u32::MAX]);
        let map = IommuMap::new(&bytes, None).unwrap();
        assert_eq!(map.device_id(0).unwrap().device, DeviceId(u32::MAX));
        assert!(matches!(map.device_id(1), Err(MapError::Overflow(_))));
    }

    #[test]
    fn a_platform_device_names_its_ids() {
        let bytes = cells(&[3, 0x10, 4, 0x20]);
        let found: Vec<_> = iommus(&bytes).unwrap().collect();
        let specifier = |phandle, device| Specifier {
            phandle,
            device: DeviceId(device),
        };
        assert_eq!(found, [specifier(3, 0x10), specifier(4, 0x20)]);
    }
}
