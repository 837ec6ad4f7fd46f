//! The ring against a fake queue that executes when the test says so.

use super::*;
use crate::testing::{Event, FakePlatform, FakeRegisters, HeapMemory, Recorder};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const TAIL: usize = 0;
const HEAD: usize = 4;
const ERROR: usize = 8;
const SYNC: u64 = 0xff;
/// Kinds of errors in the fake's error register.
const ILLEGAL: u32 = 1;
const TIMEOUT: u32 = 2;
const DROPPED: u32 = 3;
const DEAD: u32 = 4;
const TIMED_OUT: QueueError = QueueError::DeviceTimeout { device: None };

/// A queue of two-word commands whose sync writes its second word's value where its first says.
#[derive(Default)]
struct Queue {
    tail: AtomicUsize,
    head: AtomicUsize,
    error: AtomicU64,
    reads: AtomicUsize,
    slots: AtomicUsize,
}

impl FakeRegisters for Queue {
    fn read(&self, offset: usize, _: usize) -> u64 {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match offset {
            HEAD => self.head.load(Ordering::Relaxed) as u64,
            ERROR => self.error.load(Ordering::Relaxed),
            _ => panic!("no register to read at {offset:#x}"),
        }
    }
    fn write(&self, offset: usize, _: usize, value: u64) {
        match offset {
            TAIL => {
                let slots = self.slots.load(Ordering::Relaxed);
                self.tail.store(value as usize % slots, Ordering::Relaxed);
            }
            ERROR => self.error.store(value, Ordering::Relaxed),
            _ => panic!("no register to write at {offset:#x}"),
        }
    }
}

struct Registers;

impl QueueRegisters<2> for Registers {
    fn write_tail(&self, mmio: &impl Mmio, position: u64) {
        mmio.write32(TAIL, position as u32);
    }
    fn read_head(&self, mmio: &impl Mmio) -> usize {
        mmio.read32(HEAD) as usize
    }
    fn sync(&self, word: Option<CompletionWord>) -> Command<2> {
        let word = word.map_or(0, |word| word.address.0 << 8 | u64::from(word.value) << 48);
        [SYNC, word]
    }
    fn read_stop(&self, mmio: &impl Mmio) -> Option<Stop> {
        let slot = || mmio.read32(HEAD) as usize;
        let (error, loss) = match mmio.read32(ERROR) {
            0 => return None,
            ILLEGAL => {
                let slot = slot();
                (QueueError::IllegalCommand { slot }, Loss::Command { slot })
            }
            TIMEOUT => (TIMED_OUT, Loss::Sync { slot: slot() }),
            DROPPED => (TIMED_OUT, Loss::PendingSyncs),
            _ => (QueueError::MemoryFault, Loss::Queue),
        };
        Some(Stop { error, loss })
    }
    fn restart(&self, mmio: &impl Mmio, _: Stop, position: u64) {
        mmio.write32(ERROR, 0);
        self.write_tail(mmio, position);
    }
}

struct Bench {
    queue: Arc<Queue>,
    memory: Arc<HeapMemory>,
    recorder: Arc<Recorder>,
    ring: Ring<2, Registers, FakePlatform<Queue>>,
}

impl Bench {
    fn new(completion: Completion, coherency: WalkerCoherency) -> Self {
        // Enough that no test's lists share a sync unless it says so.
        Self::with(Config {
            most_syncs: 4,
            ..Config::new(8, completion, coherency)
        })
    }

    fn with(config: Config) -> Self {
        let queue = Arc::new(Queue::default());
        let (memory, recorder) = (Arc::new(HeapMemory::new()), Arc::new(Recorder::default()));
        let parts = Arc::new(FakePlatform::parts(&queue, &memory, &recorder));
        queue.slots.store(config.slots, Ordering::Relaxed);
        let ring = Ring::new(&parts, Registers, config).unwrap();
        Self {
            queue,
            memory,
            recorder,
            ring,
        }
    }

    /// The hardware stops where it is, with this error.
    fn stop(&self, error: u32) {
        self.queue.error.store(error.into(), Ordering::Relaxed);
    }

    fn submit(&self, commands: core::ops::Range<u64>) -> Result<Ticket, QueueError> {
        self.ring
            .submit(|put| commands.clone().for_each(|n| put(Item::Command([n, 0]))))
    }

    /// Executes up to the tail and returns what was executed.
    fn execute(&self) -> Vec<u64> {
        let mut executed = Vec::new();
        while self.queue.head.load(Ordering::Relaxed) != self.queue.tail.load(Ordering::Relaxed) {
            executed.push(self.execute_one());
        }
        executed
    }

