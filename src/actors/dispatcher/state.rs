//! What the dispatcher knows of one destination, and the rules it goes by. Pure: time is an argument, nothing is sent.
//!
//! **Owns** limits, circuits, fairness and which deliveries are asked for. **Invariants**: never more attempts in flight
//! to a destination than its limit; retries never take more than half of it, so that they cannot starve first tries;
//! while a circuit is not closed nothing but one probe at a time is sent. **Must not know** the store, the network or
//! actors.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    delivery::schedule,
    model::{clock::EpochMs, delivery::AttemptResult, ids::DestinationId},
};

/// How often the wait before a probe doubles at the most: 16 times the first wait.
const MAX_PROBE_FACTOR: u32 = 16;

/// Retries due later than this are left to the poll: a second's lateness is nothing to them.
const RETRY_HORIZON: Duration = Duration::from_mins(1);

/// Retries are remembered in steps of this, so that a thousand at the same moment are one entry.
const RETRY_STEP_MS: i64 = 20;

/// The limits every destination has.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneRules {
    /// Attempts in flight at the most.
    pub limit: usize,
    /// New deliveries that may wait in memory for one of those to end.
    pub seats: usize,
    /// Failures in a row that open the circuit.
    pub circuit_failures: u32,
    /// The wait before the first probe.
    pub probe_wait: Duration,
    /// The longest wait before a retry. No later probe is waited for longer: what is due to be retried would be late.
    pub longest_retry_wait: Duration,
}

impl LaneRules {
    fn retry_limit(&self) -> usize {
        (self.limit / 2).max(1)
    }

    fn longest_probe_wait(&self) -> Duration {
        self.probe_wait.saturating_mul(MAX_PROBE_FACTOR).min(self.longest_retry_wait.max(self.probe_wait))
    }
}

/// Whether a destination is trusted to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Circuit {
    /// It is.
    Closed,
    /// It is not; from `until` on one probe may go.
    Open {
        /// When the next probe may go.
        until: Instant,
        /// The wait that ends then.
        wait: Duration,
    },
    /// A probe is in flight.
    HalfOpen {
        /// The wait before this probe.
        wait: Duration,
    },
}

/// Where a new delivery that goes out from memory has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Among the attempts in flight.
    Slot,
    /// Among those that wait in memory for a slot.
    Seat,
}

/// Whether the delivery that has waited longest on a seat may have a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promotion {
    /// It has it now.
    Promoted,
    /// Not before an attempt in flight has ended.
    Later,
    /// Nothing is sent to this destination now: it is better off in the store.
    Never,
}

impl Circuit {
    /// Its word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }
}

/// What an attempt says about its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works.
    Delivered,
    /// It is there and does not want this (3xx, most 4xx).
    Refused,
    /// It does not work now.
    Failed {
        /// It asked for fewer requests.
        slow_down: bool,
    },
}

impl Verdict {
    pub(super) fn of(result: &AttemptResult) -> Self {
        match result.status() {
            Some(200..=299) => Self::Delivered,
            Some(429 | 500..=599) | None => Self::Failed { slow_down: schedule::asks_to_slow_down(result) },
            Some(_) => Self::Refused,
        }
    }
}

/// What follows from a verdict, beyond the lane's own state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Aftermath {
    /// The circuit opened with this.
    pub opened: bool,
    /// The destination has failed for some while, since then, and its row does not say so yet.
    pub note_failing: Option<EpochMs>,
    /// The destination works again and its row says it does not.
    pub note_recovered: bool,
    /// It has been failing since then, often enough in a row to mean it.
    pub failing_since: Option<EpochMs>,
}

/// Room for a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClaimRoom {
    /// Attempts that may start.
    pub slots: usize,
    /// How many of them may be retries.
    pub retries: usize,
    /// Whether it is the one probe of an open circuit.
    pub probe: bool,
}

/// Whether the store is being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claiming {
    No,
    Once,
    /// Something fell due since, so that another claim follows.
    ThenAgain,
}

