//! From the neutral operation to commands: pure functions of (operation, capabilities, costs).
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
use crate::planted::{self, Fault};
use crate::spec::commands::{
    Command, Reach, ats_inval, iodir_inval_ddt, iodir_inval_ddt_all, iodir_inval_pdt,
    iotinval_gvma_all, iotinval_vma_all, iotinval_vma_block, iotinval_vma_page, iotinval_vma_tag,
};
use iommu_core::cover::{self, Block, Blocks, Costs, Cover, PAGE_SHIFT};
use iommu_core::ids::{DeviceId, Pasid, Tag};
use iommu_core::operation::{Invalidation, Levels, Target};
use iommu_core::quarantine::Quarantine;
use iommu_core::ring::Item;

/// Takes one command after another.
type Emit<'a> = dyn FnMut(Item<2>) + 'a;

/// Above this many pages (256 GiB) a block goes tag-wide: its encoded address could lie outside what
/// Sv39 takes for an address, and "if the ADDR operand specifies an invalid address, the command may
/// or may not perform any invalidations".
const BLOCK_TAG_WIDE_ABOVE: u64 = 1 << 26;

/// The commands of an invalidation. Its targets are IOTLBs only, or device TLBs only: between the
/// two the specification wants a wait, which is the caller's.
pub fn encode(
    invalidation: &Invalidation<'_>,
    capabilities: &Capabilities,
    costs: &Costs,
    emit: impl FnMut(Item<2>),
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
    mut emit: impl FnMut(Item<2>),
) {
    let (mut form, mut blocks) = (None, None);
    for target in invalidation.targets {
        match *target {
            Target::Iotlb { .. } if planted::is(Fault::RiscvIotlbLeftOut) => {}
            Target::DeviceTlb { .. } if planted::is(Fault::RiscvDeviceTlbLeftOut) => {}
            Target::Iotlb { tag, .. } => {
                let form =
                    form.get_or_insert_with(|| iotlb_form(invalidation, capabilities, costs));
                iotlb(tag, form, &mut emit);
            }
            Target::DeviceTlb { device, .. } if quarantine.has(device) => {}
            Target::DeviceTlb { device, pasid } => {
                let blocks = blocks.get_or_insert_with(|| device_tlb_blocks(invalidation, costs));
                device_tlb(device, pasid, blocks.clone(), &mut emit);
            }
        }
    }
}

