//! Tests of the dispatcher's pure state.

use proptest::prelude::*;

use super::*;

const RULES: LaneRules = LaneRules {
    limit: 8,
    seats: 0,
    circuit_failures: 3,
    probe_wait: Duration::from_secs(10),
    longest_retry_wait: Duration::from_hours(1),
};
const WALL: EpochMs = EpochMs(1_771_980_000_000);
const FAILED: Verdict = Verdict::Failed { slow_down: false };
/// Room in all, more than any lane wants.
const PLENTY: usize = 1000;

fn lane(now: Instant) -> Lane {
    Lane::new(&RULES, now)
}

fn reserve(lane: &mut Lane, now: Instant) -> bool {
    lane.reserve(&RULES, PLENTY, now).is_some()
}

/// One attempt from reservation to release.
fn attempt(lane: &mut Lane, verdict: Verdict, now: Instant) -> Aftermath {
    assert!(reserve(lane, now), "there is room");
    let aftermath = lane.judge(&RULES, verdict, false, now, WALL);
    lane.release(false, false, now);
    aftermath
}

fn open_lane(now: Instant) -> Lane {
    let mut lane = lane(now);
    for _ in 0..RULES.circuit_failures {
        attempt(&mut lane, FAILED, now);
    }
    assert!(matches!(lane.circuit(), Circuit::Open { .. }));
    lane
}

fn probe(lane: &mut Lane, now: Instant) {
    let room = lane.start_claim(100, PLENTY, now).expect("a probe may go");
    assert_eq!(room, ClaimRoom { slots: 1, retries: 1, probe: true });
    lane.end_claim(None);
}

#[test]
fn answers_say_whether_the_destination_works() {
    let answered = |status| AttemptResult::Answered { status, retry_after_s: None };
    for (result, verdict) in [
        (answered(204), Verdict::Delivered),
        (answered(302), Verdict::Refused),
        (answered(404), Verdict::Refused),
        (answered(429), Verdict::Failed { slow_down: true }),
        (answered(500), FAILED),
        (answered(503), Verdict::Failed { slow_down: true }),
        (AttemptResult::TimedOut, FAILED),
        (AttemptResult::ConnectionFailed, FAILED),
        (AttemptResult::AddressRefused, FAILED),
    ] {
        assert_eq!(Verdict::of(&result), verdict, "{result:?}");
    }
}

/// How much of so much room is left by this many destinations that hang, one after the other: each takes what it can get.
fn left_by_hanging(lanes: usize, room: usize) -> usize {
    let now = Instant::now();
    (0..lanes).fold(room, |mut free, _| {
        let mut lane = lane(now);
        while free > 0 && lane.reserve(&RULES, free, now) == Some(Place::Slot) {
            free -= 1;
        }
        assert!(free == 0 || lane.in_flight() > 0);
        free
    })
}

#[test]
fn destinations_that_hang_leave_room_for_those_that_answer() {
    assert_eq!(left_by_hanging(3, 64), 40, "with room for all of them nobody gets less than the limit");
    assert!(left_by_hanging(8, 64) > 0, "the limit alone would leave nothing");
    assert!(left_by_hanging(11, 64) > 0);
    assert_eq!(left_by_hanging(1, 1), 0, "one place is somebody's");
}

#[test]
fn a_claim_takes_as_many_as_one_after_the_other_would_get() {
    let now = Instant::now();
    for (in_flight, free) in (0..RULES.limit).flat_map(|in_flight| (1..40).map(move |free| (in_flight, free))) {
        let [mut one_by_one, mut at_once] = [lane(now), lane(now)];
        for lane in [&mut one_by_one, &mut at_once] {
            for _ in 0..in_flight {
                assert!(reserve(lane, now));
            }
        }
        let mut left = free;
        while left > 0 && one_by_one.reserve(&RULES, left, now) == Some(Place::Slot) {
            left -= 1;
        }
        let room = at_once.start_claim(PLENTY, free, now);
        assert_eq!(room.map_or(0, |room| room.slots), free - left, "{in_flight} in flight, {free} free");
    }
}

