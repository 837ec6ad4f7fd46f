//! The device directory (section "Device-Directory-Table").

use super::radix::{Radix, Slot};
use crate::spec::registers::{DirectoryMode, ddtp};
use crate::spec::tables::{DeviceContext, DeviceContextFormat};
use alloc::sync::Arc;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::DeviceId;
use iommu_core::platform::{Parts, Platform, WalkerCoherency};

/// One IOMMU's table of devices.
pub(crate) struct DeviceDirectory<P: Platform> {
    radix: Radix<P>,
    format: DeviceContextFormat,
}

impl<P: Platform> DeviceDirectory<P> {
    /// An empty directory of 1 to 3 levels: every device is refused.
    pub(crate) fn new(
        parts: &Arc<Parts<P>>,
        format: DeviceContextFormat,
        levels: u8,
        coherency: WalkerCoherency,
    ) -> Result<Self, OutOfMemory> {
        Ok(Self {
            radix: Radix::new(parts, levels, format.leaf_bits(), coherency)?,
            format,
        })
    }

    /// The value of `ddtp` that puts the directory to use.
    pub(crate) fn pointer(&self) -> u64 {
        let mode = DirectoryMode::with_levels(self.radix.levels());
        ddtp(mode, self.radix.root())
    }

    /// Whether the directory has room for a device id.
    pub(crate) fn holds(&self, device: DeviceId) -> bool {
        device.0 >> 24 == 0 && self.radix.holds(device.0)
    }

    /// Makes the context of a device valid; it is not. The directory [holds](Self::holds) the id.
    pub(crate) fn set(
        &mut self,
        device: DeviceId,
        context: &DeviceContext,
    ) -> Result<(), OutOfMemory> {
        self.radix.grow(device.0)?;
        if let Some(slot) = self.slot(device) {
            slot.set(&context.words());
        }
        Ok(())
    }

    /// Makes the context of a device invalid.
    pub(crate) fn invalidate(&self, device: DeviceId) {
        if let Some(slot) = self.slot(device) {
            slot.clear_first();
        }
    }

    /// Clears the rest of an invalid context that nobody holds a copy of.
    pub(crate) fn clear(&self, device: DeviceId) {
        if let Some(slot) = self.slot(device) {
            slot.clear_rest(self.format.words());
        }
    }

    fn slot(&self, device: DeviceId) -> Option<Slot<'_, P>> {
        self.radix.slot(device.0, self.format.words())
    }
}
