//! From neutral operations to commands: pure functions of (operation, capabilities, costs), which neither allocate nor wait.
//!
//! The ring puts a CMD_SYNC behind every list. A [`Barrier`](iommu_core::ring::Item::Barrier) is a
//! CMD_SYNC inside one: commands behind it do not begin before everything in front of it is
//! complete (4.7.3), which the order configuration, TLB, device TLB needs (3.9.1, 4.5.1).

use crate::caps::Capabilities;
use crate::planted::{self, Fault};
use crate::queue::WORDS;
use crate::spec::commands::{self, PageCount};
use iommu_core::Range;
use iommu_core::cover::{self, Block, Blocks, Costs, PAGE_SHIFT};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::quarantine::Quarantine;

/// An element of a command list.
pub type Item = iommu_core::ring::Item<WORDS>;

/// Takes the elements of a list in their order.
pub type Emit<'a> = &'a mut dyn FnMut(Item);

/// The commands of one invalidation: per target the translations of the range, device TLBs only
/// after every TLB invalidation in front of them is complete.
pub fn encode(
    invalidation: &Invalidation<'_>,
    capabilities: &Capabilities,
    costs: &Costs,
    emit: Emit<'_>,
) {
    encode_without(
        &Quarantine::default(),
        invalidation,
        capabilities,
        costs,
        emit,
    );
}

/// The same without the devices that are in quarantine.
pub(crate) fn encode_without(
    quarantine: &Quarantine,
    invalidation: &Invalidation<'_>,
    capabilities: &Capabilities,
    costs: &Costs,
    emit: Emit<'_>,
) {
    let Invalidation { range, levels, .. } = *invalidation;
    let mut blocks = None;
    let mut unfinished = false;
    let targets = invalidation.targets;
    let first = if planted::is(Fault::SmmuDeviceTlbFirst) {
        targets.len() / 2
    } else {
        0
    };
    for target in targets[first..].iter().chain(&targets[..first]) {
        match *target {
            Target::Iotlb { .. } if planted::is(Fault::SmmuTlbLeftOut) => {}
            Target::DeviceTlb { .. } if planted::is(Fault::SmmuDeviceTlbLeftOut) => {}
            Target::Iotlb { tag, .. } => {
                tlb(tag, range, levels, capabilities, costs, emit);
                unfinished = true;
            }
            Target::DeviceTlb { device, .. } if quarantine.has(device) => {}
            Target::DeviceTlb { device, pasid } => {
                if core::mem::take(&mut unfinished) && !planted::is(Fault::SmmuSyncLeftOut) {
                    emit(Item::Barrier);
                }
                let blocks = blocks.get_or_insert_with(|| device_tlb_blocks(range, costs));
                device_tlb(device, pasid, blocks.clone(), emit);
            }
        }
    }
}

/// Everything that an earlier system may have left in the SMMU's caches.
pub fn everything(capabilities: &Capabilities, emit: Emit<'_>) {
    if planted::is(Fault::SmmuInheritedKept) {
        return;
    }
    emit(Item::Command(commands::cfgi_all()));
    emit(Item::Barrier);
    if capabilities.hypervisor() {
        emit(Item::Command(commands::tlbi_el2_all()));
    }
    emit(Item::Command(commands::tlbi_nsnh_all()));
}

/// After the stream table entry of `device` became valid or invalid. `leaf_table_added` says that
/// the level 1 descriptor in front of it changed too. What a device TLB kept goes as well: its
/// translated requests pass by the entry alone.
pub fn device_entry_changed(
    device: DeviceId,
    leaf_table_added: bool,
    device_tlb: bool,
    emit: Emit<'_>,
) {
    let leaf = !leaf_table_added || planted::is(Fault::SmmuLevel1Kept);
    if !planted::is(Fault::SmmuStreamEntryKept) {
        emit(Item::Command(commands::cfgi_ste(device.0, leaf)));
    }
    if device_tlb {
        emit(Item::Barrier);
        emit(Item::Command(everything_in_device_tlb(
            device,
            Pasid::UNTAGGED,
        )));
    }
}

/// After the stream table entry of a device that was attached became invalid, or valid again; with
/// `device_tlb`, also what its TLB holds that was asked for without a PASID.
pub(crate) fn device_cut_off(device: DeviceId, device_tlb: bool, emit: Emit<'_>) {
    emit(Item::Command(commands::cfgi_ste(device.0, true)));
    emit(Item::Barrier);
    emit(Item::Command(commands::tlbi_nsnh_all()));
    if device_tlb {
        emit(Item::Barrier);
        whole_device_tlb(device, Pasid::UNTAGGED, emit);
    }
}

