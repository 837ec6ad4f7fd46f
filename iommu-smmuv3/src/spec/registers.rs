//! Registers of page 0 and page 1 (6.2, 6.3): byte offsets and fields.
//!
//! STRTAB_BASE, CMDQ_BASE, EVENTQ_BASE and PRIQ_BASE are 64 bits wide and written whole; all others are read
//! and written with 32 bits.

use tock_registers::LocalRegisterCopy;

pub use fields::*;

/// A copy of a register's value, with its fields.
pub type Value<R> = LocalRegisterCopy<u32, R>;

/// Bytes from the start of page 0. A driver needs 0x20000 bytes: pages 0 and 1.
pub mod offset {
    /// SMMU_IDR0 (6.3.1).
    pub const IDR0: usize = 0x00;
    /// SMMU_IDR1 (6.3.2).
    pub const IDR1: usize = 0x04;
    /// SMMU_IDR3 (6.3.4).
    pub const IDR3: usize = 0x0c;
    /// SMMU_IDR5 (6.3.6).
    pub const IDR5: usize = 0x14;
    /// SMMU_CR0 (6.3.9).
    pub const CR0: usize = 0x20;
    /// SMMU_CR0ACK (6.3.10).
    pub const CR0ACK: usize = 0x24;
    /// SMMU_CR1 (6.3.11).
    pub const CR1: usize = 0x28;
    /// SMMU_CR2 (6.3.12).
    pub const CR2: usize = 0x2c;
    /// SMMU_GBPA (6.3.14).
    pub const GBPA: usize = 0x44;
    /// SMMU_IRQ_CTRL (6.3.16).
    pub const IRQ_CTRL: usize = 0x50;
    /// SMMU_IRQ_CTRLACK (6.3.18).
    pub const IRQ_CTRLACK: usize = 0x54;
    /// SMMU_GERROR (6.3.19).
    pub const GERROR: usize = 0x60;
    /// SMMU_GERRORN (6.3.20).
    pub const GERRORN: usize = 0x64;
    /// SMMU_STRTAB_BASE (6.3.24), 64 bits.
    pub const STRTAB_BASE: usize = 0x80;
    /// SMMU_STRTAB_BASE_CFG (6.3.25).
    pub const STRTAB_BASE_CFG: usize = 0x88;
    /// SMMU_CMDQ_BASE (6.3.26), 64 bits.
    pub const CMDQ_BASE: usize = 0x90;
    /// SMMU_CMDQ_PROD (6.3.27).
    pub const CMDQ_PROD: usize = 0x98;
    /// SMMU_CMDQ_CONS (6.3.28).
    pub const CMDQ_CONS: usize = 0x9c;
    /// SMMU_EVENTQ_BASE (6.3.29), 64 bits.
    pub const EVENTQ_BASE: usize = 0xa0;
    /// SMMU_PRIQ_BASE (6.3.33), 64 bits; only with IDR0.PRI, as the next two.
    pub const PRIQ_BASE: usize = 0xc0;
    /// SMMU_PRIQ_PROD (6.3.97), in page 1.
    pub const PRIQ_PROD: usize = 0x1_00c8;
    /// SMMU_PRIQ_CONS (6.3.98), in page 1.
    pub const PRIQ_CONS: usize = 0x1_00cc;
    /// SMMU_EVENTQ_PROD, in page 1; its alias in page 0 is optional.
    pub const EVENTQ_PROD: usize = 0x1_00a8;
    /// SMMU_EVENTQ_CONS, in page 1.
    pub const EVENTQ_CONS: usize = 0x1_00ac;
}

#[allow(
    missing_docs,
    reason = "register_bitfields! generates items that it does not document"
)]
mod fields {
    use tock_registers::register_bitfields;

