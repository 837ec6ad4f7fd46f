//! `cargo xtask test --planted`: each planted fault, and the tests that notice it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Log;
use super::stages::{LOOM_PREEMPTIONS, cargo};
use crate::process::{self, End, Event, Limits};
use crate::workspace;

/// Longer than any of the tests takes; a fault under which a test is not done by then has made it
/// hang.
const LIMIT: Duration = Duration::from_secs(60);
/// For the runs without a fault, which run whole files.
const SOUND_LIMIT: Duration = Duration::from_secs(300);
/// Runs at the same time.
const WORKERS: usize = 2;

/// A fault, as `tests/planted.rs` of the package tells it.
struct Fault {
    name: String,
    build: Build,
    file: String,
    /// Parts of names of tests.
    tests: Vec<String>,
    about: String,
}

/// How the tests are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Build {
    Real,
    Loom,
}

/// What a run of tests came to.
struct Run {
    end: End,
    /// Tests that passed.
    passed: usize,
    /// Tests that failed, were running when the process was killed, or killed it.
    noticed: Vec<String>,
    took: Duration,
}

/// Test programs by how and from which file they were built.
type Programs = BTreeMap<(Build, String), PathBuf>;

/// Plants each fault of `package` in turn and tells which tests noticed; true if each was noticed.
///
/// # Errors
/// When something cannot be built, or a test fails without any fault.
pub fn run(package: &str) -> Result<bool> {
    let mut log = Log::create("planted")?;
    let mut programs = Programs::new();
    for build in [Build::Real, Build::Loom] {
        build_tests(package, build, &mut programs, &mut log)?;
    }
    let faults = list(&programs, &mut log)?;
    check_without_fault(&faults, &programs, &mut log)?;
    let runs = plant_all(&faults, &programs, &mut log)?;
    drop(log);
    Ok(summarize(&faults, &runs))
}

fn build_tests(package: &str, build: Build, programs: &mut Programs, log: &mut Log) -> Result<()> {
    let mut command = cargo(&["test", "--no-run", "--package", package]);
    let (flags, folder) = match build {
        Build::Real => ("--cfg planted", "planted"),
        Build::Loom => ("--cfg planted --cfg loom", "planted-loom"),
    };
    if build == Build::Loom {
        command.arg("--release");
    }
    command
        .args(["--test", "*"])
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", workspace::planted_target(folder));
    log.line(&format!("$ {}", process::render(&command)))?;
    let mut lines = Vec::new();
    let end = process::run(command, Limits::TOOL, &mut |event| match event {
        Event::Line(_, line) => lines.push(line.to_owned()),
        Event::Tick => log.progress.tick(),
    })?;
    for line in &lines {
        log.line(line)?;
    }
    ensure!(
        end.success(),
        "the tests with planted faults do not build; see {}",
        log.shown()
    );
    for line in lines {
        // As in `  Executable tests/loom.rs (target/planted-loom/release/deps/loom-0123456789abcdef)`.
        if let Some((file, path)) = line
            .trim()
            .strip_prefix("Executable tests/")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|rest| rest.split_once(".rs ("))
        {
            let file = file.trim_end_matches("/main").to_owned();
            programs.insert((build, file), workspace::root().join(path));
        }
    }
    Ok(())
}

fn list(programs: &Programs, log: &mut Log) -> Result<Vec<Fault>> {
    let program = programs
        .get(&(Build::Real, "planted".to_owned()))
        .context("the package has no tests/planted.rs that lists its faults")?;
    let mut command = Command::new(program);
    command.arg("--nocapture");
    let faults: Vec<Fault> = process::output(command)?
        .lines()
        .filter_map(|line| Fault::parse(line.strip_prefix("planted\t")?))
        .collect();
    log.line(&format!("{} faults", faults.len()))?;
    ensure!(!faults.is_empty(), "there is nothing to plant");
    Ok(faults)
}

impl Fault {
    fn parse(line: &str) -> Option<Self> {
        let [name, build, file, tests, about] = line.split('\t').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(Self {
            name: name.to_owned(),
            build: match build {
                "loom" => Build::Loom,
                _ => Build::Real,
            },
            file: file.to_owned(),
            tests: tests.split_whitespace().map(str::to_owned).collect(),
            about: about.to_owned(),
        })
    }
}

/// A test that fails anyway notices nothing.
fn check_without_fault(faults: &[Fault], programs: &Programs, log: &mut Log) -> Result<()> {
    let mut needed: Vec<_> = faults
        .iter()
        .map(|fault| (fault.build, fault.file.clone()))
        .collect();
    needed.sort();
    needed.dedup();
    for key in needed {
        let program = programs
            .get(&key)
            .with_context(|| format!("a fault names tests/{}.rs, which was not built", key.1))?;
        let run = test(program, &[], None, SOUND_LIMIT)?;
        let (build, file) = &key;
        log.line(&format!(
            "no fault, {build:?}, tests/{file}.rs: {}",
            run.end
        ))?;
        ensure!(
            run.end.success() && run.passed > 0,
            "without any fault, tests/{file}.rs ({build:?}): {}, {}",
            run.end,
            run.noticed.join(", ")
        );
    }
    Ok(())
}

