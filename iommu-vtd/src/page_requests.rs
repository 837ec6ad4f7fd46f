//! The page-request queue (sections 7.4 and 11.4.11), and page group responses.

use crate::planted::{self, Fault};
use crate::spec::commands::{self, Command, ResponseCode};
use crate::spec::events::{PAGE_REQUEST_WORDS, PageRequestRecord};
use crate::spec::registers::{
    PECTL, PECTL_INTERRUPT_MASK, PQA, PQH, PQT, PRS, PageRequestStatus, page_queue_address,
    page_queue_register, page_queue_slot, page_request_status, page_request_status_clear,
};
use alloc::sync::Arc;
use iommu_core::error::OutOfMemory;
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress};
use iommu_core::page_request::{Origin, PageRequest, PageResponse, Permissions, Response, Taken};
use iommu_core::platform::{DmaBuffer, Mmio, Parts, Platform, WalkerCoherency};
use spin::Mutex;

/// Records in the queue: 32 KiB. The page requests that a kernel allows its devices should not be
/// more.
const SLOTS: usize = 1024;

/// The page-request queue of one IOMMU.
#[derive(Debug)]
pub(crate) struct PageRequestQueue<P: Platform> {
    /// The hardware's writes to it snoop, whatever ECAP.C says of tables (11.4.3).
    records: DmaBuffer<P>,
    /// Where a drain writes; nobody reads it.
    drained: DmaBuffer<P>,
    /// The slot of the next record.
    head: Mutex<usize>,
}

impl<P: Platform> PageRequestQueue<P> {
    /// An empty queue; the hardware does not know of it yet.
    pub(crate) fn new(parts: &Arc<Parts<P>>) -> Result<Self, OutOfMemory> {
        let bytes = SLOTS * PAGE_REQUEST_WORDS * 8;
        Ok(Self {
            records: DmaBuffer::new(parts, bytes, bytes, WalkerCoherency::Coherent)?,
            drained: DmaBuffer::new(parts, 64, 64, WalkerCoherency::Coherent)?,
            head: Mutex::new(0),
        })
    }

    /// Tells the hardware where the queue lies; translation is off. What firmware left is dropped.
    /// From the time when translation is on, requests of devices whose context entry has PRE are
    /// recorded.
    pub(crate) fn set_up(&self, mmio: &impl Mmio) {
        mmio.write32(PECTL, PECTL_INTERRUPT_MASK);
        mmio.write64(PQH, page_queue_register(0));
        mmio.write64(PQT, page_queue_register(0));
        mmio.write64(PQA, page_queue_address(self.records.physical().0, SLOTS));
        mmio.write32(PRS, page_request_status_clear::ALL);
    }

    /// As [`Iommu::take_page_requests`](iommu_core::iommu::Iommu::take_page_requests).
    ///
    /// The pending bit is cleared before the tail is read, so that a request that comes after that
    /// raises it again. The overflow bit is cleared only over an empty queue: until then the hardware
    /// answers by itself what it cannot record.
    pub(crate) fn take(&self, mmio: &impl Mmio, most: usize, take: &mut dyn FnMut(Taken)) -> usize {
        let mut head = self.head.lock();
        let tail = || page_queue_slot(mmio.read64(PQT)) % SLOTS;
        let between = |head: usize, tail: usize| (tail + SLOTS - head) % SLOTS;
        mmio.write32(PRS, page_request_status_clear::PENDING);
        let waiting = between(*head, tail());
        for _ in 0..waiting.min(most) {
            if let Some(request) = decode(self.record(*head)) {
                take(Taken::Request(request));
            }
            *head = (*head + 1) % SLOTS;
        }
        if waiting > 0 && !planted::is(Fault::VtdPageRequestsKept) {
            mmio.write64(PQH, page_queue_register(*head));
        }
        let status = PageRequestStatus::new(mmio.read32(PRS));
        if !status.is_set(page_request_status::PRO) {
            return waiting.saturating_sub(most);
        }
        let left = between(*head, tail());
        if left == 0 || planted::is(Fault::VtdPageOverflowEarly) {
            take(Taken::Overflow);
            if !planted::is(Fault::VtdPageOverflowKept) {
                mmio.write32(PRS, page_request_status_clear::OVERFLOW);
            }
        }
        left
    }

    /// Where a drain's wait descriptor writes.
    pub(crate) fn drained(&self) -> PhysicalAddress {
        self.drained.physical()
    }

    fn record(&self, slot: usize) -> PageRequestRecord {
        let first = slot * PAGE_REQUEST_WORDS;
        PageRequestRecord {
            low: self.records.load(first),
            high: self.records.load(first + 1),
        }
    }
}

/// The neutral request that a record stands for; `None` if it is of a type that the specification
/// does not define.
pub fn decode(record: PageRequestRecord) -> Option<PageRequest> {
    if !record.is_page_request() {
        return None;
    }
    Some(PageRequest {
        device: DeviceId(record.source_id().into()),
        pasid: record
            .pasid()
            .and_then(Pasid::new)
            .unwrap_or(Pasid::UNTAGGED),
        address: record.page(),
        permissions: Permissions {
            read: record.read(),
            write: record.write(),
            execute: record.execute(),
            privileged: record.privileged(),
        },
        group: record.group_index(),
        last: record.is_last(),
        origin: Origin::PageRequest,
    })
}

/// The descriptor that answers a group.
pub fn encode(response: &PageResponse) -> Command {
    let code = match response.response {
        Response::Success => ResponseCode::Success,
        Response::Invalid if planted::is(Fault::VtdRefusedAsResolved) => ResponseCode::Success,
        Response::Invalid => ResponseCode::InvalidRequest,
        Response::Failure => ResponseCode::ResponseFailure,
    };
    let source_id = response.device.0 as u16;
    let pasid = response
        .pasid
        .filter(|_| !planted::is(Fault::VtdResponseWithoutPasid));
    commands::page_group_response(source_id, pasid, response.group, code)
}