    fn execute_one(&self) -> u64 {
        let head = self.queue.head.load(Ordering::Relaxed);
        let entry = self.ring.physical().0 + head as u64 * 16;
        let command = self.memory.load(PhysicalAddress(entry));
        let word = self.memory.load(PhysicalAddress(entry + 8));
        if command == SYNC && word != 0 {
            let address = PhysicalAddress(word >> 8 & 0xff_ffff_ffff);
            self.memory.store32(address, (word >> 48) as u32);
        }
        let slots = self.queue.slots.load(Ordering::Relaxed);
        self.queue.head.store((head + 1) % slots, Ordering::Relaxed);
        command
    }
}

#[test]
fn a_list_costs_one_doorbell_and_its_completion_no_register_read() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let ticket = bench.submit(1..4).unwrap();
    assert_eq!(bench.execute(), [1, 2, 3, SYNC]);
    bench.ring.wait(ticket).unwrap();
    let events = bench.recorder.take();
    let count = |event: &Event| events.iter().filter(|found| *found == event).count();
    assert_eq!(
        (events.len(), count(&Event::Doorbell), count(&Event::Wait)),
        (6, 1, 1)
    );
    assert_eq!(bench.queue.reads.load(Ordering::Relaxed), 0);
}

#[test]
fn an_empty_list_is_a_bare_sync() {
    for completion in [Completion::Memory, Completion::Head] {
        let bench = Bench::new(completion, WalkerCoherency::Coherent);
        let ticket = bench.ring.submit(|_| ()).unwrap();
        assert_eq!(bench.execute(), [SYNC]);
        bench.ring.wait(ticket).unwrap();
    }
}

#[test]
fn slots_are_reused_after_completion_over_many_laps() {
    for completion in [Completion::Memory, Completion::Head] {
        let bench = Bench::new(completion, WalkerCoherency::Coherent);
        for length in (0..6).cycle().take(100) {
            let ticket = bench.submit(0..length).unwrap();
            assert_eq!(bench.execute().len() as u64, length + 1);
            bench.ring.wait(ticket).unwrap();
        }
    }
}

#[test]
fn a_full_ring_waits_for_completion_and_never_overwrites() {
    for completion in [Completion::Memory, Completion::Head] {
        let bench = Bench::new(completion, WalkerCoherency::Coherent);
        let first = bench.submit(1..4).unwrap();
        // Four slots are taken and one stays empty, so four more do not fit.
        let full = bench.submit(10..13).unwrap_err();
        assert!(matches!(full, QueueError::Timeout(_)), "{full:?}");
        assert_eq!(bench.execute(), [1, 2, 3, SYNC]);
        drop(first);
    }
}

#[test]
fn room_that_appears_while_waiting_is_used() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let first = bench.submit(1..4).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| bench.submit(10..13));
        while bench.recorder.take().is_empty() {}
        assert_eq!(
            (0..4).map(|_| bench.execute_one()).collect::<Vec<_>>(),
            [1, 2, 3, SYNC]
        );
        let second = second.join().unwrap().unwrap();
        bench.ring.wait(first).unwrap();
        assert_eq!(bench.execute(), [10, 11, 12, SYNC]);
        bench.ring.wait(second).unwrap();
    });
}

#[test]
fn a_list_longer_than_the_ring_is_refused() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let error = bench.submit(0..7).unwrap_err();
    assert_eq!(
        error,
        QueueError::ListTooLong {
            commands: 8,
            capacity: 7
        }
    );
    assert!(bench.submit(0..6).is_ok());
}

#[test]
fn a_sync_that_is_not_complete_is_not_done() {
    for completion in [Completion::Memory, Completion::Head] {
        let bench = Bench::new(completion, WalkerCoherency::Coherent);
        let ticket = bench.submit(1..3).unwrap();
        bench.execute_one();
        bench.execute_one();
        let error = bench.ring.wait(ticket).unwrap_err();
        assert!(matches!(error, QueueError::Timeout(_)), "{error:?}");
    }
}

fn both() -> impl Iterator<Item = Bench> {
    let kinds = [Completion::Memory, Completion::Head];
    kinds
        .into_iter()
        .map(|completion| Bench::new(completion, WalkerCoherency::Coherent))
}

#[test]
fn an_illegal_command_fails_its_own_list_and_the_ring_goes_on() {
    for bench in both() {
        let before = bench.submit(1..2).unwrap();
        let bad = bench.submit(10..11).unwrap();
        let after = bench.submit(2..3).unwrap();
        assert_eq!([bench.execute_one(), bench.execute_one()], [1, SYNC]);
        bench.stop(ILLEGAL);
        let slot = 2;
        let error = bench.ring.wait(bad).unwrap_err();
        assert_eq!(error, QueueError::IllegalCommand { slot });
        // The command was replaced by a sync that reports nothing.
        assert_eq!(bench.execute(), [SYNC, SYNC, 2, SYNC]);
        bench.ring.wait(before).unwrap();
        bench.ring.wait(after).unwrap();
        let later = bench.submit(3..4).unwrap();
        bench.execute();
        bench.ring.wait(later).unwrap();
    }
}

