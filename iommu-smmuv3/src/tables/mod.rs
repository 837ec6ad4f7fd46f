//! The stream table, and for each device a table of context descriptors.
//!
//! This room stores and publishes; it issues no command. An entry becomes valid by its first word,
//! stored after all others are visible, and becomes invalid by its first word before any other
//! changes. The invalidations between the steps are [`unit`](crate::unit)'s.

mod contexts;
mod entry;
mod streams;

pub use contexts::{ContextTable, describe};
pub use entry::Entry;
pub use streams::{Reserved, StreamTable};

use alloc::collections::BTreeMap;
use iommu_core::error::AttachError;
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::DeviceConfig;
use iommu_core::platform::Platform;

/// Everything the SMMU finds its way by, and what the driver knows of it.
pub struct Tables<P: Platform> {
    /// The stream table.
    pub streams: StreamTable<P>,
    /// The devices that have an entry.
    pub devices: BTreeMap<DeviceId, Device<P>>,
}

/// A device with an entry in the stream table.
#[derive(Debug)]
pub struct Device<P: Platform> {
    /// How it was enabled.
    pub config: DeviceConfig,
    /// Its context descriptors.
    pub contexts: ContextTable<P>,
    /// Its PASIDs in use.
    pub attached: BTreeMap<Pasid, Attachment>,
}

/// A PASID in use.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// The tag of its translations.
    pub tag: Tag,
    /// The first word of its context descriptor, as it was attached.
    pub word_0: u64,
    /// Whether it was blocked, and everything cached for it invalidated.
    pub blocked: bool,
}

impl<P: Platform> Tables<P> {
    /// The entry of `device`.
    pub fn device(&mut self, device: DeviceId) -> Result<&mut Device<P>, AttachError> {
        self.devices
            .get_mut(&device)
            .ok_or(AttachError::UnknownDevice(device))
    }
}

impl<P: Platform> Device<P> {
    /// Whether `pasid` is free and has a context descriptor.
    pub fn check_free(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        if !self.contexts.contains(pasid) {
            let bits = self.contexts.log2_entries();
            return Err(AttachError::PasidTooWide { pasid, bits });
        }
        if self.attached.contains_key(&pasid) {
            return Err(AttachError::PasidInUse(device, pasid));
        }
        Ok(())
    }

    /// The attachment of `pasid`.
    pub fn attachment(&self, device: DeviceId, pasid: Pasid) -> Result<Attachment, AttachError> {
        let attachment = self.attached.get(&pasid).copied();
        attachment.ok_or(AttachError::UnknownPasid(device, pasid))
    }
}
