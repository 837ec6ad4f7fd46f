//! The invalidation queue: the shared ring on VT-d's registers (section 6.5.2).

use crate::control::{GlobalCommand, HANDSHAKE_LIMIT};
use crate::planted::{self, Fault};
use crate::spec::commands::{self, Command};
use crate::spec::registers::{
    FSTS, FaultStatus, Global, IQA, IQERCD, IQH, IQT, QueueErrorRecord, fault_status,
    fault_status_clear, queue_address, queue_error_record, queue_slot, queue_tail,
};
use iommu_core::error::{QueueError, Timeout};
use iommu_core::ids::DeviceId;
use iommu_core::platform::{Mmio, Parts, Platform, WalkerCoherency, wait_until};
use iommu_core::ring::{Completion, CompletionWord, Config, Loss, QueueRegisters, Ring, Stop};

/// 64-bit words in a descriptor. Only 256-bit queues take descriptors with a PASID.
pub const WORDS: usize = 4;

/// Descriptors in the queue.
const SLOTS: usize = 256;

/// The most commands of a list with a fence: one slot stays free, two are the fence and the sync.
pub(crate) const ROOM: usize = SLOTS - 3;

/// The invalidation queue of one IOMMU.
pub type Queue<P> = Ring<WORDS, Registers, P>;

/// The queue's registers and its sync command.
#[derive(Debug)]
pub struct Registers;

impl QueueRegisters<WORDS> for Registers {
    fn write_tail(&self, mmio: &impl Mmio, position: u64) {
        mmio.write64(IQT, queue_tail((position % SLOTS as u64) as usize));
    }

    fn read_head(&self, mmio: &impl Mmio) -> usize {
        queue_slot(mmio.read64(IQH))
    }

    fn sync(&self, word: Option<CompletionWord>) -> Command {
        match word {
            Some(word) => commands::wait_status(word.address, word.value),
            None => commands::wait_fence(),
        }
    }

    /// An illegal descriptor stops the queue in front of itself (6.5.2.9). When a device does not
    /// answer in time, the waits that were fetched and are not complete are dropped (6.5.2.10).
    fn read_stop(&self, mmio: &impl Mmio) -> Option<Stop> {
        let status = FaultStatus::new(mmio.read32(FSTS));
        if status.is_set(fault_status::IQE) {
            let record = QueueErrorRecord::new(mmio.read64(IQERCD));
            let slot = self.read_head(mmio);
            let (error, loss) = match record.read_as_enum(queue_error_record::IQEI) {
                Some(queue_error_record::IQEI::Value::DescriptorFetch) => {
                    (QueueError::MemoryFault, Loss::Queue)
                }
                None => (QueueError::IllegalCommand { slot }, Loss::Command { slot }),
            };
            return Some(Stop { error, loss });
        }
        if status.is_set(fault_status::ITE) {
            if planted::is(Fault::VtdTimeoutIgnored) {
                mmio.write32(FSTS, fault_status_clear::TIME_OUT);
                return None;
            }
            let record = QueueErrorRecord::new(mmio.read64(IQERCD));
            let source_id = record.read(queue_error_record::ITESID) as u32;
            let named = source_id != 0 && !planted::is(Fault::VtdTimeoutWithoutDevice);
            let device = named.then_some(DeviceId(source_id));
            return Some(Stop {
                error: QueueError::DeviceTimeout { device },
                loss: Loss::PendingSyncs,
            });
        }
        if status.is_set(fault_status::ICE) {
            // An answer that nobody waits for does not stop the queue; the request that it should
            // have answered ends as a time-out.
            mmio.write32(FSTS, fault_status_clear::COMPLETION_ERROR);
        }
        None
    }

    fn restart(&self, mmio: &impl Mmio, stop: Stop, position: u64) {
        let acknowledge = match stop.loss {
            Loss::PendingSyncs if planted::is(Fault::VtdTimeoutKept) => 0,
            Loss::PendingSyncs => fault_status_clear::TIME_OUT,
            _ => fault_status_clear::QUEUE_ERROR,
        };
        mmio.write32(FSTS, acknowledge);
        self.write_tail(mmio, position);
    }
}

/// How the ring is set up. The hardware's accesses to the queue and its completion writes snoop,
/// whatever ECAP.C says of tables (11.4.3).
pub(crate) const fn config() -> Config {
    Config::new(SLOTS, Completion::Memory, WalkerCoherency::Coherent)
}

/// Points the hardware, whose queue is off, at `queue` and turns it on; that resets the head.
pub(crate) fn enable<P: Platform>(
    parts: &Parts<P>,
    global: &GlobalCommand<P>,
    queue: &Queue<P>,
) -> Result<(), Timeout> {
    parts.mmio.write64(IQT, queue_tail(0));
    parts
        .mmio
        .write64(IQA, queue_address(queue.physical().0, SLOTS));
    global.enable(Global::QUEUE, "turning on the invalidation queue")
}

/// Turns the queue off, whoever turned it on.
///
/// A queue that stopped with an error never drains, so errors are acknowledged first; what is left
/// in it then is given some time, and lost.
pub(crate) fn disable<P: Platform>(
    parts: &Parts<P>,
    global: &GlobalCommand<P>,
) -> Result<(), Timeout> {
    if !global.status().contains(Global::QUEUE) {
        return Ok(());
    }
    let mmio = &parts.mmio;
    mmio.write32(FSTS, fault_status_clear::ALL);
    let drained = "draining the invalidation queue";
    // The width of the descriptors may be the firmware's, so the registers are compared whole.
    let _ = wait_until(&parts.clock, HANDSHAKE_LIMIT / 10, drained, || {
        mmio.read64(IQH) == mmio.read64(IQT)
    });
    global.disable(Global::QUEUE, "turning off the invalidation queue")
}
