//! The whole interface, and what it is to do in the plainest way: one operation after the other.

use super::common::{Call, Log, Recorder, drain, new_space};
use alloc::sync::Arc;
use core_notifier::{
    Event, InsertError, IntervalNotifier, IntervalSubscription, Invalidation, Notifier, Range,
    ReadSequence, RegisterError, RemoveError, UnregisterError, WouldBlock,
};
use std::collections::HashSet;
use std::sync::Mutex;

/// As many notifiers as the sequences know.
pub const NOTIFIERS: usize = 5;

/// What is done to the address space. Indices name notifiers.
#[derive(Clone, Debug)]
pub enum Step {
    Register(usize),
    Unregister(usize),
    UnregisterNoRelease(usize),
    Start(Range),
    End(Range),
    Invalidate(Range),
    ClearFlushYoung(Range),
    ClearYoung(Range),
    TestYoung(u64),
    ChangePte(u64, u64),
    OnlyEnd(Range),
    Section(Range),
    TrySection(Range),
    Raise(Range),
    Batch(Vec<Range>),
    Insert(Range),
    Remove(usize),
    Lookup(usize),
    Barrier,
    Release,
}

/// What the specification says, in the plainest way.
#[derive(Default)]
struct Model {
    /// Subscribed, newest first.
    listed: Vec<usize>,
    /// Taken out by exit, unregistration still owed.
    unhashed: Vec<usize>,
    released: bool,
    calls: Vec<(char, Call)>,
    /// Every interval that was inserted, whether it is still to be told, and whether its last
    /// lookup is out of date.
    intervals: Vec<(Range, bool, bool)>,
    /// The intervals told since the last look.
    told: Vec<usize>,
    /// Starts without an end, in the manner of 2017, since the first interval.
    open: usize,
    /// Intervals that were met while any was open, or inserted then.
    waiting: Vec<usize>,
}

fn name(who: usize) -> char {
    (b'a' + who as u8) as char
}

/// Every other notifier finds everything young.
fn is_young(who: usize) -> bool {
    who % 2 == 1
}

impl Model {
    fn register(&mut self, who: usize) -> Result<(), RegisterError> {
        if self.released {
            Err(RegisterError::Released)
        } else if self.listed.contains(&who) {
            Err(RegisterError::AlreadyRegistered)
        } else {
            self.listed.insert(0, who);
            Ok(())
        }
    }

    fn unregister(&mut self, who: usize, release: bool) -> Result<(), UnregisterError> {
        let is_other = |other: &usize| *other != who;
        if self.listed.contains(&who) {
            self.listed.retain(is_other);
            if release {
                self.calls.push((name(who), Call::Release));
            }
            Ok(())
        } else if self.unhashed.contains(&who) {
            self.unhashed.retain(is_other);
            Ok(())
        } else {
            Err(UnregisterError::NotRegistered)
        }
    }

    fn call_all(&mut self, calls: &[Call]) {
        for who in &self.listed {
            self.calls
                .extend(calls.iter().map(|call| (name(*who), *call)));
        }
    }

    fn notify(&mut self, range: Range, calls: &[Call]) {
        if range.start() != range.end() {
            self.call_all(calls);
        }
    }

    fn young(&mut self, range: Range, call: Call) -> bool {
        self.notify(range, &[call]);
        range.start() != range.end() && self.listed.iter().any(|who| is_young(*who))
    }

    fn test_young(&mut self, address: u64) -> bool {
        for who in &self.listed {
            self.calls.push((name(*who), Call::TestYoung(address)));
            if is_young(*who) {
                return true;
            }
        }
        false
    }

    /// A start as intervals see it.
    fn enter(&mut self, range: Range) {
        if range.is_empty() || self.intervals.is_empty() {
            return;
        }
        self.open += 1;
        for (number, (interval, subscribed, stale)) in self.intervals.iter_mut().enumerate() {
            if *subscribed && interval.overlaps(range) {
                *stale = true;
                self.told.push(number);
                self.waiting.push(number);
            }
        }
    }

    fn leave(&mut self, range: Range) {
        if !range.is_empty() {
            self.open = self.open.saturating_sub(1);
        }
        if self.open == 0 {
            self.waiting.clear();
        }
    }

