//! The memory-mapped registers (chapter "Memory-mapped register interface").
//!
//! A register is read and written whole through `Mmio`; the types here only name its bits. The
//! control and status registers mix enables with bits that a 1 clears, so their values are always
//! composed, never read, modified and written back.

use super::page_number;
use bitflags::bitflags;
use iommu_core::ids::PhysicalAddress;

/// `capabilities`, 64 bits, read-only.
pub const CAPABILITIES: usize = 0;
/// `fctl`, 32 bits.
pub const FCTL: usize = 8;
/// `ddtp`, 64 bits.
pub const DDTP: usize = 16;
/// `cqb`, 64 bits.
pub const CQB: usize = 24;
/// `cqh`, 32 bits, read-only.
pub const CQH: usize = 32;
/// `cqt`, 32 bits.
pub const CQT: usize = 36;
/// `fqb`, 64 bits.
pub const FQB: usize = 40;
/// `fqh`, 32 bits.
pub const FQH: usize = 48;
/// `fqt`, 32 bits, read-only.
pub const FQT: usize = 52;
/// `pqb`, 64 bits; there if `capabilities.ATS`.
pub const PQB: usize = 56;
/// `pqh`, 32 bits; there if `capabilities.ATS`.
pub const PQH: usize = 64;
/// `pqt`, 32 bits, read-only; there if `capabilities.ATS`.
pub const PQT: usize = 68;
/// `cqcsr`, 32 bits.
pub const CQCSR: usize = 72;
/// `fqcsr`, 32 bits.
pub const FQCSR: usize = 76;
/// `pqcsr`, 32 bits; there if `capabilities.ATS`.
pub const PQCSR: usize = 80;
/// `ipsr`, 32 bits, cleared by writing ones.
pub const IPSR: usize = 84;
/// `tr_req_iova`, 64 bits; there if `capabilities.DBG`.
pub const TR_REQ_IOVA: usize = 600;
/// `tr_req_ctl`, 64 bits; there if `capabilities.DBG`.
pub const TR_REQ_CTL: usize = 608;
/// `tr_response`, 64 bits, read-only; there if `capabilities.DBG`.
pub const TR_RESPONSE: usize = 616;

/// The fields of the registers that hold more than flags.
///
/// Section "IOMMU capabilities":
/// ```text
///  63    56 55    44 43 42 41    40   39   38 37 32 31  30  29 28 27  26    25  24
/// +--------+--------+--+--+-----+----+----+---+-----+---+---+-----+---+-----+---+--------+
/// | custom | rsvd   |S |NL|QOSID|PD20|PD17|PD8| PAS |DBG|HPM| IGS |END|T2GPA|ATS|AMO_HWAD|
/// +--------+--------+--+--+-----+----+----+---+-----+---+---+-----+---+-----+---+--------+
///     23       22       21    20   19     16     15        14    13 12  11   10   9    8  7     0
/// +--------+--------+--------+--+-----------+------+-----------+-----+----+----+----+----+-------+
/// |MSI_MRIF|MSI_FLAT|AMO_MRIF| 0|Sv57x4-32x4|Svpbmt|Svrsw60t59b|  0  |Sv57|Sv48|Sv39|Sv32|version|
/// +--------+--------+--------+--+-----------+------+-----------+-----+----+----+----+----+-------+
/// ```
/// Sections "Device-directory-table pointer", "Command-queue base" (`fqb` and `pqb` are alike):
/// ```text
///  63   54 53           10 9    5   4   3        0
/// +-------+---------------+------+------+-----------+
/// | rsvd  |      PPN      | rsvd | busy | iommu_mode|   ddtp
/// +-------+---------------+------+------+-----------+
/// | rsvd  |      PPN      | rsvd |    LOG2SZ-1 4:0  |   cqb, fqb, pqb
/// +-------+---------------+------+------------------+
/// ```
/// Sections "Translation-request control" and "Translation-response":
/// ```text
///  63    40 39  36 35 33 32  31    12 11   4  3   2    1      0
/// +--------+------+-----+---+--------+------+---+----+-----+-------+
/// |  DID   |custom| rsvd| PV|  PID   | rsvd | NW| Exe| Priv|Go/Busy|   tr_req_ctl
/// +--------+------+-----+---+--------+------+---+----+-----+-------+
///  63  60 59  54 53         10  9  8  7 6   1    0
/// +------+------+-------------+---+----+-----+-------+
/// |custom| rsvd |     PPN     | S |PBMT| rsvd| fault |                  tr_response
/// +------+------+-------------+---+----+-----+-------+
/// ```
#[expect(missing_docs, reason = "the macro's own items take no documentation")]
pub mod fields {
    use tock_registers::register_bitfields;

