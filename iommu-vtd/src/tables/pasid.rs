//! The PASID directory of one device, and the PASID tables below it (9.5, 9.6).

use super::{TABLE_BYTES, store_present, store_word, store_zero};
use crate::planted::{self, Fault};
use crate::spec::tables::{
    FAULT_PROCESSING_DISABLE, FirstStageEntry, PASID_TABLE_BITS, PASID_TABLE_ENTRIES, PASID_WORDS,
    PRESENT, directory_entry, directory_size,
};
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::Arc;
use iommu_core::error::{AttachError, OutOfMemory};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::platform::{DmaBuffer, Parts, Platform, WalkerCoherency};

/// The PASIDs of one device. Tables are made when a PASID needs them and live as long as the
/// device's context entry, as the hardware may have cached where they lie.
pub(crate) struct PasidTables<P: Platform> {
    parts: Arc<Parts<P>>,
    coherency: WalkerCoherency,
    pasid_bits: u8,
    directory: DmaBuffer<P>,
    /// By their index in the directory.
    tables: BTreeMap<usize, DmaBuffer<P>>,
    attached: BTreeMap<Pasid, Attached>,
}

/// What is known of a PASID that has an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    /// The tag of its translations.
    pub(crate) tag: Tag,
    /// Whether its present bit is off and the hardware has forgotten it.
    pub(crate) blocked: bool,
}

impl<P: Platform> PasidTables<P> {
    /// An empty directory for PASIDs of `pasid_bits` bits.
    pub(super) fn new(
        parts: &Arc<Parts<P>>,
        coherency: WalkerCoherency,
        pasid_bits: u8,
    ) -> Result<Self, OutOfMemory> {
        const { assert!(PASID_TABLE_ENTRIES * PASID_WORDS * 8 == TABLE_BYTES) };
        let bytes = (8usize << 7) << directory_size(pasid_bits);
        Ok(Self {
            parts: parts.clone(),
            coherency,
            pasid_bits,
            directory: DmaBuffer::new(parts, bytes, TABLE_BYTES, coherency)?,
            tables: BTreeMap::new(),
            attached: BTreeMap::new(),
        })
    }

    pub(super) fn directory(&self) -> PhysicalAddress {
        self.directory.physical()
    }

    pub(super) fn directory_size(&self) -> u8 {
        directory_size(self.pasid_bits)
    }

    pub(super) fn first_attached(&self) -> Option<Pasid> {
        self.attached.keys().next().copied()
    }

    /// The PASIDs that have an entry.
    pub(crate) fn attached(&self) -> impl Iterator<Item = Pasid> {
        self.attached.keys().copied()
    }

    /// What is known of `pasid` of `device`, whose tables these are.
    pub(crate) fn get(&self, device: DeviceId, pasid: Pasid) -> Result<Attached, AttachError> {
        self.attached
            .get(&pasid)
            .copied()
            .ok_or(AttachError::UnknownPasid(device, pasid))
    }

    /// Gives `pasid` a present entry.
    pub(crate) fn attach(
        &mut self,
        device: DeviceId,
        pasid: Pasid,
        tag: Tag,
        entry: FirstStageEntry,
    ) -> Result<(), AttachError> {
        if pasid.get() >> self.pasid_bits != 0 {
            let bits = self.pasid_bits;
            return Err(AttachError::PasidTooWide { pasid, bits });
        }
        if self.attached.contains_key(&pasid) {
            return Err(AttachError::PasidInUse(device, pasid));
        }
        let (index, first) = locate(pasid);
        let mut words = entry.words();
        words[2] |= u64::from(planted::is(Fault::VtdSupervisorAllowed));
        store_present(self.table(index)?, first, words);
        let blocked = false;
        self.attached.insert(pasid, Attached { tag, blocked });
        Ok(())
    }

    /// Takes the present bit off the entry of `pasid` and silences its faults. The rest stays for
    /// requests that are under way.
    pub(crate) fn revoke(&mut self, pasid: Pasid) {
        let (index, first) = locate(pasid);
        if let Some(table) = self.tables.get(&index)
            && !planted::is(Fault::VtdBlockLeavesPresent)
        {
            if planted::is(Fault::VtdRestClearedFirst) {
                for index in first + 1..first + PASID_WORDS {
                    store_word(table, index, 0);
                }
            }
            let word = table.load(first) & !PRESENT | FAULT_PROCESSING_DISABLE;
            store_word(table, first, word);
        }
    }

    /// Notes that the hardware has forgotten the entry of `pasid`.
    pub(crate) fn set_blocked(&mut self, pasid: Pasid) {
        if let Some(attached) = self.attached.get_mut(&pasid) {
            attached.blocked = true;
        }
    }

    /// Clears a revoked entry that the hardware has forgotten.
    pub(crate) fn remove(&mut self, pasid: Pasid) {
        let (index, first) = locate(pasid);
        if let Some(table) = self.tables.get(&index) {
            store_zero::<PASID_WORDS, P>(table, first);
        }
        self.attached.remove(&pasid);
    }

    /// The PASID table that the directory has at `index`, made if it is not there.
    fn table(&mut self, index: usize) -> Result<&DmaBuffer<P>, OutOfMemory> {
        match self.tables.entry(index) {
            Entry::Occupied(table) => Ok(table.into_mut()),
            Entry::Vacant(place) => {
                let table = DmaBuffer::new(&self.parts, TABLE_BYTES, TABLE_BYTES, self.coherency)?;
                store_word(&self.directory, index, directory_entry(table.physical()));
                Ok(place.insert(table))
            }
        }
    }
}

/// Where in the directory the table of `pasid` is, and at which word its entry begins there.
fn locate(pasid: Pasid) -> (usize, usize) {
    let pasid = pasid.get() as usize;
    (
        pasid >> PASID_TABLE_BITS,
        pasid % PASID_TABLE_ENTRIES * PASID_WORDS,
    )
}