fn plant_all(faults: &[Fault], programs: &Programs, log: &mut Log) -> Result<Vec<Run>> {
    let next = AtomicUsize::new(0);
    let runs: Mutex<Vec<Option<Result<Run>>>> = Mutex::new(faults.iter().map(|_| None).collect());
    let log = Mutex::new(log);
    let work = || {
        while let Some((index, fault)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            faults.get(index).map(|fault| (index, fault))
        } {
            let program = &programs[&(fault.build, fault.file.clone())];
            let run = test(program, &fault.tests, Some(&fault.name), LIMIT);
            if let (Ok(run), Ok(mut log)) = (&run, log.lock()) {
                let noticed = run.noticed.join(", ");
                let _ = log.line(&format!("{}: {}: {noticed}", fault.name, run.end));
            }
            if let Ok(mut runs) = runs.lock() {
                runs[index] = Some(run);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..WORKERS {
            scope.spawn(work);
        }
        work();
    });
    runs.into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .into_iter()
        .map(|run| run.context("a run is missing")?)
        .collect()
}

/// Runs those tests of `program` whose names contain one of `parts`, one after the other.
fn test(program: &PathBuf, parts: &[String], fault: Option<&str>, limit: Duration) -> Result<Run> {
    let mut command = Command::new(program);
    command
        .args(parts)
        .arg("--test-threads=1")
        .env("LOOM_MAX_PREEMPTIONS", LOOM_PREEMPTIONS)
        .env("RUST_BACKTRACE", "0")
        .env(
            "SHOOTDOWN_PLANT",
            fault.map_or_else(OsString::new, OsString::from),
        );
    if fault.is_none() {
        command.env_remove("SHOOTDOWN_PLANT");
    }
    let started = Instant::now();
    let limits = Limits {
        time: Some(limit),
        ..Limits::TOOL
    };
    let mut results = Results::default();
    let end = process::run(command, limits, &mut |event| {
        if let Event::Line(process::Stream::Out, line) = event {
            results.line(line);
        }
    })?;
    let mut noticed = results.failed;
    noticed.extend(results.running.filter(|_| end.code().is_none()));
    Ok(Run {
        end,
        passed: results.passed,
        noticed,
        took: started.elapsed(),
    })
}

/// What the test program's output says of each test.
#[derive(Default)]
struct Results {
    passed: usize,
    failed: Vec<String>,
    /// The test whose result has not come yet.
    running: Option<String>,
}

impl Results {
    /// `test name ... ok`, with the result on a later line if the test itself prints.
    fn line(&mut self, line: &str) {
        let result = match line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        {
            Some((name, result)) => {
                self.running = Some(name.trim_end_matches(" - should panic").to_owned());
                result
            }
            None => line,
        };
        match result.trim() {
            "ok" => {
                self.passed += usize::from(self.running.take().is_some());
            }
            "FAILED" => self.failed.extend(self.running.take()),
            _ => {}
        }
    }
}

fn summarize(faults: &[Fault], runs: &[Run]) -> bool {
    let width = faults
        .iter()
        .map(|fault| fault.name.len())
        .max()
        .unwrap_or(0);
    println!("{:<width$}    time  caught by", "fault");
    let mut uncaught = 0;
    for (fault, run) in faults.iter().zip(runs) {
        let caught_by = if run.noticed.is_empty() {
            uncaught += 1;
            format!("NOTHING ({} tests passed): {}", run.passed, fault.about)
        } else {
            let how = match run.end {
                End::TimedOut(_) => " (hangs)",
                end if end.code().is_none() => " (killed)",
                _ => "",
            };
            format!("{}{how}", run.noticed.join(", "))
        };
        let took = run.took.as_secs_f32();
        println!("{:<width$} {took:>5.1} s  {caught_by}", fault.name);
    }
    println!("{} caught, {uncaught} uncaught", faults.len() - uncaught);
    uncaught == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_line_by_line() {
        let mut results = Results::default();
        for line in [
            "running 4 tests",
            "test a::one ... ok",
            "test two ... printed by the test",
            "FAILED",
            "test three ... FAILED",
            "test four ... ",
        ] {
            results.line(line);
        }
        assert_eq!(results.passed, 1);
        assert_eq!(results.failed, ["two", "three"]);
        assert_eq!(results.running.as_deref(), Some("four"));
    }

    #[test]
    fn a_fault_is_five_fields() {
        let fault = Fault::parse("Name\tloom\tfile\tone two\tDoes it.").expect("five fields");
        assert_eq!((fault.name.as_str(), fault.build), ("Name", Build::Loom));
        assert_eq!(fault.tests, ["one", "two"]);
        assert!(Fault::parse("Name\tloom\tfile").is_none());
    }
}
