//! Tells `cargo xtask test --planted` what there is to plant.
#![cfg(planted)]

#[test]
fn list() {
    for fault in iommu_riscv::planted::FAULTS {
        println!("{fault}");
    }
}
