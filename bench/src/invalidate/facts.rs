//! What `cargo xtask bench` reads.

/// Prints a figure that is the same in every run.
pub fn fact(name: &str, value: impl Into<f64>) {
    println!("fact\t{name}\t{}", value.into());
}
