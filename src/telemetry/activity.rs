//! What is counted for charts until it is written down: webhooks and deliveries by the minute, of each org and of
//! everybody together.
//!
//! **Owns** the counts that are not in the store yet. **Invariants**: counting is one short lock, and allocates nothing
//! for an org that was counted a moment ago; what is held is bounded, so that an org beyond the bound is counted among
//! everybody and not by itself. **Must not know** the store: who writes takes the counts and says how it went.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::model::{
    activity::{Activity, ActivityCounts, MINUTE_MS, bucket_of},
    clock::EpochMs,
    ids::OrgId,
    provider::ProviderSlug,
};

/// Orgs held apart, over all minutes and providers, until the next time they are written.
const MAX_ORGS: usize = 10_000;

/// The counts of a minute and a provider.
#[derive(Debug, Default)]
struct Counted {
    everybody: ActivityCounts,
    orgs: HashMap<OrgId, ActivityCounts>,
}

/// Counts by the minute's beginning and the provider.
#[derive(Debug, Default)]
struct Tally {
    counted: BTreeMap<(EpochMs, &'static str), Counted>,
    orgs: usize,
}

impl Tally {
    fn count(&mut self, provider: &'static str, org: Option<&OrgId>, at: EpochMs, add: impl Fn(&mut ActivityCounts)) {
        let counted = self.counted.entry((bucket_of(at, MINUTE_MS), provider)).or_default();
        add(&mut counted.everybody);
        let Some(org) = org else { return };
        if let Some(counts) = counted.orgs.get_mut(org) {
            add(counts);
        } else if self.orgs < MAX_ORGS {
            self.orgs += 1;
            add(counted.orgs.entry(org.clone()).or_default());
        }
    }

    fn rows(&self) -> Vec<Activity> {
        let mut rows = Vec::with_capacity(self.orgs + self.counted.len());
        for ((at, provider), counted) in &self.counted {
            let row = |org: Option<&OrgId>, counts: &ActivityCounts| Activity {
                org: org.cloned(),
                at: *at,
                provider: (*provider).to_owned(),
                counts: *counts,
            };
            rows.push(row(None, &counted.everybody));
            rows.extend(counted.orgs.iter().map(|(org, counts)| row(Some(org), counts)));
        }
        rows
    }

    fn add(&mut self, other: Self) {
        for ((at, provider), counted) in other.counted {
            let own = self.counted.entry((at, provider)).or_default();
            own.everybody.add(&counted.everybody);
            for (org, counts) in counted.orgs {
                if let Some(known) = own.orgs.get_mut(&org) {
                    known.add(&counts);
                } else if self.orgs < MAX_ORGS {
                    self.orgs += 1;
                    own.orgs.insert(org, counts);
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Tallies {
    /// Counted since they were last taken.
    open: Tally,
    /// Taken, and perhaps not written yet.
    taken: Tally,
}

/// The counts that are not in the store yet.
#[derive(Debug, Default)]
pub struct UnwrittenActivity {
    tallies: Mutex<Tallies>,
}

impl UnwrittenActivity {
    /// Counts something of an org's, or of nobody's.
    pub(super) fn count(
        &self,
        provider: ProviderSlug,
        org: Option<&OrgId>,
        at: EpochMs,
        add: impl Fn(&mut ActivityCounts),
    ) {
        self.tallies().open.count(provider.as_str(), org, at, add);
    }

    /// What is to be written now; empty if there is nothing. They stay with [`Self::of`] until it is said how it went.
    pub fn take(&self) -> Vec<Activity> {
        let mut tallies = self.tallies();
        let open = std::mem::take(&mut tallies.open);
        tallies.taken.add(open);
        tallies.taken.rows()
    }

    /// What was taken is in the store. If that failed, say nothing: the next [`Self::take`] has it again.
    pub fn written(&self) {
        self.tallies().taken = Tally::default();
    }

    /// What is not in the store yet of an org, or of everybody together.
    pub fn of(&self, org: Option<&OrgId>) -> Vec<Activity> {
        let mut sums: BTreeMap<(EpochMs, &'static str), ActivityCounts> = BTreeMap::new();
        let tallies = self.tallies();
        for (key, counted) in tallies.taken.counted.iter().chain(&tallies.open.counted) {
            let counts = org.map_or(Some(&counted.everybody), |org| counted.orgs.get(org));
            if let Some(counts) = counts {
                sums.entry(*key).or_default().add(counts);
            }
        }
        drop(tallies);
        let row = |((at, provider), counts): ((EpochMs, &str), ActivityCounts)| Activity {
            org: org.cloned(),
            at,
            provider: provider.to_owned(),
            counts,
        };
        sums.into_iter().map(row).collect()
    }

    fn tallies(&self) -> MutexGuard<'_, Tallies> {
        // A panic between two additions leaves counts that are counts.
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: ProviderSlug = ProviderSlug("acme");

    fn delivered(counts: &mut ActivityCounts) {
        counts.delivered += 1;
    }

    #[test]
    fn an_org_is_counted_by_itself_and_among_everybody_and_by_the_minute() {
        let activity = UnwrittenActivity::default();
        let org = OrgId::from_raw("org_1");
        for (of, at) in [(Some(&org), 1), (Some(&org), MINUTE_MS - 1), (None, 2), (Some(&org), MINUTE_MS)] {
            activity.count(ACME, of, EpochMs(at), delivered);
        }
        let minutes = |of: Option<&OrgId>| -> Vec<_> {
            activity.of(of).iter().map(|row| (row.at.0, row.counts.delivered)).collect()
        };
        assert_eq!(minutes(Some(&org)), [(0, 2), (MINUTE_MS, 1)]);
        assert_eq!(minutes(None), [(0, 3), (MINUTE_MS, 1)]);
        assert_eq!(minutes(Some(&OrgId::from_raw("org_2"))), []);
    }

    #[test]
    fn what_was_taken_is_shown_until_it_is_written_and_taken_again_if_it_was_not() {
        let activity = UnwrittenActivity::default();
        activity.count(ACME, None, EpochMs(0), delivered);
        assert_eq!(activity.take().len(), 1);
        activity.count(ACME, None, EpochMs(0), delivered);
        assert_eq!(activity.of(None)[0].counts.delivered, 2);
        assert_eq!(activity.take()[0].counts.delivered, 2, "nobody said that the first was written");
        activity.count(ACME, None, EpochMs(0), delivered);
        activity.written();
        assert_eq!(activity.of(None)[0].counts.delivered, 1);
        assert_eq!(activity.take()[0].counts.delivered, 1);
        activity.written();
        assert!(activity.take().is_empty());
    }

    #[test]
    fn too_many_orgs_are_counted_among_everybody_only() {
        let activity = UnwrittenActivity::default();
        for number in 0..MAX_ORGS + 5 {
            activity.count(ACME, Some(&OrgId::from_raw(format!("org_{number}"))), EpochMs(0), delivered);
        }
        let rows = activity.take();
        assert_eq!(rows.len(), MAX_ORGS + 1);
        assert_eq!(rows[0].counts.delivered, MAX_ORGS as u64 + 5);
    }
}
