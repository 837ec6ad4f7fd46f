//! What every backend offers.

use crate::error::{AttachError, Incompatible, QueueError, TagsExhausted};
use crate::fault::{Fault, FaultSummary};
use crate::ids::{DeviceId, Pasid, Tag};
use crate::operation::Invalidation;
use crate::page_request::{PageResponse, Taken};
use crate::page_table::PageTable;

/// What an IOMMU can do, in neutral terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Width of a PASID in bits; 0 if only untagged requests can be bound.
    pub pasid_bits: u8,
    /// Whether it supports device TLBs (ATS).
    pub device_tlb: bool,
    /// Whether IOTLB entries are found by (tag, PASID) rather than by tag alone.
    pub iotlb_keyed_by_pasid: bool,
    /// Whether its specification lets one list hold the IOTLB invalidations, a sync and the
    /// device-TLB invalidations, in that order, so that one wait covers them all.
    pub chained_sync: bool,
    /// Whether it may cache that a page is not mapped, so that even a new mapping needs an
    /// invalidation: an emulated IOMMU whose emulator shadows the page table.
    pub caches_not_present: bool,
    /// Whether it takes page requests of devices (PCIe PRI).
    pub page_requests: bool,
    /// Whether it can hold a device's faulting transactions back until they are answered (SMMUv3
    /// stall).
    pub stall: bool,
}

/// What happens when a device finds no translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageFaults {
    /// The request is refused, and a fault is recorded.
    #[default]
    Fatal,
    /// The device asks for the page and waits (PCIe PRI). It has a device TLB
    /// ([`DeviceConfig::device_tlb`]).
    PageRequests {
        /// Whether a response carries the PASID of its request: the PRG Response PASID Required bit
        /// of the device's PRI capability.
        response_pasid: bool,
    },
    /// The IOMMU holds the transaction back until it is answered.
    Stall,
}

/// How a device is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Width in bits of the PASIDs that the device sends; 0 for none.
    pub pasid_bits: u8,
    /// Whether the device may keep translations in a TLB of its own (PCIe ATS).
    pub device_tlb: bool,
    /// What happens when the device finds no translation.
    pub page_faults: PageFaults,
}

/// A list of commands on its way. Only [`Iommu::wait`] turns it into [`Completed`].
#[derive(Debug)]
#[must_use = "the translations are gone only when the ticket was waited for"]
pub struct Ticket {
    /// The queue position just past the list, its sync included if it has one.
    pub(crate) end: u64,
    /// Whether the list has a sync of its own; else the next one after it stands for it.
    pub(crate) has_sync: bool,
}

/// Proof that everything that a [`Ticket`] stands for is done: the frames behind the range may be
/// reused as far as this IOMMU is concerned.
#[derive(Debug)]
pub struct Completed {
    pub(crate) _proof: (),
}

/// One IOMMU.
///
/// All methods may be called from any thread. [`submit`](Iommu::submit) and [`wait`](Iommu::wait)
/// allocate nothing, do not sleep and may run with interrupts off; the others belong to a context
/// that may wait.
pub trait Iommu: Send + Sync {
    /// What it can do.
    fn features(&self) -> Features;

    /// Whether devices behind it can walk `table`.
    fn check(&self, table: &PageTable) -> Result<(), Incompatible>;

    /// Takes an address-space tag out of the pool. The IOTLB has no entry under it.
    fn allocate_tag(&self) -> Result<Tag, TagsExhausted>;

    /// Puts a tag back. No device uses it, and its entries were invalidated.
    fn free_tag(&self, tag: Tag);

    /// Gives `device` an entry with an empty PASID table: until [`attach`](Iommu::attach) every
    /// request of the device faults.
    fn enable_device(&self, device: DeviceId, config: DeviceConfig) -> Result<(), AttachError>;

    /// Takes the entry of `device` away. Its PASIDs are detached first, else
    /// [`AttachError::PasidInUse`].
    fn disable_device(&self, device: DeviceId) -> Result<(), AttachError>;

    /// How `device` was enabled; `None` if it is not.
    fn device_config(&self, device: DeviceId) -> Option<DeviceConfig>;

    /// Lets requests of `device` with `pasid` walk `table`, with translations kept under `tag`.
    ///
    /// [`Pasid::UNTAGGED`] stands for the requests without a PASID. The entry becomes valid last;
    /// when the call returns, the hardware uses it.
    fn attach(
        &self,
        device: DeviceId,
        pasid: Pasid,
        tag: Tag,
        table: &PageTable,
    ) -> Result<(), AttachError>;

