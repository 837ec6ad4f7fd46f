//! A first-fit allocator of physical frames that poisons what is given back.
//!
//! The poison makes a device that still reads a freed frame read [`POISON`], and one that still
//! writes it leave a trace that [`FrameMemory::is_poisoned`] finds.

use crate::page_table::PAGE_SIZE;
use crate::region::Region;
use alloc::vec;
use alloc::vec::Vec;

/// The word that a freed frame is filled with.
pub const POISON: u64 = 0xf4ee_f4ee_f4ee_f4ee;

/// Access to the contents of frames.
pub trait FrameMemory {
    /// Fills the 4 KiB frame at physical address `frame` with `word`.
    fn fill(&mut self, frame: u64, word: u64);
    /// Whether every word of the frame is [`POISON`].
    fn is_poisoned(&self, frame: u64) -> bool;
}

/// Hands out 4 KiB frames of one region.
#[derive(Debug)]
pub struct FrameAllocator<M> {
    region: Region,
    used: Vec<bool>,
    memory: M,
}

impl<M: FrameMemory> FrameAllocator<M> {
    /// An allocator for the whole frames of `region`, all free and poisoned from the start.
    pub fn new(region: Region, mut memory: M) -> Self {
        let region = region.shrink_to(PAGE_SIZE);
        let count = (region.size / PAGE_SIZE) as usize;
        for number in 0..count as u64 {
            memory.fill(region.base + number * PAGE_SIZE, POISON);
        }
        Self {
            region,
            used: vec![false; count],
            memory,
        }
    }

    /// `count` contiguous zeroed frames whose first lies at a multiple of `alignment` bytes (a
    /// power of two). The physical address of the first, or `None` if there is no such run.
    pub fn allocate(&mut self, count: usize, alignment: u64) -> Option<u64> {
        let alignment = alignment.max(PAGE_SIZE);
        let step = (alignment / PAGE_SIZE) as usize;
        let aligned = self.region.base.checked_next_multiple_of(alignment)?;
        let mut first = ((aligned - self.region.base) / PAGE_SIZE) as usize;
        while first + count <= self.used.len() {
            if self.used[first..first + count].iter().all(|used| !used) {
                self.used[first..first + count].fill(true);
                let base = self.address(first);
                for number in 0..count as u64 {
                    self.memory.fill(base + number * PAGE_SIZE, 0);
                }
                return Some(base);
            }
            first += step;
        }
        None
    }

    /// Takes back `count` frames from physical address `base` and poisons them.
    ///
    /// # Panics
    ///
    /// If one of them is not in use: a double free is a bug of this kernel.
    pub fn free(&mut self, base: u64, count: usize) {
        assert!(base.is_multiple_of(PAGE_SIZE), "{base:#x} is not a frame");
        for number in 0..count as u64 {
            let frame = base + number * PAGE_SIZE;
            let index = self.index(frame);
            assert!(
                self.used.get(index) == Some(&true),
                "frame {frame:#x} is not in use"
            );
            self.used[index] = false;
            self.memory.fill(frame, POISON);
        }
    }

    /// Whether the frame is free and untouched since it was freed.
    pub fn is_poisoned(&self, frame: u64) -> bool {
        self.used.get(self.index(frame)) == Some(&false) && self.memory.is_poisoned(frame)
    }

    /// Frames that are free.
    pub fn free_count(&self) -> usize {
        self.used.iter().filter(|used| !**used).count()
    }

    /// The region whose frames are handed out.
    pub fn region(&self) -> Region {
        self.region
    }

    fn address(&self, index: usize) -> u64 {
        self.region.base + index as u64 * PAGE_SIZE
    }

    fn index(&self, frame: u64) -> usize {
        (frame.wrapping_sub(self.region.base) / PAGE_SIZE) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    #[derive(Default)]
    struct FakeMemory(BTreeMap<u64, u64>);

    impl FrameMemory for FakeMemory {
        fn fill(&mut self, frame: u64, word: u64) {
            self.0.insert(frame, word);
        }
        fn is_poisoned(&self, frame: u64) -> bool {
            self.0.get(&frame) == Some(&POISON)
        }
    }

    fn allocator() -> FrameAllocator<FakeMemory> {
        FrameAllocator::new(Region::between(0x1800, 0x1_0000), FakeMemory::default())
    }

    #[test]
    fn frames_are_zeroed_when_taken_and_poisoned_when_freed() {
        let mut frames = allocator();
        assert_eq!(frames.free_count(), 14);
        let frame = frames.allocate(1, PAGE_SIZE).unwrap();
        assert_eq!((frame, frames.memory.0[&frame]), (0x2000, 0));
        assert!(!frames.is_poisoned(frame));
        frames.free(frame, 1);
        assert!(frames.is_poisoned(frame));
        frames.memory.fill(frame, 0x1234_5678);
        assert!(!frames.is_poisoned(frame), "a write after the free shows");
    }

    #[test]
    fn runs_are_contiguous_and_aligned() {
        let mut frames = allocator();
        frames.allocate(1, PAGE_SIZE).unwrap();
        let run = frames.allocate(3, 0x4000).unwrap();
        assert_eq!(run, 0x4000);
        assert_eq!(frames.allocate(4, 0x4000), Some(0x8000));
        assert_eq!(frames.allocate(1, PAGE_SIZE), Some(0x3000));
        assert_eq!(frames.allocate(5, PAGE_SIZE), None);
        frames.free(run, 3);
        assert_eq!(frames.allocate(4, PAGE_SIZE), Some(0x4000));
    }

    #[test]
    #[should_panic(expected = "not in use")]
    fn a_double_free_is_caught() {
        let mut frames = allocator();
        let frame = frames.allocate(1, PAGE_SIZE).unwrap();
        frames.free(frame, 1);
        frames.free(frame, 1);
    }
}
