//! Exhaustive models of the read-copy-update, in both modes, and of what stands on it: every
//! interleaving and every stale read that the memory model allows, up to a bound on preemptions.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p core-notifier --release --test loom`
#![cfg(loom)]

extern crate alloc;

#[path = "loom/machine.rs"]
mod machine;

use alloc::boxed::Box;
use alloc::sync::Arc;

use core_notifier::{AddressSpace, Notifier, Published, Range, Srcu};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use machine::{Cpus, Machine, SharedCpus, SharedThreads, Threads, interruptible, move_to};

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
struct Scene<M: Machine, const VALUES: usize> {
    srcu: Srcu<M::Mode>,
    current: AtomicUsize,
    values: [Value; VALUES],
}

impl<M: Machine, const VALUES: usize> Scene<M, VALUES> {
    fn new(machine: &M) -> Arc<Self> {
        Arc::new(Scene {
            srcu: machine.srcu(),
            current: AtomicUsize::new(0),
            values: core::array::from_fn(Value::new),
        })
    }

    /// One section that looks at the current value twice.
    fn read(&self) {
        let _section = self.srcu.read();
        let current = self.current.load(M::FOLLOW);
        assert_eq!(self.values[current].get(), current);
        interruptible();
        assert_eq!(self.values[current].get(), current);
    }

    /// Puts `next` in the place of the current value and destroys that.
    fn update(&self, next: usize) {
        let old = self.current.swap(next, Ordering::AcqRel);
        self.srcu.synchronize().unwrap();
        self.values[old].destroy();
    }
}

/// Explores `scene` on a machine for `threads` threads. `preemptions` for scenes in which threads
/// wait for each other: with one more, loom follows ever longer schedules in which only those run.
fn explore<M: Machine>(
    threads: usize,
    preemptions: Option<usize>,
    scene: impl Fn(&M) + Send + Sync + 'static,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions.or(model.preemption_bound);
    model.check(move || scene(&M::new(threads)));
}

fn one_reader_with_two_sections_against_two_grace_periods<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let scene = Scene::<M, 3>::new(machine);
        let reader = machine.spawn(1, {
            let scene = scene.clone();
            move || {
                scene.read();
                scene.read();
            }
        });
        machine.run(0, || {
            scene.update(1);
            scene.update(2);
        });
        reader.join().unwrap();
    });
}

fn two_readers_against_one_grace_period<M: Machine>(preemptions: Option<usize>) {
    explore(3, preemptions, |machine: &M| {
        let scene = Scene::<M, 2>::new(machine);
        let readers = [1, 2].map(|number| {
            let scene = scene.clone();
            machine.spawn(number, move || scene.read())
        });
        machine.run(0, || scene.update(1));
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
}

fn nested_sections_against_one_grace_period<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let scene = Scene::<M, 2>::new(machine);
        let reader = machine.spawn(1, {
            let scene = scene.clone();
            move || {
                let _outer = scene.srcu.read();
                let current = scene.current.load(M::FOLLOW);
                scene.read();
                assert_eq!(scene.values[current].get(), current);
            }
        });
        machine.run(0, || scene.update(1));
        reader.join().unwrap();
    });
}

fn one_reader_against_two_updaters<M: Machine>(preemptions: Option<usize>) {
    explore(3, preemptions, |machine: &M| {
        let scene = Scene::<M, 3>::new(machine);
        let updater = machine.spawn(1, {
            let scene = scene.clone();
            move || scene.update(1)
        });
        let reader = machine.spawn(2, {
            let scene = scene.clone();
            move || scene.read()
        });
        machine.run(0, || scene.update(2));
        updater.join().unwrap();
        reader.join().unwrap();
    });
}

fn one_reader_against_a_deferred_call_and_a_barrier<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let scene = Scene::<M, 2>::new(machine);
        let reader = machine.spawn(1, {
            let scene = scene.clone();
            move || scene.read()
        });
        machine.run(0, || {
            let old = scene.current.swap(1, Ordering::AcqRel);
            scene.srcu.call({
                let scene = scene.clone();
                move || scene.values[old].destroy()
            });
            scene.srcu.barrier().unwrap();
            // The barrier says that the callback has run, so this access is ordered after it.
            assert_eq!(scene.values[old].get(), DESTROYED);
        });
        reader.join().unwrap();
    });
}

fn two_barriers_against_each_other<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let scene = Scene::<M, 2>::new(machine);
        let destroy_and_wait = |value: usize| {
            let scene = scene.clone();
            move || {
                scene.srcu.call({
                    let scene = scene.clone();
                    move || scene.values[value].destroy()
                });
                scene.srcu.barrier().unwrap();
                assert_eq!(scene.values[value].get(), DESTROYED);
            }
        };
        let other = machine.spawn(1, destroy_and_wait(1));
        machine.run(0, destroy_and_wait(0));
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

fn published_value_against_its_replacement<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let published = Arc::new(Published::new(Arc::new(machine.srcu())));
        let publish = |value| published.replace(Some(Box::new(Owned(Value::new(value)))));
        assert!(publish(0).is_none());
        let reader = machine.spawn(1, {
            let published = published.clone();
            move || {
                if let Some(value) = published.read() {
                    interruptible();
                    assert!(value.0.get() < 2);
                }
            }
        });
        machine.run(0, || {
            drop(publish(1));
            drop(published.replace(None));
        });
        reader.join().unwrap();
    });
}

/// A notifier whose data may be used only between registration and the end of unregistration.
struct Guarded(Value);

impl Notifier for Guarded {
    fn invalidate_range(&self, _range: Range) {
        interruptible();
        assert_eq!(self.0.get(), 0);
    }

