//! The RISC-V driver on the modelled IOMMU: each test once with everything at once and in order, and
//! many times with every freedom that hardware has.

extern crate alloc;

mod bring_up;
mod dma;
mod errors;
mod invalidation;
mod scene;
