//! One run of the guest in QEMU: started, limited, recorded.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{self, End, Event, Limits, Stream};
use crate::progress::Progress;
use crate::setup::qemu::Qemu;
use crate::workspace;

/// A run takes about a second; one that hangs is killed after this.
pub const LIMITS: Limits = Limits {
    time: Some(Duration::from_secs(60)),
    output: 16 << 20,
};

/// Lines of console and log shown of a failed run.
const TAIL: usize = 15;

/// What to boot.
pub struct Plan<'a> {
    /// Names the run's files, like `vtd-scenario`.
    pub name: &'a str,
    /// QEMU's name of the architecture.
    pub architecture: &'a str,
    /// QEMU's options for machine and devices.
    pub options: &'a [&'a str],
    /// The kernel's command line.
    pub append: &'a str,
    /// The kernel.
    pub elf: &'a Path,
    /// Trace events to record.
    pub events: &'a [&'a str],
    /// When to give up.
    pub limits: Limits,
}

/// A finished run.
#[derive(Debug)]
pub struct Boot {
    /// How QEMU ended.
    pub end: End,
    /// What the guest wrote to its serial port.
    pub console: String,
    /// What QEMU wrote to standard error.
    pub complaints: String,
    /// QEMU's log: the trace events, and what it says of guest errors.
    pub trace: String,
    /// From start to end.
    pub took: Duration,
    command: String,
    console_file: PathBuf,
    trace_file: PathBuf,
}

impl Boot {
    /// All that helps to understand a failed run: how it ended, last lines, where the rest is, how to repeat it.
    pub fn post_mortem(&self) -> String {
        let mut text = format!("QEMU: {} after {:.1} s", self.end, self.took.as_secs_f32());
        let errors = guest_errors(&self.trace);
        for (title, content) in [
            ("console, last lines", &self.console),
            ("QEMU's standard error", &self.complaints),
            ("QEMU's guest errors", &errors),
        ] {
            let lines: Vec<&str> = content.lines().collect();
            if !lines.is_empty() {
                let _ = write!(text, "\n{title}:");
                for line in &lines[lines.len().saturating_sub(TAIL)..] {
                    let _ = write!(text, "\n  | {line}");
                }
            }
        }
        let _ = write!(
            text,
            "\nwhole console: {}\nwhole trace:   {}\ncommand: {}",
            workspace::relative(&self.console_file),
            workspace::relative(&self.trace_file),
            self.command
        );
        text
    }
}

/// Boots `plan` and waits for its end.
///
/// # Errors
/// When QEMU cannot be started or its files cannot be written. A guest that fails is a [`Boot`], not an error.
pub fn boot(qemu: &Qemu, plan: &Plan<'_>) -> Result<Boot> {
    let folder = workspace::logs().join("qemu");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let console_file = folder.join(format!("{}.console", plan.name));
    let trace_file = folder.join(format!("{}.trace", plan.name));
    // Two runs at once must not write into one file.
    let live_trace = folder.join(format!("{}.{}.trace", plan.name, std::process::id()));
    let command = qemu_command(qemu, plan, &live_trace);
    let shown = process::render(&command);

    let mut progress = Progress::start(&format!("running {}", plan.name));
    let (mut console, mut complaints) = (String::new(), String::new());
    let started = Instant::now();
    let end = process::run(command, plan.limits, &mut |event| match event {
        Event::Line(stream, line) => {
            let text = match stream {
                Stream::Out => &mut console,
                Stream::Err => &mut complaints,
            };
            text.push_str(line);
            text.push('\n');
            progress.line(line);
        }
        Event::Tick => progress.tick(),
    })?;
    let took = started.elapsed();

    fs::write(&console_file, &console)
        .with_context(|| format!("cannot write {}", console_file.display()))?;
    let trace = fs::read(&live_trace).unwrap_or_default();
    let _ = fs::rename(&live_trace, &trace_file);
    Ok(Boot {
        end,
        console,
        complaints,
        trace: String::from_utf8_lossy(&trace).into_owned(),
        took,
        command: shown,
        console_file,
        trace_file,
    })
}

fn qemu_command(qemu: &Qemu, plan: &Plan<'_>, trace: &Path) -> Command {
    let mut command = qemu.command(plan.architecture);
    command.args(plan.options).args([
        "-accel",
        "tcg",
        "-m",
        "512M",
        "-display",
        "none",
        "-nodefaults",
        "-no-reboot",
        "-serial",
        "stdio",
    ]);
    command
        .arg("-kernel")
        .arg(plan.elf)
        .args(["-append", plan.append]);
    for event in plan.events {
        command.args(["-trace", event]);
    }
    command.args(["-d", "guest_errors", "-D"]).arg(trace);
    command
}

/// The lines of QEMU's log that are no trace events of an IOMMU.
fn guest_errors(trace: &str) -> String {
    let is_event = |line: &&str| {
        !["vtd_", "smmu", "riscv_iommu_"]
            .iter()
            .any(|prefix| line.starts_with(prefix))
    };
    trace
        .lines()
        .filter(is_event)
        .collect::<Vec<_>>()
        .join("\n")
}
