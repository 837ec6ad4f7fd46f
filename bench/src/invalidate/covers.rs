//! How good the engine's covers are, beside the optimum of the cost model.

use iommu_core::cover::{self, Block, Costs, Cover, PAGE_SHIFT};

use super::effect::Pages;
use super::facts::fact;
use super::hardware::Smmuv3;
use super::ledger::{self, Ledger};
use super::linux::Spread;
use super::random::Random;
use super::scene::{Scene, range};
use super::traces::TRACES;

/// Prints what is promised of range commands and of blocks.
pub fn print() {
    range_commands();
    let (mean, worst) = random_excess(2);
    fact("mean excess with 2 commands, %", mean);
    fact("worst excess with 2 commands, %", worst);
    let (mean, _) = random_excess(4);
    fact("mean excess with 4 commands, %", mean);
    fact("cover, against the optimum", dearest_trace());
}

/// Every number of pages up to 2^20 through the SMMUv3 driver.
fn range_commands() {
    const MOST: u64 = 1 << 20;
    let bare = Spread {
        iommus: 1,
        devices: 0,
    };
    let scene = Scene::new::<Smmuv3, Ledger>(|| Smmuv3::new(true), bare);
    let (mut needless, mut excess) = (0.0, 0.0);
    for count in 1..=MOST {
        let pages = Pages {
            first: 0x12345,
            count,
        };
        let counts = ledger::record(pages, || {
            scene.unmap(pages).expect("the hardware answers");
        });
        // The last command is the CMD_SYNC.
        needless += counts.commands - 1.0 - least_range_commands(count);
        excess += counts.excess + counts.wide;
    }
    fact("range commands beyond the minimum", needless);
    fact("excess of range commands, pages", excess);
}

/// A command takes 1 to 32 times a power of two of pages (IHI 0070, 4.4.1), and two reach any number.
fn least_range_commands(pages: u64) -> f64 {
    if pages >> pages.trailing_zeros() <= 32 {
        1.0
    } else {
        2.0
    }
}

/// The mean and the worst excess in percent when nothing but the number of commands counts: any start,
/// up to 2^18 pages.
fn random_excess(most_commands: u32) -> (f64, f64) {
    const RANGES: usize = 100_000;
    let costs = Costs {
        command: 0,
        excess_page: 1,
        tag_wide: u32::MAX,
        most_commands,
    };
    let (mut random, mut sum, mut worst) = (Random::new(0x7ab1e), 0.0, 0.0_f64);
    for _ in 0..RANGES {
        let pages = Pages {
            first: random.below(1 << 34),
            count: random.logarithmic(0, 18),
        };
        let blocks = blocks(pages, &costs, Block::ALL_ORDER).expect("nothing is too dear");
        assert!(blocks.commands <= most_commands.into());
        let excess = blocks.excess as f64 / pages.count as f64 * 100.0;
        sum += excess;
        worst = worst.max(excess);
    }
    (sum / RANGES as f64, worst)
}

/// The largest quotient of what the engine's covers of a trace cost and what the cheapest would.
fn dearest_trace() -> f64 {
    let costs = Costs::DEFAULT;
    let tag_wide = u64::from(costs.tag_wide);
    let mut dearest = 0.0_f64;
    for (trace, largest) in TRACES.iter().flat_map(|trace| [(trace, 18), (trace, 52)]) {
        let (mut ours, mut least) = (0, 0);
        for pages in trace.ranges() {
            let blocks = blocks(pages, &costs, largest);
            ours += blocks.map_or(tag_wide, |blocks| blocks.cost(&costs));
            least += optimum(0, 31, pages, &costs, largest).min(tag_wide);
        }
        dearest = dearest.max(ours as f64 / least as f64);
    }
    dearest
}

/// What blocks cost.
struct Covering {
    commands: u64,
    excess: u64,
}

impl Covering {
    fn cost(&self, costs: &Costs) -> u64 {
        self.commands * u64::from(costs.command) + self.excess * u64::from(costs.excess_page)
    }
}

/// The engine's blocks for `pages`; `None` if it prefers to forget the tag.
fn blocks(pages: Pages, costs: &Costs, largest: u32) -> Option<Covering> {
    let Cover::Blocks(blocks) = cover::blocks(range(pages), costs, largest) else {
        return None;
    };
    let (mut commands, mut covered, mut next) = (0, 0, None);
    for Block { address, order } in blocks {
        let first = address >> PAGE_SHIFT;
        assert!(next.is_none_or(|next| next == first), "a cover with a gap");
        assert!(commands > 0 || first <= pages.first);
        commands += 1;
        covered += 1 << order;
        next = Some(first + (1 << order));
    }
    assert!(next.is_some_and(|next| next >= pages.first + pages.count));
    Some(Covering {
        commands,
        excess: covered - pages.count,
    })
}

/// The lowest cost of covering what of `pages` lies in the block of 2^`order` pages at `base`: by that
/// block, or by the best for its halves.
fn optimum(base: u64, order: u32, pages: Pages, costs: &Costs, largest: u32) -> u64 {
    let low = pages.first.max(base);
    let high = (pages.first + pages.count).min(base + (1 << order));
    if low >= high {
        return 0;
    }
    let excess = (1 << order) - (high - low);
    let one = u64::from(costs.command);
    let itself = if order <= largest {
        one + excess * u64::from(costs.excess_page)
    } else {
        u64::MAX
    };
    if order == 0 || itself == one {
        return itself;
    }
    let half = |base| optimum(base, order - 1, pages, costs, largest);
    itself.min(half(base) + half(base + (1 << (order - 1))))
}
