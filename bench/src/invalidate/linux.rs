//! What Linux 7.3's three drivers issue for the same operation, computed from formulae.
//!
//! They describe `drivers/iommu/intel/cache.c`, `arm-smmu-v3.c` and `riscv/iommu.c`: nothing of Linux
//! runs here.

use super::effect::Pages;

/// What an operation costs, or a mean over several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Commands, syncs included.
    pub commands: f64,
    /// Writes of tail registers.
    pub doorbells: f64,
    /// Waits of which each begins only after the one before.
    pub waits: f64,
    /// Reads of registers, the least number if it depends on how long a wait takes.
    pub reads: f64,
    /// Pages invalidated beyond the range, summed over the caches; tag-wide ones are counted apart.
    pub excess: f64,
    /// The largest excess in one cache, as a multiple of the range.
    pub worst_excess: f64,
    /// Caches that were invalidated.
    pub caches: f64,
    /// Of which as a whole.
    pub wide: f64,
    /// Waits with something held.
    pub waits_inside: f64,
}

impl Counts {
    /// Nothing.
    pub const NONE: Self = Self {
        commands: 0.0,
        doorbells: 0.0,
        waits: 0.0,
        reads: 0.0,
        excess: 0.0,
        worst_excess: 0.0,
        caches: 0.0,
        wide: 0.0,
        waits_inside: 0.0,
    };

    /// Adds another operation's.
    pub fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.doorbells += other.doorbells;
        self.waits += other.waits;
        self.reads += other.reads;
        self.excess += other.excess;
        self.worst_excess = self.worst_excess.max(other.worst_excess);
        self.caches += other.caches;
        self.wide += other.wide;
        self.waits_inside += other.waits_inside;
    }
}

/// Where an address space is in use: on so many IOMMUs, by so many devices with a TLB on each.
#[derive(Clone, Copy)]
pub struct Spread {
    pub iommus: usize,
    pub devices: usize,
}

/// A driver of Linux.
#[derive(Clone, Copy)]
pub enum Driver {
    Vtd,
    Smmuv3 { ranges: bool },
    Riscv { ranges: bool },
}

/// Descriptors in one submission of VT-d's.
const VTD_BATCH: f64 = 16.0;
/// Commands in one submission of SMMUv3's.
const SMMU_BATCH: f64 = 64.0;
/// From so many pages on, an SMMU without ranges is told to forget the ASID.
const SMMU_WIDE: u64 = 512;
/// Above so many pages, a RISC-V IOMMU without ranges is told to forget the PSCID.
const RISCV_WIDE: u64 = 512;

impl Driver {
    /// What it issues to invalidate `pages`, leaf entries only.
    pub fn counts(self, pages: Pages, spread: Spread) -> Counts {
        let (iommus, tlbs) = (spread.iommus as f64, spread.devices as f64);
        let one = match self {
            Self::Vtd => vtd(pages, tlbs),
            Self::Smmuv3 { ranges } => smmuv3(pages, ranges, tlbs),
            Self::Riscv { ranges } => riscv(pages, ranges),
        };
        // One IOMMU after the other, but RISC-V's, which waits when all have their commands.
        let rounds = if matches!(self, Self::Riscv { .. }) {
            1.0
        } else {
            iommus
        };
        Counts {
            commands: one.commands * iommus,
            doorbells: one.doorbells * iommus,
            waits: one.waits * rounds,
            reads: one.reads * iommus,
            excess: one.excess * iommus,
            caches: one.caches * iommus,
            wide: one.wide * iommus,
            waits_inside: one.waits_inside * rounds,
            ..one
        }
    }
}

/// One block for the IOTLB and each device TLB, in batches with a wait each, under the domain's lock;
/// each look at the wait reads FSTS.
fn vtd(pages: Pages, tlbs: f64) -> Counts {
    let caches = 1.0 + tlbs;
    let batches = (caches / VTD_BATCH).ceil();
    let excess = block_excess(pages);
    Counts {
        commands: caches + batches,
        doorbells: batches,
        waits: batches,
        reads: batches,
        excess: excess * caches,
        worst_excess: excess / pages.count as f64,
        caches,
        waits_inside: batches,
        ..Counts::NONE
    }
}

