//! Cutting a device off whose device TLB does not answer, and bringing it back.

use crate::invalidate;
use crate::planted::{self, Fault};
use crate::unit::{Tables, Unit};
use iommu_core::error::AttachError;
use iommu_core::ids::DeviceId;
use iommu_core::platform::Platform;

impl<P: Platform> Unit<P> {
    /// [`Iommu::quarantine`](iommu_core::iommu::Iommu::quarantine): the device context is invalid, and
    /// neither the directory cache nor the IOATC knows anything of it. Translated requests, too, look
    /// the context up (section "Process to translate an IOVA").
    pub(crate) fn cut_off(&self, device: DeviceId) -> Result<(), AttachError> {
        let mut tables = self.tables().lock();
        if self.quarantine.has(device) {
            return Ok(());
        }
        self.cut_off_in(&mut tables, device)
    }

    fn cut_off_in(&self, tables: &mut Tables<P>, device: DeviceId) -> Result<(), AttachError> {
        tables.device(device)?;
        if !planted::is(Fault::RiscvQuarantineKeepsEntry) {
            tables.directory.invalidate(device);
        }
        if planted::is(Fault::RiscvQuarantineTooEarly) {
            self.quarantine.begin(device);
        }
        if !planted::is(Fault::RiscvQuarantineKeepsCaches) {
            self.device_entry_changed(device)?;
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
        if !planted::is(Fault::RiscvRestoreLeavesOut) {
            self.quarantine.end(device);
        }
        let result = self.reinstate(&mut tables, device);
        if result.is_err() {
            self.cut_off_in(&mut tables, device)?;
        }
        result
    }

    /// Makes the context valid and takes out of the IOMMU and of the device's TLB what was translated
    /// for the device.
    fn reinstate(&self, tables: &mut Tables<P>, device: DeviceId) -> Result<(), AttachError> {
        let entry = tables.device(device)?;
        let device_tlb = entry.config.device_tlb;
        let context = self.device_context(entry.config, &entry.directory);
        tables.directory.set(device, &context)?;
        self.device_entry_changed(device)?;
        let attached = tables.device(device)?.contexts.keys();
        for &pasid in attached.filter(|_| device_tlb) {
            self.run(|emit| invalidate::whole_device_tlb(device, pasid, emit))?;
        }
        Ok(())
    }
}
