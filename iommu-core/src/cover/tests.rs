//! The choice against an exact dynamic programme, and the promises on every kind of range.

use super::*;
use alloc::vec::Vec;

/// Prices at which only the number of commands and the excess bound decide.
fn at_most(most_commands: u32) -> Costs {
    Costs {
        command: 0,
        excess_page: 1,
        tag_wide: u32::MAX,
        most_commands,
    }
}

/// Prices at which a command matters more than any excess.
const FEWEST: Costs = Costs {
    command: 1,
    excess_page: 0,
    tag_wide: u32::MAX,
    most_commands: 64,
};

fn pages_range(first: u64, pages: u64) -> Range {
    Range::new(first << PAGE_SHIFT, (first + pages) << PAGE_SHIFT).unwrap()
}

/// The blocks, or `None` for tag-wide.
fn cover(range: Range, costs: &Costs, largest: u32) -> Option<Vec<Block>> {
    match blocks(range, costs, largest) {
        Cover::Blocks(blocks) => Some(blocks.collect()),
        Cover::TagWide => None,
    }
}

/// Asserts that the blocks are aligned, adjacent and cover `first..first + pages`, each with a part
/// of it; returns the excess in pages.
fn assert_legal(cover: &[Block], first: u64, pages: u64, largest: u32) -> u64 {
    let span = |block: &Block| {
        let size = 1u64 << (block.order + PAGE_SHIFT);
        assert!(block.order <= largest && block.address.is_multiple_of(size));
        let start = block.address >> PAGE_SHIFT;
        (start, start + (1 << block.order))
    };
    let spans: Vec<_> = cover.iter().map(span).collect();
    let needed = |&(start, end): &(u64, u64)| start < first + pages && end > first;
    assert!(spans.iter().all(needed), "{first:#x} + {pages}: {cover:?}");
    assert!(
        spans.windows(2).all(|pair| pair[0].1 == pair[1].0),
        "{cover:?}"
    );
    let (start, end) = (spans[0].0, spans[spans.len() - 1].1);
    assert!(
        start <= first && first + pages <= end,
        "{first:#x} + {pages}: {cover:?}"
    );
    (end - start) - pages
}

/// A repeatable source of ranges (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// From `1 << low` to `1 << high`, each power of two as likely as the next.
    fn logarithmic(&mut self, low: u32, high: u32) -> u64 {
        let fraction = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        let exponent = f64::from(low) + fraction * f64::from(high - low);
        (std::primitive::f64::exp2(exponent) as u64).min(1 << high)
    }
}

/// The lowest cost of covering `first..end` by blocks below one of 2^`order` pages at `base`: the
/// block itself, or the best of its halves. In whole nanoseconds.
fn optimum(base: u64, order: u32, first: u64, end: u64, costs: &Costs, largest: u32) -> u64 {
    let (low, high) = (first.max(base), end.min(base + (1 << order)));
    if low >= high {
        return 0;
    }
    let excess = (1 << order) - (high - low);
    let itself = if order <= largest {
        u64::from(costs.command) + excess * u64::from(costs.excess_page)
    } else {
        u64::MAX
    };
    if order == 0 || itself == u64::from(costs.command) {
        return itself;
    }
    let half = |base| optimum(base, order - 1, first, end, costs, largest);
    itself.min(half(base) + half(base + (1 << (order - 1))))
}

fn cost(cover: Option<&[Block]>, first: u64, pages: u64, costs: &Costs, largest: u32) -> u64 {
    cover.map_or(costs.tag_wide.into(), |cover| {
        let excess = assert_legal(cover, first, pages, largest);
        cover.len() as u64 * u64::from(costs.command) + excess * u64::from(costs.excess_page)
    })
}

/// The lowest cost of any cover with an excess below 100 %: the smallest block around the range, and
/// whatever is larger, may exceed that.
fn bounded_optimum(first: u64, pages: u64, costs: &Costs, largest: u32) -> u64 {
    let end = first + pages;
    let order = u64::BITS - (first ^ (end - 1)).leading_zeros();
    let base = first >> order << order;
    if 1 << order < 2 * pages {
        return optimum(base, order, first, end, costs, largest);
    }
    let half = |base| optimum(base, order - 1, first, end, costs, largest);
    half(base) + half(base + (1 << (order - 1)))
}