    register_bitfields![u64,
        pub CAPABILITIES [
            VERSION OFFSET(0) NUMBITS(8) [],
            SV39 OFFSET(9) NUMBITS(1) [],
            SV48 OFFSET(10) NUMBITS(1) [],
            SV57 OFFSET(11) NUMBITS(1) [],
            SECOND_STAGE OFFSET(16) NUMBITS(4) [],
            MSI_FLAT OFFSET(22) NUMBITS(1) [],
            AMO_HWAD OFFSET(24) NUMBITS(1) [],
            ATS OFFSET(25) NUMBITS(1) [],
            END OFFSET(27) NUMBITS(1) [],
            IGS OFFSET(28) NUMBITS(2) [MessagesOnly = 0, WiresOnly = 1, Both = 2],
            DBG OFFSET(31) NUMBITS(1) [],
            PAS OFFSET(32) NUMBITS(6) [],
            PD8 OFFSET(38) NUMBITS(1) [],
            PD17 OFFSET(39) NUMBITS(1) [],
            PD20 OFFSET(40) NUMBITS(1) [],
            NL OFFSET(42) NUMBITS(1) [],
            S OFFSET(43) NUMBITS(1) []
        ],
        pub DDTP [
            MODE OFFSET(0) NUMBITS(4) [],
            BUSY OFFSET(4) NUMBITS(1) [],
            PPN OFFSET(10) NUMBITS(44) []
        ],
        pub QUEUE_BASE [
            LOG2SZ_MINUS_1 OFFSET(0) NUMBITS(5) [],
            PPN OFFSET(10) NUMBITS(44) []
        ],
        pub TR_REQ_CTL [
            GO_BUSY OFFSET(0) NUMBITS(1) [],
            PRIVILEGED OFFSET(1) NUMBITS(1) [],
            EXECUTE OFFSET(2) NUMBITS(1) [],
            NO_WRITE OFFSET(3) NUMBITS(1) [],
            PID OFFSET(12) NUMBITS(20) [],
            PV OFFSET(32) NUMBITS(1) [],
            DID OFFSET(40) NUMBITS(24) []
        ],
        pub TR_RESPONSE [
            FAULT OFFSET(0) NUMBITS(1) [],
            PBMT OFFSET(7) NUMBITS(2) [],
            S OFFSET(9) NUMBITS(1) [],
            PPN OFFSET(10) NUMBITS(44) []
        ]
    ];
}

