//! What follows from an attempt: delivered, another try, or a dead letter.
//!
//! **Owns** the retry schedule's arithmetic. Pure: time and chance are arguments. **Invariants**: 2xx alone is success;
//! a delivery ends dead only when its schedule is used up or its destination says it is gone; the wait before a
//! retry never exceeds twice the scheduled one. **Must not know** rows, leases or destinations.

use std::time::Duration;

use crate::model::{clock::EpochMs, delivery::AttemptResult};

/// How far a wait may be from the scheduled one, as a share of it: many deliveries that failed together do not come
/// back together.
const JITTER: f64 = 0.2;
/// How many times the scheduled wait one may be that a destination asked for.
const MOST: u32 = 2;

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is delivered.
    Delivered,
    /// It is tried again.
    RetryAt {
        /// When.
        at: EpochMs,
        /// Why this attempt did not do, [`AttemptResult::code`].
        reason: &'static str,
    },
    /// It is a dead letter.
    Dead {
        /// Why the last attempt did not do, [`AttemptResult::code`].
        reason: &'static str,
    },
}

/// Decides what follows from `result`, the delivery having had `attempts_before` attempts of this schedule before it.
/// `schedule` holds the waits before each retry; `random` is in `[0, 1)`. A 410 is the end unless the address that it came
/// from was replaced meanwhile.
pub fn decide(
    attempts_before: u32,
    result: &AttemptResult,
    address_was_replaced: bool,
    schedule: &[Duration],
    now: EpochMs,
    random: f64,
) -> Decision {
    let reason = result.code();
    match result {
        AttemptResult::Answered { status: 200..=299, .. } => return Decision::Delivered,
        AttemptResult::Answered { status: 410, .. } if !address_was_replaced => return Decision::Dead { reason },
        _ => {}
    }
    let step = usize::try_from(attempts_before).ok().and_then(|step| schedule.get(step));
    step.map_or(Decision::Dead { reason }, |&scheduled| Decision::RetryAt {
        at: now.plus(wait(scheduled, asked_wait(result), random)),
        reason,
    })
}

/// The longest wait before any retry.
pub fn longest_wait(schedule: &[Duration]) -> Duration {
    schedule.iter().max().map_or(Duration::ZERO, |longest| longest.saturating_mul(MOST))
}

/// Whether this answer means that the destination wants nothing more, ever.
pub fn is_gone(result: &AttemptResult) -> bool {
    result.status() == Some(410)
}

/// Whether this answer asks us to slow down (Standard Webhooks 1.0: 429, 502, 503, 504).
pub fn asks_to_slow_down(result: &AttemptResult) -> bool {
    matches!(result.status(), Some(429 | 502..=504))
}

fn asked_wait(result: &AttemptResult) -> Option<Duration> {
    match result {
        AttemptResult::Answered { retry_after_s: Some(seconds), .. } if asks_to_slow_down(result) => {
            Some(Duration::from_secs(*seconds))
        }
        _ => None,
    }
}

