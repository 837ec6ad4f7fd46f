//! What the modelled hardware supports.

/// The capabilities of the modelled IOMMU and the sizes that its registers take.
///
/// Not modelled, so always absent: Sv32 and Sv32x4 with `fctl.GXL`, big-endian tables
/// (`capabilities.END`), memory-resident interrupt files, `T2GPA`, the performance monitor, QoS
/// identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The version, the major one in the upper four bits.
    pub version: u8,
    /// How many of Sv39, Sv48 and Sv57 there are, in this order: 0 to 3.
    pub first_stage_modes: u8,
    /// How many of Sv39x4, Sv48x4 and Sv57x4 there are, in this order: 0 to 3.
    pub second_stage_modes: u8,
    /// Page-based memory types.
    pub svpbmt: bool,
    /// Bits 60 and 59 of a page-table entry belong to software.
    pub svrsw60t59b: bool,
    /// MSI page tables, and with them device contexts of 64 bytes instead of 32.
    pub msi_flat: bool,
    /// Accessed and dirty bits can be updated (`GADE`, `SADE`).
    pub amo_hwad: bool,
    /// Translation requests, device-TLB invalidations and page requests.
    pub ats: bool,
    /// Wired interrupts, messages or both (`capabilities.IGS`).
    pub interrupts: InterruptGeneration,
    /// The debug translation registers.
    pub dbg: bool,
    /// The width of physical addresses in bits.
    pub physical_address_bits: u8,
    /// Process directories of one level.
    pub pd8: bool,
    /// Process directories of two levels.
    pub pd17: bool,
    /// Process directories of three levels.
    pub pd20: bool,
    /// Address-specific invalidations can reach non-leaf entries.
    pub nl: bool,
    /// Invalidations can take an aligned block.
    pub s: bool,
    /// Whether `ddtp` takes device directories of one, two and three levels.
    pub directory_levels: [bool; 3],
    /// The binary logarithm of the largest command queue, 1 to 32.
    pub log2_commands: u8,
    /// The binary logarithm of the largest fault queue, 1 to 32.
    pub log2_faults: u8,
    /// The binary logarithm of the largest page-request queue, 1 to 32.
    pub log2_page_requests: u8,
    /// Whether an access that a cached entry forbids is walked again before it faults. The
    /// specification lets hardware use the old entry until it is invalidated, so the default is no.
    pub walks_again_before_fault: bool,
}

/// `capabilities.IGS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptGeneration {
    /// Messages only.
    Messages = 0,
    /// Wires only.
    Wires = 1,
    /// Software chooses.
    Both = 2,
}

impl Default for Configuration {
    /// Everything that is modelled, at its largest.
    fn default() -> Self {
        Self {
            version: 0x10,
            first_stage_modes: 3,
            second_stage_modes: 3,
            svpbmt: true,
            svrsw60t59b: false,
            msi_flat: true,
            amo_hwad: true,
            ats: true,
            interrupts: InterruptGeneration::Both,
            dbg: true,
            physical_address_bits: 56,
            pd8: true,
            pd17: true,
            pd20: true,
            nl: true,
            s: true,
            directory_levels: [true; 3],
            log2_commands: 15,
            log2_faults: 15,
            log2_page_requests: 15,
            walks_again_before_fault: false,
        }
    }
}

impl Configuration {
    /// The register `capabilities` (section "IOMMU capabilities").
    pub(super) fn capabilities(&self) -> u64 {
        let modes = |count: u8| (1u64 << count.min(3)) - 1;
        let flags = [
            (self.svrsw60t59b, 14),
            (self.svpbmt, 15),
            (self.msi_flat, 22),
            (self.amo_hwad, 24),
            (self.ats, 25),
            (self.dbg, 31),
            (self.pd8, 38),
            (self.pd17, 39),
            (self.pd20, 40),
            (self.nl, 42),
            (self.s, 43),
        ];
        let flags = flags
            .into_iter()
            .fold(0, |word, (flag, bit)| word | u64::from(flag) << bit);
        u64::from(self.version)
            | modes(self.first_stage_modes) << 9
            | modes(self.second_stage_modes) << 17
            | (self.interrupts as u64) << 28
            | u64::from(self.physical_address_bits & 0x3f) << 32
            | flags
    }

    /// The levels of the page table that `iosatp.MODE` 8 to 10 selects, if it is supported.
    pub(super) fn first_stage_levels(&self, mode: u64) -> Option<u32> {
        supported_levels(mode, self.first_stage_modes)
    }

    /// The levels of the page table that `iohgatp.MODE` 8 to 10 selects, if it is supported.
    pub(super) fn second_stage_levels(&self, mode: u64) -> Option<u32> {
        supported_levels(mode, self.second_stage_modes)
    }

    /// The width of the widest virtual address in bits.
    pub(super) fn virtual_address_bits(&self) -> u32 {
        match self.first_stage_modes {
            0 => 64,
            modes => 30 + 9 * u32::from(modes.min(3)),
        }
    }

    /// The width of the widest guest physical address in bits (MGPAW of section "MSI address mask
    /// and pattern").
    pub(super) fn guest_address_bits(&self) -> u32 {
        match self.second_stage_modes {
            0 => self.physical_address_bits.into(),
            modes => 32 + 9 * u32::from(modes.min(3)),
        }
    }

    /// The levels of the process directory that `pdtp.MODE` 1 to 3 selects, if it is supported.
    pub(super) fn process_directory_levels(&self, mode: u64) -> Option<u32> {
        let supported = match mode {
            1 => self.pd8,
            2 => self.pd17,
            3 => self.pd20,
            _ => false,
        };
        supported.then_some(mode as u32)
    }

    /// The width of the widest process id in bits.
    pub(super) fn process_id_bits(&self) -> u32 {
        [(self.pd20, 20), (self.pd17, 17), (self.pd8, 8)]
            .into_iter()
            .find_map(|(supported, bits)| supported.then_some(bits))
            .unwrap_or(0)
    }

    /// The width of the device ids that a directory of `levels` levels holds.
    pub(super) fn device_id_bits(&self, levels: u32) -> u32 {
        let leaf = if self.msi_flat { 6 } else { 7 };
        (leaf + 9 * levels.saturating_sub(1)).min(24)
    }
}

fn supported_levels(mode: u64, modes: u8) -> Option<u32> {
    let supported = (8..8 + u64::from(modes.min(3))).contains(&mode);
    supported.then(|| mode as u32 - 5)
}
