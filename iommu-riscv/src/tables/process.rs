//! The process directory of a device (section "Process-Directory-Table").

use super::radix::{Radix, Slot};
use crate::spec::tables::{
    PROCESS_CONTEXT_WORDS, PROCESS_LEAF_BITS, ProcessContext, ProcessDirectoryMode,
};
use alloc::sync::Arc;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::{Pasid, PhysicalAddress};
use iommu_core::platform::{Parts, Platform, WalkerCoherency};

/// One device's table of address spaces.
pub(crate) struct ProcessDirectory<P: Platform> {
    radix: Radix<P>,
    mode: ProcessDirectoryMode,
}

impl<P: Platform> ProcessDirectory<P> {
    /// An empty directory: every process id is refused.
    pub(crate) fn new(
        parts: &Arc<Parts<P>>,
        mode: ProcessDirectoryMode,
        coherency: WalkerCoherency,
    ) -> Result<Self, OutOfMemory> {
        let radix = Radix::new(parts, mode.levels(), PROCESS_LEAF_BITS, coherency)?;
        Ok(Self { radix, mode })
    }

    /// Where the root page lies.
    pub(crate) fn root(&self) -> PhysicalAddress {
        self.radix.root()
    }

    /// How many levels it has.
    pub(crate) fn mode(&self) -> ProcessDirectoryMode {
        self.mode
    }

    /// Makes the context of a PASID valid; it is not. The PASID fits the mode.
    pub(crate) fn set(
        &mut self,
        pasid: Pasid,
        context: &ProcessContext,
    ) -> Result<(), OutOfMemory> {
        self.radix.grow(pasid.get())?;
        if let Some(slot) = self.slot(pasid) {
            slot.set(&[context.attributes, context.first_stage_context]);
        }
        Ok(())
    }

    /// Makes the context of a PASID invalid.
    pub(crate) fn invalidate(&self, pasid: Pasid) {
        if let Some(slot) = self.slot(pasid) {
            slot.clear_first();
        }
    }

    /// Clears the rest of an invalid context that nobody holds a copy of.
    pub(crate) fn clear(&self, pasid: Pasid) {
        if let Some(slot) = self.slot(pasid) {
            slot.clear_rest(PROCESS_CONTEXT_WORDS);
        }
    }

    fn slot(&self, pasid: Pasid) -> Option<Slot<'_, P>> {
        self.radix.slot(pasid.get(), PROCESS_CONTEXT_WORDS)
    }
}
