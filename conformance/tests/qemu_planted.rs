//! Device-TLB invalidations that are missing or too early are stale accesses of a device of QEMU's.

#![cfg(planted)]
#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

use std::process::Command;

/// What the suite says of a case on a rig, with a fault planted.
fn suite(fault: Option<&str>, rig: &str, case: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conformance"));
    command.args(["--quiet", "--rig", rig, "--case", case]);
    if let Some(fault) = fault {
        command.env("SHOOTDOWN_PLANT", fault);
    }
    let output = command.output().expect("it starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The case holds without the fault, and with it a device uses a stale translation of its TLB on the rig.
fn is_stale(fault: &str, rig: &str, case: &str) {
    let sound = suite(None, rig, case);
    assert!(sound.contains(" 0 skipped, 0 red"), "{sound}");
    let text = suite(Some(fault), rig, case);
    let red = format!("RED {case} on {rig}: ");
    let why = text.lines().find(|line| line.starts_with(&red));
    let why = why.unwrap_or_else(|| panic!("{fault} is not seen: {text}"));
    let stale = "a device used a translation that the kernel did not allow";
    assert!(why.contains(stale) && why.contains("(device TLB)"), "{why}");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn a_device_tlb_that_is_left_out_is_a_stale_access() {
    is_stale("VtdDeviceTlbLeftOut", "qemu-vtd", "protect");
    is_stale("RiscvDeviceTlbLeftOut", "qemu-riscv", "protect");
    is_stale("RiscvDeviceTlbLeftOut", "qemu-riscv-pci", "protect");
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn a_device_tlb_before_the_iotlb_is_a_stale_access() {
    is_stale("VtdDeviceTlbFirst", "qemu-vtd", "many-devices");
}
