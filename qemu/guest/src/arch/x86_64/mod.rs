//! QEMU's q35 machine, entered by PVH.

pub mod paging;
pub mod start_info;

#[cfg(all(target_os = "none", target_arch = "x86_64"))]
mod boot;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub mod clock;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub mod console;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub mod cpu;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
mod exceptions;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub mod exit;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
mod port;
