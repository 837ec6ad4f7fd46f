//! Which host device is meant by a guest's device id.

use crate::ids::DeviceId;
use core::error::Error;
use core::fmt;

/// Finds the host's id of a guest's device.
///
/// It is asked while a guest's commands are decoded, before anything is posted.
pub trait DeviceLookup {
    /// The host's id of the device that the guest calls `guest`; `None` if the guest has no such.
    fn host(&self, guest: DeviceId) -> Option<DeviceId>;
}

/// The devices of one guest, at most `MOST`, without a heap.
#[derive(Clone, Debug)]
pub struct DeviceMap<const MOST: usize> {
    /// (guest, host), sorted by the first; only `count` of them count.
    entries: [(DeviceId, DeviceId); MOST],
    count: usize,
}

/// Why a device is not added to a [`DeviceMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// There are as many devices as there may be.
    Full {
        /// How many.
        most: usize,
    },
    /// The guest has a device of this id.
    GuestIdInUse(DeviceId),
    /// The guest has this device of the host.
    HostIdInUse(DeviceId),
}

impl<const MOST: usize> DeviceMap<MOST> {
    /// No devices.
    pub const fn new() -> Self {
        Self {
            entries: [(DeviceId(0), DeviceId(0)); MOST],
            count: 0,
        }
    }

    /// Gives the guest the host's device `host` under the name `guest`.
    ///
    /// # Errors
    ///
    /// [`MapError`]; the map is as before.
    pub fn add(&mut self, guest: DeviceId, host: DeviceId) -> Result<(), MapError> {
        let Err(place) = self.find(guest) else {
            return Err(MapError::GuestIdInUse(guest));
        };
        if self.devices().iter().any(|&(_, its)| its == host) {
            return Err(MapError::HostIdInUse(host));
        }
        if self.count == MOST {
            return Err(MapError::Full { most: MOST });
        }
        self.entries.copy_within(place..self.count, place + 1);
        self.entries[place] = (guest, host);
        self.count += 1;
        Ok(())
    }

    /// Takes the device that the guest calls `guest` away; the host's id of it, if there was one.
    pub fn remove(&mut self, guest: DeviceId) -> Option<DeviceId> {
        let place = self.find(guest).ok()?;
        let (_, host) = self.entries[place];
        self.entries.copy_within(place + 1..self.count, place);
        self.count -= 1;
        Some(host)
    }

    fn devices(&self) -> &[(DeviceId, DeviceId)] {
        &self.entries[..self.count]
    }

    /// Where the device is, or where it belongs.
    fn find(&self, guest: DeviceId) -> Result<usize, usize> {
        self.devices().binary_search_by_key(&guest, |&(id, _)| id)
    }
}

impl<const MOST: usize> Default for DeviceMap<MOST> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const MOST: usize> DeviceLookup for DeviceMap<MOST> {
    fn host(&self, guest: DeviceId) -> Option<DeviceId> {
        let place = self.find(guest).ok()?;
        Some(self.entries[place].1)
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { most } => write!(formatter, "the guest has {most} devices already"),
            Self::GuestIdInUse(device) => {
                write!(formatter, "the guest has a device {device} already")
            }
            Self::HostIdInUse(device) => {
                write!(
                    formatter,
                    "the guest has the host's device {device} already"
                )
            }
        }
    }
}

impl Error for MapError {}
