//! The debug translation interface (chapter "Debug support"): what would the IOMMU make of a request?
//!
//! Only the RISC-V IOMMU has such registers, so only this backend has this room. They show what a
//! PASID's entry really does on a machine where no device sends that PASID.
//!
//! An answer may come from the caches, so it also shows whether an invalidation has worked. A
//! refused translation leaves a record in the fault queue like any other. QEMU 11.1 answers for a
//! superpage with the address of its first page.

use crate::queue::wait_register;
use crate::spec::registers;
use crate::spec::registers::fields::{TR_REQ_CTL, TR_RESPONSE};
use crate::unit::Unit;
use core::error::Error;
use core::fmt;
use iommu_core::error::Timeout;
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress};
use iommu_core::platform::{Mmio, Platform};
use tock_registers::LocalRegisterCopy;

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TranslateError {
    /// The IOMMU has no debug interface (`capabilities.DBG` is 0).
    NotSupported,
    /// The device id has more than 24 bits.
    DeviceIdTooWide(DeviceId),
    /// The request would be refused; the fault queue says why.
    Fault,
    /// The IOMMU did not answer in time.
    Timeout(Timeout),
}

impl fmt::Display for TranslateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSupported => write!(formatter, "the IOMMU has no debug translation interface"),
            Self::DeviceIdTooWide(device) => {
                write!(formatter, "device {device} does not fit 24 bits")
            }
            Self::Fault => write!(formatter, "the IOMMU refuses the request"),
            Self::Timeout(error) => error.fmt(formatter),
        }
    }
}

impl Error for TranslateError {}

impl From<Timeout> for TranslateError {
    fn from(error: Timeout) -> Self {
        Self::Timeout(error)
    }
}

impl<P: Platform> Unit<P> {
    /// Where an untranslated request of `device` with `pasid` to the virtual `address` would go: a
    /// read, or if `write`, one that reads and writes. User privilege.
    ///
    /// It may wait, and must not run at the same time as a change of the IOMMU's mode.
    ///
    /// # Errors
    ///
    /// See [`TranslateError`].
    pub fn translate(
        &self,
        device: DeviceId,
        pasid: Pasid,
        address: u64,
        write: bool,
    ) -> Result<PhysicalAddress, TranslateError> {
        if !self.capabilities.has_debug() {
            return Err(TranslateError::NotSupported);
        }
        if device.0 >> 24 != 0 {
            return Err(TranslateError::DeviceIdTooWide(device));
        }
        let _one_at_a_time = self.debug.lock();
        let mmio = &self.parts.mmio;
        self.wait_for_debug()?;
        mmio.write64(registers::TR_REQ_IOVA, address & !0xfff);
        mmio.write64(registers::TR_REQ_CTL, request(device, pasid, write));
        self.wait_for_debug()?;
        answer(mmio.read64(registers::TR_RESPONSE), address)
    }

    fn wait_for_debug(&self) -> Result<(), Timeout> {
        wait_register(&self.parts, "the debug translation", || {
            let control = self.parts.mmio.read64(registers::TR_REQ_CTL);
            let control = LocalRegisterCopy::<u64, TR_REQ_CTL::Register>::new(control);
            !control.is_set(TR_REQ_CTL::GO_BUSY)
        })
    }
}

/// `tr_req_ctl` for a request.
fn request(device: DeviceId, pasid: Pasid, write: bool) -> u64 {
    let target = TR_REQ_CTL::GO_BUSY::SET
        + TR_REQ_CTL::NO_WRITE.val(u64::from(!write))
        + TR_REQ_CTL::DID.val(device.0.into());
    if pasid.is_untagged() {
        target.value
    } else {
        (target + TR_REQ_CTL::PV::SET + TR_REQ_CTL::PID.val(pasid.get().into())).value
    }
}

/// Section "Translation-response". With S, the page number ends in a zero and as many ones as the
/// range has address bits beyond 8 KiB.
fn answer(response: u64, address: u64) -> Result<PhysicalAddress, TranslateError> {
    let response = LocalRegisterCopy::<u64, TR_RESPONSE::Register>::new(response);
    if response.is_set(TR_RESPONSE::FAULT) {
        return Err(TranslateError::Fault);
    }
    let page = response.read(TR_RESPONSE::PPN);
    let below = if response.is_set(TR_RESPONSE::S) {
        (2u64 << page.trailing_ones()) - 1
    } else {
        0
    };
    let offset_mask = below << 12 | 0xfff;
    Ok(PhysicalAddress(
        page << 12 & !offset_mask | address & offset_mask,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of table "Example of encoding of super page size in PPN".
    #[test]
    fn a_superpage_keeps_the_offset_of_its_size() {
        let ask = |ppn: u64, superpage: u64| {
            let found = answer(ppn << 10 | superpage << 9, 0x1234_5678_9abc);
            found.map(|PhysicalAddress(found)| found)
        };
        assert_eq!(ask(0x0abc_d007, 1), Ok(0xab_cd00_9abc));
        assert_eq!(ask(0x0abc_d0ff, 1), Ok(0xab_cd18_9abc));
        assert_eq!(ask(0x0abc_d1ff, 1), Ok(0xab_cd38_9abc));
        assert_eq!(ask(0x0abc_d007, 0), Ok(0xab_cd00_7abc));
    }

    #[test]
    fn all_ones_do_not_overflow() {
        assert_eq!(answer(u64::MAX, 0), Err(TranslateError::Fault));
        assert!(answer(u64::MAX - 1, u64::MAX).is_ok());
    }
}
