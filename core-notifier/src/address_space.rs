//! The notifications of one address space.

mod batch;
mod intervals;
mod sections;
mod translations;
mod users;

use alloc::sync::Arc;

use spin::Once;

use self::users::Users;
use crate::error::{RegisterError, UnregisterError, WaitError};
use crate::event::{Event, Invalidation};
use crate::hooks::AddressSpaceHooks;
use crate::interval::{Intervals, Members};
use crate::list::{List, Refusal, Subscriber, Subscriptions};
use crate::notifier::Notifier;
use crate::planted::{self, Fault};
use crate::range::Range;
use crate::srcu::{Fenced, Mode, Retired, Srcu};

/// The kernel's lock over one address space, as registration needs it.
///
/// # Duties of who implements it
///
/// While a guard is held, nobody else changes a translation of the address space, and no section
/// between [`AddressSpace::invalidate_range_start`] and its end is open: neither one that took the
/// address-space lock nor one that took only a lock of a single mapping, file or reverse map. In
/// Linux this is `mmap_lock` for writing and then `mm_take_all_locks`. Taking it may sleep.
///
/// # Duties of who calls it
///
/// [`AddressSpace::register`] holds the guard for the time of one pointer swap and calls nothing
/// under it that sleeps, allocates or notifies.
///
/// If taking the lock can fail (a signal arrived), take it yourself and use
/// [`AddressSpace::register_locked`].
pub trait AddressSpaceLock {
    /// Releases the lock when dropped.
    type Guard<'a>
    where
        Self: 'a;

    /// Takes the lock.
    fn lock(&self) -> Self::Guard<'_>;
}

/// The subscriptions of one address space: what Linux calls `mmu_notifier_mm`.
///
/// The kernel keeps one beside each page table and calls it where the table changes. Notifications
/// walk an immutable list inside a read section of the [`Srcu`] domain: they take no lock, allocate
/// nothing, and are legal with interrupts off as far as the notifiers' own methods are. Registration
/// and unregistration copy the list; they allocate, and are not for interrupt handlers.
///
/// A notifier is identified by its allocation: clones of one `Arc` are the same notifier.
///
/// # Destruction
///
/// The owner calls [`release`](AddressSpace::release) at exit. Dropping an address space on which
/// somebody is still subscribed, which Linux answers with `BUG_ON`, calls every subscriber's
/// [`Notifier::release`] first: no device uses a page table that is about to be freed. Nothing is
/// waited for, as nobody else can be using what is being dropped.
pub struct AddressSpace<M: Mode = Fenced> {
    subscriptions: Subscriptions<M>,
    /// Made with the first interval, under the kernel's lock: no invalidation is open then.
    intervals: Once<Intervals<M>>,
    users: Users,
    hooks: Option<&'static dyn AddressSpaceHooks>,
}

pub use self::batch::Batch;
pub use self::sections::OpenInvalidation;

impl<M: Mode> AddressSpace<M> {
    /// An address space without subscribers, in the domain `srcu`.
    ///
    /// Address spaces may share a domain; then a callback of one that does not return holds up the
    /// unregistrations of all.
    pub fn new(srcu: Arc<Srcu<M>>) -> Self {
        AddressSpace {
            subscriptions: Subscriptions::new(srcu),
            intervals: Once::new(),
            users: Users::new(),
            hooks: None,
        }
    }

    /// As [`new`](AddressSpace::new), with what the kernel supplies for waiting and debugging.
    pub fn with_hooks(srcu: Arc<Srcu<M>>, hooks: &'static dyn AddressSpaceHooks) -> Self {
        let mut space = AddressSpace::new(srcu);
        space.hooks = Some(hooks);
        space
    }

    /// The domain whose sections notifications run in.
    pub fn srcu(&self) -> &Arc<Srcu<M>> {
        self.subscriptions.srcu()
    }

    /// Whether anybody is subscribed: one relaxed load.
    ///
    /// For who wants to skip work that only notifying needs. May be out of date at once unless the
    /// caller excludes registration.
    #[inline]
    pub fn has_notifiers(&self) -> bool {
        self.subscriptions.has_listed()
    }

