//! Who is subscribed: an immutable list that notifications walk, and the record that changes it.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::mem::{self, MaybeUninit};
use core::ops::Deref;
use core::ptr;

use crate::error::{RegisterError, UnregisterError};
use crate::notifier::{Notifier, NotifierKind};
use crate::planted::{self, Fault};
use crate::primitive::Mutex;
use crate::retired::Retirement;
use crate::shared::SharedNotifier;
use crate::srcu::{Fenced, Mode, Published, Reader, Retired, Srcu};

/// The subscribers that notifications visit, newest first, as in Linux. At least one.
pub(crate) struct List {
    /// The newest, here and not behind another pointer: usually there is no other.
    first: Subscriber,
    rest: Vec<Subscriber>,
    /// Whether everybody hears of ranges, in one pass.
    plain: bool,
    /// Whether anybody works in two passes.
    two_passes: bool,
}

/// A notifier in the list, with what it declared when it was registered.
#[derive(Clone)]
pub(crate) struct Subscriber {
    notifier: SharedNotifier,
    kind: NotifierKind,
    two_passes: bool,
}

impl Subscriber {
    pub(crate) fn new(notifier: &Arc<dyn Notifier>) -> Result<Self, RegisterError> {
        let (kind, two_passes) = (notifier.kind(), notifier.has_two_passes());
        if two_passes && !kind.hears_ranges() && !planted::is(Fault::MixedKindRegistered) {
            return Err(RegisterError::MixedKind);
        }
        Ok(Subscriber {
            notifier: SharedNotifier::new(notifier),
            kind,
            two_passes,
        })
    }

    pub(crate) fn has_two_passes(&self) -> bool {
        self.two_passes
    }

    /// Whether it hears of ranges that have been removed from the page table.
    pub(crate) fn hears_ranges(&self) -> bool {
        self.kind.hears_ranges()
    }

    /// Whether it hears of starts and ends.
    pub(crate) fn hears_sections(&self) -> bool {
        self.kind.hears_sections()
    }

    /// Whether it hears of ranges, in one pass.
    fn is_plain(&self) -> bool {
        self.hears_ranges() && !self.two_passes
    }
}

impl Deref for Subscriber {
    type Target = dyn Notifier;

    #[inline]
    fn deref(&self) -> &(dyn Notifier + 'static) {
        &*self.notifier
    }
}

impl List {
    /// Whether everybody hears of ranges, in one pass.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// The newest and the others, whatever they hear of.
    #[inline]
    pub(crate) fn first_and_rest(&self) -> (&Subscriber, &[Subscriber]) {
        (&self.first, &self.rest)
    }

    /// Visits everyone. One piece of code for all that do so: no closure is worth another.
    #[inline(never)]
    pub(crate) fn visit<'a>(&'a self, visit: &mut dyn FnMut(&'a Subscriber)) {
        visit(&self.first);
        self.rest.iter().for_each(visit);
    }

    /// Whether anybody works in two passes.
    #[inline]
    pub(crate) fn has_two_passes(&self) -> bool {
        self.two_passes
    }
}

/// How far a notifier has come on its way from registration to unregistration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the list.
    Subscribed,
    /// Taken out of the list by the exit of the address space; still owes its unregistration.
    Unhashed,
    /// Somebody is unregistering it. May be in the list.
    Leaving,
}

/// A registered notifier. The weak reference keeps the allocation, and with it the identity, from
/// being reused.
struct Member {
    notifier: Weak<dyn Notifier>,
    state: State,
}

impl Member {
    fn is(&self, notifier: &Arc<dyn Notifier>) -> bool {
        ptr::addr_eq(self.notifier.as_ptr(), Arc::as_ptr(notifier))
    }
}

/// What the writers agree on. Under its lock nobody sleeps, allocates, or calls a notifier.
struct Record {
    members: Vec<Member>,
    /// How many notifiers are in the list.
    listed: usize,
    /// Whether anything was ever in the list.
    used: bool,
    /// Whether the address space has been released.
    released: bool,
}

