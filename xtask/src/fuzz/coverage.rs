//! `cargo xtask fuzz --coverage`: which lines of the drivers the committed corpora reach.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::process::{self, Event, Limits, Stream};
use crate::progress::Progress;
use crate::{setup, workspace};

/// The version of cargo-tarpaulin that is installed if there is none. It reads the compiler's
/// coverage by itself, so that no LLVM tools are needed.
const TARPAULIN: &str = "0.37.5";

/// The rooms whose coverage is a promise, in each backend.
const ROOMS: [&str; 4] = ["invalidate", "queue", "faults", "firmware"];
const BACKENDS: [&str; 3] = ["iommu-vtd", "iommu-smmuv3", "iommu-riscv"];
/// The share of each room's lines that the corpora have to reach, in percent.
const WANTED: f64 = 85.0;

/// Lines reached and lines there are.
#[derive(Clone, Copy, Default)]
struct Lines {
    reached: u64,
    all: u64,
}

impl Lines {
    fn percent(self) -> f64 {
        if self.all == 0 {
            return 0.0;
        }
        100.0 * self.reached as f64 / self.all as f64
    }
}

/// Measures and prints; false if a room is below what is wanted.
///
/// # Errors
/// When tarpaulin cannot be installed or run.
pub fn run() -> Result<bool> {
    let tarpaulin = setup::tool::find_or_install("cargo-tarpaulin", TARPAULIN)?;
    let mut command = Command::new(tarpaulin);
    command.current_dir(workspace::root()).args([
        "tarpaulin",
        "--package",
        "shootdown-fuzz",
        "--test",
        "corpus",
        "--engine",
        "llvm",
        "--out",
        "Stdout",
        "--color",
        "never",
        "--target-dir",
        "target/coverage",
    ]);
    command.env_remove("CARGO_TARGET_DIR");
    let shown = process::render(&command);
    let mut progress = Progress::start("coverage of the corpora");
    let (mut files, mut output) = (BTreeMap::new(), Vec::new());
    let end = process::run(command, Limits::TOOL, &mut |event| match event {
        Event::Line(stream, line) => {
            progress.line(line);
            output.push(line.to_owned());
            if stream == Stream::Out
                && let Some((file, lines)) = parse(line)
            {
                files.insert(file.to_owned(), lines);
            }
        }
        Event::Tick => progress.tick(),
    })?;
    drop(progress);
    ensure!(
        end.success() && !files.is_empty(),
        "`{shown}` failed ({end}):\n{}",
        output[output.len().saturating_sub(20)..].join("\n")
    );
    print(&files)
}

/// As in `|| iommu-vtd/src/queue.rs: 30/42`.
fn parse(line: &str) -> Option<(&str, Lines)> {
    let (file, counts) = line.strip_prefix("|| ")?.rsplit_once(": ")?;
    let (reached, all) = counts.split_whitespace().next()?.split_once('/')?;
    let lines = Lines {
        reached: reached.parse().ok()?,
        all: all.parse().ok()?,
    };
    file.ends_with(".rs").then_some((file, lines))
}

fn print(files: &BTreeMap<String, Lines>) -> Result<bool> {
    for (file, lines) in files {
        println!(
            "{:>5.1} %  {:>4}/{:<4}  {file}",
            lines.percent(),
            lines.reached,
            lines.all
        );
    }
    println!();
    let mut enough = true;
    for backend in BACKENDS {
        for room in ROOMS {
            let path = format!("{backend}/src/{room}");
            let lines = files
                .iter()
                .filter(|(file, _)| file.starts_with(&path))
                .fold(Lines::default(), |sum, (_, lines)| Lines {
                    reached: sum.reached + lines.reached,
                    all: sum.all + lines.all,
                });
            let verdict = if lines.percent() >= WANTED {
                "enough"
            } else {
                enough = false;
                "TOO LITTLE"
            };
            println!("{:>5.1} %  {path}: {verdict}", lines.percent());
        }
    }
    Ok(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read() {
        let (file, lines) = parse("|| iommu-vtd/src/queue.rs: 30/40 +1.2%").unwrap();
        assert_eq!(file, "iommu-vtd/src/queue.rs");
        assert_eq!((lines.reached, lines.all), (30, 40));
        assert!(parse("|| Tested/Total Lines:").is_none());
    }
}
