//! Exhaustive models of the read-copy-update: every interleaving and every stale read that the
//! memory model allows, up to a bound on preemptions.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p core-notifier --release --test loom`
#![cfg(loom)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::sync::Arc;

use core_notifier::{AddressSpace, Notifier, Published, Range, Srcu};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

const DESTROYED: usize = usize::MAX;

/// A value that loom reports if somebody looks at it while it is being destroyed, or without being
/// ordered against its destruction.
struct Value(UnsafeCell<usize>);

// SAFETY: loom checks that accesses which are not both reads are ordered.
unsafe impl Sync for Value {}

impl Value {
    fn new(value: usize) -> Self {
        Value(UnsafeCell::new(value))
    }

    fn get(&self) -> usize {
        // SAFETY: the test claims that nobody is writing; loom checks that.
        self.0.with(|value| unsafe { *value })
    }

    fn destroy(&self) {
        // SAFETY: the test claims that nobody is looking; loom checks that.
        self.0.with_mut(|value| unsafe { *value = DESTROYED });
    }
}

/// Values that are in use one after the other.
struct Scene<const VALUES: usize> {
    srcu: Srcu,
    current: AtomicUsize,
    values: [Value; VALUES],
}

impl<const VALUES: usize> Scene<VALUES> {
    fn new() -> Arc<Self> {
        Arc::new(Scene {
            srcu: Srcu::new(),
            current: AtomicUsize::new(0),
            values: core::array::from_fn(Value::new),
        })
    }

    /// One section that looks at the current value twice.
    fn read(&self) {
        let _section = self.srcu.read();
        let current = self.current.load(Ordering::SeqCst);
        assert_eq!(self.values[current].get(), current);
        assert_eq!(self.values[current].get(), current);
    }

    /// Puts `next` in the place of the current value and destroys that.
    fn update(&self, next: usize) {
        let old = self.current.swap(next, Ordering::AcqRel);
        self.srcu.synchronize().unwrap();
        self.values[old].destroy();
    }
}

#[test]
fn one_reader_with_two_sections_against_two_grace_periods() {
    loom::model(|| {
        let scene = Scene::<3>::new();
        let reader = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.read();
                scene.read();
            }
        });
        scene.update(1);
        scene.update(2);
        reader.join().unwrap();
    });
}

#[test]
fn two_readers_against_one_grace_period() {
    loom::model(|| {
        let scene = Scene::<2>::new();
        let readers = [(); 2].map(|()| {
            let scene = scene.clone();
            thread::spawn(move || scene.read())
        });
        scene.update(1);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn nested_sections_against_one_grace_period() {
    loom::model(|| {
        let scene = Scene::<2>::new();
        let reader = thread::spawn({
            let scene = scene.clone();
            move || {
                let _outer = scene.srcu.read();
                scene.read();
                scene.read();
            }
        });
        scene.update(1);
        reader.join().unwrap();
    });
}

#[test]
fn one_reader_against_two_updaters() {
    // One updater may wait for the other, which waits for the reader. With a third preemption loom
    // follows ever longer schedules in which only the two that wait run.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let scene = Scene::<3>::new();
        let updater = thread::spawn({
            let scene = scene.clone();
            move || scene.update(1)
        });
        let reader = thread::spawn({
            let scene = scene.clone();
            move || scene.read()
        });
        scene.update(2);
        updater.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn one_reader_against_a_deferred_call_and_a_barrier() {
    loom::model(|| {
        let scene = Scene::<2>::new();
        let reader = thread::spawn({
            let scene = scene.clone();
            move || scene.read()
        });
        let old = scene.current.swap(1, Ordering::AcqRel);
        scene.srcu.call({
            let scene = scene.clone();
            move || scene.values[old].destroy()
        });
        scene.srcu.barrier().unwrap();
        // The barrier says that the callback has run, so this access is ordered after it.
        assert_eq!(scene.values[old].get(), DESTROYED);
        reader.join().unwrap();
    });
}

#[test]
fn two_barriers_against_each_other() {
    loom::model(|| {
        let scene = Scene::<2>::new();
        let other = thread::spawn({
            let scene = scene.clone();
            move || {
                scene.srcu.call({
                    let scene = scene.clone();
                    move || scene.values[1].destroy()
                });
                scene.srcu.barrier().unwrap();
                assert_eq!(scene.values[1].get(), DESTROYED);
            }
        });
        scene.srcu.call({
            let scene = scene.clone();
            move || scene.values[0].destroy()
        });
        scene.srcu.barrier().unwrap();
        assert_eq!(scene.values[0].get(), DESTROYED);
        other.join().unwrap();
    });
}

/// A value that is destroyed where it is dropped.
struct Owned(Value);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

#[test]
fn published_value_against_its_replacement() {
    loom::model(|| {
        let published = Arc::new(Published::new(Arc::new(Srcu::new())));
        assert!(
            published
                .replace(Some(Box::new(Owned(Value::new(0)))))
                .is_none()
        );
        let reader = thread::spawn({
            let published = published.clone();
            move || {
                if let Some(value) = published.read() {
                    assert!(value.0.get() < 2);
                }
            }
        });
        drop(published.replace(Some(Box::new(Owned(Value::new(1))))));
        drop(published.replace(None));
        reader.join().unwrap();
    });
}

/// A notifier whose data may be used only between registration and the end of unregistration.
struct Guarded(Value);

impl Notifier for Guarded {
    fn invalidate_range(&self, _range: Range) {
        assert_eq!(self.0.get(), 0);
    }

    fn release(&self) {
        assert_eq!(self.0.get(), 0);
    }
}

fn space_with_notifier() -> (Arc<AddressSpace>, Arc<Guarded>, Arc<dyn Notifier>) {
    let space = Arc::new(AddressSpace::new(Arc::new(Srcu::new())));
    let guarded = Arc::new(Guarded(Value::new(0)));
    let notifier: Arc<dyn Notifier> = guarded.clone();
    space.register_locked(notifier.clone()).unwrap();
    (space, guarded, notifier)
}

#[test]
fn n1_notification_against_unregister() {
    loom::model(|| {
        let (space, guarded, notifier) = space_with_notifier();
        let notifying = thread::spawn({
            let space = space.clone();
            move || space.invalidate_range(Range::ALL)
        });
        space.unregister(&notifier).unwrap();
        guarded.0.destroy();
        notifying.join().unwrap();
    });
}

#[test]
fn n3_release_against_unregister() {
    loom::model(|| {
        let (space, guarded, notifier) = space_with_notifier();
        let ended = Arc::new(AtomicUsize::new(0));
        let exit = thread::spawn({
            let (space, guarded, ended) = (space.clone(), guarded.clone(), ended.clone());
            move || {
                space.release();
                if ended.fetch_add(1, Ordering::AcqRel) == 0 {
                    guarded.0.destroy();
                }
            }
        });
        space.unregister(&notifier).unwrap();
        // Whoever returns first has waited for both calls of `Notifier::release`.
        if ended.fetch_add(1, Ordering::AcqRel) == 0 {
            guarded.0.destroy();
        }
        exit.join().unwrap();
    });
}