#[test]
fn a_full_lane_refuses_and_newcomers_do_not_overtake_who_waits() {
    let now = Instant::now();
    let mut lane = lane(now);
    for _ in 0..RULES.limit {
        assert!(reserve(&mut lane, now));
    }
    assert!(!reserve(&mut lane, now), "full");
    lane.release(false, false, now);
    assert!(!reserve(&mut lane, now), "there is room, but an older one waits in the store");
    assert!(lane.waits());

    let room = lane.start_claim(100, PLENTY, now).expect("room");
    assert_eq!(room.slots, 1);
    let mut plan = ClaimPlan::new();
    plan.learn(Ask { first_tries: 1, retries: 0, in_all: 1 }, Got { first_tries: 0, retries: 0 });
    lane.release(false, false, now);
    lane.end_claim(Some(plan));
    assert!(reserve(&mut lane, now), "nobody waits any more");
}

const SEATED: LaneRules = LaneRules { seats: 2, ..RULES };

/// A lane with every slot and every seat taken.
fn full_house(now: Instant) -> Lane {
    let mut lane = Lane::new(&SEATED, now);
    for _ in 0..SEATED.limit {
        assert_eq!(lane.reserve(&SEATED, PLENTY, now), Some(Place::Slot));
    }
    for _ in 0..SEATED.seats {
        assert_eq!(lane.reserve(&SEATED, PLENTY, now), Some(Place::Seat));
    }
    lane
}

#[test]
fn those_on_seats_get_slots_as_attempts_end_and_newcomers_queue_behind_them() {
    let now = Instant::now();
    let mut lane = full_house(now);
    assert_eq!(lane.promote(PLENTY, now), Promotion::Later);
    lane.release(false, false, now);
    assert_eq!(lane.promote(PLENTY, now), Promotion::Promoted);
    assert_eq!((lane.in_flight(), lane.seated()), (SEATED.limit, 1));
    lane.release(false, false, now);
    assert_eq!(lane.reserve(&SEATED, PLENTY, now), Some(Place::Seat), "a slot is free, and it is the other one's");
    assert_eq!(lane.reserve(&SEATED, PLENTY, now), None);
    assert!(lane.waits(), "the one that found no seat waits in the store");
}

#[test]
fn retries_get_room_though_every_seat_is_taken() {
    let now = Instant::now();
    let mut lane = full_house(now);
    assert_eq!(lane.start_claim(100, PLENTY, now), None, "a retry is due, and there is no room");
    lane.release(false, false, now);
    assert_eq!(lane.promote(PLENTY, now), Promotion::Later, "it is left for the retry");
    assert!(lane.release(false, false, now), "a quarter is free");
    assert_eq!(lane.start_claim(100, PLENTY, now).map(|room| room.slots), Some(2));
    let mut plan = ClaimPlan::new();
    plan.learn(Ask { first_tries: 0, retries: 2, in_all: 2 }, Got { first_tries: 0, retries: 1 });
    lane.release(false, false, now);
    lane.end_claim(Some(plan));
    assert_eq!(lane.promote(PLENTY, now), Promotion::Promoted, "no other retry waits");
}

/// What a claim of four finds out that had no room for retries and found no first try: nothing of retries.
fn nothing_learnt_of_retries() -> ClaimPlan {
    let mut plan = ClaimPlan::new();
    let ask = plan.ask(4, 0).expect("asks for first tries");
    plan.learn(ask, Got { first_tries: 0, retries: 0 });
    assert_eq!(plan.ask(4, 0), None);
    plan
}

/// A lane whose retries fill their half, with more of them in the store and the other half free.
fn lane_full_of_retries(rules: &LaneRules, now: Instant) -> Lane {
    let mut lane = Lane::new(rules, now);
    let room = lane.start_claim(100, PLENTY, now).expect("room");
    assert_eq!((room.slots, room.retries), (8, 4));
    for _ in 0..room.retries {
        lane.count_retry();
    }
    for _ in room.retries..room.slots {
        lane.release(false, false, now);
    }
    assert!(!lane.end_claim(Some(nothing_learnt_of_retries())), "no room for those that wait");
    lane
}

#[test]
fn retries_that_wait_are_not_asked_for_again_and_again_while_their_half_is_full() {
    let now = Instant::now();
    let mut lane = lane_full_of_retries(&RULES, now);
    assert!(lane.waits());
    let room = lane.start_claim(100, PLENTY, now).expect("something fell due");
    assert_eq!((room.slots, room.retries), (4, 0));
    for _ in 0..room.slots {
        lane.release(false, false, now);
    }
    assert!(!lane.end_claim(Some(nothing_learnt_of_retries())), "it would find as little at once");
    assert!(lane.release(true, false, now), "the end of a retry asks");
    assert_eq!(lane.start_claim(100, PLENTY, now).map(|room| room.retries), Some(1));
}

