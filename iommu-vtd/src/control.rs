//! The global command register: one command at a time (section 11.4.4).

use crate::spec::registers::{GCMD, GSTS, Global};
use alloc::sync::Arc;
use iommu_core::error::Timeout;
use iommu_core::platform::{Mmio, Parts, Platform, wait_until};
use spin::Mutex;

/// How long a command may take, in nanoseconds.
pub(crate) const HANDSHAKE_LIMIT: u64 = 1_000_000_000;

/// The register and the right to write it.
///
/// GCMD cannot be read back: each write carries over what GSTS shows, and no second write may
/// start before GSTS shows the first. The lock is held over that wait.
pub(crate) struct GlobalCommand<P: Platform> {
    parts: Arc<Parts<P>>,
    writing: Mutex<()>,
}

impl<P: Platform> GlobalCommand<P> {
    pub(crate) fn new(parts: &Arc<Parts<P>>) -> Self {
        Self {
            parts: parts.clone(),
            writing: Mutex::new(()),
        }
    }

    /// What is on.
    pub(crate) fn status(&self) -> Global {
        Global::from_bits_retain(self.parts.mmio.read32(GSTS))
    }

    /// Turns `state` on.
    pub(crate) fn enable(&self, state: Global, operation: &'static str) -> Result<(), Timeout> {
        self.write(
            operation,
            |status| status | state,
            |now| now.contains(state),
        )
    }

    /// Turns `state` off; does nothing if it is off.
    pub(crate) fn disable(&self, state: Global, operation: &'static str) -> Result<(), Timeout> {
        if !self.status().intersects(state) {
            return Ok(());
        }
        self.write(
            operation,
            |status| status - state,
            |now| !now.intersects(state),
        )
    }

    /// Makes the table that RTADDR names the root table.
    pub(crate) fn set_root_table(&self) -> Result<(), Timeout> {
        self.enable(Global::SET_ROOT, "setting the root table")
    }

    /// Writes stores that linger in the chipset to memory.
    pub(crate) fn flush_write_buffer(&self) -> Result<(), Timeout> {
        self.write(
            "flushing the write buffer",
            |status| status | Global::WRITE_BUFFER_FLUSH,
            |now| !now.contains(Global::WRITE_BUFFER_FLUSH),
        )
    }

    fn write(
        &self,
        operation: &'static str,
        change: impl FnOnce(Global) -> Global,
        mut done: impl FnMut(Global) -> bool,
    ) -> Result<(), Timeout> {
        let _writing = self.writing.lock();
        let command = change(self.status() & Global::PERSISTENT);
        self.parts.mmio.write32(GCMD, command.bits());
        wait_until(&self.parts.clock, HANDSHAKE_LIMIT, operation, || {
            done(self.status())
        })
    }
}
