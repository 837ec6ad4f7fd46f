//! The root table, the context tables and each device's PASID structure.
//!
//! Stores and publishes only; `unit` issues the commands. An entry that the hardware may be reading
//! is never torn: on the way in its word 0, which holds the present bit, is stored last, on the way
//! out first, and each step is published by itself.

mod pasid;

use crate::planted::{self, Fault};
use crate::spec::tables::{CONTEXT_WORDS, ContextEntry, PRESENT, ROOT_WORDS, root_half};
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::Arc;
use iommu_core::error::{AttachError, OutOfMemory};
use iommu_core::ids::{DeviceId, PhysicalAddress};
use iommu_core::iommu::{DeviceConfig, PageFaults};
use iommu_core::platform::{DmaBuffer, Parts, Platform, WalkerCoherency};
pub(crate) use pasid::PasidTables;

/// Bytes in the root table, in a context table and in a PASID table.
const TABLE_BYTES: usize = 4096;
/// A root entry has two halves, each for a context table of 128 functions.
const CONTEXT_TABLE_BITS: u32 = 7;

/// Every table of one IOMMU. Dropping it frees the memory: the hardware is off by then.
pub(crate) struct Tables<P: Platform> {
    parts: Arc<Parts<P>>,
    coherency: WalkerCoherency,
    root: DmaBuffer<P>,
    /// By the upper bits of the source-id, which are the word of the root table. They stay once they
    /// are made.
    contexts: BTreeMap<u16, DmaBuffer<P>>,
    devices: BTreeMap<u16, Device<P>>,
}

struct Device<P: Platform> {
    config: DeviceConfig,
    pasids: PasidTables<P>,
}

impl<P: Platform> Tables<P> {
    /// A root table under which no device has an entry.
    pub(crate) fn new(
        parts: &Arc<Parts<P>>,
        coherency: WalkerCoherency,
    ) -> Result<Self, OutOfMemory> {
        const { assert!(256 * ROOT_WORDS * 8 == TABLE_BYTES) };
        Ok(Self {
            parts: parts.clone(),
            coherency,
            root: DmaBuffer::new(parts, TABLE_BYTES, TABLE_BYTES, coherency)?,
            contexts: BTreeMap::new(),
            devices: BTreeMap::new(),
        })
    }

    pub(crate) fn root(&self) -> PhysicalAddress {
        self.root.physical()
    }

    pub(crate) fn config(&self, source_id: u16) -> Option<DeviceConfig> {
        self.devices.get(&source_id).map(|device| device.config)
    }

    /// Gives a device a present context entry with an empty PASID structure.
    pub(crate) fn add(&mut self, source_id: u16, config: DeviceConfig) -> Result<(), AttachError> {
        if self.devices.contains_key(&source_id) {
            return Err(AttachError::DeviceInUse(DeviceId(source_id.into())));
        }
        let pasids = PasidTables::new(&self.parts, self.coherency, config.pasid_bits)?;
        let entry = ContextEntry {
            directory: pasids.directory(),
            directory_size: pasids.directory_size(),
            pasid_enable: config.pasid_bits > 0,
            device_tlb_enable: config.device_tlb,
            page_request_enable: config.page_faults != PageFaults::Fatal,
        };
        let (upper, first) = locate(source_id);
        store_present(self.context_table(upper)?, first, entry.words());
        self.devices.insert(source_id, Device { config, pasids });
        Ok(())
    }

    /// Takes the present bit off a device's context entry. The device must have no PASID left.
    pub(crate) fn revoke(&mut self, source_id: u16) -> Result<DeviceConfig, AttachError> {
        let device = self.device(source_id)?;
        if let Some(pasid) = device.pasids.first_attached() {
            let id = DeviceId(source_id.into());
            return Err(AttachError::PasidInUse(id, pasid));
        }
        let config = device.config;
        self.withdraw(source_id)?;
        Ok(config)
    }

    /// Takes the present bit off a device's context entry; the rest stays for
    /// [`reinstate`](Self::reinstate).
    pub(crate) fn withdraw(&mut self, source_id: u16) -> Result<(), AttachError> {
        self.change(source_id, |word| word & !PRESENT)
    }

    /// Makes a withdrawn context entry present again.
    pub(crate) fn reinstate(&mut self, source_id: u16) -> Result<(), AttachError> {
        self.change(source_id, |word| word | PRESENT)
    }

    fn change(&mut self, source_id: u16, of: impl Fn(u64) -> u64) -> Result<(), AttachError> {
        self.device(source_id)?;
        let (upper, first) = locate(source_id);
        if let Some(context) = self.contexts.get(&upper) {
            store_word(context, first, of(context.load(first)));
        }
        Ok(())
    }

    /// Clears the rest of a revoked entry and frees the PASID structure, which the hardware has
    /// forgotten.
    pub(crate) fn remove(&mut self, source_id: u16) {
        let (upper, first) = locate(source_id);
        if let Some(context) = self.contexts.get(&upper) {
            store_zero::<CONTEXT_WORDS, P>(context, first);
        }
        self.devices.remove(&source_id);
    }

    /// The PASID structure of a device.
    pub(crate) fn pasids(&mut self, source_id: u16) -> Result<&mut PasidTables<P>, AttachError> {
        Ok(&mut self.device(source_id)?.pasids)
    }

    fn device(&mut self, source_id: u16) -> Result<&mut Device<P>, AttachError> {
        self.devices
            .get_mut(&source_id)
            .ok_or(AttachError::UnknownDevice(DeviceId(source_id.into())))
    }

    /// The context table for one half of a bus, made if it is not there.
    fn context_table(&mut self, upper: u16) -> Result<&DmaBuffer<P>, OutOfMemory> {
        match self.contexts.entry(upper) {
            Entry::Occupied(table) => Ok(table.into_mut()),
            Entry::Vacant(place) => {
                let table = DmaBuffer::new(&self.parts, TABLE_BYTES, TABLE_BYTES, self.coherency)?;
                store_word(&self.root, upper.into(), root_half(table.physical()));
                Ok(place.insert(table))
            }
        }
    }
}

/// Which context table the entry of a device is in, and at which word it begins there.
fn locate(source_id: u16) -> (u16, usize) {
    let index = usize::from(source_id & ((1 << CONTEXT_TABLE_BITS) - 1));
    (source_id >> CONTEXT_TABLE_BITS, index * CONTEXT_WORDS)
}

/// Writes an entry that was not present: word 0 last.
fn store_present<const WORDS: usize, P: Platform>(
    table: &DmaBuffer<P>,
    first: usize,
    words: [u64; WORDS],
) {
    if planted::is(Fault::VtdPresentFirst) {
        store_word(table, first, words[0]);
    }
    for (index, word) in words.into_iter().enumerate().skip(1) {
        table.store(first + index, word);
    }
    table.publish(first + 1, WORDS - 1);
    store_word(table, first, words[0]);
}

/// Writes one word; the hardware sees all of it or nothing.
fn store_word<P: Platform>(table: &DmaBuffer<P>, index: usize, word: u64) {
    table.store(index, word);
    table.publish(index, 1);
}

/// Clears an entry that is not present and that the hardware has forgotten.
fn store_zero<const WORDS: usize, P: Platform>(table: &DmaBuffer<P>, first: usize) {
    for index in first..first + WORDS {
        table.store(index, 0);
    }
    table.publish(first, WORDS);
}
