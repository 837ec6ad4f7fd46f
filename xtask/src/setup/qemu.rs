//! QEMU 11.1 or newer: `$SHOOTDOWN_QEMU`, else the one on PATH, else Debian's packages unpacked below `target/setup/`.
//!
//! [`Qemu::find`] looks at the same places in the same order, and so finds in a later process what was set up here.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use shootdown_qemu_host::{OLDEST, VARIABLE};

use super::Cache;

pub use shootdown_qemu_host::Program as Qemu;

const PACKAGES: [&str; 3] = ["qemu-system-x86", "qemu-system-arm", "qemu-system-riscv"];
/// Debian architectures whose packages can be unpacked and used.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// Finds a suitable QEMU or downloads one into `cache`.
///
/// # Errors
/// When `$SHOOTDOWN_QEMU` is set but does not serve, or nothing is there and the download fails.
pub fn find_or_download(cache: &Cache) -> Result<Qemu> {
    if let Some(value) = std::env::var_os(VARIABLE) {
        return Qemu::named(value.clone()).with_context(|| {
            format!(
                "{VARIABLE}={} does not serve; set it to a folder with qemu-system-x86_64, -aarch64 and -riscv64 of version {}.{} or newer, or unset it",
                value.to_string_lossy(),
                OLDEST.0,
                OLDEST.1
            )
        });
    }
    if let Ok(qemu) = Qemu::on_path() {
        return Ok(qemu);
    }
    from_debian(cache)
}

fn from_debian(cache: &Cache) -> Result<Qemu> {
    let item: PathBuf = cache.item("qemu");
    if item.exists()
        && let Ok(qemu) = Qemu::unpacked(&item)
    {
        return Ok(qemu);
    }
    let apt = cache.apt()?;
    if !ARCHITECTURES.contains(&apt.architecture()) {
        bail!(
            "Debian's QEMU can be unpacked on amd64 and arm64, this machine is {}; install QEMU {}.{} or newer and set {VARIABLE} to its folder",
            apt.architecture(),
            OLDEST.0,
            OLDEST.1
        );
    }
    let root = cache.make("qemu", |partial| {
        apt.unpack_with_dependencies("QEMU", &PACKAGES, partial)?;
        Qemu::unpacked(partial)
            .map(drop)
            .context("the downloaded QEMU does not serve; set SHOOTDOWN_QEMU to one that does")
    })?;
    Ok(Qemu::unpacked(&root)?)
}
