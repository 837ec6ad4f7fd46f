//! The page requests of one IOMMU.

use super::devices::{Device, Devices, Next};
use super::group::{PageGroup, PageRequestHandler};
use super::list::{Link, NONE};
use super::pool::Page;
use super::request::{PageResponse, Response, Taken};
use super::responses::Responses;
use crate::error::{AttachError, QueueError};
use crate::ids::{DeviceId, Pasid};
use crate::iommu::{Iommu, PageFaults};
use crate::planted::{self, Fault};
use crate::primitive::Mutex;
use alloc::sync::Arc;
use core::error::Error;
use core::fmt;

/// How often [`PageRequests::serve`] looks at the queue before it returns to its caller.
const ROUNDS: usize = 64;
/// How many complete groups are handed out before the queue is looked at again.
const GROUPS: usize = 256;
/// How often a drain is repeated for requests that came during it.
const DRAINS: usize = 4;

/// How many requests a device may have that were not answered yet.
///
/// At least what the kernel allows it by the PCIe register Outstanding Page Request Allocation,
/// else requests that the device may send are refused. 1 to 32,768.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceShare(pub u16);

/// Why a device was not added. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddError {
    /// It was not enabled on the IOMMU, or not with page requests or stalls.
    NotEnabled(DeviceId),
    /// It is there already.
    AlreadyAdded(DeviceId),
    /// As many devices as there can be: 65,535.
    TooMany,
}

/// Why a handler was not set. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// The device was not [added](PageRequests::add_device).
    UnknownDevice(DeviceId),
    /// The PASID has a handler on that device.
    PasidInUse(DeviceId, Pasid),
}

/// What [`PageRequests::serve`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Requests and stop markers taken out of the hardware's queue.
    pub requests: usize,
    /// Groups handed to their handlers.
    pub groups: usize,
    /// Requests were lost since the last call, as the queue was full.
    pub overflowed: bool,
    /// There is more: call again, without waiting for an interrupt.
    pub more: bool,
}

/// The page requests of one IOMMU.
///
/// A kernel makes one beside each IOMMU whose devices ask for pages, and calls
/// [`serve`](Self::serve) from a thread whenever the IOMMU's page-request interrupt came, or by
/// polling. No method is for interrupt handlers.
pub struct PageRequests {
    iommu: Arc<dyn Iommu>,
    devices: Mutex<Devices>,
}

/// One look at the queue.
struct Round {
    requests: usize,
    left: usize,
    overflowed: bool,
}

impl PageRequests {
    /// No device yet. The hardware's queue is `iommu`'s own and is on since probe.
    pub fn new(iommu: Arc<dyn Iommu>) -> Arc<Self> {
        Arc::new(Self {
            iommu,
            devices: Mutex::new(Devices::default()),
        })
    }

    /// The IOMMU.
    pub fn iommu(&self) -> &Arc<dyn Iommu> {
        &self.iommu
    }

    /// Makes room for a device's requests: everything that they will ever take. After
    /// [`Iommu::enable_device`], before page requests are enabled in the device.
    ///
    /// # Errors
    ///
    /// [`AddError`].
    pub fn add_device(&self, device: DeviceId, share: DeviceShare) -> Result<(), AddError> {
        let config = self.iommu.device_config(device);
        let response_pasid = match config.map(|config| config.page_faults) {
            Some(PageFaults::PageRequests { response_pasid }) => response_pasid,
            Some(PageFaults::Stall) => false,
            Some(PageFaults::Fatal) | None => return Err(AddError::NotEnabled(device)),
        };
        let DeviceShare(share) = share;
        let added = Device::new(device, share, response_pasid);
        self.devices.lock().add(added)
    }

    /// Ends a device's page requests: its PASIDs lose their handlers, and complete groups are
    /// answered [`Response::Invalid`]. After page requests are disabled in the device.
    pub fn remove_device(&self, device: DeviceId) {
        let mut responses = Responses::new();
        let removed = {
            let mut devices = self.devices.lock();
            let all = |_| true;
            devices.end(device, all, |response| responses.add(&self.iommu, response));
            devices.remove(device)
        };
        // Dropped without the lock, as a handler's drop is the kernel's.
        drop(removed);
    }

    /// How many requests of a device are kept at this moment, for it to be watched: no more than its
    /// share. 0 if it was not added. Counts them, under the lock.
    pub fn kept(&self, device: DeviceId) -> usize {
        let mut devices = self.devices.lock();
        devices.get(device).map_or(0, |device| device.pool.kept())
    }

    /// Forgets every request of a device without an answer, those in the hardware's queue included: it
    /// was reset, or it is gone, and waits for none. After the reset, before its page requests are
    /// enabled again: an old answer would be taken for one to a new group with the same index. Its
    /// PASIDs keep their handlers. [`ResetHandshake`](crate::sva::ResetHandshake) calls it.
    pub fn device_reset(&self, device: DeviceId) {
        // An IOMMU that posts no responses has lost those of others too; `serve` tells.
        let _ = self.take_all();
        let mut devices = self.devices.lock();
        devices.end(device, |_| true, drop);
        if let Some(device) = devices.get(device) {
            device.pool.forgive();
        }
    }

