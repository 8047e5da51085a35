//! What is missing, and where the next look begins: the pure half of healing.

use std::collections::HashMap;

use crate::{
    model::{
        clock::EpochMs,
        heal_run::{HealRun, HealStatus},
        provider::ProviderDeliveryId,
    },
    providers::connector::LoggedDelivery,
};

/// A webhook that the provider counts as never received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undelivered {
    /// The id every attempt of it carries.
    pub delivery_id: ProviderDeliveryId,
    /// The newest attempt, to ask for another one with.
    pub log_id: String,
    /// When that was.
    pub at: EpochMs,
}

/// A provider's log being read, newest first, down to the beginning of the gap.
#[derive(Debug)]
pub(super) struct Comparison {
    since: EpochMs,
    webhooks: HashMap<ProviderDeliveryId, Attempts>,
}

/// The logged attempts of one webhook.
#[derive(Debug)]
struct Attempts {
    newest_log_id: String,
    newest_at: EpochMs,
    any_succeeded: bool,
}

impl Comparison {
    /// Nothing read yet.
    pub fn since(since: EpochMs) -> Self {
        Self { since, webhooks: HashMap::new() }
    }

    /// Takes a page; true once the log has been read down to the beginning of the gap.
    pub fn take(&mut self, page: Vec<LoggedDelivery>) -> bool {
        let reaches_the_beginning = page.iter().any(|entry| entry.at < self.since);
        for entry in page.into_iter().filter(|entry| entry.at >= self.since) {
            let attempts = self.webhooks.entry(entry.delivery_id).or_insert_with(|| Attempts {
                newest_log_id: entry.log_id.clone(),
                newest_at: entry.at,
                any_succeeded: false,
            });
            attempts.any_succeeded |= entry.succeeded;
            if entry.at > attempts.newest_at {
                attempts.newest_log_id = entry.log_id;
                attempts.newest_at = entry.at;
            }
        }
        reaches_the_beginning
    }

    /// How many webhooks were read.
    pub fn examined(&self) -> usize {
        self.webhooks.len()
    }

    /// Those without any success, oldest first: they are asked for in the order in which they happened.
    pub fn undelivered(&self) -> Vec<Undelivered> {
        let mut undelivered: Vec<_> = self
            .webhooks
            .iter()
            .filter(|(_, attempts)| !attempts.any_succeeded)
            .map(|(delivery_id, attempts)| Undelivered {
                delivery_id: delivery_id.clone(),
                log_id: attempts.newest_log_id.clone(),
                at: attempts.newest_at,
            })
            .collect();
        undelivered.sort_by(|one, other| (one.at, &one.delivery_id).cmp(&(other.at, &other.delivery_id)));
        undelivered
    }
}

/// Up to when everything has been compared, by the runs so far (newest first): a run that failed leaves its gap to the
/// next, and one that began after a gap does not close it. `None` without any run.
pub(super) fn compared_until(runs: &[HealRun]) -> Option<EpochMs> {
    let mut oldest_first: Vec<_> = runs.iter().filter(|run| run.status != HealStatus::Running).collect();
    oldest_first.sort_by_key(|run| run.until);
    let mut until: Option<EpochMs> = None;
    for run in oldest_first {
        until = match (until, run.status) {
            (None, HealStatus::Completed) => Some(run.until),
            (None, _) => Some(run.since),
            (Some(known), HealStatus::Completed) if run.since <= known => Some(known.max(run.until)),
            (known, _) => known,
        };
    }
    until
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ids::HealRunId, provider::ProviderSlug};

    fn logged(guid: &str, log_id: &str, at: i64, succeeded: bool) -> LoggedDelivery {
        LoggedDelivery { log_id: log_id.into(), delivery_id: ProviderDeliveryId::new(guid), at: EpochMs(at), succeeded }
    }

    #[test]
    fn a_webhook_with_any_success_is_not_missing_and_others_are_asked_for_by_their_newest_attempt() {
        let mut comparison = Comparison::since(EpochMs(100));
        let first = vec![
            logged("a", "9", 190, true),
            logged("b", "8", 180, false),
            logged("c", "7", 170, false),
            logged("a", "6", 160, false),
        ];
        assert!(!comparison.take(first));
        let second = vec![logged("b", "5", 150, false), logged("d", "4", 100, false), logged("e", "3", 99, false)];
        assert!(comparison.take(second), "the page reaches over the beginning");
        assert_eq!(comparison.examined(), 4);
        let asked: Vec<_> = comparison.undelivered().into_iter().map(|missing| missing.log_id).collect();
        assert_eq!(asked, ["4", "7", "8"], "oldest first; what lies before the gap is not looked at");
    }

    fn run(since: i64, until: i64, status: HealStatus) -> HealRun {
        HealRun {
            id: HealRunId::from_raw("heal_1"),
            provider: ProviderSlug("acme"),
            since: EpochMs(since),
            until: EpochMs(until),
            status,
            cause: "periodic".into(),
            examined: 0,
            missing: 0,
            requested: 0,
            healed: 0,
            refused: 0,
            error: None,
            owner: "node".into(),
            finished_at: None,
            updated_at: EpochMs(until),
        }
    }

    #[test]
    fn the_gap_of_a_failed_run_is_left_to_the_next_and_a_later_beginning_does_not_close_it() {
        use HealStatus::{Completed, Failed, Running};
        let until = |runs: &[(i64, i64, HealStatus)]| {
            let runs: Vec<_> = runs.iter().rev().map(|(since, until, status)| run(*since, *until, *status)).collect();
            compared_until(&runs).map(|at| at.0)
        };
        assert_eq!(until(&[]), None);
        assert_eq!(until(&[(0, 0, Completed), (0, 10, Completed), (10, 20, Failed)]), Some(10));
        assert_eq!(until(&[(0, 10, Completed), (10, 20, Failed), (9, 30, Completed)]), Some(30));
        assert_eq!(
            until(&[(0, 10, Completed), (15, 20, Completed)]),
            Some(10),
            "asked for from 15 on: 10 to 15 is open"
        );
        assert_eq!(until(&[(5, 10, Failed)]), Some(5));
        assert_eq!(until(&[(0, 10, Completed), (9, 20, Running)]), Some(10));
    }
}
