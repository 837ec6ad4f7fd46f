//! The command queue's side of the shared ring.

use crate::planted::{self, Fault};
use crate::spec::commands;
use crate::spec::registers::fields::QUEUE_BASE;
use crate::spec::registers::{self, CommandQueueStatus, EventQueueStatus};
use iommu_core::error::{ProbeError, QueueError, Timeout};
use iommu_core::ids::PhysicalAddress;
use iommu_core::platform::{Mmio, Parts, Platform, wait_until};
use iommu_core::ring::{Command, CompletionWord, Loss, QueueRegisters, Ring, Stop};
use tock_registers::LocalRegisterCopy;

/// The command queue of one IOMMU.
pub type Queue<P> = Ring<2, Registers, P>;

/// How long the hardware may take for a change of mode or of a queue, in nanoseconds.
pub(crate) const REGISTER_LIMIT: u64 = 500_000_000;

/// The registers of the command queue.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    log2_slots: u32,
}

impl Registers {
    /// For a queue of 2^`log2_slots` commands.
    pub(crate) const fn new(log2_slots: u32) -> Self {
        Self { log2_slots }
    }

    const fn slots(self) -> u64 {
        1 << self.log2_slots
    }

    /// Turns the queue on with head and tail at 0. It is off.
    pub(crate) fn enable<P: Platform>(
        self,
        parts: &Parts<P>,
        base: PhysicalAddress,
    ) -> Result<(), ProbeError> {
        let mmio = &parts.mmio;
        let value = registers::queue_base(self.log2_slots, base);
        mmio.write64(registers::CQB, value);
        accept_base(mmio.read64(registers::CQB), value, "cqb")?;
        mmio.write32(registers::CQT, 0);
        mmio.write32(registers::CQCSR, CommandQueueStatus::CQEN.bits());
        wait_for_status(
            parts,
            registers::CQCSR,
            "turning the command queue on",
            true,
        )?;
        Ok(())
    }

    /// Turns the queue off and clears its errors. Commands that were fetched may be aborted.
    pub(crate) fn disable<P: Platform>(parts: &Parts<P>) -> Result<(), Timeout> {
        let errors = CommandQueueStatus::CQMF
            .union(CommandQueueStatus::CMD_TO)
            .union(CommandQueueStatus::CMD_ILL)
            .union(CommandQueueStatus::FENCE_W_IP);
        turn_off(parts, registers::CQCSR, errors.bits(), "the command queue")
    }
}

impl QueueRegisters<2> for Registers {
    fn write_tail(&self, mmio: &impl Mmio, position: u64) {
        mmio.write32(registers::CQT, (position % self.slots()) as u32);
    }

    fn read_head(&self, mmio: &impl Mmio) -> usize {
        mmio.read32(registers::CQH) as usize
    }

    fn sync(&self, word: Option<CompletionWord>) -> Command<2> {
        match word {
            Some(word) if planted::is(Fault::RiscvFenceWithoutWrites) => {
                let [first, second] = commands::iofence_with_word(word);
                [first & !(0b11 << 12), second]
            }
            Some(word) => commands::iofence_with_word(word),
            None => commands::iofence(),
        }
    }

    /// Section "Command-queue CSR": each of the three stops the queue, with `cqh` at the command. While
    /// the register is busy with the last restart it must not be written, so nothing is found then.
    fn read_stop(&self, mmio: &impl Mmio) -> Option<Stop> {
        let value = mmio.read32(registers::CQCSR);
        let status = CommandQueueStatus::from_bits_retain(value);
        let slot = || self.read_head(mmio) % self.slots() as usize;
        let (error, loss) = if value == u32::MAX {
            (QueueError::Unknown { code: value }, Loss::Queue)
        } else if status.contains(CommandQueueStatus::BUSY) && !planted::is(Fault::RiscvBusyIgnored)
        {
            return None;
        } else if status.contains(CommandQueueStatus::CMD_ILL) {
            let slot = slot();
            (QueueError::IllegalCommand { slot }, Loss::Command { slot })
        } else if status.contains(CommandQueueStatus::CQMF) {
            (QueueError::MemoryFault, Loss::Queue)
        } else if status.contains(CommandQueueStatus::CMD_TO)
            && planted::is(Fault::RiscvTimeoutIgnored)
        {
            let value = CommandQueueStatus::CQEN.union(CommandQueueStatus::CMD_TO);
            mmio.write32(registers::CQCSR, value.bits());
            return None;
        } else if status.contains(CommandQueueStatus::CMD_TO) {
            let loss = Loss::Sync { slot: slot() };
            (QueueError::DeviceTimeout { device: None }, loss)
        } else if !status.contains(CommandQueueStatus::CQON) {
            (QueueError::Unknown { code: value }, Loss::Queue)
        } else {
            return None;
        };
        Some(Stop { error, loss })
    }

