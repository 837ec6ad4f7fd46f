//! `cargo xtask test --planted`: each planted fault, and the tests that notice it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Log;
use super::stages::{LIBRARIES, LOOM_PREEMPTIONS, cargo};
use crate::process::{self, End, Event, Limits};
use crate::workspace;

/// Longer than any of the tests takes; a fault under which a test is not done by then has made it
/// hang.
const LIMIT: Duration = Duration::from_secs(60);
/// For the runs without a fault, which run whole files.
const SOUND_LIMIT: Duration = Duration::from_secs(300);
/// Runs at the same time.
const WORKERS: usize = 2;

/// What names every package that has faults.
const ALL: &str = "all";

/// What can be chosen: a package, or all.
pub fn choices() -> Vec<&'static str> {
    LIBRARIES.into_iter().chain([ALL]).collect()
}

/// The packages that a choice stands for.
pub fn packages(choice: &str) -> Vec<&'static str> {
    let is_chosen = |package: &&str| choice == ALL || choice == *package;
    LIBRARIES.into_iter().filter(is_chosen).collect()
}

/// A fault, as `tests/planted.rs` of its package tells it.
struct Fault {
    name: String,
    build: Build,
    /// The test programs that are to notice it, as `package/file`.
    programs: Vec<String>,
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

/// Test programs by how they were built and from which package and file, as `package/file`; the
/// file is `lib` for the tests in `src/`.
type Programs = BTreeMap<(Build, String), PathBuf>;

/// Plants each fault of `packages` in turn and tells which tests noticed; true if each was noticed by
/// every test program that is to notice it.
///
/// # Errors
/// When something cannot be built, or a test fails without any fault.
pub fn run(packages: &[&str]) -> Result<bool> {
    let mut log = Log::create("planted")?;
    let mut programs = Programs::new();
    let mut faults = Vec::new();
    for package in packages {
        build_tests(package, Build::Real, &mut programs, &mut log)?;
        faults.extend(list(package, &programs, &mut log)?);
    }
    check_names(&faults)?;
    for (build, package) in needed_packages(&faults) {
        let is_built =
            |(as_built, file): &(Build, String)| *as_built == build && package_of(file) == package;
        if !programs.keys().any(is_built) {
            build_tests(&package, build, &mut programs, &mut log)?;
        }
    }
    check_without_fault(&faults, &programs, &mut log)?;
    let plan: Vec<(&Fault, &String)> = faults
        .iter()
        .flat_map(|fault| fault.programs.iter().map(move |program| (fault, program)))
        .collect();
    let runs = plant_all(&plan, &programs, &mut log)?;
    drop(log);
    Ok(summarize(&plan, &runs))
}

/// Names are unique over all packages, so that one process can plant any fault by its name.
fn check_names(faults: &[Fault]) -> Result<()> {
    let mut names = BTreeSet::new();
    for fault in faults {
        ensure!(names.insert(&fault.name), "{} is there twice", fault.name);
    }
    Ok(())
}

/// The packages whose tests the faults name, and how they are built.
fn needed_packages(faults: &[Fault]) -> BTreeSet<(Build, String)> {
    let needed = faults.iter().flat_map(|fault| {
        let package = |program: &String| (fault.build, package_of(program).to_owned());
        fault.programs.iter().map(package)
    });
    needed.collect()
}

/// The package of a test program.
fn package_of(program: &str) -> &str {
    program
        .split_once('/')
        .map_or(program, |(package, _)| package)
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
        .args(["--lib", "--test", "*"])
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
        if let Some((file, path)) = test_program(&line) {
            let program = format!("{package}/{file}");
            programs.insert((build, program), workspace::root().join(path));
        }
    }
    Ok(())
}

/// The file in `tests/` or `lib`, and the path of what was built from it, of a line like `  Executable
/// tests/loom.rs (target/planted-loom/release/deps/loom-0123456789abcdef)` or `  Executable unittests
/// src/lib.rs (...)`.
fn test_program(line: &str) -> Option<(&str, &str)> {
    let built = line.trim().strip_prefix("Executable ")?.strip_suffix(')')?;
    let (source, path) = built.split_once(".rs (")?;
    let file = match source.strip_prefix("tests/") {
        Some(file) => file.trim_end_matches("/main"),
        None => source.strip_prefix("unittests src/")?,
    };
    Some((file, path))
}

