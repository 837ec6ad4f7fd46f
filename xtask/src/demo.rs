//! The scenario and its control run on each machine, told a line a step.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::boot::{Boot, LIMITS, Plan, boot};
use crate::build;
use crate::guest::{Cost, Told, Transcript};
use crate::machines::{BAD_MACHINES, BadMachine, Iommu, Kind, Machine};
use crate::setup::Setup;
use crate::setup::qemu::Qemu;

/// How one IOMMU did.
struct Summary {
    iommu: Iommu,
    scenario: Result<Held>,
    control: Result<Held>,
}

/// A run in which all held.
struct Held {
    steps: usize,
    cost: Cost,
    /// Commands on which QEMU and the guest agree.
    compared: usize,
}

/// Runs scenario and control on QEMU for each of `iommus` and writes the story to `out`.
///
/// # Errors
/// When set-up or writing fails, or a guest does not build.
/// Returns whether everything held; what did not is part of the story.
pub fn on_qemu(setup: &Setup, iommus: &[Iommu], out: &mut dyn Write) -> Result<bool> {
    let elves = build_guests(setup, iommus)?;
    let mut summaries = Vec::new();
    for (&iommu, elf) in iommus.iter().zip(&elves) {
        let mut tell_run = |kind| tell(&setup.qemu, Machine::of(iommu), kind, elf, out);
        summaries.push(Summary {
            iommu,
            scenario: tell_run(Kind::Scenario)?,
            control: tell_run(Kind::Control)?,
        });
    }
    summarize(&summaries, out)?;
    Ok(summaries
        .iter()
        .all(|summary| summary.scenario.is_ok() && summary.control.is_ok()))
}

/// Boots every machine that the guest must refuse and writes what it said to `out`.
///
/// # Errors
/// As [`on_qemu`]; returns whether each was refused with the expected words.
pub fn refusals(setup: &Setup, out: &mut dyn Write) -> Result<bool> {
    writeln!(out, "\nMachines that do not suffice")?;
    let mut all = true;
    for bad in &BAD_MACHINES {
        let machine = Machine::of(bad.iommu);
        let elf = build::guest(&setup.rust_source, machine)?;
        match refusal(&setup.qemu, machine, bad, &elf) {
            Ok(error) => writeln!(out, "  refused  {:<26} {error}", bad.name)?,
            Err(problem) => {
                all = false;
                writeln!(out, "  FAILED   {:<26} {problem:#}", bad.name)?;
            }
        }
    }
    Ok(all)
}

fn build_guests(setup: &Setup, iommus: &[Iommu]) -> Result<Vec<PathBuf>> {
    iommus
        .iter()
        .map(|&iommu| build::guest(&setup.rust_source, Machine::of(iommu)))
        .collect()
}

/// Runs one and tells it. The outer error is of writing or starting, the inner one of the run itself.
fn tell(
    qemu: &Qemu,
    machine: &Machine,
    kind: Kind,
    elf: &Path,
    out: &mut dyn Write,
) -> Result<Result<Held>> {
    let reader = machine.iommu.commands();
    let name = format!("{}-{}", machine.iommu, kind.word());
    let run = boot(
        qemu,
        &Plan {
            name: &name,
            architecture: machine.architecture,
            options: &machine.options(),
            append: &format!("run={}", kind.word()),
            elf,
            events: reader.events,
            limits: LIMITS,
        },
    )?;
    let purpose = match kind {
        Kind::Scenario => "scenario: shared virtual addressing from bind to exit",
        Kind::Control => "control: the same with the invalidation left out",
    };
    writeln!(out, "\n{} {} - {purpose}", machine.title, qemu.version())?;
    let held = Transcript::parse(&run.console).and_then(|transcript| {
        tell_story(&transcript, out)?;
        judge(machine, kind, &run, &transcript)
    });
    match &held {
        Ok(held) => writeln!(
            out,
            "  held in {:.1} s; QEMU received the {} commands that the guest says it sent",
            run.took.as_secs_f32(),
            held.compared
        )?,
        Err(problem) => writeln!(out, "  FAILED: {problem:#}\n{}", indent(&run.post_mortem()))?,
    }
    Ok(held)
}

fn tell_story(transcript: &Transcript, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "  commands doorbells waits")?;
    for told in &transcript.story {
        match told {
            Told::Step(step) => {
                let Cost {
                    commands,
                    doorbells,
                    waits,
                } = step.cost;
                writeln!(
                    out,
                    "  {commands:>8} {doorbells:>9} {waits:>5}  {}",
                    step.sentence
                )?;
            }
            Told::Note(text) => writeln!(out, "  {:>24}  {text}", "")?,
        }
    }
    for error in &transcript.errors {
        writeln!(out, "  error: {error}")?;
    }
    Ok(())
}

