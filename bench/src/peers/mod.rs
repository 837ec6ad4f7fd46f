//! Peers that are not crates, and what stands for a kernel's per-CPU data.

pub mod cpu;
#[cfg(feature = "liburcu")]
pub mod liburcu;
pub mod linux_srcu;
