//! `cargo xtask conformance`: builds the suite and runs it.

use std::process::Command;

use anyhow::{Context, Result};

use crate::machines::Iommu;
use crate::test::cargo;
use crate::{setup, workspace};

/// What of the suite is wanted.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Only this rig, or every rig whose name begins with this word: `qemu` for QEMU's, `model` for all models; may be given
    /// more than once. Without it, every model.
    #[arg(long, value_name = "RIG")]
    rig: Vec<String>,
    /// Only this case; may be given more than once.
    #[arg(long, value_name = "CASE")]
    case: Vec<String>,
    /// Name rigs and cases and run none.
    #[arg(long)]
    list: bool,
    /// Instead of the cases: random schedules for so many seconds, shared among the rigs.
    #[arg(long, value_name = "SECONDS")]
    soak: Option<u64>,
    /// Soak each rig for the whole time.
    #[arg(long, requires = "soak")]
    each: bool,
    /// The seed of all choices; of a soak, the first.
    #[arg(long)]
    seed: Option<u64>,
    /// Plant each fault of the drivers in turn and tell which case notices it, or, with --soak,
    /// whether random schedules of so many seconds do.
    #[arg(long)]
    planted: bool,
}

/// Runs it; true if nothing is red.
///
/// # Errors
/// When cargo cannot be started.
pub fn run(options: &Options) -> Result<bool> {
    if options.rig.iter().any(|rig| rig.starts_with("qemu")) {
        setup::qemu::find_or_download(&setup::Cache::open()?)?;
    }
    let status = command(options).status().context("cannot start cargo")?;
    Ok(status.success())
}

/// Tells the story on the models of `iommus`; true if every promise held.
///
/// # Errors
/// When cargo cannot be started.
pub fn demo(iommus: &[Iommu]) -> Result<bool> {
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--package",
        "shootdown-conformance",
        "--",
        "--demo",
    ]);
    for iommu in iommus {
        command.args(["--rig", &iommu.to_string()]);
    }
    let status = command.status().context("cannot start cargo")?;
    Ok(status.success())
}

/// The command that runs every case on QEMU's rigs; a QEMU was set up.
pub fn on_qemu() -> Command {
    command(&Options {
        rig: vec!["qemu".to_owned()],
        ..Options::default()
    })
}

/// The command that does it.
pub fn command(options: &Options) -> Command {
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--release",
        "--package",
        "shootdown-conformance",
        "--",
    ]);
    for rig in &options.rig {
        command.args(["--rig", rig]);
    }
    for case in &options.case {
        command.args(["--case", case]);
    }
    if let Some(seconds) = options.soak {
        command.args(["--soak", &seconds.to_string()]);
    }
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    for (wanted, flag) in [
        (options.list, "--list"),
        (options.each, "--each"),
        (options.planted, "--planted"),
    ] {
        if wanted {
            command.arg(flag);
        }
    }
    // An overflow is a finding, with or without a fault.
    command.env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
    if options.planted {
        command
            .env("RUSTFLAGS", "--cfg planted")
            .env("CARGO_TARGET_DIR", workspace::planted_target("planted"));
    }
    command
}
