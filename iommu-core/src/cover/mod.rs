//! From a range to aligned power-of-two blocks.
//!
//! VT-d's page-selective and device-TLB invalidations, SMMUv3's and RISC-V's ATC invalidations and
//! RISC-V's address-range extension all take a naturally aligned block. One block that covers both
//! ends of a range has no bound on its excess (two pages across a 1 GiB boundary need 2 GiB); two
//! blocks always keep it under 100 %, and more cost a command each. [`blocks`] chooses by [`Costs`].

mod costs;
#[cfg(test)]
mod tests;

pub use costs::Costs;

use crate::Range;
use crate::planted::{self, Fault};

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
}

/// How a range leaves one cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// By these blocks.
    Blocks(Blocks),
    /// By forgetting everything under the tag, which costs less, or takes fewer commands than the
    /// most that are allowed.
    TagWide,
}

impl Cover {
    /// The blocks for a cache that has no tag to forget but an address space: a device TLB.
    pub fn or_all(self) -> Blocks {
        match self {
            Self::Blocks(blocks) => blocks,
            Self::TagWide => Blocks::ALL,
        }
    }
}

/// Adjacent aligned blocks, from the lowest address on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The first page that is still to be covered.
    next: u64,
    /// The first page that is not.
    end: u64,
    /// The largest order of a block.
    largest: u32,
}

impl Blocks {
    const ALL: Self = Self {
        next: 0,
        end: 1 << Block::ALL_ORDER,
        largest: Block::ALL_ORDER,
    };
    const NONE: Self = Self {
        end: 0,
        ..Self::ALL
    };
}

impl Iterator for Blocks {
    type Item = Block;

    #[inline]
    fn next(&mut self) -> Option<Block> {
        let rest = (self.end - self.next).checked_ilog2()?;
        let order = self.next.trailing_zeros().min(rest).min(self.largest);
        let address = self.next << PAGE_SHIFT;
        self.next += 1 << order;
        Some(Block { address, order })
    }
}

/// The cheapest aligned blocks of at most 2^`largest` pages that cover `range`.
///
/// What the blocks cover is less than twice the range, rounded out to whole pages. Among the covers
/// that keep to that and to [`Costs::most_commands`] the choice is exact: no other has a lower sum of
/// [`Costs::command`] for each block and [`Costs::excess_page`] for each page too many. It is
/// [`Cover::TagWide`] if the sum exceeds [`Costs::tag_wide`], if the commands do not suffice because
/// of `largest`, or if everything is covered anyway.
///
/// An empty range has no blocks.
pub fn blocks(range: Range, costs: &Costs, largest: u32) -> Cover {
    let Some(last) = range.last() else {
        return Cover::Blocks(Blocks::NONE);
    };
    let (first, last) = (range.start() >> PAGE_SHIFT, last >> PAGE_SHIFT);
    let largest = largest.min(Block::ALL_ORDER);
    // The smallest block around the range has this order, and the widest boundary inside the range
    // is the middle of it.
    let order = u64::BITS - (first ^ last).leading_zeros();
    let chosen = if order == 0 {
        Some((costs.of(1, 0), first, last + 1))
    } else {
        let middle = last >> (order - 1) << (order - 1);
        let side = |pages| Side { pages, largest };
        cheapest(side(middle - first), side(last + 1 - middle), order, costs).map(
            |(cost, (low, high))| {
                let low = low * u64::from(!planted::is(Fault::CoverLowSideMissing));
                (cost, middle - low, middle + high)
            },
        )
    };
    match chosen {
        Some((cost, next, end))
            if cost <= costs.tag_wide.into() && end - next < Blocks::ALL.end =>
        {
            Cover::Blocks(Blocks { next, end, largest })
        }
        _ => Cover::TagWide,
    }
}

/// The number of 4 KiB pages that `range` touches; `None` if it covers everything.
pub fn pages(range: Range) -> Option<u64> {
    if range.is_all() {
        return None;
    }
    let last = range.last().map(|last| last >> PAGE_SHIFT);
    Some(last.map_or(0, |last| last - (range.start() >> PAGE_SHIFT) + 1))
}

/// The cost of the cheapest cover, and how far it reaches on either side of the middle of the smallest
/// block around the range, in pages. That block has the given order.
///
/// Blocks that cover one side without a gap are its length, rounded up, in binary: one block for each
/// digit that is set. The sides are therefore chosen apart, unless commands are short.
fn cheapest(low: Side, high: Side, order: u32, costs: &Costs) -> Option<(u64, (u64, u64))> {
    let asked = low.pages + high.pages;
    let cost = |(low_pages, high_pages): (u64, u64)| {
        let commands = low.commands(low_pages) + high.commands(high_pages);
        let excess = low_pages + high_pages - asked;
        (commands <= costs.bound().into()).then(|| costs.of(commands, excess))
    };
    let with_cost = |pair| cost(pair).map(|cost| (cost, pair));
    let pair = with_cost((low.cheapest(costs), high.cheapest(costs))).or_else(|| {
        let with_each_high = |low| high.roundings().map(move |high| (low, high));
        let pairs = low.roundings().flat_map(with_each_high);
        pairs.filter_map(with_cost).min()
    });

    let half = 1 << (order - 1);
    let excess = 2 * half - asked;
    let is_legal = order <= low.largest && excess < asked;
    let whole = is_legal.then(|| (costs.of(1, excess), (half, half)));
    pair.into_iter().chain(whole).min()
}

/// The part of a range on one side of the middle: covered by blocks of at most 2^`largest` pages,
/// the largest next to the middle.
#[derive(Clone, Copy)]
struct Side {
    pages: u64,
    largest: u32,
}

impl Side {
    /// How many blocks `pages` from the middle on take, without excess.
    fn commands(self, pages: u64) -> u64 {
        let below = pages & ((1 << self.largest) - 1);
        (pages >> self.largest) + u64::from(below.count_ones())
    }

    /// The lengths worth considering, in pages: this one, and then each that has fewer blocks and
    /// more excess than the one before it.
    fn roundings(self) -> impl Iterator<Item = u64> {
        core::iter::successors(Some(self.pages), move |pages| {
            // Up to a multiple of the second-lowest digit: nothing less saves a block.
            let without_lowest = pages & (pages - 1);
            let second = without_lowest & without_lowest.wrapping_neg();
            let saves = second != 0 && second < 1 << self.largest;
            let up = second * u64::from(!planted::is(Fault::CoverRoundsDown));
            saves.then_some(without_lowest + up)
        })
    }

    /// The length whose blocks and excess cost least.
    fn cheapest(self, costs: &Costs) -> u64 {
        let cost = |pages: &u64| costs.of(self.commands(*pages), pages - self.pages);
        self.roundings().min_by_key(cost).unwrap_or(self.pages)
    }
}
