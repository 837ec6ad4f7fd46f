//! QEMU's virt machine for AArch64, entered at EL1.

pub mod paging;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod boot;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
pub mod clock;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
pub mod console;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
pub mod cpu;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod exceptions;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
pub mod exit;
