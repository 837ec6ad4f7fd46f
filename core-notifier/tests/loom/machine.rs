//! What the scenes run on: threads, or threads that are CPUs with interrupts.

use alloc::sync::Arc;
use core::cell::RefCell;

use core_notifier::{Fenced, Hooked, Hooks, Mode, Srcu};
use loom::sync::atomic::{AtomicUsize, Ordering, fence};
use loom::thread::{self, JoinHandle};

/// Where a scene's threads run.
pub trait Machine: Clone + 'static {
    type Mode: Mode;

    /// How a reader loads the pointer that it follows.
    const FOLLOW: Ordering;

    /// A machine for this many threads at a time.
    fn new(threads: usize) -> Self;

    fn srcu(&self) -> Srcu<Self::Mode>;

    /// Lets thread `number` run `body`.
    fn run(&self, number: usize, body: impl FnOnce());

    fn spawn(&self, number: usize, body: impl FnOnce() + 'static) -> JoinHandle<()> {
        let machine = self.clone();
        thread::spawn(move || machine.run(number, body))
    }
}

/// Nothing but threads.
#[derive(Clone)]
pub struct Threads;

impl Machine for Threads {
    type Mode = Fenced;

    const FOLLOW: Ordering = Ordering::SeqCst;

    fn new(_threads: usize) -> Self {
        Threads
    }

    fn srcu(&self) -> Srcu {
        Srcu::new()
    }

    fn run(&self, _number: usize, body: impl FnOnce()) {
        body();
    }
}

/// The same, with every section on the line that sections share.
#[derive(Clone)]
pub struct SharedThreads;

impl Machine for SharedThreads {
    type Mode = Fenced;

    const FOLLOW: Ordering = Ordering::SeqCst;

    fn new(_threads: usize) -> Self {
        SharedThreads
    }

    fn srcu(&self) -> Srcu {
        Srcu::with_mode(Fenced::shared_only(), thread::yield_now)
    }

    fn run(&self, _number: usize, body: impl FnOnce()) {
        body();
    }
}

/// Threads that are CPUs: a barrier on all of them interrupts each and waits until each has executed
/// a fence in its interrupt handler.
///
/// An interrupt arrives before the first access, before and after what a section does with the CPU's
/// number, at [`interruptible`], or while waiting. In between nothing orders a CPU's accesses for
/// others: the question whether an interrupt is pending is a relaxed load of a variable that only says
/// so.
#[derive(Clone)]
pub struct Cpus(Arc<Vec<Interrupts>>);

/// The interrupts of one CPU.
struct Interrupts {
    /// How many were sent.
    sent: AtomicUsize,
    /// How many were taken; [`OFFLINE`] if no more will come.
    taken: AtomicUsize,
}

const OFFLINE: usize = usize::MAX;

loom::thread_local! {
    /// The machine and the number of the CPU that this thread is.
    static CURRENT: RefCell<Option<(Cpus, usize)>> = RefCell::new(None);
}

fn current() -> (Cpus, usize) {
    CURRENT.with(|current| current.borrow().clone().expect("not on a CPU"))
}

/// A place in the middle of a section where interrupts arrive if there are any.
pub fn interruptible() {
    let current = CURRENT.with(|current| current.borrow().clone());
    if let Some((cpus, number)) = current {
        cpus.take_interrupts(number);
    }
}

/// Moves this thread to CPU `number`, which nobody else is on, and leaves its own to others.
pub fn move_to(number: usize) {
    let (cpus, _) = current();
    // The handover of a scheduler.
    fence(Ordering::SeqCst);
    cpus.take_interrupts(number);
    CURRENT.with(|current| *current.borrow_mut() = Some((cpus, number)));
}

impl Cpus {
    fn relax() {
        let (cpus, number) = current();
        cpus.take_interrupts(number);
        thread::yield_now();
    }

    /// Takes the interrupts that have arrived at CPU `number`.
    fn take_interrupts(&self, number: usize) {
        let Interrupts { sent, taken } = &self.0[number];
        let arrived = sent.load(Ordering::Relaxed);
        // Written by this CPU only.
        if arrived != taken.load(Ordering::Relaxed) {
            fence(Ordering::SeqCst);
            taken.store(arrived, Ordering::Release);
        }
    }
}

impl Machine for Cpus {
    type Mode = Hooked<Cpus>;

    const FOLLOW: Ordering = Ordering::Acquire;

    fn new(threads: usize) -> Self {
        let interrupts = || Interrupts {
            sent: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
        };
        Cpus(Arc::new((0..threads).map(|_| interrupts()).collect()))
    }

    fn srcu(&self) -> Srcu<Hooked<Cpus>> {
        Srcu::with_mode(Hooked::new(self.clone()), Cpus::relax)
    }

    fn run(&self, number: usize, body: impl FnOnce()) {
        CURRENT.with(|current| *current.borrow_mut() = Some((self.clone(), number)));
        self.take_interrupts(number);
        body();
        let (_, number) = current();
        fence(Ordering::SeqCst);
        self.0[number].taken.store(OFFLINE, Ordering::Release);
        CURRENT.with(|current| *current.borrow_mut() = None);
    }
}

/// The same, with every section counted.
#[derive(Clone)]
pub struct SharedCpus(Cpus);

impl Machine for SharedCpus {
    type Mode = Hooked<Cpus>;

    const FOLLOW: Ordering = Ordering::Acquire;

    fn new(threads: usize) -> Self {
        SharedCpus(Cpus::new(threads))
    }

    fn srcu(&self) -> Srcu<Hooked<Cpus>> {
        Srcu::with_mode(Hooked::shared_only(self.0.clone()), Cpus::relax)
    }

    fn run(&self, number: usize, body: impl FnOnce()) {
        self.0.run(number, body);
    }
}

// SAFETY: a thread is on one CPU at a time and alone there, and nothing interrupts it while it is given
// the number; `barrier` returns after every CPU has executed a fence in `take_interrupts`, or for the
// last time in `run`.
unsafe impl Hooks for Cpus {
    fn cpus(&self) -> usize {
        self.0.len()
    }

    fn with_cpu<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        let (_, number) = current();
        self.take_interrupts(number);
        let result = work(number);
        self.take_interrupts(number);
        result
    }

    fn barrier(&self) {
        let (_, number) = current();
        fence(Ordering::SeqCst);
        let others = || {
            self.0
                .iter()
                .enumerate()
                .filter(|&(other, _)| other != number)
        };
        let expected: Vec<usize> = others()
            .map(|(_, other)| other.sent.fetch_add(1, Ordering::Relaxed) + 1)
            .collect();
        for ((_, other), expected) in others().zip(expected) {
            while other.taken.load(Ordering::Acquire) < expected {
                self.take_interrupts(number);
                thread::yield_now();
            }
        }
        fence(Ordering::SeqCst);
    }
}
