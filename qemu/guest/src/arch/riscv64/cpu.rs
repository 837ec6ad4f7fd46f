//! Control and status registers and the TLB.

use super::paging::{TranslationControl, satp_mode};
use core::arch::asm;

/// Page-table depths to try, best first: Sv48, then Sv39.
pub const LEVELS: &[u8] = &[4, 3];

const MODE_SHIFT: u32 = 60;
const PAGE_NUMBER: u64 = (1 << 44) - 1;
const SSTATUS_SUM: u64 = 1 << 18;

/// Turns paging on with the table at `root`, if the hart has `levels` levels; else nothing changes
/// and the answer is `false`.
///
/// # Safety
///
/// The table maps the running kernel, its stack and its devices where they are now.
pub unsafe fn enable_translation(root: u64, levels: u8) -> bool {
    let wanted = satp_mode(levels) << MODE_SHIFT | root >> 12;
    let active: u64;
    // SAFETY: the caller's promise; a hart ignores a write of a mode that it lacks (privileged
    // specification, section 12.1.11). SUM lets the kernel touch pages of the address space.
    unsafe {
        asm!(
            "csrs sstatus, {sum}",
            "sfence.vma",
            "csrw satp, {wanted}",
            "sfence.vma",
            "csrr {active}, satp",
            sum = in(reg) SSTATUS_SUM,
            wanted = in(reg) wanted,
            active = out(reg) active,
            options(nostack, preserves_flags),
        );
    }
    active == wanted
}

/// Switches to the table at `root`, which has as many levels as the one in use.
///
/// # Safety
///
/// As for [`enable_translation`].
pub unsafe fn activate(root: u64) {
    let value = satp() & !PAGE_NUMBER | root >> 12;
    // SAFETY: the caller's promise; all tables share ASID 0, so its translations are dropped.
    unsafe {
        asm!("csrw satp, {}", "sfence.vma", in(reg) value, options(nostack, preserves_flags));
    }
}

/// The root table in use.
pub fn active_root() -> u64 {
    (satp() & PAGE_NUMBER) << 12
}

/// Makes this hart forget its translation of one page.
pub fn flush_page(address: u64) {
    // SAFETY: forgetting a translation is always allowed.
    unsafe { asm!("sfence.vma {}, zero", in(reg) address, options(nostack, preserves_flags)) };
}

/// Makes this hart forget all translations.
pub fn flush_all() {
    // SAFETY: as for one page.
    unsafe { asm!("sfence.vma", options(nostack, preserves_flags)) };
}

/// Orders earlier stores before later ones for devices too. QEMU's machine has coherent memory, so
/// no cache line is written back.
pub fn clean(_address: u64, _length: u64) {
    // SAFETY: a fence has no other effect.
    unsafe { asm!("fence iorw, iorw", options(nostack, preserves_flags)) };
}

/// The format of this kernel's tables.
pub fn translation_control(levels: u8) -> TranslationControl {
    TranslationControl {
        levels,
        virtual_bits: 12 + 9 * levels,
        satp_mode: satp_mode(levels) as u8,
    }
}

fn satp() -> u64 {
    let value: u64;
    // SAFETY: reading satp has no side effect.
    unsafe { asm!("csrr {}, satp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Orders every earlier store to memory before a following write of a device register.
pub fn before_device_write() {
    // SAFETY: a fence has no other effect.
    unsafe { asm!("fence w, o", options(nostack, preserves_flags)) };
}

/// Orders a preceding read of a device register before every later load from memory.
pub fn after_device_read() {
    // SAFETY: a fence has no other effect.
    unsafe { asm!("fence i, r", options(nostack, preserves_flags)) };
}
