//! From what changed to command lists: pure functions of (change, capabilities, costs).
//!
//! The order in every list is the specification's (6.5.3.3): context cache, PASID cache, IOTLB,
//! then, behind a fence, device TLBs. The hardware itself orders the first three; the fence makes
//! sure that no device TLB refills from the IOTLB what was just taken out of it.

use crate::caps::Capabilities;
use crate::planted::{self, Fault};
use crate::queue::WORDS;
use crate::spec::commands::{self, Command};
use iommu_core::cover::{self, Block, Blocks, Costs, Cover};
use iommu_core::ids::{DeviceId, Pasid, PhysicalAddress, Tag};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::quarantine::Quarantine;
use iommu_core::ring;

/// One element of a command list.
pub type Item = ring::Item<WORDS>;

/// Where a list goes.
pub type Emit<'a> = &'a mut dyn FnMut(Item);

/// The domain-id under which entries that are not present are cached if CAP.CM is set (6.1).
const NOT_PRESENT: u16 = 0;

/// One range out of several caches.
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
    if planted::is(Fault::VtdDeviceTlbFirst) {
        device_tlbs(quarantine, invalidation, capabilities, costs, false, emit);
        iotlbs(invalidation, capabilities, costs, emit);
        return;
    }
    let fence = iotlbs(invalidation, capabilities, costs, emit);
    device_tlbs(quarantine, invalidation, capabilities, costs, fence, emit);
}

/// The range out of the IOTLBs; whether there are any.
fn iotlbs(
    invalidation: &Invalidation<'_>,
    capabilities: &Capabilities,
    costs: &Costs,
    emit: Emit<'_>,
) -> bool {
    let leaf_only =
        invalidation.levels == Levels::LeafOnly || planted::is(Fault::VtdLeafHintAlways);
    let mut cover = None;
    for target in invalidation.targets {
        if planted::is(Fault::VtdIotlbLeftOut) {
            break;
        }
        if let Target::Iotlb { tag, pasid } = *target {
            let cover = cover.get_or_insert_with(|| iotlb_cover(invalidation, capabilities, costs));
            iotlb_range(tag, pasid, cover, leaf_only, emit);
        }
    }
    cover.is_some()
}

/// The range out of the device TLBs, behind a fence if there is something to wait for.
fn device_tlbs(
    quarantine: &Quarantine,
    invalidation: &Invalidation<'_>,
    capabilities: &Capabilities,
    costs: &Costs,
    mut fence: bool,
    emit: Emit<'_>,
) {
    let mut blocks = None;
    for target in invalidation.targets {
        if planted::is(Fault::VtdDeviceTlbLeftOut) {
            break;
        }
        if let Target::DeviceTlb { device, pasid } = *target
            && !quarantine.has(device)
        {
            if fence && !planted::is(Fault::VtdFenceLeftOut) {
                emit(Item::Barrier);
                fence = false;
            }
            let blocks = blocks.get_or_insert_with(|| device_tlb_blocks(invalidation, costs));
            for block in blocks.clone() {
                let command = device_tlb_block(device, pasid, block, capabilities);
                emit(Item::Command(command));
            }
        }
    }
}

/// Everything that a cache may hold from before the driver (B-68: another kernel, firmware).
pub fn everything(capabilities: &Capabilities, emit: Emit<'_>) {
    if planted::is(Fault::VtdInheritedKept) {
        return;
    }
    emit(Item::Command(commands::context_cache_global()));
    emit(Item::Command(commands::pasid_cache_global()));
    emit(Item::Command(commands::iotlb_global(capabilities.drain())));
}

/// A context entry became present: nothing, unless the hardware caches what is not present.
pub fn device_added(source_id: u16, capabilities: &Capabilities, emit: Emit<'_>) {
    if capabilities.caching_mode() && !planted::is(Fault::VtdNotPresentKept) {
        let drain = capabilities.drain();
        emit(Item::Command(commands::context_cache_device(source_id)));
        emit(Item::Command(commands::pasid_cache_domain(NOT_PRESENT)));
        emit(Item::Command(commands::iotlb_domain(NOT_PRESENT, drain)));
    }
}

/// A context entry is no longer present. Which tags its PASIDs had in its lifetime is not known
/// any more, so everything below the context cache goes.
pub fn device_removed(
    source_id: u16,
    device_tlb: bool,
    capabilities: &Capabilities,
    emit: Emit<'_>,
) {
    if !planted::is(Fault::VtdContextCacheKept) {
        emit(Item::Command(commands::context_cache_device(source_id)));
    }
    if !planted::is(Fault::VtdBelowContextKept) {
        emit(Item::Command(commands::pasid_cache_global()));
        emit(Item::Command(commands::iotlb_global(capabilities.drain())));
    }
    if device_tlb {
        let device = DeviceId(source_id.into());
        whole_device_tlb(device, Pasid::UNTAGGED, capabilities, emit);
    }
}

/// A PASID table entry became present: nothing, unless the hardware caches what is not present.
pub fn pasid_added(tag: Tag, pasid: Pasid, capabilities: &Capabilities, emit: Emit<'_>) {
    if capabilities.caching_mode() && !planted::is(Fault::VtdNotPresentKept) {
        pasid_changed(tag, pasid, emit);
    }
}

