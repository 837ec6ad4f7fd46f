//! Stream table entries and context descriptors (chapter 5).

use super::{address_field, field};

/// Words in a stream table entry and in a context descriptor.
pub const ENTRY_WORDS: usize = 8;
/// Bytes in a stream table entry and in a context descriptor.
pub const ENTRY_BYTES: usize = ENTRY_WORDS * 8;
/// The V bit in word 0 of a stream table entry.
pub const STE_VALID: u64 = 1;
/// The V bit in word 0 of a context descriptor.
pub const CD_VALID: u64 = 1 << 31;

/// How the SMMU accesses a structure or a page table in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cacheability {
    /// Through the CPU's caches: write-back, read- and write-allocate, inner shareable.
    WriteBack,
    /// Past them: non-cacheable, outer shareable.
    NonCacheable,
}

impl Cacheability {
    /// The encoding of IR0, OR0, S1CIR and S1COR.
    pub const fn cache(self) -> u64 {
        match self {
            Self::WriteBack => 0b01,
            Self::NonCacheable => 0b00,
        }
    }

    /// The encoding of SH0, S1CSH, TABLE_SH and QUEUE_SH.
    pub const fn shareability(self) -> u64 {
        match self {
            Self::WriteBack => 0b11,
            Self::NonCacheable => 0b10,
        }
    }
}

/// A level 1 stream table descriptor (5.1) that leads to 2^`log2_entries` entries at `table`.
///
/// ```text
///   63..56 55                        6  5  4     0
///  |  0   | L2Ptr[55:6]               | 0 | Span  |     Span = log2(entries) + 1; 0: no table
/// ```
pub const fn level_1_descriptor(table: u64, log2_entries: u32) -> u64 {
    address_field(table, 55, 6) | field(log2_entries as u64 + 1, 4, 0)
}

/// What a stream table entry for stage 1 translation says (5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// Where the linear table of context descriptors lies: S1ContextPtr.
    pub contexts: u64,
    /// The binary logarithm of their number: S1CDMax. With 0, requests with a substream fail.
    pub log2_contexts: u8,
    /// How the SMMU reads them: S1CIR, S1COR, S1CSH.
    pub cacheability: Cacheability,
    /// Whether the device may use ATS: EATS = full ATS.
    pub device_tlb: bool,
    /// Whether stalling must be forbidden: S1STALLD. Illegal unless STALL_MODEL is 0b00.
    pub forbid_stall: bool,
    /// Whether the SMMU's own page responses carry a PASID: PPAR.
    pub response_pasid: bool,
    /// Whether the incoming shareability must be asked for: SHCFG. Reserved unless ATTR_TYPES_OVR.
    pub use_incoming_shareability: bool,
    /// Whether requests count as unprivileged, whatever they claim: PRIVCFG. Reserved unless
    /// ATTR_PERMS_OVR.
    pub unprivileged: bool,
}

impl StreamEntry {
    /// The entry's words; all that are not listed are zero.
    ///
    /// ```text
    ///  word 0  63      59 58  56 55                6 5     4 3      1  0
    ///         | S1CDMax  |  0   | S1ContextPtr[55:6] | S1Fmt | Config | V |
    ///  word 1  63..50 49   48  47..46 45   44 43..32 31  30 29  28    27     26..8 7   6 5   4 3   2 1   0
    ///         |  0  |PRIVCFG|  0   | SHCFG |   0  | STRW | EATS | S1STALLD |  0  |S1CSH|S1COR|S1CIR|S1DSS|   PPAR is bit 18
    ///  word 2  S2VMID = 0: the VMID of every invalidation this driver sends
    /// ```
    pub const fn words(&self) -> [u64; ENTRY_WORDS] {
        const STAGE_1: u64 = 0b101;
        const SUBSTREAM_0: u64 = 0b10;
        const USE_INCOMING: u64 = 0b01;
        const FULL_ATS: u64 = 0b01;
        const UNPRIVILEGED: u64 = 0b10;
        let substreams = self.log2_contexts > 0;
        let word_0 = STE_VALID
            | field(STAGE_1, 3, 1)
            | address_field(self.contexts, 55, 6)
            | field(self.log2_contexts as u64, 63, 59);
        let word_1 = field(if substreams { SUBSTREAM_0 } else { 0 }, 1, 0)
            | field(self.cacheability.cache(), 3, 2)
            | field(self.cacheability.cache(), 5, 4)
            | field(self.cacheability.shareability(), 7, 6)
            | field(self.response_pasid as u64, 18, 18)
            | field(self.forbid_stall as u64, 27, 27)
            | field(if self.device_tlb { FULL_ATS } else { 0 }, 29, 28)
            | field(
                if self.use_incoming_shareability {
                    USE_INCOMING
                } else {
                    0
                },
                45,
                44,
            )
            | field(if self.unprivileged { UNPRIVILEGED } else { 0 }, 49, 48);
        [word_0, word_1, 0, 0, 0, 0, 0, 0]
    }
}

