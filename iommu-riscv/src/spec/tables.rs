//! The in-memory tables (chapter "Data Structures").

use super::page_number;
use bitflags::bitflags;
use iommu_core::ids::{PhysicalAddress, Tag};

/// A valid entry that leads to the next table of a device or process directory (sections "Non-leaf
/// DDT entry", "Non-leaf PDT entry").
///
/// ```text
///  63  54 53        10 9    1  0
/// +------+------------+------+---+
/// | rsvd |    PPN     | rsvd | V |
/// +------+------------+------+---+
/// ```
pub const fn non_leaf(table: PhysicalAddress) -> u64 {
    page_number(table) << 10 | 1
}

bitflags! {
    /// Translation control, doubleword 0 of a device context.
    ///
    /// ```text
    ///  63  32 31    24 23  12 11  10   9   8    7    6    5    4    3     2      1     0
    /// +------+--------+------+---+---+---+----+----+----+----+---+-----+------+------+---+
    /// | rsvd | custom | rsvd |SXL|SBE|DPE|SADE|GADE|PRPR|PDTV|DTF|T2GPA|EN_PRI|EN_ATS| V |
    /// +------+--------+------+---+---+---+----+----+----+----+---+-----+------+------+---+
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TranslationControl: u64 {
        /// The context is valid.
        const V = 1 << 0;
        /// The device may request translations and use them.
        const EN_ATS = 1 << 1;
        /// Page requests are taken.
        const EN_PRI = 1 << 2;
        /// Translation requests are answered with guest physical addresses.
        const T2GPA = 1 << 3;
        /// Faults of this device's translations are not reported.
        const DTF = 1 << 4;
        /// `fsc` is a process directory.
        const PDTV = 1 << 5;
        /// The IOMMU's own page responses carry a PASID.
        const PRPR = 1 << 6;
        /// The IOMMU updates A and D in the second stage.
        const GADE = 1 << 7;
        /// The IOMMU updates A and D in the first stage.
        const SADE = 1 << 8;
        /// Requests without a PASID use process context 0.
        const DPE = 1 << 9;
        /// Process directory and first stage are big-endian.
        const SBE = 1 << 10;
        /// The first stage is Sv32.
        const SXL = 1 << 11;
        const _ = !0;
    }

    /// Translation attributes, doubleword 0 of a process context.
    ///
    /// ```text
    ///  63    32 31      12 11    3   2     1    0
    /// +--------+----------+-------+-----+-----+---+
    /// |  rsvd  |  PSCID   | rsvd  | SUM | ENS | V |
    /// +--------+----------+-------+-----+-----+---+
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ProcessAttributes: u64 {
        /// The context is valid.
        const V = 1 << 0;
        /// Requests with supervisor privilege are allowed.
        const ENS = 1 << 1;
        /// Supervisor requests may access pages of the user.
        const SUM = 1 << 2;
        const _ = !0;
    }
}

/// `pdtp.MODE`: the levels of a process directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessDirectoryMode(pub u8);

impl ProcessDirectoryMode {
    /// One level, 8-bit process ids.
    pub const PD8: Self = Self(1);
    /// Two levels, 17 bits.
    pub const PD17: Self = Self(2);
    /// Three levels, 20 bits.
    pub const PD20: Self = Self(3);

    /// How many levels the directory has.
    pub const fn levels(self) -> u8 {
        self.0
    }

    /// The width of a process id in bits.
    pub const fn process_id_bits(self) -> u8 {
        match self {
            Self::PD8 => 8,
            Self::PD17 => 17,
            _ => 20,
        }
    }
}

/// `iosatp.MODE`: the format of a first-stage table, with SXL = 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStageMode(pub u8);

impl FirstStageMode {
    /// No translation.
    pub const BARE: Self = Self(0);

    /// Sv39, Sv48 or Sv57, for 3, 4 or 5 levels.
    pub const fn with_levels(levels: u8) -> Self {
        Self(5 + levels)
    }
}

/// `pdtp`, `iosatp` (and `iohgatp` without a GSCID): a mode and a root.
///
/// ```text
///  63  60 59    44 43        0
/// +------+--------+-----------+
/// | MODE |  rsvd  |    PPN    |
/// +------+--------+-----------+
/// ```
const fn pointer(mode: u8, root: PhysicalAddress) -> u64 {
    (mode as u64 & 0xf) << 60 | page_number(root)
}

/// How a device context is laid out: with `capabilities.MSI_FLAT` it has four more doublewords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceContextFormat {
    /// 32 bytes; a leaf page holds 128.
    Base,
    /// 64 bytes; a leaf page holds 64.
    Extended,
}

impl DeviceContextFormat {
    /// The 64-bit words of a context.
    pub const fn words(self) -> usize {
        match self {
            Self::Base => 4,
            Self::Extended => 8,
        }
    }

    /// The bits of a device id that select a context in a leaf page: DDI\[0\].
    pub const fn leaf_bits(self) -> u32 {
        match self {
            Self::Base => 7,
            Self::Extended => 6,
        }
    }

    /// The width of a device id in bits that a directory of 1 to 3 levels can hold.
    pub const fn device_id_bits(self, levels: u8) -> u32 {
        let bits = self.leaf_bits() + 9 * (levels as u32 - 1);
        if bits > 24 { 24 } else { bits }
    }
}

/// A device context (section "Device-context fields"): the base format, or the first half of the
/// extended one, whose other half is zero (`msiptp.MODE` = Off).
///
/// ```text
/// word 0 tc | word 1 iohgatp | word 2 ta (PSCID 31:12, ignored with PDTV) | word 3 fsc
/// extended: word 4 msiptp | word 5 msi_addr_mask | word 6 msi_addr_pattern | word 7 reserved
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceContext {
    /// Word 0, with the valid bit.
    pub translation_control: TranslationControl,
    /// Word 3.
    pub first_stage_context: u64,
}

impl DeviceContext {
    /// A context that finds the address space by process id, and uses process context 0 for
    /// requests without one; the second stage is Bare. `options` are further control bits.
    pub const fn process_directory(
        mode: ProcessDirectoryMode,
        root: PhysicalAddress,
        options: TranslationControl,
    ) -> Self {
        Self {
            translation_control: TranslationControl::V
                .union(TranslationControl::PDTV)
                .union(TranslationControl::DPE)
                .union(options),
            first_stage_context: pointer(mode.0, root),
        }
    }

    /// The doublewords in order; the extended format's others are zero.
    pub const fn words(&self) -> [u64; 4] {
        [
            self.translation_control.bits(),
            0,
            0,
            self.first_stage_context,
        ]
    }
}

/// The 64-bit words of a process context.
pub const PROCESS_CONTEXT_WORDS: usize = 2;

/// The bits of a process id that select a context in a leaf page: PDI\[0\].
pub const PROCESS_LEAF_BITS: u32 = 8;

/// A process context (section "Process-context fields"): `ta`, then `fsc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessContext {
    /// Word 0, with the valid bit.
    pub attributes: u64,
    /// Word 1.
    pub first_stage_context: u64,
}

impl ProcessContext {
    /// A context whose requests, at user privilege only, walk a first-stage table.
    pub const fn first_stage(mode: FirstStageMode, root: PhysicalAddress, tag: Tag) -> Self {
        Self {
            attributes: (tag.0 as u64 & 0xf_ffff) << 12 | ProcessAttributes::V.bits(),
            first_stage_context: pointer(mode.0, root),
        }
    }
}