fn list(package: &str, programs: &Programs, log: &mut Log) -> Result<Vec<Fault>> {
    let program = programs
        .get(&(Build::Real, format!("{package}/planted")))
        .with_context(|| format!("{package} has no tests/planted.rs that lists its faults"))?;
    let mut command = Command::new(program);
    command.arg("--nocapture");
    let faults: Vec<Fault> = process::output(command)?
        .lines()
        .filter_map(|line| Fault::parse(package, line.strip_prefix("planted\t")?))
        .collect();
    log.line(&format!("{package}: {} faults", faults.len()))?;
    ensure!(!faults.is_empty(), "there is nothing to plant");
    Ok(faults)
}

impl Fault {
    fn parse(package: &str, line: &str) -> Option<Self> {
        let [name, build, programs, tests, about] = line.split('\t').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(Self {
            name: name.to_owned(),
            build: match build {
                "loom" => Build::Loom,
                _ => Build::Real,
            },
            programs: programs
                .split_whitespace()
                .map(|program| match program.contains('/') {
                    true => program.to_owned(),
                    false => format!("{package}/{program}"),
                })
                .collect(),
            tests: tests.split_whitespace().map(str::to_owned).collect(),
            about: about.to_owned(),
        })
    }
}

/// A test that fails anyway notices nothing.
fn check_without_fault(faults: &[Fault], programs: &Programs, log: &mut Log) -> Result<()> {
    let mut needed: Vec<_> = faults
        .iter()
        .flat_map(|fault| {
            let key = |program: &String| (fault.build, program.clone());
            fault.programs.iter().map(key)
        })
        .collect();
    needed.sort();
    needed.dedup();
    for key in needed {
        let program = programs
            .get(&key)
            .with_context(|| format!("a fault names {}, which was not built", key.1))?;
        let run = test(program, &[], None, SOUND_LIMIT)?;
        let (build, name) = &key;
        log.line(&format!("no fault, {build:?}, {name}: {}", run.end))?;
        ensure!(
            run.end.success() && run.passed > 0,
            "without any fault, {name} ({build:?}): {}, {}",
            run.end,
            run.noticed.join(", ")
        );
    }
    Ok(())
}

fn plant_all(plan: &[(&Fault, &String)], programs: &Programs, log: &mut Log) -> Result<Vec<Run>> {
    let next = AtomicUsize::new(0);
    let runs: Mutex<Vec<Option<Result<Run>>>> = Mutex::new(plan.iter().map(|_| None).collect());
    let log = Mutex::new(log);
    let work = || {
        while let Some((index, (fault, program))) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            plan.get(index).map(|run| (index, *run))
        } {
            let program = &programs[&(fault.build, program.clone())];
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

fn summarize(plan: &[(&Fault, &String)], runs: &[Run]) -> bool {
    let names = plan.iter().map(|(fault, _)| fault.name.as_str());
    let width = names.clone().map(str::len).max().unwrap_or(0);
    let faults = names.collect::<BTreeSet<_>>().len();
    println!("{:<width$}    time  caught by", "fault");
    let mut uncaught = BTreeSet::new();
    for ((fault, program), run) in plan.iter().zip(runs) {
        let caught_by = if run.noticed.is_empty() {
            uncaught.insert(&fault.name);
            let passed = run.passed;
            format!(
                "NOTHING in {program} ({passed} tests passed): {}",
                fault.about
            )
        } else {
            let how = match run.end {
                End::TimedOut(_) => " (hangs)",
                end if end.code().is_none() => " (killed)",
                _ => "",
            };
            format!("{program}: {}{how}", run.noticed.join(", "))
        };
        let took = run.took.as_secs_f32();
        println!("{:<width$} {took:>5.1} s  {caught_by}", fault.name);
    }
    println!(
        "{} caught, {} uncaught",
        faults - uncaught.len(),
        uncaught.len()
    );
    uncaught.is_empty()
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
        let fault = Fault::parse("core", "Name\tloom\tfile a/b\tone two\tDoes it.");
        let fault = fault.expect("five fields");
        assert_eq!((fault.name.as_str(), fault.build), ("Name", Build::Loom));
        assert_eq!(fault.tests, ["one", "two"]);
        assert_eq!(fault.programs, ["core/file", "a/b"]);
        assert!(Fault::parse("core", "Name\tloom\tfile").is_none());
    }

    #[test]
    fn test_programs_are_found_in_what_cargo_says() {
        let line = |source| format!("  Executable {source} (target/deps/x-0123)");
        let cases = [
            ("tests/loom.rs", "loom"),
            ("tests/unit/main.rs", "unit"),
            ("unittests src/lib.rs", "lib"),
        ];
        for (source, file) in cases {
            let found = line(source);
            assert_eq!(test_program(&found), Some((file, "target/deps/x-0123")));
        }
        assert_eq!(test_program("   Compiling x v0.1.0 (/x)"), None);
    }
}