    /// Makes every further request of `device` with `pasid` fail, without a fault report where the
    /// hardware can be silent, and invalidates whatever was cached for it. The entry stays in use
    /// until [`detach`](Iommu::detach); blocking it again does no harm. This is what a dying address
    /// space needs.
    fn block(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError>;

    /// Takes the entry away, blocking it first if it is not blocked. When the call returns, the
    /// IOMMU holds nothing of it and the page table may be freed.
    fn detach(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError>;

    /// Posts all commands of one invalidation with one doorbell.
    fn submit(&self, invalidation: &Invalidation<'_>) -> Result<Ticket, QueueError>;

    /// Waits until the hardware has completed a ticket. Ends by the queue's time limit.
    fn wait(&self, ticket: Ticket) -> Result<Completed, QueueError>;

    /// Notes that the device TLB of `device` did not answer; true if that is news. From then on
    /// [`submit`](Iommu::submit) refuses a list for it at once.
    ///
    /// Takes no lock, allocates nothing and may run with interrupts off. To an IOMMU that keeps no
    /// account of that, it is news each time.
    fn suspect(&self, device: DeviceId) -> bool {
        let _ = device;
        true
    }

    /// Cuts `device` off because its device TLB does not answer: its entry becomes invalid, and
    /// everything cached through it leaves the IOMMU, by no command to the device.
    ///
    /// When it returns, the device can do no DMA: requests without translation are refused, and so
    /// are translated ones, which need the entry. So no translation in its TLB counts any more, and
    /// from then on [`submit`](Iommu::submit), [`block`](Iommu::block), [`detach`](Iommu::detach) and
    /// [`disable_device`](Iommu::disable_device) leave its TLB out. Doing it again does no harm. It
    /// waits for the queue only, up to its time limit, not for the device.
    ///
    /// # Errors
    ///
    /// [`AttachError::UnknownDevice`]; an error of the queue, after which the entry stays invalid and
    /// the device counts as before, so that the call can be made again.
    fn quarantine(&self, device: DeviceId) -> Result<(), AttachError> {
        Err(AttachError::UnknownDevice(device))
    }

    /// Whether `device` is in quarantine.
    fn is_quarantined(&self, device: DeviceId) -> bool {
        let _ = device;
        false
    }

    /// Brings `device` back from quarantine, with what it was attached to meanwhile. The kernel has
    /// reset it, so that its TLB is empty and it answers; this is to be called from the reset hook.
    ///
    /// The device is in the lists again first, then its entry becomes valid, and then everything that
    /// it may have cached out of an invalidation under way is taken out of the IOTLB and of its TLB.
    ///
    /// # Errors
    ///
    /// [`AttachError::UnknownDevice`]; an error of the queue, for instance if it still does not
    /// answer: the device is in quarantine again then.
    fn restore(&self, device: DeviceId) -> Result<(), AttachError> {
        Err(AttachError::UnknownDevice(device))
    }

    /// Hands every recorded fault to `report`; bounded by the queue's size. `report` must not call
    /// back into the IOMMU, which may hold the fault queue's lock meanwhile.
    fn take_faults(&self, report: &mut dyn FnMut(Fault)) -> FaultSummary;
    /// Hands page requests out of the queue to `take`, `most` at most, in the order in which they
    /// came, and gives their slots back before it returns. Returns how many are left, as far as it
    /// has looked.
    ///
    /// When the queue has overflowed, [`Taken::Overflow`] follows the last request in it, and the
    /// queue accepts requests again after that. `take` must not call back into this IOMMU.
    ///
    /// An IOMMU without page requests, which `Features` says, keeps these three methods as they are.
    fn take_page_requests(&self, most: usize, take: &mut dyn FnMut(Taken)) -> usize {
        let _ = (most, take);
        0
    }

    /// Posts responses, at most 64, with one doorbell and without waiting.
    fn respond(&self, responses: &[PageResponse]) -> Result<(), QueueError> {
        let _ = responses;
        Ok(())
    }

    /// Waits until responses that were posted before have reached `device`, and until every page
    /// request that it sent with `pasid` is in the queue. The PASID is blocked, and the device sends
    /// no more with it. Transactions that are held back are ended.
    fn drain_page_requests(&self, device: DeviceId, pasid: Pasid) -> Result<(), AttachError> {
        let _ = (device, pasid);
        Ok(())
    }
}