/// One destination's traffic.
#[derive(Debug)]
pub(super) struct Lane {
    circuit: Circuit,
    /// Failures in a row.
    failures: u32,
    /// Attempts in a row without a 2xx.
    unsuccessful: u32,
    /// The limit at the moment: halved when the destination asks us to slow down, raised by one with each success.
    allowed: usize,
    /// How many of those in flight may be retries.
    retry_limit: usize,
    in_flight: usize,
    retries_in_flight: usize,
    /// New deliveries on seats: leased, and waiting for their commit or for a slot.
    seated: usize,
    /// First tries wait in the store; newer ones must not overtake them.
    first_tries_wait: bool,
    retries_wait: bool,
    /// How many places in all the first that waits needs, if it was found to need more than there were.
    places_awaited: usize,
    claiming: Claiming,
    rest_until: Option<Instant>,
    /// Since when no attempt has succeeded.
    failing_since: Option<EpochMs>,
    /// Whether the row says so.
    failing_noted: bool,
    used_at: Instant,
}

impl Lane {
    pub(super) fn new(rules: &LaneRules, now: Instant) -> Self {
        Self {
            circuit: Circuit::Closed,
            failures: 0,
            unsuccessful: 0,
            allowed: rules.limit,
            retry_limit: rules.retry_limit(),
            in_flight: 0,
            retries_in_flight: 0,
            seated: 0,
            first_tries_wait: false,
            retries_wait: false,
            places_awaited: 0,
            claiming: Claiming::No,
            rest_until: None,
            failing_since: None,
            failing_noted: false,
            used_at: now,
        }
    }

