//! Where in the stream we are: what a new connection asks for, and what came before. Pure.
//!
//! Ids are made when a webhook is taken in and committed a moment later, so an id may appear after a newer one; within
//! a connection the gateway minds that. A connection that follows another one therefore begins a little before the
//! newest event that was seen, and what was seen is left out. **Invariants**: no event is handed on twice, and none that
//! was stored since the beginning is left out.

use std::{collections::BTreeSet, time::Duration};

use crate::model::{clock::Ids, ids::EventId};

/// How much later than its id an event may appear: what the gateway's stream allows for, twice.
const SETTLES_AFTER: Duration = Duration::from_secs(10);

/// A place in the stream.
#[derive(Debug)]
pub(super) struct Place {
    resume_after: EventId,
    /// What was seen after that.
    seen: BTreeSet<EventId>,
}

impl Place {
    /// Everything after this id is to come.
    pub fn starting_after(id: EventId) -> Self {
        Self { resume_after: id, seen: BTreeSet::new() }
    }

    /// What the next connection says in `Last-Event-ID`.
    pub fn resume_after(&self) -> &EventId {
        &self.resume_after
    }

    /// Whether this event is new.
    pub fn is_new(&mut self, id: &EventId) -> bool {
        if *id <= self.resume_after || !self.seen.insert(id.clone()) {
            return false;
        }
        let settled = Ids::event_made_at(id).map(|at| Ids::event_floor(at.minus(SETTLES_AFTER)));
        if let Some(settled) = settled.filter(|settled| *settled > self.resume_after) {
            self.seen = self.seen.split_off(&settled);
            self.resume_after = settled;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::EpochMs;

    fn id(at_s: i64, suffix: &str) -> EventId {
        EventId::from_raw(format!("{}{suffix}", Ids::event_floor(EpochMs(at_s * 1000))))
    }

    #[test]
    fn the_next_connection_begins_before_the_newest_event_and_repeats_nothing() {
        let mut place = Place::starting_after(id(1000, ""));
        assert!(place.is_new(&id(1002, "a")));
        assert_eq!(place.resume_after(), &id(1000, ""), "not before the beginning");
        assert!(place.is_new(&id(1060, "a")));
        assert_eq!(place.resume_after(), &id(1050, ""));
        for (again, new) in [(id(1060, "a"), false), (id(1055, "late"), true), (id(1055, "late"), false)] {
            assert_eq!(place.is_new(&again), new, "{again}");
        }
        assert!(!place.is_new(&id(1002, "a")), "older than where the stream resumes");
        assert_eq!(place.resume_after(), &id(1050, ""), "a late event does not turn back");
    }

    #[test]
    fn what_was_seen_is_not_remembered_for_ever() {
        let mut place = Place::starting_after(id(0, ""));
        assert!((1..1000).all(|second| place.is_new(&id(second, "a"))));
        assert!(place.seen.len() <= 11, "{}", place.seen.len());
    }
}
