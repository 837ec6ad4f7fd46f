//! A world in which CPUs are coroutines and time is counted: the same in every run, on any machine.
//!
//! Of all CPUs the one whose clock is the earliest runs, up to the next thing that costs time. What
//! costs time is listed in [`Costs`]; all other code is free.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU32, Ordering};

use generator::{Generator, Gn};

use super::world::{Hardware, Line, Step, World};

/// What things cost, in nanoseconds.
#[derive(Clone, Copy)]
pub struct Costs {
    /// A write of the tail register.
    pub doorbell: u64,
    /// A read of a register.
    pub register_read: u64,
    /// The hardware's time for a command, during which it does nothing else.
    pub command: u64,
    /// Likewise for a sync.
    pub sync: u64,
    /// From then on until the CPU can see that the sync is complete.
    pub completion: u64,
    /// An atomic operation on a line that this CPU had last.
    pub own_line: u64,
    /// On a line that another CPU had last.
    pub other_line: u64,
    /// Writing a command to the queue.
    pub write: u64,
    /// A turn of a waiting loop.
    pub turn: u64,
}

/// Words in the stack of a CPU.
const STACK: usize = 0x2000;

thread_local! {
    static TIME: Time = const { Time::new() };
}

struct Time {
    now: Cell<u64>,
    /// When the next other CPU runs.
    horizon: Cell<u64>,
    cpu: Cell<u64>,
    costs: Cell<Option<Costs>>,
    writes: RefCell<BinaryHeap<Reverse<Write>>>,
    /// The ring's lock and what it protects.
    lock: [Line; 2],
    longest_section: Cell<u64>,
    syncs: Cell<u64>,
}

/// What the hardware will write.
struct Write {
    when: u64,
    word: &'static AtomicU32,
    value: u32,
}

impl Ord for Write {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.when.cmp(&other.when)
    }
}
impl PartialOrd for Write {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Write {
    fn eq(&self, other: &Self) -> bool {
        self.when == other.when
    }
}
impl Eq for Write {}

impl Time {
    const fn new() -> Self {
        Self {
            now: Cell::new(0),
            horizon: Cell::new(u64::MAX),
            cpu: Cell::new(0),
            costs: Cell::new(None),
            writes: RefCell::new(BinaryHeap::new()),
            lock: [Line::new(), Line::new()],
            longest_section: Cell::new(0),
            syncs: Cell::new(0),
        }
    }

    fn costs(&self) -> Option<Costs> {
        self.costs.get()
    }

    /// Performs the hardware's writes up to now.
    fn write_back(&self) {
        let mut writes = self.writes.borrow_mut();
        while writes
            .peek()
            .is_some_and(|Reverse(write)| write.when <= self.now.get())
        {
            if let Some(Reverse(Write { word, value, .. })) = writes.pop() {
                word.store(value, Ordering::Release);
            }
        }
    }
}

/// What came of a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Nanoseconds.
    pub time: u64,
    /// Syncs with a word that the hardware executed.
    pub syncs: u64,
    /// The longest time that interrupts were off in the ring, in nanoseconds.
    pub longest_section: u64,
}

/// Runs a CPU for each of `bodies`, from time 0 on, until all are done.
pub fn run(costs: Costs, bodies: Vec<Box<dyn FnOnce() + Send>>) -> Run {
    TIME.with(|time| {
        time.now.set(0);
        time.costs.set(Some(costs));
        time.longest_section.set(0);
        time.syncs.set(0);
        time.lock.iter().for_each(Line::forget);
    });
    let mut cpus: Vec<Generator<'static, (), ()>> = bodies
        .into_iter()
        .map(|body| Gn::new_opt(STACK, body))
        .collect();
    let mut waiting: BinaryHeap<_> = (0..cpus.len()).map(|cpu| Reverse((0, cpu))).collect();
    let mut end = 0;
    while let Some(Reverse((start, cpu))) = waiting.pop() {
        let horizon = waiting.peek().map_or(u64::MAX, |Reverse((time, _))| *time);
        TIME.with(|time| {
            time.now.set(start);
            time.horizon.set(horizon);
            time.cpu.set(cpu as u64);
            time.write_back();
        });
        cpus[cpu].resume();
        let now = now();
        if cpus[cpu].is_done() {
            end = end.max(now);
        } else {
            waiting.push(Reverse((now, cpu)));
        }
    }
    TIME.with(|time| {
        time.costs.set(None);
        time.writes.borrow_mut().clear();
        Run {
            time: end,
            syncs: time.syncs.get(),
            longest_section: time.longest_section.get(),
        }
    })
}

/// Nanoseconds since the run began, on this CPU.
pub fn now() -> u64 {
    TIME.with(|time| time.now.get())
}

/// Lets time pass on this CPU.
pub fn pass(nanoseconds: u64) {
    let is_others_turn = TIME.with(|time| {
        time.now.set(time.now.get() + nanoseconds);
        time.now.get() > time.horizon.get()
    });
    if is_others_turn {
        #[expect(
            deprecated,
            reason = "the scope would have to reach through the engine"
        )]
        generator::yield_with(());
    }
    TIME.with(Time::write_back);
}

/// Lets the time of something pass; none before and after a run, when IOMMUs are brought up.
fn spend(cost: impl FnOnce(&Costs) -> u64) {
    if let Some(costs) = TIME.with(Time::costs) {
        pass(cost(&costs));
    }
}

/// The world.
pub struct Virtual;

impl World for Virtual {
    const COUNTS_COMMANDS: bool = true;

    fn now() -> u64 {
        now()
    }

    fn relax() {
        spend(|costs| costs.turn);
    }

    fn command() {
        spend(|costs| costs.write);
    }

    fn doorbell() {
        spend(|costs| costs.doorbell);
    }

    fn register_read() {
        spend(|costs| costs.register_read);
    }

    fn section<T>(section: impl FnOnce() -> T) -> T {
        for line in 0..2 {
            take(|time| &time.lock[line]);
        }
        let start = now();
        let result = section();
        let took = now() - start;
        TIME.with(|time| {
            time.longest_section
                .set(time.longest_section.get().max(took))
        });
        result
    }

    fn atomic(line: &Line) {
        let Some(costs) = TIME.with(Time::costs) else {
            return;
        };
        let (cpu, now) = TIME.with(|time| (time.cpu.get(), time.now.get()));
        pass(line.take(cpu, now, costs.own_line, costs.other_line));
    }

    fn execute(hardware: &Hardware, step: Step) {
        TIME.with(|time| {
            let Some(costs) = time.costs() else {
                // Bringing up takes no time.
                if let Step::Sync { word, value } = step {
                    word.store(value, Ordering::Release);
                }
                return;
            };
            let cost = match step {
                Step::Command => costs.command,
                Step::Sync { .. } => costs.sync,
            };
            let done = hardware.work(time.now.get(), cost);
            if let Step::Sync { word, value } = step {
                time.syncs.set(time.syncs.get() + 1);
                let when = done + costs.completion;
                let write = Write { when, word, value };
                time.writes.borrow_mut().push(Reverse(write));
            }
        });
    }
}

/// An atomic operation on one of the world's own lines.
fn take(line: impl Fn(&Time) -> &Line) {
    let cost = TIME.with(|time| {
        let costs = time.costs()?;
        let (cpu, now) = (time.cpu.get(), time.now.get());
        Some(line(time).take(cpu, now, costs.own_line, costs.other_line))
    });
    if let Some(cost) = cost {
        pass(cost);
    }
}
