//! The modelled RISC-V IOMMU by raw registers and raw words, without a driver.

extern crate alloc;

mod bench;
mod caches;
mod commands;
mod directories;
mod events;
mod garbage;
mod reference;
mod registers;
mod stages;
