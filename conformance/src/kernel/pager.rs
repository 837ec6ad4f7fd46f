//! Page faults of devices, as the kernel resolves them.

use super::frames::PAGE;
use super::process::Process;
use super::{Kernel, Rights, lock};
use crate::outcome::Outcome;
use iommu_core::iommu::PageFaults;
use iommu_core::page_request::{
    DeviceShare, GroupQueue, PageGroup, PageRequestHandler, PageRequests, Permissions, Response,
    Responses,
};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// How many requests each device may have that are not answered.
pub const SHARE: DeviceShare = DeviceShare(64);

/// Addresses that a process may use, and whether it may write there.
pub type Region = (Range<u64>, bool);

/// Resolves the page faults of one process.
pub struct Pager {
    process: Weak<Process>,
    regions: Vec<Region>,
    groups: AtomicUsize,
    refused: AtomicUsize,
}

impl Pager {
    /// A pager that maps pages of `regions` when they are asked for.
    pub fn new(process: &Arc<Process>, regions: &[Region]) -> Arc<Self> {
        Arc::new(Self {
            process: Arc::downgrade(process),
            regions: regions.to_vec(),
            groups: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        })
    }

    /// How many groups came, and how many of them were refused.
    pub fn counts(&self) -> (usize, usize) {
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (load(&self.groups), load(&self.refused))
    }

    /// Makes every page of a group present, with the rights that it asks for.
    pub fn resolve(&self, group: &PageGroup) -> Response {
        self.groups.fetch_add(1, Ordering::Relaxed);
        let present = self.process.upgrade().is_some_and(|process| {
            group.pages().all(|page| {
                let Permissions { write, .. } = page.permissions;
                let address = page.address / PAGE * PAGE;
                self.permits(address, page.permissions)
                    .is_some_and(|rights| {
                        matches!(process.fault_in(address, write, rights), Ok(true))
                    })
            })
        });
        if present {
            Response::Success
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Response::Invalid
        }
    }

    /// What a page at `address` may be mapped with, if the process may use it so.
    fn permits(&self, address: u64, wanted: Permissions) -> Option<Rights> {
        let Permissions { write, execute, .. } = wanted;
        let mut regions = self.regions.iter();
        let (_, writable) = regions.find(|(addresses, _)| addresses.contains(&address))?;
        let rights = Rights {
            write: *writable,
            user: true,
        };
        (!execute && (*writable || !write)).then_some(rights)
    }
}

impl PageRequestHandler for Pager {
    fn handle(&self, group: PageGroup, responses: &mut Responses) {
        let response = self.resolve(&group);
        group.respond(response, responses);
    }
}

/// A kernel thread that resolves the groups in its queue when [`Kernel::attend`] lets it run.
pub struct Worker {
    /// Its queue.
    pub queue: Arc<GroupQueue<fn()>>,
    pager: Arc<Pager>,
}

impl Kernel {
    /// A thread with a queue for `capacity` groups, which `pager` resolves.
    pub fn worker(&self, pager: &Arc<Pager>, capacity: usize) -> Arc<GroupQueue<fn()>> {
        let queue = Arc::new(GroupQueue::new(capacity, (|| ()) as fn()));
        lock(&self.workers).push(Worker {
            queue: queue.clone(),
            pager: pager.clone(),
        });
        queue
    }

    /// The page requests of a seat's IOMMU.
    pub fn page_requests(&self, seat: usize) -> &Arc<PageRequests> {
        &self.page_requests[self.rig.seats()[seat].iommu]
    }

    /// Makes room for the page requests of the device on a seat, if it makes any.
    pub fn expect_page_requests(&self, seat: usize) -> Outcome {
        if self.config.page_faults == PageFaults::Fatal {
            return Ok(());
        }
        let device = self.rig.seats()[seat].device;
        Ok(self.page_requests(seat).add_device(device, SHARE)?)
    }

    /// Serves every IOMMU's page requests once; how much there was to do.
    pub fn serve(&self) -> Outcome<usize> {
        let mut done = 0;
        for page_requests in &self.page_requests {
            let served = page_requests.serve()?;
            done += served.requests + served.groups + usize::from(served.overflowed);
        }
        Ok(done)
    }

    /// Serves every IOMMU's page requests, and lets the threads run that resolve them; how much there
    /// was to do.
    pub fn attend(&self) -> Outcome<usize> {
        if self.config.page_faults == PageFaults::Fatal {
            return Ok(0);
        }
        let mut done = self.serve()?;
        for Worker { queue, pager } in &*lock(&self.workers) {
            let before = pager.counts().0;
            queue.resolve(|group| pager.resolve(group))?;
            done += pager.counts().0 - before;
        }
        Ok(done)
    }
}
