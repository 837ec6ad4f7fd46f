//! Everything a kernel would call, in one mode, so that its code can be weighed. Does nothing.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

use std::hint::black_box;
use std::sync::{Arc, Mutex, MutexGuard};

use core_notifier::{
    AddressSpace, AddressSpaceLock, IntervalNotifier, IntervalSubscription, Invalidation, Notifier,
    NotifierKind, Range, Srcu,
};

struct Lock(Mutex<()>);

impl AddressSpaceLock for Lock {
    type Guard<'a> = MutexGuard<'a, ()>;

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap()
    }
}

/// Who is asked for by [`AddressSpace::get`].
struct Tlb;
impl Notifier for Tlb {
    fn kind(&self) -> NotifierKind {
        NotifierKind::SecondaryTlb
    }
}

fn subscribe(space: &AddressSpace, lock: &Lock, notifier: &Arc<dyn Notifier>) {
    black_box(space.register(lock, notifier.clone()).is_ok());
    black_box(
        space
            .get(lock, || Arc::new(Tlb))
            .map(|tlb| space.put(&tlb))
            .is_ok(),
    );
    black_box(space.unregister_no_release(notifier).is_ok());
    black_box(space.unregister(notifier).is_ok());
}

fn insert(space: &AddressSpace, lock: &Lock, range: Range, notifier: Arc<dyn IntervalNotifier>) {
    if let Ok(subscription) = space.insert_interval(lock, range, notifier) {
        black_box(space.remove_interval(&subscription).is_ok());
    }
}

fn look_up(subscription: &IntervalSubscription) -> bool {
    subscription.read_retry(subscription.read_begin())
}

fn announce(space: &AddressSpace, invalidation: Invalidation) {
    space.start_invalidation(invalidation).end();
    black_box(space.try_start_invalidation(invalidation).is_ok());
    space.invalidate_range_start(invalidation.range());
    space.invalidate_range_only_end(invalidation.range());
    space.invalidate_range_end(invalidation.range());
}

fn invalidate(space: &AddressSpace, range: Range) {
    space.invalidate_range(range);
    space.raise_permissions(range);
    space.change_pte(range.start(), range.end());
    space.batch(|batch| batch.add(range));
    black_box(space.clear_flush_young(range) | space.clear_young(range));
    black_box(space.test_young(range.start()));
}

fn wait(srcu: &Srcu) {
    black_box(srcu.synchronize().is_ok() && srcu.synchronize_expedited().is_ok());
    black_box(srcu.barrier().is_ok());
    black_box(srcu.run_callbacks());
}

fn main() {
    let code = [
        subscribe as *const (),
        insert as *const (),
        look_up as *const (),
        announce as *const (),
        invalidate as *const (),
        wait as *const (),
        <AddressSpace>::release as *const (),
        create as *const (),
    ];
    black_box(code);
}

fn create() -> AddressSpace {
    AddressSpace::new(Arc::new(Srcu::new()))
}
