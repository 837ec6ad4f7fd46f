//! Tells `cargo xtask test --planted` what there is to plant.
#![cfg(planted)]

#[test]
fn list() {
    for fault in iommu_core::planted::FAULTS {
        println!("{fault}");
    }
}
