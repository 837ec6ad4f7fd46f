//! Everything a run needs that is not in the repository: QEMU and the sources of Rust's `core` and `alloc`.
//!
//! All of it is found on the machine or downloaded once into `target/setup/`. A download goes into a `.partial` folder that is renamed when
//! complete, so an interrupted run leaves nothing half done, and a lock keeps two runs from downloading at once.

pub mod apt;
pub mod qemu;
pub mod rust_src;
pub mod tool;

use std::cell::OnceCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace;
use apt::Apt;
use qemu::Qemu;
use rust_src::RustSource;

/// What set-up found or made.
pub struct Setup {
    /// The emulator.
    pub qemu: Qemu,
    /// Where bare-metal builds take `core` and `alloc` from.
    pub rust_source: RustSource,
}

/// Finds or downloads all of it.
///
/// # Errors
/// When something is neither on the machine nor downloadable; the message says what to install or set.
pub fn prepare() -> Result<Setup> {
    let cache = Cache::open()?;
    Ok(Setup {
        rust_source: rust_src::find_or_download(&cache)?,
        qemu: qemu::find_or_download(&cache)?,
    })
}

/// `target/setup/`, locked against other runs while it lives.
pub struct Cache {
    folder: PathBuf,
    apt: OnceCell<Apt>,
    _lock: File,
}

impl Cache {
    /// Opens it, waiting for another run that has it open.
    pub fn open() -> Result<Self> {
        let folder = workspace::setup_cache();
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join("lock");
        let lock =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if lock.try_lock().is_err() {
            eprintln!("another xtask is setting up; waiting for it");
            lock.lock()
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self {
            folder,
            apt: OnceCell::new(),
            _lock: lock,
        })
    }

    /// Where the finished item `name` is or will be.
    pub fn item(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Debian's archive with state folders of its own in here; its package lists are downloaded at the first call.
    pub fn apt(&self) -> Result<&Apt> {
        if let Some(apt) = self.apt.get() {
            return Ok(apt);
        }
        let apt = Apt::open(&self.folder.join("apt"))?;
        Ok(self.apt.get_or_init(|| apt))
    }

    /// Lets `fill` make item `name` in a fresh folder, then puts it in place at once.
    pub fn make(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let (partial, complete) = (self.item(&format!("{name}.partial")), self.item(name));
        for folder in [&partial, &complete] {
            if folder.exists() {
                fs::remove_dir_all(folder)
                    .with_context(|| format!("cannot remove {}", folder.display()))?;
            }
        }
        fs::create_dir_all(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        fill(&partial)?;
        fs::rename(&partial, &complete)
            .with_context(|| format!("cannot create {}", complete.display()))?;
        Ok(complete)
    }
}
