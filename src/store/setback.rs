//! A clock that was set back: what waits by it waits too long, and is made due earlier, in portions.
//!
//! **Owns** what is said of one: how far, and where in the backlog. **Must not know** how that was noticed.

use std::time::Duration;

use crate::model::clock::EpochMs;

/// How far the clock was set back, and whom that makes late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setback {
    /// How far.
    pub by: Duration,
    /// Retries that are due within so long from now wait as they should. A first try should not wait at all.
    pub retries_within: Duration,
}

/// A place in the backlog, in the order in which it is looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BacklogPlace {
    pub(super) destination: String,
    pub(super) is_retry: bool,
    pub(super) due_at: EpochMs,
    pub(super) id: String,
}

/// Before the first.
impl Default for BacklogPlace {
    fn default() -> Self {
        Self { destination: String::new(), is_retry: false, due_at: EpochMs(i64::MIN), id: String::new() }
    }
}

/// What one portion of [`super::Store::hasten_deliveries`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hastened {
    /// How many are due earlier.
    pub deliveries: u64,
    /// Where the next portion begins; `None` at the end.
    pub looked_up_to: Option<BacklogPlace>,
}
