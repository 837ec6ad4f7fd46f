//! Devices whose device TLB does not answer.
//!
//! A backend keeps one [`Quarantine`] for each IOMMU and asks it, for each device TLB of a list,
//! whether a command may go there. A device goes this way:
//!
//! | state | device-TLB commands | how it comes about |
//! |---|---|---|
//! | sound | are sent | [`Iommu::enable_device`](crate::iommu::Iommu::enable_device), [`restore`](crate::iommu::Iommu::restore) |
//! | suspect | are refused with [`QueueError::DeviceTimeout`], so that nobody waits for it again | it did not answer: [`suspect`](crate::iommu::Iommu::suspect) |
//! | quarantined | are left out: it can do no DMA, so there is nothing to take from it | [`quarantine`](crate::iommu::Iommu::quarantine) |
//!
//! Reading takes no lock and allocates nothing; as long as every device is sound it is one load.

use crate::error::{AttachError, QueueError};
use crate::ids::DeviceId;
use crate::operation::Target;
use crate::planted::{self, Fault};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use spin::Once;

/// What is known of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Sound,
    /// It did not answer and can still do DMA.
    Suspect,
    /// It did not answer and can do no DMA.
    Quarantined,
}

/// The entry of one device, with the tables that hold it locked.
pub trait Entry {
    /// Makes the entry invalid and takes everything that was cached through it out of the IOMMU, by no
    /// command to the device.
    ///
    /// # Errors
    ///
    /// The device is not known, or the queue failed; the entry stays invalid then.
    fn withdraw(&mut self) -> Result<(), AttachError>;

    /// Makes the entry valid again, and takes what was translated for the device out of the IOMMU and
    /// of the device's TLB.
    ///
    /// # Errors
    ///
    /// The queue failed, or the device still does not answer.
    fn reinstate(&mut self) -> Result<(), AttachError>;
}

/// The devices of one IOMMU, and the standing of each.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// Devices that are not sound.
    unsound: AtomicUsize,
    first: Block,
}

const PLACES: usize = 16;

/// Places for devices. Blocks are added and never taken away, so that readers need no lock.
#[derive(Debug, Default)]
struct Block {
    /// The device id in the low half; above it [`TAKEN`] and the standing. 0 is a free place.
    places: [AtomicU64; PLACES],
    next: Once<Box<Block>>,
}

const TAKEN: u64 = 1 << 32;
const SUSPECT: u64 = 1 << 33;
const QUARANTINED: u64 = 1 << 34;

impl Quarantine {
    /// Makes a place for a device that is enabled; it is sound. May allocate. The caller
    /// holds the lock under which devices are enabled and disabled.
    pub fn admit(&self, device: DeviceId) {
        let value = TAKEN | u64::from(device.0);
        let mut block = &self.first;
        loop {
            let free = |place: &&AtomicU64| place.load(Ordering::Relaxed) == 0;
            if let Some(place) = block.places.iter().find(free) {
                return place.store(value, Ordering::Release);
            }
            block = block.next.call_once(Box::default);
        }
    }

    /// Takes the place of a device that is disabled away.
    pub fn dismiss(&self, device: DeviceId) {
        if let Some(place) = self.place(device) {
            self.change(place, 0);
        }
    }

    /// The standing of a device; one that is not known is sound.
    pub fn standing(&self, device: DeviceId) -> Standing {
        if self.unsound.load(Ordering::Acquire) == 0 {
            return Standing::Sound;
        }
        let value = self
            .place(device)
            .map_or(0, |place| place.load(Ordering::Acquire));
        if value & QUARANTINED != 0 {
            Standing::Quarantined
        } else if value & SUSPECT != 0 {
            Standing::Suspect
        } else {
            Standing::Sound
        }
    }

    /// Whether `device` is in quarantine.
    pub fn has(&self, device: DeviceId) -> bool {
        self.standing(device) == Standing::Quarantined
    }

    /// Refuses a list for a device that is suspect.
    ///
    /// # Errors
    ///
    /// [`QueueError::DeviceTimeout`] with the first such device.
    pub fn check(&self, targets: &[Target]) -> Result<(), QueueError> {
        if self.unsound.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let suspect = targets
            .iter()
            .filter_map(Target::device)
            .find(|device| self.standing(*device) == Standing::Suspect);
        match suspect {
            Some(device) if !planted::is(Fault::SuspectAskedAgain) => {
                let device = Some(device);
                Err(QueueError::DeviceTimeout { device })
            }
            _ => Ok(()),
        }
    }

