//! Who has which PASID.

use crate::ids::Pasid;
use alloc::collections::BTreeSet;
use core::error::Error;
use core::fmt;
use spin::Mutex;

/// No PASID is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasidsExhausted;

impl fmt::Display for PasidsExhausted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "every PASID is in use")
    }
}

impl Error for PasidsExhausted {}

/// The PASIDs of one system: an address space has the same one on every device.
///
/// 0 stands for untagged requests and is never given out.
#[derive(Debug)]
pub struct PasidAllocator {
    last: u32,
    used: Mutex<BTreeSet<u32>>,
}

impl PasidAllocator {
    /// PASIDs from 1 to `last`.
    pub const fn new(last: Pasid) -> Self {
        Self {
            last: last.get(),
            used: Mutex::new(BTreeSet::new()),
        }
    }

    /// The lowest free PASID.
    pub fn allocate(&self) -> Result<Pasid, PasidsExhausted> {
        let mut used = self.used.lock();
        let free = used
            .iter()
            .zip(1..)
            .find(|(taken, candidate)| *taken != candidate);
        let lowest = match free {
            Some((_, candidate)) => candidate,
            None => used.len() as u32 + 1,
        };
        if lowest > self.last {
            return Err(PasidsExhausted);
        }
        used.insert(lowest);
        Pasid::new(lowest).ok_or(PasidsExhausted)
    }

    /// Puts a PASID back. Nothing in any IOMMU uses it any more.
    pub fn free(&self, pasid: Pasid) {
        let known = self.used.lock().remove(&pasid.get());
        debug_assert!(known, "PASID {pasid} was not allocated");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_pasid_is_given_and_zero_never() {
        let pasids = PasidAllocator::new(Pasid::new(3).unwrap());
        let given: [_; 3] = core::array::from_fn(|_| pasids.allocate().unwrap().get());
        assert_eq!(given, [1, 2, 3]);
        assert_eq!(pasids.allocate(), Err(PasidsExhausted));
        pasids.free(Pasid::new(2).unwrap());
        assert_eq!(pasids.allocate().unwrap().get(), 2);
        assert_eq!(pasids.allocate(), Err(PasidsExhausted));
    }
}
