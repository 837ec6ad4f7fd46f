//! Half-open ranges of virtual addresses.

use core::fmt;

use crate::error::{InvertedRange, RangeOverflow};

/// A range of virtual addresses in bytes, `start` included, `end` not.
///
/// No alignment is asked for. An empty range is representable and every notification ignores it;
/// an inverted range is not representable, so that a mistake in the caller's arithmetic is an error
/// there and not a lost notification here.
///
/// A half-open `u64` range cannot name the last byte of the address space. An end of `u64::MAX`
/// therefore stands for the end of the address space and includes that byte: one byte too many can
/// be notified, never one too few.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    start: u64,
    end: u64,
}

impl Range {
    /// The whole address space, as Linux's `0..~0`.
    pub const ALL: Range = Range {
        start: 0,
        end: u64::MAX,
    };

    /// The range `start..end`.
    ///
    /// # Errors
    ///
    /// [`InvertedRange`] if `end` is less than `start`. Equal bounds give an empty range.
    pub const fn new(start: u64, end: u64) -> Result<Range, InvertedRange> {
        if end < start {
            return Err(InvertedRange { start, end });
        }
        Ok(Range { start, end })
    }

    /// The `length` bytes from `start` on.
    ///
    /// # Errors
    ///
    /// [`RangeOverflow`] if that goes beyond the last byte of the address space. Ending with that
    /// byte is no error. A length of zero gives an empty range.
    pub const fn with_length(start: u64, length: u64) -> Result<Range, RangeOverflow> {
        if length == 0 {
            return Ok(Range { start, end: start });
        }
        match start.checked_add(length - 1) {
            Some(last) => Ok(Range {
                start,
                end: last.saturating_add(1),
            }),
            None => Err(RangeOverflow { start, length }),
        }
    }

    /// The first address.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The first address behind the range; `u64::MAX` stands for the end of the address space.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Whether the range holds no address.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether the range is the whole address space.
    pub const fn is_all(self) -> bool {
        self.start == 0 && self.end == u64::MAX
    }

    /// The last address in the range, or `None` if the range is empty.
    ///
    /// The one place that converts to an inclusive end.
    pub const fn last(self) -> Option<u64> {
        if self.is_empty() {
            None
        } else if self.end == u64::MAX {
            Some(u64::MAX)
        } else {
            Some(self.end - 1)
        }
    }

    /// Whether `address` lies in the range.
    pub const fn contains(self, address: u64) -> bool {
        match self.last() {
            Some(last) => self.start <= address && address <= last,
            None => false,
        }
    }

    /// The least range that covers both, with what lies between them; neither is empty.
    pub(crate) const fn span(self, other: Range) -> Range {
        Range {
            start: if self.start < other.start {
                self.start
            } else {
                other.start
            },
            end: if self.end > other.end {
                self.end
            } else {
                other.end
            },
        }
    }

    /// Whether the two ranges share an address.
    pub const fn overlaps(self, other: Range) -> bool {
        match (self.last(), other.last()) {
            (Some(last), Some(other_last)) => self.start <= other_last && other.start <= last,
            _ => false,
        }
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range::new(start, end).unwrap()
    }

    #[test]
    fn inverted_range_is_an_error() {
        assert_eq!(Range::new(2, 1), Err(InvertedRange { start: 2, end: 1 }));
        assert_eq!(
            Range::new(u64::MAX, 0),
            Err(InvertedRange {
                start: u64::MAX,
                end: 0
            })
        );
    }

    #[test]
    fn a_length_beyond_the_address_space_is_an_error() {
        let overflow = |start, length| Err(RangeOverflow { start, length });
        assert_eq!(Range::with_length(1, u64::MAX), Ok(range(1, u64::MAX)));
        assert_eq!(Range::with_length(2, u64::MAX), overflow(2, u64::MAX));
        assert_eq!(Range::with_length(u64::MAX, 2), overflow(u64::MAX, 2));
        let last_page = Range::with_length(!0xfff, 0x1000).unwrap();
        assert_eq!(last_page.last(), Some(u64::MAX));
        assert_eq!(
            Range::with_length(0x1000, 0x1000),
            Ok(range(0x1000, 0x2000))
        );
        for start in [0, 1, u64::MAX - 1] {
            assert!(Range::with_length(start, 0).unwrap().is_empty());
        }
    }

    #[test]
    fn empty_range_has_no_address() {
        for address in [0, 1, u64::MAX] {
            let empty = range(address, address);
            assert!(empty.is_empty() && !empty.is_all());
            assert_eq!(empty.last(), None);
            assert!(!empty.contains(address));
            assert!(!empty.overlaps(Range::ALL) && !Range::ALL.overlaps(empty));
        }
    }

    #[test]
    fn last_is_inclusive_and_the_maximal_end_includes_the_last_byte() {
        assert_eq!(range(0x1000, 0x2000).last(), Some(0x1fff));
        assert_eq!(range(u64::MAX - 1, u64::MAX).last(), Some(u64::MAX));
        assert_eq!(Range::ALL.last(), Some(u64::MAX));
        assert!(Range::ALL.is_all() && Range::ALL.contains(u64::MAX));
        assert!(!range(0, u64::MAX - 1).is_all() && !range(1, u64::MAX).is_all());
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!range(0, 0x1000).overlaps(range(0x1000, 0x2000)));
        assert!(range(0, 0x1001).overlaps(range(0x1000, 0x2000)));
        assert!(range(0x1800, 0x1801).overlaps(range(0x1000, 0x2000)));
        assert!(!range(0x1000, 0x2000).contains(0x2000));
        assert!(range(0x1000, 0x2000).contains(0x1000));
    }
}
