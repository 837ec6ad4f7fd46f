//! Cargo's own tools: found on PATH, or installed once into `target/setup/`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use super::Cache;
use crate::process::{self, Event, Limits};
use crate::progress::Progress;

/// The program `name`, from PATH or from crates.io in the given version.
///
/// # Errors
/// When it is not there and cannot be installed.
pub fn find_or_install(name: &str, version: &str) -> Result<PathBuf> {
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|program| program.is_file())
    });
    if let Some(program) = on_path {
        return Ok(program);
    }
    let cache = Cache::open()?;
    let folder = cache.item(&format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install
        .args(["install", name, "--version", version, "--locked", "--root"])
        .arg(&folder)
        .env("CARGO_TARGET_DIR", cache.item("tools"));
    let mut progress = Progress::start(&format!("install {name}"));
    let shown = process::render(&install);
    let end = process::run(install, Limits::TOOL, &mut |event| match event {
        Event::Line(_, line) => progress.line(line),
        Event::Tick => progress.tick(),
    })?;
    ensure!(
        end.success() && program.is_file(),
        "`{shown}` failed ({end}); install {name} by hand and put it on PATH"
    );
    Ok(program)
}
