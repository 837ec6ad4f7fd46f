//! An IOMMU that is nothing but a page-request queue.

use super::Stream;
use iommu_core::error::{AttachError, Incompatible, QueueError, TagsExhausted};
use iommu_core::fault::{Fault, FaultSummary};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::iommu::{Completed, DeviceConfig, Features, Iommu, PageFaults, Ticket};
use iommu_core::operation::Invalidation;
use iommu_core::page_request::{Origin, PageRequest, PageResponse, Permissions, Taken};
use iommu_core::page_table::PageTable;
use spin::Mutex;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

pub const DEVICE: DeviceId = DeviceId(0x108);
pub const PASID: Pasid = match Pasid::new(9) {
    Some(pasid) => pasid,
    None => Pasid::UNTAGGED,
};

/// A read that is not the last of its group.
pub const REQUEST: PageRequest = PageRequest {
    device: DEVICE,
    pasid: PASID,
    address: 0,
    permissions: Permissions {
        read: true,
        write: false,
        execute: false,
        privileged: false,
    },
    group: 0,
    last: false,
    origin: Origin::PageRequest,
};

/// The queue: it has as many requests as it is told to, and counts what goes out.
pub struct Queue {
    stream: Mutex<Stream>,
    expected: AtomicU64,
    pub responses: AtomicU64,
    /// Calls of `respond`, each of which is one doorbell in every backend.
    pub doorbells: AtomicU64,
    pub waits: AtomicU64,
}

impl Queue {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream: Mutex::new(stream),
            expected: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            doorbells: AtomicU64::new(0),
            waits: AtomicU64::new(0),
        }
    }

    /// Lets `requests` come.
    pub fn expect(&self, requests: u64) {
        self.expected.store(requests, Ordering::Relaxed);
    }

    pub fn is_expecting(&self) -> bool {
        self.expected.load(Ordering::Relaxed) > 0
    }
}

impl Iommu for Queue {
    fn features(&self) -> Features {
        unreachable!("nobody asks")
    }
    fn check(&self, _: &PageTable) -> Result<(), Incompatible> {
        Ok(())
    }
    fn allocate_tag(&self) -> Result<Tag, TagsExhausted> {
        Err(TagsExhausted)
    }
    fn free_tag(&self, _: Tag) {}
    fn enable_device(&self, _: DeviceId, _: DeviceConfig) -> Result<(), AttachError> {
        Ok(())
    }
    fn disable_device(&self, _: DeviceId) -> Result<(), AttachError> {
        Ok(())
    }
    fn device_config(&self, _: DeviceId) -> Option<DeviceConfig> {
        Some(DeviceConfig {
            page_faults: PageFaults::PageRequests {
                response_pasid: true,
            },
            ..DeviceConfig::default()
        })
    }
    fn attach(&self, _: DeviceId, _: Pasid, _: Tag, _: &PageTable) -> Result<(), AttachError> {
        Ok(())
    }
    fn block(&self, _: DeviceId, _: Pasid) -> Result<(), AttachError> {
        Ok(())
    }
    fn detach(&self, _: DeviceId, _: Pasid) -> Result<(), AttachError> {
        Ok(())
    }
    fn submit(&self, _: &Invalidation<'_>) -> Result<Ticket, QueueError> {
        Err(QueueError::Aborted)
    }
    fn wait(&self, _: Ticket) -> Result<Completed, QueueError> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        Err(QueueError::Aborted)
    }
    fn take_faults(&self, _: &mut dyn FnMut(Fault)) -> FaultSummary {
        FaultSummary::default()
    }
    fn take_page_requests(&self, most: usize, take: &mut dyn FnMut(Taken)) -> usize {
        let mut stream = self.stream.lock();
        let expected = self.expected.load(Ordering::Relaxed);
        let now = expected.min(most as u64);
        for _ in 0..now {
            take(Taken::Request(stream.next()));
        }
        self.expected.store(expected - now, Ordering::Relaxed);
        (expected - now) as usize
    }
    fn respond(&self, responses: &[PageResponse]) -> Result<(), QueueError> {
        black_box(responses);
        let count = responses.len() as u64;
        self.responses.fetch_add(count, Ordering::Relaxed);
        self.doorbells.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
