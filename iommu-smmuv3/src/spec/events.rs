//! Event records of the event queue (7.3), 256 bits as four little-endian words, and page request
//! records of the PRI queue (chapter 8), 128 bits as two.

use super::extract;

/// Words in an event record.
pub const WORDS: usize = 4;

/// A raw event record.
///
/// ```text
///  word 0  63        32 31          12  11   10     8 7        0
///         | StreamID   | SubstreamID  | SSV | reserved | number |
///  word 1  63    45  44  43 42 41   40 39 38   36 35  34  33 32 31    30..16 15  0
///         | res.  | TT | res.| CLASS | S2 | res. |RnW|InD|PnU| |Stall| res.  | STAG |
///  word 2  63                                                   0
///         | InputAddr                                            |
///  word 3  IPA, fetch address, or reserved
/// ```
///
/// Which fields a record has depends on its number; the accessors that need one return `None` for
/// the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub [u64; WORDS]);

/// What an event says happened (7.3.2 to 7.3.21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// F_UUT: a transaction of a kind that the SMMU does not support.
    UnsupportedTransaction,
    /// C_BAD_STREAMID: the StreamID has no entry in the stream table.
    BadStreamId,
    /// F_STE_FETCH: the stream table could not be read.
    SteFetch,
    /// C_BAD_STE: the stream table entry is invalid.
    BadSte,
    /// F_BAD_ATS_TREQ: an ATS translation request from a stream without ATS.
    BadAtsRequest,
    /// F_STREAM_DISABLED: requests without a substream are not allowed.
    StreamDisabled,
    /// F_TRANSL_FORBIDDEN: a translated transaction from a stream without ATS.
    TranslatedForbidden,
    /// C_BAD_SUBSTREAMID: the substream has no context descriptor.
    BadSubstreamId,
    /// F_CD_FETCH: the context descriptor could not be read.
    CdFetch,
    /// C_BAD_CD: the context descriptor is invalid.
    BadCd,
    /// F_WALK_EABT: a page table could not be read.
    WalkAbort,
    /// F_TRANSLATION: no translation.
    Translation,
    /// F_ADDR_SIZE: a page table leads past the address size.
    AddressSize,
    /// F_ACCESS: the access flag is clear.
    AccessFlag,
    /// F_PERMISSION: the translation does not permit the access.
    Permission,
    /// F_TLB_CONFLICT.
    TlbConflict,
    /// F_CFG_CONFLICT.
    ConfigurationConflict,
    /// E_PAGE_REQUEST: a hint that the device will access an address.
    PageRequest,
    /// F_VMS_FETCH: the virtual machine structure could not be read.
    VmsFetch,
    /// IMPDEF_EVENTn, 0xe0 to 0xef.
    ImplementationDefined(u8),
    /// A number that the specification does not define.
    Unknown(u8),
}

impl Number {
    /// The event with this number.
    pub const fn from_raw(number: u8) -> Self {
        match number {
            0x01 => Self::UnsupportedTransaction,
            0x02 => Self::BadStreamId,
            0x03 => Self::SteFetch,
            0x04 => Self::BadSte,
            0x05 => Self::BadAtsRequest,
            0x06 => Self::StreamDisabled,
            0x07 => Self::TranslatedForbidden,
            0x08 => Self::BadSubstreamId,
            0x09 => Self::CdFetch,
            0x0a => Self::BadCd,
            0x0b => Self::WalkAbort,
            0x10 => Self::Translation,
            0x11 => Self::AddressSize,
            0x12 => Self::AccessFlag,
            0x13 => Self::Permission,
            0x20 => Self::TlbConflict,
            0x21 => Self::ConfigurationConflict,
            0x24 => Self::PageRequest,
            0x25 => Self::VmsFetch,
            0xe0..=0xef => Self::ImplementationDefined(number),
            _ => Self::Unknown(number),
        }
    }

    /// Whether the record has RnW and InD.
    const fn has_access(self) -> bool {
        matches!(
            self,
            Self::UnsupportedTransaction
                | Self::WalkAbort
                | Self::Translation
                | Self::AddressSize
                | Self::AccessFlag
                | Self::Permission
                | Self::TlbConflict
        )
    }