#[test]
fn no_cover_of_a_small_range_is_cheaper() {
    let prices = [
        (50, 20),
        (50, 0),
        (0, 20),
        (50, 1),
        (1000, 20),
        (50, 200),
        (7, 3),
    ];
    for (command, excess_page) in prices {
        let costs = Costs {
            command,
            excess_page,
            tag_wide: u32::MAX,
            most_commands: 64,
        };
        for largest in [2, 5, 52] {
            for (first, pages) in (0..40).flat_map(|first| (1..90).map(move |pages| (first, pages)))
            {
                let cover = cover(pages_range(first, pages), &costs, largest).unwrap();
                let ours = cost(Some(&cover), first, pages, &costs, largest);
                let least = bounded_optimum(first, pages, &costs, largest);
                assert_eq!(
                    ours, least,
                    "{first} + {pages} {costs:?} {largest}: {cover:?}"
                );
            }
        }
    }
}

/// The traces of ranges in pages: name, and (first, pages) of the next one.
type Trace = (&'static str, fn(&mut Random) -> (u64, u64));

const TRACES: [Trace; 8] = [
    ("munmap of 1 to 4096 pages", |random| {
        (random.below(1 << 30), random.logarithmic(0, 12))
    }),
    ("allocator trim", |random| {
        (random.below(1 << 28) * 4, random.logarithmic(0, 7) * 4)
    }),
    ("unaligned buffers", |random| {
        (random.below(1 << 30), 3 + random.below(255))
    }),
    ("split of a huge page", |random| {
        (random.below(1 << 21) << 9, 512)
    }),
    ("one page", |random| (random.below(1 << 30), 1)),
    ("ring buffer", |random| (random.below(1 << 26) << 4, 16)),
    ("free-page report", |random| {
        (random.below(1 << 21) << 9, 512)
    }),
    ("munmap of 1 MiB to 1 GiB", |random| {
        (random.below(1 << 30), random.logarithmic(8, 18))
    }),
];

#[test]
fn traces_cost_at_most_a_hundredth_more_than_the_optimum() {
    for (name, next) in TRACES {
        for largest in [18, 52] {
            let (costs, mut random) = (Costs::DEFAULT, Random(0x5eed));
            let (mut ours, mut least) = (0, 0);
            for _ in 0..3000 {
                let (first, pages) = next(&mut random);
                let cover = cover(pages_range(first, pages), &costs, largest);
                ours += cost(cover.as_deref(), first, pages, &costs, largest);
                let exact = optimum(0, 31, first, first + pages, &costs, largest);
                least += exact.min(costs.tag_wide.into());
            }
            assert!(
                ours * 100 <= least * 101,
                "{name}: {ours} ns, the optimum is {least} ns"
            );
        }
    }
}

fn random_range(random: &mut Random) -> (u64, u64) {
    (random.below(1 << 34), random.logarithmic(0, 18))
}

#[test]
fn mean_excess_of_random_ranges_is_35_percent_with_two_commands_and_5_with_four() {
    for (most, percent, worst) in [(2, 35.0, 100.0), (4, 5.0, 25.0)] {
        let (mut random, mut sum, ranges) = (Random(0x7ab1e), 0.0, 100_000);
        for _ in 0..ranges {
            let (first, pages) = random_range(&mut random);
            let cover = cover(pages_range(first, pages), &at_most(most), 52).unwrap();
            assert!(cover.len() <= most as usize);
            let excess = assert_legal(&cover, first, pages, 52) as f64 / pages as f64 * 100.0;
            assert!(excess < worst, "{first:#x} + {pages}: {excess} %");
            sum += excess;
        }
        let mean = sum / f64::from(ranges);
        assert!(mean <= percent, "{mean} % with {most} commands");
    }
}

#[test]
fn the_excess_is_under_100_percent_whatever_the_prices() {
    let mut random = Random(0xacce55);
    for _ in 0..200_000 {
        let (first, pages) = random_range(&mut random);
        let costs = Costs {
            command: random.below(2000) as u32,
            excess_page: random.below(50) as u32,
            tag_wide: u32::MAX,
            most_commands: random.below(9) as u32,
        };
        let Some(cover) = cover(pages_range(first, pages), &costs, 52) else {
            continue;
        };
        assert!(cover.len() as u32 <= costs.most_commands.max(2));
        assert!(assert_legal(&cover, first, pages, 52) < pages);
    }
}

#[test]
fn any_range_of_any_width_is_covered() {
    let mut random = Random(0xb17);
    for costs in [Costs::DEFAULT, FEWEST, at_most(2), at_most(64)] {
        for _ in 0..20_000 {
            let (a, b) = (
                random.next() >> random.below(64),
                random.next() >> random.below(64),
            );
            let range = Range::new(a.min(b), a.max(b)).unwrap();
            let Some(last) = range.last() else { continue };
            let (first, last) = (a.min(b) >> PAGE_SHIFT, last >> PAGE_SHIFT);
            if let Some(cover) = cover(range, &costs, 52) {
                assert_legal(&cover, first, last - first + 1, 52);
            }
        }
    }
}

#[test]
fn a_command_must_pay_for_itself() {
    let orders = |first, pages, costs| {
        let cover = cover(pages_range(first, pages), &costs, 52).unwrap();
        cover.iter().map(|block| block.order).collect::<Vec<_>>()
    };
    // 3 pages at page 1: one page too many, or a second command.
    let dear = Costs {
        excess_page: 51,
        ..Costs::DEFAULT
    };
    let cheap = Costs {
        excess_page: 49,
        ..Costs::DEFAULT
    };
    assert_eq!(orders(1, 3, dear), [0, 1]);
    assert_eq!(orders(1, 3, cheap), [2]);
    // 7 pages from page 16 on: 4 + 2 + 1, or 8.
    assert_eq!(
        orders(
            16,
            7,
            Costs {
                excess_page: 101,
                ..dear
            }
        ),
        [2, 1, 0]
    );
    assert_eq!(
        orders(
            16,
            7,
            Costs {
                excess_page: 99,
                ..dear
            }
        ),
        [3]
    );
    // One block around would have 100 % excess, so it stays at two, whatever a command costs.
    assert_eq!(orders(1, 2, FEWEST), [0, 0]);
}

#[test]
fn an_aligned_block_is_one_command() {
    for order in 0..40 {
        let cover = cover(pages_range(1 << order, 1 << order), &Costs::DEFAULT, 52);
        let address = 1 << (order + PAGE_SHIFT);
        assert_eq!(cover.unwrap(), [Block { address, order }]);
    }
}

#[test]
fn two_pages_across_a_large_boundary_stay_two_pages() {
    let boundary = 1 << 30;
    let range = Range::new(boundary - 4096, boundary + 4096).unwrap();
    let page = |address| Block { address, order: 0 };
    let expected = [page(boundary - 4096), page(boundary)];
    assert_eq!(cover(range, &Costs::DEFAULT, 52).unwrap(), expected);
    assert_eq!(cover(range, &FEWEST, 52).unwrap(), expected);
}

#[test]
fn unaligned_ends_are_rounded_out() {
    let range = Range::new(0x1fff, 0x2001).unwrap();
    assert_eq!(cover(range, &Costs::DEFAULT, 52).unwrap().len(), 2);
    assert_eq!(pages(range), Some(2));
    let empty = Range::new(0x1fff, 0x1fff).unwrap();
    assert_eq!(pages(empty), Some(0));
    assert_eq!(cover(empty, &Costs::DEFAULT, 52).unwrap(), []);
}

#[test]
fn the_whole_address_space_goes_tag_wide() {
    for largest in [18, 51, 52, 63] {
        assert_eq!(blocks(Range::ALL, &Costs::DEFAULT, largest), Cover::TagWide);
    }
    let all = blocks(Range::ALL, &Costs::DEFAULT, 52).or_all();
    assert_eq!(all.collect::<Vec<_>>(), [Block::ALL]);
    assert_eq!(pages(Range::ALL), None);
    let top = Range::new(u64::MAX - 0x1fff, u64::MAX).unwrap();
    let cover = cover(top, &Costs::DEFAULT, 52).unwrap();
    assert_eq!(
        cover.iter().map(|block| block.order).collect::<Vec<_>>(),
        [1]
    );
}

#[test]
fn what_costs_more_than_a_tag_wide_flush_is_one() {
    let costs = Costs {
        command: 50,
        excess_page: 20,
        tag_wide: 250,
        most_commands: 64,
    };
    let is_tag_wide = |first, pages, largest| {
        blocks(pages_range(first, pages), &costs, largest) == Cover::TagWide
    };
    // Five blocks of 2^4 pages cost exactly as much, six more.
    assert!(!is_tag_wide(0, 5 << 4, 4));
    assert!(is_tag_wide(0, 6 << 4, 4));
    assert!(!is_tag_wide(0, 6 << 4, 5));
    assert!(costs.allow(5) && !costs.allow(6));
    // A large block is too small by a factor that no two commands make good.
    let two = Costs {
        most_commands: 2,
        ..Costs::DEFAULT
    };
    assert_eq!(blocks(pages_range(0, 3 << 4), &two, 4), Cover::TagWide);
}

#[test]
fn a_shared_list_has_room_for_all() {
    for (room, caches, most) in [
        (255, 1, 64),
        (255, 8, 31),
        (255, 127, 2),
        (255, 1000, 2),
        (9, 0, 9),
    ] {
        let costs = Costs::DEFAULT.shared(room, caches);
        assert_eq!(u64::from(costs.bound()), most, "{room} / {caches}");
        assert!(costs.allow(most) && !costs.allow(most + 1));
    }
}
