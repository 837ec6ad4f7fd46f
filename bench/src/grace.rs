//! Waiting until nobody reads any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use arc_swap::ArcSwap;
use core_notifier::{Mode, Srcu};
use crossbeam_epoch::{Collector, LocalHandle};

use crate::case::{Case, forever, repeat};
use crate::cpu::Threads;
use crate::peers::linux_srcu::LinuxSrcu;

/// Who waits, and whom for.
pub struct Pair {
    /// Waits for one grace period after the other.
    pub updater: Case,
    /// Enters and leaves, one short section after the other.
    pub reader: Case,
}

/// All ways of waiting.
pub fn pairs() -> Vec<Pair> {
    vec![
        ours("fenced", Srcu::new()),
        ours("hooked", Threads::domain()),
        linux_srcu(),
        crossbeam(),
        arc_swap(),
        std_lock(),
        #[cfg(feature = "liburcu")]
        Pair {
            updater: Case::new("liburcu memb", crate::peers::liburcu::updater),
            reader: Case::new("liburcu memb", crate::peers::liburcu::reader),
        },
    ]
}

fn pair<S: Sync, R>(
    name: &'static str,
    state: &'static S,
    update: impl Fn(&'static S) -> R + Copy + Send + Sync + 'static,
    read: impl Fn(&'static S) -> u64 + Copy + Send + Sync + 'static,
) -> Pair {
    Pair {
        updater: Case::shared(name, state, update),
        reader: Case::shared(name, state, read),
    }
}

fn ours<M: Mode>(name: &'static str, srcu: Srcu<M>) -> Pair {
    let srcu = forever(srcu);
    Pair {
        updater: Case::shared(name, srcu, |srcu| srcu.synchronize().expect("not inside")),
        reader: Case::new(name, move || {
            repeat(srcu, |srcu| {
                let _section = srcu.read();
            })
        }),
    }
}

fn linux_srcu() -> Pair {
    let srcu = forever(LinuxSrcu::new());
    Pair {
        updater: Case::shared("Linux SRCU model", srcu, LinuxSrcu::synchronize),
        reader: Case::new("Linux SRCU model", move || {
            repeat(srcu, |srcu| {
                let _section = srcu.read();
            })
        }),
    }
}

/// Defers a call and pushes epochs until it has run.
fn crossbeam() -> Pair {
    const NAME: &str = "crossbeam, defer to run";
    let collector = forever(Collector::new());
    Pair {
        updater: Case::new(NAME, move || {
            let ran = forever(AtomicBool::new(false));
            repeat((handle(collector), ran), |(handle, ran)| {
                ran.store(false, Ordering::Relaxed);
                handle
                    .pin()
                    .defer(move || ran.store(true, Ordering::Release));
                while !ran.load(Ordering::Acquire) {
                    handle.pin().flush();
                }
            })
        }),
        reader: Case::new(NAME, move || {
            repeat(handle(collector), |handle| {
                let _guard = handle.pin();
            })
        }),
    }
}

fn handle(collector: &Collector) -> &'static LocalHandle {
    forever(collector.register())
}

/// `store` waits for who is just taking a reference.
fn arc_swap() -> Pair {
    let pointer = forever(ArcSwap::from_pointee(0_u64));
    let values = forever([Arc::new(1_u64), Arc::new(2_u64)]);
    let turn = forever(AtomicBool::new(false));
    pair(
        "arc-swap store",
        pointer,
        move |pointer| {
            pointer.store(values[usize::from(turn.fetch_not(Ordering::Relaxed))].clone())
        },
        |pointer| **pointer.load(),
    )
}

fn std_lock() -> Pair {
    pair(
        "std RwLock write",
        forever(RwLock::new(0_u64)),
        |lock| *lock.write().unwrap() += 1,
        |lock| *lock.read().unwrap(),
    )
}
