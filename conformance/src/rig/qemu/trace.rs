//! QEMU's trace of one machine: what each access was translated to, and every command received.

use super::translations::Reader;
use crate::outcome::Outcome;
use iommu_core::testing::Recorder;
use shootdown_qemu_host::{Machine, commands};
use std::sync::{Arc, Mutex, PoisonError};

/// The trace, and what the drivers say that they sent.
pub struct Trace {
    machine: Arc<Machine>,
    /// How translations are read.
    pub translations: Reader,
    commands: commands::Reader,
    recorder: Arc<Recorder>,
    /// Everything so far but translations.
    log: Mutex<String>,
}

impl Trace {
    /// That of `machine`, whose drivers report to `recorder`.
    pub fn new(
        machine: &Arc<Machine>,
        translations: Reader,
        commands: commands::Reader,
        recorder: &Arc<Recorder>,
    ) -> Self {
        Self {
            machine: machine.clone(),
            translations,
            commands,
            recorder: recorder.clone(),
            log: Mutex::default(),
        }
    }

    /// The lines since the last call.
    pub fn take(&self) -> Outcome<Vec<String>> {
        let lines = self.machine.take_trace()?;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        for line in &lines {
            if !self.translations.traces(line) {
                log.push_str(line);
                log.push('\n');
            }
        }
        Ok(lines)
    }

    /// Compares every command that the drivers say they sent with those that QEMU received.
    pub fn compare(&self) -> Result<(), String> {
        if self.take().is_err() {
            // The machine tells by itself that it has failed.
            return Ok(());
        }
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        self.commands
            .compare(&self.recorder.take_commands(), &log)
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    }
}
