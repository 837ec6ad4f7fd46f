//! The stream table: linear for few StreamIDs, else two levels with leaves made on demand.

use super::Entry;
use crate::caps::Capabilities;
use crate::spec::registers::{STRTAB_BASE_CFG, offset, strtab_base};
use crate::spec::tables::{ENTRY_BYTES, level_1_descriptor};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::DeviceId;
use iommu_core::platform::{DmaBuffer, Mmio, Parts, Platform, WalkerCoherency};

/// StreamID bits that index a leaf: one PCI bus, 16 KiB.
const SPLIT: u32 = 8;

/// The stream table of one SMMU.
pub struct StreamTable<P: Platform> {
    parts: Arc<Parts<P>>,
    coherency: WalkerCoherency,
    stream_bits: u32,
    /// The table itself, or its first level.
    root: DmaBuffer<P>,
    /// The leaves of a two-level table, by StreamID without its low bits. A leaf stays until the
    /// SMMU is off.
    leaves: Option<BTreeMap<u32, DmaBuffer<P>>>,
}

/// What making room for an entry changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// Nothing.
    Already,
    /// A level 1 descriptor leads to a new leaf now.
    LeafAdded,
}

impl<P: Platform> StreamTable<P> {
    /// A table in which every entry is invalid.
    pub fn new(parts: &Arc<Parts<P>>, capabilities: &Capabilities) -> Result<Self, OutOfMemory> {
        let stream_bits = capabilities.stream_bits();
        let two_levels = capabilities.two_level_stream_table();
        let bytes = if two_levels {
            8 << (stream_bits - SPLIT)
        } else {
            ENTRY_BYTES << stream_bits
        };
        let coherency = capabilities.coherency();
        Ok(Self {
            parts: parts.clone(),
            coherency,
            stream_bits,
            root: DmaBuffer::new(parts, bytes, bytes.max(64), coherency)?,
            leaves: two_levels.then(BTreeMap::new),
        })
    }

    /// Tells the SMMU where the table lies. CR0.SMMUEN is 0.
    pub fn set_up(&self, mmio: &impl Mmio) {
        let format = match self.leaves {
            None => STRTAB_BASE_CFG::FMT::Linear,
            Some(_) => STRTAB_BASE_CFG::FMT::TwoLevel + STRTAB_BASE_CFG::SPLIT.val(SPLIT),
        };
        let config = format + STRTAB_BASE_CFG::LOG2SIZE.val(self.stream_bits);
        mmio.write64(offset::STRTAB_BASE, strtab_base(self.root.physical().0));
        mmio.write32(offset::STRTAB_BASE_CFG, config.value);
    }

    /// Whether the table has a place for `device`.
    pub fn contains(&self, device: DeviceId) -> bool {
        u64::from(device.0) >> self.stream_bits == 0
    }

    /// Makes sure that the entry of `device` exists, invalid if it is new. The table contains it.
    pub fn reserve(&mut self, device: DeviceId) -> Result<Reserved, OutOfMemory> {
        let Some(leaves) = &mut self.leaves else {
            return Ok(Reserved::Already);
        };
        let index = device.0 >> SPLIT;
        if leaves.contains_key(&index) {
            return Ok(Reserved::Already);
        }
        let bytes = ENTRY_BYTES << SPLIT;
        let leaf = DmaBuffer::new(&self.parts, bytes, bytes, self.coherency)?;
        let descriptor = level_1_descriptor(leaf.physical().0, SPLIT);
        leaves.insert(index, leaf);
        self.root.store(index as usize, descriptor);
        self.root.publish(index as usize, 1);
        Ok(Reserved::LeafAdded)
    }

    /// The entry of `device`; `None` before [`reserve`](Self::reserve).
    pub fn entry(&self, device: DeviceId) -> Option<Entry<'_, P>> {
        match &self.leaves {
            None => Some(Entry::new(&self.root, device.0 as usize)),
            Some(leaves) => {
                let leaf = leaves.get(&(device.0 >> SPLIT))?;
                Some(Entry::new(leaf, (device.0 & ((1 << SPLIT) - 1)) as usize))
            }
        }
    }
}
