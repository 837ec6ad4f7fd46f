//! Notifying allocates nothing (N15).
#![cfg(not(loom))]

extern crate alloc;

mod common;

use alloc::sync::Arc;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use std::alloc::System;

use common::{RANGE, new_space};
use core_notifier::{
    AddressSpace, Event, IntervalNotifier, IntervalSubscription, Invalidation, Notifier, Progress,
    Range, Token, WouldBlock,
};

struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    CALLS.set(CALLS.get() + 1);
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Silent;
impl Notifier for Silent {}
impl IntervalNotifier for Silent {
    fn invalidate(
        &self,
        _subscription: &IntervalSubscription,
        _invalidation: &Invalidation,
    ) -> Result<(), WouldBlock> {
        Ok(())
    }
}

/// Works in two passes.
struct Posting;
impl Notifier for Posting {
    fn has_two_passes(&self) -> bool {
        true
    }

    fn begin_invalidate_ranges(&self, _ranges: &[Range], _token: &mut Token) -> Progress {
        Progress::Pending
    }
}

fn heap_calls(work: impl FnOnce()) -> usize {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

fn notify(space: &AddressSpace) {
    space.invalidate_range_start(RANGE);
    space.invalidate_range(RANGE);
    space.change_pte(0x1000, 1);
    space.invalidate_range_end(RANGE);
    space.invalidate_range_only_end(RANGE);
    space.raise_permissions(RANGE);
    let unmap = Invalidation::new(RANGE, Event::Unmap);
    space.start_invalidation(unmap).end();
    let _ = space.try_start_invalidation(unmap);
    space.batch(|batch| {
        for page in 0..100 {
            batch.add(Range::with_length(page * 0x2000, 0x1000).unwrap());
        }
    });
    let _ = space.clear_flush_young(RANGE) | space.clear_young(RANGE) | space.test_young(0x1000);
}

#[test]
fn n15_notifying_does_not_touch_the_heap() {
    let space = new_space();
    assert_eq!(heap_calls(|| notify(&space)), 0);
    for _ in 0..4 {
        assert_ne!(
            heap_calls(|| space.register_locked(Arc::new(Silent)).unwrap()),
            0
        );
        assert_eq!(heap_calls(|| notify(&space)), 0);
    }
    for _ in 0..10 {
        space.register_locked(Arc::new(Posting)).unwrap();
    }
    assert_eq!(heap_calls(|| notify(&space)), 0);
    let intervals: Vec<_> = (0..40)
        .map(|_| {
            space
                .insert_interval_locked(RANGE, Arc::new(Silent))
                .unwrap()
        })
        .collect();
    assert_eq!(heap_calls(|| notify(&space)), 0);
    let lookup = || {
        let begun = intervals[0].read_begin();
        assert!(!intervals[0].read_retry(begun));
    };
    assert_eq!(heap_calls(lookup), 0);
    // Nested beyond the slots that sections can own.
    let sections: Vec<_> = (0..40).map(|_| space.srcu().read()).collect();
    assert_eq!(heap_calls(|| notify(&space)), 0);
    drop(sections);
}