/// A PASID table entry is no longer present.
pub fn pasid_removed(
    source_id: u16,
    tag: Tag,
    pasid: Pasid,
    device_tlb: bool,
    capabilities: &Capabilities,
    emit: Emit<'_>,
) {
    if planted::is(Fault::VtdBlockKeepsCaches) {
        return;
    }
    pasid_changed(tag, pasid, emit);
    if device_tlb && !planted::is(Fault::VtdDeviceTlbKept) {
        whole_device_tlb(DeviceId(source_id.into()), pasid, capabilities, emit);
    }
}

/// Drains page requests and responses of a PASID that is blocked (7.10): behind the responses that
/// were posted before, invalidations that push every page request of the device ahead of their
/// answer, and a wait for what the hardware has received. It writes to `drained`. Without `device_tlb`
/// the device is asked nothing.
pub fn page_requests_drained(
    source_id: u16,
    tag: Tag,
    pasid: Pasid,
    device_tlb: bool,
    drained: PhysicalAddress,
    capabilities: &Capabilities,
    emit: Emit<'_>,
) {
    emit(Item::Barrier);
    let iotlb = commands::pasid_iotlb_all(domain_id(tag), pasid);
    emit(Item::Command(iotlb));
    if device_tlb && !planted::is(Fault::VtdDrainWithoutDevice) {
        whole_device_tlb(DeviceId(source_id.into()), pasid, capabilities, emit);
    }
    let waits = capabilities.page_request_drain() && !planted::is(Fault::VtdDrainWithoutFlag);
    let drain = commands::wait_drain(drained, waits);
    emit(Item::Command(drain));
}

fn pasid_changed(tag: Tag, pasid: Pasid, emit: Emit<'_>) {
    let domain_id = domain_id(tag);
    if !planted::is(Fault::VtdPasidCacheKept) {
        emit(Item::Command(commands::pasid_cache_pasid(domain_id, pasid)));
    }
    if !planted::is(Fault::VtdIotlbKept) {
        emit(Item::Command(commands::pasid_iotlb_all(domain_id, pasid)));
    }
}

/// The whole device TLB of one PASID, behind a fence.
pub(crate) fn whole_device_tlb(
    device: DeviceId,
    pasid: Pasid,
    capabilities: &Capabilities,
    emit: Emit<'_>,
) {
    emit(Item::Barrier);
    let command = device_tlb_block(device, pasid, Block::ALL, capabilities);
    emit(Item::Command(command));
}

/// Blocks up to CAP.MAMV, if the hardware has page-selective invalidation at all.
fn iotlb_cover(
    invalidation: &Invalidation<'_>,
    capabilities: &Capabilities,
    costs: &Costs,
) -> Cover {
    match capabilities.page_selective_order() {
        Some(largest) => cover::blocks(invalidation.range, costs, largest),
        None => Cover::TagWide,
    }
}

fn iotlb_range(tag: Tag, pasid: Pasid, cover: &Cover, leaf_only: bool, emit: Emit<'_>) {
    let domain_id = domain_id(tag);
    let pasid = if planted::is(Fault::VtdWrongIotlbPasid) {
        another(pasid)
    } else {
        pasid
    };
    let Cover::Blocks(blocks) = cover else {
        return emit(Item::Command(commands::pasid_iotlb_all(domain_id, pasid)));
    };
    for Block { address, order } in blocks.clone() {
        let order = order.saturating_sub(planted::is(Fault::VtdAddressMaskShort).into());
        let command = commands::pasid_iotlb_page(domain_id, pasid, address, order, leaf_only);
        emit(Item::Command(command));
    }
}

fn device_tlb_blocks(invalidation: &Invalidation<'_>, costs: &Costs) -> Blocks {
    cover::blocks(invalidation.range, costs, Block::ALL_ORDER).or_all()
}

fn device_tlb_block(
    device: DeviceId,
    pasid: Pasid,
    block: Block,
    capabilities: &Capabilities,
) -> Command {
    let source_id = device.0 as u16 ^ u16::from(planted::is(Fault::VtdWrongDevice));
    let pf_source_id = pf_source_id(source_id, capabilities);
    let Block { address, order } = block;
    let order = order.saturating_sub(planted::is(Fault::VtdDeviceTlbSizeShort).into());
    if planted::is(Fault::VtdWrongDeviceTlbPasid) {
        let pasid = another(pasid);
        return commands::pasid_device_tlb(source_id, pf_source_id, pasid, address, order);
    }
    if pasid.is_untagged() && !planted::is(Fault::VtdUntaggedAsTagged) {
        commands::device_tlb(source_id, pf_source_id, address, order)
    } else {
        commands::pasid_device_tlb(source_id, pf_source_id, pasid, address, order)
    }
}

/// A device is taken for a physical function; PFSID is reserved without the throttle.
pub(crate) fn pf_source_id(source_id: u16, capabilities: &Capabilities) -> u16 {
    if capabilities.device_tlb_throttle() {
        source_id
    } else {
        0
    }
}

/// Tags come from the unit's own allocator and fit 16 bits.
fn domain_id(tag: Tag) -> u16 {
    tag.0 as u16 ^ u16::from(planted::is(Fault::VtdWrongDomain))
}

/// A PASID that a planted fault takes for `pasid`.
fn another(pasid: Pasid) -> Pasid {
    Pasid::new(pasid.get() ^ 1).unwrap_or(pasid)
}
