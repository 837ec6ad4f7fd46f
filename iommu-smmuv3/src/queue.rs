//! The command queue: what the shared ring needs to know of an SMMU.

use crate::caps::Capabilities;
use crate::control::GlobalErrors;
use crate::planted::{self, Fault};
use crate::spec::commands;
use crate::spec::registers::{CMDQ_CONS, GERROR, Value, command_error, offset, queue_base};
use alloc::sync::Arc;
use iommu_core::error::{OutOfMemory, QueueError};
use iommu_core::platform::{Mmio, Parts, Platform};
use iommu_core::ring::{Command, CompletionWord, Config, Loss, QueueRegisters, Ring, Stop};

/// Words in a command.
pub const WORDS: usize = 2;

/// The command queue of one SMMU.
pub type Queue<P> = Ring<WORDS, Registers, P>;

/// The command queue's registers (3.5, 6.3.26 to 6.3.28).
#[derive(Clone, Debug)]
pub struct Registers {
    log2_slots: u32,
    errors: Arc<GlobalErrors>,
}

/// A queue of the size that the SMMU allows; the hardware does not know of it yet.
pub fn create<P: Platform>(
    parts: &Arc<Parts<P>>,
    capabilities: &Capabilities,
    errors: &Arc<GlobalErrors>,
) -> Result<Queue<P>, OutOfMemory> {
    let log2_slots = capabilities.command_queue_log2();
    let config = Config::new(
        1 << log2_slots,
        capabilities.completion(),
        capabilities.coherency(),
    );
    let errors = errors.clone();
    Ring::new(parts, Registers { log2_slots, errors }, config)
}

/// Tells the SMMU where the empty `queue` lies. CR0.CMDQEN is 0.
pub fn set_up<P: Platform>(mmio: &impl Mmio, queue: &Queue<P>) {
    let base = queue_base(queue.physical().0, queue.registers().log2_slots);
    mmio.write64(offset::CMDQ_BASE, base);
    mmio.write32(offset::CMDQ_PROD, 0);
    mmio.write32(offset::CMDQ_CONS, 0);
}

impl QueueRegisters<WORDS> for Registers {
    fn write_tail(&self, mmio: &impl Mmio, position: u64) {
        // The wrap flag is the bit above the index, so both are the position's low bits.
        let index_and_wrap = position & ((2 << self.log2_slots) - 1);
        mmio.write32(offset::CMDQ_PROD, index_and_wrap as u32);
    }

    fn read_head(&self, mmio: &impl Mmio) -> usize {
        read_consumer(mmio).read(CMDQ_CONS::RD) as usize
    }

    fn sync(&self, word: Option<CompletionWord>) -> Command<WORDS> {
        match word {
            Some(word) => commands::sync_with_message(word.address.0, word.value),
            None => commands::sync(),
        }
    }

    /// The queue stops in front of an illegal command, and in front of a CMD_SYNC that found an
    /// ATC_INV unanswered (7.1).
    fn read_stop(&self, mmio: &impl Mmio) -> Option<Stop> {
        let active = mmio.read32(offset::GERROR) ^ mmio.read32(offset::GERRORN);
        let active = Value::<GERROR::Register>::new(active);
        let stop = |error, loss| Some(Stop { error, loss });
        if active.is_set(GERROR::MSI_CMDQ_ABT_ERR) {
            return stop(QueueError::MemoryFault, Loss::Queue);
        }
        if !active.is_set(GERROR::CMDQ_ERR) {
            return None;
        }
        let consumer = read_consumer(mmio);
        let slot = consumer.read(CMDQ_CONS::RD) as usize & ((1 << self.log2_slots) - 1);
        match consumer.read(CMDQ_CONS::ERR) {
            command_error::ILLEGAL => {
                stop(QueueError::IllegalCommand { slot }, Loss::Command { slot })
            }
            command_error::ABORT => stop(QueueError::MemoryFault, Loss::Queue),
            command_error::ATC_INV_SYNC if planted::is(Fault::SmmuTimeoutIgnored) => {
                self.acknowledge(mmio);
                None
            }
            command_error::ATC_INV_SYNC => stop(
                QueueError::DeviceTimeout { device: None },
                Loss::Sync { slot },
            ),
            code => stop(QueueError::Unknown { code }, Loss::Queue),
        }
    }

    /// Acknowledging the error restarts the queue (7.1).
    fn restart(&self, mmio: &impl Mmio, _: Stop, _: u64) {
        if !planted::is(Fault::SmmuErrorKept) {
            self.acknowledge(mmio);
        }
    }
}

impl Registers {
    fn acknowledge(&self, mmio: &impl Mmio) {
        let error = GERROR::CMDQ_ERR::SET.value;
        self.errors.acknowledge(mmio, error);
    }
}

fn read_consumer(mmio: &impl Mmio) -> Value<CMDQ_CONS::Register> {
    Value::new(mmio.read32(offset::CMDQ_CONS))
}
