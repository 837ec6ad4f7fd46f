//! Cutting a device off whose device TLB does not answer, and bringing it back.

use crate::invalidate;
use crate::planted::{self, Fault};
use crate::tables::Tables;
use crate::unit::{Unit, source_id};
use iommu_core::error::AttachError;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::platform::Platform;

impl<P: Platform> Unit<P> {
    /// [`Iommu::quarantine`](iommu_core::iommu::Iommu::quarantine): the context entry is no longer
    /// present, and the context cache, the PASID cache and the IOTLB know nothing of it. Translated
    /// requests, too, need a context entry that is present (3.14).
    pub(crate) fn cut_off(&self, device: DeviceId) -> Result<(), AttachError> {
        let mut tables = self.tables().lock();
        if self.quarantine.has(device) {
            return Ok(());
        }
        self.cut_off_in(&mut tables, device)
    }

    fn cut_off_in(&self, tables: &mut Tables<P>, device: DeviceId) -> Result<(), AttachError> {
        let source_id = source_id(device)?;
        if !planted::is(Fault::VtdQuarantineKeepsEntry) {
            tables.withdraw(source_id)?;
        }
        if planted::is(Fault::VtdQuarantineTooEarly) {
            self.quarantine.begin(device);
        }
        if !planted::is(Fault::VtdQuarantineKeepsCaches) {
            let removed = |emit: invalidate::Emit<'_>| {
                invalidate::device_removed(source_id, false, &self.capabilities, emit);
            };
            self.commit(removed)?;
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
        let source_id = source_id(device)?;
        if !planted::is(Fault::VtdRestoreLeavesOut) {
            self.quarantine.end(device);
        }
        tables.reinstate(source_id)?;
        let result = self.forget_all(&mut tables, device, source_id);
        if result.is_err() {
            self.cut_off_in(&mut tables, device)?;
        }
        result
    }

    /// Takes out of the IOMMU and of the device's TLB what was translated for the device.
    fn forget_all(
        &self,
        tables: &mut Tables<P>,
        device: DeviceId,
        source_id: u16,
    ) -> Result<(), AttachError> {
        let config = tables.config(source_id);
        let device_tlb = config.is_some_and(|config| config.device_tlb);
        self.commit(|emit| {
            invalidate::device_removed(source_id, device_tlb, &self.capabilities, emit);
        })?;
        let tagged = tables.pasids(source_id)?.attached();
        for pasid in tagged.filter(|pasid| device_tlb && *pasid != Pasid::UNTAGGED) {
            self.commit(|emit| {
                invalidate::whole_device_tlb(device, pasid, &self.capabilities, emit);
            })?;
        }
        Ok(())
    }
}
