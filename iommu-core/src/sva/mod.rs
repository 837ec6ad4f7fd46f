//! Shared virtual addressing: joins an address space to the devices that work in it.
//!
//! [`Sva`] exists once in a system. The kernel makes one [`SvaSpace`] for each address space that
//! devices share, beside its page table, and [`bind`](SvaSpace::bind)s devices to it. From then on
//! the kernel's notifications keep the devices' translations coherent with the page table.
//!
//! At process exit, [`AddressSpace::release`] blocks every bound device, quietly; whoever bound it
//! unbinds it later.

mod domain;
mod error;
#[cfg(all(test, loom))]
mod loom;
mod reset;
#[cfg(all(test, not(loom)))]
mod tests;

pub use domain::{Failure, FailureHandler};
pub use error::{BindError, JoinError, UnbindError};
pub use reset::{ResetHandshake, RestoreError};

use crate::error::AttachError;
use crate::ids::{DeviceId, Pasid};
use crate::iommu::Iommu;
use crate::page_request::{PageRequestHandler, PageRequests};
use crate::page_table::PageTable;
use crate::pasid::PasidAllocator;
use crate::planted::{self, Fault};
use alloc::sync::Arc;
use core_notifier::{AddressSpace, AddressSpaceLock, Notifier};
use domain::{Domain, Resolver};

/// Which requests of a device a binding is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// Those that carry the address space's PASID.
    Tagged,
    /// Those that carry no PASID.
    Untagged,
}

/// The shared virtual addressing of one system: its PASIDs, and who is told of failures.
pub struct Sva {
    pasids: PasidAllocator,
    failures: Arc<dyn FailureHandler>,
}

impl Sva {
    /// PASIDs from 1 to `last`, which every device is to be able to send. `failures` is told when an
    /// invalidation could not be completed.
    pub fn new(last: Pasid, failures: Arc<dyn FailureHandler>) -> Arc<Self> {
        Arc::new(Self {
            pasids: PasidAllocator::new(last),
            failures,
        })
    }

    /// Joins an address space: gives it a PASID for life and subscribes to its notifications.
    ///
    /// `lock` is the address space's own ([`AddressSpace::register`]); the caller holds no part of
    /// it. May sleep.
    ///
    /// # Errors
    ///
    /// No PASID is free, or the address space was released. Nothing has changed then.
    pub fn join(
        self: &Arc<Self>,
        notifiers: Arc<AddressSpace>,
        lock: &impl AddressSpaceLock,
        table: PageTable,
    ) -> Result<SvaSpace, JoinError> {
        let pasid = self.pasids.allocate()?;
        let domain = Arc::new(Domain::new(
            notifiers.srcu().clone(),
            table,
            pasid,
            self.failures.clone(),
        ));
        let notifier: Arc<dyn Notifier> = domain.clone();
        if let Err(error) = notifiers.register(lock, notifier.clone()) {
            self.pasids.free(pasid);
            return Err(error.into());
        }
        Ok(SvaSpace {
            sva: self.clone(),
            notifiers,
            domain,
            notifier,
        })
    }
}

/// One address space as devices see it.
///
/// Dropping it unbinds every device, ends the subscription and frees the PASID. It is dropped before
/// the page table is freed, in a context that may sleep, and not from a notifier's callback.
pub struct SvaSpace {
    sva: Arc<Sva>,
    notifiers: Arc<AddressSpace>,
    domain: Arc<Domain>,
    notifier: Arc<dyn Notifier>,
}

impl SvaSpace {
    /// The PASID that devices put on their requests; the same on every device, until the drop.
    pub fn pasid(&self) -> Pasid {
        self.domain.pasid()
    }