/// Everything that a device TLB holds for a PASID.
pub(crate) fn whole_device_tlb(device: DeviceId, pasid: Pasid, emit: Emit<'_>) {
    emit(Item::Command(everything_in_device_tlb(device, pasid)));
}

/// After the context descriptor of `pasid` became valid, or became invalid once it was blocked. An
/// SMMU may cache a descriptor that it found invalid.
pub fn pasid_entry_changed(device: DeviceId, pasid: Pasid, emit: Emit<'_>) {
    if !planted::is(Fault::SmmuInvalidDescriptorKept) {
        emit(Item::Command(commands::cfgi_cd(
            device.0,
            pasid.get(),
            true,
        )));
    }
}

/// After the context descriptor of `pasid` was blocked: first the descriptor, so that nothing is
/// translated by it any more, then what was translated.
pub fn pasid_entry_blocked(
    device: DeviceId,
    pasid: Pasid,
    tag: Tag,
    device_tlb: bool,
    emit: Emit<'_>,
) {
    if planted::is(Fault::SmmuBlockKeepsCaches) {
        return;
    }
    if !planted::is(Fault::SmmuDescriptorKept) {
        emit(Item::Command(commands::cfgi_cd(
            device.0,
            pasid.get(),
            true,
        )));
    }
    emit(Item::Barrier);
    if !planted::is(Fault::SmmuTlbKept) {
        emit(Item::Command(commands::tlbi_nh_asid(tag.0 as u16)));
    }
    if device_tlb && !planted::is(Fault::SmmuAtcKept) {
        emit(Item::Barrier);
        emit(Item::Command(everything_in_device_tlb(device, pasid)));
    }
}

/// Behind the responses that were posted before, and so that the records of stalled transactions are
/// visible (4.7.3); then an invalidation that pushes every page request of the device ahead of its
/// answer.
pub fn page_requests_drained(device: DeviceId, pasid: Pasid, device_tlb: bool, emit: Emit<'_>) {
    if device_tlb && !planted::is(Fault::SmmuDrainWithoutDevice) {
        if !planted::is(Fault::SmmuDrainUnordered) {
            emit(Item::Barrier);
        }
        emit(Item::Command(everything_in_device_tlb(device, pasid)));
    }
}

/// After the stream table entry of a device that stalls became invalid, and the SMMU knows.
pub fn stalls_ended(device: DeviceId, emit: Emit<'_>) {
    if !planted::is(Fault::SmmuStallsLeft) {
        emit(Item::Command(commands::stall_term(device.0)));
    }
}

fn tlb(
    tag: Tag,
    range: Range,
    levels: Levels,
    capabilities: &Capabilities,
    costs: &Costs,
    emit: Emit<'_>,
) {
    let asid = tag.0 as u16 ^ u16::from(planted::is(Fault::SmmuWrongAsid));
    let leaf = levels == Levels::LeafOnly || planted::is(Fault::SmmuLeafAlways);
    let first = range.start() & !((1 << PAGE_SHIFT) - 1);
    let mut page = |page: u64| {
        let address = first + (page << PAGE_SHIFT);
        emit(Item::Command(commands::tlbi_nh_va(asid, address, leaf)));
    };
    match cover::pages(range) {
        Some(0) => return,
        Some(1) if costs.allow(1) => return page(0),
        Some(pages) if pages > 1 && capabilities.range_invalidation() => {
            if let Some(spans) = page_counts(pages)
                && costs.allow(spans.clone().count() as u64)
            {
                for (offset, count) in spans {
                    let address = first + (offset << PAGE_SHIFT);
                    let command = commands::tlbi_nh_va_range(asid, address, count, leaf);
                    emit(Item::Command(command));
                }
                return;
            }
        }
        Some(pages) if costs.allow(pages) => {
            let left_out = u64::from(planted::is(Fault::SmmuLastPageMissing));
            return (0..pages - left_out).for_each(page);
        }
        _ => {}
    }
    emit(Item::Command(commands::tlbi_nh_asid(asid)));
}