/// What a context descriptor for one AArch64 table with a 4 KiB granule says (5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextDescriptor {
    /// The root table: TTB0.
    pub root: u64,
    /// Width of a virtual address: 64 − T0SZ.
    pub virtual_bits: u8,
    /// Width of a physical address, as IPS encodes it.
    pub physical_size: PhysicalSize,
    /// MAIR.
    pub memory_attributes: u64,
    /// The tag of its translations.
    pub asid: u16,
    /// How the SMMU reads the page table: IR0, OR0, SH0.
    pub cacheability: Cacheability,
    /// Whether a faulting transaction stalls: S. Illegal if the stream table entry forbids it.
    pub stall: bool,
}

impl ContextDescriptor {
    /// The descriptor's words; all that are not listed are zero.
    ///
    /// A and R are 1: a faulting transaction ends with an abort and an event (5.5), unless S lets it
    /// stall. ASET
    /// is 1: the ASID is not the CPU's, so that the CPU's broadcasts need not reach it. HA and HD
    /// stay 0: the CPU's kernel sets access and dirty flags. TTB1 is off.
    ///
    /// ```text
    ///  word 0  63  48  47  46 45 44 43 42  41  40..35 34 32  31   30   29..16   15  14  13 12 11 10 9   8 7   6 5  0
    ///         | ASID |ASET| A| R| S|HA|HD|AA64|  0   | IPS | V |EPD1| TTB1's |ENDI|EPD0| SH0 | OR0 | IR0 | TG0 |T0SZ|
    ///  word 1  63..56 55                                      4 3..0
    ///         |  0   | TTB0[55:4]                              |  0  |
    ///  word 3  MAIR
    /// ```
    pub const fn words(&self) -> [u64; ENTRY_WORDS] {
        const GRANULE_4K: u64 = 0b00;
        let word_0 = field(64 - self.virtual_bits as u64, 5, 0)
            | field(GRANULE_4K, 7, 6)
            | field(self.cacheability.cache(), 9, 8)
            | field(self.cacheability.cache(), 11, 10)
            | field(self.cacheability.shareability(), 13, 12)
            | 1 << 30
            | CD_VALID
            | field(self.physical_size.encoding(), 34, 32)
            | 1 << 41
            | if self.stall { CD_STALL } else { 0 }
            | CD_RECORD
            | 1 << 46
            | 1 << 47
            | field(self.asid as u64, 63, 48);
        let root = address_field(self.root, 51, 4);
        [word_0, root, 0, self.memory_attributes, 0, 0, 0, 0]
    }
}

const CD_EPD0: u64 = 1 << 14;
const CD_RECORD: u64 = 1 << 45;
const CD_ASID: u64 = 0xffff << 48;
/// The S bit in word 0 of a context descriptor.
const CD_STALL: u64 = 1 << 44;

/// Word 0 of a valid context descriptor, changed so that every request fails and nothing is
/// recorded, and none stalls: EPD0 = 1, R = 0, S = 0 and ASID 0. Only this word decides, so a single store blocks the
/// context.
///
/// EPD0 disables walks, not the TLB (5.4.1.1), which other devices may go on filling under the
/// address space's own ASID. Under ASID 0, which no address space has, nothing is ever filled.
pub const fn blocked(word_0: u64) -> u64 {
    (word_0 | CD_EPD0) & !(CD_RECORD | CD_STALL | CD_ASID)
}

/// A width of physical addresses, as CD.IPS and SMMU_IDR5.OAS encode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PhysicalSize(u8);

impl PhysicalSize {
    const WIDTHS: [u8; 8] = [32, 36, 40, 42, 44, 48, 52, 56];

    /// The size that the low three bits of `encoding` stand for.
    pub const fn from_encoding(encoding: u32) -> Self {
        Self((encoding & 0b111) as u8)
    }

    /// The size of exactly `bits`, if there is one.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let index = Self::WIDTHS.iter().position(|&width| width == bits)?;
        Some(Self(index as u8))
    }

    /// Its width in bits.
    pub const fn bits(self) -> u8 {
        Self::WIDTHS[(self.0 & 0b111) as usize]
    }

    /// Its encoding.
    pub const fn encoding(self) -> u64 {
        self.0 as u64
    }
}
