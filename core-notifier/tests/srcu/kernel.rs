//! A kernel as the modes need it, played by the threads of this process.

use alloc::sync::Arc;
use core::cell::Cell;
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst, fence};
use std::thread_local;

use core_notifier::{Context, Hooks};

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Moves this thread to another CPU. No two threads are on the same at a time.
pub fn set_cpu(number: usize) {
    // What a scheduler's handover orders.
    fence(SeqCst);
    CPU.set(number);
}

/// CPUs that are threads, with a barrier that the operating system supplies.
#[derive(Clone)]
pub struct Kernel {
    cpus: usize,
    barriers: Arc<AtomicUsize>,
    expedited: Arc<AtomicUsize>,
}

impl Kernel {
    pub fn new(cpus: usize) -> Self {
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
        Kernel {
            cpus,
            barriers: Arc::default(),
            expedited: Arc::default(),
        }
    }

    /// How many barriers were asked for, ordinary and expedited.
    pub fn barriers(&self) -> (usize, usize) {
        (self.barriers.load(SeqCst), self.expedited.load(SeqCst))
    }
}

fn membarrier(command: libc::c_int) {
    // SAFETY: this system call touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    assert_eq!(result, 0, "membarrier failed");
}

// SAFETY: `set_cpu` is given numbers below `cpus`, each to one thread at a time; `membarrier` makes
// every running thread of the process execute a full memory barrier.
unsafe impl Hooks for Kernel {
    fn cpus(&self) -> usize {
        self.cpus
    }

    fn with_cpu<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        work(CPU.get())
    }

    fn barrier(&self) {
        self.barriers.fetch_add(1, SeqCst);
        membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    }

    fn barrier_expedited(&self) {
        self.expedited.fetch_add(1, SeqCst);
        membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    }
}

/// The same with threads that share a CPU and interrupt each other wherever they like.
pub struct Preemptible(pub Kernel);

// SAFETY: the numbers and barriers are those of `Kernel`; nothing is promised of who else runs.
unsafe impl Hooks for Preemptible {
    const EXCLUSIVE: bool = false;

    fn cpus(&self) -> usize {
        self.0.cpus()
    }

    fn with_cpu<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        self.0.with_cpu(work)
    }

    fn barrier(&self) {
        self.0.barrier();
    }
}

/// Tells threads apart by the address of a variable of theirs.
pub struct Threads;

impl Context for Threads {
    fn current(&self) -> NonZeroUsize {
        CPU.with(|cpu| core::ptr::from_ref(cpu).addr().try_into().unwrap())
    }
}
