//! Options on the kernel's command line: `name=value`, separated by blanks.

use core::fmt;

/// What the kernel was asked to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// The scenario as it is meant.
    Scenario,
    /// The same steps with the backend's invalidation left out.
    Control,
    /// The kernel's own parts, without an IOMMU.
    SelfTest,
    /// A load from an unmapped address, to see that an exception ends the run as failed.
    Fault,
}

impl fmt::Display for Run {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Scenario => "scenario",
            Self::Control => "control",
            Self::SelfTest => "self-test",
            Self::Fault => "fault",
        })
    }
}

/// The value of `run=` is none of the known ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRun;

impl fmt::Display for UnknownRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("run= must be scenario, control, self-test or fault")
    }
}

impl core::error::Error for UnknownRun {}

/// The value of the first `name=value` on the line.
pub fn option<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// What `run=` asks for; the scenario if it is not there.
pub fn run(line: &str) -> Result<Run, UnknownRun> {
    match option(line, "run") {
        None | Some("scenario") => Ok(Run::Scenario),
        Some("control") => Ok(Run::Control),
        Some("self-test") => Ok(Run::SelfTest),
        Some("fault") => Ok(Run::Fault),
        Some(_) => Err(UnknownRun),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_by_their_whole_name() {
        assert_eq!(option("rerun=a run=b run=c", "run"), Some("b"));
        assert_eq!(option("run", "run"), None);
        assert_eq!(option("", "run"), None);
    }

    #[test]
    fn an_unknown_run_is_refused() {
        assert_eq!(run("quiet run=control"), Ok(Run::Control));
        assert_eq!(run("quiet"), Ok(Run::Scenario));
        assert_eq!(run("run=selftest"), Err(UnknownRun));
    }
}