    /// Hands the requests of `device` with `pasid` to `handler` from now on, after the PASID was
    /// attached. [`SvaSpace::bind_with_page_requests`](crate::sva::SvaSpace::bind_with_page_requests)
    /// does it for shared virtual addressing.
    ///
    /// # Errors
    ///
    /// [`RouteError`].
    pub fn route(
        &self,
        device: DeviceId,
        pasid: Pasid,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<(), RouteError> {
        self.devices.lock().route(device, pasid, handler)
    }

    /// Takes the handler of `device` and `pasid` away. Complete groups that are not answered yet are
    /// answered [`Response::Invalid`], those that a handler holds included, and so is every request
    /// that comes from now on. Waits for nothing; a handler that is at work may still be running.
    pub fn unroute(&self, device: DeviceId, pasid: Pasid) {
        let mut responses = Responses::new();
        let handler = {
            let mut devices = self.devices.lock();
            let concerns = |its| its == pasid && !planted::is(Fault::GroupsLeftAtUnbind);
            devices.end(device, concerns, |response| {
                responses.add(&self.iommu, response)
            });
            devices.unroute(device, pasid)
        };
        drop(handler);
    }

    /// Waits until no request of `device` with `pasid` is left anywhere: first the responses go out,
    /// then the IOMMU drains ([`Iommu::drain_page_requests`]), then what that brought into the queue
    /// is taken out and answered.
    ///
    /// The PASID was [taken away](Self::unroute), its entry is blocked, and the device sends no
    /// further request with it. Requests of others that are taken out on the way are kept for the
    /// next [`serve`](Self::serve).
    ///
    /// # Errors
    ///
    /// The IOMMU did not confirm.
    pub fn drain(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        for _ in 0..DRAINS {
            self.iommu.drain_page_requests(device, pasid)?;
            if !self.take_all()? {
                break;
            }
        }
        Ok(())
    }

    /// Serves the queue: takes the requests out, hands complete groups to their handlers, by turns
    /// between devices, and posts the responses.
    ///
    /// # Errors
    ///
    /// Responses could not be posted. The requests were taken all the same.
    pub fn serve(self: &Arc<Self>) -> Result<Served, QueueError> {
        let mut responses = Responses::new();
        let mut served = Served::default();
        for _ in 0..ROUNDS {
            let round = self.take(&mut responses);
            let groups = self.hand_out(&mut responses);
            served.requests += round.requests;
            served.overflowed |= round.overflowed;
            served.groups += groups;
            served.more = round.left > 0 || groups == GROUPS;
            if !served.more {
                break;
            }
        }
        responses.post()?;
        Ok(served)
    }

    /// Takes out of the hardware's queue as many requests as the batch has room for responses: none
    /// is posted before the hardware has the queue's slots back, as it lets a device send more.
    fn take(&self, responses: &mut Responses) -> Round {
        let most = responses.make_room();
        let mut requests = 0;
        let mut overflowed = false;
        let mut devices = self.devices.lock();
        let left = self.iommu.take_page_requests(most, &mut |taken| {
            match taken {
                Taken::Request(_) => requests += 1,
                Taken::Overflow => overflowed = true,
            }
            if let Some(response) = devices.accept(&taken) {
                responses.add(&self.iommu, response);
            }
        });
        Round {
            requests,
            left,
            overflowed,
        }
    }

    /// Takes out everything that the queue holds now. True if there was an overflow.
    fn take_all(&self) -> Result<bool, QueueError> {
        let mut responses = Responses::new();
        let first = self.take(&mut responses);
        let (mut left, mut overflowed) = (first.left, first.overflowed);
        while left > 0 {
            let round = self.take(&mut responses);
            overflowed |= round.overflowed;
            left = left.saturating_sub(round.requests).min(round.left);
        }
        responses.post()?;
        Ok(overflowed)
    }

    /// Hands complete groups to their handlers, until there are none or it is time for a look at the
    /// queue.
    fn hand_out(self: &Arc<Self>, responses: &mut Responses) -> usize {
        for count in 0..GROUPS {
            // The lock is released before the handler is called.
            let next = self.devices.lock().next();
            let Some(next) = next else {
                return count;
            };
            let Next { device, group, .. } = next;
            let group = PageGroup::new(self, device, group.pasid, group.slot, next.number);
            next.handler.handle(group, responses);
        }
        GROUPS
    }

    /// The response that ends a group, unless it was ended before.
    pub(super) fn finish(
        &self,
        device: DeviceId,
        slot: Link,
        number: u64,
        response: Response,
    ) -> Option<PageResponse> {
        let mut devices = self.devices.lock();
        let its = devices.get(device)?;
        let group = its.pool.finish(slot, number)?;
        Some(its.response(group, response))
    }

    pub(super) fn pages(
        &self,
        device: DeviceId,
        slot: Link,
        number: u64,
        link: Option<Link>,
        to: &mut [Page],
    ) -> (usize, Link) {
        let mut devices = self.devices.lock();
        match devices.get(device) {
            Some(its) => its.pool.pages(slot, number, link, to),
            None => (0, NONE),
        }
    }
}

impl fmt::Debug for PageRequests {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PageRequests")
            .finish_non_exhaustive()
    }
}

impl fmt::Display for AddError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEnabled(device) => {
                write!(
                    formatter,
                    "device {device} is not enabled with page requests or stalls"
                )
            }
            Self::AlreadyAdded(device) => {
                write!(
                    formatter,
                    "device {device} has its share of requests already"
                )
            }
            Self::TooMany => write!(formatter, "too many devices ask for pages"),
        }
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDevice(device) => {
                write!(formatter, "device {device} has no share of requests")
            }
            Self::PasidInUse(device, pasid) => {
                write!(formatter, "PASID {pasid} of device {device} has a handler")
            }
        }
    }
}

impl Error for AddError {}
impl Error for RouteError {}
