//! From a range to aligned power-of-two blocks.
//!
//! VT-d's page-selective and device-TLB invalidations, SMMUv3's and RISC-V's ATC invalidations and
//! RISC-V's address-range extension all take a naturally aligned block. One block that covers both
//! ends of a range has no bound on its excess (two pages across a 1 GiB boundary need 2 GiB); two
//! blocks always keep it under 100 %, and this module never uses more.

use crate::Range;

/// Bytes in the smallest block: 4 KiB, for every IOMMU here.
pub const PAGE_SHIFT: u32 = 12;

/// A naturally aligned block of 2^`order` pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first virtual address, in bytes; a multiple of the size.
    pub address: u64,
    /// The binary logarithm of the number of 4 KiB pages; 52 covers everything.
    pub order: u32,
}

impl Block {
    /// The order of the block that covers 2^64 bytes.
    pub const ALL_ORDER: u32 = 64 - PAGE_SHIFT;

    /// The block that covers every address.
    pub const ALL: Self = Self {
        address: 0,
        order: Self::ALL_ORDER,
    };

    /// The smallest block that covers both addresses.
    fn around(first: u64, last: u64) -> Self {
        let bits = u64::BITS - (first ^ last).leading_zeros();
        let order = bits.saturating_sub(PAGE_SHIFT);
        if order >= Self::ALL_ORDER {
            return Self::ALL;
        }
        let size = 1u64 << (order + PAGE_SHIFT);
        Self {
            address: first & !(size - 1),
            order,
        }
    }
}

/// One or two aligned blocks that cover `range`; `None` for an empty range.
///
/// With two blocks, they are the smallest blocks around the parts of the range on either side of
/// the widest power-of-two boundary inside it. Each part then covers more than half of its block,
/// so the excess is under 100 % of the range (rounded out to whole pages).
///
/// Two blocks are used only if they are smaller than the one.
pub fn blocks(range: Range) -> Option<impl Iterator<Item = Block> + Clone> {
    let page = (1u64 << PAGE_SHIFT) - 1;
    let (first, last) = (range.start() & !page, range.last()? | page);
    let whole = Block::around(first, last);
    if whole.order == 0 {
        return Some([Some(whole), None].into_iter().flatten());
    }
    let middle = whole.address + (1u64 << (whole.order - 1 + PAGE_SHIFT).min(63));
    let (low, high) = (
        Block::around(first, middle - 1),
        Block::around(middle, last),
    );
    let exact = low.order == high.order && low.order == whole.order - 1;
    let pair = if exact {
        [Some(whole), None]
    } else {
        [Some(low), Some(high)]
    };
    Some(pair.into_iter().flatten())
}

/// The number of 4 KiB pages that `range` touches; `None` if it covers everything.
pub fn pages(range: Range) -> Option<u64> {
    if range.is_all() {
        return None;
    }
    let last = range.last().map(|last| last >> PAGE_SHIFT);
    Some(last.map_or(0, |last| last - (range.start() >> PAGE_SHIFT) + 1))
}

/// Above this many pages, an IOMMU that can only invalidate page by page is told to forget
/// everything under the tag: refilling an IOTLB costs less than so many commands.
pub const TAG_WIDE_ABOVE: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn cover(start: u64, end: u64) -> Vec<Block> {
        let range = Range::new(start, end).unwrap();
        blocks(range).map(Iterator::collect).unwrap_or_default()
    }

    fn covers(cover: &[Block], start: u64, end: u64) -> bool {
        (start >> PAGE_SHIFT..=(end - 1) >> PAGE_SHIFT).all(|page| {
            cover.iter().any(|block| {
                let first = block.address >> PAGE_SHIFT;
                (first..first + (1 << block.order)).contains(&page)
            })
        })
    }

    #[test]
    fn every_small_range_is_covered_by_two_blocks_with_less_than_twice_its_pages() {
        for first in 0..70u64 {
            for pages in 1..140u64 {
                let (start, end) = (first << PAGE_SHIFT, (first + pages) << PAGE_SHIFT);
                let cover = cover(start, end);
                let total: u64 = cover.iter().map(|block| 1 << block.order).sum();
                assert!(
                    cover.len() <= 2 && total < 2 * pages,
                    "{start:#x}..{end:#x} {cover:?}"
                );
                assert!(covers(&cover, start, end), "{start:#x}..{end:#x} {cover:?}");
                let aligned = |block: &Block| {
                    block
                        .address
                        .is_multiple_of(1 << (block.order + PAGE_SHIFT))
                };
                assert!(cover.iter().all(aligned));
            }
        }
    }

    #[test]
    fn an_aligned_block_is_one_command() {
        assert_eq!(
            cover(0x20_0000, 0x40_0000),
            [Block {
                address: 0x20_0000,
                order: 9
            }]
        );
        assert_eq!(
            cover(0x5000, 0x6000),
            [Block {
                address: 0x5000,
                order: 0
            }]
        );
    }

    #[test]
    fn two_pages_across_a_large_boundary_stay_two_pages() {
        let boundary = 1 << 30;
        assert_eq!(
            cover(boundary - 4096, boundary + 4096),
            [
                Block {
                    address: boundary - 4096,
                    order: 0
                },
                Block {
                    address: boundary,
                    order: 0
                }
            ]
        );
    }

    #[test]
    fn unaligned_ends_are_rounded_out() {
        assert_eq!(cover(0x1fff, 0x2001).len(), 2);
        assert_eq!(pages(Range::new(0x1fff, 0x2001).unwrap()), Some(2));
        assert_eq!(pages(Range::new(0x1fff, 0x1fff).unwrap()), Some(0));
    }

    #[test]
    fn the_whole_address_space_is_one_block() {
        assert_eq!(
            blocks(Range::ALL).unwrap().collect::<Vec<_>>(),
            [Block::ALL]
        );
        assert_eq!(pages(Range::ALL), None);
        let top = cover(u64::MAX - 0x1fff, u64::MAX);
        assert_eq!(top.len(), 1);
        assert_eq!(top[0].order, 1);
    }
}
