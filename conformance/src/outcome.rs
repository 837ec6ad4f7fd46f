//! How a case ends.

use crate::rig::Documented;
use std::fmt::Display;

/// Why a case did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// The rig cannot show it; the reason.
    Skip(String),
    /// Something does not hold; what.
    Failed(String),
}

/// What a case comes to.
pub type Outcome<T = ()> = Result<T, Stop>;

impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A failure.
pub fn failed<T>(what: impl Display) -> Outcome<T> {
    Err(Stop::Failed(what.to_string()))
}

/// A skip.
pub fn skip<T>(why: impl Documented) -> Outcome<T> {
    Err(Stop::Skip(why.to_string()))
}

/// A failure unless `held`.
pub fn ensure(held: bool, what: impl Display) -> Outcome {
    if held { Ok(()) } else { failed(what) }
}
