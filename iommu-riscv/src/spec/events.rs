//! The records of the fault queue (section "Fault/Event-Queue") and of the page-request queue
//! (section "Page-Request-Queue").

/// The 64-bit words of a fault record.
pub const FAULT_RECORD_WORDS: usize = 4;

/// A fault record as the IOMMU wrote it.
///
/// ```text
///    63    40 39   34  33   32 31    12 11      0
///   +--------+-------+------+--+--------+---------+
/// 0 |  DID   | TTYP  | PRIV |PV|  PID   |  CAUSE  |
///   +--------+-------+------+--+--------+---------+
/// 1 |     reserved  63:32     | custom  31:0      |
///   +-------------------------+-------------------+
/// 2 | iotval: the I/O virtual address             |
/// 3 | iotval2: the guest physical address         |
///   +---------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRecord(pub [u64; FAULT_RECORD_WORDS]);

impl FaultRecord {
    /// CAUSE.
    pub const fn cause(self) -> Cause {
        Cause((self.0[0] & 0xfff) as u16)
    }

    /// PID; meaningful if [`has_process_id`](Self::has_process_id).
    pub const fn process_id(self) -> u32 {
        (self.0[0] >> 12 & 0xf_ffff) as u32
    }

    /// PV: the request carried a process id.
    pub const fn has_process_id(self) -> bool {
        self.0[0] >> 32 & 1 == 1
    }

    /// PRIV: the request asked for supervisor privilege.
    pub const fn is_privileged(self) -> bool {
        self.0[0] >> 33 & 1 == 1
    }

    /// TTYP.
    pub const fn transaction_type(self) -> TransactionType {
        TransactionType((self.0[0] >> 34 & 0x3f) as u8)
    }

    /// DID.
    pub const fn device_id(self) -> u32 {
        (self.0[0] >> 40) as u32
    }

    /// iotval.
    pub const fn iotval(self) -> u64 {
        self.0[2]
    }

    /// iotval2.
    pub const fn iotval2(self) -> u64 {
        self.0[3]
    }
}

/// CAUSE. 275 to 2047 and gaps are reserved, 2048 to 4095 are custom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause(pub u16);

#[expect(missing_docs, reason = "the names are the specification's")]
impl Cause {
    pub const INSTRUCTION_ACCESS_FAULT: Self = Self(1);
    pub const READ_ADDRESS_MISALIGNED: Self = Self(4);
    pub const READ_ACCESS_FAULT: Self = Self(5);
    pub const WRITE_ADDRESS_MISALIGNED: Self = Self(6);
    pub const WRITE_ACCESS_FAULT: Self = Self(7);
    pub const INSTRUCTION_PAGE_FAULT: Self = Self(12);
    pub const READ_PAGE_FAULT: Self = Self(13);
    pub const WRITE_PAGE_FAULT: Self = Self(15);
    pub const INSTRUCTION_GUEST_PAGE_FAULT: Self = Self(20);
    pub const READ_GUEST_PAGE_FAULT: Self = Self(21);
    pub const WRITE_GUEST_PAGE_FAULT: Self = Self(23);
    pub const ALL_INBOUND_TRANSACTIONS_DISALLOWED: Self = Self(256);
    pub const DDT_ENTRY_LOAD_ACCESS_FAULT: Self = Self(257);
    pub const DDT_ENTRY_NOT_VALID: Self = Self(258);
    pub const DDT_ENTRY_MISCONFIGURED: Self = Self(259);
    pub const TRANSACTION_TYPE_DISALLOWED: Self = Self(260);
    pub const MSI_PTE_LOAD_ACCESS_FAULT: Self = Self(261);
    pub const MSI_PTE_NOT_VALID: Self = Self(262);
    pub const MSI_PTE_MISCONFIGURED: Self = Self(263);
    pub const MRIF_ACCESS_FAULT: Self = Self(264);
    pub const PDT_ENTRY_LOAD_ACCESS_FAULT: Self = Self(265);
    pub const PDT_ENTRY_NOT_VALID: Self = Self(266);
    pub const PDT_ENTRY_MISCONFIGURED: Self = Self(267);
    pub const DDT_DATA_CORRUPTION: Self = Self(268);
    pub const PDT_DATA_CORRUPTION: Self = Self(269);
    pub const MSI_PT_DATA_CORRUPTION: Self = Self(270);
    pub const MSI_MRIF_DATA_CORRUPTION: Self = Self(271);
    pub const INTERNAL_DATA_PATH_ERROR: Self = Self(272);
    pub const MSI_WRITE_ACCESS_FAULT: Self = Self(273);
    pub const PAGE_TABLE_DATA_CORRUPTION: Self = Self(274);
}

