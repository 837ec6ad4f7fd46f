//! Debian packages without root: apt with its own state folders and the machine's configured mirror.

mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{self, Event, Limits, Stream};
use crate::progress::Progress;

/// What the suites below are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The suites that packages come from.
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];

/// An apt that knows [`SUITES`], thinks nothing is installed, and writes only below its own folder.
pub struct Apt {
    folder: PathBuf,
    architecture: String,
}

impl Apt {
    /// Writes the configuration into `folder` and downloads the package lists.
    ///
    /// # Errors
    /// When this is no Debian machine, the keyring is missing, or the mirror does not answer.
    pub fn open(folder: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing, without it Debian's packages cannot be verified; install it: apt-get install debian-archive-keyring"
        );
        let architecture = process::output(command("dpkg", &["--print-architecture"])).context(
            "packages come from Debian's archive, which needs dpkg and apt on this machine",
        )?;
        let apt = Self {
            folder: folder.to_owned(),
            architecture: architecture.trim().to_owned(),
        };
        apt.write_configuration(&sources::mirror(Path::new("/etc/apt"))?)?;
        apt.run(
            "package lists",
            apt.command("apt-get", &["update", "-q", "--error-on=any"]),
        )?;
        Ok(apt)
    }

    /// Debian's name of this machine's architecture.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Downloads `packages` with all they depend on and unpacks everything into `root`.
    pub fn unpack_with_dependencies(
        &self,
        title: &str,
        packages: &[&str],
        root: &Path,
    ) -> Result<()> {
        let mut arguments = vec![
            "install",
            "-y",
            "-q",
            "--download-only",
            "-t",
            "trixie-backports",
        ];
        arguments.extend(packages);
        self.run(title, self.command("apt-get", &arguments))?;
        unpack_archives(title, &self.folder.join("cache/archives"), root)
    }

    /// Downloads `package` in exactly `version`, without dependencies, and unpacks it into `root`.
    pub fn unpack_one(&self, title: &str, package: &str, version: &str, root: &Path) -> Result<()> {
        let wanted = format!("{package}={version}");
        let mut download = self.command("apt-get", &["download", "-q", &wanted]);
        download.current_dir(root);
        self.run(title, download)?;
        unpack_archives(title, root, root)
    }

    /// The versions of `package` in the suites, newest first.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = process::output(self.command("apt-cache", &["madison", package]))?;
        let version = |line: &str| Some(line.split('|').nth(1)?.trim().to_owned());
        Ok(table.lines().filter_map(version).collect())
    }

    fn write_configuration(&self, mirror: &str) -> Result<()> {
        let parts = [
            "state/lists/partial",
            "cache/archives/partial",
            "etc/sources",
            "etc/preferences",
        ];
        for part in parts {
            let folder = self.folder.join(part);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let source = |suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        self.write("etc/sources.list", &SUITES.map(source).concat())?;
        self.write("state/status", "")?;
        self.write("apt.conf", &self.configuration())
    }

    fn configuration(&self) -> String {
        let folder = self.folder.display();
        let architecture = &self.architecture;
        format!(
            r#"Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/etc/sources.list";
Dir::Etc::sourceparts "{folder}/etc/sources";
Dir::Etc::preferences "{folder}/etc/no-preferences";
Dir::Etc::preferencesparts "{folder}/etc/preferences";
APT::Default-Release "trixie";
APT::Install-Recommends "false";
APT::Architecture "{architecture}";
APT::Architectures "{architecture}";
APT::Sandbox::User "root";
"#
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = command(program, arguments);
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C.UTF-8");
        if program == "apt-get" {
            command.args(["-o", "APT::Status-Fd=1", "-o", "Acquire::Retries=3"]);
        }
        command
    }

    fn run(&self, title: &str, command: Command) -> Result<()> {
        let mut progress = Progress::start(&format!("setup: {title}"));
        let shown = process::render(&command);
        let mut complaints = String::new();
        let end = process::run(command, Limits::TOOL, &mut |event| match event {
            Event::Line(Stream::Out, line) => match download_status(line) {
                Some((percent, text)) => progress.percent(percent, text),
                None => progress.line(line),
            },
            Event::Line(Stream::Err, line) => {
                complaints.push_str(line);
                complaints.push('\n');
            }
            Event::Tick => progress.tick(),
        })?;
        if !end.success() {
            bail!(
                "{title}: apt failed ({end})\n{}command: {shown}\nnext: check the network and the mirror in /etc/apt, then run this again",
                complaints
            );
        }
        Ok(())
    }
}

/// Unpacks every package in `folder` into `root` and removes it.
fn unpack_archives(title: &str, folder: &Path, root: &Path) -> Result<()> {
    let mut archives = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            archives.push(path);
        }
    }
    ensure!(
        !archives.is_empty(),
        "{title}: apt downloaded nothing; remove target/setup and run this again"
    );
    let mut progress = Progress::start(&format!("setup: unpacking {title}"));
    let count = archives.len() as f32;
    for (done, archive) in archives.iter().enumerate() {
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        progress.percent(100.0 * done as f32 / count, &name);
        let mut unpack = command("dpkg", &["-x"]);
        unpack.arg(archive).arg(root);
        process::output(unpack).with_context(|| {
            format!("cannot unpack {name}; is the disk full? else remove target/setup and run this again")
        })?;
    }
    // Next time's archives must be next time's alone.
    archives.iter().try_for_each(fs::remove_file)?;
    Ok(())
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Reads apt's machine-readable `dlstatus:<file>:<percent>:<text>`.
fn download_status(line: &str) -> Option<(f32, &str)> {
    let mut fields = line.strip_prefix("dlstatus:")?.splitn(3, ':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::download_status;

    #[test]
    fn reads_what_apt_says_of_a_download() {
        let line = "dlstatus:3:27.5:Retrieving file 3 of 90 (4s remaining)";
        assert_eq!(
            download_status(line),
            Some((27.5, "Retrieving file 3 of 90 (4s remaining)"))
        );
        assert_eq!(download_status("Get:1 qemu-system-x86 [9 MB]"), None);
        assert_eq!(download_status("dlstatus:3:soon:x"), None);
    }
}
