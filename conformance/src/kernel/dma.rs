//! DMA mappings of one device, by a page table of their own, that are invalidated later, in batches.

use super::Kernel;
use super::Rights;
use super::format;
use super::frames::PAGE;
use super::page_table::{self, PageTable};
use crate::oracle::{Requester, Space};
use crate::outcome::{Outcome, failed, skip};
use crate::rig::Absence;
use core_notifier::Range;
use iommu_core::deferred::{Bounds, DeferredDomain, Owner, Refused, Trust};
use iommu_core::error::QueueError;
use iommu_core::ids::{Pasid, PhysicalAddress};
use iommu_core::invalidation_set::Attachment;
use iommu_core::iommu::Iommu;
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::page_table::PageTable as Described;
use iommu_core::platform::Clock;
use iommu_model::device::Transfer;
use std::sync::Arc;

/// The DMA mappings of the device on a seat, for its requests without a PASID.
pub struct DmaDomain {
    kernel: Arc<Kernel>,
    space: Space,
    seat: usize,
    table: PageTable,
    attachment: Attachment,
    deferred: DeferredDomain<Frames, RigClock>,
}

/// A page that was unmapped, and the frame behind it.
type Unmapped = (u64, u64);

/// Gets frames back when no device reaches them any more, and has the device try.
struct Frames {
    kernel: Arc<Kernel>,
    space: Space,
    seat: usize,
}

impl Owner for Frames {
    type Item = Unmapped;

    fn reclaim(&self, (page, frame): Unmapped) {
        let Self { kernel, seat, .. } = self;
        kernel.oracle.removed(self.space, page, kernel.rig.now());
        kernel
            .rig
            .run(*seat, Transfer::write(None, page, vec![1; 8]));
        kernel.give_back_frame(frame);
    }

    fn flush_failed(&self, _: QueueError, _: usize) {}
}

/// The clock that the rig's history is written by.
struct RigClock(Arc<Kernel>);

impl Clock for RigClock {
    fn now(&self) -> u64 {
        self.0.rig.now()
    }
}

impl DmaDomain {
    /// Gives the device on a seat an empty page table.
    ///
    /// # Errors
    ///
    /// The framework's own; [`Stop::Skip`](crate::outcome::Stop::Skip) on an IOMMU that cannot defer.
    pub fn new(kernel: &Arc<Kernel>, seat: usize, bounds: Bounds) -> Outcome<Self> {
        let format = kernel.rig.format();
        let (iommu, place) = kernel.seat(seat);
        let space = kernel.oracle.space();
        let owner = Frames {
            kernel: kernel.clone(),
            space,
            seat,
        };
        let clock = RigClock(kernel.clone());
        let deferred = DeferredDomain::new(kernel.srcu.clone(), bounds, owner, clock);
        let attachment = Attachment {
            device: place.device,
            pasid: Pasid::UNTAGGED,
            tag: iommu.allocate_tag()?,
            device_tlb: kernel.config.device_tlb,
        };
        match deferred.add(iommu, attachment, Trust::Trusted) {
            Ok(replaced) => drop(replaced),
            Err(Refused::CachesNotPresent) => {
                return skip(Absence::Deferral);
            }
            Err(error) => return Err(error.into()),
        }
        let table = PageTable::new(kernel.rig.ram(), &mut kernel.frames(), format)?;
        let described = Described {
            root: PhysicalAddress(table.root),
            format,
            written_back: true,
        };
        let domain = Self {
            kernel: kernel.clone(),
            space,
            seat,
            table,
            attachment,
            deferred,
        };
        let oracle = &kernel.oracle;
        oracle.binding(domain.requester(), space, kernel.rig.now());
        iommu.attach(place.device, Pasid::UNTAGGED, attachment.tag, &described)?;
        oracle.bound(domain.requester(), true, kernel.rig.now());
        Ok(domain)
    }

    fn requester(&self) -> Requester {
        (self.attachment.device.0, None)
    }

    fn iommu(&self) -> &Arc<dyn Iommu> {
        self.kernel.seat(self.seat).0
    }

