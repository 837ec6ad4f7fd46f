//! Every byte that crosses a trust boundary, and what must hold whatever it is.
//!
//! Each target is a function of bytes that panics when a promise is broken. `cargo xtask fuzz` runs
//! them under libFuzzer; `cargo test -p shootdown-fuzz` runs them on the committed corpora.

// Host programs have std; only the library crates must not need it.
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

extern crate alloc;

mod command;
pub mod config_space;
pub mod events;
pub mod firmware;
pub mod guest_commands;
pub mod invalidation;
pub mod notifier;
pub mod queue;

use arbitrary::{Arbitrary, Unstructured};

/// A target: its name, which is also that of its corpus, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("config_space", config_space::run),
    ("dmar", firmware::dmar),
    ("events", events::run),
    ("guest_commands", guest_commands::run),
    ("invalidation", invalidation::run),
    ("iommu_map", firmware::iommu_map),
    ("iort", firmware::iort),
    ("notifier", notifier::run),
    ("queue_riscv", queue::riscv),
    ("queue_smmuv3", queue::smmuv3),
    ("queue_vtd", queue::vtd),
    ("rimt", firmware::rimt),
];

/// Runs `check` on the input that `data` stands for, if it stands for one.
fn structured<'a, T: Arbitrary<'a>>(data: &'a [u8], check: impl FnOnce(T)) {
    if let Ok(input) = T::arbitrary_take_rest(Unstructured::new(data)) {
        check(input);
    }
}
