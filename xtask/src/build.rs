//! Builds for the bare-metal targets.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::machines::Machine;
use crate::process::{self, Event, Limits};
use crate::progress::Progress;
use crate::setup::rust_src::RustSource;
use crate::workspace;

/// The guest kernel's package and binary.
const GUEST: &str = "shootdown-guest";

/// Lines of a failed build that are shown.
const TAIL: usize = 40;

/// Builds the guest kernel for `machine` and returns its ELF file.
///
/// # Errors
/// When it does not compile; the message carries the compiler's last words.
pub fn guest(source: &RustSource, machine: &Machine) -> Result<PathBuf> {
    let command = cargo(source, machine.target, &["-p", GUEST, "--bin", GUEST]);
    let mut progress = Progress::start(&format!("building the guest for {}", machine.target));
    let shown = process::render(&command);
    let mut lines = Vec::new();
    let end = process::run(command, Limits::TOOL, &mut |event| match event {
        Event::Line(_, line) => {
            progress.line(line);
            lines.push(line.to_owned());
        }
        Event::Tick => progress.tick(),
    })?;
    if !end.success() {
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        bail!(
            "the guest does not build for {} ({end})\n{}\ncommand: {shown}",
            machine.target,
            tail.join("\n")
        );
    }
    let folder = workspace::bare_metal_target().join(machine.target);
    Ok(folder.join("release").join(GUEST))
}

/// `cargo build --release` for a bare-metal `target`, in a target folder of its own.
pub fn cargo(source: &RustSource, target: &str, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace::root())
        .env("CARGO_TARGET_DIR", workspace::bare_metal_target())
        // Flags meant for the host do not fit these targets.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["build", "--release"])
        .args(arguments);
    source.apply(&mut cargo, target);
    cargo
}
