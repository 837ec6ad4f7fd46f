//! The VT-d model by raw registers and raw words, without a driver.

// A test has std.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

mod bench;
mod caches;
mod descriptors;
mod page_requests;
mod page_table;
mod queue;
mod registers;
mod tables;
mod walks;
