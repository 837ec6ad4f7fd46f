//! Exhaustive models of collision-retry: every interleaving, and every stale read that the memory
//! model allows, up to a bound on preemptions.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p core-notifier --release --test intervals_loom`
#![cfg(loom)]

extern crate alloc;

#[allow(dead_code, reason = "the other models use the rest")]
#[path = "loom/machine.rs"]
mod machine;

use alloc::sync::Arc;

use core_notifier::{
    AddressSpace, Event, IntervalNotifier, IntervalSubscription, Invalidation, Range, WouldBlock,
};
use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicUsize, Ordering};
use machine::{Cpus, Machine, Threads};

/// A page that loom reports if it is used while it is freed, or without being ordered against that.
struct Page(UnsafeCell<bool>);

// SAFETY: loom checks that accesses which are not both reads are ordered.
unsafe impl Sync for Page {}

impl Page {
    fn new() -> Self {
        Page(UnsafeCell::new(false))
    }

    fn use_it(&self) {
        // SAFETY: the test claims that nobody is freeing it; loom checks that.
        let freed = self.0.with(|freed| unsafe { *freed });
        assert!(!freed, "used after it was freed");
    }

    fn free(&self) {
        // SAFETY: the test claims that nobody is using it; loom checks that.
        self.0.with_mut(|freed| unsafe { *freed = true });
    }
}

/// One entry of a page table, the pages that it maps one after the other, and a copy of the entry.
struct Scene {
    entry: AtomicUsize,
    pages: [Page; 2],
    /// The user lock, with the copy under it.
    copy: Mutex<Option<usize>>,
}

impl Scene {
    fn new() -> Arc<Self> {
        Arc::new(Scene {
            entry: AtomicUsize::new(0),
            pages: [Page::new(), Page::new()],
            copy: Mutex::new(None),
        })
    }

    /// Maps the other page and frees the first one.
    fn change<M: Machine>(&self, space: &AddressSpace<M::Mode>) {
        let open = space.start_invalidation(Invalidation::new(Range::ALL, Event::Clear));
        // Relaxed: only the notifier orders who copies.
        self.entry.store(1, Ordering::Relaxed);
        self.pages[0].free();
        open.end();
    }

    /// One attempt to copy the entry, and a use of the copy.
    fn copy(&self, subscription: &IntervalSubscription) {
        let begun = subscription.read_begin();
        let page = self.entry.load(Ordering::Relaxed);
        let mut copy = self.copy.lock().unwrap();
        if !subscription.read_retry(begun) {
            *copy = Some(page);
            self.pages[page].use_it();
        }
    }
}

impl IntervalNotifier for Scene {
    fn invalidate(
        &self,
        _subscription: &IntervalSubscription,
        _invalidation: &Invalidation,
    ) -> Result<(), WouldBlock> {
        *self.copy.lock().unwrap() = None;
        Ok(())
    }
}

fn explore<M: Machine>(preemptions: usize, scene: impl Fn(&M) + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || scene(&M::new(3)));
}

fn new_space<M: Machine>(machine: &M) -> Arc<AddressSpace<M::Mode>> {
    Arc::new(AddressSpace::new(Arc::new(machine.srcu())))
}

/// The CPU that sets a scene up, and is off line afterwards.
const SETUP: usize = 2;

/// The interval of the scene.
fn insert<M: Machine>(
    space: &AddressSpace<M::Mode>,
    scene: &Arc<Scene>,
) -> Arc<IntervalSubscription> {
    let range = Range::new(0x1000, 0x2000).unwrap();
    space.insert_interval_locked(range, scene.clone()).unwrap()
}

fn n19_lookup_against_invalidation<M: Machine>(preemptions: usize) {
    explore(preemptions, |machine: &M| {
        let (space, scene) = (new_space(machine), Scene::new());
        let mut subscription = None;
        machine.run(SETUP, || subscription = Some(insert::<M>(&space, &scene)));
        let subscription = subscription.unwrap();
        let changing = machine.spawn(1, {
            let (space, scene) = (space.clone(), scene.clone());
            move || scene.change::<M>(&space)
        });
        machine.run(0, || scene.copy(&subscription));
        changing.join().unwrap();
    });
}

fn n21_insertion_against_invalidation<M: Machine>(preemptions: usize) {
    explore(preemptions, |machine: &M| {
        let (space, scene) = (new_space(machine), Scene::new());
        // Makes the intervals, which the kernel's lock excludes invalidations from.
        let elsewhere = Range::new(0x8000, 0x9000).unwrap();
        machine.run(SETUP, || {
            let first = space.insert_interval_locked(elsewhere, Scene::new());
            assert!(first.is_ok());
        });
        let changing = machine.spawn(1, {
            let (space, scene) = (space.clone(), scene.clone());
            move || {
                let range = Range::new(0x1000, 0x2000).unwrap();
                let open = space.start_invalidation(Invalidation::new(range, Event::Clear));
                scene.entry.store(1, Ordering::Relaxed);
                scene.pages[0].free();
                open.end();
            }
        });
        machine.run(0, || {
            let subscription = insert::<M>(&space, &scene);
            scene.copy(&subscription);
        });
        changing.join().unwrap();
    });
}

/// Touches what its owner destroys after the removal.
struct Guarded(Page);

impl IntervalNotifier for Guarded {
    fn invalidate(
        &self,
        _subscription: &IntervalSubscription,
        _invalidation: &Invalidation,
    ) -> Result<(), WouldBlock> {
        self.0.use_it();
        Ok(())
    }
}

fn n22_removal_against_invalidation<M: Machine>(preemptions: usize) {
    explore(preemptions, |machine: &M| {
        let space = new_space(machine);
        let guarded = Arc::new(Guarded(Page::new()));
        let mut subscription = None;
        machine.run(SETUP, || {
            subscription = space
                .insert_interval_locked(Range::ALL, guarded.clone())
                .ok();
        });
        let subscription = subscription.unwrap();
        let notifying = machine.spawn(1, {
            let space = space.clone();
            move || {
                space
                    .start_invalidation(Invalidation::new(Range::ALL, Event::Clear))
                    .end();
            }
        });
        machine.run(0, || {
            space.remove_interval(&subscription).unwrap();
            guarded.0.free();
        });
        notifying.join().unwrap();
    });
}

macro_rules! tests {
    ($($scene:ident $fenced:literal $hooked:literal,)*) => {
        mod fenced {
            $(#[test]
            fn $scene() {
                super::$scene::<super::Threads>($fenced);
            })*
        }

        mod hooked {
            $(#[test]
            fn $scene() {
                super::$scene::<super::Cpus>($hooked);
            })*
        }
    };
}

tests! {
    n19_lookup_against_invalidation 3 3,
    n21_insertion_against_invalidation 3 3,
    n22_removal_against_invalidation 3 3,
}
