//! One range out of every cache of one address space: the way from a notification to the doorbells.
//!
//! Every IOMMU is posted to before any is waited for. Where an IOMMU's specification does not let
//! one list carry the IOTLB invalidations, a sync and the device-TLB invalidations
//! ([`Features::chained_sync`](crate::iommu::Features::chained_sync)), its device TLBs follow in a
//! second round, after the IOTLBs are done.

use crate::Range;
use crate::cover::PAGE_SHIFT;
use crate::error::QueueError;
use crate::ids::DeviceId;
use crate::invalidation_set::{Group, InvalidationSet};
use crate::iommu::{Iommu, Ticket};
use crate::operation::{Invalidation, Levels, Target};
use crate::planted::{self, Fault};
use crate::primitive::{Ordering, fence};
use alloc::sync::Arc;
use core_notifier::Mode;

/// How many IOMMUs are under way at a time. With more, each round of this many is waited for before
/// the next; no heap is needed.
const AT_ONCE: usize = 8;

/// Bytes in a page, for planted faults.
const PAGE: u64 = 1 << PAGE_SHIFT;

/// How often a list that was dropped because of somebody else's error is posted again.
const ATTEMPTS: usize = 3;

/// How often a device TLB is asked alone, where the hardware does not say which device is silent,
/// before the device is held to be the one.
const ALONE: usize = 2;

/// What went wrong on one IOMMU.
pub(crate) struct Failed<'a> {
    /// The IOMMU.
    pub(crate) iommu: &'a Arc<dyn Iommu>,
    /// What went wrong; a device that does not answer is named.
    pub(crate) error: QueueError,
    /// Whether this is to be told: false if the device is known not to answer.
    pub(crate) is_news: bool,
}

/// Takes `range` out of every cache in `set` and waits until that is done.
///
/// The caller has changed the page table. Allocates nothing, takes no lock but those of the rings,
/// may run with interrupts off. An empty range costs nothing.
///
/// # Errors
///
/// Every IOMMU and every device is served even if another fails; the first error is returned, and then
/// some device may still use the old translation: no frame behind the range may be reused.
///
/// [`QueueError::DeviceTimeout`] names the device whose TLB does not answer. Nothing is sent to it any
/// more, and every flush that concerns it fails at once, until [`Iommu::quarantine`] has cut it off, in
/// a context that may wait for the tables' lock. A flush of everything after that proves all that
/// failed before. Finding such a device takes the hardware's own time limit once; where the hardware
/// does not say which device of a list it was, once for the list and twice for each silent device.
pub fn flush<M: Mode>(
    set: &InvalidationSet<M>,
    range: Range,
    levels: Levels,
) -> Result<(), QueueError> {
    let mut result = Ok(());
    flush_each(set, range, levels, &mut |failed| {
        result = result.and(Err(failed.error));
    });
    result
}

