//! Deferring an unmap asks the heap for nothing.

extern crate alloc;

use alloc::sync::Arc;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use core_notifier::{Range, Srcu};
use iommu_core::deferred::{Bounds, DeferredDomain, Owner};
use iommu_core::error::QueueError;
use iommu_core::operation::Levels;
use iommu_core::platform::Clock;
use std::alloc::System;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's promise is this method's own.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's promise is this method's own.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Default)]
struct Frames(AtomicU64);

impl Owner for &Frames {
    type Item = u64;
    fn reclaim(&self, frames: u64) {
        self.0.fetch_add(frames, Ordering::Relaxed);
    }
    fn flush_failed(&self, error: QueueError, _: usize) {
        panic!("{error}");
    }
}

struct Steps(AtomicU64);

impl Clock for Steps {
    fn now(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[test]
fn unmapping_allocates_and_frees_nothing() {
    let frames = Frames::default();
    let (bounds, clock) = (Bounds::DEFAULT, Steps(AtomicU64::new(0)));
    let domain = DeferredDomain::new(Arc::new(Srcu::new()), bounds, &frames, clock);
    let before = CALLS.with(Cell::get);
    assert!(before > 0, "the counter counts");
    for page in 0..1000u64 {
        let range = Range::new(page << 12, (page + 1) << 12).unwrap();
        domain.unmapped(range, Levels::LeafOnly, 1).unwrap();
    }
    domain.poll().unwrap();
    domain.flush().unwrap();
    assert_eq!(CALLS.with(Cell::get), before);
    assert_eq!(frames.0.load(Ordering::Relaxed), 1000);
}
