//! Enter, follow one pointer, leave.

use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use arc_swap::ArcSwap;
use core_notifier::{Mode, Published, Srcu};
use crossbeam_epoch::Collector;

use crate::case::{Case, forever, repeat};
use crate::cpu::Threads;
use crate::floor::Counters;
use crate::peers::linux_srcu::LinuxSrcu;

/// What the pointer points to.
const VALUE: u64 = 42;

/// All ways of reading, the one without protection first.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        load(),
        locked_floor(),
        plain_floor(),
        fenced(),
        hooked(),
        crossbeam_local(),
        crossbeam_default(),
        seize(),
        arc_swap(),
        linux_srcu(),
    ];
    cases.extend(locks());
    #[cfg(feature = "liburcu")]
    cases.push(Case::new("liburcu memb", crate::peers::liburcu::reader));
    cases
}

/// What every protected read does besides protecting.
pub fn load() -> Case {
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    Case::shared("load only", pointer, |pointer| {
        // SAFETY: the value is never freed.
        unsafe { *pointer.load(Ordering::Acquire) }
    })
}

/// The least that a section with one locked operation can cost.
fn locked_floor() -> Case {
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    Case::new("floor: 1 locked", move || {
        let counters = forever(Counters::default());
        repeat((counters, pointer), |(counters, pointer)| {
            // SAFETY: the value is never freed.
            counters.locked(|| unsafe { *pointer.load(Ordering::SeqCst) })
        })
    })
}

/// The least that a section without a locked operation can cost.
fn plain_floor() -> Case {
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    Case::new("floor: 2 plain", move || {
        let counters = forever(Counters::default());
        repeat((counters, pointer), |(counters, pointer)| {
            // SAFETY: the value is never freed.
            counters.plain(|| unsafe { *pointer.load(Ordering::Acquire) })
        })
    })
}

/// Our read section, for kernels that supply no hooks.
pub fn fenced() -> Case {
    ours("fenced", Srcu::new())
}

/// Our read section, for kernels that supply hooks.
pub fn hooked() -> Case {
    ours("hooked", Threads::domain())
}

fn ours<M: Mode>(name: &'static str, srcu: Srcu<M>) -> Case {
    let published = Published::new(Arc::new(srcu));
    assert!(published.replace(Some(Box::new(VALUE))).is_none());
    let published = forever(published);
    Case::new(name, move || {
        repeat(published, |published| {
            *published.read().expect("published above")
        })
    })
}

/// crossbeam-epoch through a handle that the caller keeps.
pub fn crossbeam_local() -> Case {
    let collector = Collector::new();
    let pointer = forever(crossbeam_epoch::Atomic::new(VALUE));
    Case::new("crossbeam LocalHandle::pin", move || {
        let handle = forever(collector.register());
        repeat((handle, pointer), |(handle, pointer)| {
            let guard = handle.pin();
            // SAFETY: the value is never freed.
            unsafe { *pointer.load(Ordering::Acquire, &guard).deref() }
        })
    })
}

fn crossbeam_default() -> Case {
    let pointer = forever(crossbeam_epoch::Atomic::new(VALUE));
    Case::shared("crossbeam pin", pointer, |pointer| {
        let guard = crossbeam_epoch::pin();
        // SAFETY: the value is never freed.
        unsafe { *pointer.load(Ordering::Acquire, &guard).deref() }
    })
}

fn seize() -> Case {
    struct Shared {
        collector: seize::Collector,
        pointer: AtomicPtr<u64>,
    }
    let shared = forever(Shared {
        collector: seize::Collector::new(),
        pointer: AtomicPtr::new(Box::into_raw(Box::new(VALUE))),
    });
    Case::shared("seize enter", shared, |shared| {
        use seize::Guard;
        let guard = shared.collector.enter();
        // SAFETY: the value is never freed.
        unsafe { *guard.protect(&shared.pointer, Ordering::Acquire) }
    })
}

fn arc_swap() -> Case {
    let pointer = forever(ArcSwap::from_pointee(VALUE));
    Case::shared("arc-swap load", pointer, |pointer| **pointer.load())
}

/// The read side of Linux's SRCU.
pub fn linux_srcu() -> Case {
    let srcu = forever(LinuxSrcu::new());
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    Case::new("Linux SRCU model", move || {
        repeat((srcu, pointer), |(srcu, pointer)| {
            let _section = srcu.read();
            // SAFETY: the value is never freed.
            unsafe { *pointer.load(Ordering::Acquire) }
        })
    })
}

fn locks() -> [Case; 3] {
    [
        Case::shared(
            "std RwLock",
            forever(RwLock::new(Box::new(VALUE))),
            |lock| **lock.read().unwrap(),
        ),
        Case::shared(
            "parking_lot RwLock",
            forever(parking_lot::RwLock::new(Box::new(VALUE))),
            |lock| **lock.read(),
        ),
        Case::shared(
            "spin RwLock",
            forever(spin::RwLock::new(Box::new(VALUE))),
            |lock| **lock.read(),
        ),
    ]
}
