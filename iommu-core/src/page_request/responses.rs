//! Responses on their way to the hardware, gathered so that many share one doorbell.

use super::request::{Origin, PageResponse, Response};
use crate::error::QueueError;
use crate::ids::DeviceId;
use crate::invalidation_set::is_same;
use crate::iommu::Iommu;
use alloc::sync::Arc;
use core::fmt;

/// How many responses are gathered at most.
const CAPACITY: usize = 64;

const EMPTY: PageResponse = PageResponse {
    device: DeviceId(0),
    pasid: None,
    group: 0,
    origin: Origin::PageRequest,
    response: Response::Invalid,
};

/// A batch of responses: posted by one doorbell when it is full, at [`post`](Self::post), or when it
/// is dropped. It lives on the stack, and nobody keeps it longer than its work takes: devices wait.
pub struct Responses {
    /// Whose ring they go to.
    iommu: Option<Arc<dyn Iommu>>,
    gathered: [PageResponse; CAPACITY],
    count: usize,
    result: Result<(), QueueError>,
}

impl Responses {
    /// An empty batch.
    pub const fn new() -> Self {
        Self {
            iommu: None,
            gathered: [EMPTY; CAPACITY],
            count: 0,
            result: Ok(()),
        }
    }

    /// How many more fit before the batch is posted: posts it if that is less than half.
    pub(super) fn make_room(&mut self) -> usize {
        if self.count > CAPACITY / 2 {
            self.post_gathered();
        }
        CAPACITY - self.count
    }

    /// Adds a response of a device behind `iommu`. A full batch, or one for another IOMMU, is posted
    /// first.
    pub(super) fn add(&mut self, iommu: &Arc<dyn Iommu>, response: PageResponse) {
        let is_same = self.iommu.as_ref().is_some_and(|its| is_same(its, iommu));
        if !is_same || self.count == CAPACITY {
            self.post_gathered();
        }
        if !is_same {
            self.iommu = Some(iommu.clone());
        }
        self.gathered[self.count] = response;
        self.count += 1;
    }

    /// Posts what was gathered.
    ///
    /// # Errors
    ///
    /// The first error of the queue since the last call: those devices get no answer, as the IOMMU
    /// carries out nothing any more.
    pub fn post(&mut self) -> Result<(), QueueError> {
        self.post_gathered();
        core::mem::replace(&mut self.result, Ok(()))
    }

    fn post_gathered(&mut self) {
        if self.count == 0 {
            return;
        }
        if let Some(iommu) = &self.iommu {
            let posted = iommu.respond(&self.gathered[..self.count]);
            self.result = self.result.and(posted);
        }
        self.count = 0;
    }
}

impl Default for Responses {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.post_gathered();
    }
}

impl fmt::Debug for Responses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Responses")
            .field("gathered", &&self.gathered[..self.count])
            .finish_non_exhaustive()
    }
}