    pub(super) fn circuit(&self) -> Circuit {
        self.circuit
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn seated(&self) -> usize {
        self.seated
    }

    pub(super) fn allowed(&self) -> usize {
        self.allowed
    }

    pub(super) fn failing_since(&self) -> Option<EpochMs> {
        self.failing_since
    }

    /// Whether the store is known to hold more for it.
    pub(super) fn waits(&self) -> bool {
        self.first_tries_wait || self.retries_wait
    }

    /// Takes room for a new delivery that goes out from memory, behind those that have seats. Refused while older first
    /// tries wait in the store, so that they are not overtaken for long; refused for want of room, the newcomer is one
    /// that waits there. A destination that asked us to slow down has no seats to offer.
    pub(super) fn reserve(&mut self, rules: &LaneRules, free_in_all: usize, now: Instant) -> Option<Place> {
        self.used_at = now;
        if self.circuit != Circuit::Closed || self.first_tries_wait || self.rests(now) {
            return None;
        }
        if self.seated == 0 && self.in_flight < self.most(free_in_all) {
            self.in_flight += 1;
            return Some(Place::Slot);
        }
        if self.allowed == rules.limit && self.seated < rules.seats {
            self.seated += 1;
            return Some(Place::Seat);
        }
        self.first_tries_wait = true;
        None
    }

    /// Gives the next of those on seats a slot, if there is one. While retries wait that could go, a quarter of the room
    /// is left free, which is when they are asked for. It waits only for an attempt that is in flight, so that there is
    /// one whose end asks again.
    pub(super) fn promote(&mut self, free_in_all: usize, now: Instant) -> Promotion {
        if self.circuit != Circuit::Closed || self.rests(now) {
            return Promotion::Never;
        }
        let kept_free = if self.retries_could_go() { self.allowed.div_ceil(4) } else { 0 };
        if self.in_flight > 0 && self.in_flight + kept_free >= self.most(free_in_all) {
            return Promotion::Later;
        }
        self.seated = self.seated.saturating_sub(1);
        self.in_flight += 1;
        Promotion::Promoted
    }

    /// The slot that came of a seat is not to be had after all.
    pub(super) fn return_to_seat(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.seated += 1;
    }

    /// A seat was given up.
    pub(super) fn leave_seat(&mut self) {
        self.seated = self.seated.saturating_sub(1);
    }

    /// A new delivery waits in the store.
    pub(super) fn wait_in_store(&mut self) {
        self.first_tries_wait = true;
    }

    /// What waits in the store was found to need so many places in all; 0 if there was room for it.
    pub(super) fn wait_for_places(&mut self, places: usize) {
        self.places_awaited = places;
    }

    /// How many places in all must be free before a claim is of use. Where nothing is in flight, none: there is nothing
    /// whose end would ask again.
    pub(super) fn places_awaited(&self) -> usize {
        if self.in_flight == 0 { 0 } else { self.places_awaited }
    }

    /// Something is due. Whether a claim should start; while one runs, another follows it.
    pub(super) fn nudge(&mut self) -> bool {
        let idle = self.claiming == Claiming::No;
        if !idle {
            self.claiming = Claiming::ThenAgain;
        }
        idle
    }

    /// Takes room for a claim of at most `share` attempts and starts it.
    pub(super) fn start_claim(&mut self, share: usize, free_in_all: usize, now: Instant) -> Option<ClaimRoom> {
        if self.claiming != Claiming::No || share == 0 || self.rests(now) {
            return None;
        }
        let room = match self.circuit {
            Circuit::Closed => ClaimRoom {
                // Each that it takes is one that is not free any more: what `most` says of one after the other.
                slots: self
                    .allowed
                    .saturating_sub(self.in_flight)
                    .min(free_in_all.saturating_sub(2 * self.in_flight).div_ceil(3))
                    .min(share),
                retries: self.retry_room(),
                probe: false,
            },
            Circuit::Open { until, wait } if until <= now => {
                self.circuit = Circuit::HalfOpen { wait };
                ClaimRoom { slots: 1, retries: 1, probe: true }
            }
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => return None,
        };
        if room.slots == 0 {
            // Something is due, perhaps a retry, and those on seats must not take every slot before it.
            self.retries_wait |= self.seated > 0;
            return None;
        }
        self.claiming = Claiming::Once;
        self.in_flight += room.slots;
        self.used_at = now;
        Some(room)
    }

    /// A claim ended. `learnt` says what it found out, if it got an answer. Whether another should follow.
    pub(super) fn end_claim(&mut self, learnt: Option<ClaimPlan>) -> bool {
        let claiming = std::mem::replace(&mut self.claiming, Claiming::No);
        if let Some(plan) = learnt {
            self.first_tries_wait = plan.first_tries_open;
            self.retries_wait = plan.retries_open;
        }
        claiming == Claiming::ThenAgain || self.wants_claim()
    }

    /// One of the attempts in flight turned out to be a retry.
    pub(super) fn count_retry(&mut self) {
        self.retries_in_flight += 1;
    }

    /// An attempt ended so.
    pub(super) fn judge(
        &mut self,
        rules: &LaneRules,
        verdict: Verdict,
        probe: bool,
        now: Instant,
        wall: EpochMs,
    ) -> Aftermath {
        let mut aftermath = Aftermath::default();
        let closes = match verdict {
            Verdict::Delivered => {
                self.unsuccessful = 0;
                self.failing_since = None;
                self.allowed = (self.allowed + 1).min(rules.limit);
                aftermath.note_recovered = std::mem::take(&mut self.failing_noted);
                true
            }
            Verdict::Refused => probe || self.circuit == Circuit::Closed,
            Verdict::Failed { .. } => false,
        };
        if closes {
            self.failures = 0;
            self.circuit = Circuit::Closed;
        }
        if let Verdict::Failed { slow_down } = verdict {
            self.failures = self.failures.saturating_add(1);
            if slow_down {
                self.allowed = (self.allowed / 2).max(1);
            }
            aftermath.opened = self.fail(rules, probe, now);
        }
        if verdict != Verdict::Delivered {
            self.unsuccessful = self.unsuccessful.saturating_add(1);
            let since = *self.failing_since.get_or_insert(wall);
            if self.unsuccessful >= rules.circuit_failures {
                aftermath.failing_since = Some(since);
                if !std::mem::replace(&mut self.failing_noted, true) {
                    aftermath.note_failing = Some(since);
                }
            }
        }
        aftermath
    }

    /// Moves the circuit after a failure; whether it opened.
    fn fail(&mut self, rules: &LaneRules, probe: bool, now: Instant) -> bool {
        let wait = match self.circuit {
            Circuit::Closed if self.failures >= rules.circuit_failures => rules.probe_wait,
            Circuit::HalfOpen { wait } if probe => wait.saturating_mul(2).min(rules.longest_probe_wait()),
            // Attempts that were in flight when it opened say nothing new.
            _ => return false,
        };
        let opened = self.circuit == Circuit::Closed;
        self.circuit = Circuit::Open { until: now + wait, wait };
        opened
    }

    /// Opens the circuit for as long as it ever waits.
    pub(super) fn open_for_long(&mut self, rules: &LaneRules, now: Instant) {
        let wait = rules.longest_probe_wait();
        self.circuit = Circuit::Open { until: now + wait, wait };
    }

    /// Nothing is sent to the destination any more, it is disabled or deleted: what was counted says nothing of whatever
    /// comes after, and what still waits for it needs no probe.
    pub(super) fn start_anew(&mut self, rules: &LaneRules) {
        self.circuit = Circuit::Closed;
        self.failures = 0;
        self.unsuccessful = 0;
        self.failing_since = None;
        self.allowed = rules.limit;
    }

    /// The destination may work again: an open circuit may probe at once.
    pub(super) fn probe_at_once(&mut self, now: Instant) {
        if let Circuit::Open { until, .. } = &mut self.circuit {
            *until = now;
        }
    }

    /// Gives room back. A probe that was never judged leaves its place to the next.
    pub(super) fn release(&mut self, retry: bool, unjudged_probe: bool, now: Instant) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        if retry {
            self.retries_in_flight = self.retries_in_flight.saturating_sub(1);
        }
        if let (Circuit::HalfOpen { wait }, true) = (self.circuit, unjudged_probe) {
            self.circuit = Circuit::Open { until: now, wait };
        }
        self.wants_claim()
    }