    /// Whether word 2 is the address that the device used.
    const fn has_address(self) -> bool {
        self.has_access()
            || matches!(
                self,
                Self::BadAtsRequest | Self::TranslatedForbidden | Self::PageRequest
            )
    }
}

impl Event {
    /// The event's number as it stands in the record.
    pub const fn raw_number(&self) -> u8 {
        extract(self.0[0], 7, 0) as u8
    }

    /// What happened.
    pub const fn number(&self) -> Number {
        Number::from_raw(self.raw_number())
    }

    /// Whose transaction.
    pub const fn stream(&self) -> u32 {
        extract(self.0[0], 63, 32) as u32
    }

    /// The SubstreamID, if there was one. C_BAD_SUBSTREAMID has no SSV: its substream always
    /// counts.
    pub const fn substream(&self) -> Option<u32> {
        let valid = extract(self.0[0], 11, 11) == 1;
        if valid || matches!(self.number(), Number::BadSubstreamId) {
            Some(extract(self.0[0], 31, 12) as u32)
        } else {
            None
        }
    }

    /// Whether it was a read, if the record says.
    pub const fn is_read(&self) -> Option<bool> {
        // F_TRANSL_FORBIDDEN has RnW, but not InD.
        match self.number() {
            Number::TranslatedForbidden => Some(extract(self.0[1], 35, 35) == 1),
            number if number.has_access() => Some(extract(self.0[1], 35, 35) == 1),
            _ => None,
        }
    }

    /// Whether it was an instruction fetch.
    pub const fn is_instruction(&self) -> bool {
        self.number().has_access() && extract(self.0[1], 34, 34) == 1
    }

    /// PnU: whether it was privileged.
    pub const fn is_privileged(&self) -> bool {
        self.number().has_access() && extract(self.0[1], 33, 33) == 1
    }

    /// STAG, if the transaction is stalled: Stall is 1 in a record that has it (7.3.12 to 7.3.16).
    pub const fn stall_tag(&self) -> Option<u16> {
        let can_stall = matches!(
            self.number(),
            Number::Translation | Number::AddressSize | Number::AccessFlag | Number::Permission
        );
        if can_stall && extract(self.0[1], 31, 31) == 1 {
            Some(extract(self.0[1], 15, 0) as u16)
        } else {
            None
        }
    }

    /// The address that the device used, if the record has it.
    pub const fn address(&self) -> Option<u64> {
        if self.number().has_address() {
            Some(self.0[2])
        } else {
            None
        }
    }
}

/// Words in a page request record.
pub const PAGE_REQUEST_WORDS: usize = 2;

/// A raw page request record of the PRI queue (chapter 8).
///
/// ```text
///  word 0  63   62   61 60 59 58  57..52 51          32 31        0
///         | SSV |Last| W| R| X|Priv| res. | SubstreamID | StreamID  |
///  word 1  63                        12 11    9 8               0
///         | page address[63:12]        |  res. | PRGIndex         |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequestRecord(pub [u64; PAGE_REQUEST_WORDS]);

impl PageRequestRecord {
    /// Whose request.
    pub const fn stream(&self) -> u32 {
        extract(self.0[0], 31, 0) as u32
    }

    /// The SubstreamID, if SSV says that there was one.
    pub const fn substream(&self) -> Option<u32> {
        if extract(self.0[0], 63, 63) == 1 {
            Some(extract(self.0[0], 51, 32) as u32)
        } else {
            None
        }
    }

    /// Whether it is the last of its group.
    pub const fn is_last(&self) -> bool {
        extract(self.0[0], 62, 62) == 1
    }

    /// Whether permission to write is asked for.
    pub const fn write(&self) -> bool {
        extract(self.0[0], 61, 61) == 1
    }

    /// Whether permission to read is asked for.
    pub const fn read(&self) -> bool {
        extract(self.0[0], 60, 60) == 1
    }

    /// Whether permission to execute is asked for.
    pub const fn execute(&self) -> bool {
        extract(self.0[0], 59, 59) == 1
    }

    /// Whether it is asked with privilege.
    pub const fn is_privileged(&self) -> bool {
        extract(self.0[0], 58, 58) == 1
    }

    /// PRGIndex.
    pub const fn group_index(&self) -> u16 {
        extract(self.0[1], 8, 0) as u16
    }

    /// The page's address.
    pub const fn page(&self) -> u64 {
        self.0[1] & !0xfff
    }
}
