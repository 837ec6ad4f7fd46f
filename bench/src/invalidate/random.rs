//! Repeatable randomness (xorshift64*, Vigna 2016).

/// A source of numbers, the same in every run.
pub struct Random(u64);

impl Random {
    /// The source of that seed, which is not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// From 2^`low` to 2^`high`, each power of two as likely as the next.
    pub fn logarithmic(&mut self, low: u32, high: u32) -> u64 {
        let exponent = f64::from(low) + self.fraction() * f64::from(high - low);
        (exponent.exp2() as u64).min(1 << high)
    }

    /// From 0 to 1, 1 excluded.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