    fn restart(&self, mmio: &impl Mmio, stop: Stop, position: u64) {
        let error = match stop.loss {
            Loss::Sync { .. } if planted::is(Fault::RiscvTimeoutKept) => {
                CommandQueueStatus::empty()
            }
            Loss::Sync { .. } => CommandQueueStatus::CMD_TO,
            _ => CommandQueueStatus::CMD_ILL,
        };
        let value = CommandQueueStatus::CQEN.union(error);
        mmio.write32(registers::CQCSR, value.bits());
        self.write_tail(mmio, position);
    }
}

/// Turns a fault or page-request queue on. It is off.
pub(crate) fn enable_event_queue<P: Platform>(
    parts: &Parts<P>,
    register: usize,
    operation: &'static str,
) -> Result<(), Timeout> {
    parts.mmio.write32(register, EventQueueStatus::QEN.bits());
    wait_for_status(parts, register, operation, true)
}

/// Turns a fault or page-request queue off and clears its errors.
pub(crate) fn disable_event_queue<P: Platform>(
    parts: &Parts<P>,
    register: usize,
    operation: &'static str,
) -> Result<(), Timeout> {
    let errors = EventQueueStatus::QMF.union(EventQueueStatus::QOF);
    turn_off(parts, register, errors.bits(), operation)
}

/// Clears error bits of a fault or page-request queue, which is on and stays on.
pub(crate) fn clear_event_queue_errors<P: Platform>(
    parts: &Parts<P>,
    register: usize,
    errors: EventQueueStatus,
) -> Result<(), Timeout> {
    wait_while_busy(parts, register, "clearing the errors of a queue")?;
    let value = EventQueueStatus::QEN.union(errors);
    parts.mmio.write32(register, value.bits());
    Ok(())
}

/// How many entries of a queue the hardware takes, as a binary logarithm, of `wanted`: the size
/// field of the base register keeps only what it supports.
pub(crate) fn probe_size(mmio: &impl Mmio, register: usize, wanted: u32) -> u32 {
    mmio.write64(register, registers::queue_base(wanted, PhysicalAddress(0)));
    let base = LocalRegisterCopy::<u64, QUEUE_BASE::Register>::new(mmio.read64(register));
    wanted.min(base.read(QUEUE_BASE::LOG2SZ_MINUS_1) as u32 + 1)
}

/// Whether a base register kept what was written.
pub(crate) fn accept_base(
    found: u64,
    written: u64,
    register: &'static str,
) -> Result<(), ProbeError> {
    if found == written {
        return Ok(());
    }
    Err(ProbeError::MissingCapability {
        capability: "a queue at any address and of at least 4 entries",
        register,
        value: found,
    })
}

fn turn_off<P: Platform>(
    parts: &Parts<P>,
    register: usize,
    errors: u32,
    operation: &'static str,
) -> Result<(), Timeout> {
    wait_while_busy(parts, register, operation)?;
    parts.mmio.write32(register, errors);
    wait_for_status(parts, register, operation, false)
}

/// Bit 17 is `busy` and bit 16 `cqon`, `fqon` or `pqon` in all three registers.
fn wait_for_status<P: Platform>(
    parts: &Parts<P>,
    register: usize,
    operation: &'static str,
    on: bool,
) -> Result<(), Timeout> {
    wait_register(parts, operation, || {
        let status = EventQueueStatus::from_bits_retain(parts.mmio.read32(register));
        !status.contains(EventQueueStatus::BUSY) && status.contains(EventQueueStatus::QON) == on
    })
}

fn wait_while_busy<P: Platform>(
    parts: &Parts<P>,
    register: usize,
    operation: &'static str,
) -> Result<(), Timeout> {
    wait_register(parts, operation, || {
        let status = EventQueueStatus::from_bits_retain(parts.mmio.read32(register));
        !status.contains(EventQueueStatus::BUSY)
    })
}

/// Waits for a register, at most [`REGISTER_LIMIT`].
pub(crate) fn wait_register<P: Platform>(
    parts: &Parts<P>,
    operation: &'static str,
    condition: impl FnMut() -> bool,
) -> Result<(), Timeout> {
    wait_until(&parts.clock, REGISTER_LIMIT, operation, condition)
}