/// The wait before the next try. What the destination asked for is honoured between the scheduled wait and twice it,
/// and jitter only lengthens it: coming back before the named time is no use to anybody.
fn wait(scheduled: Duration, asked: Option<Duration>, random: f64) -> Duration {
    let random = random.clamp(0.0, 1.0);
    match asked {
        None => scheduled.mul_f64(1.0 - JITTER + 2.0 * JITTER * random),
        Some(asked) => {
            let longest = scheduled.saturating_mul(MOST);
            asked.clamp(scheduled, longest).mul_f64(1.0 + JITTER * random).min(longest)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: EpochMs = EpochMs(1_771_980_000_000);
    const MIDDLE: f64 = 0.5;

    fn schedule() -> Vec<Duration> {
        [5, 30, 120, 600, 3600].map(Duration::from_secs).to_vec()
    }

    fn answered(status: u16) -> AttemptResult {
        AttemptResult::Answered { status, retry_after_s: None }
    }

    fn retry_in_ms(attempts_before: u32, result: &AttemptResult, random: f64) -> i64 {
        match decide(attempts_before, result, false, &schedule(), NOW, random) {
            Decision::RetryAt { at, .. } => at.0 - NOW.0,
            other => panic!("{other:?} is no retry"),
        }
    }

    #[test]
    fn every_2xx_is_delivered_however_often_it_was_tried() {
        for status in [200, 201, 202, 204, 299] {
            for attempts in [0, 5, 99] {
                let decision = decide(attempts, &answered(status), false, &schedule(), NOW, MIDDLE);
                assert_eq!(decision, Decision::Delivered, "{status}");
            }
        }
    }

    #[test]
    fn a_410_is_dead_at_once() {
        assert_eq!(decide(0, &answered(410), false, &schedule(), NOW, MIDDLE), Decision::Dead { reason: "gone" });
        let of_a_former_address = decide(0, &answered(410), true, &schedule(), NOW, MIDDLE);
        assert!(matches!(of_a_former_address, Decision::RetryAt { reason: "gone", .. }), "{of_a_former_address:?}");
        assert!(is_gone(&answered(410)) && !is_gone(&answered(404)) && !is_gone(&AttemptResult::TimedOut));
    }

    #[test]
    fn everything_else_takes_the_next_step_and_dies_after_the_last() {
        let failures = [
            (answered(301), "http_status"),
            (answered(308), "http_status"),
            (answered(400), "http_status"),
            (answered(404), "http_status"),
            (answered(500), "http_status"),
            (AttemptResult::TimedOut, "timeout"),
            (AttemptResult::ConnectionFailed, "connection_failed"),
            (AttemptResult::AddressRefused, "address_refused"),
            (AttemptResult::InvalidDestination, "invalid_destination"),
        ];
        for (result, reason) in failures {
            for (attempts_before, wait) in (0..).zip(schedule()) {
                let at = NOW.plus(wait);
                let expected = Decision::RetryAt { at, reason };
                assert_eq!(decide(attempts_before, &result, false, &schedule(), NOW, MIDDLE), expected);
            }
            assert_eq!(decide(5, &result, false, &schedule(), NOW, MIDDLE), Decision::Dead { reason });
            assert_eq!(decide(u32::MAX, &result, false, &schedule(), NOW, MIDDLE), Decision::Dead { reason });
        }
    }

    #[test]
    fn without_a_schedule_the_first_failure_is_the_last() {
        assert_eq!(decide(0, &AttemptResult::TimedOut, false, &[], NOW, MIDDLE), Decision::Dead { reason: "timeout" });
    }

    #[test]
    fn retry_after_is_honoured_between_the_scheduled_wait_and_twice_it() {
        for status in [429, 502, 503, 504] {
            for (asked, expected_ms) in [(0, 30_000), (1, 30_000), (45, 45_000), (60, 60_000), (86_400, 60_000)] {
                let result = AttemptResult::Answered { status, retry_after_s: Some(asked) };
                assert_eq!(retry_in_ms(1, &result, 0.0), expected_ms, "{status} asks for {asked} s");
            }
        }
    }

    #[test]
    fn retry_after_means_nothing_elsewhere() {
        for status in [301, 400, 500] {
            let result = AttemptResult::Answered { status, retry_after_s: Some(10) };
            assert_eq!(retry_in_ms(0, &result, MIDDLE), 5_000, "{status}");
        }
    }

    proptest! {
        #[test]
        fn the_wait_stays_within_its_bounds(
            step in 0_u32..5,
            status in prop_oneof![Just(500_u16), Just(503), Just(429), Just(400)],
            asked in proptest::option::of(any::<u64>()),
            random in 0.0_f64..1.0,
        ) {
            let result = AttemptResult::Answered { status, retry_after_s: asked };
            let scheduled_ms = i64::try_from(schedule()[step as usize].as_millis()).expect("small");
            let waited_ms = retry_in_ms(step, &result, random);
            let bounds = if asked.is_some() && asks_to_slow_down(&result) {
                scheduled_ms..=2 * scheduled_ms
            } else {
                scheduled_ms * 8 / 10..=scheduled_ms * 12 / 10
            };
            prop_assert!(bounds.contains(&waited_ms), "{waited_ms} ms is not in {bounds:?}");
            prop_assert!(waited_ms <= i64::try_from(longest_wait(&schedule()).as_millis()).expect("small"));
        }

        #[test]
        fn a_delivery_always_ends(results in proptest::collection::vec(300_u16..600, 0..20)) {
            let schedule = schedule();
            for (attempts_before, status) in (0..).zip(results) {
                let decision = decide(attempts_before, &answered(status), false, &schedule, NOW, 0.3);
                let last = attempts_before as usize >= schedule.len() || status == 410;
                prop_assert_eq!(matches!(decision, Decision::Dead { .. }), last);
            }
        }
    }
}