#[test]
fn an_error_found_by_another_waiter_is_still_told_to_its_own() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let bad = bench.submit(10..11).unwrap();
    let other = bench.submit(2..3).unwrap();
    bench.stop(ILLEGAL);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| bench.ring.wait(other));
        while bench.queue.error.load(Ordering::Relaxed) != 0 {
            std::thread::yield_now();
        }
        bench.execute();
        waiter.join().unwrap().unwrap();
    });
    let error = bench.ring.wait(bad).unwrap_err();
    assert_eq!(error, QueueError::IllegalCommand { slot: 0 });
}

#[test]
fn a_refused_sync_of_the_rings_own_ends_the_queue() {
    for bench in both() {
        let ticket = bench.submit(1..2).unwrap();
        bench.execute_one();
        bench.stop(ILLEGAL);
        assert!(bench.ring.wait(ticket).is_err());
        assert!(bench.submit(1..2).is_err());
        assert_ne!(
            bench.queue.error.load(Ordering::Relaxed),
            0,
            "it is not restarted"
        );
    }
}

#[test]
fn a_device_that_does_not_answer_fails_what_its_sync_stands_for() {
    for bench in both() {
        let bad = bench.submit(1..2).unwrap();
        let after = bench.submit(2..3).unwrap();
        bench.execute_one();
        bench.stop(TIMEOUT);
        assert_eq!(bench.ring.wait(bad).unwrap_err(), TIMED_OUT);
        assert_eq!(bench.execute(), [SYNC, 2, SYNC]);
        bench.ring.wait(after).unwrap();
    }
}

#[test]
fn dropped_syncs_fail_every_list_in_front_of_the_head() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let complete = bench.submit(0..0).unwrap();
    bench.execute();
    let (first, second) = (bench.submit(1..2).unwrap(), bench.submit(2..3).unwrap());
    // The hardware has read both lists, and drops the sync of the first.
    bench.queue.head.store(4, Ordering::Relaxed);
    bench.stop(DROPPED);
    assert_eq!(bench.ring.wait(first).unwrap_err(), TIMED_OUT);
    assert_eq!(bench.ring.wait(second).unwrap_err(), TIMED_OUT);
    bench.ring.wait(complete).unwrap();
    for _ in 0..10 {
        let after = bench.submit(3..5).unwrap();
        bench.execute();
        bench.ring.wait(after).unwrap();
    }
}

#[test]
fn a_dead_queue_says_so_to_everybody() {
    for bench in both() {
        let ticket = bench.submit(1..3).unwrap();
        bench.stop(DEAD);
        assert_eq!(
            bench.ring.wait(ticket).unwrap_err(),
            QueueError::MemoryFault
        );
        bench.queue.error.store(0, Ordering::Relaxed);
        assert_eq!(bench.submit(1..2).unwrap_err(), QueueError::MemoryFault);
    }
}

#[test]
fn a_list_that_was_complete_stays_complete_after_an_error() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let done = bench.submit(1..2).unwrap();
    bench.execute();
    let stuck = bench.submit(3..4).unwrap();
    bench.stop(DEAD);
    assert!(bench.ring.wait(stuck).is_err());
    assert!(bench.ring.wait(done).is_ok());
}

#[test]
fn waiters_share_a_sync_when_many_are_in_flight() {
    for completion in [Completion::Memory, Completion::Head] {
        let mut config = Config::new(16, completion, WalkerCoherency::Coherent);
        config.most_syncs = 1;
        let bench = Bench::with(config);
        let first = bench.submit(1..2).unwrap();
        let group: Vec<_> = (2..5).map(|n| bench.submit(n..n + 1).unwrap()).collect();
        assert_eq!(bench.execute(), [1, SYNC], "the group has no doorbell yet");
        bench.ring.wait(first).unwrap();
        std::thread::scope(|scope| {
            let waiters: Vec<_> = group
                .into_iter()
                .map(|ticket| scope.spawn(|| bench.ring.wait(ticket)))
                .collect();
            let mut executed = Vec::new();
            while executed.len() < 4 {
                executed.extend(bench.execute());
            }
            assert_eq!(executed, [2, 3, 4, SYNC]);
            for waiter in waiters {
                waiter.join().unwrap().unwrap();
            }
        });
        let events = bench.recorder.take();
        let doorbells = events.iter().filter(|event| **event == Event::Doorbell);
        assert_eq!(doorbells.count(), 2);
    }
}

