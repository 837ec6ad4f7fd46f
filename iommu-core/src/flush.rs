//! One range out of every cache of one address space: the way from a notification to the doorbells.
//!
//! Every IOMMU is posted to before any is waited for. Where an IOMMU's specification does not let
//! one list carry the IOTLB invalidations, a sync and the device-TLB invalidations
//! ([`Features::chained_sync`](crate::iommu::Features::chained_sync)), its device TLBs follow in a
//! second round, after the IOTLBs are done.

use crate::Range;
use crate::cover::PAGE_SHIFT;
use crate::error::QueueError;
use crate::invalidation_set::{Group, InvalidationSet};
use crate::iommu::Ticket;
use crate::operation::{Invalidation, Levels, Target};
use crate::planted::{self, Fault};
use core::sync::atomic::{Ordering, fence};

/// How many IOMMUs are under way at a time. With more, each round of this many is waited for before
/// the next; no heap is needed.
const AT_ONCE: usize = 8;

/// Bytes in a page, for planted faults.
const PAGE: u64 = 1 << PAGE_SHIFT;

/// How often a list that was dropped because of somebody else's error is posted again.
const ATTEMPTS: usize = 3;

/// Takes `range` out of every cache in `set` and waits until that is done.
///
/// The caller has changed the page table. Allocates nothing, takes no lock but those of the rings,
/// may run with interrupts off. An empty range costs nothing.
///
/// Every IOMMU is served even if another fails; the first error is returned, and then some device
/// may still use the old translation: no frame behind the range may be reused.
pub fn flush(set: &InvalidationSet, range: Range, levels: Levels) -> Result<(), QueueError> {
    if range.is_empty() || range.is_all() && planted::is(Fault::EverythingTakenForNothing) {
        return Ok(());
    }
    let (range, levels) = spoil(range, levels);
    // Pairs with the publication of the set before a device is programmed: either this flush sees
    // the device's targets, or the device's first walk sees the page table as it is now.
    fence(Ordering::SeqCst);
    let Some(groups) = set.read() else {
        return Ok(());
    };
    let mut result = Ok(());
    for groups in groups.chunks(AT_ONCE) {
        for list in 0..2 {
            if planted::is(Fault::SecondListLeftOut) && list == 1 {
                break;
            }
            let list = list ^ usize::from(planted::is(Fault::SecondListFirst));
            result = result.and(round(groups, range, levels, list));
        }
        if planted::is(Fault::LaterIommusForgotten) {
            break;
        }
    }
    result
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

/// Posts the first or the second list of each group, then waits for all.
fn round(groups: &[Group], range: Range, levels: Levels, list: usize) -> Result<(), QueueError> {
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
    let mut result = Ok(());
    for (group, ticket) in groups.iter().zip(tickets) {
        if planted::is(Fault::CompletionNotAwaited) {
            continue;
        }
        if let Some(posted) = ticket {
            result = result.and(finish(group, &invalidation(group), posted));
        }
    }
    result
}

/// Waits, and posts again what was dropped because of somebody else's error.
fn finish(
    group: &Group,
    invalidation: &Invalidation<'_>,
    mut posted: Result<Ticket, QueueError>,
) -> Result<(), QueueError> {
    for _ in 0..ATTEMPTS {
        match posted.and_then(|ticket| group.iommu.wait(ticket)) {
            Err(error) if !is_its_own(error, invalidation.targets) => {
                if planted::is(Fault::AbortedListNotRetried) {
                    return Ok(());
                }
                posted = group.iommu.submit(invalidation);
            }
            result => return result.map(drop),
        }
    }
    posted.and_then(|ticket| group.iommu.wait(ticket)).map(drop)
}

/// Whether an error concerns one of `targets`, or may.
fn is_its_own(error: QueueError, targets: &[Target]) -> bool {
    match error {
        QueueError::Aborted => false,
        QueueError::DeviceTimeout { device } => targets.iter().any(|target| match target {
            Target::DeviceTlb { device: its, .. } => device.is_none_or(|device| device == *its),
            Target::Iotlb { .. } => false,
        }),
        _ => true,
    }
}
