//! `cargo xtask fuzz`: hostile bytes against everything that has to bear them.

mod coverage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{self, End, Event, Limits};
use crate::progress::Progress;
use crate::{setup, workspace};

/// The version of cargo-fuzz that is installed if there is none.
const CARGO_FUZZ: &str = "0.13.2";
/// Executions of each target in a smoke run, its corpus included, and the time after which it ends
/// anyway, in seconds: one execution of a target with a whole model takes a good part of one.
const SMOKE_RUNS: u32 = 20_000;
const SMOKE_SECONDS: u32 = 15;
/// The longest input, in bytes: what a tape of the queue targets may have.
const LONGEST_BYTES: u32 = 2050;
/// An input that takes longer than this, in seconds, is a finding.
const LONGEST_INPUT: u32 = 20;

/// What of fuzzing is wanted.
#[derive(clap::Args)]
pub struct Options {
    /// Only this target.
    target: Option<String>,
    /// How long each target runs, in seconds.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Run each target on its corpus and some inputs more, and keep no new ones.
    #[arg(long, conflicts_with = "seconds")]
    smoke: bool,
    /// Name the targets and run none.
    #[arg(long, conflicts_with_all = ["smoke", "seconds"])]
    list: bool,
    /// Instead of fuzzing, tell which lines of the drivers the committed corpora reach.
    #[arg(long, conflicts_with_all = ["smoke", "seconds", "list", "target"])]
    coverage: bool,
}

/// How a target's run went.
struct Outcome {
    target: String,
    /// Executions.
    runs: u64,
    /// Edges of the instrumented code that were reached.
    edges: u64,
    /// Inputs in the corpus at the start.
    inputs: usize,
    /// The finding, if there was one: what was said, and the input.
    finding: Option<Finding>,
}

struct Finding {
    said: String,
    input: Option<PathBuf>,
}

/// Runs what is wanted; false if something was found.
///
/// # Errors
/// When a tool is missing or the targets do not build.
pub fn run(options: &Options) -> Result<bool> {
    if options.coverage {
        return coverage::run();
    }
    let targets = chosen(options.target.as_deref())?;
    if options.list {
        targets.iter().for_each(|target| println!("{target}"));
        return Ok(true);
    }
    let limit = if options.smoke {
        Limit::Smoke
    } else {
        Limit::Seconds(options.seconds)
    };
    fuzz(&targets, limit, &mut std::io::stdout())
}

/// How long a target runs.
#[derive(Clone, Copy)]
pub enum Limit {
    /// Seconds; new inputs are not kept.
    Smoke,
    /// So many seconds; new inputs go into the corpus.
    Seconds(u32),
}

/// The smoke run of every target, for `cargo xtask test`.
///
/// # Errors
/// As [`run`].
pub fn smoke(out: &mut impl std::io::Write) -> Result<bool> {
    fuzz(&chosen(None)?, Limit::Smoke, out)
}

fn fuzz(targets: &[String], limit: Limit, out: &mut impl std::io::Write) -> Result<bool> {
    let program = setup::tool::find_or_install("cargo-fuzz", CARGO_FUZZ)?;
    build(&program)?;
    writeln!(
        out,
        "{:<14} {:>10} {:>7} {:>7}  result",
        "target", "executions", "edges", "inputs"
    )?;
    let mut sound = true;
    for target in targets {
        let outcome = run_target(&program, target, limit)?;
        let result = match &outcome.finding {
            None => "nothing found".to_owned(),
            Some(finding) => format!("FOUND: {}", finding.said),
        };
        writeln!(
            out,
            "{:<14} {:>10} {:>7} {:>7}  {result}",
            outcome.target, outcome.runs, outcome.edges, outcome.inputs
        )?;
        if let Some(finding) = outcome.finding {
            sound = false;
            explain(target, &finding, out)?;
        }
    }
    Ok(sound)
}

fn explain(target: &str, finding: &Finding, out: &mut impl std::io::Write) -> Result<()> {
    let Some(input) = &finding.input else {
        return Ok(());
    };
    writeln!(
        out,
        "    the input is {input}\n    once it is fixed, keep it as a test: cp {input} fuzz/regressions/{target}/",
        input = workspace::relative(input)
    )?;
    Ok(())
}

/// The targets, from the folder that has one file for each.
fn chosen(wanted: Option<&str>) -> Result<Vec<String>> {
    let folder = workspace::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", workspace::relative(&folder)))?;
    let mut targets: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort_unstable();
    let Some(wanted) = wanted else {
        return Ok(targets);
    };
    if !targets.iter().any(|target| target == wanted) {
        bail!(
            "there is no target {wanted}; there are {}",
            targets.join(", ")
        );
    }
    Ok(vec![wanted.to_owned()])
}

/// `cargo fuzz` with a nightly toolchain, which the sanitizer needs.
fn cargo_fuzz(program: &Path, arguments: &[&str]) -> Command {
    let toolchain = std::env::var_os("SHOOTDOWN_NIGHTLY").unwrap_or_else(|| "nightly".into());
    let mut command = Command::new(program);
    command
        .current_dir(workspace::root())
        .args(["fuzz"])
        .args(arguments)
        .args(["--fuzz-dir", "fuzz", "--features", "libfuzzer"])
        // Rustup reads it; cargo and rustc of this process's own toolchain would be used otherwise.
        .env("RUSTUP_TOOLCHAIN", toolchain)
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env("CARGO_TARGET_DIR", workspace::root().join("target/fuzz"));
    command
}

