//! Notices that the clock was set back by which deliveries are due.
//!
//! Due times are wall-clock times (the server's, where there is one: `dispatcher/due_clock.rs`), so that every node and every
//! later process can read them. A clock that is set back by a day would keep whatever waits for its turn or its retry waiting
//! for that day. One that is set forward makes them due at once, which needs no help.
//!
//! **Invariants**: compared with the monotonic clock, so that time passing is not a jump; what was noticed is owed until
//! somebody says that all of the backlog has been looked at, and to no delivery twice. Pure: both clocks are arguments. **Must not know** what is done about it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    model::clock::EpochMs,
    store::{BacklogPlace, Setback},
};

/// Corrections smaller than this are left alone: they delay nothing that anybody would miss.
const TOLERANCE: Duration = Duration::from_secs(2);

/// Both clocks at the last look, and what was not made good yet.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    seen: Option<(EpochMs, Instant)>,
    /// The first may be about to be made good, up to a place in the backlog.
    owed: VecDeque<(Setback, Option<BacklogPlace>)>,
}

impl ClockWatch {
    /// Looks at both clocks. How far the wall clock was set back, if it was.
    pub(super) fn look(&mut self, wall: EpochMs, monotonic: Instant) -> Option<Duration> {
        let (wall_before, monotonic_before) = self.seen.replace((wall, monotonic))?;
        let by = wall_before.plus(monotonic.saturating_duration_since(monotonic_before)).since(wall);
        // Whatever waits was given its time by the clock as it was.
        self.owe(Setback { by, retries_within: Duration::ZERO })
    }

    /// It was set back. How far, if that matters.
    pub(super) fn owe(&mut self, setback: Setback) -> Option<Duration> {
        if setback.by < TOLERANCE {
            return None;
        }
        match self.owed.iter_mut().skip(1).next_back() {
            Some((last, _)) if last.retries_within == setback.retries_within => {
                last.by = last.by.saturating_add(setback.by);
            }
            _ => self.owed.push_back((setback, None)),
        }
        Some(setback.by)
    }

    /// What is to be made good next, behind which place.
    pub(super) fn owed(&self) -> Option<(Setback, Option<BacklogPlace>)> {
        self.owed.front().cloned()
    }

    /// That has been made good up to this place, or to the end.
    pub(super) fn settle(&mut self, up_to: Option<BacklogPlace>) {
        match self.owed.front_mut() {
            Some((_, settled)) if up_to.is_some() => *settled = up_to,
            _ => drop(self.owed.pop_front()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn only_a_clock_that_was_set_back_is_noticed_and_until_it_is_settled() {
        let (start, mut watch) = (Instant::now(), ClockWatch::default());
        let noon = EpochMs(1_771_980_000_000);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watch.look(noon, at(0)), None);
        assert_eq!(watch.look(noon.plus(Duration::from_mins(1)), at(60)), None, "time passes");
        assert_eq!(watch.look(noon.plus(Duration::from_secs(119)), at(120)), None, "a small correction");
        assert_eq!(watch.look(noon.plus(DAY), at(122)), None, "forward");
        assert_eq!(watch.owed(), None);
        assert_eq!(watch.look(noon, at(122)), Some(DAY), "back");
        assert_eq!(watch.look(noon.plus(Duration::from_secs(2)), at(124)), None, "time passes");
        let owed = |by| Some((Setback { by, retries_within: Duration::ZERO }, None));
        assert_eq!(watch.owed(), owed(DAY), "it is still owed");
        watch.settle(None);
        assert_eq!(watch.owed(), None);
    }

    #[test]
    fn what_is_being_made_good_is_made_good_to_the_end_before_what_came_since() {
        let setback = |seconds| Setback { by: Duration::from_secs(seconds), retries_within: Duration::ZERO };
        let place = Some(BacklogPlace::default());
        let mut watch = ClockWatch::default();
        let at_a_start = Setback { retries_within: DAY, ..setback(60) };
        for setback in [at_a_start, setback(3), setback(4)] {
            assert_eq!(watch.owe(setback), Some(setback.by));
        }
        assert_eq!(watch.owed(), Some((at_a_start, None)));
        watch.settle(place.clone());
        assert_eq!(watch.owed(), Some((at_a_start, place.clone())));
        watch.settle(None);
        assert_eq!(watch.owed(), Some((setback(7), None)), "one pass for both");
        watch.settle(place.clone());
        watch.owe(setback(5));
        assert_eq!(watch.owed(), Some((setback(7), place)), "what was passed has had no more than that");
        watch.settle(None);
        assert_eq!(watch.owed(), Some((setback(5), None)));
    }
}
