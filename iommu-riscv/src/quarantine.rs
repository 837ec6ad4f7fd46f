//! Cutting a device off whose device TLB does not answer, and bringing it back.

use crate::invalidate;
use crate::memory::Tables;
use crate::planted::{self, Fault};
use crate::unit::Unit;
use iommu_core::error::AttachError;
use iommu_core::ids::DeviceId;
use iommu_core::platform::Platform;
use iommu_core::quarantine::Entry;

/// The device context of one device, in the unit's locked tables.
pub(crate) struct LockedEntry<'a, P: Platform> {
    pub(crate) unit: &'a Unit<P>,
    pub(crate) tables: &'a mut Tables<P>,
    pub(crate) device: DeviceId,
}

impl<P: Platform> Entry for LockedEntry<'_, P> {
    /// The device context is invalid, and neither the directory cache nor the IOATC knows anything of
    /// it. Translated requests, too, look the context up (section "Process to translate an IOVA").
    fn withdraw(&mut self) -> Result<(), AttachError> {
        let Self { unit, device, .. } = *self;
        self.tables.device(device)?;
        if !planted::is(Fault::RiscvQuarantineKeepsEntry) {
            self.tables.directory.invalidate(device);
        }
        if planted::is(Fault::RiscvQuarantineTooEarly) {
            unit.quarantine.begin(device);
        }
        if !planted::is(Fault::RiscvQuarantineKeepsCaches) {
            unit.device_entry_changed(device)?;
        }
        Ok(())
    }

    fn reinstate(&mut self) -> Result<(), AttachError> {
        let Self { unit, device, .. } = *self;
        if planted::is(Fault::RiscvRestoreLeavesOut) {
            unit.quarantine.begin(device);
        }
        let entry = self.tables.device(device)?;
        let device_tlb = entry.config.device_tlb;
        let context = unit.device_context(entry.config, &entry.directory);
        self.tables.directory.set(device, &context)?;
        unit.device_entry_changed(device)?;
        let attached = self.tables.device(device)?.contexts.keys();
        for &pasid in attached.filter(|_| device_tlb) {
            unit.run(|emit| invalidate::whole_device_tlb(device, pasid, emit))?;
        }
        Ok(())
    }
}
