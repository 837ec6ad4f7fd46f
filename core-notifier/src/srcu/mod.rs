//! Sleepable read-copy-update with grace periods for each domain.

mod callback;
mod published;
mod slot;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::marker::PhantomData;

use self::callback::CallbackQueue;
use self::slot::{Exit, Slots};
use crate::primitive::{self, AtomicBool, AtomicUsize, Ordering, fence};

pub use self::published::{Published, Reader, Retired};

/// A domain of sleepable read-copy-update.
///
/// A reader enters a section with [`read`](Srcu::read); sections nest, may sleep, and never wait. An
/// updater takes something out of where readers find it and calls
/// [`synchronize`](Srcu::synchronize): when that returns, every section that was open when it was
/// called has ended, so nobody looks at what was taken out. Domains are independent of each other;
/// within one, an open section holds up every grace period.
///
/// # Waiting inside a section
///
/// [`synchronize`](Srcu::synchronize) and [`barrier`](Srcu::barrier) inside a section of the *same*
/// domain wait for themselves and never return, as in Linux. So does a lock taken inside a section
/// if its holder waits for a grace period. A guard that is leaked (`mem::forget`) is a section that
/// never ends.
///
/// # What orders what
///
/// The entry of a section is a `SeqCst` read-modify-write of a lock counter, and what the section
/// protects is then found by a `SeqCst` load. A grace period begins with a `SeqCst` fence and then
/// reads the counters. Either the section's entry comes before that fence in the total order, and
/// the grace period counts it; or it comes after, and the load finds what the updater published
/// before the fence. [`Published`] does it that way; who follows a pointer of his own with a weaker
/// load puts a `SeqCst` fence between [`read`](Srcu::read) and the load. The exit is a release that
/// the grace period acquires.
///
/// Readers announce themselves under one of two ranks. A grace period waits for the rank that is
/// out of use, moves new readers there, and waits for the other: no stream of new readers can hold
/// it up, and both ranks have been seen empty since it began.
pub struct Srcu {
    slots: Slots,
    /// The rank that new readers use, 0 or 1.
    rank: AtomicUsize,
    /// Twice the number of grace periods that have ended, plus one while one is under way.
    sequence: AtomicUsize,
    /// Held by who drives a grace period.
    driver: TryLock,
    callbacks: CallbackQueue,
    /// Held by who runs callbacks.
    runner: TryLock,
    relax: fn(),
}

/// A grace period that may lie in the future: the first one to begin after
/// [`Srcu::next_grace_period`] was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracePeriod {
    /// The value of `Srcu::sequence` at its end.
    end: usize,
}

impl Srcu {
    /// A domain whose waits spin.
    pub fn new() -> Self {
        Srcu::with_relax(primitive::spin_loop)
    }

    /// A domain whose waits call `relax` between two looks. It may yield the CPU or sleep for a
    /// while; it must return, and must not wait for a grace period of this domain.
    pub fn with_relax(relax: fn()) -> Self {
        Srcu {
            slots: Slots::new(),
            rank: AtomicUsize::new(0),
            sequence: AtomicUsize::new(0),
            driver: TryLock::new(),
            callbacks: CallbackQueue::new(),
            runner: TryLock::new(),
            relax,
        }
    }

