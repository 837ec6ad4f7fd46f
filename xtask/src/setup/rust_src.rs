//! `core` and `alloc` for bare-metal targets: installed with the toolchain, or built from the sources of exactly this compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Cache;
use crate::machines::MACHINES;
use crate::process;

/// Where builds for bare-metal targets take `core` and `alloc` from.
#[derive(Debug, Clone)]
pub struct RustSource {
    sysroot: PathBuf,
    library: Library,
}

#[derive(Debug, Clone)]
enum Library {
    /// Every target is installed; no sources are needed.
    NotNeeded,
    /// The toolchain's own `rust-src` component, which cargo finds by itself.
    Toolchain,
    /// The `library` folder of Debian's rust-src package.
    Unpacked(PathBuf),
}

impl RustSource {
    /// Adds to a `cargo build` what building for `target` takes.
    pub fn apply(&self, cargo: &mut Command, target: &str) {
        cargo.args(["--target", target]);
        if installed(&self.sysroot, target) {
            return;
        }
        cargo
            // -Z options on a stable compiler.
            .env("RUSTC_BOOTSTRAP", "1")
            .args([
                "-Zbuild-std=core,alloc",
                "-Zbuild-std-features=compiler-builtins-mem",
            ]);
        if let Library::Unpacked(library) = &self.library {
            cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
        }
    }

    /// Where it is from, for a person.
    pub fn origin(&self) -> String {
        match &self.library {
            Library::NotNeeded => "installed targets".to_owned(),
            Library::Toolchain => "the toolchain's rust-src".to_owned(),
            Library::Unpacked(library) => crate::workspace::relative(library),
        }
    }
}

/// Finds the sources, or downloads Debian's into `cache` if a target needs them.
///
/// # Errors
/// When there is no rustc, or Debian has no sources of its version.
pub fn find_or_download(cache: &Cache) -> Result<RustSource> {
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
    let library = if MACHINES
        .iter()
        .all(|machine| installed(&sysroot, machine.target))
    {
        Library::NotNeeded
    } else if sysroot
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .exists()
    {
        Library::Toolchain
    } else {
        Library::Unpacked(from_debian(cache)?)
    };
    Ok(RustSource { sysroot, library })
}

fn installed(sysroot: &Path, target: &str) -> bool {
    sysroot
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .exists()
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(arguments);
    process::output(command)
}

fn from_debian(cache: &Cache) -> Result<PathBuf> {
    let version = release(&rustc(&["--version"])?)?;
    let name = format!("rust-src-{version}");
    let library = format!("usr/src/rustc-{version}/library");
    let item = cache.item(&name);
    if item.join(&library).join("core/src/lib.rs").exists() {
        return Ok(item.join(library));
    }
    let apt = cache.apt()?;
    let packages = apt.versions("rust-src")?;
    let package = packages
        .iter()
        .find(|package| upstream_version(package) == version)
        .with_context(|| {
            format!(
                "Debian has no rust-src {version} (it has {}); next: rustup component add rust-src, or rustup target add {}",
                packages.join(", "),
                MACHINES.each_ref().map(|machine| machine.target).join(" ")
            )
        })?;
    let made = cache.make(&name, |partial| {
        apt.unpack_one(
            &format!("Rust {version} sources"),
            "rust-src",
            package,
            partial,
        )?;
        anyhow::ensure!(
            partial.join(&library).join("core/src/lib.rs").exists(),
            "Debian's rust-src {package} has no {library}"
        );
        Ok(())
    })?;
    Ok(made.join(library))
}

/// The version in `rustc 1.95.0 (59807616e 2026-04-14)`.
fn release(banner: &str) -> Result<String> {
    let version = banner.split_whitespace().nth(1);
    Ok(version
        .with_context(|| format!("no version in `{}`", banner.trim()))?
        .to_owned())
}

/// The part of a Debian version that upstream gave: `1.95.0` of `1.95.0+dfsg1-2~bpo13+1`.
fn upstream_version(debian: &str) -> &str {
    let after_epoch = debian.split_once(':').map_or(debian, |(_, rest)| rest);
    let end = after_epoch.find(['+', '-', '~']);
    &after_epoch[..end.unwrap_or(after_epoch.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_debian_versions_with_the_compiler() {
        let banner = "rustc 1.95.0 (59807616e 2026-04-14)\n";
        assert_eq!(release(banner).expect("a version"), "1.95.0");
        assert_eq!(upstream_version("1.95.0+dfsg1-2~bpo13+1"), "1.95.0");
        assert_eq!(upstream_version("1:1.95.0-1"), "1.95.0");
        assert_ne!(upstream_version("1.95.1+dfsg1-1"), "1.95.0");
    }
}
