//! System registers, the TLB and the caches.

use super::paging::{
    MEMORY_ATTRIBUTES, T0SZ, TRANSLATION_CONTROL, TranslationControl, physical_bits,
};
use core::arch::asm;

/// Page-table depths to try, best first.
pub const LEVELS: &[u8] = &[4];

const PHYSICAL_RANGE: u64 = 0xf;
/// 48 bits: more needs another descriptor format.
const PHYSICAL_RANGE_48: u64 = 5;
const IPS_SHIFT: u32 = 32;
const MMFR1_PAN_SHIFT: u32 = 20;
const SCTLR_MMU: u64 = 1 << 0;
const SCTLR_ALIGNMENT_CHECK: u64 = 1 << 1;
const SCTLR_DATA_CACHE: u64 = 1 << 2;
const SCTLR_INSTRUCTION_CACHE: u64 = 1 << 12;
const SCTLR_WRITE_EXECUTE_NEVER: u64 = 1 << 19;
/// Exceptions leave PSTATE.PAN alone.
const SCTLR_KEEP_PAN: u64 = 1 << 23;

/// Turns the MMU on with the table at `root`. Always succeeds.
///
/// # Safety
///
/// The table maps the running kernel, its stack and its devices where they are now.
pub unsafe fn enable_translation(root: u64, levels: u8) -> bool {
    let control = translation_control(levels);
    // SAFETY: the caller's promise; the barriers order the table's stores and the register writes
    // before the MMU's first walk (Arm ARM D8.16).
    unsafe {
        allow_access_to_user_pages();
        asm!(
            "dsb sy",
            "tlbi vmalle1",
            "dsb sy",
            "msr mair_el1, {attributes}",
            "msr tcr_el1, {control}",
            "msr ttbr0_el1, {root}",
            "isb",
            "mrs {system}, sctlr_el1",
            "orr {system}, {system}, {set}",
            "bic {system}, {system}, {clear}",
            "msr sctlr_el1, {system}",
            "isb",
            attributes = in(reg) control.memory_attributes,
            control = in(reg) control.translation_control,
            root = in(reg) root,
            set = in(reg) SCTLR_MMU | SCTLR_DATA_CACHE | SCTLR_INSTRUCTION_CACHE | SCTLR_KEEP_PAN,
            clear = in(reg) SCTLR_ALIGNMENT_CHECK | SCTLR_WRITE_EXECUTE_NEVER,
            system = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
    true
}

/// Clears PSTATE.PAN where there is one, so that EL1 may touch pages of the address space.
fn allow_access_to_user_pages() {
    let features: u64;
    // SAFETY: reading an identification register has no side effect.
    unsafe {
        asm!("mrs {}, id_aa64mmfr1_el1", out(reg) features, options(nomem, nostack));
    }
    if features >> MMFR1_PAN_SHIFT & 0xf != 0 {
        // SAFETY: the processor has the instruction, which changes only what EL1 may access.
        unsafe { asm!(".inst 0xd500409f // msr pan, #0", options(nostack)) };
    }
}

/// Switches to the table at `root`.
///
/// # Safety
///
/// As for [`enable_translation`].
pub unsafe fn activate(root: u64) {
    // SAFETY: the caller's promise; all tables share ASID 0, so its translations are dropped.
    unsafe {
        asm!(
            "dsb ishst",
            "msr ttbr0_el1, {root}",
            "isb",
            "tlbi vmalle1",
            "dsb ish",
            "isb",
            root = in(reg) root,
            options(nostack, preserves_flags),
        );
    }
}

/// The root table in use.
pub fn active_root() -> u64 {
    let root: u64;
    // SAFETY: reading TTBR0_EL1 has no side effect.
    unsafe { asm!("mrs {}, ttbr0_el1", out(reg) root, options(nomem, nostack, preserves_flags)) };
    root & 0x0000_ffff_ffff_f000
}

/// Makes this processor forget its translation of one page. An SMMU that listens to broadcast
/// invalidation (BTM) is not addressed: the instruction is the local one.
pub fn flush_page(address: u64) {
    // SAFETY: forgetting a translation is always allowed.
    unsafe {
        asm!(
            "dsb ishst",
            "tlbi vaae1, {}",
            "dsb ish",
            "isb",
            in(reg) address >> 12 & 0xfff_ffff_ffff,
            options(nostack, preserves_flags),
        );
    }
}

/// Makes this processor forget all translations.
pub fn flush_all() {
    // SAFETY: as for one page.
    unsafe {
        asm!(
            "dsb ishst",
            "tlbi vmalle1",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Writes back and drops the cache lines of `length` bytes from virtual address `address`, which
/// is mapped.
pub fn clean(address: u64, length: u64) {
    let cache_type: u64;
    // SAFETY: reading CTR_EL0 has no side effect.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) cache_type, options(nomem, nostack)) };
    let line = 4u64 << (cache_type >> 16 & 0xf);
    let mut next = address & !(line - 1);
    while next < address.saturating_add(length) {
        // SAFETY: writing a line back changes no contents.
        unsafe { asm!("dc civac, {}", in(reg) next, options(nostack, preserves_flags)) };
        next += line;
    }
    // SAFETY: a barrier has no other effect.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// The format of this kernel's tables.
pub fn translation_control(levels: u8) -> TranslationControl {
    let features: u64;
    // SAFETY: reading an identification register has no side effect.
    unsafe { asm!("mrs {}, id_aa64mmfr0_el1", out(reg) features, options(nomem, nostack)) };
    let range = (features & PHYSICAL_RANGE).min(PHYSICAL_RANGE_48);
    TranslationControl {
        levels,
        virtual_bits: (64 - T0SZ) as u8,
        physical_bits: physical_bits(range),
        translation_control: TRANSLATION_CONTROL | range << IPS_SHIFT,
        memory_attributes: MEMORY_ATTRIBUTES,
    }
}

/// Orders every earlier store to memory before a following write of a device register.
pub fn before_device_write() {
    // SAFETY: a fence has no other effect.
    unsafe { asm!("dmb oshst", options(nostack, preserves_flags)) };
}

/// Orders a preceding read of a device register before every later load from memory.
pub fn after_device_read() {
    // SAFETY: a fence has no other effect.
    unsafe { asm!("dmb oshld", options(nostack, preserves_flags)) };
}
