//! A device's context descriptors, and what a page table needs to be described by one.

use super::Entry;
use crate::caps::Capabilities;
use crate::spec::tables::{ContextDescriptor, ENTRY_BYTES, PhysicalSize};
use alloc::sync::Arc;
use iommu_core::error::{Incompatible, OutOfMemory};
use iommu_core::ids::{Pasid, PhysicalAddress, Tag};
use iommu_core::page_table::{Format, PageTable};
use iommu_core::platform::{DmaBuffer, Parts, Platform, WalkerCoherency};

/// The narrowest virtual address, in bits: T0SZ is at most 39 (5.4).
const MIN_VIRTUAL_BITS: u8 = 25;

/// A linear table of context descriptors, indexed by PASID; without PASIDs, a single one.
#[derive(Debug)]
pub struct ContextTable<P: Platform> {
    buffer: DmaBuffer<P>,
    log2_entries: u8,
}

impl<P: Platform> ContextTable<P> {
    /// A table of 2^`log2_entries` invalid descriptors.
    pub fn new(
        parts: &Arc<Parts<P>>,
        log2_entries: u8,
        coherency: WalkerCoherency,
    ) -> Result<Self, OutOfMemory> {
        let bytes = ENTRY_BYTES << log2_entries;
        let buffer = DmaBuffer::new(parts, bytes, bytes, coherency)?;
        Ok(Self {
            buffer,
            log2_entries,
        })
    }

    /// Where it lies.
    pub fn physical(&self) -> PhysicalAddress {
        self.buffer.physical()
    }

    /// The binary logarithm of the number of descriptors.
    pub fn log2_entries(&self) -> u8 {
        self.log2_entries
    }

    /// Whether `pasid` has a descriptor.
    pub fn contains(&self, pasid: Pasid) -> bool {
        pasid.get() >> self.log2_entries == 0
    }

    /// The descriptor of `pasid`, which the table contains.
    pub fn entry(&self, pasid: Pasid) -> Entry<'_, P> {
        Entry::new(&self.buffer, pasid.get() as usize)
    }
}

/// The context descriptor that shares `table` under `tag`, if the SMMU can walk it; its faults end
/// the transaction.
pub fn describe(
    table: &PageTable,
    tag: Tag,
    capabilities: &Capabilities,
) -> Result<ContextDescriptor, Incompatible> {
    let Format::Aarch64 {
        virtual_bits,
        physical_bits,
        memory_attributes,
    } = table.format
    else {
        return Err(Incompatible::Architecture);
    };
    if !(MIN_VIRTUAL_BITS..=capabilities.virtual_bits()).contains(&virtual_bits) {
        return Err(Incompatible::VirtualAddressBits {
            cpu: virtual_bits,
            iommu: capabilities.virtual_bits(),
        });
    }
    let physical_size = PhysicalSize::from_bits(physical_bits)
        .filter(|size| size.bits() <= capabilities.physical_bits())
        .ok_or(Incompatible::PhysicalAddressBits {
            cpu: physical_bits,
            iommu: capabilities.physical_bits(),
        })?;
    if capabilities.coherency() == WalkerCoherency::NonCoherent && !table.written_back {
        return Err(Incompatible::NonCoherentWalk);
    }
    let root = table.root.0;
    if root >> physical_bits != 0 || !root.is_multiple_of(root_bytes(virtual_bits)) {
        return Err(Incompatible::Root);
    }
    Ok(ContextDescriptor {
        root,
        virtual_bits,
        physical_size,
        memory_attributes,
        asid: tag.0 as u16,
        cacheability: capabilities.cacheability(),
        stall: false,
    })
}

/// Bytes in the starting-level table of a 4 KiB granule, to which the SMMU aligns TTB0: each level
/// resolves 9 bits above the 12 of a page, the first what is left.
const fn root_bytes(virtual_bits: u8) -> u64 {
    8 << ((virtual_bits as u64 - 12 - 1) % 9 + 1)
}