/// What was cached before the driver came: contexts, first stage, and the second if there is one.
pub(crate) fn inherited(capabilities: &Capabilities, emit: &mut Emit<'_>) {
    if planted::is(Fault::RiscvInheritedKept) {
        return;
    }
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
/// device directory table entry"). [`below_device`] follows when this is done.
pub(crate) fn device_entry_changed(device: DeviceId, emit: &mut Emit<'_>) {
    if !planted::is(Fault::RiscvDeviceContextKept) {
        put(emit, iodir_inval_ddt(device));
    }
}

/// Everything that may have been translated through a device context.
pub(crate) fn below_device(emit: &mut Emit<'_>) {
    if !planted::is(Fault::RiscvBelowDeviceKept) {
        put(emit, iotinval_vma_all());
    }
}

/// A process context was made valid or invalid (section "Changing process directory table entry").
/// [`below_pasid`] follows when this is done.
pub(crate) fn pasid_entry_changed(device: DeviceId, pasid: Pasid, emit: &mut Emit<'_>) {
    if !planted::is(Fault::RiscvProcessContextKept) {
        put(emit, iodir_inval_pdt(device, pasid));
    }
}

/// Everything that was translated through a process context. On the way to valid, it also orders
/// the harts' stores to the page table before the first walk.
pub(crate) fn below_pasid(tag: Tag, emit: &mut Emit<'_>) {
    if !planted::is(Fault::RiscvIotlbKept) {
        put(emit, iotinval_vma_tag(tag));
    }
}

/// Everything that a device TLB holds for a PASID.
pub(crate) fn whole_device_tlb(device: DeviceId, pasid: Pasid, emit: &mut Emit<'_>) {
    if !planted::is(Fault::RiscvDeviceTlbKept) {
        put(emit, ats_inval(device, pasid, Block::ALL));
    }
}

/// A device that answers an invalidation has sent its page requests before that.
pub(crate) fn page_requests_drained(device: DeviceId, pasid: Pasid, emit: &mut Emit<'_>) {
    if !planted::is(Fault::RiscvDrainWithoutDevice) {
        whole_device_tlb(device, pasid, emit);
    }
}

/// How a range leaves an IOTLB.
enum Form {
    /// With everything under every tag.
    Everything,
    /// With everything under the tag.
    TagWide,
    Blocks(Blocks, Reach),
    /// The first page number, and how many pages.
    Pages(u64, u64, Reach),
}

fn iotlb_form(invalidation: &Invalidation<'_>, capabilities: &Capabilities, costs: &Costs) -> Form {
    let range = invalidation.range;
    let with_global = range.last().is_some_and(is_kernel_half) && !range.is_all();
    if with_global && !planted::is(Fault::RiscvGlobalKept) {
        return Form::Everything;
    }
    let reach = match invalidation.levels {
        Levels::LeafOnly => Reach::Leaf,
        Levels::All if capabilities.has_non_leaf_invalidation() => Reach::NonLeaf,
        Levels::All if planted::is(Fault::RiscvLeavesOnly) => Reach::Leaf,
        Levels::All => return Form::TagWide,
    };
    match cover::pages(range) {
        Some(pages) if capabilities.has_range_invalidation() && pages <= BLOCK_TAG_WIDE_ABOVE => {
            match cover::blocks(range, costs, Block::ALL_ORDER) {
                Cover::Blocks(blocks) => Form::Blocks(blocks, reach),
                Cover::TagWide => Form::TagWide,
            }
        }
        Some(pages) if !capabilities.has_range_invalidation() && costs.allow(pages) => {
            Form::Pages(range.start() >> PAGE_SHIFT, pages, reach)
        }
        _ => Form::TagWide,
    }
}

fn iotlb(tag: Tag, form: &Form, emit: &mut Emit<'_>) {
    let tag = Tag(tag.0 ^ u32::from(planted::is(Fault::RiscvWrongTag)));
    match form {
        Form::Everything => put(emit, iotinval_vma_all()),
        Form::TagWide => put(emit, iotinval_vma_tag(tag)),
        Form::Blocks(blocks, reach) => blocks
            .clone()
            .map(short_if_planted)
            .for_each(|block| put(emit, iotinval_vma_block(tag, block, *reach))),
        Form::Pages(first, pages, reach) => (*first..first + pages)
            .take(*pages as usize - usize::from(planted::is(Fault::RiscvLastPageMissing)))
            .for_each(|page| put(emit, iotinval_vma_page(tag, page << PAGE_SHIFT, *reach))),
    }
}

fn device_tlb_blocks(invalidation: &Invalidation<'_>, costs: &Costs) -> Blocks {
    cover::blocks(invalidation.range, costs, Block::ALL_ORDER).or_all()
}

fn device_tlb(device: DeviceId, pasid: Pasid, blocks: Blocks, emit: &mut Emit<'_>) {
    let device = DeviceId(device.0 ^ u32::from(planted::is(Fault::RiscvWrongDevice)));
    let pasid = if planted::is(Fault::RiscvTaggedAsUntagged) {
        Pasid::UNTAGGED
    } else if planted::is(Fault::RiscvWrongProcess) {
        Pasid::new(pasid.get() ^ 1).unwrap_or(pasid)
    } else {
        pasid
    };
    for block in blocks.map(short_if_planted) {
        put(emit, ats_inval(device, pasid, block));
    }
}

/// `block`, or what a planted fault leaves of it.
fn short_if_planted(block: Block) -> Block {
    let short = u32::from(planted::is(Fault::RiscvBlockShort));
    Block {
        order: block.order.saturating_sub(short),
        ..block
    }
}

/// Virtual addresses are sign-extended from 39, 48 or 57 bits.
const fn is_kernel_half(address: u64) -> bool {
    address >> 63 == 1
}

fn put(emit: &mut Emit<'_>, command: Command) {
    emit(Item::Command(command));
}
