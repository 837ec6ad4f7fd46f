//! The whole interface against a plain sequential model.
#![cfg(not(loom))]

extern crate alloc;

mod common;

use alloc::sync::Arc;
use std::collections::HashSet;
use std::sync::Mutex;

use common::{Call, Log, Recorder, drain, new_space};
use core_notifier::{
    Event, InsertError, IntervalNotifier, IntervalSubscription, Invalidation, Notifier, Range,
    ReadSequence, RegisterError, RemoveError, UnregisterError, WouldBlock,
};
use proptest::prelude::*;

/// As many notifiers as the sequences know.
const NOTIFIERS: usize = 5;

/// What is done to the address space. Indices name notifiers.
#[derive(Clone, Debug)]
enum Step {
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

fn step() -> impl Strategy<Value = Step> {
    let who = 0..NOTIFIERS;
    let bound = prop_oneof![0..4_u64, any::<u64>(), Just(u64::MAX)];
    let range = (bound.clone(), bound)
        .prop_map(|(a, b)| Range::new(a.min(b), a.max(b)).expect("bounds are in order"));
    prop_oneof![
        6 => who.clone().prop_map(Step::Register),
        3 => who.clone().prop_map(Step::Unregister),
        2 => who.prop_map(Step::UnregisterNoRelease),
        1 => range.clone().prop_map(Step::Start),
        1 => range.clone().prop_map(Step::End),
        1 => range.clone().prop_map(Step::Invalidate),
        1 => range.clone().prop_map(Step::ClearFlushYoung),
        1 => range.clone().prop_map(Step::ClearYoung),
        1 => range.clone().prop_map(Step::OnlyEnd),
        2 => range.clone().prop_map(Step::Section),
        2 => range.clone().prop_map(Step::TrySection),
        1 => range.clone().prop_map(Step::Raise),
        1 => prop::collection::vec(range.clone(), 0..4).prop_map(Step::Batch),
        3 => range.prop_map(Step::Insert),
        2 => (0..8_usize).prop_map(Step::Remove),
        2 => (0..8_usize).prop_map(Step::Lookup),
        1 => any::<u64>().prop_map(Step::TestYoung),
        1 => any::<(u64, u64)>().prop_map(|(address, entry)| Step::ChangePte(address, entry)),
        1 => Just(Step::Barrier),
        1 => Just(Step::Release),
    ]
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

proptest! {
    #[test]
    fn sequences_of_operations_match_the_model(steps in prop::collection::vec(step(), 0..60)) {
        let log = Log::default();
        let space = new_space();
        let notifiers: Vec<Arc<dyn Notifier>> =
            (0..NOTIFIERS).map(|who| Recorder::create(name(who), &log, is_young(who))).collect();
        let mut model = Model::default();
        let told = Arc::new(Told::default());
        let mut intervals: Vec<(Arc<IntervalSubscription>, Option<ReadSequence>)> = Vec::new();
        let mut removed = HashSet::new();
        for step in steps {
            match step {
                Step::Register(who) => prop_assert_eq!(
                    space.register_locked(notifiers[who].clone()),
                    model.register(who)
                ),
                Step::Unregister(who) => prop_assert_eq!(
                    space.unregister(&notifiers[who]),
                    model.unregister(who, true)
                ),
                Step::UnregisterNoRelease(who) => prop_assert_eq!(
                    space.unregister_no_release(&notifiers[who]),
                    model.unregister(who, false)
                ),
                Step::Start(range) => {
                    space.invalidate_range_start(range);
                    model.enter(range);
                    model.notify(range, &[Call::Start(range)]);
                }
                Step::End(range) => {
                    space.invalidate_range_end(range);
                    model.leave(range);
                    model.notify(range, &[Call::Invalidate(range)]);
                    model.notify(range, &[Call::End(range)]);
                }
                Step::Invalidate(range) => {
                    space.invalidate_range(range);
                    model.notify(range, &[Call::Invalidate(range)]);
                }
                Step::ClearFlushYoung(range) => prop_assert_eq!(
                    space.clear_flush_young(range),
                    model.young(range, Call::ClearFlushYoung(range))
                ),
                Step::ClearYoung(range) => prop_assert_eq!(
                    space.clear_young(range),
                    model.young(range, Call::ClearYoung(range))
                ),
                Step::TestYoung(address) => {
                    prop_assert_eq!(space.test_young(address), model.test_young(address));
                }
                Step::ChangePte(address, entry) => {
                    space.change_pte(address, entry);
                    model.call_all(&[Call::ChangePte(address, entry)]);
                }
                Step::OnlyEnd(range) => {
                    space.invalidate_range_only_end(range);
                    model.leave(range);
                    model.notify(range, &[Call::End(range)]);
                }
                Step::Section(range) => {
                    space.start_invalidation(Invalidation::new(range, Event::Clear)).end();
                    model.enter(range);
                    model.leave(range);
                    model.notify(range, &[Call::Start(range)]);
                    model.notify(range, &[Call::End(range)]);
                }
                Step::TrySection(range) => {
                    // Notifiers of 2017 refuse unasked; the interval side is undone.
                    let opened = space.try_start_invalidation(Invalidation::new(range, Event::Clear));
                    prop_assert_eq!(opened.is_ok(), range.is_empty() || model.listed.is_empty());
                    drop(opened);
                    model.enter(range);
                    model.leave(range);
                }
                Step::Raise(range) => {
                    space.raise_permissions(range);
                    model.notify(range, &[Call::Invalidate(range)]);
                }
                Step::Batch(ranges) => {
                    let mut batch = space.begin_batch();
                    ranges.iter().for_each(|range| batch.add(*range));
                    let merged = batch.ranges().to_vec();
                    let is_covered = |range: &Range| {
                        let covers = |one: &Range| one.start() <= range.start() && range.end() <= one.end();
                        range.is_empty() || merged.iter().any(covers)
                    };
                    let all_covered = ranges.iter().all(is_covered);
                    prop_assert!(all_covered);
                    drop(batch);
                    let calls: Vec<_> = merged.into_iter().map(Call::Invalidate).collect();
                    model.call_all(&calls);
                }
                Step::Insert(range) => {
                    let inserted = space.insert_interval_locked(range, told.clone());
                    let result = inserted.map(|interval| {
                        let begun = interval.try_read_begin();
                        intervals.push((interval, begun));
                    });
                    prop_assert_eq!(result, model.insert(range));
                }
                Step::Remove(who) => {
                    let Some((_, subscribed, _)) = model.intervals.get_mut(who) else { continue };
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
                    prop_assert_eq!(space.remove_interval(&intervals[who].0), expected);
                }
                Step::Lookup(who) => {
                    let Some((_, _, stale)) = model.intervals.get_mut(who) else { continue };
                    let (interval, begun) = &mut intervals[who];
                    if let Some(begun) = begun {
                        prop_assert_eq!(interval.read_retry(*begun), *stale);
                        prop_assert_eq!(interval.check_retry(*begun), *stale);
                    }
                    *begun = interval.try_read_begin();
                    prop_assert_eq!(begun.is_none(), model.waiting.contains(&who));
                    *stale = false;
                }
                Step::Barrier => {
                    space.barrier().unwrap();
                    for (who, notifier) in notifiers.iter().enumerate() {
                        let held = usize::from(model.listed.contains(&who));
                        prop_assert_eq!(Arc::strong_count(notifier), 1 + held);
                    }
                }
                Step::Release => {
                    space.release();
                    model.release();
                }
            }
            prop_assert_eq!(drain(&log), core::mem::take(&mut model.calls));
            let mut told_ranges: Vec<_> = core::mem::take(&mut *told.0.lock().unwrap());
            let mut expected: Vec<_> = model.told.drain(..).map(|who| model.intervals[who].0).collect();
            let by_bounds = |range: &Range| (range.start(), range.end());
            told_ranges.sort_unstable_by_key(by_bounds);
            expected.sort_unstable_by_key(by_bounds);
            prop_assert_eq!(told_ranges, expected);
            prop_assert_eq!(space.has_notifiers(), !model.listed.is_empty());
        }
        drop(space);
        model.call_all(&[Call::Release]);
        prop_assert_eq!(drain(&log), model.calls);
        prop_assert!(notifiers.iter().all(|notifier| Arc::strong_count(notifier) == 1));
    }
}