    /// Subscribes `notifier`, taking `lock` so that no change of a translation is under way
    /// meanwhile: the notifier sees every later change and no half of an earlier one.
    ///
    /// Memory is allocated before `lock` is taken. The caller holds no part of that lock, and the
    /// address space is alive (Linux: `mm_users` is not zero). May sleep.
    ///
    /// Every registration is paired with one unregistration, also after exit.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]; nothing has changed.
    pub fn register(
        &self,
        lock: &impl AddressSpaceLock,
        notifier: Arc<dyn Notifier>,
    ) -> Result<(), RegisterError> {
        self.register_under(|| lock.lock(), &notifier)
    }

    /// As [`register`](AddressSpace::register), for a caller who already holds what
    /// [`AddressSpaceLock`] describes. Allocates under it.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]; nothing has changed.
    pub fn register_locked(&self, notifier: Arc<dyn Notifier>) -> Result<(), RegisterError> {
        self.register_under(|| (), &notifier)
    }

    fn register_under<G>(
        &self,
        lock: impl Fn() -> G,
        notifier: &Arc<dyn Notifier>,
    ) -> Result<(), RegisterError> {
        let subscriber = Subscriber::new(notifier)?;
        loop {
            let mut draft = Some(self.subscriptions.draft());
            let mut guard = Some(lock());
            if planted::is(Fault::RegisterUnlocked) {
                guard = None;
            }
            let inserted = self.subscriptions.insert(&mut draft, &subscriber);
            drop(guard);
            match inserted {
                Ok(old) => {
                    self.subscriptions.retire(old);
                    return Ok(());
                }
                Err(Refusal::Outgrown) => {}
                Err(Refusal::Error(error)) => return Err(error),
            }
        }
    }

    /// Ends the subscription of `notifier`: after this, no callback of it runs or will run.
    ///
    /// Calls its [`Notifier::release`] unless exit has taken it out of the list already, then waits
    /// for a grace period in either case. If exit is taking place at the same time, both may call
    /// `release`, and both return only after both calls have. The address space's own references to
    /// the notifier are dropped before this returns, or by whatever registration or unregistration
    /// of others is still under way.
    ///
    /// May sleep. Never returns inside a notifier's callback, or any other section, of the same
    /// [`Srcu`] domain, unless that is [`Checked`](crate::Checked): there, use
    /// [`unregister_no_release`](AddressSpace::unregister_no_release). The caller holds no lock that
    /// a callback in this domain takes.
    ///
    /// # Errors
    ///
    /// [`UnregisterError::NotRegistered`]; [`UnregisterError::Wait`] inside a section of a
    /// [`Checked`](crate::Checked) domain. Nothing has changed, no callback was called.
    pub fn unregister(&self, notifier: &Arc<dyn Notifier>) -> Result<(), UnregisterError> {
        self.srcu().may_wait()?;
        // The section begins before the question whether exit was here first. If it was not, its
        // wait comes later and includes this section: pages are freed after `release` returned.
        let mut section = Some(self.srcu().read());
        if planted::is(Fault::UnregisterAsksOutside) {
            section = None;
        }
        let listed = self.subscriptions.claim(notifier)?;
        section = section.or_else(|| Some(self.srcu().read()));
        if listed && !planted::is(Fault::UnregisterReleasesLate) {
            notifier.release();
        }
        drop(section);
        let old = self.subscriptions.remove(notifier);
        if listed && planted::is(Fault::UnregisterReleasesLate) {
            notifier.release();
        }
        if planted::is(Fault::UnregisterNotAwaited) {
            self.subscriptions.retire(old);
            return Ok(());
        }
        self.srcu().synchronize()?;
        drop(old);
        if !planted::is(Fault::UnregisterKeepsLists) {
            self.subscriptions.reclaim();
        }
        Ok(())
    }

    /// Ends the subscription of `notifier` without calling its `release` and without waiting.
    ///
    /// Callbacks that run now may go on until a grace period has passed; none begins that has not
    /// begun to walk the list yet. The notifier itself is kept alive until then by a reference that
    /// is dropped by a callback of the domain ([`Srcu::call`]), so the caller may drop its own at
    /// once: this is what Linux needs `mmu_notifier_call_srcu` for. For other data that callbacks
    /// use, see [`call`](AddressSpace::call).
    ///
    /// The caller has made the notifier's hardware stop using the address space. Legal inside a
    /// callback, also one of `notifier`, where allocating is legal.
    ///
    /// # Errors
    ///
    /// [`UnregisterError::NotRegistered`]; nothing has changed.
    pub fn unregister_no_release(
        &self,
        notifier: &Arc<dyn Notifier>,
    ) -> Result<(), UnregisterError> {
        self.subscriptions.claim(notifier)?;
        let old = self.subscriptions.remove(notifier);
        self.subscriptions.retire(old);
        Ok(())
    }

