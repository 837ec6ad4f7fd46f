//! QEMU 11.1 or newer: `$SHOOTDOWN_QEMU`, else the one on PATH, else Debian's packages unpacked below `target/setup/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::Cache;
use crate::machines::MACHINES;
use crate::process;

/// Oldest version whose IOMMUs behave as the guest and the trace readers expect.
const OLDEST: (u32, u32) = (11, 1);
/// Names a QEMU of the user's: a folder with `qemu-system-x86_64` and its siblings, or the path up to and including `qemu-system-`.
const VARIABLE: &str = "SHOOTDOWN_QEMU";
const PACKAGES: [&str; 3] = ["qemu-system-x86", "qemu-system-arm", "qemu-system-riscv"];

/// A QEMU with an emulator for each machine.
#[derive(Debug, Clone)]
pub struct Qemu {
    programs: Programs,
    version: String,
}

#[derive(Debug, Clone)]
enum Programs {
    /// `<prefix>x86_64` and so on can be started as they are.
    Installed { prefix: OsString },
    /// Debian's packages unpacked in `root`, which is not `/`: the loader and all data folders must be named.
    Unpacked { root: PathBuf, loader: Loader },
}

/// Where the dynamic loader and the libraries of an architecture are in a Debian system.
#[derive(Debug, Clone, Copy)]
struct Loader {
    debian_architecture: &'static str,
    program: &'static str,
    libraries: &'static str,
}

const LOADERS: [Loader; 2] = [
    Loader {
        debian_architecture: "amd64",
        program: "usr/lib64/ld-linux-x86-64.so.2",
        libraries: "usr/lib/x86_64-linux-gnu",
    },
    Loader {
        debian_architecture: "arm64",
        program: "usr/lib/ld-linux-aarch64.so.1",
        libraries: "usr/lib/aarch64-linux-gnu",
    },
];

impl Qemu {
    /// The command that starts the emulator of `architecture` (`x86_64`, `aarch64`, `riscv64`), without options.
    pub fn command(&self, architecture: &str) -> Command {
        match &self.programs {
            Programs::Installed { prefix } => {
                let mut program = prefix.clone();
                program.push(architecture);
                Command::new(program)
            }
            Programs::Unpacked { root, loader } => {
                let libraries = root.join(loader.libraries);
                let mut command = Command::new(root.join(loader.program));
                command
                    .arg("--library-path")
                    .arg(&libraries)
                    .arg(root.join(format!("usr/bin/qemu-system-{architecture}")))
                    .env("QEMU_MODULE_DIR", libraries.join("qemu"));
                for data in ["usr/share/qemu", "usr/share/seabios"] {
                    command.arg("-L").arg(root.join(data));
                }
                command
            }
        }
    }

    /// The version, like `11.1.3`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it is from, for a person.
    pub fn origin(&self) -> String {
        match &self.programs {
            Programs::Installed { prefix } => format!("{}*", prefix.to_string_lossy()),
            Programs::Unpacked { root, .. } => crate::workspace::relative(root),
        }
    }

    /// Whatever is in `folder`, unchecked.
    #[cfg(test)]
    pub fn for_tests(folder: &Path) -> Self {
        Self {
            programs: Programs::Installed {
                prefix: folder.join("qemu-system-").into(),
            },
            version: "0.0.0".to_owned(),
        }
    }

    /// Starts every emulator once to see that all are there and new enough.
    fn check(programs: Programs) -> Result<Self> {
        let mut qemu = Self {
            programs,
            version: String::new(),
        };
        for machine in &MACHINES {
            let mut command = qemu.command(machine.architecture);
            command.arg("--version");
            let banner = process::output(command)?;
            let version = parse_version(&banner).with_context(|| {
                format!(
                    "no version number in `{}`",
                    banner.lines().next().unwrap_or_default()
                )
            })?;
            ensure!(
                (version.0, version.1) >= OLDEST,
                "qemu-system-{} is version {}.{}.{}, older than {}.{}",
                machine.architecture,
                version.0,
                version.1,
                version.2,
                OLDEST.0,
                OLDEST.1
            );
            qemu.version = format!("{}.{}.{}", version.0, version.1, version.2);
        }
        Ok(qemu)
    }
}

