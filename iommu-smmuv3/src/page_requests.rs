//! The PRI queue (chapter 8), stalled transactions (3.12.2), and the commands that answer both.

use crate::caps::Capabilities;
use crate::control::GlobalErrors;
use crate::planted::{self, Fault};
use crate::spec::commands::{self, Command, ResponseCode, Resume};
use crate::spec::events::{Event, PAGE_REQUEST_WORDS, PageRequestRecord};
use crate::spec::registers::{GERROR, PRIQ_PROD, Value, offset, queue_base};
use alloc::sync::Arc;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::page_request::{Origin, PageRequest, PageResponse, Permissions, Response, Taken};
use iommu_core::platform::{DmaBuffer, Mmio, Parts, Platform};

/// The PRI queue of one SMMU.
#[derive(Debug)]
pub struct PriQueue<P: Platform> {
    records: DmaBuffer<P>,
    errors: Arc<GlobalErrors>,
    log2_slots: u32,
    /// The index of the next record, with the wrap flag above it.
    consumer: u32,
    /// The overflow flag that was acknowledged last.
    overflow: u32,
}

impl<P: Platform> PriQueue<P> {
    /// An empty queue; the hardware does not know of it yet.
    pub fn new(
        parts: &Arc<Parts<P>>,
        capabilities: &Capabilities,
        errors: &Arc<GlobalErrors>,
    ) -> Result<Self, OutOfMemory> {
        let log2_slots = capabilities.pri_queue_log2();
        let bytes = (PAGE_REQUEST_WORDS * 8) << log2_slots;
        let records = DmaBuffer::new(parts, bytes, bytes.max(32), capabilities.coherency())?;
        Ok(Self {
            records,
            errors: errors.clone(),
            log2_slots,
            consumer: 0,
            overflow: 0,
        })
    }

    /// Tells the SMMU where the empty queue lies. CR0.PRIQEN is 0.
    pub fn set_up(&self, mmio: &impl Mmio) {
        let base = queue_base(self.records.physical().0, self.log2_slots);
        mmio.write64(offset::PRIQ_BASE, base);
        mmio.write32(offset::PRIQ_PROD, 0);
        mmio.write32(offset::PRIQ_CONS, 0);
    }

    /// As [`Iommu::take_page_requests`](iommu_core::iommu::Iommu::take_page_requests).
    ///
    /// An overflow is acknowledged by the write that empties the queue (8.1): until then the SMMU
    /// records nothing and answers by itself.
    pub fn take(&mut self, mmio: &impl Mmio, most: usize, take: &mut dyn FnMut(Taken)) -> usize {
        let producer = Value::<PRIQ_PROD::Register>::new(mmio.read32(offset::PRIQ_PROD));
        let overflow = producer.read(PRIQ_PROD::OVFLG);
        let index_and_wrap = (2 << self.log2_slots) - 1;
        let tail = producer.read(PRIQ_PROD::WR) & index_and_wrap;
        let written = tail.wrapping_sub(self.consumer) & index_and_wrap;
        let slots = 1 << self.log2_slots;
        let waiting = written.min(slots) as usize;
        for _ in 0..waiting.min(most) {
            take(Taken::Request(decode(&self.record(self.consumer))));
            self.consumer = (self.consumer + 1) & index_and_wrap;
        }
        let left = waiting.saturating_sub(most);
        let mut lost = overflow != self.overflow;
        if lost && left > 0 && planted::is(Fault::SmmuPageOverflowEarly) {
            take(Taken::Overflow);
        }
        if left == 0 {
            // More than the queue holds: the register lies, or the SMMU lost count.
            lost |= written > slots;
            self.consumer = tail;
            // After an aborted write nothing is recorded until that is acknowledged (8.2).
            let aborted = GERROR::PRIQ_ABT_ERR::SET.value;
            let was_aborted = P::without_interrupts(|| self.errors.acknowledge(mmio, aborted));
            lost |= was_aborted && !planted::is(Fault::SmmuPageAbortIgnored);
            if lost {
                take(Taken::Overflow);
                if !planted::is(Fault::SmmuPageOverflowKept) {
                    self.overflow = overflow;
                }
            }
        }
        if (written > 0 || lost) && !planted::is(Fault::SmmuPageRequestsKept) {
            let acknowledged = PRIQ_PROD::OVFLG.val(self.overflow).value;
            mmio.write32(offset::PRIQ_CONS, self.consumer | acknowledged);
        }
        left
    }

    fn record(&self, position: u32) -> PageRequestRecord {
        let slot = position as usize & ((1 << self.log2_slots) - 1);
        PageRequestRecord(core::array::from_fn(|word| {
            self.records.load(slot * PAGE_REQUEST_WORDS + word)
        }))
    }
}

/// The neutral request that a record of the PRI queue stands for; it may be a stop marker.
pub fn decode(record: &PageRequestRecord) -> PageRequest {
    PageRequest {
        device: DeviceId(record.stream()),
        pasid: pasid(record.substream()),
        address: record.page(),
        permissions: Permissions {
            read: record.read(),
            write: record.write(),
            execute: record.execute(),
            privileged: record.is_privileged(),
        },
        group: record.group_index(),
        last: record.is_last(),
        origin: Origin::PageRequest,
    }
}

/// The neutral request that an event stands for, if its transaction is stalled. An instruction fetch
/// asks to execute, not to read.
pub fn decode_stall(event: &Event) -> Option<PageRequest> {
    let tag = event.stall_tag()?;
    let (read, execute) = (event.is_read()?, event.is_instruction());
    Some(PageRequest {
        device: DeviceId(event.stream()),
        pasid: pasid(event.substream()),
        address: event.address()?,
        permissions: Permissions {
            read: read && !execute,
            write: !read,
            execute,
            privileged: event.is_privileged(),
        },
        group: tag,
        last: true,
        origin: Origin::Stall,
    })
}

/// The command that answers a group or resumes a transaction.
pub fn encode(response: &PageResponse) -> Command {
    let stream = response.device.0;
    match response.origin {
        Origin::PageRequest => {
            let substream = response.pasid.map(Pasid::get);
            let substream = substream.filter(|_| !planted::is(Fault::SmmuResponseWithoutPasid));
            let code = match response.response {
                Response::Success => ResponseCode::Success,
                Response::Invalid if planted::is(Fault::SmmuRefusedAsResolved) => {
                    ResponseCode::Success
                }
                Response::Invalid => ResponseCode::InvalidRequest,
                Response::Failure => ResponseCode::ResponseFailure,
            };
            commands::pri_resp(stream, substream, response.group, code)
        }
        Origin::Stall => {
            let action = match response.response {
                Response::Success => Resume::Retry,
                Response::Invalid if planted::is(Fault::SmmuStallRetried) => Resume::Retry,
                Response::Invalid | Response::Failure => Resume::Abort,
            };
            commands::resume(stream, response.group, action)
        }
    }
}

fn pasid(substream: Option<u32>) -> Pasid {
    substream.and_then(Pasid::new).unwrap_or(Pasid::UNTAGGED)
}