    /// Queues `callback` to be called when every notification that is under way has returned: the
    /// deferred free of Linux's `mmu_notifier_call_srcu`. See [`Srcu::call`].
    pub fn call(&self, callback: impl FnOnce() + Send + 'static) {
        self.srcu().call(callback);
    }

    /// Waits until every notification that is under way has returned. See [`Srcu::synchronize`].
    ///
    /// # Errors
    ///
    /// [`WaitError::InsideSection`]; nothing was waited for.
    pub fn synchronize(&self) -> Result<(), WaitError> {
        self.srcu().synchronize()
    }

    /// Waits until every earlier [`call`](AddressSpace::call) and every deferred drop has *run*:
    /// Linux's `mmu_notifier_synchronize` as of 2017. See [`Srcu::barrier`].
    ///
    /// # Errors
    ///
    /// [`WaitError`]; nothing was waited for.
    pub fn barrier(&self) -> Result<(), WaitError> {
        self.srcu().barrier()
    }

    /// The process exits: calls every subscriber's [`Notifier::release`], takes them all out of the
    /// list, and waits for a grace period. Afterwards no notifier of this address space is called
    /// any more, and registration is refused.
    ///
    /// Called before any page of the address space is freed, by an owner that has excluded
    /// registration (no more users). Costs one lock if nobody was ever subscribed. May sleep. A second
    /// call does no harm.
    ///
    /// Never returns inside a section of the same [`Srcu`] domain. If that is
    /// [`Checked`](crate::Checked), everything is done but the wait: the hardware is stopped, but
    /// callbacks that others have begun may still be running. A caller that cannot exclude this uses
    /// [`try_release`](AddressSpace::try_release).
    pub fn release(&self) {
        let Some(ended) = self.release_all() else {
            return;
        };
        if planted::is(Fault::ReleaseNotAwaited) {
            return self.subscriptions.retire(ended.list);
        }
        // Refused inside a section; then dropping what has ended is deferred.
        let _ = self.srcu().synchronize();
        drop(ended);
        self.subscriptions.reclaim();
        if let Some(intervals) = self.intervals.get() {
            intervals.reclaim();
        }
    }

    /// As [`release`](AddressSpace::release), or nothing at all where that would not wait.
    ///
    /// # Errors
    ///
    /// [`WaitError::InsideSection`]; nothing has changed.
    pub fn try_release(&self) -> Result<(), WaitError> {
        self.srcu().may_wait()?;
        self.release();
        Ok(())
    }

    /// Ends every subscription, if there was ever one: those to intervals first, as in Linux.
    fn release_all(&self) -> Option<Ended<M>> {
        let used = self.subscriptions.close();
        let intervals = self.intervals.get();
        if !used && intervals.is_none() {
            return None;
        }
        let members = intervals.and_then(|intervals| {
            intervals.close();
            self.invalidate_intervals(&Invalidation::new(Range::ALL, Event::Release));
            intervals.take_all()
        });
        let section = self.srcu().read();
        self.for_each(&mut |notifier| notifier.release());
        let list = self.subscriptions.unhash_all();
        drop(section);
        Some(Ended {
            list,
            _members: members,
        })
    }

    /// Inlined up to the question whether there is anybody, which is all that most calls cost.
    #[inline]
    fn for_each(&self, visit: &mut dyn FnMut(&dyn Notifier)) {
        if self.has_notifiers() {
            self.walk(visit);
        }
    }

    #[inline(never)]
    fn walk(&self, visit: &mut dyn FnMut(&dyn Notifier)) {
        self.subscriptions
            .read(&mut |list| list.visit(&mut |subscriber| visit(&**subscriber)));
    }
}

/// What callbacks that others have begun may still be walking.
struct Ended<M: Mode> {
    list: Option<Retired<List, M>>,
    _members: Option<Retired<Members, M>>,
}

impl<M: Mode> Drop for AddressSpace<M> {
    fn drop(&mut self) {
        if planted::is(Fault::DropNotReleased) {
            return;
        }
        self.for_each(&mut |notifier| notifier.release());
    }
}
