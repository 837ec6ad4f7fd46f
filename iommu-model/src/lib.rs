//! Software models of Intel VT-d, Arm SMMUv3 and the RISC-V IOMMU, and of a PCIe device with a
//! device TLB, PASIDs and page requests. For tests only.
//!
//! A model reads raw memory and registers by its own reading of the specification; it uses nothing
//! of the drivers but the traits of [`iommu_core::platform`], through which they reach it. Its
//! caches hold stale entries for as long as a specification allows, its queues execute when the
//! [`Machine`] lets them, and its memory can have a write-back cache in front of it that the
//! hardware does not snoop: whatever a driver may not rely on is false here sooner or later.
//!
//! Nothing runs by itself. Work that hardware would do on its own is done in [`Machine::step`],
//! which a driver's waiting loop reaches through its clock and a test calls where it likes; with a
//! seed, a run can be repeated exactly.

// A test-side crate has std; only the library crates must not need it.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

mod bus;
pub mod device;
mod hardware;
mod machine;
mod memory;
mod platform;
mod random;
pub mod riscv;
pub mod smmuv3;
pub mod vtd;

pub use bus::{
    Access, InvalidationRequest, PageRequest, PageResponse, Permissions, Port, Refusal, Request,
    ResponseCode, Translation,
};
pub use hardware::Hardware;
pub use machine::{Machine, Policy};
pub use memory::{Coherency, Memory, NoSuchMemory};
pub use platform::{MachineClock, ModelPlatform, Registers};
pub use random::Random;
