//! A provider's limit on calls, as its headers tell of it.
//!
//! **Owns** when a limit that a knob has set is lifted. **Invariants.** From the first call under it the reset time
//! stands; a call at that time is granted, and the knob is absent again.

use std::time::Duration;

use crate::model::clock::EpochMs;

/// What a limit says of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the call is answered.
    pub granted: bool,
    /// What is left after it; `None` without a limit.
    pub remaining: Option<u32>,
    /// When the limit is lifted: a whole second.
    pub reset: EpochMs,
}

impl Verdict {
    /// The reset time as most providers write it.
    pub fn reset_s(&self) -> String {
        (self.reset.0 / 1000).to_string()
    }
}

/// A limit in force.
#[derive(Debug, Default)]
pub struct Limit {
    /// What the last call left in the knob; another value there is a limit set anew.
    left: Option<u32>,
    lifted_at: Option<EpochMs>,
}

impl Limit {
    /// Judges a call that costs so much, and spends it from the knob. A limit lasts `window_s` from its first call.
    pub fn judge(&mut self, knob: &mut Option<u32>, cost: u32, window_s: u64, now: EpochMs) -> Verdict {
        // As the headers can say it, and never later than asked for.
        let fresh = EpochMs(now.0 / 1000 * 1000).plus(Duration::from_secs(window_s));
        if *knob != self.left {
            self.lifted_at = None;
        }
        let reset = knob.map_or(fresh, |_| *self.lifted_at.get_or_insert(fresh));
        if reset <= now {
            *knob = None;
        }
        let granted = knob.is_none_or(|remaining| remaining >= cost);
        if let Some(remaining) = knob.as_mut().filter(|_| granted) {
            *remaining -= cost;
        }
        self.left = *knob;
        Verdict { granted, remaining: *knob, reset: if knob.is_none() { fresh } else { reset } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_771_980_000_250);

    #[test]
    fn a_limit_is_lifted_when_its_first_call_was_told_and_not_before() {
        let (mut limit, mut knob) = (Limit::default(), Some(1));
        let mut at = |ms: i64| limit.judge(&mut knob, 1, 30, EpochMs(NOW.0 + ms));
        let reset = EpochMs(1_771_980_030_000);
        assert_eq!(at(0), Verdict { granted: true, remaining: Some(0), reset });
        assert_eq!(at(9_000), Verdict { granted: false, remaining: Some(0), reset });
        assert_eq!(at(29_749), Verdict { granted: false, remaining: Some(0), reset });
        let lifted = at(29_750);
        assert_eq!((lifted.granted, lifted.remaining), (true, None));
        assert!(lifted.reset > reset);
        assert_eq!(knob, None);
    }

    #[test]
    fn a_limit_set_anew_has_a_time_of_its_own() {
        let mut limit = Limit::default();
        let later = EpochMs(NOW.0 + 20_000);
        let first = limit.judge(&mut Some(0), 1, 30, NOW).reset;
        assert_eq!(limit.judge(&mut Some(0), 1, 30, later).reset, first);
        assert_eq!(limit.judge(&mut Some(5), 1, 30, later).reset, EpochMs(first.0 + 20_000));
        assert!(limit.judge(&mut None, 1, 30, later).granted);
        assert!(!limit.judge(&mut Some(99), 100, 30, later).granted, "too dear");
    }
}