#[test]
fn first_tries_that_wait_are_asked_for_though_retries_fill_their_half() {
    let now = Instant::now();
    let mut lane = lane_full_of_retries(&RULES, now);
    lane.wait_in_store();
    lane.start_claim(100, PLENTY, now).expect("room");
    for _ in 0..4 {
        lane.release(false, false, now);
    }
    assert!(lane.end_claim(None));
}

#[test]
fn no_room_is_left_free_for_retries_that_cannot_go() {
    let now = Instant::now();
    let mut lane = lane_full_of_retries(&SEATED, now);
    for _ in 0..4 {
        assert_eq!(lane.reserve(&SEATED, PLENTY, now), Some(Place::Slot));
    }
    assert_eq!(lane.reserve(&SEATED, PLENTY, now), Some(Place::Seat));
    assert_eq!(lane.reserve(&SEATED, PLENTY, now), Some(Place::Seat));
    lane.release(false, false, now);
    assert_eq!(lane.promote(PLENTY, now), Promotion::Promoted, "retries have their half already");
    lane.release(true, false, now);
    assert_eq!(lane.promote(PLENTY, now), Promotion::Later, "it is left for the next retry");
}

#[test]
fn nobody_keeps_a_seat_before_a_closed_door_and_the_last_one_is_never_left_waiting() {
    let now = Instant::now();
    let mut lane = full_house(now);
    for _ in 0..SEATED.circuit_failures {
        lane.judge(&SEATED, FAILED, false, now, WALL);
    }
    lane.release(false, false, now);
    assert_eq!(lane.promote(PLENTY, now), Promotion::Never);
    assert_eq!(lane.reserve(&SEATED, PLENTY, now), None);
    lane.leave_seat();
    assert_eq!(lane.seated(), SEATED.seats - 1);

    let mut lane = full_house(now);
    assert_eq!(lane.start_claim(100, PLENTY, now), None);
    for _ in 0..SEATED.limit {
        lane.release(false, false, now);
    }
    assert_eq!(lane.promote(PLENTY, now), Promotion::Promoted, "no attempt is in flight whose end could ask again");
    let slow_down = Verdict::Failed { slow_down: true };
    lane.judge(&SEATED, slow_down, false, now, WALL);
    assert_eq!(lane.reserve(&SEATED, PLENTY, now), None, "who asks us to slow down is not queued for in memory");
}

#[test]
fn failures_in_a_row_open_the_circuit_and_a_success_between_them_does_not() {
    let now = Instant::now();
    let mut lane = lane(now);
    for verdict in [FAILED, FAILED, Verdict::Delivered, FAILED, FAILED] {
        assert!(!attempt(&mut lane, verdict, now).opened);
    }
    assert!(attempt(&mut lane, FAILED, now).opened);
    assert!(!reserve(&mut lane, now), "nothing is sent while it is open");
    assert_eq!(lane.start_claim(100, PLENTY, now), None, "nor claimed");
}

#[test]
fn answers_of_a_living_destination_do_not_open_the_circuit() {
    let now = Instant::now();
    let mut lane = lane(now);
    for _ in 0..10 {
        attempt(&mut lane, Verdict::Refused, now);
    }
    assert_eq!(lane.circuit(), Circuit::Closed);
    assert_eq!(lane.failing_since(), Some(WALL), "but it has delivered nothing");
}

#[test]
fn an_open_circuit_sends_one_probe_and_waits_twice_as_long_after_each_failure() {
    let start = Instant::now();
    let mut lane = open_lane(start);
    let mut now = start;
    for factor in [1, 2, 4, 8, 16, 16] {
        assert_eq!(lane.start_claim(100, PLENTY, now), None, "too early");
        now += RULES.probe_wait * factor / 2;
        assert_eq!(lane.start_claim(100, PLENTY, now), None, "too early");
        now += RULES.probe_wait * factor / 2;
        probe(&mut lane, now);
        assert_eq!(lane.start_claim(100, PLENTY, now), None, "one probe only");
        assert!(!reserve(&mut lane, now));
        lane.judge(&RULES, FAILED, true, now, WALL);
        lane.release(false, false, now);
    }
}

