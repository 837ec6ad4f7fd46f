//! Tells `cargo xtask test --planted` what there is to plant.
#![cfg(planted)]

#[test]
fn list() {
    for fault in iommu_smmuv3::planted::FAULTS {
        println!("{fault}");
    }
}
