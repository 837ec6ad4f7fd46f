//! Positions, slots and laps. The number of slots is a power of two, so nothing is divided.

/// The slot of a ring of `slots` that `position` falls on.
pub(super) const fn slot(position: u64, slots: usize) -> usize {
    position as usize & (slots - 1)
}

/// What a completion word holds once the sync at `position` is complete: its lap, counted from 1,
/// so that zeroed memory means "not yet".
pub(super) const fn lap(position: u64, slots: usize) -> u32 {
    ((position >> slots.trailing_zeros()) as u32).wrapping_add(1)
}

/// Whether a word that holds `word` says that lap `lap`, or a later one, is done.
///
/// A slot is reused only after its sync was seen complete, so a word is never half the range of a
/// `u32` ahead or behind.
pub(super) const fn is_lap_done(word: u32, lap: u32) -> bool {
    word.wrapping_sub(lap) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_memory_means_not_yet_on_the_first_lap() {
        assert!(!is_lap_done(0, lap(0, 256)));
        assert!(is_lap_done(1, lap(255, 256)));
        assert!(!is_lap_done(1, lap(256, 256)));
        assert!(is_lap_done(2, lap(0, 256)));
    }

    #[test]
    fn laps_wrap_around() {
        let last = lap((1 << 32) * 4 - 4, 4);
        assert_eq!(last, 0);
        assert!(!is_lap_done(u32::MAX, last));
        assert!(is_lap_done(last, last));
        assert!(is_lap_done(1, last));
    }
}
