//! The sequencer under every interleaving that loom explores, with hardware that executes what was
//! published on a thread of its own.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p iommu-core --release --lib`.

use super::lists::Lists;
use super::sequencer::{Doorbell, Sequencer, Slots};
use crate::error::QueueError;
use crate::iommu::Ticket;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

const COUNT: usize = 8;
const NOTHING: u64 = 0;
const SYNC: u64 = u64::MAX;

/// A queue of eight slots. The hardware thread executes up to the tail; a sync reports in the word
/// of its slot, and each command writes its number where the producer looks afterwards.
struct Queue {
    entries: [AtomicU64; COUNT],
    words: [AtomicU64; COUNT],
    tail: AtomicU64,
    head: AtomicU64,
    /// Nothing more will be posted.
    finished: AtomicBool,
    /// Written by the hardware when it executes command n: what completion must make visible.
    effects: [UnsafeCell<bool>; 5],
}

// SAFETY: the cells are what the model is about: loom reports every access that is not ordered.
unsafe impl Sync for Queue {}
// SAFETY: as for `Sync`.
unsafe impl Send for Queue {}

impl Queue {
    fn new() -> Self {
        Self {
            entries: core::array::from_fn(|_| AtomicU64::new(NOTHING)),
            words: core::array::from_fn(|_| AtomicU64::new(0)),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            effects: core::array::from_fn(|_| UnsafeCell::new(false)),
        }
    }

    /// Executes what is published until nothing more will be.
    fn run(&self) {
        loop {
            // Read before the tail, so that what was posted before is seen.
            let finished = self.finished.load(Ordering::Acquire);
            if self.execute() == 0 {
                if finished {
                    return;
                }
                thread::yield_now();
            }
        }
    }

    /// Executes up to the tail; how many commands that was.
    fn execute(&self) -> u64 {
        let start = self.head.load(Ordering::Acquire);
        let tail = self.tail.load(Ordering::Acquire);
        for head in start..tail {
            let slot = (head % COUNT as u64) as usize;
            match self.entries[slot].load(Ordering::Relaxed) {
                SYNC => {
                    let lap = head / COUNT as u64 + 1;
                    self.words[slot].store(lap, Ordering::Release);
                }
                NOTHING => panic!("the hardware reads a slot that nobody wrote"),
                command => self.effects[command as usize - 1].with_mut(|effect| {
                    // SAFETY: loom checks that nobody else accesses it meanwhile.
                    unsafe { *effect = true }
                }),
            }
            self.head.store(head + 1, Ordering::Release);
        }
        tail - start
    }
}

struct Model(Arc<Queue>);

impl Slots for Model {
    type Command = u64;

    fn without_interrupts<T>(section: impl FnOnce() -> T) -> T {
        section()
    }
    fn relax(&self) {}
    fn write(&self, position: u64, command: u64) {
        let slot = (position % COUNT as u64) as usize;
        assert!(
            self.0.head.load(Ordering::Acquire) + COUNT as u64 > position,
            "a slot is overwritten before it was executed"
        );
        self.0.entries[slot].store(command, Ordering::Relaxed);
    }
    fn tell(&self, _: u64, _: u64) {}
    fn publish(&self, _: u64, end: u64) {
        self.0.tail.store(end, Ordering::Release);
    }
    fn sync(&self, _: u64) -> u64 {
        SYNC
    }
    fn has_words(&self) -> bool {
        true
    }
    fn is_written(&self, end: u64) -> bool {
        let (slot, lap) = ((end - 1) % COUNT as u64, (end - 1) / COUNT as u64 + 1);
        self.0.words[slot as usize].load(Ordering::Acquire) >= lap
    }
    fn consumed(&self, _: &Lists) -> u64 {
        unreachable!("the model has words")
    }
}

type Ring = Sequencer<Model>;

fn post(ring: &Ring, command: u64) -> Ticket {
    loop {
        match ring.post(Doorbell::Shared, |put| put(command)).unwrap() {
            Some(ticket) => return ticket,
            None => thread::yield_now(),
        }
    }
}

fn wait(ring: &Ring, ticket: &Ticket) -> Result<(), QueueError> {
    while !ring.poll(ticket)? {
        thread::yield_now();
    }
    Ok(())
}

/// Waits, and then looks at what the hardware did: loom fails if that is not ordered.
fn finish(ring: &Ring, ticket: &Ticket, command: u64) {
    wait(ring, ticket).unwrap();
    ring.slots.0.effects[command as usize - 1].with(|effect| {
        // SAFETY: loom checks that the hardware's write came before.
        assert!(unsafe { *effect }, "complete, but not executed");
    });
}

