//! A queue that a test fills, and handlers.

use super::super::*;
use crate::error::{AttachError, Incompatible, QueueError, TagsExhausted};
use crate::fault::{Fault, FaultSummary};
use crate::ids::{DeviceId, Pasid, Tag};
use crate::iommu::{Completed, DeviceConfig, Features, Iommu, PageFaults, Ticket};
use crate::operation::Invalidation;
use crate::page_table::PageTable;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use spin::Mutex;

pub const NIC: DeviceId = DeviceId(8);
pub const GPU: DeviceId = DeviceId(16);
pub const SMART: DeviceId = DeviceId(24);
pub const ABSENT: DeviceId = DeviceId(99);
pub const SHARE: DeviceShare = DeviceShare(32);

pub fn pasid(value: u32) -> Pasid {
    Pasid::new(value).unwrap()
}

/// Something that the IOMMU was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The responses of one doorbell.
    Respond(Vec<PageResponse>),
    Drain(DeviceId, Pasid),
}

/// NIC and GPU make page requests, the GPU wants PASIDs in responses; SMART stalls.
#[derive(Default)]
pub struct Queue {
    pub queue: Mutex<VecDeque<Taken>>,
    /// What comes into the queue by the next drain.
    pub in_flight: Mutex<Vec<Taken>>,
    pub calls: Mutex<Vec<Call>>,
    pub fails: AtomicBool,
}

impl Queue {
    pub fn fill(&self, requests: impl IntoIterator<Item = PageRequest>) {
        let taken = requests.into_iter().map(Taken::Request);
        self.queue.lock().extend(taken);
    }

    pub fn calls(&self) -> Vec<Call> {
        core::mem::take(&mut *self.calls.lock())
    }

    /// All responses since the last call, by (device, group).
    pub fn responses(&self) -> Vec<(DeviceId, u16, Response)> {
        let batches = self.calls().into_iter().filter_map(|call| match call {
            Call::Respond(batch) => Some(batch),
            Call::Drain(..) => None,
        });
        let plain = |response: PageResponse| (response.device, response.group, response.response);
        batches.flatten().map(plain).collect()
    }
}

impl Iommu for Queue {
    fn features(&self) -> Features {
        unreachable!("page requests need no features")
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
    fn device_config(&self, device: DeviceId) -> Option<DeviceConfig> {
        let page_faults = match device {
            NIC | GPU => PageFaults::PageRequests {
                response_pasid: device == GPU,
            },
            SMART => PageFaults::Stall,
            _ => return (device != ABSENT).then(DeviceConfig::default),
        };
        Some(DeviceConfig {
            page_faults,
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
        panic!("nothing is waited for");
    }
    fn take_faults(&self, _: &mut dyn FnMut(Fault)) -> FaultSummary {
        FaultSummary::default()
    }
    fn take_page_requests(&self, most: usize, take: &mut dyn FnMut(Taken)) -> usize {
        let mut queue = self.queue.lock();
        assert!(most > 0);
        for _ in 0..most {
            let Some(taken) = queue.pop_front() else {
                break;
            };
            take(taken);
        }
        queue.len()
    }
    fn respond(&self, responses: &[PageResponse]) -> Result<(), QueueError> {
        assert!(!responses.is_empty() && responses.len() <= 64);
        self.calls.lock().push(Call::Respond(responses.into()));
        if self.fails.load(SeqCst) {
            return Err(QueueError::MemoryFault);
        }
        Ok(())
    }
    fn drain_page_requests(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        self.calls.lock().push(Call::Drain(device, pasid));
        let arrived = core::mem::take(&mut *self.in_flight.lock());
        self.queue.lock().extend(arrived);
        Ok(())
    }
}

/// Notes what it is handed, and answers `Success`.
#[derive(Default)]
pub struct Handler(pub Mutex<Vec<(DeviceId, Pasid, Vec<u64>)>>);

impl Handler {
    pub fn taken(&self) -> Vec<(DeviceId, Pasid, Vec<u64>)> {
        core::mem::take(&mut *self.0.lock())
    }
}

impl PageRequestHandler for Handler {
    fn handle(&self, group: PageGroup, responses: &mut Responses) {
        let pages = group.pages().map(|page| page.address).collect();
        self.0.lock().push((group.device(), group.pasid(), pages));
        group.respond(Response::Success, responses);
    }
}

/// Keeps the groups that it is handed.
#[derive(Default)]
pub struct Keeper(pub Mutex<Vec<PageGroup>>);

impl PageRequestHandler for Keeper {
    fn handle(&self, group: PageGroup, _: &mut Responses) {
        self.0.lock().push(group);
    }
}

pub struct System {
    pub queue: Arc<Queue>,
    pub service: Arc<PageRequests>,
    pub handler: Arc<Handler>,
}

impl System {
    /// PASIDs 1 and 2 of the NIC and the GPU have a handler, and PASID 1 of SMART.
    pub fn new() -> Self {
        let queue = Arc::new(Queue::default());
        let service = PageRequests::new(queue.clone());
        let handler = Arc::new(Handler::default());
        for (device, pasids) in [(NIC, 1..=2), (GPU, 1..=2), (SMART, 1..=1)] {
            service.add_device(device, SHARE).unwrap();
            for value in pasids {
                service
                    .route(device, pasid(value), handler.clone())
                    .unwrap();
            }
        }
        Self {
            queue,
            service,
            handler,
        }
    }

    /// Puts requests into the queue and serves it.
    pub fn serve(&self, requests: impl IntoIterator<Item = PageRequest>) -> Served {
        self.queue.fill(requests);
        self.service.serve().unwrap()
    }
}

/// A read of the NIC with PASID 1 that is not the last.
pub fn read(group: u16, page: u64) -> PageRequest {
    PageRequest {
        device: NIC,
        pasid: pasid(1),
        address: page << 12,
        permissions: Permissions {
            read: true,
            ..Permissions::default()
        },
        group,
        last: false,
        origin: Origin::PageRequest,
    }
}

pub fn last(request: PageRequest) -> PageRequest {
    PageRequest {
        last: true,
        ..request
    }
}

pub fn of(device: DeviceId, request: PageRequest) -> PageRequest {
    PageRequest { device, ..request }
}

pub fn with(pasid: Pasid, request: PageRequest) -> PageRequest {
    PageRequest { pasid, ..request }
}

pub fn asking(permissions: Permissions, request: PageRequest) -> PageRequest {
    PageRequest {
        permissions,
        ..request
    }
}

pub const NOTHING: Permissions = Permissions {
    read: false,
    write: false,
    execute: false,
    privileged: false,
};
