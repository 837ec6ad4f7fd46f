//! A world that writes down what goes to the hardware.

use std::cell::RefCell;

use super::effect::{Effect, Pages};
use super::linux::Counts;
use super::world::{Hardware, Instant, Step, World};

thread_local! {
    static BOOK: RefCell<Book> = const { RefCell::new(Book::new(Pages { first: 0, count: 0 })) };
}

/// One operation's entries.
struct Book {
    asked: Pages,
    counts: Counts,
    /// Whether a doorbell was rung since the last wait.
    rung: bool,
    /// How deep in sections with interrupts off.
    depth: usize,
    /// The cache whose commands come at the moment, and what of it they cover.
    run: Option<Run>,
}

#[derive(Clone, Copy)]
struct Run {
    cache: Cache,
    covered: Option<(u64, u64)>,
}

/// A cache of one IOMMU.
#[derive(Clone, Copy, PartialEq)]
enum Cache {
    Iotlb,
    DeviceTlb(u32),
}

impl Book {
    const fn new(asked: Pages) -> Self {
        Self {
            asked,
            counts: Counts::NONE,
            rung: false,
            depth: 0,
            run: None,
        }
    }

    /// The hardware invalidates pages, or everything if there are none.
    fn cover(&mut self, cache: Cache, pages: Option<Pages>) {
        self.counts.commands += 1.0;
        let span = pages.map(|Pages { first, count }| (first, first + count));
        match (&mut self.run, span) {
            (Some(run), Some((start, end))) if run.cache == cache => {
                let (first, last) = run.covered.expect("nothing follows everything");
                assert!(start <= last && start >= first, "a cover with a gap");
                run.covered = Some((first, last.max(end)));
            }
            _ => {
                self.finish();
                self.run = Some(Run {
                    cache,
                    covered: span,
                });
            }
        }
    }

    /// The commands for a cache are over.
    fn finish(&mut self) {
        let Some(Run { covered, .. }) = self.run.take() else {
            return;
        };
        let Pages { first, count } = self.asked;
        self.counts.caches += 1.0;
        match covered {
            None => self.counts.wide += 1.0,
            Some((start, end)) => {
                assert!(
                    start <= first && first + count <= end,
                    "{count} pages from {first:#x} on are not covered"
                );
                let excess = (end - start - count) as f64;
                self.counts.excess += excess;
                let share = excess / count as f64;
                self.counts.worst_excess = self.counts.worst_excess.max(share);
            }
        }
    }
}

/// What one operation, on `asked`, sent to the hardware.
pub fn record(asked: Pages, operation: impl FnOnce()) -> Counts {
    BOOK.set(Book::new(asked));
    operation();
    BOOK.with_borrow_mut(|book| {
        book.finish();
        book.counts
    })
}

/// The world.
pub struct Ledger;

impl World for Ledger {
    const LOOKS: bool = true;

    fn now() -> u64 {
        BOOK.with_borrow_mut(|book| book.counts.waits_inside += f64::from(book.depth as u32));
        0
    }

    fn doorbell() {
        BOOK.with_borrow_mut(|book| {
            book.counts.doorbells += 1.0;
            book.rung = true;
        });
    }

    fn register_read() {
        BOOK.with_borrow_mut(|book| book.counts.reads += 1.0);
    }

    fn wait() {
        BOOK.with_borrow_mut(|book| {
            book.counts.waits += f64::from(u8::from(book.rung));
            book.counts.waits_inside += f64::from(book.depth as u32);
            book.rung = false;
        });
    }

    fn section<T>(section: impl FnOnce() -> T) -> T {
        BOOK.with_borrow_mut(|book| book.depth += 1);
        let result = section();
        BOOK.with_borrow_mut(|book| book.depth -= 1);
        result
    }

    fn effect(effect: Effect) {
        BOOK.with_borrow_mut(|book| match effect {
            Effect::Iotlb(pages) => book.cover(Cache::Iotlb, Some(pages)),
            Effect::IotlbWide => book.cover(Cache::Iotlb, None),
            Effect::DeviceTlb(device, pages) => book.cover(Cache::DeviceTlb(device), Some(pages)),
            Effect::DeviceTlbWide(device) => book.cover(Cache::DeviceTlb(device), None),
            Effect::Sync | Effect::Other => {
                book.counts.commands += 1.0;
                book.finish();
            }
        });
    }

    fn execute(hardware: &Hardware, step: Step) {
        Instant::execute(hardware, step);
    }
}
