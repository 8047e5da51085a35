//! Where in the stream we are: what a new connection asks for, and what came before. Pure.
//!
//! Ids are made when a webhook is taken in and committed a moment later, so an id may appear after a newer one; within
//! a connection the gateway minds that. A connection that follows another one therefore begins a little before the
//! newest event that was seen, and what was seen is left out. Only after the gateway's clock was set back do ids come that
//! lie before that, too. **Invariants**: no event is handed on twice, but for those of a time that such a clock comes to
//! again; none that was stored since the beginning is left out.

use std::{collections::BTreeSet, time::Duration};

use crate::model::{
    clock::{EpochMs, Ids},
    ids::EventId,
};

/// How much later than its id an event may appear: what the gateway's stream allows for, twice. As far before the place
/// that is asked for the stream may begin.
const SETTLES_AFTER: Duration = Duration::from_secs(10);

/// A place in the stream.
#[derive(Debug)]
pub(super) struct Place {
    /// What was stored before is not wanted.
    began: EpochMs,
    resume: EpochMs,
    /// What was seen since `SETTLES_AFTER` before `resume`.
    seen: BTreeSet<EventId>,
}

/// What an event that comes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was not here before.
    New,
    /// It was, or it is from before the beginning.
    Old,
    /// It is new, and the first since the gateway's clock was set back.
    SetBack,
}

impl Place {
    /// Everything since then is to come.
    pub fn starting_at(at: EpochMs) -> Self {
        Self { began: at, resume: at, seen: BTreeSet::new() }
    }

    /// What the next connection says in `Last-Event-ID`.
    pub fn resume_after(&self) -> EventId {
        Ids::event_floor(self.resume)
    }

    /// Notes an event that comes, and says what it is.
    pub fn take(&mut self, id: &EventId) -> Arrival {
        // What has no time of ours is told apart by its id alone.
        let at = Ids::event_made_at(id).unwrap_or(self.resume);
        let is_set_back = at < self.resume.minus(SETTLES_AFTER);
        if is_set_back {
            // What was stored just before it may still appear.
            self.resume = at.minus(SETTLES_AFTER);
            self.began = self.resume;
        }
        if at < self.began || !self.seen.insert(id.clone()) {
            return Arrival::Old;
        }
        let settled = at.minus(SETTLES_AFTER);
        if settled > self.resume {
            self.resume = settled;
            self.seen = self.seen.split_off(&Ids::event_floor(settled.minus(SETTLES_AFTER)));
        }
        if is_set_back { Arrival::SetBack } else { Arrival::New }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(at_s: i64, suffix: &str) -> EventId {
        EventId::from_raw(format!("{}{suffix}", floor(at_s)))
    }

    fn floor(at_s: i64) -> EventId {
        Ids::event_floor(EpochMs(at_s * 1000))
    }

    #[test]
    fn the_next_connection_begins_before_the_newest_event_and_repeats_nothing() {
        let mut place = Place::starting_at(EpochMs(1_000_000));
        assert_eq!(place.take(&id(995, "a")), Arrival::Old, "the stream begins before the place that is asked for");
        assert_eq!(place.take(&id(1002, "a")), Arrival::New);
        assert_eq!(place.resume_after(), floor(1000), "not before the beginning");
        assert_eq!(place.take(&id(1060, "a")), Arrival::New);
        assert_eq!(place.resume_after(), floor(1050));
        for (again, arrival) in
            [(id(1060, "a"), Arrival::Old), (id(1055, "late"), Arrival::New), (id(1055, "late"), Arrival::Old)]
        {
            assert_eq!(place.take(&again), arrival, "{again}");
        }
        assert_eq!(place.resume_after(), floor(1050), "a late event does not turn back");
        assert_eq!(place.take(&id(1065, "a")), Arrival::New);
        assert_eq!(place.take(&id(1050, "late")), Arrival::New, "the stream begins before the place");
        assert_eq!(place.take(&id(1050, "late")), Arrival::Old);
    }

    #[test]
    fn what_comes_after_the_gateways_clock_was_set_back_is_new_and_the_place_is_there() {
        let mut place = Place::starting_at(EpochMs(9_000_000));
        assert_eq!(place.take(&id(9100, "a")), Arrival::New);
        for back in [9075, 9010, 3000] {
            assert_eq!(place.take(&id(back, "b")), Arrival::SetBack, "{back}");
            assert_eq!(place.resume_after(), floor(back - 10));
            assert_eq!(place.take(&id(back - 1, "late")), Arrival::New, "{back}");
            assert_eq!(place.take(&id(back + 1, "b")), Arrival::New, "{back}");
            for overlap in [id(back - 1, "late"), id(back, "b"), id(back + 1, "b")] {
                assert_eq!(place.take(&overlap), Arrival::Old, "{overlap}");
            }
            assert_eq!(place.take(&id(back + 30, "b")), Arrival::New, "{back}");
        }
        // A few seconds lie within what the next connection asks for again.
        assert_eq!(place.take(&id(3022, "c")), Arrival::New);
        assert_eq!(place.take(&id(3011, "c")), Arrival::New);
    }

    #[test]
    fn what_was_seen_is_not_remembered_for_ever() {
        let mut place = Place::starting_at(EpochMs(0));
        assert!((1..1000).all(|second| place.take(&id(second, "a")) == Arrival::New));
        assert!(place.seen.len() <= 21, "{}", place.seen.len());
    }
}