    /// Lets `device`, which was enabled on `iommu`, work in the address space.
    ///
    /// When it returns, the device's requests of that kind are translated by the page table, and
    /// every notification reaches it. May sleep; not from a notifier's callback.
    ///
    /// # Errors
    ///
    /// Each leaves everything as it was. [`BindError::Released`] after exit;
    /// [`BindError::AlreadyBound`]; [`BindError::Attach`] when the IOMMU cannot walk the page table,
    /// does not know the device, or has the PASID in use for another address space.
    pub fn bind(
        &self,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
        requests: Requests,
    ) -> Result<(), BindError> {
        self.domain
            .bind(iommu, device, self.pasid_of(requests), None)
    }

    /// As [`bind`](Self::bind) on the IOMMU of `page_requests`, and hands the device's page requests
    /// with that PASID to `handler`, last of all. The device was
    /// [added](PageRequests::add_device).
    ///
    /// # Errors
    ///
    /// Those of [`bind`](Self::bind), and [`BindError::Route`].
    pub fn bind_with_page_requests(
        &self,
        page_requests: &Arc<PageRequests>,
        device: DeviceId,
        requests: Requests,
        handler: Arc<dyn PageRequestHandler>,
    ) -> Result<(), BindError> {
        let resolver = Resolver {
            page_requests: page_requests.clone(),
            handler,
        };
        let iommu = page_requests.iommu();
        self.domain
            .bind(iommu, device, self.pasid_of(requests), Some(resolver))
    }

    /// Ends what [`bind`](Self::bind) began.
    ///
    /// In this order: the device's driver has stopped it from sending such requests (1, before the
    /// call); the entry is blocked (2), and what was cached through it invalidated: PASID cache and
    /// IOTLB (3), device TLB (4); page requests are drained, in hardware and in software, and every
    /// group that is not answered yet is answered (5); the entry is cleared (6). The PASID is
    /// reusable when the `SvaSpace` is dropped (7).
    ///
    /// When it returns, no IOMMU and no device TLB holds anything of the address space for that
    /// binding. May sleep; not from a notifier's callback.
    ///
    /// # Errors
    ///
    /// [`UnbindError::NotBound`], with nothing changed. [`UnbindError::Detach`] if the hardware did
    /// not confirm: the binding then stays, as the device may still use the page table.
    pub fn unbind(
        &self,
        iommu: &Arc<dyn Iommu>,
        device: DeviceId,
        requests: Requests,
    ) -> Result<(), UnbindError> {
        self.domain.unbind(iommu, device, self.pasid_of(requests))
    }

    /// Whether every invalidation of the address space is done, those that failed at first included.
    ///
    /// The unmap path asks after its notification, before it reuses what it unmapped: if not, it holds
    /// that back until [`settle`](Self::settle) has succeeded. One comparison of two words; from any
    /// context.
    pub fn is_settled(&self) -> bool {
        self.domain.is_settled()
    }

    /// Cuts off every device whose TLB does not answer ([`Iommu::quarantine`]), and then takes
    /// everything out of all other caches of the address space.
    ///
    /// When it returns, no device uses any translation that was removed before the call, and what was
    /// held back can be reused. Costs nothing if nothing failed. It waits for the hardware: not with
    /// interrupts off, and not from a notifier's callback. A device that was cut off comes back by
    /// [`Iommu::restore`] after its reset.
    ///
    /// # Errors
    ///
    /// The hardware did not confirm; everything stays held back, and the call can be made again.
    pub fn settle(&self) -> Result<(), AttachError> {
        self.domain.settle()
    }

    fn pasid_of(&self, requests: Requests) -> Pasid {
        match requests {
            Requests::Tagged => self.pasid(),
            Requests::Untagged => Pasid::UNTAGGED,
        }
    }
}

impl Drop for SvaSpace {
    fn drop(&mut self) {
        let early = planted::is(Fault::PasidReusedEarly);
        if early {
            self.sva.pasids.free(self.domain.pasid());
        }
        let clean = self.domain.unbind_all() && !early;
        // The subscription exists since `join`, and only this ends it.
        let _ = self.notifiers.unregister(&self.notifier);
        // A PASID that hardware may still know is never given to another address space.
        if clean || planted::is(Fault::UnconfirmedPasidReused) {
            self.sva.pasids.free(self.domain.pasid());
        }
    }
}
