//! Sleepable read-copy-update with grace periods for each domain.

mod callback;
mod checked;
mod domains;
mod fenced;
mod grace_period;
mod hooked;
mod lines;
mod mode;
mod published;
mod try_lock;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::marker::PhantomData;

use self::callback::CallbackQueue;
use self::lines::Own;
use self::mode::Urgency;
use self::try_lock::TryLock;
use crate::error::WaitError;
use crate::planted::{self, Fault};
use crate::primitive::{self, AtomicBool, AtomicUsize, Ordering};

pub use self::checked::{Checked, Context};
pub use self::domains::SrcuDomains;
pub use self::fenced::Fenced;
pub use self::grace_period::GracePeriod;
pub use self::hooked::{Hooked, Hooks};
pub use self::mode::{Counters, Mode};
pub use self::published::{Published, Reader, Retired};

/// A domain of sleepable read-copy-update.
///
/// A reader enters a section with [`read`](Srcu::read); sections nest, may sleep, and never wait. An
/// updater takes something out of where readers find it and calls
/// [`synchronize`](Srcu::synchronize): when that returns, every section that was open when it was
/// called has ended, so nobody looks at what was taken out. Domains are independent of each other;
/// within one, an open section holds up every grace period.
///
/// # Modes
///
/// [`Fenced`] asks nothing of the kernel; a section costs one locked operation. [`Hooked`] asks for
/// the CPU's number and a barrier on all CPUs; a section costs two plain stores. [`Checked`] is
/// either of them with waits inside sections detected.
///
/// # Waiting inside a section
///
/// Whoever waits for a grace period inside a section of the *same* domain would wait for himself. In
/// a [`Checked`] domain that is [`WaitError::InsideSection`], and waiting for callbacks inside a
/// callback is [`WaitError::InsideCallback`]; nothing was waited for then. The other modes cannot
/// tell one context from another: the wait never returns, as in Linux, unless it is
/// [`synchronize_within`](Srcu::synchronize_within). The same goes for a lock taken inside a section
/// if its holder waits for a grace period, and for a guard that is leaked (`mem::forget`), which is
/// a section that never ends.
///
/// # What orders what
///
/// Of a section and a grace period, either the grace period counts the section's entry, or the
/// section finds what the updater published before. [`Published`] loads its pointer as that needs.
/// Who follows a pointer of his own loads it `SeqCst`, or with a `SeqCst` fence between
/// [`read`](Srcu::read) and the load; in hooked mode `Acquire` is enough. The end of a section
/// happens before the end of a grace period that counted it.
///
/// Readers announce themselves under one of two ranks. A grace period that finds sections open waits
/// for the rank that is out of use, moves new readers there, and waits for the other: no stream of
/// new readers can hold it up.
pub struct Srcu<M: Mode = Fenced> {
    mode: M,
    /// Twice the number of grace periods that have ended, plus one while one is under way.
    sequence: AtomicUsize,
    /// How many expedited waits are under way.
    expedited: AtomicUsize,
    /// Held by who drives a grace period.
    driver: TryLock,
    callbacks: CallbackQueue,
    /// Held by who runs callbacks.
    runner: TryLock,
    /// The context that runs callbacks, if it is known; else 0.
    running: AtomicUsize,
    relax: fn(),
}

impl Srcu {
    /// A fenced domain whose waits spin.
    pub fn new() -> Self {
        Srcu::with_relax(primitive::spin_loop)
    }

    /// A fenced domain whose waits call `relax` between two looks. It may yield the CPU or sleep for
    /// a while; it must return, and must not wait for a grace period of this domain.
    pub fn with_relax(relax: fn()) -> Self {
        Srcu::with_mode(Fenced::new(), relax)
    }
}

impl Default for Srcu {
    fn default() -> Self {
        Srcu::new()
    }
}

impl<M: Mode> Srcu<M> {
    /// A domain in any mode. `relax` as for [`with_relax`](Srcu::with_relax).
    pub fn with_mode(mode: M, relax: fn()) -> Self {
        Srcu {
            mode,
            sequence: AtomicUsize::new(0),
            expedited: AtomicUsize::new(0),
            driver: TryLock::new(),
            callbacks: CallbackQueue::new(),
            runner: TryLock::new(),
            running: AtomicUsize::new(0),
            relax,
        }
    }