    fn insert(&mut self, range: Range) -> Result<(), InsertError> {
        if range.is_empty() {
            return Err(InsertError::EmptyRange);
        }
        if self.released {
            return Err(InsertError::Released);
        }
        if self.open > 0 {
            self.waiting.push(self.intervals.len());
        }
        self.intervals.push((range, true, false));
        Ok(())
    }

    fn release(&mut self) {
        self.enter(Range::ALL);
        self.leave(Range::ALL);
        for interval in &mut self.intervals {
            interval.1 = false;
        }
        self.call_all(&[Call::Release]);
        self.unhashed.append(&mut self.listed);
        self.released = true;
    }
}

/// The intervals that were told of an invalidation.
#[derive(Default)]
struct Told(Mutex<Vec<Range>>);

impl IntervalNotifier for Told {
    fn invalidate(
        &self,
        subscription: &IntervalSubscription,
        _invalidation: &Invalidation,
    ) -> Result<(), WouldBlock> {
        self.0.lock().unwrap().push(subscription.range());
        Ok(())
    }
}

/// Where operations run.
pub trait Threads {
    /// Runs `work` on a thread, and returns when it is done.
    fn run<T: Send>(&self, thread: usize, work: impl FnOnce() -> T + Send) -> T;
}

/// Does the steps, each on its thread, and compares calls, results and references with the model
/// after each.
///
/// # Panics
///
/// If they differ.
pub fn play(steps: impl IntoIterator<Item = (usize, Step)>, threads: &impl Threads) {
    let log = Log::default();
    let space = new_space();
    let notifiers: Vec<Arc<dyn Notifier>> = (0..NOTIFIERS)
        .map(|who| Recorder::create(name(who), &log, is_young(who)))
        .collect();
    let mut model = Model::default();
    let told = Arc::new(Told::default());
    let mut intervals: Vec<(Arc<IntervalSubscription>, Option<ReadSequence>)> = Vec::new();
    let mut removed = HashSet::new();
    for (thread, step) in steps {
        match step {
            Step::Register(who) => assert_eq!(
                threads.run(thread, || space.register_locked(notifiers[who].clone())),
                model.register(who)
            ),
            Step::Unregister(who) => assert_eq!(
                threads.run(thread, || space.unregister(&notifiers[who])),
                model.unregister(who, true)
            ),
            Step::UnregisterNoRelease(who) => assert_eq!(
                threads.run(thread, || space.unregister_no_release(&notifiers[who])),
                model.unregister(who, false)
            ),
            Step::Start(range) => {
                threads.run(thread, || space.invalidate_range_start(range));
                model.enter(range);
                model.notify(range, &[Call::Start(range)]);
            }
            Step::End(range) => {
                threads.run(thread, || space.invalidate_range_end(range));
                model.leave(range);
                model.notify(range, &[Call::Invalidate(range)]);
                model.notify(range, &[Call::End(range)]);
            }
            Step::Invalidate(range) => {
                threads.run(thread, || space.invalidate_range(range));
                model.notify(range, &[Call::Invalidate(range)]);
            }
            Step::ClearFlushYoung(range) => assert_eq!(
                threads.run(thread, || space.clear_flush_young(range)),
                model.young(range, Call::ClearFlushYoung(range))
            ),
            Step::ClearYoung(range) => assert_eq!(
                threads.run(thread, || space.clear_young(range)),
                model.young(range, Call::ClearYoung(range))
            ),
            Step::TestYoung(address) => {
                assert_eq!(
                    threads.run(thread, || space.test_young(address)),
                    model.test_young(address)
                );
            }
            Step::ChangePte(address, entry) => {
                threads.run(thread, || space.change_pte(address, entry));
                model.call_all(&[Call::ChangePte(address, entry)]);
            }
            Step::OnlyEnd(range) => {
                threads.run(thread, || space.invalidate_range_only_end(range));
                model.leave(range);
                model.notify(range, &[Call::End(range)]);
            }
            Step::Section(range) => {
                threads.run(thread, || {
                    space
                        .start_invalidation(Invalidation::new(range, Event::Clear))
                        .end();
                });
                model.enter(range);
                model.leave(range);
                model.notify(range, &[Call::Start(range)]);
                model.notify(range, &[Call::End(range)]);
            }
            Step::TrySection(range) => {
                // Notifiers of 2017 refuse unasked; the interval side is undone.
                let opened = threads.run(thread, || {
                    let opened =
                        space.try_start_invalidation(Invalidation::new(range, Event::Clear));
                    opened.is_ok()
                });
                assert_eq!(opened, range.is_empty() || model.listed.is_empty());
                model.enter(range);
                model.leave(range);
            }
            Step::Raise(range) => {
                threads.run(thread, || space.raise_permissions(range));
                model.notify(range, &[Call::Invalidate(range)]);
            }
            Step::Batch(ranges) => {
                let merged = threads.run(thread, || {
                    let mut batch = space.begin_batch();
                    ranges.iter().for_each(|range| batch.add(*range));
                    batch.ranges().to_vec()
                });
                let is_covered = |range: &Range| {
                    let covers =
                        |one: &Range| one.start() <= range.start() && range.end() <= one.end();
                    range.is_empty() || merged.iter().any(covers)
                };
                let all_covered = ranges.iter().all(is_covered);
                assert!(all_covered);
                let calls: Vec<_> = merged.into_iter().map(Call::Invalidate).collect();
                model.call_all(&calls);
            }
            Step::Insert(range) => {
                let inserted =
                    threads.run(thread, || space.insert_interval_locked(range, told.clone()));
                let result = inserted.map(|interval| {
                    let begun = interval.try_read_begin();
                    intervals.push((interval, begun));
                });
                assert_eq!(result, model.insert(range));
            }
            Step::Remove(who) => {
                let Some((_, subscribed, _)) = model.intervals.get_mut(who) else {
                    continue;
                };
                // Between a start and its end it would wait for itself.
                if model.open > 0 {
                    continue;
                }
                let expected = match *subscribed || model.released && !removed.contains(&who) {
                    true => Ok(()),
                    false => Err(RemoveError::NotInserted),
                };
                *subscribed = false;
                removed.insert(who);
                assert_eq!(
                    threads.run(thread, || space.remove_interval(&intervals[who].0)),
                    expected
                );
            }
            Step::Lookup(who) => {
                let Some((_, _, stale)) = model.intervals.get_mut(who) else {
                    continue;
                };
                let (interval, begun) = &mut intervals[who];
                if let Some(begun) = begun {
                    assert_eq!(threads.run(thread, || interval.read_retry(*begun)), *stale);
                    assert_eq!(threads.run(thread, || interval.check_retry(*begun)), *stale);
                }
                *begun = threads.run(thread, || interval.try_read_begin());
                assert_eq!(begun.is_none(), model.waiting.contains(&who));
                *stale = false;
            }
            Step::Barrier => {
                threads.run(thread, || space.barrier().unwrap());
                for (who, notifier) in notifiers.iter().enumerate() {
                    let held = usize::from(model.listed.contains(&who));
                    assert_eq!(Arc::strong_count(notifier), 1 + held);
                }
            }
            Step::Release => {
                threads.run(thread, || space.release());
                model.release();
            }
        }
        assert_eq!(drain(&log), core::mem::take(&mut model.calls));
        let mut told_ranges: Vec<_> = core::mem::take(&mut *told.0.lock().unwrap());
        let mut expected: Vec<_> = model
            .told
            .drain(..)
            .map(|who| model.intervals[who].0)
            .collect();
        let by_bounds = |range: &Range| (range.start(), range.end());
        told_ranges.sort_unstable_by_key(by_bounds);
        expected.sort_unstable_by_key(by_bounds);
        assert_eq!(told_ranges, expected);
        assert_eq!(space.has_notifiers(), !model.listed.is_empty());
    }
    drop(space);
    model.call_all(&[Call::Release]);
    assert_eq!(drain(&log), model.calls);
    assert!(
        notifiers
            .iter()
            .all(|notifier| Arc::strong_count(notifier) == 1)
    );
}