    register_bitfields! [u32,
        /// SMMU_IDR0: features.
        ///
        /// ```text
        ///  31..29 28    27 26 25         24 23 22       21 20..19   18   17 16  15 14  13   12    11  10   9   8..6  5   4   3   2  1   0
        /// |  ..  |ST_LEVEL|..|STALL_MODEL |..| TTENDIAN  |  ..   |VMID16|..|PRI| .. |MSI|ASID16|..|ATS|Hyp| .. |BTM|COHACC| TTF |S1P|S2P|
        /// ```
        pub IDR0 [
            /// Stage 2 translation.
            S2P OFFSET(0) NUMBITS(1) [],
            /// Stage 1 translation.
            S1P OFFSET(1) NUMBITS(1) [],
            /// Translation table formats: bit 0 AArch32, bit 1 AArch64.
            TTF OFFSET(2) NUMBITS(2) [],
            /// Accesses to tables, queues and page tables snoop the CPU's caches.
            COHACC OFFSET(4) NUMBITS(1) [],
            /// Listens to the CPU's broadcast TLB maintenance.
            BTM OFFSET(5) NUMBITS(1) [],
            /// EL2 translation regimes.
            HYP OFFSET(9) NUMBITS(1) [],
            /// PCIe ATS.
            ATS OFFSET(10) NUMBITS(1) [],
            /// VMIDs have 16 bits rather than 8.
            VMID16 OFFSET(18) NUMBITS(1) [],
            /// ASIDs have 16 bits rather than 8.
            ASID16 OFFSET(12) NUMBITS(1) [],
            /// Message-signalled interrupts.
            MSI OFFSET(13) NUMBITS(1) [],
            /// PCIe page requests.
            PRI OFFSET(16) NUMBITS(1) [],
            /// Endianness of translation tables.
            TTENDIAN OFFSET(21) NUMBITS(2) [
                Mixed = 0b00,
                Little = 0b10,
                Big = 0b11
            ],
            /// Whether faulting transactions may stall.
            STALL_MODEL OFFSET(24) NUMBITS(2) [
                Configurable = 0b00,
                Never = 0b01,
                Always = 0b10
            ],
            /// Stream table formats.
            ST_LEVEL OFFSET(27) NUMBITS(2) [
                Linear = 0b00,
                TwoLevel = 0b01
            ]
        ],
        /// SMMU_IDR1: sizes.
        ///
        /// ```text
        ///  31      30             29        28       27             26       25    21 20     16 15   11 10     6 5      0
        /// |..|TABLES_PRESET|QUEUES_PRESET|REL|ATTR_TYPES_OVR|ATTR_PERMS_OVR| CMDQS | EVENTQS | PRIQS |SSIDSIZE|SIDSIZE|
        /// ```
        pub IDR1 [
            /// Width of a StreamID.
            SIDSIZE OFFSET(0) NUMBITS(6) [],
            /// Width of a SubstreamID.
            SSIDSIZE OFFSET(6) NUMBITS(5) [],
            /// Largest log2 of the PRI queue's entries.
            PRIQS OFFSET(11) NUMBITS(5) [],
            /// Largest log2 of the event queue's entries.
            EVENTQS OFFSET(16) NUMBITS(5) [],
            /// Largest log2 of the command queue's entries.
            CMDQS OFFSET(21) NUMBITS(5) [],
            /// Incoming privilege and instruction attributes can be overridden.
            ATTR_PERMS_OVR OFFSET(26) NUMBITS(1) [],
            /// Incoming memory attributes can be overridden.
            ATTR_TYPES_OVR OFFSET(27) NUMBITS(1) [],
            /// The queues' bases are fixed.
            QUEUES_PRESET OFFSET(29) NUMBITS(1) [],
            /// The stream table's base is fixed.
            TABLES_PRESET OFFSET(30) NUMBITS(1) []
        ],
        /// SMMU_IDR3: more features.
        pub IDR3 [
            /// Range invalidation and level hint.
            RIL OFFSET(10) NUMBITS(1) []
        ],
        /// SMMU_IDR5: addresses and granules.
        pub IDR5 [
            /// Output address size.
            OAS OFFSET(0) NUMBITS(3) [],
            /// Pages of 4 KiB.
            GRAN4K OFFSET(4) NUMBITS(1) []
        ],
        /// SMMU_CR0 and SMMU_CR0ACK.
        ///
        /// ```text
        ///  31..9 8..6 5    4        3        2         1        0
        /// |  0  | VMW |0|ATSCHK|CMDQEN|EVENTQEN|PRIQEN|SMMUEN|
        /// ```
        pub CR0 [
            /// Translation.
            SMMUEN OFFSET(0) NUMBITS(1) [],
            /// The PRI queue.
            PRIQEN OFFSET(1) NUMBITS(1) [],
            /// The event queue.
            EVENTQEN OFFSET(2) NUMBITS(1) [],
            /// The command queue.
            CMDQEN OFFSET(3) NUMBITS(1) [],
            /// Translated transactions are checked against STE.EATS.
            ATSCHK OFFSET(4) NUMBITS(1) []
        ],
        /// SMMU_CR1: how tables and queues are accessed. 1 is write-back in the cacheability fields.
        ///
        /// ```text
        ///  31..12 11     10 9       8 7       6 5       4 3       2 1       0
        /// |  0   |TABLE_SH |TABLE_OC |TABLE_IC |QUEUE_SH |QUEUE_OC |QUEUE_IC |
        /// ```
        pub CR1 [
            /// Inner cacheability of queues.
            QUEUE_IC OFFSET(0) NUMBITS(2) [],
            /// Outer cacheability of queues.
            QUEUE_OC OFFSET(2) NUMBITS(2) [],
            /// Shareability of queues.
            QUEUE_SH OFFSET(4) NUMBITS(2) [],
            /// Inner cacheability of the stream table.
            TABLE_IC OFFSET(6) NUMBITS(2) [],
            /// Outer cacheability of the stream table.
            TABLE_OC OFFSET(8) NUMBITS(2) [],
            /// Shareability of the stream table.
            TABLE_SH OFFSET(10) NUMBITS(2) []
        ],
        /// SMMU_CR2.
        pub CR2 [
            /// EL2 translation regimes have ASIDs.
            E2H OFFSET(0) NUMBITS(1) [],
            /// C_BAD_STREAMID is recorded.
            RECINVSID OFFSET(1) NUMBITS(1) [],
            /// Broadcast TLB maintenance is not listened to.
            PTM OFFSET(2) NUMBITS(1) []
        ],
        /// SMMU_GBPA: what happens to transactions while SMMUEN is 0. A write must set UPDATE.
        pub GBPA [
            /// They are aborted.
            ABORT OFFSET(20) NUMBITS(1) [],
            /// A write is taking effect.
            UPDATE OFFSET(31) NUMBITS(1) []
        ],
        /// SMMU_GERROR and SMMU_GERRORN. An error is active where the two differ; toggling the bit in
        /// GERRORN acknowledges it.
        pub GERROR [
            /// The command queue stopped; SMMU_CMDQ_CONS.ERR says why.
            CMDQ_ERR OFFSET(0) NUMBITS(1) [],
            /// An access to the event queue was aborted: events were lost.
            EVENTQ_ABT_ERR OFFSET(2) NUMBITS(1) [],
            /// An access to the PRI queue was aborted: requests were lost.
            PRIQ_ABT_ERR OFFSET(3) NUMBITS(1) [],
            /// The message of a CMD_SYNC was aborted.
            MSI_CMDQ_ABT_ERR OFFSET(4) NUMBITS(1) []
        ],
        /// SMMU_STRTAB_BASE_CFG.
        pub STRTAB_BASE_CFG [
            /// log2 of the number of StreamIDs.
            LOG2SIZE OFFSET(0) NUMBITS(6) [],
            /// StreamID bits that index a level 2 table.
            SPLIT OFFSET(6) NUMBITS(5) [],
            /// Format.
            FMT OFFSET(16) NUMBITS(2) [
                Linear = 0,
                TwoLevel = 1
            ]
        ],
        /// SMMU_CMDQ_CONS. The wrap flag is the bit above the index.
        pub CMDQ_CONS [
            /// Read index and wrap flag.
            RD OFFSET(0) NUMBITS(20) [],
            /// Why the queue stopped (7.1).
            ERR OFFSET(24) NUMBITS(7) []
        ],
        /// SMMU_PRIQ_PROD, and SMMU_PRIQ_CONS with OVACKFLG at bit 31.
        pub PRIQ_PROD [
            /// Write index and wrap flag.
            WR OFFSET(0) NUMBITS(20) [],
            /// Differs from OVACKFLG after requests were lost.
            OVFLG OFFSET(31) NUMBITS(1) []
        ],
        /// SMMU_EVENTQ_PROD, and SMMU_EVENTQ_CONS with OVACKFLG at bit 31.
        pub EVENTQ_PROD [
            /// Write index and wrap flag.
            WR OFFSET(0) NUMBITS(20) [],
            /// Differs from OVACKFLG after events were lost.
            OVFLG OFFSET(31) NUMBITS(1) []
        ]
    ];
}

