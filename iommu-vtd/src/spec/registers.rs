//! Registers: byte offsets, fields, and the values that are written (section 11.4).

use bitflags::bitflags;
use tock_registers::LocalRegisterCopy;
use tock_registers::register_bitfields;

/// Capability Register, 64 bits (11.4.2).
pub const CAP: usize = 0x008;
/// Extended Capability Register, 64 bits (11.4.3).
pub const ECAP: usize = 0x010;
/// Global Command Register, 32 bits (11.4.4.1).
pub const GCMD: usize = 0x018;
/// Global Status Register, 32 bits (11.4.4.2).
pub const GSTS: usize = 0x01c;
/// Root Table Address Register, 64 bits (11.4.5).
pub const RTADDR: usize = 0x020;
/// Fault Status Register, 32 bits, write one to clear (11.4.7).
pub const FSTS: usize = 0x034;
/// Fault Event Control Register, 32 bits (11.4.7).
pub const FECTL: usize = 0x038;
/// Protected Memory Enable Register, 32 bits (11.4.8).
pub const PMEN: usize = 0x064;
/// Invalidation Queue Head Register, 64 bits (11.4.9).
pub const IQH: usize = 0x080;
/// Invalidation Queue Tail Register, 64 bits (11.4.9).
pub const IQT: usize = 0x088;
/// Invalidation Queue Address Register, 64 bits (11.4.9).
pub const IQA: usize = 0x090;
/// Invalidation Queue Error Record Register, 64 bits (11.4.9).
pub const IQERCD: usize = 0x0b0;

/// Page Request Queue Head Register, 64 bits (11.4.11).
pub const PQH: usize = 0x0c0;
/// Page Request Queue Tail Register, 64 bits (11.4.11).
pub const PQT: usize = 0x0c8;
/// Page Request Queue Address Register, 64 bits (11.4.11).
pub const PQA: usize = 0x0d0;
/// Page Request Status Register, 32 bits, write one to clear (11.4.11).
pub const PRS: usize = 0x0dc;
/// Page Request Event Control Register, 32 bits (11.4.11).
pub const PECTL: usize = 0x0e0;

/// PECTL.IM: no interrupt for page requests; the driver looks by itself.
pub const PECTL_INTERRUPT_MASK: u32 = 1 << 31;
/// FECTL.IM: no interrupt for faults; the driver looks by itself.
pub const FECTL_INTERRUPT_MASK: u32 = 1 << 31;
/// PMEN.EPM: the protected memory regions are on.
pub const PMEN_ENABLE: u32 = 1 << 31;
/// PMEN.PRS: the protected memory regions are in force.
pub const PMEN_STATUS: u32 = 1;

/// The 64-bit value of CAP.
pub type Capability = LocalRegisterCopy<u64, capability::Register>;
/// The 64-bit value of ECAP.
pub type ExtendedCapability = LocalRegisterCopy<u64, extended_capability::Register>;
/// The 32-bit value of FSTS.
pub type FaultStatus = LocalRegisterCopy<u32, fault_status::Register>;
/// The 32-bit value of PRS.
pub type PageRequestStatus = LocalRegisterCopy<u32, page_request_status::Register>;
/// The 64-bit value of IQERCD.
pub type QueueErrorRecord = LocalRegisterCopy<u64, queue_error_record::Register>;

