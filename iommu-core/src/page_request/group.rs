//! A complete group in the hands of whoever resolves it.

use super::list::Link;
use super::pool::Page;
use super::request::Response;
use super::responses::Responses;
use super::service::PageRequests;
use crate::ids::{DeviceId, Pasid};
use crate::planted::{self, Fault};
use alloc::sync::Arc;
use core::fmt;

/// Who resolves the page requests of one address space.
///
/// Called from [`PageRequests::serve`], in its context and without a lock of the framework, one
/// group at a time for each thread that serves. It may sleep, but other devices' groups wait
/// meanwhile; a kernel that has to read pages from storage hands the groups to a thread, by
/// [`GroupQueue`](super::GroupQueue).
pub trait PageRequestHandler: Send + Sync {
    /// Takes over a group, to answer it now or later.
    ///
    /// For each page: find what is mapped at the address, check that it permits what the device asks
    /// for, and make it present, as for a fault of the CPU.
    fn handle(&self, group: PageGroup, responses: &mut Responses);
}

/// A handler that resolves each group at once.
#[derive(Clone, Copy, Debug)]
pub struct Resolve<F>(pub F);

impl<F: Fn(&PageGroup) -> Response + Send + Sync> PageRequestHandler for Resolve<F> {
    fn handle(&self, group: PageGroup, responses: &mut Responses) {
        let Self(resolve) = self;
        let response = resolve(&group);
        group.respond(response, responses);
    }
}

/// A complete group that waits for its response.
///
/// When its PASID is unbound, or its device is reset or removed, the group is answered without
/// waiting for its holder: [`pages`](Self::pages) ends then, and a late response changes nothing.
/// Dropped, it is answered [`Response::Invalid`].
#[must_use = "a group that is dropped is answered `Invalid`"]
pub struct PageGroup {
    service: Arc<PageRequests>,
    device: DeviceId,
    pasid: Pasid,
    slot: Link,
    number: u64,
    is_answered: bool,
}

impl PageGroup {
    pub(super) fn new(
        service: &Arc<PageRequests>,
        device: DeviceId,
        pasid: Pasid,
        slot: Link,
        number: u64,
    ) -> Self {
        Self {
            service: service.clone(),
            device,
            pasid,
            slot,
            number,
            is_answered: false,
        }
    }

    /// Whose requests.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Their PASID; [`Pasid::UNTAGGED`] if they had none.
    pub fn pasid(&self) -> Pasid {
        self.pasid
    }

    /// The pages asked for, in the order in which the requests came.
    pub fn pages(&self) -> Pages<'_> {
        Pages {
            group: self,
            some: [Page::default(); AT_ONCE],
            count: 0,
            at: 0,
            next: None,
        }
    }

    /// Answers the group; the response goes to the device with the others of the batch.
    pub fn respond(mut self, response: Response, responses: &mut Responses) {
        self.answer(response, responses);
    }

    fn answer(&mut self, response: Response, responses: &mut Responses) {
        self.is_answered = true;
        let Self { device, .. } = *self;
        if let Some(response) = self
            .service
            .finish(device, self.slot, self.number, response)
        {
            responses.add(self.service.iommu(), response);
        }
    }
}

impl Drop for PageGroup {
    fn drop(&mut self) {
        if !self.is_answered && !planted::is(Fault::DroppedGroupForgotten) {
            self.answer(Response::Invalid, &mut Responses::new());
        }
    }
}

impl fmt::Debug for PageGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PageGroup")
            .field("device", &self.device)
            .field("pasid", &self.pasid)
            .finish_non_exhaustive()
    }
}

/// How many pages are looked up at a time.
const AT_ONCE: usize = 8;

/// The pages of a group. Each eighth step takes the lock of [`PageRequests`] for a moment.
#[derive(Debug)]
pub struct Pages<'a> {
    group: &'a PageGroup,
    some: [Page; AT_ONCE],
    count: usize,
    at: usize,
    /// Where those after `some` are; `None` before the first.
    next: Option<Link>,
}

impl Iterator for Pages<'_> {
    type Item = Page;

    fn next(&mut self) -> Option<Page> {
        if self.at == self.count {
            let PageGroup {
                service,
                device,
                slot,
                number,
                ..
            } = self.group;
            let (from, to) = (self.next, &mut self.some);
            let (count, next) = service.pages(*device, *slot, *number, from, to);
            (self.count, self.at, self.next) = (count, 0, Some(next));
        }
        let page = *self.some[..self.count].get(self.at)?;
        self.at += 1;
        Some(page)
    }
}