    /// Enters a read section, which ends when the guard is dropped.
    ///
    /// Never waits, takes no lock and allocates nothing; legal in any context, interrupt handlers
    /// included. Costs one locked operation as long as few sections of this domain are open at
    /// once, two otherwise.
    #[inline]
    pub fn read(&self) -> SrcuGuard<'_> {
        // The mask spares the bounds checks.
        let rank = self.rank.load(Ordering::Relaxed) & 1;
        SrcuGuard {
            exit: self.slots.enter(rank),
            _not_send: PhantomData,
        }
    }

    /// Waits until every section that was open at the call has ended.
    ///
    /// May sleep (see [`with_relax`](Srcu::with_relax)). Never returns inside a section of this
    /// domain. Calls that wait together share grace periods: each waits for two at most.
    pub fn synchronize(&self) {
        self.wait_for(self.next_grace_period());
    }

    /// Names the grace period that [`synchronize`](Srcu::synchronize) would wait for now, without
    /// waiting.
    pub fn next_grace_period(&self) -> GracePeriod {
        // Orders what the caller took out before the look at the sequence. Partner: the fence in
        // `drive`. If the look misses a period's beginning, that fence comes after this one, and
        // the period counts whoever may have seen what was taken out.
        fence(Ordering::SeqCst);
        let sequence = self.sequence.load(Ordering::Relaxed);
        // One under way may have counted already; the one after it has not.
        GracePeriod {
            end: sequence.wrapping_add(3) & !1,
        }
    }

    /// Whether `period` has ended. `period` comes from this domain.
    pub fn has_elapsed(&self, period: GracePeriod) -> bool {
        // Acquire what the driver acquired from the readers.
        let since = self
            .sequence
            .load(Ordering::Acquire)
            .wrapping_sub(period.end);
        since.cast_signed() >= 0
    }

    /// Waits until `period` has ended, driving it if nobody else does. Same conditions as
    /// [`synchronize`](Srcu::synchronize).
    pub fn wait_for(&self, period: GracePeriod) {
        while !self.has_elapsed(period) {
            match self.driver.try_lock() {
                Some(driver) => {
                    if !self.has_elapsed(period) {
                        self.drive(&driver);
                    }
                }
                None => (self.relax)(),
            }
        }
    }

    /// Runs one grace period from beginning to end.
    fn drive(&self, _driver: &TryLockGuard<'_>) {
        // Odd already if an earlier driver unwound out of `relax`.
        let under_way = self.sequence.load(Ordering::Relaxed) | 1;
        self.sequence.store(under_way, Ordering::Relaxed);
        // Partners: the entry of each section, and the fence in `next_grace_period`.
        fence(Ordering::SeqCst);
        let rank = self.rank.load(Ordering::Relaxed);
        // Readers that chose their rank before the last change of rank.
        self.wait_for_rank(rank ^ 1);
        self.rank.store(rank ^ 1, Ordering::Relaxed);
        self.wait_for_rank(rank);
        self.sequence
            .store(under_way.wrapping_add(1), Ordering::Release);
    }

    fn wait_for_rank(&self, rank: usize) {
        while !self.slots.balanced(rank) {
            (self.relax)();
        }
    }

    /// Queues `callback` to be called once every section that is open now has ended.
    ///
    /// Never waits; allocates. Legal inside a section. Callbacks are called by
    /// [`run_callbacks`](Srcu::run_callbacks) or [`barrier`](Srcu::barrier) and, when the domain is
    /// dropped, there; each exactly once. A callback must not panic and must not call `barrier`.
    pub fn call(&self, callback: impl FnOnce() + Send + 'static) {
        self.callbacks.push(Box::new(callback));
    }

    /// Whether callbacks are queued that nobody has begun to wait for.
    pub fn has_callbacks(&self) -> bool {
        !self.callbacks.is_empty()
    }

    /// Waits for a grace period and calls, in their order, the callbacks that were queued before.
    ///
    /// For the kernel's worker thread. Returns how many were called; zero if there were none or if
    /// another thread is calling them. Same conditions as [`synchronize`](Srcu::synchronize).
    pub fn run_callbacks(&self) -> usize {
        let Some(_runner) = self.runner.try_lock() else {
            return 0;
        };
        let batch = self.callbacks.take();
        if batch.is_empty() {
            return 0;
        }
        self.synchronize();
        batch.fold(0, |count, callback| {
            callback();
            count + 1
        })
    }

    /// Waits until every callback that was queued before has *returned*, and lends a hand.
    ///
    /// Stronger than a grace period: this is what makes it safe to unload the code of the
    /// callbacks. Same conditions as [`synchronize`](Srcu::synchronize); also never returns inside
    /// a callback.
    pub fn barrier(&self) {
        // Callbacks are called in the order of their queueing, one at a time: once this one is
        // called, those before it have returned.
        let reached = Arc::new(AtomicBool::new(false));
        self.call({
            let reached = reached.clone();
            move || reached.store(true, Ordering::Release)
        });
        while !reached.load(Ordering::Acquire) {
            if self.run_callbacks() == 0 {
                (self.relax)();
            }
        }
    }
}

impl Default for Srcu {
    fn default() -> Self {
        Srcu::new()
    }
}

/// An open read section. Stays on the thread that entered it.
#[must_use = "the section ends when the guard is dropped"]
pub struct SrcuGuard<'a> {
    exit: Exit<'a>,
    _not_send: PhantomData<*mut ()>,
}

impl Drop for SrcuGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.exit.leave();
    }
}

/// A lock that nobody waits for: who does not get it finds something else to do.
struct TryLock(AtomicBool);

struct TryLockGuard<'a>(&'a AtomicBool);

impl TryLock {
    fn new() -> Self {
        TryLock(AtomicBool::new(false))
    }

    fn try_lock(&self) -> Option<TryLockGuard<'_>> {
        self.0
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| TryLockGuard(&self.0))
    }
}

impl Drop for TryLockGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
