//! Tells `cargo xtask test --planted` what there is to plant.
#![cfg(planted)]

#[test]
fn list() {
    for fault in core_notifier::planted::FAULTS {
        println!("{fault}");
    }
}