fn model(preemptions: usize, scene: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(scene);
}

/// Two producers post while the hardware executes. loom follows schedules in which only waiting
/// threads run, so just one thread waits at a time: for both lists, one after the other.
fn two_producers(most_syncs: usize) {
    model(2, move || {
        let queue = Arc::new(Queue::new());
        let ring = Arc::new(Sequencer::new(Model(queue.clone()), COUNT, most_syncs));
        let hardware = {
            let queue = queue.clone();
            thread::spawn(move || queue.run())
        };
        let other = {
            let ring = ring.clone();
            thread::spawn(move || post(&ring, 2))
        };
        let mine = post(&ring, 1);
        let theirs = other.join().unwrap();
        finish(&ring, &mine, 1);
        finish(&ring, &theirs, 2);
        queue.finished.store(true, Ordering::Release);
        hardware.join().unwrap();
    });
}

#[test]
fn completion_means_executed_with_a_sync_for_each() {
    two_producers(2);
}

#[test]
fn completion_means_executed_with_a_shared_sync() {
    two_producers(1);
}

#[test]
fn two_waiters_close_a_group_once() {
    model(3, || {
        let queue = Arc::new(Queue::new());
        let ring = Arc::new(Sequencer::new(Model(queue.clone()), COUNT, 1));
        let first = post(&ring, 1);
        let group = [post(&ring, 2), post(&ring, 3)];
        assert!(first.has_sync && group.iter().all(|ticket| !ticket.has_sync));
        queue.execute();
        let [mine, theirs] = group;
        let other = {
            let ring = ring.clone();
            thread::spawn(move || {
                let _ = ring.poll(&theirs);
                theirs
            })
        };
        let _ = ring.poll(&mine);
        let theirs = other.join().unwrap();
        // Whoever held the lock closed the group, for both.
        assert_eq!(queue.tail.load(Ordering::Relaxed), 5);
        queue.execute();
        finish(&ring, &mine, 2);
        finish(&ring, &theirs, 3);
    });
}

#[test]
fn completion_that_another_waiter_saw_is_ordered_too() {
    model(3, || {
        let queue = Arc::new(Queue::new());
        let ring = Arc::new(Sequencer::new(Model(queue.clone()), COUNT, 1));
        let first = post(&ring, 1);
        let (mine, theirs) = (post(&ring, 2), post(&ring, 3));
        queue.execute();
        wait(&ring, &first).unwrap();
        assert!(!ring.poll(&mine).unwrap(), "this poll closes the group");
        let other = {
            let ring = ring.clone();
            thread::spawn(move || {
                queue.execute();
                wait(&ring, &theirs).unwrap();
            })
        };
        // Lets loom run the other thread to its end here; by itself it does not.
        thread::yield_now();
        if ring.poll(&mine).unwrap() {
            finish(&ring, &mine, 2);
        }
        other.join().unwrap();
    });
}

#[test]
fn slots_are_reused_only_after_their_sync() {
    model(2, || {
        let queue = Arc::new(Queue::new());
        let ring = Arc::new(Sequencer::new(Model(queue.clone()), COUNT, 2));
        let hardware = {
            let queue = queue.clone();
            thread::spawn(move || queue.run())
        };
        for command in 1..=5 {
            let ticket = post(&ring, command);
            finish(&ring, &ticket, command);
        }
        queue.finished.store(true, Ordering::Release);
        hardware.join().unwrap();
    });
}

#[test]
fn a_failure_is_seen_by_its_own_list_and_no_other() {
    model(3, || {
        let queue = Arc::new(Queue::new());
        let ring = Arc::new(Sequencer::new(Model(queue.clone()), COUNT, 2));
        // The hardware stands still in front of the first command.
        let (bad, good) = (post(&ring, 1), post(&ring, 2));
        let repair = {
            let ring = ring.clone();
            thread::spawn(move || {
                // Whoever looks first marks the list; only then does the hardware go on.
                let look = |lists: &mut Lists| {
                    let list = lists.list(0)?;
                    lists.fail(list, QueueError::MemoryFault);
                    Some(|| {
                        queue.execute();
                    })
                };
                ring.inspect(None, look).unwrap();
            })
        };
        assert_eq!(wait(&ring, &bad), Err(QueueError::MemoryFault));
        assert_eq!(wait(&ring, &good), Ok(()));
        repair.join().unwrap();
    });
}
