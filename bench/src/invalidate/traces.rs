//! What address spaces unmap, as ranges of pages.

use super::effect::Pages;
use super::random::Random;

/// A kind of unmapping.
pub struct Trace {
    /// As the table calls it.
    pub name: &'static str,
    next: fn(&mut Random) -> Pages,
}

/// Unmappings in each trace.
pub const OPERATIONS: usize = 3_000;

impl Trace {
    /// Its ranges, the same in every run.
    pub fn ranges(&self) -> impl Iterator<Item = Pages> + use<> {
        let (mut random, next) = (Random::new(0x5eed), self.next);
        (0..OPERATIONS).map(move |_| next(&mut random))
    }
}

const fn pages(first: u64, count: u64) -> Pages {
    Pages { first, count }
}

/// All traces.
pub const TRACES: [Trace; 7] = [
    Trace {
        name: "munmap, 1 to 4096 pages anywhere",
        next: |random| pages(random.below(1 << 30), random.logarithmic(0, 12)),
    },
    Trace {
        name: "allocator trim, 4 to 512 pages",
        next: |random| pages(random.below(1 << 28) * 4, random.logarithmic(0, 7) * 4),
    },
    Trace {
        name: "buffer, 3 to 257 pages anywhere",
        next: |random| pages(random.below(1 << 30), 3 + random.below(255)),
    },
    Trace {
        name: "huge page, 2 MiB aligned",
        next: |random| pages(random.below(1 << 21) << 9, 512),
    },
    Trace {
        name: "one page",
        next: |random| pages(random.below(1 << 30), 1),
    },
    Trace {
        name: "network ring, 64 KiB aligned",
        next: |random| pages(random.below(1 << 26) << 4, 16),
    },
    Trace {
        name: "munmap, 1 MiB to 1 GiB",
        next: |random| pages(random.below(1 << 30), random.logarithmic(8, 18)),
    },
];
