//! The notifier core: programs of its operations on two threads, against the sequential model that
//! `core-notifier`'s own tests use.
//!
//! The input says which thread does an operation; the operations follow one another. What runs at
//! the same time is for loom (`core-notifier/tests/loom.rs`).

// The model's home is the crate whose tests need it, which this crate must not become a part of.
#[path = "../../core-notifier/tests/common/mod.rs"]
mod common;
#[path = "../../core-notifier/tests/model/sequence.rs"]
mod sequence;

use arbitrary::{Arbitrary, Unstructured};
use core_notifier::Range;
use sequence::{NOTIFIERS, Step, Threads, play};

/// Operations of a program, at most.
const MOST_STEPS: usize = 200;
/// Intervals that a program can name.
const INTERVALS: u8 = 8;

/// One operation, as the fuzzer chooses it.
#[derive(Arbitrary, Clone, Debug)]
enum Choice {
    Register(u8),
    Unregister(u8),
    UnregisterNoRelease(u8),
    Start(Bounds),
    End(Bounds),
    Invalidate(Bounds),
    ClearFlushYoung(Bounds),
    ClearYoung(Bounds),
    TestYoung(u64),
    ChangePte(u64, u64),
    OnlyEnd(Bounds),
    Section(Bounds),
    TrySection(Bounds),
    Raise(Bounds),
    Batch([Bounds; 3]),
    Insert(Bounds),
    Remove(u8),
    Lookup(u8),
    Barrier,
    Release,
}

/// Two addresses: often near to each other and to those of other operations, so that ranges overlap.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Bounds {
    Near(u8, u8),
    Far(u64, u64),
    UpTo(u64),
    From(u64),
}

impl Bounds {
    fn range(self) -> Range {
        let (a, b) = match self {
            Self::Near(a, b) => (u64::from(a % 16), u64::from(b % 16)),
            Self::Far(a, b) => (a, b),
            Self::UpTo(end) => (0, end),
            Self::From(start) => (start, u64::MAX),
        };
        Range::new(a.min(b), a.max(b)).expect("the bounds are in order")
    }
}

impl Choice {
    fn step(self) -> Step {
        let who = |notifier: u8| usize::from(notifier) % NOTIFIERS;
        let interval = |number: u8| usize::from(number % INTERVALS);
        match self {
            Self::Register(notifier) => Step::Register(who(notifier)),
            Self::Unregister(notifier) => Step::Unregister(who(notifier)),
            Self::UnregisterNoRelease(notifier) => Step::UnregisterNoRelease(who(notifier)),
            Self::Start(bounds) => Step::Start(bounds.range()),
            Self::End(bounds) => Step::End(bounds.range()),
            Self::Invalidate(bounds) => Step::Invalidate(bounds.range()),
            Self::ClearFlushYoung(bounds) => Step::ClearFlushYoung(bounds.range()),
            Self::ClearYoung(bounds) => Step::ClearYoung(bounds.range()),
            Self::TestYoung(address) => Step::TestYoung(address),
            Self::ChangePte(address, entry) => Step::ChangePte(address, entry),
            Self::OnlyEnd(bounds) => Step::OnlyEnd(bounds.range()),
            Self::Section(bounds) => Step::Section(bounds.range()),
            Self::TrySection(bounds) => Step::TrySection(bounds.range()),
            Self::Raise(bounds) => Step::Raise(bounds.range()),
            Self::Batch(all) => Step::Batch(all.map(Bounds::range).to_vec()),
            Self::Insert(bounds) => Step::Insert(bounds.range()),
            Self::Remove(number) => Step::Remove(interval(number)),
            Self::Lookup(number) => Step::Lookup(interval(number)),
            Self::Barrier => Step::Barrier,
            Self::Release => Step::Release,
        }
    }
}

/// The calling thread, and another.
struct Two;

impl Threads for Two {
    fn run<T: Send>(&self, thread: usize, work: impl FnOnce() -> T + Send) -> T {
        if thread == 0 {
            return work();
        }
        std::thread::scope(|scope| {
            let other = scope.spawn(work).join();
            other.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Plays a program.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut steps = Vec::new();
    while steps.len() < MOST_STEPS && !input.is_empty() {
        let Ok((elsewhere, choice)) = input.arbitrary::<(bool, Choice)>() else {
            break;
        };
        steps.push((usize::from(elsewhere), choice.step()));
    }
    play(steps, &Two);
}
