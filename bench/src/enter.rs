//! Enter, follow one pointer, leave.

use std::sync::RwLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use arc_swap::ArcSwap;
use core_notifier::{Mode, Srcu};
use crossbeam_epoch::Collector;

use crate::case::{Case, forever, read};
use crate::cpu::Threads;
use crate::floor::{Counters, PerCpu};
use crate::peers::linux_srcu::LinuxSrcu;

/// What the pointer points to.
const VALUE: u64 = 42;

/// All ways of reading, the one without protection first.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        load(),
        locked_floor(),
        plain_floor(),
        two_stores(),
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

/// A case that repeats `operation` on `state`, which all threads share.
fn reading<S: Sync>(
    name: &'static str,
    state: &'static S,
    operation: impl Fn(&'static S) -> u64 + Copy + Send + Sync + 'static,
) -> Case {
    Case::new(name, move || read(state, operation))
}

/// What every protected read does besides protecting.
pub fn load() -> Case {
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    reading("load only", pointer, |pointer| {
        // SAFETY: the value is never freed.
        unsafe { *pointer.load(Ordering::Acquire) }
    })
}

/// The least that a section with one locked operation can cost.
fn locked_floor() -> Case {
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    Case::new("floor: 1 locked", move || {
        let counters = forever(Counters::default());
        read((counters, pointer), |(counters, pointer)| {
            // SAFETY: the value is never freed.
            counters.locked(|| unsafe { *pointer.load(Ordering::SeqCst) })
        })
    })
}

/// The least that a section without a locked operation can cost.
fn plain_floor() -> Case {
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    Case::new("floor: 2 plain", move || {
        let counters = forever(PerCpu::new());
        read((counters, pointer), |(counters, pointer)| {
            // SAFETY: the value is never freed.
            counters.plain(|| unsafe { *pointer.load(Ordering::Acquire) })
        })
    })
}

/// What two plain stores to a CPU's own word cost, which would not do for sections that nest.
fn two_stores() -> Case {
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    Case::new("2 stores, nothing else", move || {
        let counters = forever(PerCpu::new());
        read((counters, pointer), |(counters, pointer)| {
            // SAFETY: the value is never freed.
            counters.stores(|| unsafe { *pointer.load(Ordering::Acquire) })
        })
    })
}

/// Our read section, for kernels that supply no hooks.
pub fn fenced() -> Case {
    ours("fenced", Srcu::new(), |pointer| {
        pointer.load(Ordering::SeqCst)
    })
}

/// Our read section, for kernels that supply hooks.
pub fn hooked() -> Case {
    ours("hooked", Threads::domain(), |pointer| {
        pointer.load(Ordering::Acquire)
    })
}

/// `load` is how a section of that mode loads a pointer.
fn ours<M: Mode>(
    name: &'static str,
    srcu: Srcu<M>,
    load: impl Fn(&AtomicPtr<u64>) -> *mut u64 + Copy + Send + Sync + 'static,
) -> Case {
    let srcu = forever(srcu);
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    Case::new(name, move || {
        read((srcu, pointer), move |(srcu, pointer)| {
            let _section = srcu.read();
            // SAFETY: the value is never freed.
            unsafe { *load(pointer) }
        })
    })
}

/// crossbeam-epoch through a handle that the caller keeps.
pub fn crossbeam_local() -> Case {
    let collector = Collector::new();
    let pointer = forever(crossbeam_epoch::Atomic::new(VALUE));
    Case::new("crossbeam LocalHandle::pin", move || {
        let handle = forever(collector.register());
        read((handle, pointer), |(handle, pointer)| {
            let guard = handle.pin();
            // SAFETY: the value is never freed.
            unsafe { *pointer.load(Ordering::Acquire, &guard).deref() }
        })
    })
}

fn crossbeam_default() -> Case {
    let pointer = forever(crossbeam_epoch::Atomic::new(VALUE));
    reading("crossbeam pin", pointer, |pointer| {
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
    reading("seize enter", shared, |shared| {
        use seize::Guard;
        let guard = shared.collector.enter();
        // SAFETY: the value is never freed.
        unsafe { *guard.protect(&shared.pointer, Ordering::Acquire) }
    })
}

fn arc_swap() -> Case {
    let pointer = forever(ArcSwap::from_pointee(VALUE));
    reading("arc-swap load", pointer, |pointer| **pointer.load())
}

/// The read side of Linux's SRCU.
pub fn linux_srcu() -> Case {
    let srcu = forever(LinuxSrcu::new());
    let pointer = forever(AtomicPtr::new(Box::into_raw(Box::new(VALUE))));
    Case::new("Linux SRCU model", move || {
        read((srcu, pointer), |(srcu, pointer)| {
            let _section = srcu.read();
            // SAFETY: the value is never freed.
            unsafe { *pointer.load(Ordering::Acquire) }
        })
    })
}

fn locks() -> [Case; 3] {
    [
        reading(
            "std RwLock",
            forever(RwLock::new(Box::new(VALUE))),
            |lock| **lock.read().unwrap(),
        ),
        reading(
            "parking_lot RwLock",
            forever(parking_lot::RwLock::new(Box::new(VALUE))),
            |lock| **lock.read(),
        ),
        reading(
            "spin RwLock",
            forever(spin::RwLock::new(Box::new(VALUE))),
            |lock| **lock.read(),
        ),
    ]
}
