//! Registers that keep what is written to them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Registers by their offset; those never written hold 0.
#[derive(Default)]
pub struct Registers(Mutex<BTreeMap<usize, u64>>);

impl Registers {
    /// What the register at `offset` holds.
    pub fn get(&self, offset: usize) -> u64 {
        self.with(|all| all.get(&offset).copied().unwrap_or(0))
    }

    /// Makes the register at `offset` hold `value`.
    pub fn set(&self, offset: usize, value: u64) {
        self.with(|all| {
            all.insert(offset, value);
        });
    }

    fn with<T>(&self, access: impl FnOnce(&mut BTreeMap<usize, u64>) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