/// Whether the run is what it should be: begun and ended as asked, with the right status, and believed by QEMU's trace.
fn judge(machine: &Machine, kind: Kind, run: &Boot, transcript: &Transcript) -> Result<Held> {
    ensure!(
        transcript.errors.is_empty(),
        "the guest reported: {}",
        transcript.errors.join("; ")
    );
    let asked = format!("{} {}", machine.iommu, kind.word());
    match transcript.begin.as_deref() {
        Some(begin) => ensure!(
            begin == asked,
            "asked for `{asked}`, the guest began `{begin}`"
        ),
        None => bail!("the guest wrote no @begin"),
    }
    match transcript.end {
        Some(true) => {}
        Some(false) => bail!("the guest says that something did not hold"),
        None => bail!("the guest did not come to its @end"),
    }
    let code = run.end.code();
    ensure!(
        code == Some(machine.success),
        "the guest says ok, but QEMU's end is not its success (exit status {}): {}",
        machine.success,
        run.end
    );
    for id in kind.must_show() {
        ensure!(
            transcript.steps().any(|step| step.id == *id),
            "the guest did not come to step `{id}`"
        );
    }
    let compared = machine
        .iommu
        .commands()
        .compare(&transcript.sent, &run.trace)
        .context("QEMU's trace contradicts the guest")?;
    ensure!(compared > 0, "no command reached the IOMMU");
    for step in transcript.steps() {
        ensure!(
            step.sent == step.cost.commands,
            "step `{}` counts {} commands, but {} were sent since the step before",
            step.id,
            step.cost.commands,
            step.sent
        );
    }
    Ok(Held {
        steps: transcript.steps().count(),
        cost: transcript.cost(),
        compared,
    })
}

/// Boots `bad`; the guest's matching `@error` if it stopped as it should.
fn refusal(qemu: &Qemu, machine: &Machine, bad: &BadMachine, elf: &Path) -> Result<String> {
    let run = boot(
        qemu,
        &Plan {
            name: bad.name,
            architecture: machine.architecture,
            options: &bad.options(),
            append: "run=scenario",
            elf,
            events: machine.iommu.commands().events,
            limits: LIMITS,
        },
    )?;
    judge_refusal(machine, bad, &run).with_context(|| run.post_mortem())
}

fn judge_refusal(machine: &Machine, bad: &BadMachine, run: &Boot) -> Result<String> {
    let transcript = Transcript::parse(&run.console)?;
    ensure!(
        run.end.code() == Some(machine.failure),
        "the guest must report failure (exit status {}), but: {}",
        machine.failure,
        run.end
    );
    ensure!(transcript.end != Some(true), "the guest says that all held");
    let matching = transcript
        .errors
        .iter()
        .find(|error| error.contains(bad.expected));
    matching.cloned().with_context(|| {
        format!(
            "no @error says `{}`; there are: {:?}",
            bad.expected, transcript.errors
        )
    })
}

fn summarize(summaries: &[Summary], out: &mut dyn Write) -> Result<()> {
    writeln!(out, "\nSummary")?;
    for summary in summaries {
        let scenario = match &summary.scenario {
            Ok(Held { steps, cost, .. }) => format!(
                "scenario held: {steps} steps, {} commands, {} doorbells, {} waits",
                cost.commands, cost.doorbells, cost.waits
            ),
            Err(problem) => format!("scenario FAILED: {}", first_line(problem)),
        };
        let control = match &summary.control {
            Ok(_) => "control: without invalidation the stale access went through".to_owned(),
            Err(problem) => format!("control FAILED: {}", first_line(problem)),
        };
        writeln!(
            out,
            "  {:<7} {scenario}\n  {:<7} {control}",
            summary.iommu, ""
        )?;
    }
    Ok(())
}

fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}")
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::process::Limits;

    const CONSOLE: &str = "\
@begin riscv scenario
@sent 0000000000000001 0000000000000000
@sent 0000abcd00000402 0000000020080000
@step unmap | the translation is gone | commands=2 doorbells=1 waits=1
@step protect | refused | commands=0 doorbells=0 waits=0
@step exit | refused | commands=0 doorbells=0 waits=0
@step reuse | reused | commands=0 doorbells=0 waits=0
@end ok";
    const TRACE: &str = "\
riscv_iommu_cmd (null): command 0x1 0x0
riscv_iommu_cmd (null): command 0xabcd00000402 0x20080000";

    /// Runs a shell script in place of QEMU. `$trace` is the file that QEMU would trace into.
    fn run_fake(name: &str, script: &str) -> Result<Boot> {
        let folder = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        std::os::unix::fs::symlink("/bin/sh", folder.join("qemu-system-riscv64"))?;
        let script = format!("for last; do trace=$last; done\n{script}\n");
        let run = boot(
            &Qemu::unchecked(folder.join("qemu-system-").into()),
            &Plan {
                name: &format!("xtask-test-{name}"),
                architecture: "riscv64",
                options: &["-c", &script],
                append: "run=scenario",
                elf: Path::new("kernel"),
                events: &[],
                limits: Limits {
                    time: Some(Duration::from_secs(2)),
                    output: 1 << 20,
                },
            },
        );
        std::fs::remove_dir_all(&folder)?;
        run
    }

    fn judge_fake(name: &str, console: &str, trace: &str, status: i32) -> Result<Held> {
        let script =
            format!("cat <<'X'\n{console}\nX\ncat >\"$trace\" <<'X'\n{trace}\nX\nexit {status}");
        let run = run_fake(name, &script)?;
        let transcript = Transcript::parse(&run.console)?;
        judge(Machine::of(Iommu::Riscv), Kind::Scenario, &run, &transcript)
    }

    fn problem(name: &str, console: &str, trace: &str, status: i32) -> String {
        let judged = judge_fake(name, console, trace, status);
        format!("{:#}", judged.err().expect("the run must fail"))
    }

    #[test]
    fn a_run_that_all_agree_on_holds() {
        let held = judge_fake("holds", CONSOLE, TRACE, 0).expect("all agree");
        assert_eq!((held.steps, held.compared, held.cost.commands), (4, 2, 2));
    }

    #[test]
    fn what_does_not_fit_fails_the_run() {
        let cases = [
            ("status", CONSOLE.to_owned(), TRACE, 1, "exit status 1"),
            (
                "begin",
                CONSOLE.replace("riscv sc", "vtd sc"),
                TRACE,
                0,
                "asked for `riscv scenario`",
            ),
            (
                "error",
                CONSOLE.replace("@end", "@error lost\n@end"),
                TRACE,
                0,
                "lost",
            ),
            (
                "failed",
                CONSOLE.replace("@end ok", "@end failed"),
                TRACE,
                0,
                "did not hold",
            ),
            (
                "broken-off",
                CONSOLE.replace("@end ok", ""),
                TRACE,
                0,
                "did not come to its @end",
            ),
            (
                "count",
                CONSOLE.replace("commands=2", "commands=3"),
                TRACE,
                0,
                "counts 3 commands",
            ),
            ("trace", CONSOLE.to_owned(), "", 0, "QEMU received 0"),
            ("silence", "OpenSBI".to_owned(), TRACE, 0, "no @begin"),
        ];
        for (name, console, trace, status, expected) in cases {
            let message = problem(name, &console, trace, status);
            assert!(message.contains(expected), "{name}: {message}");
        }
    }

    #[test]
    fn a_hanging_run_is_killed_and_described() {
        let run =
            run_fake("hang", "echo last words; echo a warning >&2; sleep 1000").expect("starts");
        let text = run.post_mortem();
        for expected in [
            "not finished after 2 s",
            "last words",
            "a warning",
            "command: ",
            "qemu-system-riscv64",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_refusal_must_be_a_failure_with_the_right_words() {
        let bad = BAD_MACHINES.iter().find(|bad| bad.iommu == Iommu::Riscv);
        let bad = bad.expect("there is one");
        let right = format!("echo '@error no {} here'", bad.expected);
        let judged = |name: &str, script: &str| {
            let run = run_fake(name, script).expect("starts");
            judge_refusal(Machine::of(Iommu::Riscv), bad, &run)
        };
        assert!(judged("refused", &format!("{right}; echo @end failed; exit 1")).is_ok());
        assert!(judged("refused-0", &format!("{right}; exit 0")).is_err());
        assert!(judged("refused-crash", &format!("{right}; kill -9 $$")).is_err());
        assert!(judged("refused-other", "echo '@error tired'; exit 1").is_err());
        assert!(judged("refused-silent", "exit 1").is_err());
        assert!(judged("refused-ok", &format!("{right}; echo @end ok; exit 1")).is_err());
    }
}
