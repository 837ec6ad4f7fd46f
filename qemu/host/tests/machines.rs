//! The three machines, started, set up and used without an IOMMU; and a QEMU that does not behave.
//!
//! Most need QEMU: `cargo xtask setup` fetches it, `cargo xtask test` runs them with it, and so does
//! `cargo test --package shootdown-qemu-host -- --include-ignored`.

#![allow(
    missing_docs,
    clippy::std_instead_of_alloc,
    clippy::std_instead_of_core
)]

use iommu_core::platform::{Clock, Mmio};
use shootdown_qemu_host::devices::{Edu, TestDevice, Written};
use shootdown_qemu_host::pcie::Bus;
use shootdown_qemu_host::{Architecture, HostClock, Machine, Options, Program, Registers};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MACHINES: [(Architecture, &str); 3] = [
    (Architecture::X86_64, "q35"),
    (Architecture::Aarch64, "virt,gic-version=3"),
    (Architecture::Riscv64, "virt"),
];

fn program() -> Program {
    Program::find().unwrap_or_else(|error| panic!("{error}"))
}

fn start(options: &Options) -> Arc<Machine> {
    Machine::start(&program(), options).unwrap_or_else(|error| panic!("{error}"))
}

/// A machine with an edu, and an iommu-testdev behind a root port.
fn equipped(architecture: Architecture, machine: &str) -> Options {
    Options::new(architecture, machine)
        .device("pcie-root-port,id=rp0,addr=4.0,chassis=1")
        .device("iommu-testdev,bus=rp0")
        .device("edu,dma_mask=0xffffffffffffffff,addr=5.0")
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn devices_reach_the_shared_memory_on_all_three() {
    for (architecture, name) in MACHINES {
        let machine = start(&equipped(architecture, name));
        let bus = Bus::set_up(&machine, &[0]).expect("placed");
        let test_device = bus.all(TestDevice::IDENTITY)[0];
        assert_eq!(test_device.address.bus(), 1, "behind the root port");
        let ram = machine.ram();
        let page = ram.take(4096, 4096).expect("memory");

        let test_device = TestDevice::new(&machine, &test_device).expect("a BAR");
        assert_eq!(
            test_device.write(page + 8, 8, page + 8).ok(),
            Some(Written::There)
        );
        let word = u64::from(TestDevice::PATTERN);
        assert_eq!(ram.load(page + 8), word << 32 | word, "{name}");
        let other = test_device.write(page + 16, 4, page + 512);
        assert_eq!(other.ok(), Some(Written::Elsewhere));

        let edu = Edu::new(&machine, &bus.all(Edu::IDENTITY)[0]).expect("a BAR");
        ram.store_bytes(page + 100, b"shootdown");
        edu.read_from(page + 100, 3, 9).expect("read");
        edu.write_to(page + 201, 3, 9).expect("written");
        let mut bytes = [0; 9];
        ram.load_bytes(page + 201, &mut bytes);
        assert_eq!(&bytes, b"shootdown", "{name}");
    }
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn the_trace_has_what_was_done_before() {
    let mut options = equipped(Architecture::Riscv64, "virt");
    options.trace = vec!["iommu_testdev_*".to_owned()];
    let machine = start(&options);
    let bus = Bus::set_up(&machine, &[0]).expect("placed");
    let test_device = TestDevice::new(&machine, &bus.all(TestDevice::IDENTITY)[0]).expect("a BAR");
    machine.take_trace().expect("read");
    let page = machine.ram().take(4096, 4096).expect("memory");
    test_device.write(page, 4, page).expect("written");
    let lines = machine.take_trace().expect("read");
    assert!(
        lines.iter().any(|line| line.starts_with("iommu_testdev_")),
        "{lines:?}"
    );
    assert!(machine.take_trace().expect("read").is_empty());
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn options_that_qemu_refuses_are_told_with_its_words() {
    let options = Options::new(Architecture::X86_64, "q35").device("no-such-device");
    let error = Machine::start(&program(), &options).err().expect("refused");
    let text = error.to_string();
    assert!(text.contains("-device no-such-device"), "{text}");
    assert!(
        error
            .output
            .iter()
            .any(|line| line.contains("no-such-device")),
        "{text}"
    );
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn a_qemu_that_dies_is_an_error_of_every_later_call() {
    let machine = start(&Options::new(Architecture::Riscv64, "virt"));
    // The first serial port.
    let registers = Registers::new(&machine, 0x1000_0000);
    let clock = HostClock::new(&machine);
    kill(machine.process(), "KILL");
    let error = machine
        .synchronize()
        .and_then(|_| machine.read32(0x1000_0000));
    let text = error.expect_err("it is dead").to_string();
    assert!(text.contains("signal: 9"), "{text}");
    assert!(text.contains("qemu-system-riscv64"), "{text}");
    assert_eq!(registers.read32(0), u32::MAX);
    registers.write32(0, 1);
    assert!(machine.failed().is_some());
    // A driver's wait ends soon.
    let (real, start) = (Instant::now(), clock.now());
    while clock.now() - start < 60_000_000_000 {
        clock.relax();
    }
    assert!(real.elapsed() < Duration::from_secs(30));
}

#[test]
#[ignore = "needs QEMU: cargo xtask test has one"]
fn a_qemu_that_hangs_is_ended_after_the_limit() {
    let mut options = Options::new(Architecture::Riscv64, "virt");
    options.limit = Duration::from_millis(300);
    let machine = start(&options);
    let process = machine.process();
    kill(process, "STOP");
    let error = machine.read32(0x1000_0000).expect_err("it is stopped");
    assert!(
        error
            .to_string()
            .contains("QEMU does not answer (it was killed)"),
        "{error}"
    );
    assert!(!PathBuf::from(format!("/proc/{process}")).exists());
}

#[test]
fn a_program_that_never_connects_is_an_error_with_its_output() {
    let folder = std::env::temp_dir().join(format!("shootdown-fake-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("qemu-system-x86_64");
    std::fs::write(&path, "#!/bin/sh\necho out of order >&2\nexit 3\n").expect("written");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, executable).expect("executable");
    let fake = Program::unchecked(folder.join("qemu-system-").into());
    let options = Options::new(Architecture::X86_64, "q35");
    let error = Machine::start(&fake, &options).err().expect("it ends");
    let text = error.to_string();
    assert!(
        text.contains("exit status: 3") && text.contains("out of order"),
        "{text}"
    );
    let options = Options::new(Architecture::Aarch64, "virt");
    let error = Machine::start(&fake, &options)
        .err()
        .expect("it is missing");
    assert!(error.to_string().contains("cannot be started"), "{error}");
    let _ = std::fs::remove_dir_all(&folder);
}

fn kill(process: u32, signal: &str) {
    let status = std::process::Command::new("kill")
        .args([&format!("-{signal}"), &process.to_string()])
        .status();
    assert!(status.is_ok_and(|status| status.success()));
}
