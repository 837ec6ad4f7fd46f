//! The invalidation engine: what it sends, how fast it sends, how it scales.
//!
//! What runs is `iommu-core` and the backends; only the hardware is modelled ([`hardware`]), and time
//! by one of the [worlds](world).

mod covers;
mod deadlines;
mod effect;
mod exact;
mod facts;
mod hardware;
mod ledger;
mod linux;
mod memory;
mod plain_ring;
mod random;
mod scaling;
mod scene;
pub mod submission;
mod traces;
mod virtual_time;
pub mod world;

/// Prints every figure that is the same in every run.
pub fn print() {
    exact::print();
    covers::print();
    submission::print();
    scaling::print();
}