    /// Enters a read section, which ends when the guard is dropped.
    ///
    /// Never waits, takes no lock and allocates nothing; legal in any context, interrupt handlers
    /// included (in hooked mode if [`Hooks::with_cpu`] is).
    #[inline]
    pub fn read(&self) -> SrcuGuard<'_, M> {
        SrcuGuard {
            mode: &self.mode,
            section: self.mode.enter(),
            _not_send: PhantomData,
        }
    }

    /// As [`read`](Srcu::read), if there is an entrance that the section can have for itself.
    #[inline]
    fn claim(&self) -> Option<OwnSection<'_, M>> {
        match self.mode.claim() {
            Some(own) => Some(OwnSection {
                mode: &self.mode,
                own,
                _not_send: PhantomData,
            }),
            None => None,
        }
    }

    /// Whether a wait that is called here would fail or never return: whether this context is inside
    /// a section of this domain. Always false in a domain that is not [`Checked`].
    pub fn is_inside(&self) -> bool {
        self.mode.is_inside()
    }

    /// What waits call between two looks.
    pub(crate) fn relax(&self) -> fn() {
        self.relax
    }

    /// Queues `callback` to be called once every section that is open now has ended.
    ///
    /// Never waits; allocates. Legal inside a section. Callbacks are called by
    /// [`run_callbacks`](Srcu::run_callbacks) or [`barrier`](Srcu::barrier) and, when the domain is
    /// dropped, there; each exactly once. A callback must not panic and must not call `barrier`. It
    /// may wait for a grace period.
    pub fn call(&self, callback: impl FnOnce() + Send + 'static) {
        self.callbacks.push(Box::new(callback));
    }

    /// Whether callbacks are queued that nobody has begun to wait for.
    pub fn has_callbacks(&self) -> bool {
        !self.callbacks.is_empty()
    }

    /// Waits for a grace period and calls, in their order, the callbacks that were queued before.
    ///
    /// For the kernel's worker thread. Returns how many were called; zero if there were none, if
    /// another thread is calling them, or where waiting is a detected error: they stay queued. Same
    /// conditions as [`synchronize`](Srcu::synchronize).
    pub fn run_callbacks(&self) -> usize {
        if self.is_inside() {
            return 0;
        }
        let runner = self.runner.try_lock();
        if runner.is_none() && !planted::is(Fault::RunnerNotExclusive) {
            return 0;
        }
        let batch = self.callbacks.take();
        if batch.is_empty() {
            return 0;
        }
        if !planted::is(Fault::CallbacksNotDelayed) {
            self.wait(self.next_grace_period(), Urgency::Normal);
        }
        let _running = self.mode.context().map(|context| {
            if !planted::is(Fault::CallbackNotNoticed) {
                self.running.store(context.get(), Ordering::Relaxed);
            }
            Running(&self.running)
        });
        batch.fold(0, |count, callback| {
            callback();
            count + 1
        })
    }

    /// Waits until every callback that was queued before has *returned*, and lends a hand.
    ///
    /// Stronger than a grace period: this is what makes it safe to unload the code of the
    /// callbacks. Same conditions as [`synchronize`](Srcu::synchronize); also never returns inside
    /// a callback, unless the domain is [`Checked`].
    ///
    /// # Errors
    ///
    /// [`WaitError`] where the wait would be for itself; nothing was waited for.
    pub fn barrier(&self) -> Result<(), WaitError> {
        self.may_wait()?;
        let context = self.mode.context().map_or(0, |context| context.get());
        if context != 0 && self.running.load(Ordering::Relaxed) == context {
            return Err(WaitError::InsideCallback);
        }
        // Callbacks are called in the order of their queueing, one at a time: once this one is
        // called, those before it have returned.
        let reached = Arc::new(AtomicBool::new(false));
        self.call({
            let reached = reached.clone();
            move || reached.store(true, Ordering::Release)
        });
        let is_reached = || {
            reached.load(Ordering::Acquire)
                || planted::is(Fault::BarrierForQueueOnly) && self.callbacks.is_empty()
        };
        while !is_reached() {
            if self.run_callbacks() == 0 {
                (self.relax)();
            }
        }
        Ok(())
    }
}

/// Names the context that runs callbacks; nobody when dropped.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// An open read section. Stays on the thread that entered it.
#[must_use = "the section ends when the guard is dropped"]
pub struct SrcuGuard<'a, M: Mode = Fenced> {
    mode: &'a M,
    section: M::Section<'a>,
    _not_send: PhantomData<*mut ()>,
}

impl<M: Mode> Drop for SrcuGuard<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.mode.leave(self.section);
    }
}

/// An open read section that has an entrance for itself.
struct OwnSection<'a, M: Mode> {
    mode: &'a M,
    own: Own<'a>,
    _not_send: PhantomData<*mut ()>,
}

impl<M: Mode> Drop for OwnSection<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.mode.release(self.own);
    }
}
