//! Activity: how many webhooks came and what became of them, minute by minute. For charts, not for accounts.

use serde::{Deserialize, Serialize};

use super::{clock::EpochMs, event::EventOutcome, ids::OrgId};

/// The length of a bucket in which activity is counted, milliseconds.
pub const MINUTE_MS: i64 = 60_000;

/// What was counted in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityCounts {
    /// New events that some integration gets.
    pub routed: u64,
    /// New events that no integration allows.
    pub filtered: u64,
    /// New events without an installation, a resource or an integration.
    pub unrouted: u64,
    /// New events with nothing to route.
    pub ignored: u64,
    /// New events that changed state and that nobody subscribes to.
    pub control: u64,
    /// Webhooks seen before. Known only of everybody together.
    pub duplicates: u64,
    /// Webhooks refused, whatever for. Known only of everybody together.
    pub refused: u64,
    /// Deliveries a destination took.
    pub delivered: u64,
    /// Deliveries that became dead letters.
    pub dead: u64,
}

impl ActivityCounts {
    /// Counts a new event.
    pub fn count_event(&mut self, outcome: EventOutcome) {
        *match outcome {
            EventOutcome::Routed => &mut self.routed,
            EventOutcome::Filtered => &mut self.filtered,
            EventOutcome::Unrouted => &mut self.unrouted,
            EventOutcome::Ignored => &mut self.ignored,
            EventOutcome::Control => &mut self.control,
        } += 1;
    }

    /// Adds what was counted elsewhere, or at another time.
    pub fn add(&mut self, other: &Self) {
        self.routed += other.routed;
        self.filtered += other.filtered;
        self.unrouted += other.unrouted;
        self.ignored += other.ignored;
        self.control += other.control;
        self.duplicates += other.duplicates;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.dead += other.dead;
    }
}

/// What was counted of one provider in one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// Whose; `None` is everybody together.
    pub org: Option<OrgId>,
    /// When the bucket begins.
    pub at: EpochMs,
    /// The provider's slug.
    pub provider: String,
    /// How much.
    pub counts: ActivityCounts,
}

/// The beginning of the bucket of that length in which a moment lies.
pub fn bucket_of(at: EpochMs, length_ms: i64) -> EpochMs {
    EpochMs(at.0 - at.0.rem_euclid(length_ms.max(1)))
}