    /// Nothing is claimed for a while: the store failed, or what was claimed could not be used.
    pub(super) fn rest(&mut self, until: Instant) {
        self.rest_until = Some(until);
    }

    /// How many may be in flight while so much room in all is free: half as many, so that those which answer find room
    /// however many others hang.
    fn most(&self, free_in_all: usize) -> usize {
        self.allowed.min(free_in_all.div_ceil(2))
    }

    fn rests(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| now < until)
    }

    /// Takes over what the destination's row says. A row that no longer says what was noted was set anew by its owner, or
    /// the destination works for another node: what was counted before is history.
    pub(super) fn adopt_failing_since(&mut self, noted: Option<EpochMs>) {
        if self.failing_noted && noted.is_none() {
            self.failing_since = None;
            self.unsuccessful = 0;
        }
        self.failing_noted = noted.is_some();
        self.failing_since = noted.or(self.failing_since);
    }

    /// Noting it in the row failed: it is to be tried again.
    pub(super) fn failing_was_not_noted(&mut self, noted_instead: bool) {
        self.failing_noted = noted_instead;
    }

    /// How many more retries may be in flight.
    fn retry_room(&self) -> usize {
        self.retry_limit.saturating_sub(self.retries_in_flight)
    }

    /// Whether retries wait and enough of their half is free. A claim without room for them learns nothing of them, so
    /// that asking because of them would never end.
    fn retries_could_go(&self) -> bool {
        self.retries_wait && self.retry_room() >= self.retry_limit.div_ceil(4)
    }

    /// Whether more waits and enough room is free that asking the store is worth a transaction.
    fn wants_claim(&self) -> bool {
        self.claiming == Claiming::No
            && (self.first_tries_wait || self.retries_could_go())
            && self.circuit == Circuit::Closed
            && self.allowed.saturating_sub(self.in_flight) >= self.allowed.div_ceil(4)
    }

    /// Whether nothing would be lost by forgetting it.
    pub(super) fn is_idle(&self, now: Instant, age: Duration) -> bool {
        self.in_flight == 0
            && self.seated == 0
            && self.claiming == Claiming::No
            && !self.waits()
            && self.unsuccessful == 0
            && self.circuit == Circuit::Closed
            && now.saturating_duration_since(self.used_at) >= age
    }
}