#[test]
fn no_probe_is_waited_for_longer_than_a_retry() {
    let rules = LaneRules { longest_retry_wait: Duration::from_secs(25), ..RULES };
    assert_eq!(rules.longest_probe_wait(), Duration::from_secs(25));
    let rules = LaneRules { longest_retry_wait: Duration::from_secs(1), ..RULES };
    assert_eq!(rules.longest_probe_wait(), RULES.probe_wait, "the first wait is as long as it was set");
}

#[test]
fn a_successful_probe_closes_the_circuit() {
    let start = Instant::now();
    let mut lane = open_lane(start);
    let now = start + RULES.probe_wait;
    probe(&mut lane, now);
    let aftermath = lane.judge(&RULES, Verdict::Delivered, true, now, WALL);
    assert!(aftermath.note_recovered, "the row said that it failed");
    lane.release(false, false, now);
    assert!(reserve(&mut lane, now));
}

#[test]
fn a_probe_that_was_never_sent_leaves_its_place_to_the_next() {
    let start = Instant::now();
    let mut lane = open_lane(start);
    let now = start + RULES.probe_wait;
    probe(&mut lane, now);
    lane.release(false, true, now);
    probe(&mut lane, now);
}

#[test]
fn attempts_in_flight_when_the_circuit_opened_do_not_prolong_it() {
    let now = Instant::now();
    let mut lane = lane(now);
    for _ in 0..RULES.limit {
        assert!(reserve(&mut lane, now));
    }
    for _ in 0..RULES.limit {
        lane.judge(&RULES, FAILED, false, now, WALL);
        lane.release(false, false, now);
    }
    assert_eq!(lane.circuit(), Circuit::Open { until: now + RULES.probe_wait, wait: RULES.probe_wait });
}

#[test]
fn a_destination_that_asks_for_it_is_slowed_down_and_recovers() {
    let now = Instant::now();
    let mut lane = lane(now);
    attempt(&mut lane, Verdict::Failed { slow_down: true }, now);
    assert_eq!(lane.allowed(), 4);
    attempt(&mut lane, Verdict::Failed { slow_down: true }, now);
    assert_eq!(lane.allowed(), 2);
    for _ in 0..20 {
        attempt(&mut lane, Verdict::Delivered, now);
    }
    assert_eq!(lane.allowed(), RULES.limit);
}

#[test]
fn failing_is_noted_once_and_so_is_recovering() {
    let now = Instant::now();
    let mut lane = lane(now);
    let noted: Vec<_> = (0..5).map(|_| attempt_anyhow(&mut lane, FAILED, now).note_failing).collect();
    assert_eq!(noted, [None, None, Some(WALL), None, None]);
    let recovered: Vec<_> = (0..3).map(|_| attempt_anyhow(&mut lane, Verdict::Delivered, now).note_recovered).collect();
    assert_eq!(recovered, [true, false, false]);
}

/// An attempt that was reserved before the circuit opened.
fn attempt_anyhow(lane: &mut Lane, verdict: Verdict, now: Instant) -> Aftermath {
    lane.judge(&RULES, verdict, false, now, WALL)
}

#[test]
fn what_the_row_says_about_failing_outlives_a_restart() {
    let now = Instant::now();
    let mut lane = lane(now);
    let earlier = WALL.minus(Duration::from_hours(24));
    lane.adopt_failing_since(Some(earlier));
    for _ in 0..RULES.circuit_failures {
        attempt_anyhow(&mut lane, FAILED, now);
    }
    assert_eq!(attempt_anyhow(&mut lane, FAILED, now).failing_since, Some(earlier));
}

#[test]
fn a_nudge_during_a_claim_is_followed_by_another_claim() {
    let now = Instant::now();
    let mut lane = lane(now);
    assert!(lane.nudge());
    lane.start_claim(100, PLENTY, now).expect("room");
    assert!(!lane.nudge());
    assert!(lane.end_claim(None), "again");
    lane.start_claim(100, PLENTY, now);
    assert!(!lane.end_claim(None), "once");
}

#[test]
fn a_resting_lane_neither_claims_nor_takes_more() {
    let now = Instant::now();
    let mut lane = lane(now);
    let later = now + Duration::from_secs(1);
    lane.rest(later);
    assert!(!reserve(&mut lane, now) && lane.start_claim(100, PLENTY, now).is_none());
    assert!(reserve(&mut lane, later));
}

