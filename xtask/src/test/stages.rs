//! The stages, in the order in which they run: cheap ones first.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Log, Stage, links};
use crate::machines::MACHINES;
use crate::{build, demo, fuzz, setup, workspace};

/// The crates that kernels embed.
pub const LIBRARIES: [&str; 5] = [
    "core-notifier",
    "iommu-core",
    "iommu-vtd",
    "iommu-smmuv3",
    "iommu-riscv",
];

/// Involuntary context switches in one execution; loom's documentation says that 2 or 3 find most bugs.
pub const LOOM_PREEMPTIONS: &str = "3";

/// Every stage.
pub static STAGES: [Stage; 9] = [
    Stage {
        name: "format",
        about: "the code is formatted as rustfmt does it",
        run: |log| log.run(cargo(&["fmt", "--all", "--check"])),
    },
    Stage {
        name: "clippy",
        about: "no warning from rustc or clippy, tests and loom build included",
        run: clippy,
    },
    Stage {
        name: "docs",
        about: "the API documentation builds without warning; links in docs/ and the READMEs resolve",
        run: docs,
    },
    Stage {
        name: "no-std",
        about: "the library crates build for the three bare-metal targets",
        run: no_std,
    },
    Stage {
        name: "unit",
        about: "unit, integration and documentation tests of every crate",
        run: unit,
    },
    Stage {
        name: "loom",
        about: "the notifier core under every interleaving that loom explores, both modes",
        run: loom,
    },
    Stage {
        name: "fuzz",
        about: "every fuzz target on its corpus and some inputs more",
        run: fuzz,
    },
    Stage {
        name: "conformance",
        about: "every case of the conformance suite on the models of all three IOMMUs",
        run: conformance,
    },
    Stage {
        name: "qemu",
        about: "QEMU's IOMMUs driven from inside (scenario, control run, refused machines) and from outside (the suite)",
        run: qemu,
    },
];

/// The stages' names, for the command line.
pub fn names() -> Vec<&'static str> {
    STAGES.iter().map(|stage| stage.name).collect()
}

/// `cargo`, in the repository.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()).args(arguments);
    cargo
}

/// `cargo` with loom's primitives in place of the real ones.
fn cargo_loom(arguments: &[&str]) -> Command {
    let mut cargo = cargo(arguments);
    cargo
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", workspace::loom_target())
        .env("LOOM_MAX_PREEMPTIONS", LOOM_PREEMPTIONS);
    cargo
}

fn clippy(log: &mut Log) -> Result<()> {
    const DENY: [&str; 3] = ["--", "-D", "warnings"];
    let with = |arguments: &[&'static str]| [arguments, &DENY].concat();
    let plain = log.run(cargo(&with(&["clippy", "--workspace", "--all-targets"])));
    log.run(cargo_loom(&with(&[
        "clippy",
        "--package",
        "core-notifier",
        "--package",
        "iommu-core",
        "--all-targets",
    ])))?;
    plain
}

fn docs(log: &mut Log) -> Result<()> {
    let mut rustdoc = cargo(&["doc", "--workspace", "--no-deps"]);
    rustdoc.env("RUSTDOCFLAGS", "-D warnings");
    let documented = log.run(rustdoc);
    let report = links::check(&workspace::root())?;
    log.line(&format!("{} links on {} pages", report.links, report.pages))?;
    for broken in &report.broken {
        log.line(broken)?;
    }
    documented?;
    ensure!(
        report.broken.is_empty(),
        "{} links do not resolve",
        report.broken.len()
    );
    Ok(())
}

fn no_std(log: &mut Log) -> Result<()> {
    let setup = setup::prepare()?;
    let packages: Vec<&str> = LIBRARIES
        .iter()
        .flat_map(|name| ["--package", name])
        .collect();
    for machine in &MACHINES {
        log.run(build::cargo(&setup.rust_source, machine.target, &packages))?;
    }
    Ok(())
}

fn unit(log: &mut Log) -> Result<()> {
    log.highlight(&[
        "Running ",
        "Doc-tests ",
        "test result:",
        // The invariants of the notifier core carry their numbers, `n01_` to `n31_`.
        "test devices::n",
        "test intervals::n",
        "test lifetime::n",
        "test passes::n",
        "test sections::n",
    ]);
    log.run(cargo(&["test", "--workspace", "--no-fail-fast"]))
}

fn loom(log: &mut Log) -> Result<()> {
    log.highlight(&["test result:"]);
    let notifier = ["--package", "core-notifier", "--test", "*loom"];
    let ring = ["--package", "iommu-core", "--lib", "loom"];
    let mut run = |scenes: &[&str]| {
        let arguments = [&["test", "--release"], scenes].concat();
        log.run(cargo_loom(&arguments))
    };
    run(&notifier).and(run(&ring))
}

fn fuzz(log: &mut Log) -> Result<()> {
    log.highlight(&[""]);
    ensure!(fuzz::smoke(log)?, "a fuzz target found something");
    Ok(())
}

fn conformance(log: &mut Log) -> Result<()> {
    log.highlight(&["RED", "skip ", "shows:"]);
    log.run(crate::conformance::command(
        &crate::conformance::Options::default(),
    ))
}

fn qemu(log: &mut Log) -> Result<()> {
    let setup = setup::prepare().context("set-up failed")?;
    log.highlight(&[
        "vtd ", "smmuv3 ", "riscv ", "control", "refused", "FAILED", "RED", "shows:",
    ]);
    let iommus = MACHINES.each_ref().map(|machine| machine.iommu);
    let held = demo::on_qemu(&setup, &iommus, log)?;
    let refused = demo::refusals(&setup, log)?;
    // Those tests of the crates that need a QEMU, and the suite.
    let machines = log.run(cargo(&[
        "test",
        "--package",
        "shootdown-qemu-host",
        "--package",
        "shootdown-conformance",
        "--",
        "--ignored",
    ]));
    let suite = log.run(crate::conformance::on_qemu());
    // Device-TLB invalidations that are left out or too early, planted.
    let mut planted = cargo(&[
        "test",
        "--release",
        "--package",
        "shootdown-conformance",
        "--test",
        "qemu_planted",
        "--",
        "--ignored",
    ]);
    planted
        .env("RUSTFLAGS", "--cfg planted")
        .env("CARGO_TARGET_DIR", workspace::planted_target("planted"));
    let planted = log.run(planted);
    ensure!(held, "a run in QEMU did not hold");
    ensure!(
        refused,
        "a machine that does not suffice was not refused as it should be"
    );
    machines.and(suite).and(planted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_good_for_files() {
        let mut names = names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STAGES.len());
        let plain = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(names.iter().all(|name| name.chars().all(plain)));
    }
}