/// Finds a suitable QEMU or downloads one into `cache`.
///
/// # Errors
/// When `$SHOOTDOWN_QEMU` is set but does not serve, or nothing is there and the download fails.
pub fn find_or_download(cache: &Cache) -> Result<Qemu> {
    if let Some(value) = std::env::var_os(VARIABLE) {
        let programs = Programs::Installed {
            prefix: user_prefix(value.clone()),
        };
        return Qemu::check(programs).with_context(|| {
            format!(
                "{VARIABLE}={} does not serve; set it to a folder with qemu-system-x86_64, -aarch64 and -riscv64 of version {}.{} or newer, or unset it",
                value.to_string_lossy(),
                OLDEST.0,
                OLDEST.1
            )
        });
    }
    let on_path = Programs::Installed {
        prefix: "qemu-system-".into(),
    };
    if let Ok(qemu) = Qemu::check(on_path) {
        return Ok(qemu);
    }
    from_debian(cache)
}

fn user_prefix(value: OsString) -> OsString {
    if Path::new(&value).is_dir() {
        Path::new(&value).join("qemu-system-").into()
    } else {
        value
    }
}

fn from_debian(cache: &Cache) -> Result<Qemu> {
    let unpacked = |root: &Path| -> Result<Qemu> {
        let loader = LOADERS
            .into_iter()
            .find(|loader| root.join(loader.program).exists());
        Qemu::check(Programs::Unpacked {
            root: root.to_owned(),
            loader: loader.context("no dynamic loader among the unpacked packages")?,
        })
    };
    let item = cache.item("qemu");
    if item.exists()
        && let Ok(qemu) = unpacked(&item)
    {
        return Ok(qemu);
    }
    let apt = cache.apt()?;
    if !LOADERS
        .iter()
        .any(|loader| loader.debian_architecture == apt.architecture())
    {
        bail!(
            "Debian's QEMU can be unpacked on amd64 and arm64, this machine is {}; install QEMU {}.{} or newer and set {VARIABLE} to its folder",
            apt.architecture(),
            OLDEST.0,
            OLDEST.1
        );
    }
    let root = cache.make("qemu", |partial| {
        apt.unpack_with_dependencies("QEMU", &PACKAGES, partial)?;
        unpacked(partial)
            .map(drop)
            .context("the downloaded QEMU does not serve; set SHOOTDOWN_QEMU to one that does")
    })?;
    unpacked(&root)
}

/// Reads `QEMU emulator version 11.1.3 (...)`.
fn parse_version(banner: &str) -> Option<(u32, u32, u32)> {
    let mut words = banner.lines().next()?.split_whitespace();
    words.find(|&word| word == "version")?;
    let mut numbers = words.next()?.split('.').map(|number| {
        let digits = number
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(number.len());
        number[..digits].parse::<u32>()
    });
    Some((
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next().and_then(Result::ok).unwrap_or(0),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_version_banners() {
        let debian = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-2~bpo13+1)\nCopyright";
        assert_eq!(parse_version(debian), Some((11, 1, 3)));
        assert_eq!(
            parse_version("QEMU emulator version 12.0"),
            Some((12, 0, 0))
        );
        assert_eq!(
            parse_version("QEMU emulator version 11.2.50-rc1 (v11)"),
            Some((11, 2, 50))
        );
        assert_eq!(parse_version("no such thing"), None);
    }

    #[test]
    fn the_variable_is_a_folder_or_a_prefix() {
        assert_eq!(
            user_prefix("/usr".into()),
            OsString::from("/usr/qemu-system-")
        );
        assert_eq!(
            user_prefix("/opt/q/bin/qemu-system-".into()),
            OsString::from("/opt/q/bin/qemu-system-")
        );
    }

    #[test]
    fn an_old_or_missing_qemu_is_refused_with_its_name() {
        let programs = Programs::Installed {
            prefix: "/nonexistent/qemu-system-".into(),
        };
        let error = format!("{:#}", Qemu::check(programs).expect_err("nothing there"));
        assert!(error.contains("/nonexistent/qemu-system-x86_64"), "{error}");
    }
}
