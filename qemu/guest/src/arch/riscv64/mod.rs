//! QEMU's virt machine for RISC-V, entered in supervisor mode by OpenSBI.

pub mod paging;

#[cfg(all(target_os = "none", target_arch = "riscv64"))]
mod boot;
#[cfg(all(target_os = "none", target_arch = "riscv64"))]
pub mod clock;
#[cfg(all(target_os = "none", target_arch = "riscv64"))]
pub mod console;
#[cfg(all(target_os = "none", target_arch = "riscv64"))]
pub mod cpu;
#[cfg(all(target_os = "none", target_arch = "riscv64"))]
mod exceptions;
#[cfg(all(target_os = "none", target_arch = "riscv64"))]
pub mod exit;
