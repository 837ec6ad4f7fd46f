//! Cutting a device off whose device TLB does not answer, and bringing it back.

use crate::invalidate;
use crate::planted::{self, Fault};
use crate::tables::Tables;
use crate::unit::{Unit, source_id};
use iommu_core::error::AttachError;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::platform::Platform;
use iommu_core::quarantine::Entry;

/// The context entry of one device, in the unit's locked tables.
pub(crate) struct LockedEntry<'a, P: Platform> {
    pub(crate) unit: &'a Unit<P>,
    pub(crate) tables: &'a mut Tables<P>,
    pub(crate) device: DeviceId,
}

impl<P: Platform> Entry for LockedEntry<'_, P> {
    /// The context entry is no longer present, and the context cache, the PASID cache and the IOTLB
    /// know nothing of it. Translated requests, too, need a context entry that is present (3.14).
    fn withdraw(&mut self) -> Result<(), AttachError> {
        let Self { unit, device, .. } = *self;
        let source_id = source_id(device)?;
        if !planted::is(Fault::VtdQuarantineKeepsEntry) {
            self.tables.withdraw(source_id)?;
        }
        if planted::is(Fault::VtdQuarantineTooEarly) {
            unit.quarantine.begin(device);
        }
        if !planted::is(Fault::VtdQuarantineKeepsCaches) {
            let removed = |emit: invalidate::Emit<'_>| {
                invalidate::device_removed(source_id, false, &unit.capabilities, emit);
            };
            unit.commit(removed)?;
        }
        Ok(())
    }

    fn reinstate(&mut self) -> Result<(), AttachError> {
        let Self { unit, device, .. } = *self;
        let source_id = source_id(device)?;
        if planted::is(Fault::VtdRestoreLeavesOut) {
            unit.quarantine.begin(device);
        }
        self.tables.reinstate(source_id)?;
        let config = self.tables.config(source_id);
        let device_tlb = config.is_some_and(|config| config.device_tlb);
        unit.commit(|emit| {
            invalidate::device_removed(source_id, device_tlb, &unit.capabilities, emit);
        })?;
        let tagged = self.tables.pasids(source_id)?.attached();
        for pasid in tagged.filter(|pasid| device_tlb && *pasid != Pasid::UNTAGGED) {
            unit.commit(|emit| {
                invalidate::whole_device_tlb(device, pasid, &unit.capabilities, emit);
            })?;
        }
        Ok(())
    }
}
