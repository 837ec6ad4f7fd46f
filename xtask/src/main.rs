//! Every task a person runs in this repository: `cargo xtask --help`.

// A host program has std; only the library crates must not need it.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

mod bench;
mod boot;
mod build;
mod conformance;
mod demo;
mod fuzz;
mod guest;
mod machines;
mod process;
mod progress;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use machines::{Iommu, MACHINES};

/// Every task a person runs in Shootdown's repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show shared virtual addressing at work: run the scenario on each IOMMU and tell it, a line a step.
    #[command(after_help = "\
After the scenario comes a control run with the invalidation left out: the stale access must then be seen to succeed.
On the models nothing else is needed; for QEMU, what is needed is found or downloaded once into target/setup/.

Examples:
  cargo xtask demo
  cargo xtask demo vtd
  cargo xtask demo --on qemu
  SHOOTDOWN_QEMU=/opt/qemu/bin cargo xtask demo --on qemu riscv")]
    Demo {
        /// What plays the hardware.
        #[arg(long, value_enum, default_value_t = Rig::Model)]
        on: Rig,
        /// Which IOMMU.
        #[arg(value_enum, default_value_t = Which::All)]
        iommu: Which,
    },
    /// Check everything, stage by stage.
    #[command(after_help = "\
Ends with `N passed, N failed`, stages counted, and exit status 0 only if none failed.
The output of each stage is kept in target/xtask-logs/.

Examples:
  cargo xtask test
  cargo xtask test --list
  cargo xtask test --only unit --only loom")]
    Test(test::Options),
    /// Run the conformance suite: every case on every rig, against an oracle of its own.
    #[command(after_help = "\
Prints a matrix, cases by rigs: green, RED with the history around the failure, or skip with the reason. Each case runs once with
hardware that does everything at once, and with several seeds on hardware that takes every freedom its specification gives.

Examples:
  cargo xtask conformance
  cargo xtask conformance --rig riscv --case copy-on-write
  cargo xtask conformance --soak 600
  cargo xtask conformance --rig smmuv3 --soak 10 --seed 4
  cargo xtask conformance --planted
  cargo xtask conformance --planted --soak 20")]
    Conformance(conformance::Options),
    /// Measure the notifier core or the invalidation engine beside its peers, in one process.
    #[command(after_help = "\
Prints the targets with what was measured, then the time of every peer. Only ratios within one run carry over to another machine;
`--check` judges those and the exact counts, for which it needs valgrind and binutils.

Examples:
  cargo xtask bench notifier
  cargo xtask bench notifier --check
  cargo xtask bench notifier --docs
  cargo xtask bench invalidate --check")]
    Bench(bench::Options),
    /// Feed hostile bytes to the queues, tables and parsers that have to bear them.
    #[command(after_help = "\
Needs a nightly toolchain (SHOOTDOWN_NIGHTLY names it if it is not called nightly); cargo-fuzz is installed into target/setup/
if it is missing. New inputs that reach new code go into fuzz/corpus/; an input that breaks a promise is shown, with what to do.

Examples:
  cargo xtask fuzz --list
  cargo xtask fuzz dmar --seconds 300
  cargo xtask fuzz --smoke
  cargo xtask fuzz --coverage")]
    Fuzz(fuzz::Options),
    /// Find or download what the other tasks need, and say what is used.
    #[command(after_help = "\
QEMU is $SHOOTDOWN_QEMU (a folder, or a path up to and including `qemu-system-`), else the one on PATH if it is 11.1 or newer,
else Debian's packages, unpacked without root into target/setup/. Rust's core and alloc are those of the toolchain, else Debian's
rust-src of the same version.

Example:
  cargo xtask setup")]
    Setup,
}

/// What plays the hardware in the demo.
#[derive(Clone, Copy, ValueEnum)]
enum Rig {
    /// Software models of the IOMMUs and of PCIe devices with TLBs. Needs nothing.
    Model,
    /// QEMU's IOMMUs, with the drivers inside a bare-metal kernel.
    Qemu,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Which {
    Vtd,
    Smmuv3,
    Riscv,
    All,
}

impl Which {
    fn iommus(self) -> Vec<Iommu> {
        match self {
            Self::Vtd => vec![Iommu::Vtd],
            Self::Smmuv3 => vec![Iommu::Smmuv3],
            Self::Riscv => vec![Iommu::Riscv],
            Self::All => MACHINES.iter().map(|machine| machine.iommu).collect(),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match process::kill_children_on_signals().and_then(|()| perform(arguments.task)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does `task`; false if it was done and something did not hold.
fn perform(task: Task) -> Result<bool> {
    match task {
        Task::Demo {
            on: Rig::Model,
            iommu,
        } => conformance::demo(&iommu.iommus()),
        Task::Demo {
            on: Rig::Qemu,
            iommu,
        } => demo::on_qemu(&setup::prepare()?, &iommu.iommus(), &mut std::io::stdout()),
        Task::Test(options) => test::run(&options),
        Task::Conformance(options) => conformance::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Setup => {
            let setup = setup::prepare()?;
            println!("QEMU {} from {}", setup.qemu.version(), setup.qemu.origin());
            println!("core and alloc from {}", setup.rust_source.origin());
            Ok(true)
        }
    }
}
