//! Event records (7.3): 32 bytes, little-endian.
//!
//! ```text
//!  word 0  63        32 31          12  11   10     8 7        0
//!         | StreamID   | SubstreamID  | SSV | reserved | number |
//!  word 1  63..45  44   43 42 41  40  39 38..36  35  34  33 32  31    30..16 15  0
//!         |  res. |TTRnW| res.|CLASS| S2 | res. |RnW|InD|PnU| |Stall|  res. | STAG |
//!  word 2  InputAddr
//!  word 3  IPA[55:12], or FetchAddr[55:3]
//! ```

use super::requests::Problem;
use super::walk::{Fault, FaultKind, Want};
use crate::bus::{Access, Request};

/// A record.
pub type Record = [u64; 4];

/// Configuration errors, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigurationError {
    BadStream = 0x02,
    StreamFetch = 0x03,
    BadStreamEntry = 0x04,
    StreamDisabled = 0x06,
    BadSubstream = 0x08,
    ContextFetch = 0x09,
    BadContext = 0x0a,
}

const BAD_ATS_REQUEST: u64 = 0x05;
const TRANSLATED_FORBIDDEN: u64 = 0x07;

/// The first word: whose transaction.
fn source(number: u64, stream: u32, substream: Option<u32>) -> u64 {
    let substream = match substream {
        Some(substream) => 1 << 11 | u64::from(substream & 0xf_ffff) << 12,
        None => 0,
    };
    number | substream | u64::from(stream) << 32
}

/// The record of a configuration error; `fetch` is the address that could not be read.
pub fn configuration_error(
    error: ConfigurationError,
    request: &Request,
    fetch: Option<u64>,
) -> Record {
    let word_0 = match error {
        // No SSV: the substream always counts (7.3.9).
        ConfigurationError::BadSubstream => {
            let substream = u64::from(request.pasid.unwrap_or(0) & 0xf_ffff);
            source(error as u64, request.device, None) | substream << 12
        }
        ConfigurationError::StreamDisabled => source(error as u64, request.device, None),
        _ => source(error as u64, request.device, request.pasid),
    };
    let fetch = fetch.unwrap_or(0) & 0x00ff_ffff_ffff_fff8;
    [word_0, 0, 0, fetch]
}

/// RnW, InD and PnU.
fn access(want: Want) -> u64 {
    let read = want.access != Access::Write;
    let instruction = want.access == Access::Execute;
    u64::from(read) << 35 | u64::from(instruction) << 34 | u64::from(want.privileged) << 33
}

/// The record of a fault of the translation; `stall` is the tag of a transaction that waits.
pub fn translation_fault(
    fault: &Fault,
    request: &Request,
    want: Want,
    stall: Option<u16>,
) -> Record {
    let number = match fault.kind {
        FaultKind::WalkAbort(_) => 0x0b,
        FaultKind::Translation => 0x10,
        FaultKind::AddressSize => 0x11,
        FaultKind::AccessFlag => 0x12,
        FaultKind::Permission => 0x13,
    };
    let mut word_1 = access(want) | u64::from(fault.stage_2) << 39 | (fault.class as u64) << 40;
    if fault.kind == FaultKind::Permission && fault.class == super::walk::Class::Table {
        word_1 |= u64::from(fault.table_read) << 44;
    }
    if let Some(tag) = stall {
        word_1 |= 1 << 31 | u64::from(tag);
    }
    let word_3 = match fault.kind {
        FaultKind::WalkAbort(fetch) => fetch & 0x00ff_ffff_ffff_fff8,
        _ if fault.stage_2 => fault.ipa & 0x00ff_ffff_ffff_f000,
        _ => 0,
    };
    let word_0 = source(number, request.device, request.pasid);
    [word_0, word_1, request.address, word_3]
}

/// F_BAD_ATS_TREQ. Its fields for what was asked for are left zero: the public text shows their
/// places in a drawing only.
pub fn bad_ats_request(request: &Request) -> Record {
    let word_0 = source(BAD_ATS_REQUEST, request.device, request.pasid);
    [word_0, 0, request.address & !0xfff, 0]
}

/// F_TRANSL_FORBIDDEN, of a transaction whose address the bus of the model does not tell.
pub fn translated_forbidden(device: u32) -> Record {
    [source(TRANSLATED_FORBIDDEN, device, None), 0, 0, 0]
}

impl Problem {
    /// The record of a problem that did not stall anything; `None` for what is not recorded.
    pub fn record(&self, request: &Request, want: Want) -> Option<Record> {
        match self {
            Self::Silent => None,
            Self::Configuration(error, fetch) => Some(configuration_error(*error, request, *fetch)),
            Self::Fault(fault, handling) => handling
                .records
                .then(|| translation_fault(fault, request, want, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smmuv3::walk::{Class, Purpose};

    const READ: Want = Want {
        access: Access::Read,
        privileged: false,
        purpose: Purpose::Transaction,
    };

    /// Records of a hardware SMMU as a Linux kernel printed them, in a public article on the Linux
    /// IOMMU driver ("event 0x10 received", "event 0x06 received", "event 0x08 received").
    #[test]
    fn records_as_hardware_made_them() {
        let fault = Fault {
            kind: FaultKind::Translation,
            stage_2: false,
            class: Class::Input,
            ipa: 0,
            table_read: false,
        };
        let request = Request {
            device: 1,
            pasid: Some(2),
            privileged: false,
            address: 0x9_f44a_0300,
            access: Access::Read,
        };
        assert_eq!(
            translation_fault(&fault, &request, READ, Some(0xb17)),
            [
                0x0000_0001_0000_2810,
                0x0000_0208_8000_0b17,
                0x0000_0009_f44a_0300,
                0
            ]
        );
        let untagged = Request {
            pasid: None,
            ..request
        };
        assert_eq!(
            configuration_error(ConfigurationError::StreamDisabled, &untagged, None),
            [0x0000_0001_0000_0006, 0, 0, 0]
        );
        let zero = Request {
            pasid: Some(0),
            ..request
        };
        assert_eq!(
            configuration_error(ConfigurationError::BadSubstream, &zero, None),
            [0x0000_0001_0000_0008, 0, 0, 0]
        );
    }
}
