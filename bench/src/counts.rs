//! What callgrind counts.
//!
//! Callgrind writes one part of its profile at each call of [`shootdown_bench_mark`]. Every case
//! runs twice between marks, for [`FEW`] and for [`MANY`] operations; the difference is what
//! [`MANY`]` - `[`FEW`] operations execute, exactly.

use std::hint::black_box;

use crate::case::Case;
use crate::invalidate::submission;
use crate::{dispatch, enter, faults, notify};

const FEW: u64 = 1_000;
const MANY: u64 = 11_000;

/// Runs the notifier's plan, and says in which order.
pub fn notifier() {
    let mut cases = vec![
        ("enter", enter::load()),
        ("enter", enter::fenced()),
        ("enter", enter::hooked()),
        ("enter", enter::crossbeam_local()),
        ("enter", enter::linux_srcu()),
    ];
    for (group, subscribers) in [("notify 0", 0), ("notify 1", 1), ("notify 4", 4)] {
        cases.push((group, notify::fenced(subscribers)));
        cases.push((group, notify::hooked(subscribers)));
        cases.push((group, notify::linux_srcu(subscribers)));
    }
    for case in dispatch::cases(64) {
        cases.push(("dispatch 64", case));
    }
    run(&cases);
}

/// Runs the plan of the invalidation engine.
pub fn invalidate() {
    let cases = submission::software().into_iter();
    let cases: Vec<_> = cases.map(|case| ("software", case)).collect();
    run(&cases);
}

/// The plan of the page requests.
pub fn faults() {
    run(&[
        ("faults 8", faults::ours(8)),
        ("faults 512", faults::ours(512)),
    ]);
}

fn run(cases: &[(&str, Case)]) {
    println!("operations\t{}", MANY - FEW);
    for (group, case) in cases {
        count(group, case);
    }
}

fn count(group: &str, case: &Case) {
    println!("counted\t{group}\t{}", case.name);
    let mut work = case.on_this_thread();
    work(FEW);
    shootdown_bench_mark();
    work(FEW);
    shootdown_bench_mark();
    work(MANY);
    shootdown_bench_mark();
}

/// Where callgrind ends a part of the profile: `--dump-before=shootdown_bench_mark`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn shootdown_bench_mark() {
    black_box(());
}