register_bitfields! {
    u64,
    /// The fields of CAP that this driver reads (11.4.2).
    ///
    /// ```text
    ///  63     60    55  54  53    48 47  40  39  33         24  7  6    5    4    2 0
    /// +------+-----+---+---+--------+------+---+--------------+--+----+----+----+----+
    /// |ESRTPS|FS5LP|DRD|DWD|  MAMV  | NFR  |PSI|     FRO      |CM|PHMR|PLMR|RWBF| ND |
    /// +------+-----+---+---+--------+------+---+--------------+--+----+----+----+----+
    /// ```
    #[expect(missing_docs, reason = "the macro documents fields only")]
    pub capability [
        /// Enhanced Set Root Table Pointer Support.
        ESRTPS OFFSET(63) NUMBITS(1) [],
        /// First-Stage 5-level Paging Support.
        FS5LP OFFSET(60) NUMBITS(1) [],
        /// DMA Read Draining.
        DRD OFFSET(55) NUMBITS(1) [],
        /// DMA Write Draining.
        DWD OFFSET(54) NUMBITS(1) [],
        /// Maximum Address Mask Value: the largest order of a page-selective invalidation.
        MAMV OFFSET(48) NUMBITS(6) [],
        /// Number of Fault-recording Registers, minus one.
        NFR OFFSET(40) NUMBITS(8) [],
        /// Page Selective Invalidation.
        PSI OFFSET(39) NUMBITS(1) [],
        /// Fault-recording Register Offset, in units of 16 bytes.
        FRO OFFSET(24) NUMBITS(10) [],
        /// Caching Mode: entries that are not present may be cached.
        CM OFFSET(7) NUMBITS(1) [],
        /// Protected High-Memory Region.
        PHMR OFFSET(6) NUMBITS(1) [],
        /// Protected Low-Memory Region.
        PLMR OFFSET(5) NUMBITS(1) [],
        /// Required Write-Buffer Flushing.
        RWBF OFFSET(4) NUMBITS(1) [],
        /// Number of Domains: domain-ids have 4 + 2 × ND bits.
        ND OFFSET(0) NUMBITS(3) [],
    ],
    /// The fields of ECAP that this driver reads (11.4.3).
    ///
    /// ```text
    ///  48     47   43   42  41  40    39 35 29  2  1  0
    /// +------+----+----+---+---+-----+-----+---+--+--+--+
    /// |SMPWCS|FSTS|SMTS|PDS|DIT|PASID| PSS |PRS|DT|QI|C |
    /// +------+----+----+---+---+-----+-----+---+--+--+--+
    /// ```
    #[expect(missing_docs, reason = "the macro documents fields only")]
    pub extended_capability [
        /// Scalable-Mode Page-walk Coherency Support.
        SMPWCS OFFSET(48) NUMBITS(1) [],
        /// First-Stage Translation Support.
        FSTS OFFSET(47) NUMBITS(1) [],
        /// Scalable Mode Translation Support.
        SMTS OFFSET(43) NUMBITS(1) [],
        /// Page-request Drain Support.
        PDS OFFSET(42) NUMBITS(1) [],
        /// Device-TLB Invalidation Throttle.
        DIT OFFSET(41) NUMBITS(1) [],
        /// Process Address Space ID Support.
        PASID OFFSET(40) NUMBITS(1) [],
        /// PASID Size Supported: PASIDs have PSS + 1 bits.
        PSS OFFSET(35) NUMBITS(5) [],
        /// Page Request Support.
        PRS OFFSET(29) NUMBITS(1) [],
        /// Device-TLB Support.
        DT OFFSET(2) NUMBITS(1) [],
        /// Queued Invalidation Support.
        QI OFFSET(1) NUMBITS(1) [],
        /// Page-walk Coherency: accesses to root, context and PASID tables snoop.
        C OFFSET(0) NUMBITS(1) [],
    ],
    /// IQERCD: what stopped the invalidation queue (11.4.9).
    ///
    /// ```text
    ///  63      48 47      32 31       4 3    0
    /// +----------+----------+----------+------+
    /// |  ICESID  |  ITESID  | reserved | IQEI |
    /// +----------+----------+----------+------+
    /// ```
    #[expect(missing_docs, reason = "the macro documents fields only")]
    pub queue_error_record [
        /// Source-id of the device whose completion was unexpected.
        ICESID OFFSET(48) NUMBITS(16) [],
        /// Source-id of the device that did not answer in time; 0 if the hardware does not say.
        ITESID OFFSET(32) NUMBITS(16) [],
        /// What was wrong with the queue; 0 if the hardware does not say.
        IQEI OFFSET(0) NUMBITS(4) [
            /// The hardware could not read a descriptor.
            DescriptorFetch = 2,
        ],
    ],
}

