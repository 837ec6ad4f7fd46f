//! The model of SMMUv3 by itself: registers, commands, caches, walks, faults, queues, by raw
//! registers and raw words.

#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

mod commands;
mod configuration;
mod queues;
mod raw;
mod registers;
#[path = "../smmuv3_bench/mod.rs"]
mod smmuv3_bench;
mod tlb;
mod walks;