    /// Notes that a device did not answer; true if it was sound until now.
    pub fn suspect(&self, device: DeviceId) -> bool {
        let Some(place) = self.place(device) else {
            return false;
        };
        let sound = TAKEN | u64::from(device.0);
        // Counted first, so that whoever sees the place sees the count.
        self.unsound.fetch_add(1, Ordering::AcqRel);
        let noted =
            place.compare_exchange(sound, sound | SUSPECT, Ordering::AcqRel, Ordering::Relaxed);
        if noted.is_err() {
            self.unsound.fetch_sub(1, Ordering::AcqRel);
        }
        noted.is_ok()
    }

    /// What [`Iommu::quarantine`](crate::iommu::Iommu::quarantine) promises.
    ///
    /// # Errors
    ///
    /// Those of [`Entry::withdraw`]; the device's standing is as before.
    pub fn cut_off(&self, device: DeviceId, entry: &mut impl Entry) -> Result<(), AttachError> {
        if self.has(device) {
            return Ok(());
        }
        entry.withdraw()?;
        self.begin(device);
        Ok(())
    }

    /// What [`Iommu::restore`](crate::iommu::Iommu::restore) promises.
    ///
    /// # Errors
    ///
    /// Those of [`Entry`]; the device is in quarantine again, if it is known.
    pub fn bring_back(&self, device: DeviceId, entry: &mut impl Entry) -> Result<(), AttachError> {
        self.cut_off(device, entry)?;
        self.end(device);
        let result = entry.reinstate();
        if result.is_err() {
            self.cut_off(device, entry)?;
        }
        result
    }

    /// From now on lists leave the device out. It can do no DMA, and nothing that was translated for
    /// it is cached in the IOMMU.
    pub fn begin(&self, device: DeviceId) {
        if let Some(place) = self.place(device) {
            self.change(place, TAKEN | QUARANTINED | u64::from(device.0));
        }
    }

    /// From now on lists have the device in them again. It can do no DMA yet.
    pub fn end(&self, device: DeviceId) {
        if let Some(place) = self.place(device) {
            self.change(place, TAKEN | u64::from(device.0));
        }
    }

    fn place(&self, device: DeviceId) -> Option<&AtomicU64> {
        let is_its = |place: &&AtomicU64| {
            let value = place.load(Ordering::Acquire);
            value & TAKEN != 0 && value as u32 == device.0
        };
        let mut block = Some(&self.first);
        while let Some(Block { places, next }) = block {
            if let Some(place) = places.iter().find(is_its) {
                return Some(place);
            }
            block = next.get().map(|next| &**next);
        }
        None
    }

    fn change(&self, place: &AtomicU64, value: u64) {
        let is_unsound = |value: u64| usize::from(value & (SUSPECT | QUARANTINED) != 0);
        self.unsound.fetch_add(is_unsound(value), Ordering::AcqRel);
        let old = place.swap(value, Ordering::AcqRel);
        self.unsound.fetch_sub(is_unsound(old), Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_device_goes_from_sound_to_suspect_to_quarantined_and_back() {
        let quarantine = Quarantine::default();
        let devices: [DeviceId; 40] = core::array::from_fn(|number| DeviceId(number as u32));
        for device in devices {
            quarantine.admit(device);
        }
        let last = devices[39];
        assert!(quarantine.suspect(last) && !quarantine.suspect(last));
        assert_eq!(quarantine.standing(last), Standing::Suspect);
        quarantine.begin(last);
        assert!(!quarantine.suspect(last), "it was told already");
        assert_eq!(quarantine.standing(last), Standing::Quarantined);
        for device in &devices[..39] {
            assert_eq!(quarantine.standing(*device), Standing::Sound);
        }
        quarantine.end(last);
        assert_eq!(quarantine.standing(last), Standing::Sound);
        assert!(quarantine.suspect(last), "a new failure is told again");
        assert_eq!(quarantine.unsound.load(Ordering::Relaxed), 1);
        quarantine.dismiss(last);
        assert_eq!(quarantine.standing(last), Standing::Sound);
        assert_eq!(quarantine.unsound.load(Ordering::Relaxed), 0);
        assert!(!quarantine.suspect(last), "a device that is not there");
        quarantine.admit(last);
        assert!(quarantine.suspect(last));
    }
}