/// One or two spans, as (first page, number), that cover exactly `pages` pages: more than 1 and at
/// most 2^36, else `None`.
///
/// A command covers c × 2^s pages with c up to 32. If the number is not of that form, its five
/// leading binary digits are one span from the front; fewer than 2^s pages are left, and a span of
/// 2^s pages that ends where the range ends covers them, over the first span's end.
fn page_counts(pages: u64) -> Option<impl Iterator<Item = (u64, PageCount)> + Clone> {
    let pages = pages - u64::from(planted::is(Fault::SmmuRangeShort) && pages > 2);
    let scale = pages.trailing_zeros().min(31);
    let (first, second) = match PageCount::new(pages >> scale, scale) {
        Some(exact) => (exact, None),
        None => {
            let scale = pages.checked_ilog2()?.checked_sub(4)?;
            let rest = (pages - (1 << scale), PageCount::new(1, scale)?);
            (PageCount::new(pages >> scale, scale)?, Some(rest))
        }
    };
    let second = second.filter(|_| !planted::is(Fault::SmmuSecondSpanLeftOut));
    Some([Some((0, first)), second].into_iter().flatten())
}

fn device_tlb_blocks(range: Range, costs: &Costs) -> Blocks {
    cover::blocks(range, costs, Block::ALL_ORDER).or_all()
}

fn device_tlb(device: DeviceId, pasid: Pasid, blocks: Blocks, emit: Emit<'_>) {
    for block in blocks {
        emit(Item::Command(atc_inv(device, pasid, block)));
    }
}

fn everything_in_device_tlb(device: DeviceId, pasid: Pasid) -> commands::Command {
    atc_inv(device, pasid, Block::ALL)
}

fn atc_inv(device: DeviceId, pasid: Pasid, block: Block) -> commands::Command {
    // With S1DSS = substream 0 the device keeps untagged translations without a PASID, and only a
    // request without one takes them (4.5.1, note).
    let tagged = !pasid.is_untagged() || planted::is(Fault::SmmuUntaggedAsTagged);
    let substream = pasid.get() ^ u32::from(planted::is(Fault::SmmuWrongSubstream));
    let substream = tagged.then_some(substream);
    let stream = device.0 ^ u32::from(planted::is(Fault::SmmuWrongStream));
    let short = u32::from(planted::is(Fault::SmmuAtcSizeShort));
    commands::atc_inv(
        stream,
        substream,
        block.address,
        block.order.saturating_sub(short),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn assert_exact(pages: u64) {
        let spans: Vec<_> = page_counts(pages).unwrap().collect();
        let (_, first) = spans[0];
        let covered = match spans[..] {
            [(0, _)] => first.pages(),
            [(0, _), (offset, second)] => {
                assert!(offset <= first.pages(), "{pages} pages: a gap in {spans:?}");
                offset + second.pages()
            }
            _ => panic!("{pages} pages: {spans:?}"),
        };
        assert_eq!(covered, pages, "{spans:?}");
    }

    /// A command covers 1 to 32 times a power of two of pages (4.4.1), so one is enough for these.
    fn least_commands(pages: u64) -> usize {
        let is_one = |scale: u32| pages.is_multiple_of(1 << scale) && pages >> scale <= 32;
        if (0..32).any(is_one) { 1 } else { 2 }
    }

    #[test]
    fn no_number_of_pages_up_to_2_20_takes_more_commands_than_it_must() {
        for pages in 2..=1 << 20 {
            let ours = page_counts(pages).unwrap().count();
            assert_eq!(ours, least_commands(pages), "{pages} pages");
        }
    }

    #[test]
    fn up_to_2_20_pages_are_covered_exactly_by_at_most_two_legal_commands() {
        // `PageCount` cannot hold the reserved encoding, so legality is the type's.
        (2..=1 << 20).for_each(assert_exact);
    }

    #[test]
    fn so_are_the_edges_up_to_2_36_pages() {
        for bit in 20..36 {
            let power = 1u64 << bit;
            for pages in power - 3..power + 3 {
                assert_exact(pages);
            }
            assert_exact(power | power >> 5);
            assert_exact(power | 1);
        }
        assert_exact((1 << 36) - 1);
        assert_exact(1 << 36);
        assert!(page_counts((1 << 36) + 1).is_none());
        assert!(page_counts(1 << 52).is_none());
    }

    #[test]
    fn one_command_where_one_can_be_exact() {
        for scale in 0..31 {
            for multiplier in 1..=32u64 {
                let pages = multiplier << scale;
                if pages > 1 {
                    assert_eq!(page_counts(pages).unwrap().count(), 1, "{pages} pages");
                }
            }
        }
        assert_eq!(page_counts(33).unwrap().count(), 2);
    }

    #[test]
    fn the_reserved_encoding_cannot_be_made() {
        assert_eq!(PageCount::new(1, 0), None);
        assert_eq!(PageCount::new(0, 1), None);
        assert_eq!(PageCount::new(33, 0), None);
        assert_eq!(PageCount::new(1, 32), None);
    }
}
