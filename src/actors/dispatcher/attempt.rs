//! One attempt of one delivery, from its lease to its result (`recording` writes that down).
//!
//! **Invariants**: nothing is sent unless the lease, by a clock that only moves forward and by the wall's, outlasts a whole
//! attempt and its record, nor while other nodes may believe that this one is gone; a delivery is in one task's hands at a
//! time; an attempt that panics frees its slot and leaves its row to the lease.
//! **Must not know** who claimed it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    destinations::{Found, Target},
    lanes::Slot,
    recording::Unrecorded,
    seats::Seated,
    shared::Shared,
    state::{Aftermath, Verdict},
};
use crate::{
    delivery::{
        client::{Answer, Post},
        payload,
        schedule::{self, Decision},
        sign,
    },
    model::{
        clock::EpochMs,
        delivery::{Attempt, AttemptResult, DeliveryStatus},
        ids::{DeliveryId, DestinationId},
    },
    store::{AttemptRecord, ClaimedDelivery, ToReaddress},
    telemetry::traces::AttemptSpan,
};

/// How long a destination rests whose delivery could not be tried for a reason of ours.
const REST: Duration = Duration::from_secs(1);

impl Shared {
    /// Starts the attempt of a delivery leased by this node, or seats it, unless this process has it in hand already.
    pub(super) fn start_attempt(self: &Arc<Self>, claimed: ClaimedDelivery, slot: Slot) {
        let Some(held) = HeldDelivery::take(self, &claimed.delivery.id) else {
            tracing::warn!(delivery.id = %claimed.delivery.id, "claimed again while in hand; left alone");
            return;
        };
        if slot.is_seat() {
            self.seat(Seated { claimed, held, slot });
        } else {
            self.attempt(claimed, held, slot);
        }
    }

    /// Starts an attempt on its slot.
    pub(super) fn attempt(self: &Arc<Self>, claimed: ClaimedDelivery, held: HeldDelivery, slot: Slot) {
        let attempt = OneAttempt {
            shared: Arc::clone(self),
            claimed,
            slot,
            held: Some(held),
            generation: 0,
            row_url: Arc::default(),
        };
        self.spawn("attempt", attempt.run());
    }
}

/// A delivery in this process's hands.
pub(super) struct HeldDelivery {
    shared: Arc<Shared>,
    id: DeliveryId,
}

impl HeldDelivery {
    /// Takes it, unless it is in hand already.
    pub(super) fn take(shared: &Arc<Shared>, id: &DeliveryId) -> Option<Self> {
        shared.held.insert(id.clone()).then(|| Self { shared: Arc::clone(shared), id: id.clone() })
    }
}

impl Drop for HeldDelivery {
    fn drop(&mut self) {
        self.shared.held.remove(&self.id);
    }
}

/// What one attempt works with.
struct OneAttempt {
    shared: Arc<Shared>,
    claimed: ClaimedDelivery,
    slot: Slot,
    /// Let go once nothing more is sent and before the row may be claimed again.
    held: Option<HeldDelivery>,
    /// Which state of the destination it is sent to.
    generation: u64,
    /// The URL in the destination's row then.
    row_url: Arc<str>,
}

impl OneAttempt {
    async fn run(mut self) {
        let lane = Arc::clone(self.slot.lane());
        self.generation = lane.generation.load(Ordering::Acquire);
        match self.shared.find_target(&lane).await {
            Found::Target(target) => {
                self.row_url = Arc::clone(&target.row_url);
                match &target.disabled {
                    Some(reason) => self.bury(reason).await,
                    None => self.send(&target).await,
                }
            }
            Found::Unusable { why, row_url } => {
                self.row_url = row_url;
                let answer = not_sent(AttemptResult::InvalidDestination, why);
                self.conclude(self.shared.clock.now(), answer).await;
            }
            Found::Missing => self.readdress().await,
            Found::Unknown => self.give_back().await,
        }
    }

