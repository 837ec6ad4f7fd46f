//! What the scenes run on: threads, or threads that are CPUs with interrupts.

use alloc::sync::Arc;
use core::cell::RefCell;

use core_notifier::{CpuCounter, Fenced, Hooked, Hooks, Mode, Srcu};
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

/// Threads that are CPUs: a barrier on all of them interrupts each and waits until each has executed
/// a fence in its interrupt handler.
///
/// An interrupt arrives before the first access, after an addition to a counter, at
/// [`interruptible`], or while waiting. In between nothing orders a CPU's accesses for others: the question whether an interrupt is
/// pending is a relaxed load of a variable that only says so.
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

impl Cpus {
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
        Srcu::with_mode(Hooked::new(self.clone()), || {
            let (cpus, number) = current();
            cpus.take_interrupts(number);
            thread::yield_now();
        })
    }

    fn run(&self, number: usize, body: impl FnOnce()) {
        CURRENT.with(|current| *current.borrow_mut() = Some((self.clone(), number)));
        self.take_interrupts(number);
        body();
        fence(Ordering::SeqCst);
        self.0[number].taken.store(OFFLINE, Ordering::Release);
        CURRENT.with(|current| *current.borrow_mut() = None);
    }
}

// SAFETY: each model thread is one CPU, so nothing else adds to its counters; `barrier` returns after
// every CPU has executed a fence in `take_interrupts`, or for the last time in `run`.
unsafe impl Hooks for Cpus {
    fn cpus(&self) -> usize {
        self.0.len()
    }

    fn increment(&self, counter: CpuCounter<'_>) {
        let (_, number) = current();
        // SAFETY: this thread is that CPU, and nothing interrupts it here.
        unsafe { counter.increment(number) };
        self.take_interrupts(number);
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
