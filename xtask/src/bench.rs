//! `cargo xtask bench`: measures the project's code beside its peers and judges what comes out.

mod book;
mod callgrind;
mod code_size;
mod faults;
mod invalidate;
mod liburcu;
mod machine;
mod plot;
mod program;
mod rows;
mod table;

use anyhow::Result;
use clap::ValueEnum;

use program::{Figures, Program, median};
use rows::{Outcome, ROWS, Row, Verdict, nanoseconds};
use table::Table;

/// What of the benchmarks is wanted.
#[derive(clap::Args)]
pub struct Options {
    /// What to measure.
    #[arg(value_enum)]
    subject: Subject,
    /// Fail if a target is missed; times are measured up to three times before they fail.
    #[arg(long)]
    check: bool,
    /// Measure an eighth as much: for trying, too little to judge by.
    #[arg(long, conflicts_with_all = ["check", "docs"])]
    quick: bool,
    /// Put the tables and plots into the book.
    #[arg(long)]
    docs: bool,
}

/// What can be measured.
#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// The notifier core and its SRCU.
    Notifier,
    /// The invalidation engine: covers, lists, rings.
    Invalidate,
    /// Page requests: groups and responses.
    Faults,
}

/// The groups of times, one table and one plot each.
struct Family {
    /// What the measuring program calls it.
    name: &'static str,
    title: &'static str,
    /// Its groups, with their columns' heads.
    groups: &'static [(&'static str, &'static str)],
}

const FAMILIES: &[Family] = &[
    Family {
        name: "enter",
        title: "Enter, follow one pointer, leave",
        groups: &[
            ("enter, 1 thread", "1 thread"),
            ("enter, 2 threads", "2 threads"),
        ],
    },
    Family {
        name: "notify",
        title: "Notify so many subscribers",
        groups: &[
            ("notify 0", "0"),
            ("notify 1", "1"),
            ("notify 4", "4"),
            ("notify 16", "16"),
            ("notify 64", "64"),
        ],
    },
    Family {
        name: "dispatch",
        title: "Start and end a change that meets one of so many intervals",
        groups: &[("dispatch 64", "64"), ("dispatch 1024", "1024")],
    },
    Family {
        name: "grace",
        title: "Wait for a grace period",
        groups: &[
            ("grace period, idle", "no reader"),
            ("grace period, busy", "busy reader"),
        ],
    },
];

/// How often a time that misses its target is measured again.
const RETRIES: usize = 2;

/// Measures, prints the tables and, if asked to, judges; false if a target was missed then.
///
/// # Errors
/// When the measuring program does not build or run.
pub fn run(options: &Options) -> Result<bool> {
    match options.subject {
        Subject::Notifier => notifier(options),
        Subject::Invalidate => invalidate::run(options.check, options.quick, options.docs),
        Subject::Faults => faults::run(options),
    }
}

fn notifier(options: &Options) -> Result<bool> {
    let program = Program::build()?;
    let mut figures = Figures::default();
    program.facts(&mut figures)?;
    code_size::measure(&mut figures)?;
    let uncounted = callgrind::count(&program.path, None, &mut figures).err();
    for family in FAMILIES {
        program.time(family.name, options.quick, &mut figures)?;
    }
    let outcomes = judge(&program, ROWS, FAMILIES, &mut figures, options.check)?;

    let report = Report {
        machine: machine::describe(),
        figures: &figures,
        outcomes: &outcomes,
    };
    print!("{}", report.text());
    if let Some(why) = &program.without_liburcu {
        println!("liburcu is not among the peers: {why}");
    }
    if let Some(error) = &uncounted {
        println!("not counted: {error:#}");
    }
    if options.docs {
        book::write(&report)?;
    }
    let failed = outcomes.iter().filter(|(row, outcome)| fails(row, outcome));
    let failed = failed.count();
    if options.check {
        println!("{failed} of {} rows failed", ROWS.len());
    }
    Ok(!options.check || failed == 0)
}

/// Whether a row fails the check: a target missed, or an exact count that could not be had.
fn fails(row: &Row, outcome: &Outcome) -> bool {
    match outcome.verdict {
        Verdict::Missed => true,
        Verdict::NotMeasured(_) => row.is_exact(),
        Verdict::Met | Verdict::BeyondCpu { .. } | Verdict::Shown => false,
    }
}

/// Judges every row; times that miss their target are measured again if `again`.
fn judge(
    program: &Program,
    rows: &'static [Row],
    families: &[Family],
    figures: &mut Figures,
    again: bool,
) -> Result<Vec<(&'static Row, Outcome)>> {
    let judge = |figures: &Figures| rows.iter().map(|row| (row, row.judge(figures))).collect();
    let mut outcomes: Vec<(&'static Row, Outcome)> = judge(figures);
    for _ in 0..if again { RETRIES } else { 0 } {
        for family in families {
            let is_missed = |row: &Row, outcome: &Outcome| {
                outcome.verdict == Verdict::Missed && row.timing() == Some(family.name)
            };
            if outcomes
                .iter()
                .any(|(row, outcome)| is_missed(row, outcome))
            {
                program.time(family.name, false, figures)?;
                for (row, outcome) in &mut outcomes {
                    if is_missed(row, outcome) {
                        *outcome = row.judge(figures);
                    }
                }
            }
        }
    }
    Ok(outcomes)
}

/// Everything that was measured and what it is worth.
struct Report<'a> {
    machine: String,
    figures: &'a Figures,
    outcomes: &'a [(&'static Row, Outcome)],
}

impl Report<'_> {
    fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.machine, self.verdicts().text());
        for family in FAMILIES {
            let times = self.times(family).text();
            text += &format!("{} (median)\n{times}\n", family.title);
        }
        text
    }

    /// The rows with targets.
    fn verdicts(&self) -> Table {
        let head = [
            "row", "ours", "peer", "peer's", "value", "target", "verdict",
        ];
        let mut table = Table::new(head);
        for (row, outcome) in self.outcomes {
            let value = |value: f64| match row.is_exact() {
                true => rows::count(value),
                false => format!("{value:.2}"),
            };
            table.push([
                row.name.to_owned(),
                outcome.ours.clone(),
                row.peer().to_owned(),
                outcome.peer.clone(),
                outcome.value.map_or_else(String::new, value),
                row.target.to_string(),
                outcome.verdict.to_string(),
            ]);
        }
        table
    }

    /// The median of every case of a family.
    fn times(&self, family: &Family) -> Table {
        let heads = family.groups.iter().map(|(_, head)| *head);
        let mut table = Table::new(std::iter::once("").chain(heads));
        for (case, medians) in self.medians(family) {
            let cells = medians
                .into_iter()
                .map(|median| median.map_or_else(String::new, nanoseconds));
            table.push(std::iter::once(case.to_owned()).chain(cells));
        }
        table
    }

    fn medians(&self, family: &Family) -> Vec<(&str, Vec<Option<f64>>)> {
        let median = |group, case| self.figures.samples(group, case).and_then(median);
        let medians = |case| {
            family
                .groups
                .iter()
                .map(move |(group, _)| median(group, case))
        };
        let cases = self.figures.cases(family.name).into_iter();
        cases.map(|case| (case, medians(case).collect())).collect()
    }
}