/// Memory for one change of the subscriptions, allocated before any lock is taken.
pub(crate) struct Draft {
    list: ListDraft,
    members: Vec<Member>,
}

/// A list to be. Nothing is allocated as long as there is room.
struct ListDraft {
    memory: Box<MaybeUninit<List>>,
    first: Option<Subscriber>,
    rest: Vec<Subscriber>,
}

impl ListDraft {
    /// Room for so many, and one if that is none.
    fn with_capacity(capacity: usize) -> Self {
        ListDraft {
            memory: Box::new_uninit(),
            first: None,
            rest: Vec::with_capacity(capacity.saturating_sub(1)),
        }
    }

    fn capacity(&self) -> usize {
        self.rest.capacity() + 1
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Puts `subscriber` behind those there are.
    #[inline(never)]
    fn push(&mut self, subscriber: &Subscriber) {
        let subscriber = subscriber.clone();
        if self.first.is_none() {
            self.first = Some(subscriber);
        } else {
            self.rest.push(subscriber);
        }
    }

    /// The list, if there is anybody.
    fn finish(self) -> Option<Box<List>> {
        let (first, rest) = (self.first?, self.rest);
        let list = List {
            plain: first.is_plain() && rest.iter().all(Subscriber::is_plain),
            two_passes: first.two_passes || rest.iter().any(Subscriber::has_two_passes),
            first,
            rest,
        };
        Some(Box::write(self.memory, list))
    }
}

/// Why [`Subscriptions::insert`] did nothing.
pub(crate) enum Refusal {
    /// Others registered meanwhile; the draft is too small.
    Outgrown,
    /// It is not allowed.
    Error(RegisterError),
}

/// The subscriptions of one address space.
pub(crate) struct Subscriptions<M: Mode = Fenced> {
    list: Published<List, M>,
    record: Mutex<Record>,
    retired: Retirement<List, M>,
}

impl<M: Mode> Subscriptions<M> {
    pub(crate) fn new(srcu: Arc<Srcu<M>>) -> Self {
        Subscriptions {
            list: Published::new(srcu),
            record: Mutex::new(Record {
                members: Vec::new(),
                listed: 0,
                used: false,
                released: false,
            }),
            retired: Retirement::new(),
        }
    }

    pub(crate) fn srcu(&self) -> &Arc<Srcu<M>> {
        self.list.srcu()
    }

    /// Calls `visit` with the list as it is now, inside a section; not if nobody is subscribed. One
    /// piece of code for all that is not worth a section of its own.
    #[inline(never)]
    pub(crate) fn read(&self, visit: &mut dyn FnMut(&List)) {
        if let Some(list) = self.list.read() {
            visit(&list);
        }
    }

    /// The list as it is now, for who needs it for longer; `None` at the cost of one load if nobody
    /// is subscribed.
    pub(crate) fn hold(&self) -> Option<Reader<'_, List, M>> {
        self.list.read()
    }

    /// Calls `visit` with the list as it is now, for who has asked already whether [anybody is
    /// listed](Self::has_listed).
    #[inline]
    pub(crate) fn visit(&self, visit: impl Fn(&List)) {
        self.list.visit(visit);
    }

    /// Whether anybody is in the list, as far as one relaxed load can tell.
    #[inline]
    pub(crate) fn has_listed(&self) -> bool {
        self.list.is_some()
    }

    /// Allocates for one more notifier than there are.
    pub(crate) fn draft(&self) -> Draft {
        let (listed, members) = {
            let record = self.record.lock();
            (record.listed, record.members.len())
        };
        Draft {
            list: ListDraft::with_capacity(listed + 1),
            members: Vec::with_capacity(members + 1),
        }
    }

    /// Whether the address space has been released.
    pub(crate) fn is_released(&self) -> bool {
        self.record.lock().released
    }

