//! A QEMU on this machine: `$SHOOTDOWN_QEMU`, one on PATH, or Debian's packages unpacked somewhere.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest version whose IOMMUs behave as the drivers' tests expect.
pub const OLDEST: (u32, u32) = (11, 1);
/// The variable that names a QEMU of the user's: a folder with `qemu-system-x86_64` and its siblings,
/// or the path up to and including `qemu-system-`.
pub const VARIABLE: &str = "SHOOTDOWN_QEMU";
/// Where `cargo xtask setup` unpacks Debian's packages, below the repository's top folder.
const UNPACKED: &str = "target/setup/qemu";
const ARCHITECTURES: [&str; 3] = ["x86_64", "aarch64", "riscv64"];

/// A QEMU with an emulator for each of the three architectures, new enough.
#[derive(Clone, Debug)]
pub struct Program {
    place: Place,
    version: String,
}

#[derive(Clone, Debug)]
enum Place {
    /// `<prefix>x86_64` and so on can be started as they are.
    Installed { prefix: OsString },
    /// Debian's packages unpacked in `root`, which is not `/`: the loader and all data folders must
    /// be named.
    Unpacked { root: PathBuf, loader: Loader },
}

/// Where the dynamic loader and the libraries of an architecture are in a Debian system.
#[derive(Clone, Copy, Debug)]
struct Loader {
    program: &'static str,
    libraries: &'static str,
}

const LOADERS: [Loader; 2] = [
    Loader {
        program: "usr/lib64/ld-linux-x86-64.so.2",
        libraries: "usr/lib/x86_64-linux-gnu",
    },
    Loader {
        program: "usr/lib/ld-linux-aarch64.so.1",
        libraries: "usr/lib/aarch64-linux-gnu",
    },
];

/// Why a QEMU does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramError {
    /// There is none.
    Missing,
    /// It cannot be started.
    NotStarted {
        /// What was to be started.
        program: String,
        /// The reason.
        why: String,
    },
    /// It does not say a version that is understood.
    NoVersion {
        /// The program.
        program: String,
        /// What it said instead.
        said: String,
    },
    /// It is older than [`OLDEST`].
    TooOld {
        /// The program.
        program: String,
        /// Its version.
        version: (u32, u32, u32),
    },
    /// An unpacked tree has no dynamic loader.
    NoLoader {
        /// The tree.
        root: PathBuf,
    },
}

impl fmt::Display for ProgramError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = OLDEST;
        match self {
            Self::Missing => write!(
                formatter,
                "no QEMU {major}.{minor} or newer: `cargo xtask setup` fetches one, or set \
                 {VARIABLE} to a folder with qemu-system-x86_64, -aarch64 and -riscv64"
            ),
            Self::NotStarted { program, why } => write!(formatter, "cannot start {program}: {why}"),
            Self::NoVersion { program, said } => {
                write!(formatter, "{program} says no version number but `{said}`")
            }
            Self::TooOld {
                program,
                version: (a, b, c),
            } => write!(
                formatter,
                "{program} is version {a}.{b}.{c}, older than {major}.{minor}"
            ),
            Self::NoLoader { root } => {
                write!(formatter, "no dynamic loader below {}", root.display())
            }
        }
    }
}

impl std::error::Error for ProgramError {}

impl Program {
    /// The QEMU of this machine: what [`VARIABLE`] names, else one on PATH that serves, else the one
    /// that `cargo xtask setup` unpacked.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Missing`] if there is none, another if the variable is set and what it names
    /// does not serve.
    pub fn find() -> Result<Self, ProgramError> {
        if let Some(value) = std::env::var_os(VARIABLE) {
            return Self::named(value);
        }
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(UNPACKED);
        Self::on_path()
            .or_else(|_| Self::unpacked(&unpacked))
            .map_err(|_| ProgramError::Missing)
    }

