//! Compiles the shim over liburcu, if that peer is wanted.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "liburcu")]
    liburcu();
}

/// `SHOOTDOWN_LIBURCU` is the folder that Debian's `liburcu-dev` was unpacked into, `/` if it is
/// installed.
#[cfg(feature = "liburcu")]
fn liburcu() {
    const ROOT: &str = "SHOOTDOWN_LIBURCU";
    const SHIM: &str = "peers/liburcu.c";
    println!("cargo::rerun-if-env-changed={ROOT}");
    println!("cargo::rerun-if-changed={SHIM}");
    let root = std::env::var(ROOT).unwrap_or_else(|_| "/".to_owned());
    let root = std::path::Path::new(&root);
    let architecture = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let triplet = format!("{architecture}-linux-gnu");
    cc::Build::new()
        .file(SHIM)
        .opt_level(2)
        .include(root.join("usr/include").join(&triplet))
        .include(root.join("usr/include"))
        .compile("shootdown_liburcu");
    let libraries = root.join("usr/lib").join(&triplet);
    println!("cargo::rustc-link-search=native={}", libraries.display());
    println!("cargo::rustc-link-lib=static=urcu-memb");
    println!("cargo::rustc-link-lib=static=urcu-common");
}
