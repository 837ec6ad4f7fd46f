//! The handshake around a reset of a device.

use crate::error::AttachError;
use crate::ids::DeviceId;
use crate::iommu::Iommu;
use crate::page_request::PageRequests;
use crate::pcie::{ConfigSpace, PcieError, Services};
use alloc::sync::Arc;
use core::error::Error;
use core::fmt;

/// A device that the kernel resets now and then.
///
/// A reset of any kind goes between [`park`](Self::park) and [`restore`](Self::restore): an
/// invalidation request that meets a device in reset is never answered (PCI Express 6.0, section
/// 10.3.1), and a device after it has forgotten that it may use PASIDs and ATS. Parked, it can do no
/// DMA and gets no invalidation requests; its bindings stay, and new ones are refused.
///
/// Pairs nest, so that the reset of a slot may contain that of a function. The kernel's lock of the
/// device guards the value.
pub struct ResetHandshake<C> {
    iommu: Arc<dyn Iommu>,
    device: DeviceId,
    services: Services<C>,
    page_requests: Option<Arc<PageRequests>>,
    parked: usize,
}

/// Why a device was not brought back after a reset. It stays parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError {
    /// The device was not parked.
    NotParked,
    /// Its services could not be enabled; for instance it is gone.
    Pcie(PcieError),
    /// The IOMMU did not take it back; for instance its TLB does not answer.
    Attach(AttachError),
}

impl<C: ConfigSpace> ResetHandshake<C> {
    /// For a device that was enabled on `iommu` and whose `services` were enabled after that.
    pub fn new(iommu: Arc<dyn Iommu>, device: DeviceId, services: Services<C>) -> Self {
        Self {
            iommu,
            device,
            services,
            page_requests: None,
            parked: 0,
        }
    }

    /// As [`new`](Self::new), for a device that was [added](PageRequests::add_device) to
    /// `page_requests`: what it asked for before a reset is forgotten.
    pub fn with_page_requests(
        page_requests: Arc<PageRequests>,
        device: DeviceId,
        services: Services<C>,
    ) -> Self {
        Self {
            page_requests: Some(page_requests.clone()),
            ..Self::new(page_requests.iommu().clone(), device, services)
        }
    }

    /// Cuts the device off from memory, then disables its services. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`Iommu::quarantine`]; the device then is as it was, and not to be reset.
    pub fn park(&mut self) -> Result<(), AttachError> {
        if self.parked == 0 {
            self.iommu.quarantine(self.device)?;
            self.services.stop();
        }
        self.parked += 1;
        Ok(())
    }

    /// Enables the services, then lets the device at the memory that it is bound to, with an empty
    /// TLB; inside another pair it does nothing. May sleep.
    ///
    /// # Errors
    ///
    /// The device stays parked, at the outermost level: the call can be made again after another
    /// reset, or [`release`](Self::release) gives the device up.
    pub fn restore(&mut self) -> Result<(), RestoreError> {
        match self.parked {
            0 => return Err(RestoreError::NotParked),
            1 => {
                if let Some(page_requests) = &self.page_requests {
                    page_requests.device_reset(self.device);
                }
                self.services.start().map_err(RestoreError::Pcie)?;
                self.iommu.restore(self.device).map_err(|error| {
                    self.services.stop();
                    RestoreError::Attach(error)
                })?;
            }
            _ => {}
        }
        self.parked -= 1;
        Ok(())
    }

    /// Whether the device is parked.
    pub const fn is_parked(&self) -> bool {
        self.parked > 0
    }

    /// The device's services, enabled unless it is parked: for its removal.
    pub fn release(self) -> Services<C> {
        self.services
    }
}

impl fmt::Display for RestoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotParked => write!(formatter, "the device is not parked"),
            Self::Pcie(error) => error.fmt(formatter),
            Self::Attach(error) => error.fmt(formatter),
        }
    }
}

impl Error for RestoreError {}
