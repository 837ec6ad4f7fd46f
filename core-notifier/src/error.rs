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

/// Why a notifier was not registered. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError {
    /// This notifier is registered with this address space, or its unregistration has not yet
    /// got to the point where it leaves the list.
    AlreadyRegistered,
    /// The address space has been released: its process has exited. Linux demands `mm_users > 0`.
    Released,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegisterError::AlreadyRegistered => {
                "the notifier is already registered with this address space"
            }
            RegisterError::Released => "the address space has been released",
        })
    }
}

impl Error for RegisterError {}

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