bitflags! {
    /// `fctl` (section "Features-control register").
    ///
    /// ```text
    ///  31    16 15   3  2    1   0
    /// +--------+------+-----+-----+----+
    /// | custom | rsvd | GXL | WSI | BE |
    /// +--------+------+-----+-----+----+
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FeaturesControl: u32 {
        /// Memory is accessed big-endian.
        const BE = 1 << 0;
        /// Interrupts are wires, not messages.
        const WSI = 1 << 1;
        /// Guest physical addresses have 32-bit schemes; forces Sv32 on the first stage.
        const GXL = 1 << 2;
        const _ = !0;
    }

    /// `cqcsr` (section "Command-queue CSR").
    ///
    /// ```text
    ///  31  28 27  18  17    16  15  12     11        10      9      8    7   2  1    0
    /// +------+------+------+------+-----+----------+-------+------+------+-----+---+------+
    /// |custom| rsvd | busy | cqon | rsvd|fence_w_ip|cmd_ill|cmd_to| cqmf | rsvd|cie| cqen |
    /// +------+------+------+------+-----+----------+-------+------+------+-----+---+------+
    ///                 RO     RO          write 1 to clear ------------         RW   RW
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CommandQueueStatus: u32 {
        /// The queue is enabled.
        const CQEN = 1 << 0;
        /// Errors raise an interrupt.
        const CIE = 1 << 1;
        /// A command, or a word that a command reads or writes, was not accessible.
        const CQMF = 1 << 8;
        /// An `ATS.INVAL` before the `IOFENCE.C` at the head was not answered in time.
        const CMD_TO = 1 << 9;
        /// The command at the head is illegal or not supported.
        const CMD_ILL = 1 << 10;
        /// An `IOFENCE.C` with WSI is complete.
        const FENCE_W_IP = 1 << 11;
        /// The queue is active.
        const CQON = 1 << 16;
        /// The last write is still being carried out; no other may follow.
        const BUSY = 1 << 17;
        const _ = !0;
    }

    /// `fqcsr` (section "Fault queue CSR"); `pqcsr` has the same bits.
    ///
    /// ```text
    ///  31  28 27  18  17    16  15  10   9      8    7   2  1    0
    /// +------+------+------+------+-----+------+------+-----+---+------+
    /// |custom| rsvd | busy | fqon | rsvd| fqof | fqmf | rsvd|fie| fqen |
    /// +------+------+------+------+-----+------+------+-----+---+------+
    ///                 RO     RO          write 1 to clear      RW   RW
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EventQueueStatus: u32 {
        /// The queue is enabled.
        const QEN = 1 << 0;
        /// Records and errors raise an interrupt.
        const IE = 1 << 1;
        /// A record could not be stored.
        const QMF = 1 << 8;
        /// The queue was full; that record and all since are lost.
        const QOF = 1 << 9;
        /// The queue is active.
        const QON = 1 << 16;
        /// The last write is still being carried out; no other may follow.
        const BUSY = 1 << 17;
        const _ = !0;
    }

    /// `ipsr` (section "Interrupt pending status register"): a 1 clears.
    ///
    /// ```text
    ///  31   16 15    8 7   4   3     2     1     0
    /// +-------+-------+-----+-----+------+-----+-----+
    /// | rsvd  | custom| rsvd| pip | pmip | fip | cip |
    /// +-------+-------+-----+-----+------+-----+-----+
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InterruptsPending: u32 {
        /// The command queue.
        const CIP = 1 << 0;
        /// The fault queue.
        const FIP = 1 << 1;
        /// The performance monitor.
        const PMIP = 1 << 2;
        /// The page-request queue.
        const PIP = 1 << 3;
        const _ = !0;
    }
}

/// `ddtp.iommu_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryMode(pub u8);

impl DirectoryMode {
    /// Every request is refused.
    pub const OFF: Self = Self(0);
    /// Every untranslated request passes through.
    pub const BARE: Self = Self(1);

    /// A device directory of 1, 2 or 3 levels.
    pub const fn with_levels(levels: u8) -> Self {
        Self(1 + levels)
    }
}

/// The value of `ddtp` for a mode and a root page.
pub const fn ddtp(mode: DirectoryMode, root: PhysicalAddress) -> u64 {
    page_number(root) << 10 | (mode.0 & 0xf) as u64
}

/// The value of `cqb` or `fqb` for a queue of 2^`log2_entries` entries, 1 to 32.
pub const fn queue_base(log2_entries: u32, base: PhysicalAddress) -> u64 {
    page_number(base) << 10 | (log2_entries.wrapping_sub(1) & 0x1f) as u64
}
