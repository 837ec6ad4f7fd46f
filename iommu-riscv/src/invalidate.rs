//! From the neutral operation to commands: pure functions of (operation, capabilities).
//!
//! What the specification says decides the form:
//! - `IOTINVAL.VMA` with an address invalidates entries "that contain first-stage leaf page table
//!   entries" (table "IOTINVAL.VMA operands and operations"). When a non-leaf entry changed, only
//!   the form without an address will do, unless the NL extension gives the address one that
//!   reaches every level (section "Non-leaf PTE Invalidation by IOTINVAL.VMA").
//! - With PSCV = 1 "entries containing global mappings" stay. Global mappings belong to the kernel,
//!   whose half of the address space is the upper one: a range that reaches into it is invalidated
//!   with PSCV = 0.
//! - Which lists a change of a table entry needs is section "Guidelines for invalidations".

use crate::caps::Capabilities;
use crate::spec::commands::{
    Command, Reach, ats_inval, iodir_inval_ddt, iodir_inval_ddt_all, iodir_inval_pdt,
    iotinval_gvma_all, iotinval_vma_all, iotinval_vma_block, iotinval_vma_page, iotinval_vma_tag,
};
use iommu_core::Range;
use iommu_core::cover::{Block, PAGE_SHIFT, TAG_WIDE_ABOVE, blocks, pages};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::ring::Item;

/// Takes one command after another.
type Emit<'a> = dyn FnMut(Item<2>) + 'a;

/// The most commands that one IOTLB target becomes.
pub(crate) const MOST_FOR_IOTLB: usize = TAG_WIDE_ABOVE as usize;

/// Above this many pages (256 GiB) a block goes tag-wide: its encoded address could lie outside what
/// Sv39 takes for an address, and "if the ADDR operand specifies an invalid address, the command may
/// or may not perform any invalidations".
const BLOCK_TAG_WIDE_ABOVE: u64 = 1 << 26;

/// The most commands that one device-TLB target becomes.
pub(crate) const MOST_FOR_DEVICE_TLB: usize = 2;

/// The commands of an invalidation. Its targets are IOTLBs only, or device TLBs only: between the
/// two the specification wants a wait, which is the caller's.
pub fn encode(
    invalidation: &Invalidation<'_>,
    capabilities: &Capabilities,
    mut emit: impl FnMut(Item<2>),
) {
    let Invalidation {
        targets,
        range,
        levels,
    } = *invalidation;
    for target in targets {
        match *target {
            Target::Iotlb { tag, .. } => iotlb(tag, range, levels, capabilities, &mut emit),
            Target::DeviceTlb { device, pasid } => device_tlb(device, pasid, range, &mut emit),
        }
    }
}

/// What was cached before the driver came: contexts, first stage, and the second if there is one.
pub(crate) fn inherited(capabilities: &Capabilities, emit: &mut Emit<'_>) {
    put(emit, iodir_inval_ddt_all());
    put(emit, iotinval_vma_all());
    if capabilities.has_second_stage() {
        put(emit, iotinval_gvma_all());
    }
}

/// A device context became valid. Section "Caching invalid entries" asks for nothing; the command
/// is the notice that section "Guidelines for emulating an IOMMU" allows an emulator to need.
pub(crate) fn device_entry_set(device: DeviceId, emit: &mut Emit<'_>) {
    put(emit, iodir_inval_ddt(device));
}

/// A valid device context with PDTV = 1 and a Bare second stage was changed (section "Changing
/// device directory table entry").
pub(crate) fn device_entry_changed(device: DeviceId, emit: &mut Emit<'_>) {
    put(emit, iodir_inval_ddt(device));
    put(emit, iotinval_vma_all());
}

/// A process context was made valid or invalid (section "Changing process directory table entry").
/// On the way to valid, `IOTINVAL.VMA` also orders the harts' stores to the page table before the
/// first walk.
pub(crate) fn pasid_entry_changed(device: DeviceId, pasid: Pasid, tag: Tag, emit: &mut Emit<'_>) {
    put(emit, iodir_inval_pdt(device, pasid));
    put(emit, iotinval_vma_tag(tag));
}

/// Everything that a device TLB holds for a PASID.
pub(crate) fn whole_device_tlb(device: DeviceId, pasid: Pasid, emit: &mut Emit<'_>) {
    put(emit, ats_inval(device, pasid, Block::ALL));
}

fn iotlb(tag: Tag, range: Range, levels: Levels, capabilities: &Capabilities, emit: &mut Emit<'_>) {
    let Some(last) = range.last() else { return };
    if is_kernel_half(last) && !range.is_all() {
        return put(emit, iotinval_vma_all());
    }
    let reach = match levels {
        Levels::LeafOnly => Reach::Leaf,
        Levels::All if capabilities.has_non_leaf_invalidation() => Reach::NonLeaf,
        Levels::All => return put(emit, iotinval_vma_tag(tag)),
    };
    let by_block = capabilities.has_range_invalidation();
    let limit = if by_block {
        BLOCK_TAG_WIDE_ABOVE
    } else {
        TAG_WIDE_ABOVE
    };
    if pages(range).is_none_or(|count| count > limit) {
        put(emit, iotinval_vma_tag(tag));
    } else if by_block {
        blocks(range)
            .into_iter()
            .flatten()
            .for_each(|block| put(emit, iotinval_vma_block(tag, block, reach)));
    } else {
        (range.start() >> PAGE_SHIFT..=last >> PAGE_SHIFT)
            .for_each(|page| put(emit, iotinval_vma_page(tag, page << PAGE_SHIFT, reach)));
    }
}

fn device_tlb(device: DeviceId, pasid: Pasid, range: Range, emit: &mut Emit<'_>) {
    blocks(range)
        .into_iter()
        .flatten()
        .for_each(|block| put(emit, ats_inval(device, pasid, block)));
}

/// Virtual addresses are sign-extended from 39, 48 or 57 bits.
const fn is_kernel_half(address: u64) -> bool {
    address >> 63 == 1
}

fn put(emit: &mut Emit<'_>, command: Command) {
    emit(Item::Command(command));
}
