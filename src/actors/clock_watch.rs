//! Notices that the wall clock was set back.
//!
//! Due times are wall-clock times, so that every node and every later process can read them. A clock that is set back by
//! a day would keep whatever waits for its turn or its retry waiting for that day. One that is set forward makes them
//! due at once, which needs no help.
//!
//! **Invariants**: compared with the monotonic clock, so that time passing is not a jump; what was noticed is owed until
//! somebody says that it is settled. Pure: both clocks are arguments. **Must not know** what is done about it.

use std::time::{Duration, Instant};

use crate::model::clock::EpochMs;

/// Corrections smaller than this are left alone: they delay nothing that anybody would miss.
const TOLERANCE: Duration = Duration::from_secs(2);

/// Both clocks at the last look, and what was not made good yet.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    seen: Option<(EpochMs, Instant)>,
    owed: Duration,
}

impl ClockWatch {
    /// Looks at both clocks; how far the wall clock was set back in all that is not settled, if it was.
    pub(super) fn look(&mut self, wall: EpochMs, monotonic: Instant) -> Option<Duration> {
        if let Some((wall_before, monotonic_before)) = self.seen.replace((wall, monotonic)) {
            let expected = wall_before.plus(monotonic.saturating_duration_since(monotonic_before));
            self.owe(expected.since(wall));
        }
        (!self.owed.is_zero()).then_some(self.owed)
    }

    /// It was set back by so much while nobody looked.
    pub(super) fn owe(&mut self, behind: Duration) {
        if behind >= TOLERANCE {
            self.owed = self.owed.saturating_add(behind);
        }
    }

    /// What was owed has been made good.
    pub(super) fn settle(&mut self) {
        self.owed = Duration::ZERO;
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
        assert_eq!(watch.look(noon, at(122)), Some(DAY), "back");
        assert_eq!(watch.look(noon.plus(Duration::from_secs(2)), at(124)), Some(DAY), "it is still owed");
        assert_eq!(watch.look(noon, at(134)), Some(DAY + Duration::from_secs(12)), "and adds up");
        watch.settle();
        assert_eq!(watch.look(noon.plus(Duration::from_secs(2)), at(136)), None);
        watch.owe(Duration::from_mins(1));
        assert_eq!(watch.look(noon.plus(Duration::from_secs(4)), at(138)), Some(Duration::from_mins(1)));
    }
}
