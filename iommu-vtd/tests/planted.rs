//! Tells `cargo xtask test --planted` what there is to plant.
#![cfg(planted)]

#[test]
fn list() {
    for fault in iommu_vtd::planted::FAULTS {
        println!("{fault}");
    }
}
