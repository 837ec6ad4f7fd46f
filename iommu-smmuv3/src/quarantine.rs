//! Cutting a device off whose device TLB does not answer, and bringing it back.

use crate::invalidate;
use crate::planted::{self, Fault};
use crate::tables::Tables;
use crate::unit::Unit;
use iommu_core::error::AttachError;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::platform::Platform;
use iommu_core::quarantine::Entry;

/// The stream table entry of one device, in the unit's locked tables.
pub(crate) struct LockedEntry<'a, P: Platform> {
    pub(crate) unit: &'a Unit<P>,
    pub(crate) tables: &'a mut Tables<P>,
    pub(crate) device: DeviceId,
}

impl<P: Platform> Entry for LockedEntry<'_, P> {
    /// The stream table entry is invalid, and neither the configuration cache nor the TLB knows
    /// anything of it. With CR0.ATSCHK, translated requests are checked against the entry, too
    /// (3.9.2).
    fn withdraw(&mut self) -> Result<(), AttachError> {
        let Self { unit, device, .. } = *self;
        self.tables.device(device)?;
        let unknown = AttachError::UnknownDevice(device);
        let entry = self.tables.streams.entry(device).ok_or(unknown)?;
        if !planted::is(Fault::SmmuQuarantineKeepsEntry) {
            entry.replace_first(0);
        }
        if planted::is(Fault::SmmuQuarantineTooEarly) {
            unit.quarantine.begin(device);
        }
        if !planted::is(Fault::SmmuQuarantineKeepsCaches) {
            unit.run(|emit| invalidate::device_cut_off(device, false, emit))?;
        }
        Ok(())
    }

    fn reinstate(&mut self) -> Result<(), AttachError> {
        let Self {
            unit, device: id, ..
        } = *self;
        if planted::is(Fault::SmmuRestoreLeavesOut) {
            unit.quarantine.begin(id);
        }
        let device = self.tables.device(id)?;
        let device_tlb = device.config.device_tlb;
        let words = unit.stream_entry(device.config, &device.contexts).words();
        let unknown = AttachError::UnknownDevice(id);
        let entry = self.tables.streams.entry(id).ok_or(unknown)?;
        entry.set_up(&words);
        unit.run(|emit| invalidate::device_cut_off(id, device_tlb, emit))?;
        let attached = self.tables.device(id)?.attached.keys();
        for &pasid in attached.filter(|pasid| device_tlb && **pasid != Pasid::UNTAGGED) {
            unit.run(|emit| invalidate::whole_device_tlb(id, pasid, emit))?;
        }
        Ok(())
    }
}
