//! Cutting a device off whose device TLB does not answer, and bringing it back.

use crate::invalidate;
use crate::planted::{self, Fault};
use crate::tables::Tables;
use crate::unit::Unit;
use iommu_core::error::AttachError;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::platform::Platform;

impl<P: Platform> Unit<P> {
    /// [`Iommu::quarantine`](iommu_core::iommu::Iommu::quarantine): the stream table entry is invalid,
    /// and neither the configuration cache nor the TLB knows anything of it. With CR0.ATSCHK,
    /// translated requests are checked against the entry, too (3.9.2).
    pub(crate) fn cut_off(&self, device: DeviceId) -> Result<(), AttachError> {
        let mut tables = self.tables().lock();
        if self.quarantine.has(device) {
            return Ok(());
        }
        self.cut_off_in(&mut tables, device)
    }

    fn cut_off_in(&self, tables: &mut Tables<P>, device: DeviceId) -> Result<(), AttachError> {
        tables.device(device)?;
        let unknown = AttachError::UnknownDevice(device);
        let entry = tables.streams.entry(device).ok_or(unknown)?;
        if !planted::is(Fault::SmmuQuarantineKeepsEntry) {
            entry.replace_first(0);
        }
        if planted::is(Fault::SmmuQuarantineTooEarly) {
            self.quarantine.begin(device);
        }
        if !planted::is(Fault::SmmuQuarantineKeepsCaches) {
            self.run(|emit| invalidate::device_cut_off(device, false, emit))?;
        }
        self.quarantine.begin(device);
        Ok(())
    }

    /// [`Iommu::restore`](iommu_core::iommu::Iommu::restore).
    pub(crate) fn bring_back(&self, device: DeviceId) -> Result<(), AttachError> {
        let mut tables = self.tables().lock();
        if !self.quarantine.has(device) {
            self.cut_off_in(&mut tables, device)?;
        }
        if !planted::is(Fault::SmmuRestoreLeavesOut) {
            self.quarantine.end(device);
        }
        let result = self.reinstate(&mut tables, device);
        if result.is_err() {
            self.cut_off_in(&mut tables, device)?;
        }
        result
    }

    /// Makes the entry valid and takes out of the SMMU and of the device's TLB what was translated
    /// for the device.
    fn reinstate(&self, tables: &mut Tables<P>, id: DeviceId) -> Result<(), AttachError> {
        let device = tables.device(id)?;
        let device_tlb = device.config.device_tlb;
        let words = self.stream_entry(device.config, &device.contexts).words();
        let unknown = AttachError::UnknownDevice(id);
        tables.streams.entry(id).ok_or(unknown)?.set_up(&words);
        self.run(|emit| invalidate::device_cut_off(id, device_tlb, emit))?;
        let attached = tables.device(id)?.attached.keys();
        for &pasid in attached.filter(|pasid| device_tlb && **pasid != Pasid::UNTAGGED) {
            self.run(|emit| invalidate::whole_device_tlb(id, pasid, emit))?;
        }
        Ok(())
    }
}
