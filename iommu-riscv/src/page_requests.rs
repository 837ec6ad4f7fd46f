//! The page-request queue (section "Page-Request-Queue"), and page request group responses.

use crate::planted::{self, Fault};
use crate::queue::{accept_base, clear_event_queue_errors, enable_event_queue};
use crate::spec::commands::{self, Command, ResponseCode};
use crate::spec::events::{PAGE_REQUEST_WORDS, PageRequestRecord};
use crate::spec::registers::{self, EventQueueStatus};
use alloc::sync::Arc;
use iommu_core::error::{OutOfMemory, ProbeError};
use iommu_core::ids::{DeviceId, Pasid};
use iommu_core::page_request::{Origin, PageRequest, PageResponse, Permissions, Response, Taken};
use iommu_core::platform::{DmaBuffer, Mmio, Parts, Platform, WalkerCoherency};
use spin::Mutex;

/// The page-request queue of one IOMMU.
pub(crate) struct PageRequestQueue<P: Platform> {
    parts: Arc<Parts<P>>,
    records: DmaBuffer<P>,
    log2_records: u32,
    head: Mutex<u32>,
}

impl<P: Platform> PageRequestQueue<P> {
    /// A queue of 2^`log2_records` records.
    pub(crate) fn new(
        parts: &Arc<Parts<P>>,
        log2_records: u32,
        coherency: WalkerCoherency,
    ) -> Result<Self, OutOfMemory> {
        let bytes = (PAGE_REQUEST_WORDS * 8) << log2_records;
        Ok(Self {
            parts: parts.clone(),
            records: DmaBuffer::new(parts, bytes, bytes.max(4096), coherency)?,
            log2_records,
            head: Mutex::new(0),
        })
    }

    /// Turns the queue on, empty. It is off.
    pub(crate) fn enable(&self) -> Result<(), ProbeError> {
        let mmio = &self.parts.mmio;
        let value = registers::queue_base(self.log2_records, self.records.physical());
        mmio.write64(registers::PQB, value);
        accept_base(mmio.read64(registers::PQB), value, "pqb")?;
        mmio.write32(registers::PQH, 0);
        let operation = "turning the page-request queue on";
        enable_event_queue(&self.parts, registers::PQCSR, operation)?;
        Ok(())
    }

    /// As [`Iommu::take_page_requests`](iommu_core::iommu::Iommu::take_page_requests).
    ///
    /// The error bits are cleared only over an empty queue: until then the IOMMU records nothing and
    /// answers by itself. A record that it could not store counts as an overflow.
    pub(crate) fn take(&self, most: usize, take: &mut dyn FnMut(Taken)) -> usize {
        let mmio = &self.parts.mmio;
        let mask = (1u32 << self.log2_records) - 1;
        let mut head = self.head.lock();
        let waiting = |head: u32| (mmio.read32(registers::PQT).wrapping_sub(head) & mask) as usize;
        let found = waiting(*head);
        for _ in 0..found.min(most) {
            take(Taken::Request(decode(self.record(*head))));
            *head = (*head + 1) & mask;
        }
        if found > 0 && !planted::is(Fault::RiscvPageRequestsKept) {
            mmio.write32(registers::PQH, *head);
        }
        let errors = EventQueueStatus::QMF.union(EventQueueStatus::QOF);
        let status = EventQueueStatus::from_bits_retain(mmio.read32(registers::PQCSR));
        let errors = status.intersection(errors);
        if errors.is_empty() {
            return found.saturating_sub(most);
        }
        let left = waiting(*head);
        if left == 0 || planted::is(Fault::RiscvPageOverflowEarly) {
            take(Taken::Overflow);
            if planted::is(Fault::RiscvPageOverflowKept) {
                return left;
            }
            // Should the register stay busy, the bits stay too, and the next call tries again.
            let _ = clear_event_queue_errors(&self.parts, registers::PQCSR, errors);
        }
        left
    }

    fn record(&self, index: u32) -> PageRequestRecord {
        let first = index as usize * PAGE_REQUEST_WORDS;
        PageRequestRecord(core::array::from_fn(|word| self.records.load(first + word)))
    }
}

/// A record in neutral terms. A stop marker is one too.
pub fn decode(record: PageRequestRecord) -> PageRequest {
    let pasid = if record.has_process_id() {
        Pasid::new(record.process_id()).unwrap_or(Pasid::UNTAGGED)
    } else {
        Pasid::UNTAGGED
    };
    PageRequest {
        device: DeviceId(record.device_id()),
        pasid,
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

/// The command that answers a group.
pub fn encode(response: &PageResponse) -> Command {
    let code = match response.response {
        Response::Success => ResponseCode::Success,
        Response::Invalid if planted::is(Fault::RiscvRefusedAsResolved) => ResponseCode::Success,
        Response::Invalid => ResponseCode::InvalidRequest,
        Response::Failure => ResponseCode::ResponseFailure,
    };
    let pasid = response
        .pasid
        .filter(|_| !planted::is(Fault::RiscvResponseWithoutPasid));
    commands::ats_prgr(response.device, pasid, response.group, code)
}