register_bitfields! {
    u32,
    /// FSTS: pending faults and queue errors (11.4.7). Every flag but PPF is cleared by writing
    /// a one; see [`fault_status_clear`](super::fault_status_clear).
    ///
    /// ```text
    ///  31      16 15    8 7   6   5   4   3 2  1   0
    /// +----------+-------+---+---+---+---+---+---+---+
    /// | reserved |  FRI  | - |ITE|ICE|IQE| - |PPF|PFO|
    /// +----------+-------+---+---+---+---+---+---+---+
    /// ```
    #[expect(missing_docs, reason = "the macro documents fields only")]
    pub fault_status [
        /// Fault Record Index: the first record that is pending, if PPF is set.
        FRI OFFSET(8) NUMBITS(8) [],
        /// Invalidation Time-out Error: a device did not answer.
        ITE OFFSET(6) NUMBITS(1) [],
        /// Invalidation Completion Error: a device's answer was unexpected.
        ICE OFFSET(5) NUMBITS(1) [],
        /// Invalidation Queue Error.
        IQE OFFSET(4) NUMBITS(1) [],
        /// Primary Pending Fault.
        PPF OFFSET(1) NUMBITS(1) [],
        /// Primary Fault Overflow.
        PFO OFFSET(0) NUMBITS(1) [],
    ],
    /// PRS: the state of the page-request queue (11.4.11). Both flags are cleared by writing a one;
    /// see [`page_request_status_clear`](super::page_request_status_clear).
    ///
    /// ```text
    ///  31                  2   1   0
    /// +----------------------+---+---+
    /// |       reserved       |PRO|PPR|
    /// +----------------------+---+---+
    /// ```
    #[expect(missing_docs, reason = "the macro documents fields only")]
    pub page_request_status [
        /// Page Request Overflow: the queue was full, and nothing is recorded until this is cleared.
        PRO OFFSET(1) NUMBITS(1) [],
        /// Pending Page Request.
        PPR OFFSET(0) NUMBITS(1) [],
    ],
}

/// What is written to PRS; a flag that is not set stays as it is.
pub mod page_request_status_clear {
    /// Forgets that a request is pending.
    pub const PENDING: u32 = 1;
    /// Lets the hardware record requests again.
    pub const OVERFLOW: u32 = 1 << 1;
    /// Both.
    pub const ALL: u32 = PENDING | OVERFLOW;
}

/// What is written to FSTS; a flag that is not set leaves its error as it is.
pub mod fault_status_clear {
    /// Lets the hardware record faults again after an overflow.
    pub const OVERFLOW: u32 = 1;
    /// Forgets an unexpected answer of a device.
    pub const COMPLETION_ERROR: u32 = 1 << 5;
    /// Lets the invalidation queue go on after an illegal descriptor (IQE).
    pub const QUEUE_ERROR: u32 = 1 << 4;
    /// Lets the invalidation queue go on after a device did not answer (ITE).
    pub const TIME_OUT: u32 = 1 << 6;
    /// Lets the invalidation queue go on, and forgets everything else that was recorded.
    pub const ALL: u32 = OVERFLOW | QUEUE_ERROR | COMPLETION_ERROR | TIME_OUT;
}

