//! When the device answers invalidation requests.

use std::time::{Duration, Instant};

/// When it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// So long after the request came; until then it uses what it has.
    After(Duration),
    /// Not before this changes.
    Never,
}

impl Answers {
    /// What is left to wait at `now` for a request that came at `received`; `None` if it is endless.
    pub fn left(self, received: Instant, now: Instant) -> Option<Duration> {
        match self {
            Self::After(delay) => Some(delay.saturating_sub(now - received)),
            Self::Never => None,
        }
    }
}
