//! Where things are in this repository.

use std::path::{Path, PathBuf};

/// The repository's top folder.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// What set-up downloads and unpacks; kept between runs.
pub fn setup_cache() -> PathBuf {
    root().join("target/setup")
}

/// Output of the test stages and of every QEMU run.
pub fn logs() -> PathBuf {
    root().join("target/xtask-logs")
}

/// Target folder of builds for the bare-metal targets.
pub fn bare_metal_target() -> PathBuf {
    root().join("target/bare-metal")
}

/// Target folder of builds under `--cfg loom`, apart so that the flag does not rebuild everything else.
pub fn loom_target() -> PathBuf {
    root().join("target/loom")
}

/// Target folder of builds with planted faults; `build` keeps those of different flags apart.
pub fn planted_target(build: &str) -> PathBuf {
    root().join("target").join(build)
}

/// `path` as a person in the repository's top folder would type it.
pub fn relative(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}
