//! Fault records (section 11.4.7), whose reasons are in [`faults`](crate::faults), and page request
//! descriptors (section 7.4.1.1).

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

/// 64-bit words in a page request descriptor.
pub const PAGE_REQUEST_WORDS: usize = 4;

/// A page request descriptor, as the hardware writes it (7.4.1.1).
///
/// ```text
///         63   54 53 52  51    32 31     16 15   9  8  7      0
/// word 0 +-------+--+---+--------+---------+------+--+----------+
///        |   -   |PM|EXE| PASID  |   RID   |   -  |PP| type = 1 |
///        +-------+--+---+--------+---------+------+--+----------+
/// word 1 |       ADDR[63:12]     | PRGI (11:3) |LPIG|WR|RD       |
///        +-----------------------+-------------+----+--+---------+
/// ```
///
/// LPIG is bit 2, WR bit 1, RD bit 0. Words 2 and 3 are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequestRecord {
    /// Word 0.
    pub low: u64,
    /// Word 1.
    pub high: u64,
}

impl PageRequestRecord {
    /// Whether it is of the one type that is defined.
    pub const fn is_page_request(self) -> bool {
        self.low & 0xff == 1
    }

    /// RID: whose request.
    pub const fn source_id(self) -> u16 {
        (self.low >> 16) as u16
    }

    /// PASID, if PP says that the request had one.
    pub const fn pasid(self) -> Option<u32> {
        if self.low >> 8 & 1 != 0 {
            Some((self.low >> 32 & 0xf_ffff) as u32)
        } else {
            None
        }
    }

    /// EXE: execute permission is asked for.
    pub const fn execute(self) -> bool {
        self.low >> 52 & 1 != 0
    }

    /// PM: supervisor privilege is asked for.
    pub const fn privileged(self) -> bool {
        self.low >> 53 & 1 != 0
    }

    /// RD: read permission is asked for.
    pub const fn read(self) -> bool {
        self.high & 1 != 0
    }

    /// WR: write permission is asked for.
    pub const fn write(self) -> bool {
        self.high >> 1 & 1 != 0
    }

    /// LPIG: the last page in its group.
    pub const fn is_last(self) -> bool {
        self.high >> 2 & 1 != 0
    }

    /// PRGI: the page request group index.
    pub const fn group_index(self) -> u16 {
        (self.high >> 3 & 0x1ff) as u16
    }

    /// ADDR: the page.
    pub const fn page(self) -> u64 {
        self.high & PAGE_ADDRESS
    }
}
