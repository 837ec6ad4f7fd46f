//! What a kernel would call that uses the operations of Linux's notifiers as they were in 2017, and
//! nothing else, so that the code which it links can be weighed. Does nothing.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

use std::hint::black_box;
use std::sync::{Arc, Mutex, MutexGuard};

use core_notifier::{AddressSpace, AddressSpaceLock, Notifier, Range, Srcu};

struct Lock(Mutex<()>);

impl AddressSpaceLock for Lock {
    type Guard<'a> = MutexGuard<'a, ()>;

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap()
    }
}

fn create() -> AddressSpace {
    AddressSpace::new(Arc::new(Srcu::new()))
}

fn register(space: &AddressSpace, lock: &Lock, notifier: Arc<dyn Notifier>) -> bool {
    space.register(lock, notifier).is_ok()
}

fn unregister(space: &AddressSpace, notifier: &Arc<dyn Notifier>) -> bool {
    space.unregister(notifier).is_ok()
}

fn unregister_no_release(space: &AddressSpace, notifier: &Arc<dyn Notifier>) -> bool {
    space.unregister_no_release(notifier).is_ok()
}

fn notify(space: &AddressSpace, range: Range) {
    space.invalidate_range_start(range);
    space.invalidate_range(range);
    space.change_pte(range.start(), range.end());
    space.invalidate_range_end(range);
    black_box(space.clear_flush_young(range) | space.clear_young(range));
    black_box(space.test_young(range.start()));
}

fn wait(srcu: &Srcu) {
    black_box(srcu.synchronize().is_ok() && srcu.barrier().is_ok());
    black_box(srcu.run_callbacks());
}

fn main() {
    let code = [
        create as *const (),
        register as *const (),
        unregister as *const (),
        unregister_no_release as *const (),
        notify as *const (),
        wait as *const (),
        <AddressSpace>::release as *const (),
    ];
    black_box(code);
}
