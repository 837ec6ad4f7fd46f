//! The IOMMU's interrupts, and the threads that they wake.

use crate::process::{Memory, Process};
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, Ordering};
use iommu_core::error::QueueError;
use iommu_core::fault::Fault;
use iommu_core::page_request::{
    GroupQueue, Page, PageGroup, PageRequestHandler, PageRequests, Response, Responses,
};

// ANCHOR: interrupt
/// One IOMMU's events. The handlers of its fault and page-request interrupts call [`wake`](Self::wake);
/// a thread calls [`work`](Self::work). A kernel without these interrupts calls `work` now and then.
#[derive(Debug)]
pub struct Events {
    page_requests: Arc<PageRequests>,
    pending: AtomicBool,
}

impl Events {
    /// The events of an IOMMU.
    pub fn new(page_requests: Arc<PageRequests>) -> Self {
        Self {
            page_requests,
            pending: AtomicBool::new(true),
        }
    }

    /// In an interrupt handler: no lock, no register. The kernel wakes the thread.
    pub fn wake(&self) {
        self.pending.store(true, Ordering::Release);
    }

    /// In the thread: everything that happened since.
    ///
    /// # Errors
    ///
    /// The IOMMU posts no responses any more.
    pub fn work(&self, report: &mut dyn FnMut(Fault)) -> Result<(), QueueError> {
        while self.pending.swap(false, Ordering::Acquire) {
            self.page_requests.iommu().take_faults(report);
            while self.page_requests.serve()?.more {}
        }
        Ok(())
    }
}
// ANCHOR_END: interrupt

// ANCHOR: handler
/// Resolves the page faults of one process: the kernel's own handler of the CPU's page faults, with
/// the rights that the device asks for.
pub struct Pager<M: Memory, F> {
    /// Not an `Arc`, as the process owns the binding that owns this.
    pub process: Weak<Process<M>>,
    /// Makes a page present; false if the process must not use it so.
    pub fault_in: F,
}

impl<M, F> Pager<M, F>
where
    M: Memory,
    F: Fn(&Process<M>, Page) -> bool,
{
    /// All pages of a group are there, or the device is told to give up.
    pub fn resolve(&self, group: &PageGroup) -> Response {
        let present = self
            .process
            .upgrade()
            .is_some_and(|process| group.pages().all(|page| (self.fault_in)(&process, page)));
        if present {
            Response::Success
        } else {
            Response::Invalid
        }
    }
}

impl<M, F> PageRequestHandler for Pager<M, F>
where
    M: Memory + 'static,
    F: Fn(&Process<M>, Page) -> bool + Send + Sync,
{
    fn handle(&self, group: PageGroup, responses: &mut Responses) {
        let response = self.resolve(&group);
        group.respond(response, responses); // With the others of the batch, by one doorbell.
    }
}
// ANCHOR_END: handler

// ANCHOR: thread
/// A thread of its own for a process whose pages come from storage: the queue is the handler that the
/// device is bound with, `wake` wakes the thread, and this is the thread's turn.
///
/// # Errors
///
/// The IOMMU posts no responses any more.
pub fn resolve_queued<M, F, W>(queue: &GroupQueue<W>, pager: &Pager<M, F>) -> Result<(), QueueError>
where
    M: Memory,
    F: Fn(&Process<M>, Page) -> bool,
    W: Fn() + Send + Sync,
{
    queue.resolve(|group| pager.resolve(group))
}
// ANCHOR_END: thread