/// SMMU_STRTAB_BASE: where the stream table lies, with a read-allocate hint.
///
/// ```text
///  63 62 61..56 55                      6 5..0
/// | 0|RA|   0  | ADDR[55:6]              |  0  |
/// ```
pub const fn strtab_base(address: u64) -> u64 {
    1 << 62 | super::address_field(address, 55, 6)
}

/// SMMU_CMDQ_BASE (bit 62: read-allocate), SMMU_EVENTQ_BASE and SMMU_PRIQ_BASE (bit 62:
/// write-allocate): a queue
/// of 2^`log2_entries`, aligned to its size.
///
/// ```text
///  63  62   61..56 55                      5 4        0
/// | 0|RA/WA|   0  | ADDR[55:5]              | LOG2SIZE |
/// ```
pub const fn queue_base(address: u64, log2_entries: u32) -> u64 {
    1 << 62 | super::address_field(address, 55, 5) | super::field(log2_entries as u64, 4, 0)
}

/// SMMU_CMDQ_CONS.ERR (7.1).
pub mod command_error {
    /// CERROR_NONE.
    pub const NONE: u32 = 0;
    /// CERROR_ILL: the command is illegal.
    pub const ILLEGAL: u32 = 1;
    /// CERROR_ABT: the queue could not be read.
    pub const ABORT: u32 = 2;
    /// CERROR_ATC_INV_SYNC: a device did not answer a CMD_ATC_INV before the CMD_SYNC.
    pub const ATC_INV_SYNC: u32 = 3;
}
