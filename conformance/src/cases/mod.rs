//! The cases. Each is written against the rig and the kernel, and says what a kernel may rely on.

mod bad_input;
mod binding;
mod concurrency;
mod deferred;
mod errors;
mod faults;
mod moments;
mod page_requests;
mod ranges;
mod self_check;
mod sharing;
mod slow_device;
mod tables;
mod tlbs;

use crate::outcome::Outcome;
use crate::scene::Bench;

/// One case.
pub struct Case {
    /// Its name: words joined by `-`.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Does it.
    pub run: fn(&Bench<'_>) -> Outcome,
}

/// Every case, in the order of the matrix.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        sharing::CASES,
        ranges::CASES,
        tables::CASES,
        tlbs::CASES,
        slow_device::CASES,
        binding::CASES,
        concurrency::CASES,
        moments::CASES,
        errors::CASES,
        deferred::CASES,
        faults::CASES,
        page_requests::CASES,
        bad_input::CASES,
        self_check::CASES,
    ]
    .into_iter()
    .flatten()
}
