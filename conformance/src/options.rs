//! The command line. `cargo xtask conformance` explains it to people.

use std::time::Duration;

/// What is wanted.
pub struct Options {
    pub task: Task,
    /// Rigs by name or by the first word of it; all if empty.
    pub rigs: Vec<String>,
    /// Cases by name; all if empty.
    pub cases: Vec<String>,
    pub seed: Option<u64>,
    /// No progress, and the first failure ends it.
    pub quiet: bool,
    /// The time of a soak is for each rig, not for all together.
    pub each: bool,
    /// Looks for the one fault that is planted in this process.
    pub hunt: bool,
    /// Tries every fault that can be planted.
    pub planted: bool,
}

pub enum Task {
    Matrix,
    List,
    Demo,
    Soak(Duration),
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            task: Task::Matrix,
            rigs: Vec::new(),
            cases: Vec::new(),
            seed: None,
            quiet: false,
            each: false,
            hunt: false,
            planted: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--rig" => options.rigs.push(value()?),
                "--case" => options.cases.push(value()?),
                "--seed" => options.seed = Some(number(&value()?)?),
                "--soak" => options.task = Task::Soak(Duration::from_secs(number(&value()?)?)),
                "--hunt" => options.hunt = true,
                "--planted" => options.planted = true,
                "--each" => options.each = true,
                "--demo" => options.task = Task::Demo,
                "--list" => options.task = Task::List,
                "--quiet" => options.quiet = true,
                _ => return Err(format!("{argument} is not known")),
            }
        }
        Ok(options)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}
