//! Why a request is refused (table "Fault record CAUSE field encodings").

use crate::bus::{Access, Refusal};

/// The CAUSE of a fault record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cause(pub u16);

impl Cause {
    pub const ALL_INBOUND_TRANSACTIONS_DISALLOWED: Self = Self(256);
    pub const DDT_ENTRY_LOAD_ACCESS_FAULT: Self = Self(257);
    pub const DDT_ENTRY_NOT_VALID: Self = Self(258);
    pub const DDT_ENTRY_MISCONFIGURED: Self = Self(259);
    pub const TRANSACTION_TYPE_DISALLOWED: Self = Self(260);
    pub const MSI_PTE_LOAD_ACCESS_FAULT: Self = Self(261);
    pub const MSI_PTE_NOT_VALID: Self = Self(262);
    pub const MSI_PTE_MISCONFIGURED: Self = Self(263);
    pub const PDT_ENTRY_LOAD_ACCESS_FAULT: Self = Self(265);
    pub const PDT_ENTRY_NOT_VALID: Self = Self(266);
    pub const PDT_ENTRY_MISCONFIGURED: Self = Self(267);
    pub const MSI_WRITE_ACCESS_FAULT: Self = Self(273);

    /// Instruction, read or write access fault.
    pub const fn access_fault(access: Access) -> Self {
        Self(match access {
            Access::Execute => 1,
            Access::Read => 5,
            Access::Write => 7,
        })
    }

    /// Instruction, read or write page fault.
    pub const fn page_fault(access: Access) -> Self {
        Self(match access {
            Access::Execute => 12,
            Access::Read => 13,
            Access::Write => 15,
        })
    }

    /// Instruction, read or write guest-page fault.
    pub const fn guest_page_fault(access: Access) -> Self {
        Self(match access {
            Access::Execute => 20,
            Access::Read => 21,
            Access::Write => 23,
        })
    }

    /// Whether it is reported although the device context's DTF is 1.
    const fn is_reported_regardless(self) -> bool {
        matches!(self.0, 256..=259 | 268 | 272 | 273)
    }

    /// How a translation request with it is answered (section "PCIe ATS translation request
    /// handling"). Aborted requests are given the same answer here, as the specification leaves
    /// theirs to the I/O bridge.
    pub const fn refusal(self) -> Refusal {
        match self.0 {
            256..=260 => Refusal::UnsupportedRequest,
            12 | 13 | 15 | 20 | 21 | 23 | 262 | 266 => Refusal::NotPresent,
            _ => Refusal::CompleterAbort,
        }
    }
}

/// A fault on its way to the fault queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub cause: Cause,
    /// Of a guest-page fault, the guest physical address and how it was accessed.
    pub iotval2: u64,
    /// The device context says not to report it.
    pub silent: bool,
}

impl From<Cause> for Fault {
    fn from(cause: Cause) -> Self {
        Self {
            cause,
            iotval2: 0,
            silent: false,
        }
    }
}

impl Fault {
    /// Met while a process directory was read: access faults have a cause of their own.
    pub fn of_process_directory(self) -> Self {
        match self.cause.0 {
            1 | 5 | 7 => Cause::PDT_ENTRY_LOAD_ACCESS_FAULT.into(),
            _ => self,
        }
    }

    /// Of a device whose context has, or has not, the DTF bit.
    pub fn of_device(self, disables_faults: bool) -> Self {
        Self {
            silent: disables_faults && !self.cause.is_reported_regardless(),
            ..self
        }
    }
}

/// The TTYP of a fault record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransactionType {
    None = 0,
    UntranslatedReadForExecute = 1,
    UntranslatedRead = 2,
    UntranslatedWrite = 3,
    TranslatedRead = 6,
    TranslationRequest = 8,
    Message = 9,
}

impl TransactionType {
    pub const fn untranslated(access: Access) -> Self {
        match access {
            Access::Execute => Self::UntranslatedReadForExecute,
            Access::Read => Self::UntranslatedRead,
            Access::Write => Self::UntranslatedWrite,
        }
    }
}