    /// Maps a new zeroed frame.
    pub fn map(&self, page: u64) -> Outcome {
        let kernel = &self.kernel;
        let (ram, frame) = (kernel.rig.ram(), kernel.take_frame()?);
        let slot = self.table.make_slot(ram, &mut kernel.frames(), page, 0)?;
        let oracle = &kernel.oracle;
        oracle.mapping(self.space, page, frame, (true, true), kernel.rig.now());
        let leaf = format::leaf(self.table.format(), frame, 0, Rights::WRITABLE);
        page_table::write(ram, slot, leaf);
        oracle.mapped(self.space, page, kernel.rig.now());
        Ok(())
    }

    /// Takes a page out of the page table; the frame behind it.
    fn clear(&self, page: u64) -> Outcome<u64> {
        let (kernel, ram) = (&self.kernel, self.kernel.rig.ram());
        let Some(slot) = self.table.slot(ram, page, 0) else {
            return failed("there is no page to unmap");
        };
        let frame = format::address(self.table.format(), ram.load(slot));
        kernel.oracle.removing(self.space, page, kernel.rig.now());
        page_table::write(ram, slot, 0);
        Ok(frame)
    }

    /// Takes a page out of the page table; its frame comes back when the hardware has forgotten it.
    pub fn unmap(&self, page: u64) -> Outcome {
        let frame = self.clear(page)?;
        let range = Range::with_length(page, PAGE)?;
        // What could not even be held is the caller's to keep: it is never used again here.
        let _ = self
            .deferred
            .unmapped(range, Levels::LeafOnly, (page, frame));
        Ok(())
    }

    /// Takes pages out of the page table and then out of the hardware, by a list for each, all of
    /// which are posted before the first is waited for.
    pub fn unmap_by_lists(&self, start: u64, end: u64) -> Outcome {
        let pages = || (start..end).step_by(PAGE as usize);
        let frames = pages().map(|page| self.clear(page));
        let frames = frames.collect::<Outcome<Vec<u64>>>()?;
        let Attachment {
            device, pasid, tag, ..
        } = self.attachment;
        self.post_each(start, end, Target::Iotlb { tag, pasid })?;
        if self.attachment.device_tlb {
            self.post_each(start, end, Target::DeviceTlb { device, pasid })?;
        }
        for (page, frame) in pages().zip(frames) {
            let kernel = &self.kernel;
            kernel.oracle.removed(self.space, page, kernel.rig.now());
            kernel.give_back_frame(frame);
        }
        Ok(())
    }

    fn post_each(&self, start: u64, end: u64, target: Target) -> Outcome {
        let mut tickets = Vec::new();
        for page in (start..end).step_by(PAGE as usize) {
            tickets.push(self.iommu().submit(&Invalidation {
                targets: &[target],
                range: Range::with_length(page, PAGE)?,
                levels: Levels::LeafOnly,
            })?);
        }
        for ticket in tickets {
            self.iommu().wait(ticket)?;
        }
        Ok(())
    }

    /// Invalidates what was unmapped, and gets it back.
    ///
    /// # Errors
    ///
    /// The hardware did not confirm; everything stays held.
    pub fn flush(&self) -> Result<(), QueueError> {
        self.deferred.flush()
    }

    /// How many pages are unmapped and not back yet.
    pub fn held(&self) -> usize {
        self.deferred.held()
    }

    /// Takes the page table away from the device, and frees it with what is left.
    pub fn destroy(self) -> Outcome {
        let kernel = self.kernel.clone();
        self.deferred.flush()?;
        kernel.oracle.unbinding(self.requester(), kernel.rig.now());
        let Attachment {
            device, pasid, tag, ..
        } = self.attachment;
        self.iommu().detach(device, pasid)?;
        drop(self.deferred.remove(self.iommu(), self.attachment));
        self.iommu().free_tag(tag);
        kernel.oracle.unbound(self.requester(), kernel.rig.now());
        self.table.destroy(kernel.rig.ram(), &mut kernel.frames());
        Ok(())
    }
}
