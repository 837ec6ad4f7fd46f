//! Notifying allocates nothing (N15).
#![cfg(not(loom))]

extern crate alloc;

mod common;

use alloc::sync::Arc;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use std::alloc::System;

use common::{RANGE, new_space};
use core_notifier::{AddressSpace, Notifier};

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
    // Nested beyond the slots that sections can own.
    let sections: Vec<_> = (0..40).map(|_| space.srcu().read()).collect();
    assert_eq!(heap_calls(|| notify(&space)), 0);
    drop(sections);
}
