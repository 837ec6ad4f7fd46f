//! Control registers, the TLB and the caches.

use super::paging::TranslationControl;
use core::arch::asm;
use core::sync::atomic::{Ordering, compiler_fence};

/// Page-table depths to try, best first.
pub const LEVELS: &[u8] = &[4];

const CACHE_LINE: u64 = 64;

/// Goes from the start code's table to the one at `root`. Always succeeds.
///
/// # Safety
///
/// The table maps the running kernel, its stack and its devices where they are now.
pub unsafe fn enable_translation(root: u64, _levels: u8) -> bool {
    // SAFETY: the caller's promise.
    unsafe { activate(root) };
    true
}

/// Switches to the table at `root`.
///
/// # Safety
///
/// As for [`enable_translation`].
pub unsafe fn activate(root: u64) {
    // SAFETY: the caller's promise; without PCIDs the move also flushes the TLB.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// The root table in use.
pub fn active_root() -> u64 {
    let root: u64;
    // SAFETY: reading CR3 has no side effect.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags)) };
    root & !0xfff
}

/// Makes this processor forget its translation of one page.
pub fn flush_page(address: u64) {
    // SAFETY: forgetting a translation is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Makes this processor forget all translations.
pub fn flush_all() {
    // SAFETY: the table stays the same.
    unsafe { activate(active_root()) };
}

/// Writes back and drops the cache lines of `length` bytes from virtual address `address`, which
/// is mapped.
pub fn clean(address: u64, length: u64) {
    let mut line = address & !(CACHE_LINE - 1);
    while line < address.saturating_add(length) {
        // SAFETY: flushing a line changes no contents.
        unsafe { asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags)) };
        line += CACHE_LINE;
    }
    // SAFETY: a fence has no other effect.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// The format of this kernel's tables.
pub fn translation_control(levels: u8) -> TranslationControl {
    TranslationControl {
        levels,
        virtual_bits: 12 + 9 * levels,
    }
}

/// Orders every earlier store to memory before a following write of a device register.
pub fn before_device_write() {
    // The processor keeps this order by itself; the compiler must too.
    compiler_fence(Ordering::SeqCst);
}

/// Orders a preceding read of a device register before every later load from memory.
pub fn after_device_read() {
    compiler_fence(Ordering::SeqCst);
}
