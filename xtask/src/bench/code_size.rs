//! How much code the notifier core is.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::program::{self, Figures};
use crate::process;

/// Programs that call what a kernel would, in one mode, and how the fact about each is called.
const PROGRAMS: [(&str, &str); 2] = [
    ("code_size_2017", "bytes of code, operations of 2017"),
    ("code_size", "bytes of code, everything"),
];

/// Weighs the functions of the notifier core that each program links and the generic ones that it
/// instantiates, optimized for size and without unwinding, as a kernel would build them.
///
/// # Errors
/// When they do not build or `nm` is missing.
pub fn measure(figures: &mut Figures) -> Result<()> {
    for (example, fact) in PROGRAMS {
        figures.add_fact(fact, weigh(example)? as f64);
    }
    Ok(())
}

fn weigh(example: &str) -> Result<u64> {
    let target = program::target().join("code_size");
    let mut cargo = program::cargo("rustc");
    cargo
        .env("CARGO_TARGET_DIR", &target)
        .args(["--example", example])
        .args(["--config", "profile.release.opt-level='s'"])
        .args(["--config", "profile.release.panic='abort'"])
        .args(["--config", "profile.release.codegen-units=1"])
        .args(["--", "-Csymbol-mangling-version=v0"]);
    process::output(cargo)?;
    let mut nm = Command::new("nm");
    nm.args(["--demangle", "--defined-only", "--print-size"])
        .arg(target.join("release/examples").join(example));
    let symbols = process::output(nm).context("to weigh code: apt-get install binutils")?;
    let bytes = symbols.lines().filter_map(function_size).sum();
    ensure!(bytes > 0, "no function of the notifier core was found");
    Ok(bytes)
}

/// The bytes of a function in a line `address size type name`, if its name is about the notifier
/// core or the program that calls it.
fn function_size(line: &str) -> Option<u64> {
    let mut fields = line.splitn(4, ' ').skip(1);
    let (size, kind, name) = (fields.next()?, fields.next()?, fields.next()?);
    let is_ours = name.contains("core_notifier") || name.contains("code_size");
    let is_function = matches!(kind, "t" | "T" | "w" | "W");
    (is_ours && is_function)
        .then(|| u64::from_str_radix(size, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_functions_of_the_notifier_core_count() {
        let line = |rest: &str| function_size(&format!("0000000000014a10 {rest}"));
        assert_eq!(line("0000000000000010 t core_notifier::list::f"), Some(16));
        assert_eq!(
            line("0000000000000010 t <alloc::vec::Vec<core_notifier::X>>::grow"),
            Some(16)
        );
        assert_eq!(line("0000000000000010 t std::io::f"), None);
        assert_eq!(line("0000000000000010 d core_notifier::TABLE"), None);
        assert_eq!(line("T _start"), None);
    }
}