    async fn send(&mut self, target: &Target) {
        let shared = Arc::clone(&self.shared);
        let body = match payload::body_of(&self.claimed) {
            Ok(body) => Bytes::from(body),
            Err(error) => {
                tracing::error!(delivery.id = %self.claimed.delivery.id, %error, "an envelope cannot be written");
                let answer = not_sent(AttemptResult::InvalidDestination, "the envelope cannot be written");
                return self.conclude(shared.clock.now(), answer).await;
            }
        };
        let lease_left = shared.lease_left(self.slot.leased_at(), self.claimed.delivery.lease_until);
        if lease_left < shared.lease_needed() || !*shared.is_present.borrow() {
            return self.give_back().await;
        }
        let started_at = shared.clock.now();
        let timestamp_s = started_at.0 / 1000;
        let webhook_id = self.claimed.delivery.id.clone();
        let signature = sign::signature(target.secrets(started_at), webhook_id.as_str(), timestamp_s, &body);
        let post = Post {
            url: &target.url,
            extra_headers: &target.headers,
            webhook_id: webhook_id.as_str(),
            timestamp_s,
            signature: signature.as_deref(),
            correlation_id: &self.claimed.event.correlation_id,
            body,
        };
        let answer = tokio::select! {
            answer = shared.client.post(post) => answer,
            // The time to shut down is over: the lease is given up by `drain`.
            () = shared.is_cut() => return,
            // Another node may send it from now on.
            () = shared.is_absent() => return,
        };
        self.conclude(started_at, answer).await;
    }

    /// What follows from the answer: for the lane, the destination and the delivery.
    async fn conclude(&mut self, started_at: EpochMs, answer: Answer) {
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.now();
        let (delivery, provider) = (&self.claimed.delivery, self.claimed.event.provider);
        let (delivery_id, attempts_before) = (delivery.id.clone(), delivery.attempts);
        shared.metrics.attempt_ended(provider, answer.result.code(), answer.took);
        let aftermath = self.slot.judge(Verdict::of(&answer.result), now);
        self.follow_up(&answer.result, aftermath, now);

        let replaced = schedule::is_gone(&answer.result) && !self.was_sent_to_its_address().await;
        let (tried, waits) = (self.claimed.delivery.attempts_of_schedule(), &shared.config.retry_schedule);
        let due_now = shared.due_clock.now();
        let decision = schedule::decide(tried, &answer.result, replaced, waits, due_now, rand::random());
        let (status, reason, due_at) = match decision {
            Decision::Delivered => (DeliveryStatus::Delivered, None, now),
            Decision::RetryAt { at, reason } => (DeliveryStatus::Pending, Some(reason), at),
            Decision::Dead { reason } => (DeliveryStatus::Dead, Some(reason), now),
        };
        self.tell(&answer, status);
        let attempt = Attempt {
            id: shared.ids.attempt(),
            delivery: delivery_id,
            number: attempts_before.saturating_add(1),
            started_at,
            duration_ms: millis(answer.took),
            result: answer.result.code().to_owned(),
            status_code: answer.result.status(),
            error: answer.error.map(str::to_owned),
            response_body: answer.response_body,
        };
        self.trace(&attempt, status, answer.took);
        self.record(attempt, status, reason.map(str::to_owned), due_at).await;
    }

    /// Its span, in the trace of the webhook.
    fn trace(&self, attempt: &Attempt, status: DeliveryStatus, took: Duration) {
        let event = &self.claimed.event;
        self.shared.traces.record_attempt(&AttemptSpan {
            trace_id: event.trace_id.as_deref(),
            event: &event.id,
            provider: event.provider,
            delivery: &attempt.delivery,
            number: attempt.number,
            destination: &self.slot.lane().id,
            result: &attempt.result,
            status_code: attempt.status_code,
            delivery_status: status.as_str(),
            succeeded: status == DeliveryStatus::Delivered,
            started_at: attempt.started_at,
            took,
        });
    }

