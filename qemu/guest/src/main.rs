//! The kernel's entry on the machine; on the host, a pointer to how it is run.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel {
    use core::panic::PanicInfo;
    use shootdown_guest::command_line::{self, Run};
    use shootdown_guest::console::{Console, fail};
    use shootdown_guest::{arch, machine::Machine, println, report, self_test};

    /// Called by the architecture's start code once the machine is known and translation is on.
    #[unsafe(no_mangle)]
    extern "Rust" fn kernel_main(machine: &'static Machine) -> ! {
        machine.describe();
        let result = match command_line::run(machine.command_line()) {
            Err(error) => fail(&error),
            Ok(Run::Fault) => self_test::fault(),
            Ok(_) => self_test::run(machine),
        };
        match result {
            Ok(()) => {
                report::end(&mut Console, true);
                arch::native::exit::success()
            }
            Err(error) => fail(&error),
        }
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
