//! Peers that are not crates.

#[cfg(feature = "liburcu")]
pub mod liburcu;
pub mod linux_queue;
pub mod linux_srcu;
