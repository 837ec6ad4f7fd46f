//! `cargo xtask test`: every check, in stages.

mod links;
mod planted;
mod stages;

pub use stages::cargo;

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{self, End, Event, Limits};
use crate::progress::Progress;
use crate::workspace;
use stages::STAGES;

/// Lines of a failed stage's log that are shown.
const TAIL: usize = 40;

/// What of the test run is wanted.
#[derive(clap::Args)]
pub struct Options {
    /// Run only this stage; may be given more than once.
    #[arg(long, value_name = "STAGE", value_parser = stages::names())]
    only: Vec<String>,
    /// Name the stages and run none.
    #[arg(long)]
    list: bool,
    /// Stop at the first stage that fails.
    #[arg(long)]
    fail_fast: bool,
    /// Instead of the stages: plant each of this package's faults in turn, or of every package's
    /// without a name, and tell which test notices it. One that no test notices, or a test that
    /// fails without any, is a failure.
    #[arg(long, value_name = "PACKAGE", num_args = 0..=1, default_missing_value = "all", value_parser = planted::choices(), conflicts_with_all = ["only", "list", "fail_fast"])]
    planted: Option<String>,
}

/// One group of checks.
pub struct Stage {
    /// One word, also the log's name.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// Does it; an error is a failed check.
    pub run: fn(&mut Log) -> Result<()>,
}

/// How a stage went.
struct Outcome {
    stage: &'static Stage,
    took: Duration,
    passed: bool,
}

/// Runs the wanted stages and prints what came of them; true if all passed.
///
/// # Errors
/// When logs cannot be written, or faults cannot be planted.
pub fn run(options: &Options) -> Result<bool> {
    if let Some(package) = &options.planted {
        return planted::run(&planted::packages(package));
    }
    let wanted = |stage: &&Stage| {
        options.only.is_empty() || options.only.iter().any(|name| name == stage.name)
    };
    if options.list {
        for stage in STAGES.iter().filter(wanted) {
            println!("{:<8} {}", stage.name, stage.about);
        }
        return Ok(true);
    }
    let mut outcomes = Vec::new();
    for stage in STAGES.iter().filter(wanted) {
        let outcome = run_stage(stage)?;
        let stop = options.fail_fast && !outcome.passed;
        outcomes.push(outcome);
        if stop {
            break;
        }
    }
    Ok(summarize(&outcomes))
}

fn run_stage(stage: &'static Stage) -> Result<Outcome> {
    let started = Instant::now();
    let mut log = Log::create(stage.name)?;
    let result = (stage.run)(&mut log);
    let Log {
        path,
        highlights,
        mut file,
        progress,
        ..
    } = log;
    drop(progress);
    let took = started.elapsed();
    let passed = result.is_ok();
    println!(
        "{} {:<8} {:>6.1} s  {}",
        if passed { "passed" } else { "FAILED" },
        stage.name,
        took.as_secs_f32(),
        stage.about
    );
    for line in highlights {
        println!("    {line}");
    }
    if let Err(error) = result {
        writeln!(file, "{error:#}")?;
        show_tail(&path)?;
    }
    Ok(Outcome {
        stage,
        took,
        passed,
    })
}

fn show_tail(path: &PathBuf) -> Result<()> {
    let log = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        println!("  | {line}");
    }
    println!("  whole log: {}", workspace::relative(path));
    Ok(())
}

fn summarize(outcomes: &[Outcome]) -> bool {
    println!("\nstage      time     result");
    for Outcome {
        stage,
        took,
        passed,
    } in outcomes
    {
        let result = if *passed { "passed" } else { "FAILED" };
        println!("{:<8} {:>6.1} s   {result}", stage.name, took.as_secs_f32());
    }
    let passed = outcomes.iter().filter(|outcome| outcome.passed).count();
    let failed = outcomes.len() - passed;
    println!("{passed} passed, {failed} failed");
    failed == 0
}

/// Where a stage's output goes: its file, and the progress line.
pub struct Log {
    path: PathBuf,
    file: File,
    progress: Progress,
    /// Lines worth showing even of a stage that passed.
    highlights: Vec<String>,
    /// What the next command's lines must begin with to be shown.
    highlighted: &'static [&'static str],
    /// A written line whose end has not come yet.
    unfinished: Vec<u8>,
}

impl Log {
    fn create(name: &str) -> Result<Self> {
        let folder = workspace::logs();
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(format!("{name}.log"));
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            path,
            file,
            progress: Progress::start(name),
            highlights: Vec::new(),
            highlighted: &[],
            unfinished: Vec::new(),
        })
    }

    /// Its file, as a person would type it.
    fn shown(&self) -> String {
        workspace::relative(&self.path)
    }

    /// Lets lines that begin with one of `prefixes` be shown even if the stage passes.
    pub fn highlight(&mut self, prefixes: &'static [&'static str]) {
        self.highlighted = prefixes;
    }

    /// Writes one line.
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.progress.line(line);
        if self
            .highlighted
            .iter()
            .any(|prefix| line.trim_start().starts_with(prefix))
        {
            self.highlights.push(line.trim_end().to_owned());
        }
        writeln!(self.file, "{line}")
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Runs `command` and records its output.
    ///
    /// # Errors
    /// When it cannot be started or does not end with status 0.
    pub fn run(&mut self, command: std::process::Command) -> Result<()> {
        let shown = process::render(&command);
        self.line(&format!("$ {shown}"))?;
        let mut written = Ok(());
        let end: End = process::run(command, Limits::TOOL, &mut |event| match event {
            Event::Line(_, line) => {
                if written.is_ok() {
                    written = self.line(line);
                }
            }
            Event::Tick => self.progress.tick(),
        })?;
        written?;
        if !end.success() {
            bail!("{end}: {shown}");
        }
        Ok(())
    }
}

/// Lets what is written elsewhere be a stage's output.
impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.unfinished.extend(part);
            if part.ends_with(b"\n") {
                let line =
                    String::from_utf8_lossy(&std::mem::take(&mut self.unfinished)).into_owned();
                self.line(line.trim_end()).map_err(std::io::Error::other)?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