    /// The QEMU that a value of [`VARIABLE`] names.
    ///
    /// # Errors
    ///
    /// If it does not serve.
    pub fn named(value: OsString) -> Result<Self, ProgramError> {
        let prefix = if Path::new(&value).is_dir() {
            Path::new(&value).join("qemu-system-").into()
        } else {
            value
        };
        Self::check(Place::Installed { prefix })
    }

    /// The QEMU on PATH.
    ///
    /// # Errors
    ///
    /// If it does not serve.
    pub fn on_path() -> Result<Self, ProgramError> {
        Self::named("qemu-system-".into())
    }

    /// Debian's packages unpacked below `root`.
    ///
    /// # Errors
    ///
    /// If they do not serve.
    pub fn unpacked(root: &Path) -> Result<Self, ProgramError> {
        let loader = LOADERS
            .into_iter()
            .find(|loader| root.join(loader.program).exists())
            .ok_or_else(|| ProgramError::NoLoader {
                root: root.to_owned(),
            })?;
        Self::check(Place::Unpacked {
            root: root.to_owned(),
            loader,
        })
    }

    /// The emulators `<prefix>x86_64` and so on, unchecked: for tests of what becomes of a QEMU that
    /// does not behave.
    pub fn unchecked(prefix: OsString) -> Self {
        Self {
            place: Place::Installed { prefix },
            version: "0.0.0".to_owned(),
        }
    }

    /// The command that starts the emulator of `architecture` (`x86_64`, `aarch64`, `riscv64`),
    /// without options.
    pub fn command(&self, architecture: &str) -> Command {
        match &self.place {
            Place::Installed { prefix } => {
                let mut program = prefix.clone();
                program.push(architecture);
                Command::new(program)
            }
            Place::Unpacked { root, loader } => {
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
        match &self.place {
            Place::Installed { prefix } => format!("{}*", prefix.to_string_lossy()),
            Place::Unpacked { root, .. } => root.display().to_string(),
        }
    }

    /// Starts every emulator once to see that all are there and new enough.
    fn check(place: Place) -> Result<Self, ProgramError> {
        let mut found = Self {
            place,
            version: String::new(),
        };
        for architecture in ARCHITECTURES {
            let program = format!("qemu-system-{architecture} of {}", found.origin());
            let output = found.command(architecture).arg("--version").output();
            let output = output.map_err(|error| ProgramError::NotStarted {
                program: program.clone(),
                why: error.to_string(),
            })?;
            let text = String::from_utf8_lossy(if output.stdout.is_empty() {
                &output.stderr
            } else {
                &output.stdout
            });
            let banner = text.lines().next().unwrap_or_default();
            let Some((major, minor, patch)) = parse_version(banner) else {
                return Err(ProgramError::NoVersion {
                    program,
                    said: banner.to_owned(),
                });
            };
            if (major, minor) < OLDEST {
                return Err(ProgramError::TooOld {
                    program,
                    version: (major, minor, patch),
                });
            }
            found.version = format!("{major}.{minor}.{patch}");
        }
        Ok(found)
    }
}

/// Reads `QEMU emulator version 11.1.3 (...)`.
fn parse_version(banner: &str) -> Option<(u32, u32, u32)> {
    let mut words = banner.split_whitespace();
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
        let debian = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-2~bpo13+1)";
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
    fn a_missing_qemu_is_refused_with_its_name() {
        let error = Program::named("/nonexistent/qemu-system-".into());
        let error = error.expect_err("nothing is there").to_string();
        assert!(error.contains("/nonexistent/qemu-system-"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn an_old_qemu_is_refused_with_its_version() {
        use std::os::unix::fs::PermissionsExt;
        let folder = crate::folder::Folder::new().expect("a folder");
        for architecture in ARCHITECTURES {
            let path = folder.path().join(format!("qemu-system-{architecture}"));
            std::fs::write(&path, "#!/bin/sh\necho QEMU emulator version 9.2.0\n")
                .expect("written");
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, executable).expect("executable");
        }
        let error = Program::named(folder.path().into()).expect_err("it is old");
        assert!(
            error.to_string().contains("version 9.2.0, older than 11.1"),
            "{error}"
        );
    }
}
