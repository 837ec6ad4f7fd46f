//! The whole interface against a plain sequential model.
#![cfg(not(loom))]

extern crate alloc;

#[path = "../common/mod.rs"]
mod common;
mod sequence;

use core_notifier::Range;
use proptest::prelude::*;
use sequence::{NOTIFIERS, Step, Threads, play};

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

/// The test's own thread, for every operation.
struct Here;

impl Threads for Here {
    fn run<T: Send>(&self, _thread: usize, work: impl FnOnce() -> T + Send) -> T {
        work()
    }
}

proptest! {
    #[test]
    fn sequences_of_operations_match_the_model(steps in prop::collection::vec(step(), 0..60)) {
        play(steps.into_iter().map(|step| (0, step)), &Here);
    }
}
