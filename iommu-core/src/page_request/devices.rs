//! The devices behind one IOMMU that may ask for pages: what the lock of
//! [`PageRequests`](super::PageRequests) protects.

use super::group::PageRequestHandler;
use super::list::{Link, Links, List};
use super::pool::{Answerable, InService, Outcome, Pool};
use super::request::{Origin, PageRequest, PageResponse, Response, Taken};
use super::service::{AddError, RouteError};
use crate::ids::{DeviceId, Pasid};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

type Handler = Arc<dyn PageRequestHandler>;

#[derive(Default)]
pub(super) struct Devices {
    /// By slot, which stays a device's own as long as it is there.
    slots: Vec<Option<Box<Device>>>,
    /// The slots, sorted by device.
    index: Vec<(DeviceId, Link)>,
    /// The devices with complete groups, the one whose turn it is first.
    turns: List,
    links: Links,
    /// How many groups were handed out.
    number: u64,
}

pub(super) struct Device {
    addressing: Addressing,
    pub(super) pool: Pool,
    /// Sorted by PASID.
    handlers: Vec<(Pasid, Handler)>,
    is_in_turns: bool,
}

/// How responses reach a device.
#[derive(Clone, Copy)]
struct Addressing {
    device: DeviceId,
    /// Whether a response carries the PASID of the request.
    response_pasid: bool,
}

/// A complete group, taken out to be handled.
pub(super) struct Next {
    pub(super) device: DeviceId,
    pub(super) group: InService,
    pub(super) number: u64,
    pub(super) handler: Handler,
}

impl Device {
    pub(super) fn new(device: DeviceId, share: u16, response_pasid: bool) -> Box<Self> {
        Box::new(Self {
            addressing: Addressing {
                device,
                response_pasid,
            },
            pool: Pool::new(share),
            handlers: Vec::new(),
            is_in_turns: false,
        })
    }

    /// What tells the device how a group ended.
    pub(super) fn response(&self, group: Answerable, response: Response) -> PageResponse {
        self.addressing.response(group, response)
    }

    fn find(&self, pasid: Pasid) -> Result<usize, usize> {
        self.handlers.binary_search_by_key(&pasid, |(its, _)| *its)
    }
}

impl Addressing {
    fn response(self, group: Answerable, response: Response) -> PageResponse {
        let wants_pasid = self.response_pasid && group.origin == Origin::PageRequest;
        PageResponse {
            device: self.device,
            pasid: (wants_pasid && !group.pasid.is_untagged()).then_some(group.pasid),
            group: group.group,
            origin: group.origin,
            response,
        }
    }
}

impl Devices {
    pub(super) fn add(&mut self, device: Box<Device>) -> Result<(), AddError> {
        let Err(at) = self.find(device.addressing.device) else {
            return Err(AddError::AlreadyAdded(device.addressing.device));
        };
        let free = self.slots.iter().position(Option::is_none);
        let slot = match free {
            Some(slot) => slot,
            None if self.slots.len() >= usize::from(Link::MAX) => return Err(AddError::TooMany),
            None => {
                self.slots.push(None);
                self.links.grow();
                self.slots.len() - 1
            }
        };
        self.index
            .insert(at, (device.addressing.device, slot as Link));
        self.slots[slot] = Some(device);
        Ok(())
    }

    pub(super) fn remove(&mut self, device: DeviceId) -> Option<Box<Device>> {
        let at = self.find(device).ok()?;
        let (_, slot) = self.index.remove(at);
        let removed = self.slots[usize::from(slot)].take();
        if removed.as_ref().is_some_and(|device| device.is_in_turns) {
            self.turns.remove(&mut self.links, slot);
        }
        removed
    }

    pub(super) fn get(&mut self, device: DeviceId) -> Option<&mut Device> {
        let slot = self.slot(device)?;
        self.slots[usize::from(slot)].as_deref_mut()
    }

