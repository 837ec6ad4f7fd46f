//! What becomes of a run whose QEMU dies or is too old: each case says so, and the run goes on and fails.

#![allow(clippy::std_instead_of_alloc, clippy::std_instead_of_core)]

use shootdown_qemu_host::{Program, VARIABLE};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder with three programs that run `script`, whose `$qemu` is the emulator's command.
fn programs(name: &str, script: impl Fn(&str) -> String) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("shootdown-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    for architecture in ["x86_64", "aarch64", "riscv64"] {
        let path = folder.join(format!("qemu-system-{architecture}"));
        fs::write(&path, format!("#!/bin/sh\n{}\n", script(architecture))).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    folder
}

fn suite(qemu: &PathBuf, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conformance"))
        .env(VARIABLE, qemu)
        .args(arguments)
        .output()
        .expect("it starts")
}

/// A shell command that starts the real emulator of an architecture.
fn real(architecture: &str) -> String {
    let program = Program::find().unwrap_or_else(|error| panic!("{error}"));
    let command = program.command(architecture);
    let mut words: Vec<String> = Vec::new();
    for (name, value) in command.get_envs() {
        let value = value.unwrap_or_default().to_string_lossy();
        words.push(format!("{}='{value}'", name.to_string_lossy()));
    }
    words.push(format!("'{}'", command.get_program().to_string_lossy()));
    words.extend(
        command
            .get_args()
            .map(|it| format!("'{}'", it.to_string_lossy())),
    );
    words.join(" ")
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn a_qemu_that_dies_in_a_case_fails_that_case_and_no_other() {
    // It dies in the middle of the case's conversation, however fast the machine is: when what it
    // writes down of that has come to the size that a file of its may have.
    let folder = programs("dies", |architecture| {
        let real = real(architecture);
        format!(
            "case \"$*\" in *--version*) {real} \"$@\"; exit;; esac\n\
             ulimit -c 0; ulimit -f 256\n\
             {real} \"$@\" -qtest-log \"${{0%/*}}/conversation\"\n\
             echo out of order >&2; exit 7"
        )
    });
    let output = suite(
        &folder,
        &[
            "--rig",
            "qemu-riscv-flat",
            "--rig",
            "riscv-least",
            "--case",
            "many-pages",
        ],
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("1 green, 0 skipped, 1 red"), "{text}");
    assert!(text.contains("QEMU closed the connection"), "{text}");
    assert!(text.contains("-M virt,iommu-sys=on"), "{text}");
    assert!(text.contains("| out of order"), "{text}");
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn without_a_new_qemu_the_other_rigs_run_and_the_run_fails() {
    let folder = programs("old", |_| "echo QEMU emulator version 8.2.0".to_owned());
    let output = suite(
        &folder,
        &[
            "--rig",
            "qemu-vtd",
            "--rig",
            "riscv-least",
            "--case",
            "protect",
        ],
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(
        errors.contains("is version 8.2.0, older than 11.1"),
        "{errors}"
    );
    assert!(text.contains("1 green, 0 skipped, 0 red"), "{text}");
    let _ = fs::remove_dir_all(&folder);
}
