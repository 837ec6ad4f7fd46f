//! Firmware descriptions that more than one backend reads, as iterators over byte slices.
//!
//! Nothing here allocates, panics or reads outside the slice it was given, whatever that holds.

pub mod device_tree;