/// TTYP. 4 and 10 to 30 are reserved, the rest up to 63 is custom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionType(pub u8);

#[expect(missing_docs, reason = "the names are the specification's")]
impl TransactionType {
    pub const NONE: Self = Self(0);
    pub const UNTRANSLATED_READ_FOR_EXECUTE: Self = Self(1);
    pub const UNTRANSLATED_READ: Self = Self(2);
    pub const UNTRANSLATED_WRITE: Self = Self(3);
    pub const TRANSLATED_READ_FOR_EXECUTE: Self = Self(5);
    pub const TRANSLATED_READ: Self = Self(6);
    pub const TRANSLATED_WRITE: Self = Self(7);
    pub const ATS_TRANSLATION_REQUEST: Self = Self(8);
    pub const MESSAGE_REQUEST: Self = Self(9);
}

/// The 64-bit words of a page-request record.
pub const PAGE_REQUEST_WORDS: usize = 2;

/// A page-request record as the IOMMU wrote it: a page request or a stop marker.
///
/// ```text
///    63    40 39   35  34    33   32 31    12 11      0
///   +--------+-------+------+------+--+--------+---------+
/// 0 |  DID   |   -   | EXEC | PRIV |PV|  PID   |    -    |
///   +--------+-------+------+------+--+--------+---------+
///    63                           12 11     3  2   1   0
///   +-------------------------------+--------+---+---+---+
/// 1 |      page address 63:12       |  PRGI  | L | W | R |
///   +-------------------------------+--------+---+---+---+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequestRecord(pub [u64; PAGE_REQUEST_WORDS]);

impl PageRequestRecord {
    /// PID; meaningful if [`has_process_id`](Self::has_process_id).
    pub const fn process_id(self) -> u32 {
        (self.0[0] >> 12 & 0xf_ffff) as u32
    }

    /// PV: the message carried a PASID.
    pub const fn has_process_id(self) -> bool {
        self.0[0] >> 32 & 1 == 1
    }

    /// PRIV: supervisor privilege is asked for.
    pub const fn is_privileged(self) -> bool {
        self.0[0] >> 33 & 1 == 1
    }

    /// EXEC: permission to execute is asked for.
    pub const fn execute(self) -> bool {
        self.0[0] >> 34 & 1 == 1
    }

    /// DID.
    pub const fn device_id(self) -> u32 {
        (self.0[0] >> 40) as u32
    }

    /// R: permission to read is asked for.
    pub const fn read(self) -> bool {
        self.0[1] & 1 == 1
    }

    /// W: permission to write is asked for.
    pub const fn write(self) -> bool {
        self.0[1] >> 1 & 1 == 1
    }

    /// L: the last request of its group.
    pub const fn is_last(self) -> bool {
        self.0[1] >> 2 & 1 == 1
    }

    /// The page request group index.
    pub const fn group_index(self) -> u16 {
        (self.0[1] >> 3 & 0x1ff) as u16
    }

    /// The address of the page.
    pub const fn page(self) -> u64 {
        self.0[1] & !0xfff
    }
}
