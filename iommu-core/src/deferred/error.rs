//! Why a device is not taken, and why an item comes back.

use crate::error::QueueError;
use crate::ids::DeviceId;
use core::error::Error;
use core::fmt;

/// Why a device cannot have deferred invalidation. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// Nobody may be exposed to this device's stale translations.
    Untrusted(DeviceId),
    /// The IOMMU caches entries that are not present
    /// ([`Features::caches_not_present`](crate::iommu::Features::caches_not_present)): whoever
    /// emulates it keeps a shadow by the invalidations, and one that spans many unmaps makes it build
    /// the shadow of everything between them anew.
    CachesNotPresent,
}

/// What one unmap holds back, returned because it could not be taken: it is not invalidated.
#[must_use = "the item must be kept: devices may still reach it"]
pub struct Held<T> {
    /// What may not be reused.
    pub item: T,
    /// Why there is no room: the flush that should have made some failed.
    pub error: QueueError,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted(device) => write!(formatter, "device {device} is not trusted"),
            Self::CachesNotPresent => {
                write!(formatter, "the IOMMU caches entries that are not present")
            }
        }
    }
}

impl<T> fmt::Display for Held<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "no room for another unmapped range: {}",
            self.error
        )
    }
}

impl<T> fmt::Debug for Held<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Held")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl Error for Refused {}
impl<T> Error for Held<T> {}
