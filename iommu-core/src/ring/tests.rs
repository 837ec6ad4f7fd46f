//! The ring against a fake queue that executes when the test says so.

use super::*;
use crate::testing::{Event, FakePlatform, FakeRegisters, HeapMemory, Recorder};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const TAIL: usize = 0;
const HEAD: usize = 4;
const ERROR: usize = 8;
const SYNC: u64 = 0xff;

/// A queue of two-word commands whose sync writes its second word's value where its first says.
#[derive(Default)]
struct Queue {
    tail: AtomicUsize,
    head: AtomicUsize,
    error: AtomicU64,
    reads: AtomicUsize,
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
        assert_eq!(offset, TAIL);
        self.tail.store(value as usize, Ordering::Relaxed);
    }
}

struct Registers;

impl QueueRegisters<2> for Registers {
    fn write_tail(&self, mmio: &impl Mmio, position: u64) {
        mmio.write32(TAIL, position as u32 % 8);
    }
    fn read_head(&self, mmio: &impl Mmio) -> usize {
        mmio.read32(HEAD) as usize
    }
    fn sync(&self, word: Option<CompletionWord>) -> Command<2> {
        let word = word.map_or(0, |word| word.address.0 << 8 | u64::from(word.value) << 48);
        [SYNC, word]
    }
    fn read_error(&self, mmio: &impl Mmio) -> Option<QueueError> {
        let slot = mmio.read32(ERROR) as usize;
        (slot != 0).then_some(QueueError::IllegalCommand { slot })
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
        let queue = Arc::new(Queue::default());
        let (memory, recorder) = (Arc::new(HeapMemory::new()), Arc::new(Recorder::default()));
        let parts = Arc::new(FakePlatform::parts(&queue, &memory, &recorder));
        let config = Config::new(8, completion, coherency);
        let ring = Ring::new(&parts, Registers, config).unwrap();
        Self {
            queue,
            memory,
            recorder,
            ring,
        }
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
        self.queue.head.store((head + 1) % 8, Ordering::Relaxed);
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

#[test]
fn an_error_ends_the_wait_as_an_error_and_stays() {
    for completion in [Completion::Memory, Completion::Head] {
        let bench = Bench::new(completion, WalkerCoherency::Coherent);
        let ticket = bench.submit(1..3).unwrap();
        bench.queue.error.store(1, Ordering::Relaxed);
        let stopped = QueueError::IllegalCommand { slot: 1 };
        assert_eq!(bench.ring.wait(ticket).unwrap_err(), stopped);
        bench.queue.error.store(0, Ordering::Relaxed);
        assert_eq!(bench.submit(1..2).unwrap_err(), stopped);
    }
}

#[test]
fn a_list_that_was_complete_stays_complete_after_an_error() {
    let bench = Bench::new(Completion::Memory, WalkerCoherency::Coherent);
    let done = bench.submit(1..2).unwrap();
    bench.execute();
    let stuck = bench.submit(3..4).unwrap();
    bench.queue.error.store(2, Ordering::Relaxed);
    assert!(bench.ring.wait(stuck).is_err());
    assert!(bench.ring.wait(done).is_ok());
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
