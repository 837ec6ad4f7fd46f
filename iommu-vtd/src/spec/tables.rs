//! Tables of scalable mode that the IOMMU reads from memory (chapter 9).
//!
//! Every entry has its present bit in bit 0 of word 0.

use super::{PAGE_ADDRESS, field};
use iommu_core::ids::PhysicalAddress;

/// Present: bit 0 of word 0 of every entry.
pub const PRESENT: u64 = 1;
/// Fault Processing Disable, bit 1 of word 0 of a PASID table entry: refused requests are not
/// recorded.
pub const FAULT_PROCESSING_DISABLE: u64 = 1 << 1;

/// 64-bit words in a scalable-mode root entry.
pub const ROOT_WORDS: usize = 2;
/// 64-bit words in a scalable-mode context entry.
pub const CONTEXT_WORDS: usize = 4;
/// 64-bit words in a scalable-mode PASID table entry.
pub const PASID_WORDS: usize = 8;
/// Entries in a PASID table; a directory entry stands for so many PASIDs.
pub const PASID_TABLE_ENTRIES: usize = 64;
/// Bits of a PASID that select the entry in a PASID table.
pub const PASID_TABLE_BITS: u32 = 6;

/// One half of a scalable-mode root entry (9.2): where the context table of 128 functions lies.
/// Word 0 is for device numbers 0 to 15, word 1 for 16 to 31.
///
/// ```text
///  63                       12 11         1 0
/// +---------------------------+------------+-+
/// |   LCTP or UCTP[63:12]     |  reserved  |P|
/// +---------------------------+------------+-+
/// ```
pub const fn root_half(context_table: PhysicalAddress) -> u64 {
    context_table.0 & PAGE_ADDRESS | PRESENT
}

/// What a scalable-mode context entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextEntry {
    /// Where the PASID directory lies.
    pub directory: PhysicalAddress,
    /// PDTS: the directory has 2^(PDTS + 7) entries.
    pub directory_size: u8,
    /// PASIDE: requests with a PASID are accepted.
    pub pasid_enable: bool,
    /// DTE: translation requests and translated requests are accepted.
    pub device_tlb_enable: bool,
    /// PRE: page requests are accepted.
    pub page_request_enable: bool,
}

impl ContextEntry {
    /// The words of a present entry (9.4).
    ///
    /// ```text
    ///         63            12 11   9 8   5 4   3      2   1   0
    /// word 0 +----------------+------+-----+---+------+---+---+---+
    ///        |  PASIDDIRPTR   | PDTS |     |PRE|PASIDE|DTE|FPD| P |
    ///        +----------------+------+-----+---+------+---+---+---+
    /// word 1 |        reserved        |RID_PRIV (20)| RID_PASID   |
    ///        +------------------------+-------------+-------------+
    /// ```
    ///
    /// Words 2 and 3 are zero, and so is RID_PASID: requests without a PASID use entry 0 of the
    /// PASID table.
    pub const fn words(self) -> [u64; CONTEXT_WORDS] {
        let low = self.directory.0 & PAGE_ADDRESS
            | field(self.directory_size as u64, 9, 3)
            | field(self.page_request_enable as u64, 4, 1)
            | field(self.pasid_enable as u64, 3, 1)
            | field(self.device_tlb_enable as u64, 2, 1)
            | PRESENT;
        [low, 0, 0, 0]
    }
}

/// PDTS for PASIDs of `pasid_bits` bits: a directory has at least 128 entries, which is 13 bits.
pub const fn directory_size(pasid_bits: u8) -> u8 {
    pasid_bits.saturating_sub(13)
}

/// A present entry of the PASID directory (9.5).
///
/// ```text
///  63                       12 11       2   1   0
/// +---------------------------+----------+---+---+
/// |         SMPTBLPTR         | reserved |FPD| P |
/// +---------------------------+----------+---+---+
/// ```
pub const fn directory_entry(pasid_table: PhysicalAddress) -> u64 {
    pasid_table.0 & PAGE_ADDRESS | PRESENT
}

/// What a PASID table entry for first-stage translation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStageEntry {
    /// DID: the tag of its translations.
    pub domain_id: u16,
    /// FSPTPTR: where the root of the page table lies.
    pub root: PhysicalAddress,
    /// FSPM: whether the page table has five levels rather than four.
    pub five_levels: bool,
    /// PWSNP: page walks snoop the CPU's caches.
    pub page_walk_snoop: bool,
}

impl FirstStageEntry {
    /// The words of a present entry (9.6).
    ///
    /// ```text
    ///         63            12 11 10 9     8   6 5 4  2  1   0
    /// word 0 +----------------+-----+-----+------+-+----+---+---+
    ///        |   SSPTPTR      |     |SSADE| PGTT | | AW |FPD| P |
    ///        +----------------+-----+-----+------+-+----+---+---+
    /// word 1 |      ...       |PGSNP (24)|PWSNP (23)|...|  DID  |
    ///        +----------------+----------+----------+---+-------+
    /// word 2 |   FSPTPTR      | ... |EAFE|.. |WPE| FSPM |ERE|SRE|
    ///        +----------------+-----+----+---+---+------+---+---+
    /// ```
    ///
    /// PGTT = 001b is first stage only. SRE = 0: no request runs with supervisor privilege. AW (010b
    /// for 48 bits, 011b for 57) is the second stage's width by the specification; Linux sets it for
    /// the first stage too, and QEMU takes from it which addresses are canonical. The other fields
    /// belong to the second stage or relax a rule, and are zero, as are words 3 to 7.
    pub const fn words(self) -> [u64; PASID_WORDS] {
        let address_width = if self.five_levels { 3 } else { 2 };
        let first = field(1, 6, 3) | field(address_width, 2, 3) | PRESENT;
        let second =
            field(self.domain_id as u64, 0, 16) | field(self.page_walk_snoop as u64, 23, 1);
        let third = self.root.0 & PAGE_ADDRESS | field(self.five_levels as u64, 2, 2);
        [first, second, third, 0, 0, 0, 0, 0]
    }
}