    /// One line in the log. What went well is told only to those who ask for detail.
    fn tell(&self, answer: &Answer, status: DeliveryStatus) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    delivery.id = %self.claimed.delivery.id,
                    delivery.attempt = self.claimed.delivery.attempts.saturating_add(1),
                    delivery.status = %status,
                    event.id = %self.claimed.event.id,
                    destination.id = %self.slot.lane().id,
                    result = answer.result.code(),
                    http.status = answer.result.status(),
                    duration_ms = millis(answer.took),
                    "attempt ended"
                )
            };
        }
        if status == DeliveryStatus::Delivered { line!(debug) } else { line!(info) }
    }

    /// Whether the destination's row has the address that it was sent to. What a replaced one says is not the new one's word.
    async fn was_sent_to_its_address(&self) -> bool {
        let destination = &self.slot.lane().id;
        match self.shared.load_target(destination).await {
            Found::Target(target) => target.row_url == self.row_url,
            Found::Unusable { row_url, .. } => row_url == self.row_url,
            // It goes to whatever serves its integration now.
            Found::Missing | Found::Unknown => false,
        }
    }

    /// What an answer means beyond its delivery.
    fn follow_up(&self, result: &AttemptResult, aftermath: Aftermath, now: EpochMs) {
        let (shared, lane) = (&self.shared, self.slot.lane());
        let configured = lane.id == DestinationId::configured_default();
        if aftermath.opened {
            tracing::warn!(destination.id = %lane.id, "a destination keeps failing; only probes are sent now");
        }
        if schedule::is_gone(result) && configured {
            // Everybody's destination is the operator's to change, not one answer's to disable: it rests instead.
            tracing::error!("the configured destination answers 410 Gone; it rests");
            lane.state().open_for_long(&shared.lanes.rules, Instant::now());
        }
        if configured {
            return;
        }
        // What was answered under an address that its owner has replaced meanwhile disables nothing; where another node
        // wrote that and this one has not heard of it, the row tells by its URL.
        let is_current = lane.generation.load(Ordering::Acquire) == self.generation;
        if !is_current && Verdict::of(result) != Verdict::Delivered {
            // Who is disabled or deleted by now must not be left with an open circuit that nobody will probe.
            shared.spawn("look again", Arc::clone(shared).look_again(Arc::clone(lane)));
        }
        let too_long = aftermath.failing_since.is_some_and(|since| now.since(since) >= shared.config.disable_after);
        if is_current && (schedule::is_gone(result) || too_long) {
            let (url, reason) = (Arc::clone(&self.row_url), if schedule::is_gone(result) { "gone" } else { "failing" });
            shared.spawn("disable", Arc::clone(shared).disable(Arc::clone(lane), url, reason));
        } else if aftermath.note_failing.is_some() || aftermath.note_recovered {
            let url = Arc::clone(&self.row_url);
            let noting = Arc::clone(shared).note_failing(Arc::clone(lane), url, aftermath.note_failing);
            shared.spawn("note", noting);
        }
    }

    /// The destination is disabled: the delivery is dead without having been sent.
    async fn bury(&mut self, reason: &str) {
        let attempt = Attempt {
            id: self.shared.ids.attempt(),
            delivery: self.claimed.delivery.id.clone(),
            number: self.claimed.delivery.attempts.saturating_add(1),
            started_at: self.shared.clock.now(),
            duration_ms: 0,
            result: "destination_disabled".to_owned(),
            status_code: None,
            error: Some("nothing was sent: the destination is disabled".to_owned()),
            response_body: None,
        };
        let now = self.shared.clock.now();
        self.trace(&attempt, DeliveryStatus::Dead, Duration::ZERO);
        self.record(attempt, DeliveryStatus::Dead, Some(reason.to_owned()), now).await;
    }

    /// The destination was deleted: the delivery goes to whatever serves its integration now, or waits without one.
    async fn readdress(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.held = None;
        let fallback = shared.default_target.as_ref().map(|_| DestinationId::configured_default());
        let org = &self.claimed.delivery.org;
        match shared
            .store
            .readdress_deliveries(ToReaddress::OfOrg(org), fallback.as_ref(), shared.due_clock.now())
            .await
        {
            Ok(readdressed) => tracing::info!(destination.id = %self.slot.lane().id, readdressed, "destination gone"),
            Err(error) => tracing::warn!(code = error.code(), "deliveries cannot be readdressed"),
        }
        self.give_back().await;
        shared.poll_soon();
    }

    /// Not tried, for no fault of the destination's.
    async fn give_back(&mut self) {
        // If the store cannot do what is asked, this must not become a busy loop.
        self.held = None;
        self.slot.lane().state().rest(Instant::now() + REST);
        self.shared.give_back_leases(std::slice::from_ref(&self.claimed.delivery.id)).await;
    }

    /// Hands the result in to be written down. The room is free when this returns.
    async fn record(&mut self, attempt: Attempt, status: DeliveryStatus, reason: Option<String>, due_at: EpochMs) {
        let shared = Arc::clone(&self.shared);
        let finished_at = (status != DeliveryStatus::Pending).then_some(due_at);
        let record = AttemptRecord {
            attempt,
            owner: shared.node.clone(),
            attempts_before_retry: self.claimed.delivery.attempts_before_retry,
            status,
            reason,
            due_at,
            finished_at,
        };
        let result = Unrecorded {
            record,
            provider: self.claimed.event.provider,
            org: self.claimed.delivery.org.clone(),
            lane: Arc::clone(self.slot.lane()),
            leased_at: self.slot.leased_at(),
            held: self.held.take(),
            _counted: shared.count_task(),
        };
        shared.record(result).await;
    }
}

fn not_sent(result: AttemptResult, error: &'static str) -> Answer {
    Answer { result, error: Some(error), response_body: None, took: Duration::ZERO }
}

pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
