//! The one peer that is neither a crate nor ours: Debian's `liburcu-dev`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::setup::Cache;

const PACKAGE: &str = "liburcu-dev";
const HEADER: &str = "urcu/urcu-memb.h";

/// The folder that stands for `/`: `/` itself if the package is installed, else where this machine's
/// apt downloads it to, once.
///
/// # Errors
/// When it is neither installed nor downloadable; the message says what to install.
pub fn find_or_download() -> Result<PathBuf> {
    let installed = PathBuf::from("/");
    if is_there(&installed) {
        return Ok(installed);
    }
    let cache = Cache::open()?;
    let item = cache.item("liburcu");
    if is_there(&item) {
        return Ok(item);
    }
    cache
        .make("liburcu", download)
        .with_context(|| format!("to measure it: apt-get install {PACKAGE}"))
}

fn is_there(root: &Path) -> bool {
    let include = root.join("usr/include");
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    include.join(triplet).join(HEADER).exists() || include.join(HEADER).exists()
}

/// From the machine's own release, as the library must fit its C library.
fn download(root: &Path) -> Result<()> {
    let mut download = Command::new("apt-get");
    download.args(["download", "-q", PACKAGE]).current_dir(root);
    process::output(download)?;
    for entry in root.read_dir()? {
        let archive = entry?.path();
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&archive).arg(root);
        process::output(unpack)?;
        std::fs::remove_file(&archive)?;
    }
    if !is_there(root) {
        bail!("{PACKAGE} holds no {HEADER}");
    }
    Ok(())
}
