//! Where and when it was measured.

use std::fs;
use std::process::Command;

use crate::process;
use crate::workspace;

/// One line that says so: CPU, number of CPUs, system, compiler, commit and date.
pub fn describe() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let commit = first_line(
        "git",
        &[
            "describe",
            "--always",
            "--dirty",
            "--abbrev=10",
            "--exclude=*",
        ],
    );
    format!(
        "{}, {cpus} CPUs{}, Linux {}, {}, commit {commit}, {}",
        cpu_info("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        if is_virtual() {
            " of a virtual machine"
        } else {
            ""
        },
        fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim(),
        first_line("rustc", &["--version"]),
        first_line("date", &["-u", "+%Y-%m-%d"]),
    )
}

fn cpu_info(field: &str) -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let value = |name: &str| {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let family = value("cpu family").zip(value("model"));
    let family = family.map_or_else(String::new, |(family, model)| {
        format!(" (family {family}, model {model})")
    });
    Some(value(field)? + &family)
}

fn is_virtual() -> bool {
    cpu_info("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"))
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace::root());
    let output = process::output(command).unwrap_or_default();
    output.lines().next().unwrap_or("unknown").to_owned()
}