/// How many of each are asked for at the most. Retries come first, and first tries get the room they leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    /// Deliveries without an attempt.
    pub first_tries: usize,
    /// Deliveries with one.
    pub retries: usize,
    /// Both together.
    pub in_all: usize,
}

/// How many of each were claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Got {
    /// Deliveries without an attempt.
    pub first_tries: usize,
    /// Deliveries with one.
    pub retries: usize,
}

/// What a claim has found out: whether the store may hold more of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClaimPlan {
    first_tries_open: bool,
    retries_open: bool,
}

impl ClaimPlan {
    pub(super) fn new() -> Self {
        Self { first_tries_open: true, retries_open: true }
    }

    /// What to ask for next, with that much room left; `None` ends the claim. With both waiting, half goes to each, and
    /// what retries do not need goes to first tries in the same transaction; a single place goes to a first try.
    pub(super) fn ask(self, slots: usize, retry_room: usize) -> Option<Ask> {
        let retries_wanted = if self.retries_open { retry_room } else { 0 };
        let retries = if self.first_tries_open { retries_wanted.min(slots / 2) } else { retries_wanted.min(slots) };
        let first_tries = if self.first_tries_open { slots } else { 0 };
        (first_tries + retries > 0).then_some(Ask { first_tries, retries, in_all: slots })
    }

    /// What the answer says: fewer than asked for means there are no more.
    pub(super) fn learn(&mut self, asked: Ask, got: Got) {
        self.first_tries_open &= got.first_tries >= asked.first_tries.min(asked.in_all.saturating_sub(got.retries));
        self.retries_open &= got.retries >= asked.retries;
    }
}

/// Destinations that want a claim, each once, in turn: the busiest gets no more turns than the others.
#[derive(Debug, Default)]
pub(super) struct ClaimQueue {
    turns: VecDeque<DestinationId>,
    members: HashSet<DestinationId>,
}

impl ClaimQueue {
    pub(super) fn push(&mut self, destination: &DestinationId) {
        if self.members.insert(destination.clone()) {
            self.turns.push_back(destination.clone());
        }
    }

    /// Puts one back whose turn could not be taken.
    pub(super) fn push_front(&mut self, destination: DestinationId) {
        if self.members.insert(destination.clone()) {
            self.turns.push_front(destination);
        }
    }

    pub(super) fn pop(&mut self) -> Option<DestinationId> {
        let destination = self.turns.pop_front()?;
        self.members.remove(&destination);
        Some(destination)
    }

    pub(super) fn len(&self) -> usize {
        self.turns.len()
    }
}

/// When retries fall due, as far as this process knows: it wakes for them exactly, and the poll finds the others.
#[derive(Debug, Default)]
pub(super) struct RetryTimes(BTreeSet<(EpochMs, DestinationId)>);

impl RetryTimes {
    /// Remembers a retry; whether it is now the next one.
    pub(super) fn note(&mut self, at: EpochMs, destination: &DestinationId, now: EpochMs) -> bool {
        if at.since(now) > RETRY_HORIZON {
            return false;
        }
        let step = EpochMs(at.0.saturating_add(RETRY_STEP_MS - 1) / RETRY_STEP_MS * RETRY_STEP_MS);
        let earliest_before = self.next();
        self.0.insert((step, destination.clone()));
        earliest_before.is_none_or(|earliest| step < earliest)
    }

    /// Takes those that are due. After a clock that jumped back, those too far ahead are left to the poll.
    pub(super) fn take_due(&mut self, now: EpochMs) -> Vec<DestinationId> {
        let kept = now.plus(RETRY_HORIZON.saturating_mul(2));
        self.0.retain(|(at, _)| *at <= kept);
        let mut due = Vec::new();
        while self.0.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.0.pop_first().map(|(_, destination)| destination));
        }
        due
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<EpochMs> {
        self.0.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests;
