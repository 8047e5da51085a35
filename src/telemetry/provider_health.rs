//! How each provider fared in the last five minutes, and the ledger that says whether the counters add up.
//!
//! **Invariants**: counting is one short lock, no allocation after a provider's first webhook; time is the caller's, as a
//! duration since it began, so that tests own it.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::model::event::EventOutcome;

/// How far back the health of a provider reaches.
pub const HEALTH_WINDOW: Duration = Duration::from_mins(5);
/// One slot of the window: its end moves in steps of this.
const SLOT: Duration = Duration::from_secs(5);
const SLOTS: usize = 60;

/// Counts of one provider over the last five minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderHealth {
    /// Webhooks stored as new events.
    pub accepted: u64,
    /// Webhooks refused for their signature.
    pub bad_signature: u64,
    /// Webhooks seen before.
    pub duplicate: u64,
    /// Deliveries a destination took.
    pub delivered: u64,
    /// Deliveries that became dead letters.
    pub dead: u64,
}

impl ProviderHealth {
    fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.bad_signature += other.bad_signature;
        self.duplicate += other.duplicate;
        self.delivered += other.delivered;
        self.dead += other.dead;
    }
}

/// A ring of slots: the last five minutes, forgotten slot by slot.
#[derive(Debug)]
pub(super) struct RecentCounts {
    slots: [(u64, ProviderHealth); SLOTS],
}

impl Default for RecentCounts {
    fn default() -> Self {
        Self { slots: [(0, ProviderHealth::default()); SLOTS] }
    }
}

impl RecentCounts {
    /// The slot to count into, `since_start` being the present.
    pub fn now(&mut self, since_start: Duration) -> &mut ProviderHealth {
        let number = slot_number(since_start);
        let (filled_by, counts) = &mut self.slots[index_of(number)];
        if *filled_by != number {
            *filled_by = number;
            *counts = ProviderHealth::default();
        }
        counts
    }

    /// What was counted in the last five minutes before `since_start`.
    pub fn sum(&self, since_start: Duration) -> ProviderHealth {
        let newest = slot_number(since_start);
        let mut sum = ProviderHealth::default();
        for (filled_by, counts) in &self.slots {
            if *filled_by <= newest && newest - *filled_by < SLOTS as u64 {
                sum.add(counts);
            }
        }
        sum
    }
}

fn slot_number(since_start: Duration) -> u64 {
    since_start.as_secs() / SLOT.as_secs()
}

fn index_of(number: u64) -> usize {
    usize::try_from(number % SLOTS as u64).unwrap_or(0)
}

/// Every webhook since the process began, each in exactly one place (`promises.md` P17).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Webhooks that have begun to arrive.
    pub received: u64,
    /// Refused with an error code.
    pub refused: u64,
    /// Seen before.
    pub duplicates: u64,
    /// Committed as new events.
    pub stored: u64,
    /// Stored ones by outcome word.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Received and not yet at their end: the difference, not a count of its own. One that was lost on its way stays here.
    pub in_progress: u64,
}

impl Ledger {
    /// Whether no webhook is in two places: nothing ended that was not received or ended before, nothing was stored
    /// without an outcome. That none was lost is seen only when nothing is under way any more and `in_progress` is 0 too.
    pub fn adds_up(&self) -> bool {
        self.received == self.refused + self.duplicates + self.stored + self.in_progress
            && self.stored == self.outcomes.values().sum::<u64>()
    }
}

/// The running totals behind the ledger and the health of the providers; kept under one lock, so that a reading is of
/// one moment.
#[derive(Debug, Default)]
pub(super) struct Totals {
    received: u64,
    refused: u64,
    duplicates: u64,
    stored: u64,
    outcomes: BTreeMap<&'static str, u64>,
    recent: BTreeMap<&'static str, RecentCounts>,
}

impl Totals {
    pub fn received(&mut self) {
        self.received += 1;
    }

    pub fn refused(&mut self, provider: &'static str, for_its_signature: bool, now: Duration) {
        self.refused += 1;
        if for_its_signature {
            self.recent(provider, now).bad_signature += 1;
        }
    }

    pub fn duplicate(&mut self, provider: &'static str, now: Duration) {
        self.duplicates += 1;
        self.recent(provider, now).duplicate += 1;
    }

    pub fn stored(&mut self, provider: &'static str, outcome: EventOutcome, now: Duration) {
        self.stored += 1;
        *self.outcomes.entry(outcome.as_str()).or_default() += 1;
        self.recent(provider, now).accepted += 1;
    }

    pub fn recent(&mut self, provider: &'static str, now: Duration) -> &mut ProviderHealth {
        self.recent.entry(provider).or_default().now(now)
    }

    pub fn health(&self, provider: &str, now: Duration) -> ProviderHealth {
        self.recent.get(provider).map(|recent| recent.sum(now)).unwrap_or_default()
    }

    pub fn ledger(&self) -> Ledger {
        Ledger {
            received: self.received,
            refused: self.refused,
            duplicates: self.duplicates,
            stored: self.stored,
            outcomes: self.outcomes.clone(),
            in_progress: self.received.saturating_sub(self.refused + self.duplicates + self.stored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_forgotten_after_five_minutes_and_not_before() {
        let mut recent = RecentCounts::default();
        let start = Duration::from_secs(7);
        recent.now(start).accepted += 1;
        recent.now(start + Duration::from_mins(2)).accepted += 1;
        assert_eq!(recent.sum(start + SLOT * 59).accepted, 2);
        assert_eq!(recent.sum(start + HEALTH_WINDOW).accepted, 1);
        assert_eq!(recent.sum(start + Duration::from_hours(1)).accepted, 0);
    }

    #[test]
    fn a_slot_that_comes_round_again_starts_from_nothing() {
        let mut recent = RecentCounts::default();
        recent.now(Duration::ZERO).dead += 3;
        recent.now(HEALTH_WINDOW).dead += 1;
        assert_eq!(recent.sum(HEALTH_WINDOW).dead, 1);
    }

    #[test]
    fn a_ledger_adds_up_unless_something_ended_that_never_came() {
        let mut totals = Totals::default();
        totals.received();
        totals.received();
        totals.stored("acme", EventOutcome::Routed, Duration::ZERO);
        assert_eq!(totals.ledger().in_progress, 1);
        assert!(totals.ledger().adds_up());
        totals.refused("acme", true, Duration::ZERO);
        assert!(totals.ledger().adds_up() && totals.ledger().in_progress == 0);
        assert_eq!(totals.health("acme", Duration::ZERO).bad_signature, 1);
        totals.duplicate("acme", Duration::ZERO);
        assert!(!totals.ledger().adds_up());
        let without_outcome = Ledger { received: 1, stored: 1, ..Ledger::default() };
        assert!(!without_outcome.adds_up());
    }
}
