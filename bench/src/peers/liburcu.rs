//! liburcu's "memb" flavour, through `peers/liburcu.c`.

use std::hint::black_box;

use crate::case::Work;

mod shim {
    // SAFETY: these are the signatures in `peers/liburcu.c`. Registered threads may read, and wait
    // outside of a section, which `read` leaves closed.
    unsafe extern "C" {
        #[link_name = "shootdown_liburcu_register"]
        safe fn register();
        #[link_name = "shootdown_liburcu_unregister"]
        safe fn unregister();
        #[link_name = "shootdown_liburcu_synchronize"]
        pub safe fn synchronize();
        #[link_name = "shootdown_liburcu_read"]
        pub safe fn read(operations: u64) -> u64;
    }

    /// Registers the calling thread for the rest of its life.
    pub fn register_thread() {
        struct Registration;
        impl Drop for Registration {
            fn drop(&mut self) {
                unregister();
            }
        }
        thread_local! {
            static REGISTRATION: Registration = {
                register();
                Registration
            };
        }
        REGISTRATION.with(|_| ());
    }
}

/// Enters, reads through a pointer and leaves, in a loop in C with everything inlined.
pub fn reader() -> Work {
    shim::register_thread();
    Box::new(|times| {
        black_box(shim::read(times));
    })
}

/// Waits for grace periods.
pub fn updater() -> Work {
    shim::register_thread();
    Box::new(|times| (0..times).for_each(|_| shim::synchronize()))
}
