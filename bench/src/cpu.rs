//! CPUs, as far as a program has them: each thread stands for one.
//!
//! A kernel finds its CPU's number in one instruction (a segment or system register) and keeps a
//! section's entry from migrating. A thread-local variable costs the same instruction, and a number
//! that belongs to one thread cannot migrate.

use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};

use core_notifier::{Hooked, Hooks, Srcu};

/// How many threads may ask for a number.
pub const CPUS: usize = 64;

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Makes the calling thread a CPU. The first thing that every thread of this program does.
pub fn bring_up() {
    let cpu = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(cpu < CPUS, "more threads than CPUs");
    CPU.set(cpu);
}

/// The calling thread's number, below [`CPUS`].
#[inline]
pub fn number() -> usize {
    CPU.get()
}

/// The hooks of a kernel whose CPUs are threads.
pub struct Threads;

impl Threads {
    /// A domain in hooked mode.
    pub fn domain() -> Srcu<Hooked<Threads>> {
        // Without registration `barrier` would fail, and says so.
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
        Srcu::with_mode(Hooked::new(Threads), spin_loop)
    }
}

// SAFETY: `main` and the crew's threads, all there are, have brought themselves up before anything
// else, so `number` is below `CPUS` and the calling thread's alone; no signal handler enters sections;
// the expedited `membarrier` has every running thread of the process execute a full barrier; those that
// do not run passed through one in the scheduler.
unsafe impl Hooks for Threads {
    fn cpus(&self) -> usize {
        CPUS
    }

    #[inline]
    fn with_cpu<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        let cpu = number();
        debug_assert!(cpu < CPUS, "the thread was not brought up");
        work(cpu)
    }

    fn barrier(&self) {
        let result = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        assert_eq!(result, 0, "this system has no expedited membarrier");
    }
}

fn membarrier(command: libc::c_int) -> libc::c_long {
    // SAFETY: the call touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}
