//! Where the translations of one address space can be cached.
//!
//! The set is an immutable, sorted array that is replaced as a whole, so a notification reads it
//! without a lock. Who attaches a device adds its targets *before* programming the hardware; who
//! detaches removes them *after* the hardware holds nothing of it. A flush that still read the old
//! array is harmless either way: it began after the page table changed, so the hardware that it
//! does not know of walks the changed table ([`flush`](crate::flush) has the fence that this needs).

#[cfg(all(test, loom))]
mod loom;

use crate::ids::{DeviceId, Pasid, Tag};
use crate::iommu::Iommu;
use crate::operation::Target;
use crate::planted::{self, Fault};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core_notifier::{Fenced, Mode, Published, Reader, Retired, Srcu};
use spin::Mutex;

/// All targets of one IOMMU.
#[derive(Clone)]
pub struct Group {
    /// The IOMMU.
    pub iommu: Arc<dyn Iommu>,
    targets: Vec<Target>,
    users: Vec<usize>,
    /// How many of the targets go into the first list.
    together: usize,
}

impl Group {
    fn new(iommu: &Arc<dyn Iommu>) -> Self {
        Self {
            iommu: iommu.clone(),
            targets: Vec::new(),
            users: Vec::new(),
            together: 0,
        }
    }

    /// The targets of the two lists of a flush: the second is posted when the first is complete.
    ///
    /// It holds the device TLBs if the IOMMU cannot order them behind its IOTLB in one list
    /// ([`Features::chained_sync`](crate::iommu::Features::chained_sync)), else nothing.
    pub fn lists(&self) -> [&[Target]; 2] {
        let (first, second) = self.targets.split_at(self.together);
        [first, second]
    }

    /// Decides which targets go into which list, so that no flush has to.
    fn divide(&mut self) {
        let iotlbs = self
            .targets
            .partition_point(|target| !target.is_device_tlb());
        let chained = self.iommu.features().chained_sync;
        self.together = if chained { self.targets.len() } else { iotlbs };
    }

    fn is_of(&self, iommu: &Arc<dyn Iommu>) -> bool {
        is_same(&self.iommu, iommu)
    }
}

/// Whether two references are to the same IOMMU.
pub(crate) fn is_same(one: &Arc<dyn Iommu>, other: &Arc<dyn Iommu>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

/// What one attachment of a device adds to the set of its address space.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// The device.
    pub device: DeviceId,
    /// The PASID of its requests, or [`Pasid::UNTAGGED`].
    pub pasid: Pasid,
    /// The tag under which the IOTLB keeps its translations.
    pub tag: Tag,
    /// Whether the device has a TLB of its own.
    pub device_tlb: bool,
}

impl Attachment {
    /// The targets; two attachments that share an IOTLB entry give the same one.
    fn targets(self, iommu: &dyn Iommu) -> impl Iterator<Item = Target> {
        let keyed = iommu.features().iotlb_keyed_by_pasid && !planted::is(Fault::PasidKeyIgnored);
        let pasid = if keyed { self.pasid } else { Pasid::UNTAGGED };
        let iotlb = Target::Iotlb {
            tag: self.tag,
            pasid,
        };
        let device_tlb = Target::DeviceTlb {
            device: self.device,
            pasid: self.pasid,
        };
        let has_device_tlb = self.device_tlb && !planted::is(Fault::DeviceTlbTargetsLeftOut);
        [Some(iotlb), has_device_tlb.then_some(device_tlb)]
            .into_iter()
            .flatten()
    }
}

/// The array that a change replaced.
///
/// Dropping it waits until no flush uses it any more, so it is dropped where waiting is allowed and
/// outside every lock that a notifier takes.
#[must_use = "dropping it waits for the flushes under way; do so outside of locks"]
pub struct Replaced<M: Mode = Fenced> {
    groups: Option<Retired<Vec<Group>, M>>,
}

impl<M: Mode> Drop for Replaced<M> {
    fn drop(&mut self) {
        if planted::is(Fault::ReplacedNotAwaited) {
            mem::forget(self.groups.take());
        }
    }
}

/// The set of one address space.
pub struct InvalidationSet<M: Mode = Fenced> {
    published: Published<Vec<Group>, M>,
    changes: Mutex<Vec<Group>>,
}

impl<M: Mode> InvalidationSet<M> {
    /// An empty set whose readers enter `srcu`.
    pub fn new(srcu: Arc<Srcu<M>>) -> Self {
        Self {
            published: Published::new(srcu),
            changes: Mutex::new(Vec::new()),
        }
    }

    /// The groups, one for each IOMMU; `None` if there are none. Takes no lock.
    pub fn read(&self) -> Option<Reader<'_, Vec<Group>, M>> {
        self.published.read()
    }

    /// Adds the targets of one attachment; one that is there already gets one more user.
    pub fn add(&self, iommu: &Arc<dyn Iommu>, attachment: Attachment) -> Replaced<M> {
        let mut groups = self.changes.lock();
        let at = groups
            .iter()
            .position(|group| group.is_of(iommu))
            .unwrap_or_else(|| {
                groups.push(Group::new(iommu));
                groups.len() - 1
            });
        let group = &mut groups[at];
        for target in attachment.targets(&**iommu) {
            match group.targets.binary_search(&target) {
                Ok(known) => group.users[known] += 1,
                Err(place) => {
                    group.targets.insert(place, target);
                    group.users.insert(place, 1);
                }
            }
        }
        group.divide();
        self.publish(&groups)
    }

    /// Takes away what [`add`](Self::add) added.
    pub fn remove(&self, iommu: &Arc<dyn Iommu>, attachment: Attachment) -> Replaced<M> {
        let mut groups = self.changes.lock();
        if let Some(group) = groups.iter_mut().find(|group| group.is_of(iommu)) {
            for target in attachment.targets(&**iommu) {
                let Ok(known) = group.targets.binary_search(&target) else {
                    continue;
                };
                group.users[known] -= 1;
                if group.users[known] == 0 || planted::is(Fault::SharedTargetRemoved) {
                    group.targets.remove(known);
                    group.users.remove(known);
                }
            }
            group.divide();
        }
        groups.retain(|group| !group.targets.is_empty());
        self.publish(&groups)
    }

    fn publish(&self, groups: &[Group]) -> Replaced<M> {
        let value = (!groups.is_empty()).then(|| Box::new(groups.to_vec()));
        Replaced {
            groups: self.published.replace(value),
        }
    }
}