#[test]
fn a_list_that_nobody_waits_for_is_rung_at_once() {
    for completion in [Completion::Memory, Completion::Head] {
        let mut config = Config::new(16, completion, WalkerCoherency::Coherent);
        config.most_syncs = 1;
        let bench = Bench::with(config);
        let first = bench.submit(1..2).unwrap();
        let second = bench.submit(2..3).unwrap();
        bench.ring.post(|put| put(Item::Command([3, 3]))).unwrap();
        assert_eq!(bench.execute(), [1, SYNC, 2, 3, SYNC]);
        for ticket in [first, second] {
            bench.ring.wait(ticket).unwrap();
        }
        // Nobody waits, and the slots come back all the same.
        for _ in 0..40 {
            bench.ring.post(|put| put(Item::Command([4, 4]))).unwrap();
            assert_eq!(bench.execute(), [4, SYNC]);
        }
    }
}

#[test]
fn a_head_beyond_the_tail_completes_nothing() {
    let bench = Bench::new(Completion::Head, WalkerCoherency::Coherent);
    let ticket = bench.submit(1..3).unwrap();
    bench.queue.head.store(6, Ordering::Relaxed);
    assert!(bench.ring.wait(ticket).is_err());
}

#[test]
fn commands_are_cleaned_before_the_doorbell_if_the_hardware_does_not_snoop() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::NonCoherent);
    for lap in 0..3 {
        bench.memory.forget_cleaned();
        let ticket = bench.submit(0..4).unwrap();
        for slot in 0..5 {
            let address = bench.ring.physical().0 + (lap * 5 + slot) % 8 * 16;
            assert!(
                bench.memory.was_cleaned(PhysicalAddress(address)),
                "lap {lap} slot {slot}"
            );
            assert!(bench.memory.was_cleaned(PhysicalAddress(address + 8)));
        }
        bench.execute();
        bench.ring.wait(ticket).unwrap();
    }
}

#[test]
fn a_barrier_is_a_sync_without_a_word() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let ticket = bench
        .ring
        .submit(|put| {
            put(Item::Command([1, 0]));
            put(Item::Barrier);
            put(Item::Command([2, 0]));
        })
        .unwrap();
    assert_eq!(bench.execute(), [1, SYNC, 2, SYNC]);
    bench.ring.wait(ticket).unwrap();
    let commands = bench.recorder.take_commands();
    assert_eq!(commands[1], [SYNC, 0]);
    assert_ne!(commands[3][1], 0);
}

#[test]
fn producers_on_several_threads_lose_nothing() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let left = AtomicUsize::new(4);
    std::thread::scope(|scope| {
        for producer in 0..4 {
            let (bench, left) = (&bench, &left);
            scope.spawn(move || {
                for number in 0..200 {
                    let command = producer << 32 | number;
                    let ticket = bench.submit(command..command + 1).unwrap();
                    bench.ring.wait(ticket).unwrap();
                }
                left.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let mut next = [0; 4];
        while left.load(Ordering::Relaxed) != 0 {
            for command in bench
                .execute()
                .into_iter()
                .filter(|command| *command != SYNC)
            {
                let producer = (command >> 32) as usize;
                assert_eq!(command as u32, next[producer]);
                next[producer] += 1;
            }
        }
        assert_eq!(next, [200; 4]);
    });
}

#[test]
fn a_head_that_moves_completes_nothing_where_there_are_words() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let ticket = bench.submit(1..3).unwrap();
    let tail = bench.queue.tail.load(Ordering::Relaxed);
    bench.queue.head.store(tail, Ordering::Relaxed);
    let error = bench.ring.wait(ticket).unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error:?}");
}

#[test]
fn a_word_of_an_earlier_lap_completes_nothing() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    for _ in 0..4 {
        let ticket = bench.submit(1..2).unwrap();
        bench.execute();
        bench.ring.wait(ticket).unwrap();
    }
    let ticket = bench.submit(1..2).unwrap();
    let error = bench.ring.wait(ticket).unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error:?}");
}

#[test]
fn an_error_is_told_to_its_own_list_and_no_other() {
    for (error, told) in [
        (ILLEGAL, QueueError::IllegalCommand { slot: 0 }),
        (TIMEOUT, TIMED_OUT),
    ] {
        for bench in both() {
            let (bad, good) = (bench.submit(1..2).unwrap(), bench.submit(2..3).unwrap());
            bench.stop(error);
            assert_eq!(bench.ring.wait(bad).unwrap_err(), told);
            bench.execute();
            bench.ring.wait(good).unwrap();
        }
    }
}
