//! What Linux 7.3 does with a page request, as we understand it, in code of our own: a device found
//! in a tree under a mutex; each request that is not the last in an allocation of its own, on the
//! device's list of partial requests; at the last one an allocated group, to which the whole list is
//! searched for members; the group on a list of pending ones until it is answered, one response each.
//!
//! The work item and the response cost nothing here, so the comparison is of the grouping alone.

use iommu_core::ids::DeviceId;
use iommu_core::page_request::{PageRequest, Response};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Mutex;

/// Handles the pages of a group.
type Handler = fn(&mut dyn Iterator<Item = u64>) -> Response;

pub struct Model {
    devices: Mutex<BTreeMap<DeviceId, Box<Device>>>,
    handler: Handler,
}

#[derive(Default)]
struct Device {
    partial: Mutex<Option<Box<Partial>>>,
    pending: Mutex<Option<Box<Group>>>,
}

struct Partial {
    request: PageRequest,
    next: Option<Box<Partial>>,
}

struct Group {
    members: Option<Box<Partial>>,
    last: PageRequest,
}

impl Model {
    pub fn new(handler: Handler) -> Self {
        let device = (super::DEVICE, Box::<Device>::default());
        Self {
            devices: Mutex::new(BTreeMap::from([device])),
            handler,
        }
    }

    /// One request, from the queue to the response.
    pub fn report(&mut self, request: PageRequest) {
        let devices = self.devices.lock().expect("nobody panics");
        let device = &devices[&request.device];
        let mut partial = device.partial.lock().expect("nobody panics");
        if !request.last {
            let next = partial.take();
            *partial = Some(Box::new(Partial { request, next }));
            return;
        }
        let mut group = Box::new(Group {
            members: None,
            last: request,
        });
        let mut rest = &mut *partial;
        while let Some(mut at) = rest.take() {
            if at.request.group == request.group {
                *rest = at.next.take();
                at.next = group.members.take();
                group.members = Some(at);
            } else {
                rest = &mut rest.insert(at).next;
            }
        }
        drop(partial);
        *device.pending.lock().expect("nobody panics") = Some(group);
        self.work(device);
    }

    /// The work item: each fault of the group, then the response.
    fn work(&self, device: &Device) {
        let Some(group) = device.pending.lock().expect("nobody panics").take() else {
            return;
        };
        let mut member = group.members.as_deref();
        let members = std::iter::from_fn(|| {
            let at = member?;
            member = at.next.as_deref();
            Some(at.request.address)
        });
        let last = group.last;
        let response = (self.handler)(&mut members.chain([last.address]));
        black_box((last.device, last.group, response));
    }
}
