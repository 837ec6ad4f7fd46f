//! The whole interface against a plain sequential model.
#![cfg(not(loom))]

extern crate alloc;

mod common;

use alloc::sync::Arc;

use common::{Call, Log, Recorder, drain, new_space};
use core_notifier::{Notifier, Range, RegisterError, UnregisterError};
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
        1 => range.prop_map(Step::ClearYoung),
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

    fn release(&mut self) {
        self.call_all(&[Call::Release]);
        self.unhashed.append(&mut self.listed);
        self.released = true;
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
                    model.notify(range, &[Call::Start(range)]);
                }
                Step::End(range) => {
                    space.invalidate_range_end(range);
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
            prop_assert_eq!(space.has_notifiers(), !model.listed.is_empty());
        }
        drop(space);
        model.call_all(&[Call::Release]);
        prop_assert_eq!(drain(&log), model.calls);
        prop_assert!(notifiers.iter().all(|notifier| Arc::strong_count(notifier) == 1));
    }
}
