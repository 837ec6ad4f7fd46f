//! What page requests promise, row by row: `cargo xtask bench faults`.

use anyhow::Result;

use super::program::{Figures, Program};
use super::rows::{Quantity, Row, Target};
use super::{Family, Options, Report, callgrind, fails, judge, machine};

const FAMILY: Family = Family {
    name: "faults",
    title: "One page request, four to a group, with so many groups open",
    groups: &[("faults 8", "8"), ("faults 512", "512")],
};

/// What one request more executes with 512 groups open than with 8.
const OVER: &str = "instructions, 512 groups over 8";

/// Performance targets 18, 19 and 22.
const ROWS: &[Row] = &[
    Row {
        name: "page request, 512 groups open",
        quantity: Quantity::Ratio {
            ours: ("faults 512", "ours"),
            peer: ("faults 512", "Linux model"),
            floor: None,
        },
        target: Target::AtMost(0.20),
    },
    Row {
        name: "page request, 8 groups open",
        quantity: Quantity::Ratio {
            ours: ("faults 8", "ours"),
            peer: ("faults 8", "Linux model"),
            floor: None,
        },
        target: Target::None,
    },
    Row {
        name: "instructions, 512 groups open",
        quantity: Quantity::Instructions("faults 512", "ours"),
        target: Target::None,
    },
    fact(OVER, Target::AtMost(2.0)),
    fact("heap calls, page requests", Target::Exactly(0.0)),
    fact("doorbells a response", Target::AtMost(1.0 / 16.0)),
    fact("waits", Target::Exactly(0.0)),
    fact("requests without a response", Target::Exactly(0.0)),
];

const fn fact(name: &'static str, target: Target) -> Row {
    Row {
        name,
        quantity: Quantity::Fact(name),
        target,
    }
}

/// Measures, prints and, if asked to, judges; false if a target was missed then.
///
/// # Errors
/// When the measuring program does not build or run.
pub fn run(options: &Options) -> Result<bool> {
    let program = Program::build()?;
    let mut figures = Figures::default();
    program.page_requests(&mut figures)?;
    let uncounted = callgrind::count(&program.path, Some("faults"), &mut figures).err();
    let instructions = |group| figures.count(group, "ours").map(|count| count.instructions);
    if let (Some(few), Some(many)) = (instructions("faults 8"), instructions("faults 512")) {
        figures.add_fact(OVER, (many - few).abs());
    }
    program.time(FAMILY.name, options.quick, &mut figures)?;
    let outcomes = judge(&program, ROWS, &[FAMILY], &mut figures, options.check)?;
    let report = Report {
        machine: machine::describe(),
        figures: &figures,
        outcomes: &outcomes,
    };
    println!("{}\n\n{}", report.machine, report.verdicts().text());
    println!(
        "{} (median)\n{}",
        FAMILY.title,
        report.times(&FAMILY).text()
    );
    if let Some(error) = &uncounted {
        println!("not counted: {error:#}");
    }
    let failed = outcomes.iter().filter(|(row, outcome)| fails(row, outcome));
    let failed = failed.count();
    if options.check {
        println!("{failed} of {} rows failed", ROWS.len());
    }
    Ok(!options.check || failed == 0)
}