fn build(program: &Path) -> Result<()> {
    let command = cargo_fuzz(program, &["build"]);
    let shown = process::render(&command);
    let mut progress = Progress::start("build the fuzz targets");
    let mut lines = Vec::new();
    let end = process::run(command, Limits::TOOL, &mut |event| match event {
        Event::Line(_, line) => {
            progress.line(line);
            lines.push(line.to_owned());
        }
        Event::Tick => progress.tick(),
    })?;
    drop(progress);
    ensure!(
        end.success(),
        "`{shown}` failed ({end}); it needs a nightly toolchain, named by SHOOTDOWN_NIGHTLY if it is not called nightly:\n{}",
        lines[lines.len().saturating_sub(20)..].join("\n")
    );
    Ok(())
}

fn run_target(program: &Path, target: &str, limit: Limit) -> Result<Outcome> {
    let corpus = workspace::root().join("fuzz/corpus").join(target);
    fs::create_dir_all(&corpus)
        .with_context(|| format!("cannot create {}", workspace::relative(&corpus)))?;
    let inputs = fs::read_dir(&corpus)?.count();
    let scratch = workspace::root().join("target/fuzz/new").join(target);
    fs::create_dir_all(&scratch)?;
    let mut command = cargo_fuzz(program, &["run", target]);
    let (runs, seconds) = match limit {
        Limit::Smoke => {
            // New inputs go into the first folder.
            command.arg(&scratch);
            (SMOKE_RUNS.to_string(), SMOKE_SECONDS)
        }
        Limit::Seconds(seconds) => ("-1".to_owned(), seconds),
    };
    command.arg(&corpus);
    command.args([
        "--",
        &format!("-runs={runs}"),
        &format!("-max_total_time={seconds}"),
        &format!("-max_len={LONGEST_BYTES}"),
        &format!("-timeout={LONGEST_INPUT}"),
        "-print_final_stats=1",
    ]);
    let mut reader = Reader::default();
    let mut progress = Progress::start(&format!("fuzz {target}"));
    let end = process::run(command, Limits::TOOL, &mut |event| match event {
        Event::Line(_, line) => {
            reader.line(line);
            progress.line(line);
        }
        Event::Tick => progress.tick(),
    })?;
    Ok(reader.finish(target, inputs, end))
}

/// What libFuzzer's lines say.
#[derive(Default)]
struct Reader {
    runs: u64,
    edges: u64,
    panicked: bool,
    said: Option<String>,
    input: Option<PathBuf>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        // As in `#4096 pulse  cov: 812 ft: 2290 corp: 103/9Kb ...`.
        if let Some(rest) = line.strip_prefix('#') {
            let mut words = rest.split_whitespace();
            let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
            self.runs = number(words.next()).unwrap_or(self.runs);
            if words.any(|word| word == "cov:") {
                self.edges = number(words.next()).unwrap_or(self.edges);
            }
        } else if let Some(runs) = line.strip_prefix("stat::number_of_executed_units:") {
            self.runs = runs.trim().parse().unwrap_or(self.runs);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(workspace::root().join(path.trim()));
        } else if line.starts_with("thread '") && line.contains("panicked at") {
            self.panicked = true;
            self.said = Some(line.trim_end_matches(':').to_owned());
        } else if std::mem::take(&mut self.panicked) {
            self.said = self.said.take().map(|said| format!("{said}: {line}"));
        } else if line.contains("ERROR: ") && self.said.is_none() {
            self.said = Some(line.trim().to_owned());
        }
    }

    fn finish(self, target: &str, inputs: usize, end: End) -> Outcome {
        let finding = (!end.success()).then(|| Finding {
            said: self.said.unwrap_or_else(|| end.to_string()),
            input: self.input,
        });
        Outcome {
            target: target.to_owned(),
            runs: self.runs,
            edges: self.edges,
            inputs,
            finding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_run_is_read() {
        let mut reader = Reader::default();
        for line in [
            "#2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 40Mb",
            "#4096\tpulse  cov: 812 ft: 2290 corp: 103/9Kb lim: 80 exec/s: 2048 rss: 60Mb",
            "stat::number_of_executed_units: 5000",
        ] {
            reader.line(line);
        }
        assert_eq!((reader.runs, reader.edges), (5000, 812));
        assert!(reader.said.is_none() && reader.input.is_none());
    }

    #[test]
    fn a_finding_is_read() {
        let mut reader = Reader::default();
        for line in [
            "thread '<unnamed>' (12) panicked at fuzz/src/events.rs:57:9:",
            "assertion failed",
            "==1== ERROR: libFuzzer: deadly signal",
            "artifact_prefix='x'; Test unit written to fuzz/artifacts/events/crash-1",
        ] {
            reader.line(line);
        }
        let said = reader.said.unwrap();
        assert!(said.contains("events.rs:57:9") && said.ends_with("assertion failed"));
        assert!(
            reader
                .input
                .unwrap()
                .ends_with("fuzz/artifacts/events/crash-1")
        );
    }
}
