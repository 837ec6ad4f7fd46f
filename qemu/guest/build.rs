//! Links the kernel with its own memory layout when the target has no operating system.

use std::env;

fn main() {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    if variable("CARGO_CFG_TARGET_OS") != "none" {
        return;
    }
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    let script = format!(
        "{}/src/arch/{architecture}/kernel.ld",
        variable("CARGO_MANIFEST_DIR")
    );
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    if architecture == "x86_64" {
        // The target links position-independent executables; this kernel has one fixed address.
        println!("cargo:rustc-link-arg-bins=--no-pie");
    }
}
