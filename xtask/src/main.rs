//! Every task a person runs.
fn main() {}
