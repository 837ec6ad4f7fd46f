//! The control run's IOMMU: everything works but the invalidation that a notification asks for.

use alloc::sync::Arc;
use iommu_core::error::{AttachError, Incompatible, QueueError, TagsExhausted};
use iommu_core::fault::{Fault, FaultSummary};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::{Completed, DeviceConfig, Features, Iommu, Ticket};
use iommu_core::operation::Invalidation;
use iommu_core::page_table::PageTable;

/// An IOMMU that is never told which translations are stale.
pub struct WithoutInvalidation(pub Arc<dyn Iommu>);

impl Iommu for WithoutInvalidation {
    fn features(&self) -> Features {
        self.0.features()
    }
    fn check(&self, table: &PageTable) -> Result<(), Incompatible> {
        self.0.check(table)
    }
    fn allocate_tag(&self) -> Result<Tag, TagsExhausted> {
        self.0.allocate_tag()
    }
    fn free_tag(&self, tag: Tag) {
        self.0.free_tag(tag);
    }
    fn enable_device(&self, device: DeviceId, config: DeviceConfig) -> Result<(), AttachError> {
        self.0.enable_device(device, config)
    }
    fn disable_device(&self, device: DeviceId) -> Result<(), AttachError> {
        self.0.disable_device(device)
    }
    fn device_config(&self, device: DeviceId) -> Option<DeviceConfig> {
        self.0.device_config(device)
    }
    fn attach(
        &self,
        device: DeviceId,
        pasid: Pasid,
        tag: Tag,
        table: &PageTable,
    ) -> Result<(), AttachError> {
        self.0.attach(device, pasid, tag, table)
    }
    fn block(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        self.0.block(device, pasid)
    }
    fn detach(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        self.0.detach(device, pasid)
    }
    /// Sends the sync alone.
    fn submit(&self, invalidation: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        self.0.submit(&Invalidation {
            targets: &[],
            ..*invalidation
        })
    }
    fn wait(&self, ticket: Ticket) -> Result<Completed, QueueError> {
        self.0.wait(ticket)
    }
    fn suspect(&self, device: DeviceId) -> bool {
        self.0.suspect(device)
    }
    fn quarantine(&self, device: DeviceId) -> Result<(), AttachError> {
        self.0.quarantine(device)
    }
    fn is_quarantined(&self, device: DeviceId) -> bool {
        self.0.is_quarantined(device)
    }
    fn restore(&self, device: DeviceId) -> Result<(), AttachError> {
        self.0.restore(device)
    }
    fn take_faults(&self, report: &mut dyn FnMut(Fault)) -> FaultSummary {
        self.0.take_faults(report)
    }
}
