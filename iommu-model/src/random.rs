//! Repeatable chance.

use std::sync::Mutex;

/// A seeded source of choices (SplitMix64: Steele, Lea and Flood 2014).
#[derive(Debug)]
pub struct Random(Mutex<u64>);

impl Random {
    /// A source whose choices follow from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// 64 bits.
    pub fn bits(&self) -> u64 {
        let mut state = self.0.lock().expect("no thread panics here");
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = *state;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// True about once in `times`.
    pub fn once_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }
}
