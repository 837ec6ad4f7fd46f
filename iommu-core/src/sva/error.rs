//! The errors of joining, binding and unbinding.

use crate::error::{AttachError, TagsExhausted};
use crate::ids::{DeviceId, Pasid};
use crate::page_request::RouteError;
use crate::pasid::PasidsExhausted;
use core::error::Error;
use core::fmt;
use core_notifier::RegisterError;

/// Why an address space cannot be shared with devices. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// No PASID is free.
    Pasids(PasidsExhausted),
    /// The address space does not take the subscription.
    Register(RegisterError),
}

/// Why a device was not bound. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError {
    /// The address space was released.
    Released,
    /// The device is bound to the address space already.
    AlreadyBound {
        /// The device.
        device: DeviceId,
        /// The PASID of the requests, or [`Pasid::UNTAGGED`].
        pasid: Pasid,
    },
    /// The device is cut off: its TLB does not answer, or it is being reset.
    Quarantined(DeviceId),
    /// The IOMMU has no free address-space tag.
    Tags(TagsExhausted),
    /// The IOMMU did not take the device.
    Attach(AttachError),
    /// The device's page requests cannot be handed to the address space.
    Route(RouteError),
}

/// Why a device was not unbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnbindError {
    /// The device is not bound to the address space. Nothing has changed.
    NotBound {
        /// The device.
        device: DeviceId,
        /// The PASID of the requests, or [`Pasid::UNTAGGED`].
        pasid: Pasid,
    },
    /// The hardware did not confirm. The binding stays.
    Detach(AttachError),
}

impl fmt::Display for JoinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pasids(error) => error.fmt(formatter),
            Self::Register(error) => error.fmt(formatter),
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Released => write!(formatter, "the address space was released"),
            Self::AlreadyBound { device, pasid } => {
                write!(formatter, "device {device} PASID {pasid} is already bound")
            }
            Self::Quarantined(device) => write!(formatter, "device {device} is cut off"),
            Self::Tags(error) => error.fmt(formatter),
            Self::Attach(error) => error.fmt(formatter),
            Self::Route(error) => error.fmt(formatter),
        }
    }
}

impl fmt::Display for UnbindError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBound { device, pasid } => {
                write!(formatter, "device {device} PASID {pasid} is not bound")
            }
            Self::Detach(error) => error.fmt(formatter),
        }
    }
}

impl Error for JoinError {}
impl Error for BindError {}
impl Error for UnbindError {}

impl From<PasidsExhausted> for JoinError {
    fn from(error: PasidsExhausted) -> Self {
        Self::Pasids(error)
    }
}

impl From<RegisterError> for JoinError {
    fn from(error: RegisterError) -> Self {
        Self::Register(error)
    }
}

impl From<TagsExhausted> for BindError {
    fn from(error: TagsExhausted) -> Self {
        Self::Tags(error)
    }
}

impl From<RouteError> for BindError {
    fn from(error: RouteError) -> Self {
        Self::Route(error)
    }
}

impl From<AttachError> for BindError {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}