/// The IOTLB's commands with a CMD_SYNC, waited for, then the device TLBs' with another. Completion by
/// message, so no register is read.
fn smmuv3(pages: Pages, ranges: bool, tlbs: f64) -> Counts {
    let is_wide = !ranges && pages.count >= SMMU_WIDE;
    let (commands, iotlb_excess) = match (ranges, is_wide) {
        (true, _) => {
            let asked = pages.count + u64::from(pages.count % 32 == 1);
            (range_commands(asked), (asked - pages.count) as f64)
        }
        (false, true) => (1.0, 0.0),
        (false, false) => (pages.count as f64, 0.0),
    };
    let (device_syncs, device_excess) = if tlbs > 0.0 {
        (1.0, block_excess(pages))
    } else {
        (0.0, 0.0)
    };
    let worst = iotlb_excess.max(device_excess);
    Counts {
        commands: commands + 1.0 + tlbs + device_syncs,
        doorbells: (commands / SMMU_BATCH).ceil() + (tlbs / SMMU_BATCH).ceil(),
        waits: 1.0 + device_syncs,
        excess: iotlb_excess + device_excess * tlbs,
        worst_excess: worst / pages.count as f64,
        caches: 1.0 + tlbs,
        wide: f64::from(u8::from(is_wide)),
        ..Counts::NONE
    }
}

/// A doorbell for each command; each look at the wait reads two registers. No device TLBs.
fn riscv(pages: Pages, ranges: bool) -> Counts {
    let is_wide = !ranges && pages.count > RISCV_WIDE;
    let (commands, excess) = match (ranges && pages.count > 1, is_wide) {
        (true, _) => (1.0, block_excess(pages)),
        (false, true) => (1.0, 0.0),
        (false, false) => (pages.count as f64, 0.0),
    };
    Counts {
        commands: commands + 1.0,
        doorbells: commands + 1.0,
        waits: 1.0,
        reads: 2.0,
        excess,
        worst_excess: excess / pages.count as f64,
        caches: 1.0,
        wide: f64::from(u8::from(is_wide)),
        ..Counts::NONE
    }
}

/// The pages around `pages` in the smallest aligned block that holds them.
fn block_excess(pages: Pages) -> f64 {
    let last = pages.first + pages.count - 1;
    let order = u64::BITS - (pages.first ^ last).leading_zeros();
    ((1u64 << order) - pages.count) as f64
}

/// One command for each group of five binary digits, from the lowest digit that is set.
fn range_commands(mut pages: u64) -> f64 {
    let mut commands = 0.0;
    while pages != 0 {
        let scale = pages.trailing_zeros();
        pages -= ((pages >> scale) & 0x1f) << scale;
        commands += 1.0;
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Spread = Spread {
        iommus: 1,
        devices: 0,
    };

    fn pages(first: u64, count: u64) -> Pages {
        Pages { first, count }
    }

    #[test]
    fn digits_go_in_groups_of_five() {
        assert_eq!(range_commands(1), 1.0);
        assert_eq!(range_commands(31 << 7), 1.0);
        assert_eq!(range_commands(33), 2.0);
        assert_eq!(range_commands((1 << 18) - 1), 4.0);
    }

    #[test]
    fn a_block_around_a_boundary_is_as_large_as_the_boundary() {
        assert_eq!(block_excess(pages(511, 2)), 1022.0);
        assert_eq!(block_excess(pages(512, 512)), 0.0);
    }

    #[test]
    fn riscv_rings_once_for_each_command() {
        let counts = Driver::Riscv { ranges: false }.counts(pages(7, 16), ALONE);
        assert_eq!((counts.commands, counts.doorbells), (17.0, 17.0));
    }

    #[test]
    fn four_iommus_are_waited_for_one_after_the_other() {
        let spread = Spread {
            iommus: 4,
            devices: 4,
        };
        let smmu = Driver::Smmuv3 { ranges: true }.counts(pages(0, 512), spread);
        assert_eq!(
            (smmu.commands, smmu.doorbells, smmu.waits),
            (28.0, 8.0, 8.0)
        );
        let vtd = Driver::Vtd.counts(pages(0, 512), spread);
        assert_eq!((vtd.commands, vtd.doorbells, vtd.waits), (24.0, 4.0, 4.0));
    }
}
