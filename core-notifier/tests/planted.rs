//! Tells `cargo xtask test --planted` what there is to plant.
#![cfg(planted)]

use core_notifier::planted::{FAULTS, PlantedFault};

#[test]
fn list() {
    for fault in FAULTS {
        let PlantedFault {
            name,
            about,
            build,
            file,
            tests,
            ..
        } = fault;
        println!(
            "planted\t{name}\t{build}\t{file}\t{tests}\t{}",
            about.trim()
        );
    }
    for fault in FAULTS {
        let same = FAULTS.iter().filter(|other| other.name == fault.name);
        assert_eq!(same.count(), 1, "{} is there twice", fault.name);
    }
}