    fn release(&self) {
        interruptible();
        assert_eq!(self.0.get(), 0);
    }
}

type Space<M> = Arc<AddressSpace<<M as Machine>::Mode>>;

fn guarded() -> (Arc<Guarded>, Arc<dyn Notifier>) {
    let guarded = Arc::new(Guarded(Value::new(0)));
    (guarded.clone(), guarded)
}

fn new_space<M: Machine>(machine: &M) -> Space<M> {
    Arc::new(AddressSpace::new(Arc::new(machine.srcu())))
}

fn n1_notification_against_unregister<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let space = new_space(machine);
        let (guarded, notifier) = guarded();
        space.register_locked(notifier.clone()).unwrap();
        let notifying = machine.spawn(1, {
            let space = space.clone();
            move || space.invalidate_range(Range::ALL)
        });
        machine.run(0, || {
            space.unregister(&notifier).unwrap();
            guarded.0.destroy();
        });
        notifying.join().unwrap();
    });
}

fn n1_notification_against_register_and_unregister<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let space = new_space(machine);
        let notifying = machine.spawn(1, {
            let space = space.clone();
            move || space.invalidate_range(Range::ALL)
        });
        machine.run(0, || {
            let (guarded, notifier) = guarded();
            space.register_locked(notifier.clone()).unwrap();
            space.unregister(&notifier).unwrap();
            guarded.0.destroy();
        });
        notifying.join().unwrap();
    });
}

fn n3_release_against_unregister<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let space = new_space(machine);
        let (guarded, notifier) = guarded();
        space.register_locked(notifier.clone()).unwrap();
        // Whoever returns first has waited for both calls of `Notifier::release`.
        let ended = Arc::new(AtomicUsize::new(0));
        let destroy_if_first = {
            let guarded = guarded.clone();
            move || {
                if ended.fetch_add(1, Ordering::AcqRel) == 0 {
                    guarded.0.destroy();
                }
            }
        };
        let exit = machine.spawn(1, {
            let (space, destroy_if_first) = (space.clone(), destroy_if_first.clone());
            move || {
                space.release();
                destroy_if_first();
            }
        });
        machine.run(0, || {
            space.unregister(&notifier).unwrap();
            destroy_if_first();
        });
        exit.join().unwrap();
    });
}

fn n4_notification_against_release<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let space = new_space(machine);
        let (guarded, notifier) = guarded();
        space.register_locked(notifier).unwrap();
        let notifying = machine.spawn(1, {
            let space = space.clone();
            move || space.invalidate_range(Range::ALL)
        });
        machine.run(0, || {
            space.release();
            guarded.0.destroy();
        });
        notifying.join().unwrap();
    });
}

fn notification_against_unregister_no_release<M: Machine>(preemptions: Option<usize>) {
    explore(2, preemptions, |machine: &M| {
        let space = new_space(machine);
        let (guarded, notifier) = guarded();
        space.register_locked(notifier.clone()).unwrap();
        let notifying = machine.spawn(1, {
            let space = space.clone();
            move || space.invalidate_range(Range::ALL)
        });
        machine.run(0, || {
            space.unregister_no_release(&notifier).unwrap();
            space.call({
                let guarded = guarded.clone();
                move || guarded.0.destroy()
            });
            space.barrier().unwrap();
            assert_eq!(guarded.0.get(), DESTROYED);
        });
        notifying.join().unwrap();
    });
}

/// A section moves to another CPU, and the next one takes the slot that it leaves.
fn a_moving_section_against_one_grace_period(preemptions: Option<usize>) {
    explore(3, preemptions, |machine: &Cpus| {
        let scene = Scene::<Cpus, 2>::new(machine);
        let moving = machine.spawn(1, {
            let (scene, machine) = (scene.clone(), machine.clone());
            move || {
                let _section = scene.srcu.read();
                let current = scene.current.load(Cpus::FOLLOW);
                move_to(2);
                machine.spawn(1, {
                    let scene = scene.clone();
                    move || scene.read()
                });
                assert_eq!(scene.values[current].get(), current);
            }
        });
        machine.run(0, || scene.update(1));
        moving.join().unwrap();
    });
}

/// Each scene as a test in each mode, with a bound on preemptions of its own where one is given.
macro_rules! tests {
    ($fenced_mode:ident $threads:ident $hooked_mode:ident $cpus:ident
     $($scene:ident $(fenced $fenced:literal)? $(hooked $hooked:literal)?,)*) => {
        mod $fenced_mode {
            $(#[test]
            fn $scene() {
                super::$scene::<super::$threads>(None $(.or(Some($fenced)))?);
            })*
        }

        mod $hooked_mode {
            $(#[test]
            fn $scene() {
                super::$scene::<super::$cpus>(None $(.or(Some($hooked)))?);
            })*
        }
    };
}

#[test]
fn hooked_moving_section_against_one_grace_period() {
    a_moving_section_against_one_grace_period(Some(3));
}

tests! {
    fenced_shared SharedThreads hooked_shared SharedCpus
    one_reader_with_two_sections_against_two_grace_periods,
    two_readers_against_one_grace_period hooked 2,
}

tests! {
    fenced Threads hooked Cpus
    one_reader_with_two_sections_against_two_grace_periods,
    two_readers_against_one_grace_period hooked 2,
    nested_sections_against_one_grace_period,
    one_reader_against_two_updaters fenced 2 hooked 1,
    one_reader_against_a_deferred_call_and_a_barrier,
    two_barriers_against_each_other,
    published_value_against_its_replacement,
    n1_notification_against_unregister,
    n1_notification_against_register_and_unregister,
    n3_release_against_unregister,
    n4_notification_against_release,
    notification_against_unregister_no_release,
}