    /// Puts `subscriber` at the head of the list. The old list goes to [`retire`](Self::retire).
    pub(crate) fn insert(
        &self,
        draft: &mut Option<Draft>,
        subscriber: &Subscriber,
    ) -> Result<Option<Retired<List, M>>, Refusal> {
        let member = Member {
            notifier: subscriber.notifier.downgrade(),
            state: State::Subscribed,
        };
        let mut record = self.record.lock();
        if record.released && !planted::is(Fault::RegisteredAfterExit) {
            return Err(Refusal::Error(RegisterError::Released));
        }
        if record
            .members
            .iter()
            .any(|other| other.notifier.ptr_eq(&member.notifier))
        {
            return Err(Refusal::Error(RegisterError::AlreadyRegistered));
        }
        let Some(Draft { mut list, members }) =
            draft.take_if(|draft| draft.holds(record.listed + 1, record.members.len() + 1))
        else {
            return Err(Refusal::Outgrown);
        };
        // The memory that `members` outgrew is freed after the lock.
        let mut outgrown = mem::replace(&mut record.members, members);
        record.members.append(&mut outgrown);
        record.members.push(member);
        list.push(subscriber);
        self.read(&mut |current| current.visit(&mut |other| list.push(other)));
        let old = self.list.replace(list.finish());
        record.listed += 1;
        record.used = true;
        drop(record);
        drop(outgrown);
        Ok(old)
    }

    /// Makes the caller the one who unregisters `notifier`, and says whether it is still in the
    /// list.
    pub(crate) fn claim(&self, notifier: &Arc<dyn Notifier>) -> Result<bool, UnregisterError> {
        let mut record = self.record.lock();
        let member = record
            .members
            .iter_mut()
            .find(|member| {
                member.is(notifier)
                    && (member.state != State::Leaving || planted::is(Fault::ClaimedTwice))
            })
            .ok_or(UnregisterError::NotRegistered)?;
        let subscribed = member.state == State::Subscribed;
        member.state = State::Leaving;
        Ok(subscribed)
    }

    /// Takes `notifier`, which the caller has claimed, out of the record and of the list.
    pub(crate) fn remove(&self, notifier: &Arc<dyn Notifier>) -> Option<Retired<List, M>> {
        loop {
            let mut draft = self.draft();
            let mut record = self.record.lock();
            if !draft.holds(record.listed, 0) {
                continue;
            }
            let leaver = record
                .members
                .iter()
                .position(|member| member.is(notifier))?;
            let member = record.members.swap_remove(leaver);
            self.read(&mut |current| {
                current.visit(&mut |other| {
                    if !other.notifier.is(notifier) {
                        draft.list.push(other);
                    }
                });
            });
            let stay = draft.list.len();
            if stay == record.listed {
                return None;
            }
            record.listed = stay;
            let old = self.list.replace(draft.list.finish());
            drop(record);
            drop(member);
            return old;
        }
    }

    /// Refuses registrations from now on. Says whether there was ever one.
    pub(crate) fn close(&self) -> bool {
        let mut record = self.record.lock();
        record.released = true;
        record.used
    }

    /// Takes everyone out of the list. They still owe their unregistration.
    pub(crate) fn unhash_all(&self) -> Option<Retired<List, M>> {
        let mut record = self.record.lock();
        for member in &mut record.members {
            if member.state == State::Subscribed {
                member.state = State::Unhashed;
            }
        }
        record.listed = 0;
        self.list.replace(None)
    }

    /// Lets go of a replaced list after a grace period, without waiting for it.
    pub(crate) fn retire(&self, list: Option<Retired<List, M>>) {
        self.retired.retire(self.srcu(), list);
    }

    /// Drops the replaced lists that nobody walks any more.
    pub(crate) fn reclaim(&self) {
        self.retired.reclaim();
    }
}

impl Draft {
    fn holds(&self, listed: usize, members: usize) -> bool {
        self.list.capacity() >= listed && self.members.capacity() >= members
    }
}
