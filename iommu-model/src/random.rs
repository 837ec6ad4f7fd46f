//! Repeatable chance.

use std::sync::{Mutex, MutexGuard};

/// A source of choices: a tape while it lasts, and then what follows from a seed (SplitMix64:
/// Steele, Lea and Flood 2014).
#[derive(Debug)]
pub struct Random(Mutex<State>);

#[derive(Debug)]
struct State {
    seed: u64,
    tape: std::vec::IntoIter<u8>,
}

impl Random {
    /// A source whose choices follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let tape = Vec::new().into_iter();
        Self(Mutex::new(State { seed, tape }))
    }

    /// The next choices are those of `tape`: a fuzzer's.
    pub fn follow(&self, tape: Vec<u8>) {
        self.state().tape = tape.into_iter();
    }

    /// Whether choices of a tape are left.
    pub fn follows(&self) -> bool {
        self.state().tape.len() > 0
    }

    /// 64 bits.
    pub fn bits(&self) -> u64 {
        self.state().bits(8)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        let mut state = self.state();
        if state.tape.len() > 0 {
            // As few bytes as say it, so that one byte of the tape is one choice.
            let bytes = (64 - bound.leading_zeros()).div_ceil(8).max(1);
            return state.bits(bytes as usize).checked_rem(bound).unwrap_or(0);
        }
        ((u128::from(state.bits(8)) * u128::from(bound)) >> 64) as u64
    }

    /// True about once in `times`.
    pub fn once_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics here")
    }
}

impl State {
    /// `bytes` bytes of the tape, or 64 bits that follow from the seed.
    fn bits(&mut self, bytes: usize) -> u64 {
        if self.tape.len() > 0 {
            let part = self.tape.by_ref().take(bytes);
            return part.fold(0, |word, byte| word << 8 | u64::from(byte));
        }
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.seed;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }
}
