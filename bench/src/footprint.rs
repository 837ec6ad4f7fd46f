//! Heap calls while notifying, and bytes held for a subscriber.

use core_notifier::{AddressSpace, Event, Invalidation, Mode, Srcu};

use crate::cpu::Threads;
use crate::dispatch::{self, INTERVALS};
use crate::heap;
use crate::notify::{RANGE, SUBSCRIBERS, Subscriber, space};

/// Counts, and prints a line a fact for `cargo xtask bench`.
pub fn print() {
    let fenced = heap_calls(Srcu::new);
    let hooked = heap_calls(Threads::domain);
    println!("fact\theap calls, fenced\t{fenced}");
    println!("fact\theap calls, hooked\t{hooked}");
    println!("fact\tbytes a subscriber\t{}", bytes_per_subscriber());
}

/// Notifies in every way there is, with all numbers of subscribers and intervals.
fn heap_calls<M: Mode>(domain: impl Fn() -> Srcu<M>) -> u64 {
    let lists = SUBSCRIBERS.map(|subscribers| space(domain(), subscribers));
    let intervals = INTERVALS.map(|intervals| dispatch::space(domain(), intervals));
    let spaces = lists.iter().chain(&intervals);
    spaces.map(|space| heap::calls(|| notify(space))).sum()
}

fn notify<M: Mode>(space: &AddressSpace<M>) {
    space.invalidate_range_start(RANGE);
    space.invalidate_range(RANGE);
    space.change_pte(RANGE.start(), 1);
    space.raise_permissions(RANGE);
    space.invalidate_range_end(RANGE);
    space.batch(|batch| batch.add(RANGE));
    let invalidation = Invalidation::new(RANGE, Event::Clear);
    space.start_invalidation(invalidation).end();
    if let Ok(open) = space.try_start_invalidation(invalidation) {
        open.end();
    }
    let young =
        space.clear_flush_young(RANGE) | space.clear_young(RANGE) | space.test_young(RANGE.start());
    assert!(!young, "no subscriber says so");
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