bitflags! {
    /// The bits of GCMD, and of GSTS, which shows each in the same place (11.4.4).
    ///
    /// ```text
    ///  31 30   29  28   27  26  25  24    23  22      0
    /// +--+----+---+----+---+---+---+-----+---+----------+
    /// |TE|SRTP|SFL|EAFL|WBF|QIE|IRE|SIRTP|CFI| reserved |
    /// +--+----+---+----+---+---+---+-----+---+----------+
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Global: u32 {
        /// Translation Enable.
        const TRANSLATION = 1 << 31;
        /// Set Root Table Pointer, one-shot.
        const SET_ROOT = 1 << 30;
        /// Set Fault Log, one-shot.
        const SET_FAULT_LOG = 1 << 29;
        /// Enable Advanced Fault Logging.
        const FAULT_LOG = 1 << 28;
        /// Write Buffer Flush, one-shot; GSTS shows it until it is done.
        const WRITE_BUFFER_FLUSH = 1 << 27;
        /// Queued Invalidation Enable.
        const QUEUE = 1 << 26;
        /// Interrupt Remapping Enable.
        const INTERRUPT_REMAPPING = 1 << 25;
        /// Set Interrupt Remap Table Pointer, one-shot.
        const SET_INTERRUPT_TABLE = 1 << 24;
        /// Compatibility Format Interrupt.
        const COMPATIBILITY_INTERRUPTS = 1 << 23;
    }
}

impl Global {
    /// The bits that hold a state. Only these are carried over from GSTS to GCMD: a one-shot bit
    /// carried over would start its operation anew.
    pub const PERSISTENT: Self = Self::TRANSLATION
        .union(Self::FAULT_LOG)
        .union(Self::QUEUE)
        .union(Self::INTERRUPT_REMAPPING)
        .union(Self::COMPATIBILITY_INTERRUPTS);
}

/// RTADDR for a root table of scalable mode (11.4.5).
///
/// ```text
///  63            12 11 10 9        0
/// +----------------+-----+----------+
/// |      RTA       | TTM | reserved |
/// +----------------+-----+----------+
/// ```
///
/// TTM is 01b.
pub const fn root_table_address(physical: u64) -> u64 {
    physical & super::PAGE_ADDRESS | 1 << 10
}

/// IQA for a queue of `slots` descriptors of 256 bits, a power of two from 128 to 16384
/// (11.4.9).
///
/// ```text
///  63            12 11 10      3 2  0
/// +----------------+--+----------+----+
/// |      IQA       |DW| reserved | QS |
/// +----------------+--+----------+----+
/// ```
///
/// DW = 1 means 256 bits; the queue then has 2^(QS + 7) slots.
pub const fn queue_address(physical: u64, slots: usize) -> u64 {
    let size = slots.trailing_zeros().saturating_sub(7) as u64;
    physical & super::PAGE_ADDRESS | 1 << 11 | super::field(size, 0, 3)
}

/// IQT for a queue with descriptors of 256 bits: the slot in bits 18:5 (11.4.9).
pub const fn queue_tail(slot: usize) -> u64 {
    super::field(slot as u64, 5, 14)
}

/// The slot that IQH, or IQT, stands for in a queue with descriptors of 256 bits (11.4.9).
pub const fn queue_slot(register: u64) -> usize {
    (register >> 5 & 0x3fff) as usize
}

/// PQA for a queue of `slots` descriptors, a power of two from 128 to 16384 (11.4.11).
///
/// ```text
///  63            12 11         3 2  0
/// +----------------+------------+----+
/// |      PQA       |  reserved  | PQS|
/// +----------------+------------+----+
/// ```
///
/// The queue has 2^(PQS + 7) slots.
pub const fn page_queue_address(physical: u64, slots: usize) -> u64 {
    let size = slots.trailing_zeros().saturating_sub(7) as u64;
    physical & super::PAGE_ADDRESS | super::field(size, 0, 3)
}

/// PQH, or PQT, for a slot: the slot in bits 18:5 (11.4.11).
pub const fn page_queue_register(slot: usize) -> u64 {
    super::field(slot as u64, 5, 14)
}

/// The slot that PQH, or PQT, stands for (11.4.11).
pub const fn page_queue_slot(register: u64) -> usize {
    (register >> 5 & 0x3fff) as usize
}
