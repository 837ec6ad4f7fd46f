//! Measures the notifier core beside its peers, in one process. Run it by `cargo xtask bench
//! notifier`, which judges what this prints.

// A host program has std; only the library crates must not need it.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

mod case;
mod clock;
mod counts;
mod cpu;
mod crew;
mod dispatch;
mod enter;
mod faults;
mod floor;
mod footprint;
mod grace;
mod heap;
mod invalidate;
mod notify;
mod peers;
mod sample;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use sample::{Effort, Samples};

#[global_allocator]
static ALLOCATOR: heap::Counting = heap::Counting;

const USAGE: &str =
    "usage: shootdown-bench time GROUP [quick] | counts [invalidate | faults] | facts | invalidate | faults
groups: enter, notify, dispatch, grace, submit, software, faults";

fn main() -> ExitCode {
    cpu::bring_up();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["time", group] if time(group, 1) => {}
        ["time", group, "quick"] if time(group, 8) => {}
        ["counts"] => counts::notifier(),
        ["counts", "invalidate"] => counts::invalidate(),
        ["counts", "faults"] => counts::faults(),
        ["facts"] => footprint::print(),
        ["invalidate"] => invalidate::print(),
        ["faults"] => faults::print_facts(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Samples one group, with a part of the rounds; false if there is no such group.
fn time(group: &str, part: usize) -> bool {
    let effort = |rounds: usize, microseconds| Effort {
        rounds: rounds / part,
        sample: Duration::from_micros(microseconds),
    };
    match group {
        "enter" => {
            let [one, two] = sample::together(enter::cases, effort(240, 200));
            print(&one, "enter, 1 thread");
            print(&two, "enter, 2 threads");
        }
        "notify" => {
            for subscribers in notify::SUBSCRIBERS {
                let samples = sample::alone(&notify::cases(subscribers), effort(160, 200));
                print(&samples, &format!("notify {subscribers}"));
            }
        }
        "dispatch" => {
            for intervals in dispatch::INTERVALS {
                let samples = sample::alone(&dispatch::cases(intervals), effort(160, 200));
                print(&samples, &format!("dispatch {intervals}"));
            }
        }
        "submit" => {
            let [one, two] = sample::together(invalidate::submission::cases, effort(160, 200));
            print(&one, "submit, 1 CPU");
            print(&two, "submit, 2 CPUs");
        }
        "software" => {
            let samples = sample::alone(&invalidate::submission::software(), effort(160, 200));
            print(&samples, "software");
        }
        "grace" => {
            let [idle, busy] = sample::grace(grace::pairs, effort(400, 0));
            print(&idle, "grace period, idle");
            print(&busy, "grace period, busy");
        }
        "faults" => {
            for open in faults::OPEN {
                let samples = sample::alone(&faults::cases(open), effort(160, 400));
                print(&samples, &format!("faults {open}"));
            }
        }
        _ => return false,
    }
    true
}

fn print(samples: &[Samples], group: &str) {
    samples.iter().for_each(|samples| samples.print(group));
}
