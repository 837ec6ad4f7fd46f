//! Heap calls while notifying, and bytes held for a subscriber.

use core_notifier::AddressSpace;

use crate::heap;
use crate::notify::{RANGE, SUBSCRIBERS, fenced_space};

/// Counts, and prints a line a fact for `cargo xtask bench`.
pub fn print() {
    for subscribers in SUBSCRIBERS {
        let space = fenced_space(subscribers);
        let calls = heap::calls(|| notify_every_way(&space));
        println!("fact\theap calls, fenced, {subscribers} subscribers\t{calls}");
    }
    println!(
        "fact\tbytes a subscriber, fenced\t{}",
        bytes_per_subscriber()
    );
}

fn notify_every_way(space: &AddressSpace) {
    space.invalidate_range_start(RANGE);
    space.invalidate_range(RANGE);
    space.change_pte(RANGE.start(), 1);
    space.invalidate_range_end(RANGE);
    let young =
        space.clear_flush_young(RANGE) | space.clear_young(RANGE) | space.test_young(RANGE.start());
    assert!(!young, "no subscriber says so");
}

/// What the address space holds for each of 64 beyond the subscriber itself.
fn bytes_per_subscriber() -> f64 {
    const FEW: usize = 1;
    const MANY: usize = 65;
    let held = |subscribers| {
        let before = heap::bytes_held();
        let space = fenced_space(subscribers);
        let held = heap::bytes_held() - before;
        drop(space);
        held
    };
    // The subscriber itself: its two reference counts and its data.
    let own = (2 * size_of::<usize>() + size_of::<crate::notify::Subscriber>()) as f64;
    (held(MANY) - held(FEW)) as f64 / (MANY - FEW) as f64 - own
}
