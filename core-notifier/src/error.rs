//! The errors of the crate.

use core::error::Error;
use core::fmt;

use crate::srcu::Counters;

/// [`Range::new`](crate::Range::new) was given an end below its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvertedRange {
    /// The start that was given, a virtual address in bytes.
    pub start: u64,
    /// The end that was given, a virtual address in bytes.
    pub end: u64,
}

impl fmt::Display for InvertedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "range ends at {:#x}, before its start {:#x}",
            self.end, self.start
        )
    }
}

impl Error for InvertedRange {}

/// [`Range::with_length`](crate::Range::with_length) was given more bytes than there are behind its
/// start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeOverflow {
    /// The start that was given, a virtual address in bytes.
    pub start: u64,
    /// The length that was given, in bytes.
    pub length: u64,
}

impl fmt::Display for RangeOverflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:#x} bytes from {:#x} on end behind the address space",
            self.length, self.start
        )
    }
}

impl Error for RangeOverflow {}

/// A start that may not sleep would have had to. It has been undone: the caller changes nothing in
/// the range, and calls no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WouldBlock;

impl fmt::Display for WouldBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a notifier would have to sleep")
    }
}

impl Error for WouldBlock {}

/// Why a notifier was not registered. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError {
    /// This notifier is registered with this address space, or its unregistration has not yet
    /// got to the point where it leaves the list.
    AlreadyRegistered,
    /// The address space has been released: its process has exited. Linux demands `mm_users > 0`.
    Released,
    /// The notifier declares [`NotifierKind::ShadowTable`](crate::NotifierKind::ShadowTable) and
    /// two passes, which belong to a TLB that walks the CPU's page table: it is one or the other.
    MixedKind,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegisterError::AlreadyRegistered => {
                "the notifier is already registered with this address space"
            }
            RegisterError::Released => "the address space has been released",
            RegisterError::MixedKind => {
                "the notifier of this address space is two kinds of notifier at once"
            }
        })
    }
}

impl Error for RegisterError {}

/// Why [`AddressSpace::get`](crate::AddressSpace::get) got nothing. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GetError {
    /// The notifier has as many users as can be counted.
    TooManyUsers,
    /// The notifier that was made could not be registered.
    Register(RegisterError),
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GetError::TooManyUsers => f.write_str("the notifier has too many users"),
            GetError::Register(error) => error.fmt(f),
        }
    }
}

impl From<RegisterError> for GetError {
    fn from(error: RegisterError) -> Self {
        GetError::Register(error)
    }
}

impl Error for GetError {}

/// Why an interval was not subscribed to. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InsertError {
    /// The interval holds no address.
    EmptyRange,
    /// The address space has been released: its process has exited.
    Released,
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InsertError::EmptyRange => "the interval holds no address",
            InsertError::Released => "the address space has been released",
        })
    }
}

impl Error for InsertError {}

/// Why the subscription to an interval was not ended. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoveError {
    /// It belongs to another address space, was removed already, or is being removed.
    NotInserted,
    /// It would have waited for itself.
    Wait(WaitError),
}

impl fmt::Display for RemoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemoveError::NotInserted => {
                f.write_str("the interval is not subscribed to in this address space")
            }
            RemoveError::Wait(error) => error.fmt(f),
        }
    }
}

impl From<WaitError> for RemoveError {
    fn from(error: WaitError) -> Self {
        RemoveError::Wait(error)
    }
}

impl Error for RemoveError {}

/// Why a notifier was not unregistered. Nothing has changed and nothing was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnregisterError {
    /// This notifier was never registered with this address space, or was already unregistered,
    /// or another thread is unregistering it now.
    NotRegistered,
    /// It would have waited for itself.
    Wait(WaitError),
}

impl fmt::Display for UnregisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnregisterError::NotRegistered => {
                f.write_str("the notifier is not registered with this address space")
            }
            UnregisterError::Wait(error) => error.fmt(f),
        }
    }
}

impl From<WaitError> for UnregisterError {
    fn from(error: WaitError) -> Self {
        UnregisterError::Wait(error)
    }
}

impl Error for UnregisterError {}

/// Why a wait was refused. Nothing was waited for.
///
/// Only domains that are [`Checked`](crate::Checked) can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// The context is inside a section of the domain whose sections it would wait for.
    InsideSection,
    /// The context is running a callback of the domain whose callbacks it would wait for.
    InsideCallback,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitError::InsideSection => {
                "waiting for a grace period inside a section of the same domain"
            }
            WaitError::InsideCallback => "waiting for callbacks inside one of the same domain",
        })
    }
}

impl Error for WaitError {}

/// [`Srcu::synchronize_within`](crate::Srcu::synchronize_within) was told to give up. Sections may
/// still be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stalled {
    /// Where a section is still open, if that was so when the wait had been given up.
    pub counters: Option<Counters>,
    /// How many are open there.
    pub sections: usize,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stalled { counters, sections } = self;
        match counters {
            Some(counters) => write!(f, "gave up: {sections} open sections on {counters}"),
            None => f.write_str("gave up waiting for a grace period"),
        }
    }
}

impl Error for Stalled {}