#[test]
fn half_of_a_claim_goes_to_retries_and_what_one_kind_leaves_the_other_takes() {
    let mut plan = ClaimPlan::new();
    let first = plan.ask(8, 4).expect("asks");
    assert_eq!(first, Ask { first_tries: 8, retries: 4, in_all: 8 });
    plan.learn(first, Got { first_tries: 1, retries: 4 });
    assert_eq!(plan.ask(3, 0), None, "no more first tries, no more room for retries");
    assert_eq!(plan.ask(3, 2), Some(Ask { first_tries: 0, retries: 2, in_all: 3 }));

    let mut plan = ClaimPlan::new();
    plan.learn(first, Got { first_tries: 8, retries: 0 });
    assert_eq!(plan.ask(4, 4), Some(Ask { first_tries: 4, retries: 0, in_all: 4 }));
    let mut plan = ClaimPlan::new();
    plan.learn(first, Got { first_tries: 4, retries: 4 });
    assert_eq!(plan.ask(2, 2), Some(Ask { first_tries: 2, retries: 1, in_all: 2 }), "there may be more of both");
}

#[test]
fn a_single_place_goes_to_a_first_try_and_to_a_retry_only_if_there_is_none() {
    let mut plan = ClaimPlan::new();
    let ask = plan.ask(1, 4).expect("asks");
    assert_eq!(ask, Ask { first_tries: 1, retries: 0, in_all: 1 });
    plan.learn(ask, Got { first_tries: 0, retries: 0 });
    assert_eq!(plan.ask(1, 4), Some(Ask { first_tries: 0, retries: 1, in_all: 1 }));
}

#[test]
fn every_destination_gets_its_turn() {
    let [a, b] = ["dst_a", "dst_b"].map(DestinationId::from_raw);
    let mut queue = ClaimQueue::default();
    for _ in 0..3 {
        queue.push(&a);
    }
    queue.push(&b);
    assert_eq!((queue.len(), queue.pop()), (2, Some(a.clone())));
    queue.push(&a);
    assert_eq!(queue.pop(), Some(b.clone()));
    queue.push_front(b.clone());
    assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(b), Some(a), None));
}

#[test]
fn retries_are_remembered_until_they_are_due_and_never_early() {
    let destination = DestinationId::from_raw("dst_a");
    let mut times = RetryTimes::default();
    let at = WALL.plus(Duration::from_millis(5_001));
    assert!(times.note(at, &destination, WALL), "the next one");
    assert!(!times.note(at, &destination, WALL), "the same");
    assert!(!times.note(WALL.plus(Duration::from_mins(10)), &destination, WALL), "left to the poll");
    assert!(times.take_due(at.minus(Duration::from_millis(1))).is_empty());
    assert_eq!(times.take_due(at.plus(Duration::from_millis(20))), [destination]);
    assert_eq!(times.next(), None);
}

#[test]
fn a_clock_that_jumps_back_leaves_no_retries_behind() {
    let destination = DestinationId::from_raw("dst_a");
    let mut times = RetryTimes::default();
    times.note(WALL, &destination, WALL);
    assert!(times.take_due(WALL.minus(Duration::from_hours(24))).is_empty());
    assert_eq!(times.next(), None);
}

#[derive(Debug, Clone)]
enum Move {
    Reserve,
    Claim(usize),
    End(Verdict),
    Drop,
    Wait(u64),
}

