//! The kernel's entry on the machine; on the host, a pointer to how it is run.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel {
    use core::panic::PanicInfo;
    use shootdown_guest::command_line::{self, Run};
    use shootdown_guest::console::{Console, fail};
    use shootdown_guest::{arch, machine::Machine, println, report, scenario, self_test};

    /// Called by the architecture's start code once the machine is known and translation is on.
    #[unsafe(no_mangle)]
    extern "Rust" fn kernel_main(machine: &'static Machine) -> ! {
        machine.describe();
        let run = command_line::run(machine.command_line()).unwrap_or_else(|error| fail(&error));
        match run {
            Run::Scenario | Run::Control => {
                scenario::run(machine, run).unwrap_or_else(|error| fail(&error));
            }
            Run::SelfTest => self_test::run(machine).unwrap_or_else(|error| fail(&error)),
            Run::Fault => self_test::fault(),
        }
        report::end(&mut Console, true);
        arch::native::exit::success()
    }

    #[panic_handler]
    fn panic(info: &PanicInfo<'_>) -> ! {
        if let Some(location) = info.location() {
            println!("panic at {location}");
        }
        fail(&info.message())
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "shootdown-guest is a kernel for x86_64-unknown-none, aarch64-unknown-none and \
         riscv64gc-unknown-none-elf under QEMU: `cargo xtask demo` builds and runs it"
    );
    std::process::exit(2);
}