    pub(super) fn route(
        &mut self,
        device: DeviceId,
        pasid: Pasid,
        handler: Handler,
    ) -> Result<(), RouteError> {
        let its = self.get(device).ok_or(RouteError::UnknownDevice(device))?;
        let Err(at) = its.find(pasid) else {
            return Err(RouteError::PasidInUse(device, pasid));
        };
        its.handlers.insert(at, (pasid, handler));
        Ok(())
    }

    pub(super) fn unroute(&mut self, device: DeviceId, pasid: Pasid) -> Option<Handler> {
        let its = self.get(device)?;
        let at = its.find(pasid).ok()?;
        Some(its.handlers.remove(at).1)
    }

    /// Takes in what the hardware's queue held; returns what is to be answered at once.
    ///
    /// A device that is not there keeps nothing: the last of each of its groups is answered.
    pub(super) fn accept(&mut self, taken: &Taken) -> Option<PageResponse> {
        let request = match taken {
            Taken::Request(request) => request,
            Taken::Overflow => {
                for device in self.slots.iter_mut().flatten() {
                    device.pool.overflowed();
                }
                return None;
            }
        };
        let Some(slot) = self.slot(request.device) else {
            return refuse_unknown(request);
        };
        let device = self.slots[usize::from(slot)].as_deref_mut()?;
        let handlers = &device.handlers;
        let is_served = |pasid| {
            handlers
                .binary_search_by_key(&pasid, |(its, _)| *its)
                .is_ok()
        };
        match device.pool.accept(request, is_served) {
            Outcome::Taken => None,
            Outcome::Answered(response) => Some(device.response(answerable(request), response)),
            Outcome::Ready => {
                if !core::mem::replace(&mut device.is_in_turns, true) {
                    self.turns.push(&mut self.links, slot);
                }
                None
            }
        }
    }

    /// The next complete group: the oldest of the device whose turn it is.
    pub(super) fn next(&mut self) -> Option<Next> {
        loop {
            let slot = self.turns.first()?;
            self.turns.remove(&mut self.links, slot);
            let device = self.slots[usize::from(slot)].as_deref_mut()?;
            self.number += 1;
            let group = device.pool.take_ready(self.number);
            device.is_in_turns = device.pool.has_ready();
            if device.is_in_turns {
                self.turns.push(&mut self.links, slot);
            }
            // A device whose complete groups were all ended keeps its turn until it comes.
            let Some(group) = group else {
                continue;
            };
            let at = device.find(group.pasid).ok()?;
            return Some(Next {
                device: device.addressing.device,
                group,
                number: self.number,
                handler: device.handlers[at].1.clone(),
            });
        }
    }

    /// Ends the groups of a device whose PASID `concerns` says, and hands over the responses that
    /// complete ones are due.
    pub(super) fn end(
        &mut self,
        device: DeviceId,
        concerns: impl Fn(Pasid) -> bool,
        mut answer: impl FnMut(PageResponse),
    ) {
        let Some(device) = self.get(device) else {
            return;
        };
        let Device {
            pool, addressing, ..
        } = device;
        pool.end_all(concerns, |group| {
            answer(addressing.response(group, Response::Invalid));
        });
    }

    fn slot(&self, device: DeviceId) -> Option<Link> {
        self.find(device).ok().map(|at| self.index[at].1)
    }

    fn find(&self, device: DeviceId) -> Result<usize, usize> {
        self.index.binary_search_by_key(&device, |(id, _)| *id)
    }
}

/// A device that nobody expects requests of. Whether it wants a PASID in the response is not known.
fn refuse_unknown(request: &PageRequest) -> Option<PageResponse> {
    let is_due = request.last && !request.is_stop_marker();
    is_due.then_some(PageResponse {
        device: request.device,
        pasid: None,
        group: request.group,
        origin: request.origin,
        response: Response::Invalid,
    })
}

fn answerable(request: &PageRequest) -> Answerable {
    Answerable {
        pasid: request.pasid,
        group: request.group,
        origin: request.origin,
    }
}
