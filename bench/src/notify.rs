//! One notification to some subscribers.

use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use arc_swap::ArcSwap;
use core_notifier::{AddressSpace, Mode, Notifier, Range, Srcu};
use crossbeam_epoch::Collector;

use crate::case::{Case, forever, repeat};
use crate::cpu::Threads;
use crate::floor::{Counters, PerCpu};
use crate::peers::linux_srcu::LinuxSrcu;

/// How many subscribers there are, from group to group.
pub const SUBSCRIBERS: [usize; 5] = [0, 1, 4, 16, 64];

/// What is notified.
pub const RANGE: Range = match Range::new(0x1000, 0x3000) {
    Ok(range) => range,
    Err(_) => panic!("the range is not inverted"),
};

/// Does next to nothing, so that what is measured is the way to it.
#[derive(Default)]
pub struct Subscriber(AtomicU64);

impl Notifier for Subscriber {
    fn invalidate_range(&self, range: Range) {
        let bytes = range.end() - range.start();
        let seen = self.0.load(Ordering::Relaxed);
        self.0.store(seen.wrapping_add(bytes), Ordering::Relaxed);
    }
}

/// All ways of telling `subscribers`.
pub fn cases(subscribers: usize) -> Vec<Case> {
    let array = || array(subscribers);
    let bare = || bare_array(subscribers);
    vec![
        unprotected(bare()),
        locked_floor(bare()),
        plain_floor(bare()),
        two_stores(bare()),
        fenced(subscribers),
        hooked(subscribers),
        linux_srcu(subscribers),
        crossbeam(array()),
        Case::shared(
            "arc-swap, array",
            forever(ArcSwap::from_pointee(array())),
            |array| tell(&array.load()),
        ),
        Case::shared(
            "std RwLock, array",
            forever(RwLock::new(array())),
            |array| tell(&array.read().unwrap()),
        ),
    ]
}

fn array(subscribers: usize) -> Vec<Arc<dyn Notifier>> {
    (0..subscribers).map(|_| subscriber()).collect()
}

/// The same with nothing to look up on the way to a subscriber, as in Linux, where the link is part
/// of the subscriber.
fn bare_array(subscribers: usize) -> Vec<&'static dyn Notifier> {
    (0..subscribers).map(|_| bare_subscriber()).collect()
}

fn bare_subscriber() -> &'static dyn Notifier {
    forever(Subscriber::default())
}

fn subscriber() -> Arc<dyn Notifier> {
    Arc::new(Subscriber::default())
}

fn tell<N: Deref<Target = dyn Notifier>>(array: &[N]) {
    for notifier in array {
        notifier.invalidate_range(RANGE);
    }
}

fn unprotected(array: Vec<&'static dyn Notifier>) -> Case {
    Case::shared("array, unprotected", forever(array), |array| tell(array))
}

fn locked_floor(array: Vec<&'static dyn Notifier>) -> Case {
    let array = forever(array);
    Case::new("floor: 1 locked, array", move || {
        let counters = forever(Counters::default());
        repeat((counters, array), |(counters, array)| {
            counters.locked(|| tell(array));
        })
    })
}

fn plain_floor(array: Vec<&'static dyn Notifier>) -> Case {
    let array = forever(array);
    Case::new("floor: 2 plain, array", move || {
        let counters = forever(PerCpu::new());
        repeat((counters, array), |(counters, array)| {
            counters.plain(|| tell(array));
        })
    })
}

fn two_stores(array: Vec<&'static dyn Notifier>) -> Case {
    let array = forever(array);
    Case::new("2 stores, nothing else, array", move || {
        let counters = forever(PerCpu::new());
        repeat((counters, array), |(counters, array)| {
            counters.stores(|| tell(array));
        })
    })
}

/// An address space in the domain `srcu` with so many subscribers.
pub fn space<M: Mode>(srcu: Srcu<M>, subscribers: usize) -> AddressSpace<M> {
    let space = AddressSpace::new(Arc::new(srcu));
    for _ in 0..subscribers {
        space
            .register_locked(subscriber())
            .expect("each is new and the space alive");
    }
    space
}

/// Ours, for kernels that supply no hooks.
pub fn fenced(subscribers: usize) -> Case {
    ours("fenced", space(Srcu::new(), subscribers))
}

/// Ours, for kernels that supply hooks.
pub fn hooked(subscribers: usize) -> Case {
    ours("hooked", space(Threads::domain(), subscribers))
}

fn ours<M: Mode>(name: &'static str, space: AddressSpace<M>) -> Case {
    let space = forever(space);
    Case::new(name, move || {
        repeat(space, |space| space.invalidate_range(RANGE))
    })
}

/// Linux's list of subscribers: a link in each, behind one head.
struct Node {
    notifier: &'static dyn Notifier,
    next: AtomicPtr<Node>,
}

/// The way Linux notifies: inline the question whether there is anybody, out of line a section
/// around a walk.
pub struct LinuxList {
    srcu: LinuxSrcu,
    head: AtomicPtr<Node>,
}

impl LinuxList {
    /// A list of `notifiers`.
    pub fn new(notifiers: impl Iterator<Item = &'static dyn Notifier>) -> Self {
        let head = notifiers.fold(ptr::null_mut(), |next, notifier| {
            Box::into_raw(Box::new(Node {
                notifier,
                next: AtomicPtr::new(next),
            }))
        });
        LinuxList {
            srcu: LinuxSrcu::new(),
            head: AtomicPtr::new(head),
        }
    }

    /// Tells everyone.
    #[inline]
    pub fn invalidate_range(&self, range: Range) {
        if !self.head.load(Ordering::Relaxed).is_null() {
            self.walk(range.start(), range.end(), |notifier, range| {
                notifier.invalidate_range(range);
            });
        }
    }

    /// Tells everyone of a start and of its end: two rounds, as in Linux.
    #[inline]
    pub fn start_and_end(&self, range: Range) {
        if !self.head.load(Ordering::Relaxed).is_null() {
            let (start, end) = (range.start(), range.end());
            self.walk(start, end, |notifier, range| {
                notifier.invalidate_range_start(range);
            });
            self.walk(start, end, |notifier, range| {
                notifier.invalidate_range_end(range);
            });
        }
    }

    #[inline(never)]
    fn walk(&self, start: u64, end: u64, tell: impl Fn(&dyn Notifier, Range)) {
        let Ok(range) = Range::new(start, end) else {
            return;
        };
        let _section = self.srcu.read();
        let mut next = self.head.load(Ordering::Acquire);
        // SAFETY: nodes come from `Box::into_raw` in `new` and are never freed.
        while let Some(node) = unsafe { next.as_ref() } {
            tell(node.notifier, range);
            next = node.next.load(Ordering::Acquire);
        }
    }
}

/// Linux's, with so many subscribers.
pub fn linux_srcu(subscribers: usize) -> Case {
    let list = forever(LinuxList::new(bare_array(subscribers).into_iter()));
    Case::new("Linux SRCU model, list", move || {
        repeat(list, |list| list.invalidate_range(RANGE))
    })
}

fn crossbeam(array: Vec<Arc<dyn Notifier>>) -> Case {
    let collector = Collector::new();
    let array = forever(crossbeam_epoch::Atomic::new(array));
    Case::new("crossbeam LocalHandle, array", move || {
        let handle = forever(collector.register());
        repeat((handle, array), |(handle, array)| {
            let guard = handle.pin();
            // SAFETY: the array is never freed.
            tell(unsafe { array.load(Ordering::Acquire, &guard).deref() });
        })
    })
}
