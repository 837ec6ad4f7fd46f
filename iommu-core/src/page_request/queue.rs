//! Groups on their way to a kernel thread.

use super::group::{PageGroup, PageRequestHandler};
use super::request::Response;
use super::responses::Responses;
use crate::error::QueueError;
use alloc::collections::VecDeque;
use core::fmt;
use spin::Mutex;

/// A bounded queue of groups that a kernel thread resolves.
///
/// A group that finds it full is answered [`Response::Success`] at once, as an IOMMU does whose own
/// queue is full: the device finds no translation again, and asks again.
pub struct GroupQueue<W> {
    groups: Mutex<VecDeque<PageGroup>>,
    capacity: usize,
    wake: W,
}

impl<W: Fn() + Send + Sync> GroupQueue<W> {
    /// A queue for `capacity` groups. `wake` is called after each one that comes in, from
    /// [`PageRequests::serve`](super::PageRequests::serve); it wakes the thread that calls
    /// [`resolve`](Self::resolve).
    pub fn new(capacity: usize, wake: W) -> Self {
        Self {
            groups: Mutex::new(VecDeque::with_capacity(capacity)),
            capacity,
            wake,
        }
    }

    /// Takes the oldest group out.
    pub fn pop(&self) -> Option<PageGroup> {
        self.groups.lock().pop_front()
    }

    /// Resolves what is in the queue, at most as many groups as it can hold, and posts the
    /// responses.
    ///
    /// # Errors
    ///
    /// As [`Responses::post`].
    pub fn resolve(&self, resolve: impl Fn(&PageGroup) -> Response) -> Result<(), QueueError> {
        let mut responses = Responses::new();
        for _ in 0..self.capacity {
            let Some(group) = self.pop() else {
                break;
            };
            let response = resolve(&group);
            group.respond(response, &mut responses);
        }
        responses.post()
    }
}

impl<W: Fn() + Send + Sync> PageRequestHandler for GroupQueue<W> {
    fn handle(&self, group: PageGroup, responses: &mut Responses) {
        let mut groups = self.groups.lock();
        if groups.len() >= self.capacity {
            drop(groups);
            return group.respond(Response::Success, responses);
        }
        groups.push_back(group);
        drop(groups);
        (self.wake)();
    }
}

impl<W> fmt::Debug for GroupQueue<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("GroupQueue")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
