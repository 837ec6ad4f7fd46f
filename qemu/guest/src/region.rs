//! A range of physical addresses.

use core::fmt;

/// `size` bytes of physical address space from `base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub base: u64,
    /// Length in bytes.
    pub size: u64,
}

impl Region {
    /// The region `[base, end)`; empty if `end` lies below `base`.
    pub const fn between(base: u64, end: u64) -> Self {
        Self {
            base,
            size: end.saturating_sub(base),
        }
    }

    /// The first byte after the region. A region that wraps ends at the top of the address space.
    pub const fn end(&self) -> u64 {
        self.base.saturating_add(self.size)
    }

    /// The whole `granule`-sized blocks inside the region.
    pub const fn shrink_to(&self, granule: u64) -> Self {
        Self::between(
            self.base.saturating_add(granule - 1) / granule * granule,
            self.end() / granule * granule,
        )
    }

    /// The `granule`-sized blocks that the region touches.
    pub const fn grow_to(&self, granule: u64) -> Self {
        Self::between(
            self.base / granule * granule,
            self.end().saturating_add(granule - 1) / granule * granule,
        )
    }

    /// Whether every byte of `other` lies in this region.
    pub const fn contains(&self, other: &Self) -> bool {
        self.base <= other.base && other.end() <= self.end()
    }
}

impl fmt::Display for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}..{:#x}", self.base, self.end())
    }
}

/// Calls `visit` for each part of `whole` that lies in none of `parts`, which are sorted by base.
pub fn gaps(whole: Region, parts: &[Region], mut visit: impl FnMut(Region)) {
    let mut next = whole.base;
    for part in parts {
        if part.base >= whole.end() {
            break;
        }
        if part.base > next {
            visit(Region::between(next, part.base));
        }
        next = next.max(part.end());
    }
    if next < whole.end() {
        visit(Region::between(next, whole.end()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn rounding_goes_inwards_and_outwards() {
        let region = Region {
            base: 0x1800,
            size: 0x2000,
        };
        assert_eq!(
            region.shrink_to(0x1000),
            Region {
                base: 0x2000,
                size: 0x1000
            }
        );
        assert_eq!(
            region.grow_to(0x1000),
            Region {
                base: 0x1000,
                size: 0x3000
            }
        );
        assert_eq!(
            Region {
                base: 0x1800,
                size: 0x100
            }
            .shrink_to(0x1000)
            .size,
            0
        );
    }

    #[test]
    fn gaps_are_what_the_parts_leave() {
        let parts = [
            Region::between(0, 2),
            Region::between(4, 6),
            Region::between(9, 20),
        ];
        let mut found = Vec::new();
        gaps(Region::between(0, 10), &parts, |gap| found.push(gap));
        assert_eq!(found, [Region::between(2, 4), Region::between(6, 9)]);
        found.clear();
        gaps(Region::between(0, 3), &[], |gap| found.push(gap));
        assert_eq!(found, [Region::between(0, 3)]);
    }
}