fn moves() -> impl Strategy<Value = Move> {
    let verdict = prop_oneof![
        Just(Verdict::Delivered),
        Just(Verdict::Refused),
        Just(FAILED),
        Just(Verdict::Failed { slow_down: true })
    ];
    prop_oneof![
        Just(Move::Reserve),
        (0_usize..20).prop_map(Move::Claim),
        verdict.prop_map(Move::End),
        Just(Move::Drop),
        (0_u64..30_000).prop_map(Move::Wait)
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_limits_hold(moves in proptest::collection::vec(moves(), 0..200)) {
        let mut now = Instant::now();
        let mut lane = lane(now);
        // Attempts in flight: whether each is a retry and whether it is a probe.
        let mut flying: Vec<(bool, bool)> = Vec::new();
        for step in moves {
            let allowed_before = lane.allowed();
            match step {
                Move::Reserve => {
                    let closed = lane.circuit() == Circuit::Closed;
                    if reserve(&mut lane, now) {
                        prop_assert!(closed);
                        flying.push((false, false));
                        prop_assert!(flying.len() <= allowed_before);
                    }
                }
                Move::Claim(share) => {
                    if let Some(room) = lane.start_claim(share, PLENTY, now) {
                        prop_assert!(room.slots <= share && room.slots > 0);
                        let mut retries = room.retries;
                        for _ in 0..room.slots {
                            let retry = retries > 0;
                            retries = retries.saturating_sub(1);
                            if retry { lane.count_retry(); }
                            flying.push((retry, room.probe));
                        }
                        lane.end_claim(None);
                        prop_assert!(room.probe || flying.len() <= allowed_before);
                    }
                }
                Move::End(verdict) => if let Some((retry, probe)) = flying.pop() {
                    lane.judge(&RULES, verdict, probe, now, WALL);
                    lane.release(retry, false, now);
                },
                Move::Drop => if let Some((retry, probe)) = flying.pop() {
                    lane.release(retry, probe, now);
                },
                Move::Wait(ms) => now += Duration::from_millis(ms),
            }
            prop_assert_eq!(lane.in_flight(), flying.len());
            prop_assert!(lane.allowed() >= 1 && lane.allowed() <= RULES.limit);
            prop_assert!(flying.iter().filter(|(_, probe)| *probe).count() <= 2);
            let half_open = matches!(lane.circuit(), Circuit::HalfOpen { .. });
            prop_assert!(!half_open || flying.iter().any(|(_, probe)| *probe), "a probe is in flight");
        }
    }

    #[test]
    fn a_claim_ends_and_never_asks_for_more_than_there_is_room(
        slots in 1_usize..40, retry_room in 0_usize..20, first_tries in 0_usize..60, retries in 0_usize..60,
    ) {
        let (mut slots, mut retry_room, mut first_tries, mut retries) = (slots, retry_room, first_tries, retries);
        let mut plan = ClaimPlan::new();
        let mut asks = 0;
        while let Some(ask) = plan.ask(slots, retry_room) {
            prop_assert!(ask.in_all <= slots && ask.retries <= retry_room && ask.retries <= ask.in_all);
            let claimed_retries = ask.retries.min(retries);
            let left = ask.in_all - claimed_retries;
            let got = Got { first_tries: ask.first_tries.min(left).min(first_tries), retries: claimed_retries };
            plan.learn(ask, got);
            slots -= got.first_tries + got.retries;
            retry_room -= got.retries;
            first_tries -= got.first_tries;
            retries -= got.retries;
            asks += 1;
            prop_assert!(asks <= 4);
        }
        prop_assert!(slots == 0 || first_tries == 0);
        prop_assert!(slots == 0 || retry_room == 0 || retries == 0);
    }
}

#[test]
fn a_destination_that_its_owner_set_anew_has_no_history_of_failing() {
    let now = Instant::now();
    let mut lane = open_lane(now);
    assert_eq!(lane.failing_since(), Some(WALL));
    lane.adopt_failing_since(Some(WALL));
    lane.adopt_failing_since(None);
    assert_eq!(lane.failing_since(), None);
    let later = WALL.plus(Duration::from_hours(24 * 6));
    let aftermath = lane.judge(&RULES, FAILED, false, now, later);
    assert_eq!((aftermath.failing_since, lane.failing_since()), (None, Some(later)));
}

#[test]
fn a_destination_that_gets_nothing_more_has_no_open_circuit_and_may_be_forgotten() {
    let now = Instant::now();
    let mut lane = lane(now);
    attempt_anyhow(&mut lane, Verdict::Failed { slow_down: true }, now);
    for _ in 0..RULES.circuit_failures {
        attempt_anyhow(&mut lane, FAILED, now);
    }
    assert!(matches!(lane.circuit(), Circuit::Open { .. }) && lane.allowed() < RULES.limit);
    lane.start_anew(&RULES);
    assert_eq!((lane.circuit(), lane.failing_since(), lane.allowed()), (Circuit::Closed, None, RULES.limit));
    assert!(lane.is_idle(now, Duration::ZERO));
    assert!(!attempt(&mut lane, FAILED, now).opened, "failures are counted from the beginning");
}

#[test]
fn failures_that_no_row_tells_of_yet_are_not_forgotten() {
    let now = Instant::now();
    let mut lane = lane(now);
    attempt(&mut lane, FAILED, now);
    lane.adopt_failing_since(None);
    assert_eq!(lane.failing_since(), Some(WALL));
}
