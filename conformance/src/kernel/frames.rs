//! Frames. A free one holds poison that must not change, and that is a trap besides: read as a
//! page-table entry, it translates to a frame that nobody may touch.

use super::format::{self, Rights};
use crate::outcome::{Outcome, failed};
use crate::rig::Ram;
use iommu_core::page_table::Format;

/// Bytes in a small frame and in a table.
pub const PAGE: u64 = 4096;
/// Bytes in a huge frame.
pub const HUGE: u64 = 2 << 20;

/// The frames of a rig's pool: half of it small, half huge. The trap comes first.
pub struct Frames {
    trap: u64,
    poison: u64,
    small: Vec<u64>,
    huge: Vec<u64>,
}

impl Frames {
    /// Everything is free and poisoned.
    pub fn new(ram: &dyn Ram, format: Format) -> Self {
        let (base, size) = ram.pool();
        let poison = format::leaf(format, base, 0, Rights::WRITABLE);
        let middle = base + size / 2;
        // The last is taken first.
        let frames = |from: u64, to: u64, size: u64| {
            let count = (to - from) / size;
            (0..count).rev().map(|index| from + index * size).collect()
        };
        let frames = Self {
            trap: base,
            poison,
            small: frames(base + PAGE, middle, PAGE),
            huge: frames(middle, base + size, HUGE),
        };
        frames.fill(ram, base, size, poison);
        frames
    }

    /// A small frame, zeroed.
    pub fn take(&mut self, ram: &dyn Ram) -> Outcome<u64> {
        let Some(frame) = self.small.pop() else {
            return failed("the suite's kernel has no frame left");
        };
        self.check(ram, frame, PAGE)?;
        self.fill(ram, frame, PAGE, 0);
        Ok(frame)
    }

    /// A huge frame, zeroed.
    pub fn take_huge(&mut self, ram: &dyn Ram) -> Outcome<u64> {
        let Some(frame) = self.huge.pop() else {
            return failed("the suite's kernel has no huge frame left");
        };
        self.check(ram, frame, HUGE)?;
        self.fill(ram, frame, HUGE, 0);
        Ok(frame)
    }

    /// Takes a small frame back; it is the next that is taken.
    pub fn give_back(&mut self, ram: &dyn Ram, frame: u64) {
        self.fill(ram, frame, PAGE, self.poison);
        self.small.push(frame);
    }

    /// Takes a huge frame back whole.
    pub fn give_back_huge(&mut self, ram: &dyn Ram, frame: u64) {
        self.fill(ram, frame, HUGE, self.poison);
        self.huge.push(frame);
    }

    /// How many small and huge frames are free.
    pub fn free(&self) -> (usize, usize) {
        (self.small.len(), self.huge.len())
    }

    /// Whether every free frame still holds its poison.
    pub fn check_all(&self, ram: &dyn Ram) -> Outcome {
        self.check(ram, self.trap, PAGE)?;
        for &frame in &self.small {
            self.check(ram, frame, PAGE)?;
        }
        for &frame in &self.huge {
            self.check(ram, frame, HUGE)?;
        }
        Ok(())
    }

    fn check(&self, ram: &dyn Ram, frame: u64, size: u64) -> Outcome {
        ram.clean(frame, size);
        for at in (frame..frame + size).step_by(8) {
            let found = ram.load(at);
            if found != self.poison {
                return failed(format_args!(
                    "a free frame was written: {found:#x} at physical {at:#x}"
                ));
            }
        }
        Ok(())
    }

    fn fill(&self, ram: &dyn Ram, frame: u64, size: u64, value: u64) {
        for at in (frame..frame + size).step_by(8) {
            ram.store(at, value);
        }
        ram.clean(frame, size);
    }
}
