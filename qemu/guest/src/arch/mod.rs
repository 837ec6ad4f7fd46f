//! What differs between the three machines.
//!
//! `paging` (the entry encoding and what an IOMMU must know of it) is plain logic and is compiled
//! everywhere. Boot, console, clock, exit and the processor's registers are compiled for their own
//! target only, under the same names; `native` is the one in use.

pub mod aarch64;
pub mod riscv64;
pub mod x86_64;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
pub use aarch64 as native;
#[cfg(all(target_os = "none", target_arch = "riscv64"))]
pub use riscv64 as native;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub use x86_64 as native;

/// Tells of an exception and ends the run: this kernel expects none.
#[cfg(target_os = "none")]
fn fatal_exception(name: &str, cause: u64, address: u64, program_counter: u64) -> ! {
    use core::sync::atomic::{AtomicBool, Ordering};
    static SEEN: AtomicBool = AtomicBool::new(false);
    if !SEEN.swap(true, Ordering::Relaxed) {
        crate::console::fail(&format_args!(
            "exception {name}: cause {cause:#x}, address {address:#x}, pc {program_counter:#x}"
        ));
    }
    native::exit::failure()
}

/// Goes on with the kernel proper, or says why the machine cannot be used.
#[cfg(target_os = "none")]
fn run(
    description: impl FnOnce() -> Result<crate::machine::Description, crate::machine::MachineError>,
) -> ! {
    unsafe extern "Rust" {
        safe fn kernel_main(machine: &'static crate::machine::Machine) -> !;
    }
    match description().and_then(crate::machine::Machine::start) {
        Ok(machine) => kernel_main(alloc::boxed::Box::leak(alloc::boxed::Box::new(machine))),
        Err(error) => crate::console::fail(&error),
    }
}

/// The memory between the linker script's `__kernel_start` and `__kernel_end`.
#[cfg(target_os = "none")]
pub(crate) fn kernel_image() -> crate::region::Region {
    unsafe extern "C" {
        static __kernel_start: u8;
        static __kernel_end: u8;
    }
    crate::region::Region::between(
        (&raw const __kernel_start) as u64,
        (&raw const __kernel_end) as u64,
    )
}
