//! Writing down what came of attempts, many at a time.
//!
//! Nobody waits for a result to be on disk: an attempt that is over hands it in and gives its room back, and one task
//! takes what has gathered to the store. So a destination's room is the number of its requests under way, whatever the
//! database's commits take, and a hundred attempts a second cost a few commits.
//!
//! **Owns** the results that are not recorded yet. **Invariants**: their number is bounded; each is counted as a task, so
//! that draining waits for it. What the store cannot take now (its disk is full, its server away) takes its room back and
//! stays in hand until it is recorded: nothing further is sent that could not be written down either, and however long
//! that lasts, it makes no flood of repeats. What the store refuses for itself is given up before its lease ends: the
//! delivery is repeated under the same `webhook-id`, never lost. **Must not know** how a delivery is sent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    attempt::HeldDelivery,
    lanes::{RoomInAll, SharedLane},
    shared::{CountedTask, Shared, lock},
};
use crate::{
    model::{delivery::DeliveryStatus, ids::OrgId, pauses::Pauses, provider::ProviderSlug},
    store::{AttemptRecord, StoreError},
};

/// Recording ends this long before the lease does.
const RECORDING_MARGIN: Duration = Duration::from_secs(1);
/// Between tries to record.
const RECORDING_PAUSES: Pauses = Pauses::doubling(Duration::from_millis(50), Duration::from_secs(2));
/// How long a result waits for others. A process that dies meanwhile repeats that many more deliveries.
const GATHERING_TIME: Duration = Duration::from_millis(10);
/// Records in one call of the store: they are one of its requests, and it bounds its batches by those.
const RECORDS_AT_ONCE: usize = 256;
/// Results that may wait. Beyond that an attempt keeps its room until its result is recorded.
const MAX_UNRECORDED: usize = 4096;

/// What came of an attempt, to be written down.
pub(super) struct Unrecorded {
    pub record: AttemptRecord,
    pub provider: ProviderSlug,
    pub org: OrgId,
    pub lane: Arc<SharedLane>,
    /// When its lease began at the earliest.
    pub leased_at: Instant,
    /// Let go before the row may be claimed again.
    pub held: Option<HeldDelivery>,
    /// Draining waits for it.
    pub _counted: CountedTask,
}

/// The results that wait, and whether somebody records them.
#[derive(Default)]
pub(super) struct RecordQueue {
    waiting: Vec<Unrecorded>,
    recorder_runs: bool,
}

impl Shared {
    /// Hands a result in. Answers at once, unless very many wait.
    pub(super) async fn record(self: &Arc<Self>, result: Unrecorded) {
        if let Some(result) = self.queue_result(result) {
            self.record_alone(result).await;
        }
    }

    /// Gives it back if there is no place for it.
    fn queue_result(self: &Arc<Self>, result: Unrecorded) -> Option<Unrecorded> {
        let mut queue = lock(&self.record_queue);
        if queue.waiting.len() >= MAX_UNRECORDED {
            return Some(result);
        }
        queue.waiting.push(result);
        if !std::mem::replace(&mut queue.recorder_runs, true) {
            drop(queue);
            self.start_recorder();
        }
        None
    }

    fn start_recorder(self: &Arc<Self>) {
        let turn = RecorderTurn(Arc::clone(self));
        self.spawn("record", async move { turn.run().await });
    }

    /// Records these in one call. What does not go in together is tried again alone: one of them may be to blame.
    async fn record_together(self: &Arc<Self>, mut results: Vec<Unrecorded>) {
        for result in &mut results {
            result.held = None;
        }
        let records = results.iter().map(|result| result.record.clone()).collect();
        let recorded = self.store.record_attempts(records).await;
        for result in results {
            if recorded.is_ok() {
                self.follow(&result);
            } else {
                let shared = Arc::clone(self);
                self.spawn("record", async move { shared.record_alone(result).await });
            }
        }
    }

    /// Writes a result down, trying again and again.
    async fn record_alone(self: &Arc<Self>, mut result: Unrecorded) {
        let mut pauses = RECORDING_PAUSES;
        let mut room = None;
        result.held = None;
        while let Err(error) = self.store.record_attempts(vec![result.record.clone()]).await {
            let pause = pauses.next_pause();
            let left = self.lease().saturating_sub(result.leased_at.elapsed());
            if matches!(error, StoreError::Unavailable(_)) {
                room.get_or_insert_with(|| RoomInAll::take_back(self));
                // Not to be had if its lease is over and it was claimed meanwhile, here: then it is repeated already.
                result.held = HeldDelivery::take(self, &result.record.attempt.delivery);
            } else if left < pause + RECORDING_MARGIN {
                tracing::error!(
                    delivery.id = %result.record.attempt.delivery,
                    code = error.code(),
                    "an attempt cannot be recorded; its delivery will be repeated"
                );
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.is_cut() => return,
            }
            result.held = None;
        }
        self.follow(&result);
    }

    /// What follows from a result that is on disk.
    fn follow(self: &Arc<Self>, result: &Unrecorded) {
        let record = &result.record;
        if record.status != DeliveryStatus::Pending {
            self.metrics.delivery_finished(result.provider, &result.org, record.status);
        } else if lock(&self.retry_times).note(record.due_at, &result.lane.id, self.due_clock.now()) {
            self.wake();
        }
    }
}

/// The one who records now. Its end, panic or not, leaves the place to the next.
struct RecorderTurn(Arc<Shared>);

impl RecorderTurn {
    async fn run(&self) {
        let mut at_once = 0;
        loop {
            // What came while a full call was on its way has waited enough.
            if at_once < RECORDS_AT_ONCE {
                tokio::time::sleep(GATHERING_TIME).await;
            }
            let results: Vec<Unrecorded> = {
                let mut queue = lock(&self.0.record_queue);
                at_once = queue.waiting.len().min(RECORDS_AT_ONCE);
                queue.recorder_runs = at_once > 0;
                queue.waiting.drain(..at_once).collect()
            };
            if results.is_empty() {
                return;
            }
            self.0.record_together(results).await;
        }
    }
}

impl Drop for RecorderTurn {
    fn drop(&mut self) {
        // After a regular end somebody else may be recording already.
        if std::thread::panicking() {
            let mut queue = lock(&self.0.record_queue);
            queue.recorder_runs = !queue.waiting.is_empty();
            let more = queue.recorder_runs;
            drop(queue);
            if more {
                self.0.start_recorder();
            }
        }
    }
}
