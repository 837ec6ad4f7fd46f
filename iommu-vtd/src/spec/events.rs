//! Fault records (section 11.4.7); what the reasons mean is in [`faults`](crate::faults).

use super::PAGE_ADDRESS;

/// Bytes in a fault recording register.
pub const RECORD_BYTES: usize = 16;
/// Where in a record the 32-bit word lies that holds the F bit.
pub const RECORD_CLEAR_OFFSET: usize = 12;
/// Written to [`RECORD_CLEAR_OFFSET`], frees the record: F, the only bit there that can be written.
pub const RECORD_CLEAR: u32 = 1 << 31;

/// A fault recording register.
///
/// ```text
///         63                                12 11             0
/// word 0 +------------------------------------+----------------+
///        |             FI[63:12]              |    reserved    |
///        +--+--+-----+---------+-----+--+---+----+--+----+------+
/// word 1 |F |T1|AT   |PV       |FR   |PP|EXE|PRIV|T2|    | SID  |
///        +--+--+-----+---------+-----+--+---+----+--+----+------+
///         63 62 61 60 59     40 39 32 31 30  29   28      15   0
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// Word 0.
    pub low: u64,
    /// Word 1.
    pub high: u64,
}

/// What kind of request was refused: T1 and T2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestType {
    /// 00b.
    Write,
    /// 01b.
    Page,
    /// 10b.
    Read,
    /// 11b.
    AtomicOp,
}

impl FaultRecord {
    /// F: the record holds a fault.
    pub const fn is_pending(self) -> bool {
        self.high >> 63 != 0
    }

    /// SID: whose request.
    pub const fn source_id(self) -> u16 {
        self.high as u16
    }

    /// PV, if PP says that the request had a PASID.
    pub const fn pasid(self) -> Option<u32> {
        if self.high >> 31 & 1 != 0 {
            Some((self.high >> 40 & 0xf_ffff) as u32)
        } else {
            None
        }
    }

    /// FR: why it was refused.
    pub const fn reason(self) -> u8 {
        (self.high >> 32) as u8
    }

    /// FI: the page of the refused address, for other than interrupt requests.
    pub const fn page(self) -> u64 {
        self.low & PAGE_ADDRESS
    }

    /// EXE: a request with a PASID asked for permission to execute.
    pub const fn execute(self) -> bool {
        self.high >> 30 & 1 != 0
    }

    /// T1 and T2.
    pub const fn request_type(self) -> RequestType {
        match (self.high >> 62 & 1, self.high >> 28 & 1) {
            (0, 0) => RequestType::Write,
            (0, _) => RequestType::Page,
            (_, 0) => RequestType::Read,
            (_, _) => RequestType::AtomicOp,
        }
    }
}
