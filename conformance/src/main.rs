//! Runs the suite: `cargo xtask conformance --help`.

// A host program has std; only the library crates must not need it.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

use shootdown_conformance::cases::{self, Case};
use shootdown_conformance::rig::{self, Maker};
use shootdown_conformance::run::{self, Cell};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

mod options;
mod planted;
mod report;

use options::{Options, Task};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    // A case that panics says so in the matrix.
    std::panic::set_hook(Box::new(|_| ()));
    let soak_time = match options.task {
        Task::Soak(time) => Some(time),
        Task::Matrix | Task::List | Task::Demo => None,
    };
    let held = match options.task {
        _ if options.planted => planted::try_all(soak_time),
        _ if options.hunt => planted::hunt(&options, &options.makers(), soak_time),
        Task::List => list(),
        Task::Demo => demo(&options),
        Task::Matrix => matrix(&options),
        Task::Soak(time) => soak(&options, time),
    };
    if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn list() -> bool {
    println!("rigs");
    for maker in rig::all() {
        println!("  {}", maker.name());
    }
    println!("cases");
    for case in cases::all() {
        println!("  {:<20} {}", case.name, case.about);
    }
    true
}

/// On the fully equipped model of each IOMMU.
fn demo(options: &Options) -> bool {
    let makers = options.makers().into_iter();
    makers
        .filter(|maker| !maker.name().contains('-'))
        .map(shootdown_conformance::demo::run)
        .fold(true, |all, held| all & held)
}

fn matrix(options: &Options) -> bool {
    let (makers, all_ready) = ready(options.makers());
    if makers.is_empty() {
        return false;
    }
    let cases: Vec<&'static Case> = cases::all()
        .filter(|case| options.cases.is_empty() || options.cases.iter().any(|it| it == case.name))
        .collect();
    let quiet = options.quiet;
    let terminal = std::io::stderr().is_terminal();
    let cells = run::matrix(
        &cases,
        &makers,
        &run::freedoms(options.seed),
        |case, maker, cell, took| {
            if quiet {
                return;
            }
            let how = match cell {
                Cell::Green => "green",
                Cell::Skip(_) => "skip",
                Cell::Red(_) => "RED",
            };
            let line = format!(
                "{how:<5} {:<12} {} ({:.2} s)",
                maker.name(),
                case.name,
                took.as_secs_f32()
            );
            if terminal {
                eprint!("\r\x1b[K{line}");
            } else if matches!(cell, Cell::Red(_)) {
                eprintln!("{line}");
            }
        },
    );
    if terminal && !quiet {
        eprint!("\r\x1b[K");
    }
    report::matrix(&cases, &makers, &cells) && all_ready
}

/// The rigs that can be built on this computer, and whether that is all of them. Of the others, each
/// reason is told.
fn ready(makers: Vec<&'static dyn Maker>) -> (Vec<&'static dyn Maker>, bool) {
    let count = makers.len();
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut ready = Vec::new();
    for maker in makers {
        match maker.ready() {
            Ok(()) => ready.push(maker),
            Err(why) => reasons.entry(why).or_default().push(maker.name()),
        }
    }
    for (why, names) in reasons {
        eprintln!("error: no {}: {why}", names.join(", "));
    }
    let all = ready.len() == count;
    (ready, all)
}

fn soak(options: &Options, time: Duration) -> bool {
    let (makers, all_ready) = ready(options.makers());
    let share = time / makers.len().max(1) as u32;
    let share = if options.each { time } else { share };
    let mut held = all_ready;
    for maker in makers {
        let first = options.seed.unwrap_or(1);
        let found = run::soak(maker, share, first, |seed, operations| {
            if !options.quiet && std::io::stderr().is_terminal() {
                eprint!(
                    "\r\x1b[K{} seed {seed}: {operations} operations",
                    maker.name()
                );
            }
        });
        match found {
            Ok(operations) => {
                println!(
                    "{:<12} {operations} operations in {} s from seed {first} on: nothing found",
                    maker.name(),
                    share.as_secs()
                );
            }
            Err((seed, what)) => {
                held = false;
                println!("{:<12} seed {seed}: {what}", maker.name());
                println!(
                    "  again: cargo xtask conformance --rig {} --soak 1 --seed {seed}",
                    maker.name()
                );
                if options.quiet {
                    return false;
                }
            }
        }
    }
    held
}

impl Options {
    fn makers(&self) -> Vec<&'static dyn Maker> {
        rig::all()
            .filter(|maker| {
                let named = |name: &String| {
                    let prefix = maker.name().strip_prefix(name.as_str());
                    name == "model" && !is_qemu(maker.name())
                        || prefix.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
                };
                // QEMU's are asked for by name: they need a QEMU.
                self.rigs.is_empty() && !is_qemu(maker.name()) || self.rigs.iter().any(named)
            })
            .collect()
    }
}

/// Whether a rig of this name needs QEMU.
fn is_qemu(name: &str) -> bool {
    rig::QEMU_RIGS.iter().any(|maker| maker.name() == name)
}
