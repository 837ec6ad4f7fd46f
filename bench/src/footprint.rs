//! Heap calls while notifying, and bytes held for a subscriber.

use core_notifier::{AddressSpace, Mode, Srcu};

use crate::cpu::{self, Threads};
use crate::heap;
use crate::notify::{RANGE, SUBSCRIBERS, Subscriber, space};

/// Counts, and prints a line a fact for `cargo xtask bench`.
pub fn print() {
    cpu::bring_up();
    let sum = |calls: fn(usize) -> u64| SUBSCRIBERS.into_iter().map(calls).sum::<u64>();
    let fenced = sum(|subscribers| heap_calls(&space(Srcu::new(), subscribers)));
    let hooked = sum(|subscribers| heap_calls(&space(Threads::domain(), subscribers)));
    println!("fact\theap calls, fenced\t{fenced}");
    println!("fact\theap calls, hooked\t{hooked}");
    println!("fact\tbytes a subscriber\t{}", bytes_per_subscriber());
}

/// Notifies in every way there is.
fn heap_calls<M: Mode>(space: &AddressSpace<M>) -> u64 {
    heap::calls(|| {
        space.invalidate_range_start(RANGE);
        space.invalidate_range(RANGE);
        space.change_pte(RANGE.start(), 1);
        space.invalidate_range_end(RANGE);
        let young = space.clear_flush_young(RANGE)
            | space.clear_young(RANGE)
            | space.test_young(RANGE.start());
        assert!(!young, "no subscriber says so");
    })
}

/// What an address space holds for each beyond the subscriber itself.
fn bytes_per_subscriber() -> f64 {
    const FEW: usize = 1;
    const MANY: usize = 65;
    let held = |subscribers| {
        let before = heap::bytes_held();
        let space = space(Srcu::new(), subscribers);
        space.barrier().expect("not inside");
        let held = heap::bytes_held() - before;
        drop(space);
        held
    };
    // The subscriber itself: two reference counts and its data.
    let own = (2 * size_of::<usize>() + size_of::<Subscriber>()) as f64;
    (held(MANY) - held(FEW)) as f64 / (MANY - FEW) as f64 - own
}
