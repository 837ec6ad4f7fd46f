//! The translations that the device keeps.

use std::fmt;

/// A block of I/O virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

impl Block {
    /// The block of `size` bytes from `first` on, as IOTLB messages name it: 0 is 2^64, and what
    /// would lie beyond the last address is left out.
    pub const fn new(first: u64, size: u64) -> Self {
        Self {
            first,
            last: first.saturating_add(size.wrapping_sub(1)),
        }
    }

    /// Whether the byte at `iova` is in it.
    pub const fn contains(&self, iova: u64) -> bool {
        self.first <= iova && iova <= self.last
    }

    /// Whether the two have a byte in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}..={:#x}", self.first, self.last)
    }
}

/// What the device was told of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The block.
    pub block: Block,
    /// Where QEMU has its first byte in its own address space.
    pub user: u64,
    /// Whether reads are allowed.
    pub read: bool,
    /// Whether writes are allowed.
    pub write: bool,
}

impl Translation {
    /// Where QEMU has the byte at `iova`, which lies in the block.
    pub(crate) const fn user_of(&self, iova: u64) -> u64 {
        self.user.wrapping_add(iova - self.block.first)
    }

    const fn permits(&self, write: bool) -> bool {
        if write { self.write } else { self.read }
    }
}

/// Every translation that was received and not invalidated, the oldest first.
#[derive(Debug, Default)]
pub struct DeviceTlb(Vec<Translation>);

impl DeviceTlb {
    /// The oldest translation of `iova` that permits the access.
    ///
    /// Nothing in the ATS specification lets a driver count on the newest.
    pub fn find(&self, iova: u64, write: bool) -> Option<Translation> {
        let mut all = self.0.iter();
        all.find(|entry| entry.block.contains(iova) && entry.permits(write))
            .copied()
    }

    /// The oldest translation of `iova`.
    pub fn cached(&self, iova: u64) -> Option<Translation> {
        let mut all = self.0.iter();
        all.find(|entry| entry.block.contains(iova)).copied()
    }

    /// Keeps a translation.
    pub fn keep(&mut self, translation: Translation) {
        if !self.0.contains(&translation) {
            self.0.push(translation);
        }
    }

    /// Forgets every translation that has a byte in `block` (PCI Express 6.0, 10.3.1: the whole
    /// translation goes).
    pub fn invalidate(&mut self, block: &Block) {
        self.0.retain(|entry| !entry.block.overlaps(block));
    }

    /// Forgets everything, as a device does when it is reset.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(first: u64, size: u64, user: u64) -> Translation {
        Translation {
            block: Block::new(first, size),
            user,
            read: true,
            write: true,
        }
    }

    #[test]
    fn blocks_end_with_the_address_space() {
        assert_eq!(Block::new(0, 0), Block { first: 0, last: !0 });
        assert_eq!(Block::new(0x1000, 0).last, !0);
        assert_eq!(Block::new(!0 - 0xfff, 0x1000).last, !0);
        assert!(!Block::new(0, 0x1000).overlaps(&Block::new(0x1000, 0x1000)));
        assert!(Block::new(0, 0x1001).overlaps(&Block::new(0x1000, 1)));
    }

    #[test]
    fn an_entry_stays_until_a_block_that_touches_it_is_invalidated() {
        let mut tlb = DeviceTlb::default();
        tlb.keep(page(0x20_0000, 0x20_0000, 0x7000_0000));
        tlb.keep(page(0x1000, 0x1000, 0x9000));
        tlb.invalidate(&Block::new(0x2000, 0x1f_e000));
        assert_eq!(
            tlb.find(0x1fff, true).map(|it| it.user_of(0x1fff)),
            Some(0x9fff)
        );
        assert!(tlb.cached(0x3f_ffff).is_some());
        tlb.invalidate(&Block::new(0x3f_f000, 0x1000));
        assert_eq!(tlb.cached(0x20_0000), None);
        assert!(tlb.cached(0x1000).is_some());
    }

    #[test]
    fn the_oldest_that_permits_the_access_is_used() {
        let mut tlb = DeviceTlb::default();
        let read_only = Translation {
            write: false,
            ..page(0x1000, 0x1000, 1 << 20)
        };
        tlb.keep(read_only);
        tlb.keep(page(0x1000, 0x1000, 2 << 20));
        tlb.keep(page(0x1000, 0x1000, 3 << 20));
        assert_eq!(tlb.find(0x1000, false), Some(read_only));
        assert_eq!(tlb.find(0x1000, true).map(|it| it.user), Some(2 << 20));
    }
}