/// As [`flush`], with every failure told, of each IOMMU and each device.
pub(crate) fn flush_each<M: Mode>(
    set: &InvalidationSet<M>,
    range: Range,
    levels: Levels,
    tell: &mut dyn FnMut(Failed<'_>),
) {
    if range.is_empty() || range.is_all() && planted::is(Fault::EverythingTakenForNothing) {
        return;
    }
    let (range, levels) = spoil(range, levels);
    // Pairs with the publication of the set before a device is programmed: either this flush sees
    // the device's targets, or the device's first walk sees the page table as it is now.
    if !planted::is(Fault::FlushUnfenced) {
        fence(Ordering::SeqCst);
    }
    let Some(groups) = set.read() else {
        return;
    };
    for groups in groups.chunks(AT_ONCE) {
        for list in 0..2 {
            if planted::is(Fault::SecondListLeftOut) && list == 1 {
                break;
            }
            let list = list ^ usize::from(planted::is(Fault::SecondListFirst));
            round(groups, range, levels, list, tell);
        }
        if planted::is(Fault::LaterIommusForgotten) {
            break;
        }
    }
}

/// Posts the first or the second list of each group, then waits for all.
fn round(
    groups: &[Group],
    range: Range,
    levels: Levels,
    list: usize,
    tell: &mut dyn FnMut(Failed<'_>),
) {
    let invalidation = |group| Invalidation {
        targets: Group::lists(group)[list],
        range,
        levels,
    };
    let groups = match groups {
        [first, ..] if planted::is(Fault::OtherIommusForgotten) => core::slice::from_ref(first),
        all => all,
    };
    let mut tickets: [Option<Result<Ticket, QueueError>>; AT_ONCE] = Default::default();
    for (group, ticket) in groups.iter().zip(&mut tickets) {
        let invalidation = invalidation(group);
        if !invalidation.targets.is_empty() {
            *ticket = Some(group.iommu.submit(&invalidation));
        }
    }
    for (group, ticket) in groups.iter().zip(tickets) {
        if planted::is(Fault::CompletionNotAwaited) {
            continue;
        }
        if let Some(posted) = ticket {
            complete(&group.iommu, &invalidation(group), posted, tell);
        }
    }
}

/// Waits for a list, and does what else it takes until each of its caches is served or told of.
fn complete(
    iommu: &Arc<dyn Iommu>,
    invalidation: &Invalidation<'_>,
    posted: Result<Ticket, QueueError>,
    tell: &mut dyn FnMut(Failed<'_>),
) {
    match finish(iommu, invalidation, posted) {
        Ok(()) => {}
        Err(QueueError::DeviceTimeout { device }) => {
            serve_others(iommu, invalidation, device, tell);
        }
        Err(QueueError::ListTooLong { .. }) if invalidation.targets.len() > 1 => {
            serve_in_parts(iommu, invalidation, tell);
        }
        Err(error) => tell(Failed {
            iommu,
            error,
            is_news: true,
        }),
    }
}

/// Two lists, one after the other, in place of one that the queue cannot hold: the IOTLBs before the
/// device TLBs, or half of one kind before the other half.
fn serve_in_parts(
    iommu: &Arc<dyn Iommu>,
    invalidation: &Invalidation<'_>,
    tell: &mut dyn FnMut(Failed<'_>),
) {
    let targets = invalidation.targets;
    let iotlbs = targets.partition_point(|target| !target.is_device_tlb());
    let at = match iotlbs {
        0 => targets.len() / 2,
        all if all == targets.len() => targets.len() / 2,
        some => some,
    };
    let (first, second) = targets.split_at(at);
    for targets in [first, second] {
        let part = Invalidation {
            targets,
            ..*invalidation
        };
        complete(iommu, &part, iommu.submit(&part), tell);
    }
}

/// Waits, and posts again what was dropped because of somebody else's error.
fn finish(
    iommu: &Arc<dyn Iommu>,
    invalidation: &Invalidation<'_>,
    mut posted: Result<Ticket, QueueError>,
) -> Result<(), QueueError> {
    for _ in 0..ATTEMPTS {
        match posted.and_then(|ticket| iommu.wait(ticket)) {
            Err(error) if !is_its_own(error, invalidation.targets) => {
                if planted::is(Fault::AbortedListNotRetried) {
                    return Ok(());
                }
                posted = iommu.submit(invalidation);
            }
            result => return result.map(drop),
        }
    }
    posted.and_then(|ticket| iommu.wait(ticket)).map(drop)
}

/// After a list failed because a device did not answer: every cache once more, each device for itself,
/// so that it is known which device it was and that all others are done.
fn serve_others(
    iommu: &Arc<dyn Iommu>,
    invalidation: &Invalidation<'_>,
    named: Option<DeviceId>,
    tell: &mut dyn FnMut(Failed<'_>),
) {
    let is_same_device = |one: &Target, other: &Target| one.device() == other.device();
    for targets in invalidation.targets.chunk_by(is_same_device) {
        let device = targets[0].device();
        let part = Invalidation {
            targets,
            ..*invalidation
        };
        let is_known = named.is_some() && named == device;
        if !is_known && planted::is(Fault::OthersNotServed) {
            continue;
        }
        let result = if is_known {
            Err(QueueError::DeviceTimeout { device })
        } else {
            serve_alone(iommu, &part)
        };
        let is_silent = matches!(result, Err(QueueError::DeviceTimeout { .. }));
        let is_news = match device {
            Some(device) if is_silent => iommu.suspect(device),
            _ => true,
        };
        if let Err(error) = result {
            tell(Failed {
                iommu,
                error,
                is_news,
            });
        }
    }
}

/// One device's targets, or the IOTLBs, until they are served. An error that names nobody may still be another's, whose list
/// went by at the same time; only if it comes again it is this device's.
pub(crate) fn serve_alone(
    iommu: &Arc<dyn Iommu>,
    invalidation: &Invalidation<'_>,
) -> Result<(), QueueError> {
    for _ in 0..ALONE {
        match finish(iommu, invalidation, iommu.submit(invalidation)) {
            Err(QueueError::DeviceTimeout { device: None }) => {}
            result => return result,
        }
    }
    let device = invalidation.targets[0].device();
    Err(QueueError::DeviceTimeout { device })
}

/// Whether an error concerns one of `targets`, or may.
fn is_its_own(error: QueueError, targets: &[Target]) -> bool {
    match error {
        QueueError::Aborted => false,
        QueueError::DeviceTimeout { device } => targets
            .iter()
            .filter_map(Target::device)
            .any(|its| device.is_none_or(|device| device == its)),
        _ => true,
    }
}

/// What a planted fault makes of a range.
fn spoil(range: Range, levels: Levels) -> (Range, Levels) {
    let (start, end) = (range.start(), range.end());
    let spoilt = if planted::is(Fault::LastPageMissing) {
        Range::new(start, end.saturating_sub(PAGE).max(start))
    } else if planted::is(Fault::FirstPageMissing) {
        Range::new(start.saturating_add(PAGE).min(end), end)
    } else {
        Ok(range)
    };
    let levels = if planted::is(Fault::LevelsNotPassedOn) {
        Levels::LeafOnly
    } else {
        levels
    };
    (spoilt.unwrap_or(range), levels)
}
