//! Frames. A free one holds poison that must not change, and that is a trap besides: read as a
//! page-table entry, it translates to a frame that nobody may touch.

use super::format::{self, Rights};
use crate::outcome::{Outcome, failed};
use crate::rig::Ram;
use iommu_core::page_table::Format;
use std::ops::Range;

/// Bytes in a small frame and in a table.
pub const PAGE: u64 = 4096;
/// Bytes in a huge frame.
pub const HUGE: u64 = 2 << 20;

/// The frames of a rig's pool: half of it small, half huge. The trap comes first.
pub struct Frames {
    trap: u64,
    poison: u64,
    small: Free,
    huge: Free,
}

/// Frames of one size that are free.
struct Free {
    size: u64,
    /// Those that somebody had: they are poisoned, and the last is taken first.
    used: Vec<u64>,
    /// Where those begin and end that nobody had. No translation ever led there.
    unused: Range<u64>,
}

impl Free {
    const fn new(size: u64, from: u64, to: u64) -> Self {
        Self {
            size,
            used: Vec::new(),
            unused: from..to,
        }
    }

    fn count(&self) -> usize {
        let unused = (self.unused.end - self.unused.start) / self.size;
        self.used.len() + unused as usize
    }
}

impl Frames {
    /// Everything is free.
    pub fn new(ram: &dyn Ram, format: Format) -> Self {
        let (base, size) = ram.pool();
        let poison = format::leaf(format, base, 0, Rights::WRITABLE);
        let (middle, end) = (base + size / 2, base + size);
        ram.fill(base, PAGE, poison);
        Self {
            trap: base,
            poison,
            small: Free::new(PAGE, base + PAGE, middle),
            huge: Free::new(HUGE, middle, end),
        }
    }

    /// A small frame, zeroed.
    pub fn take(&mut self, ram: &dyn Ram) -> Outcome<u64> {
        Self::take_from(&mut self.small, ram, self.poison)
    }

    /// A huge frame, zeroed.
    pub fn take_huge(&mut self, ram: &dyn Ram) -> Outcome<u64> {
        Self::take_from(&mut self.huge, ram, self.poison)
    }

    fn take_from(free: &mut Free, ram: &dyn Ram, poison: u64) -> Outcome<u64> {
        let size = free.size;
        let frame = match free.used.pop() {
            Some(frame) => {
                check(ram, frame, size, poison)?;
                frame
            }
            None if free.unused.is_empty() => {
                return failed("the suite's kernel has no frame left");
            }
            None => {
                let frame = free.unused.start;
                free.unused.start += size;
                frame
            }
        };
        ram.fill(frame, size, 0);
        Ok(frame)
    }

    /// Takes a small frame back; it is the next that is taken.
    pub fn give_back(&mut self, ram: &dyn Ram, frame: u64) {
        ram.fill(frame, PAGE, self.poison);
        self.small.used.push(frame);
    }

    /// Takes a huge frame back whole.
    pub fn give_back_huge(&mut self, ram: &dyn Ram, frame: u64) {
        ram.fill(frame, HUGE, self.poison);
        self.huge.used.push(frame);
    }

    /// How many small and huge frames are free.
    pub fn free(&self) -> (usize, usize) {
        (self.small.count(), self.huge.count())
    }

    /// Whether every free frame that somebody had still holds its poison.
    pub fn check_all(&self, ram: &dyn Ram) -> Outcome {
        check(ram, self.trap, PAGE, self.poison)?;
        for free in [&self.small, &self.huge] {
            for &frame in &free.used {
                check(ram, frame, free.size, self.poison)?;
            }
        }
        Ok(())
    }
}

fn check(ram: &dyn Ram, frame: u64, size: u64, poison: u64) -> Outcome {
    match ram.first_other(frame, size, poison) {
        Some((at, found)) => failed(format_args!(
            "a free frame was written: {found:#x} at physical {at:#x}"
        )),
        None => Ok(()),
    }
}
