//! The measuring program: building it, running it, reading what it says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::liburcu;
use crate::process;
use crate::workspace;

/// What was measured: by group and case, or by name.
#[derive(Default)]
pub struct Figures {
    /// Nanoseconds an operation, a sample a round; `NaN` where others used the CPU.
    samples: BTreeMap<Key, Vec<f64>>,
    /// What callgrind counted for one operation.
    counts: BTreeMap<Key, Count>,
    /// Other counts.
    facts: BTreeMap<String, f64>,
    /// The cases of each group in the order of the program.
    cases: Vec<Key>,
}

/// A group and a case in it.
pub type Key = (String, String);

/// What one operation executes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// Instructions.
    pub instructions: f64,
    /// Instructions that read memory.
    pub loads: f64,
    /// Instructions that write memory.
    pub stores: f64,
    /// Locked read-modify-writes and full fences.
    pub locked: f64,
}

impl Figures {
    /// Takes in lines of the program. What was there of the same name is replaced.
    pub fn read(&mut self, output: &str) -> Result<()> {
        for line in output.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["samples", group, case, values] => {
                    let values = values.split(' ').map(str::parse).collect::<Result<_, _>>();
                    let values = values.with_context(|| format!("no numbers: {line}"))?;
                    let key = (group.to_owned(), case.to_owned());
                    if self.samples.insert(key.clone(), values).is_none() {
                        self.cases.push(key);
                    }
                }
                ["fact", name, value] => {
                    let value = value
                        .parse()
                        .with_context(|| format!("no number: {line}"))?;
                    self.facts.insert(name.to_owned(), value);
                }
                _ => anyhow::bail!("the measuring program said: {line}"),
            }
        }
        Ok(())
    }

    /// Takes in what callgrind counted.
    pub fn add_count(&mut self, key: Key, count: Count) {
        self.counts.insert(key, count);
    }

    /// Takes in another count.
    pub fn add_fact(&mut self, name: &str, value: f64) {
        self.facts.insert(name.to_owned(), value);
    }

    /// The samples of `case` that nobody disturbed.
    pub fn samples(&self, group: &str, case: &str) -> Option<Vec<f64>> {
        let samples = self.samples.get(&(group.to_owned(), case.to_owned()))?;
        Some(samples.iter().copied().filter(|ns| !ns.is_nan()).collect())
    }

    /// The quotient of two cases in each round that nobody disturbed.
    pub fn ratios(&self, ours: (&str, &str), peer: (&str, &str)) -> Option<Vec<f64>> {
        let key = |(group, case): (&str, &str)| (group.to_owned(), case.to_owned());
        let (ours, peer) = (self.samples.get(&key(ours))?, self.samples.get(&key(peer))?);
        let ratios = ours.iter().zip(peer).map(|(ours, peer)| ours / peer);
        Some(ratios.filter(|ratio| !ratio.is_nan()).collect())
    }

    /// What callgrind counted for one operation of `case`.
    pub fn count(&self, group: &str, case: &str) -> Option<Count> {
        self.counts
            .get(&(group.to_owned(), case.to_owned()))
            .copied()
    }

    /// The count of that name.
    pub fn fact(&self, name: &str) -> Option<f64> {
        self.facts.get(name).copied()
    }

    /// The cases of the groups whose names begin with `prefix`, without repetition, in the order of
    /// the program.
    pub fn cases(&self, prefix: &str) -> Vec<&str> {
        let mut cases: Vec<&str> = Vec::new();
        for (group, case) in &self.cases {
            if group.starts_with(prefix) && !cases.contains(&case.as_str()) {
                cases.push(case);
            }
        }
        cases
    }
}

/// The value that half of `values` are below; they are not sorted yet.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The built program.
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// Why liburcu is not among the peers, if it is not.
    pub without_liburcu: Option<String>,
}

impl Program {
    /// Builds it, with liburcu where that can be had.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn build() -> Result<Self> {
        let liburcu = liburcu::find_or_download();
        let mut cargo = cargo("build");
        if let Ok(root) = &liburcu {
            cargo
                .args(["--features", "liburcu"])
                .env("SHOOTDOWN_LIBURCU", root);
        }
        eprintln!("building the measuring program");
        process::output(cargo)?;
        Ok(Self {
            path: target().join("release/shootdown-bench"),
            without_liburcu: liburcu.err().map(|error| format!("{error:#}")),
        })
    }

    /// Samples one group, in a part of the rounds if it should be `quick`.
    pub fn time(&self, group: &str, quick: bool, figures: &mut Figures) -> Result<()> {
        eprintln!("measuring: {group}");
        let mut command = Command::new(&self.path);
        command.args(["time", group]);
        if quick {
            command.arg("quick");
        }
        figures.read(&process::output(command)?)
    }

    /// What of the invalidation engine is counted or in virtual time.
    pub fn invalidation(&self, figures: &mut Figures) -> Result<()> {
        eprintln!("counting and simulating: invalidate");
        let mut command = Command::new(&self.path);
        command.arg("invalidate");
        figures.read(&process::output(command)?)
    }

    /// Counts heap calls, doorbells and waits of page requests.
    pub fn page_requests(&self, figures: &mut Figures) -> Result<()> {
        let mut command = Command::new(&self.path);
        command.arg("faults");
        figures.read(&process::output(command)?)
    }

    /// Counts heap calls and bytes.
    pub fn facts(&self, figures: &mut Figures) -> Result<()> {
        let mut command = Command::new(&self.path);
        command.arg("facts");
        figures.read(&process::output(command)?)
    }
}

/// A cargo command on the measuring program.
pub fn cargo(subcommand: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace::root())
        .env("CARGO_TARGET_DIR", target())
        .args([subcommand, "--release", "-p", "shootdown-bench"]);
    cargo
}

/// Where it is built, apart as xtask itself may be built with other features.
pub fn target() -> PathBuf {
    workspace::root().join("target/bench")
}
