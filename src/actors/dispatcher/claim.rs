//! Claiming what is due for one destination and starting its attempts.
//!
//! **Invariants**: nothing is sent that the store has not committed a lease for; whatever is claimed is tried or its
//! lease given back; what was held is begun in its order; a claim that panics leaves its lane free for the next. **Must
//! not know** how a delivery is sent.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{
    lanes::{RoomInAll, SharedLane, Slot},
    shared::Shared,
    state::{Ask, ClaimPlan, ClaimRoom, Got},
};
use crate::{
    model::{delivery::Delivery, ids::DeliveryId},
    store::{ClaimRequest, Claimed, ClaimedDelivery},
};

/// What is released from being held goes out one after the other: each when the one before was answered, or after so long. A
/// destination that is quicker gets them in their order; for one that is slower, all that are claimed are begun within their
/// lease.
const IN_ORDER_WAIT: Duration = Duration::from_millis(100);

/// How long a destination rests after the store failed to claim for it.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(500);

/// A claim under way.
pub(super) struct Claim {
    shared: Arc<Shared>,
    retry_room: usize,
    slots: Vec<Slot>,
    /// For bodies that are larger than a slot's place has room for.
    spare: RoomInAll,
    // After the slots: the lane is free for another claim once their room is given back.
    open: OpenClaim,
}

impl Claim {
    pub(super) fn new(
        shared: Arc<Shared>,
        lane: Arc<SharedLane>,
        room: ClaimRoom,
        slots: Vec<Slot>,
        spare: RoomInAll,
    ) -> Self {
        let open = OpenClaim { shared: Arc::clone(&shared), lane, learnt: None };
        Self { shared, retry_room: room.retries, slots, spare, open }
    }

    pub(super) async fn run(mut self) {
        let mut plan = ClaimPlan::new();
        while let Some(ask) = plan.ask(self.slots.len(), self.retry_room) {
            if self.shared.is_draining() {
                return;
            }
            let leased_at = Instant::now();
            let claimed = match self.shared.store.claim_deliveries(&self.request(ask)).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::warn!(
                        destination.id = %self.open.lane.id,
                        code = error.code(),
                        "nothing can be claimed for a destination"
                    );
                    self.open.lane.state().rest(Instant::now() + REST_AFTER_FAILURE);
                    return;
                }
            };
            learn(&mut plan, ask, &claimed);
            if !self.start(claimed.deliveries, leased_at).await {
                // More of both kinds may wait; for now there is no room for it.
                plan = ClaimPlan::new();
                break;
            }
        }
        self.open.learnt = Some(plan);
    }

    fn request(&self, ask: Ask) -> ClaimRequest {
        let count = |places: usize| u32::try_from(places).unwrap_or(u32::MAX);
        ClaimRequest {
            destination: self.open.lane.id.clone(),
            owner: self.shared.node.clone(),
            now: self.shared.due_clock.now(),
            lease_until: self.shared.lease_until(),
            first_tries: count(ask.first_tries),
            retries: count(ask.retries),
            in_all: count(ask.in_all),
            bytes: self.spare.bytes_with(self.slots.len()),
        }
    }

    /// Starts attempts; whether there was room for all of their bodies. A destination to which nothing is in flight is sent
    /// the first in any case: what is larger than the room in all would never have its turn.
    async fn start(&mut self, rows: Vec<ClaimedDelivery>, leased_at: Instant) -> bool {
        let (mut too_large, mut not_tried) = (None, Vec::new());
        let mut before = None;
        for row in rows {
            let in_order = row.delivery.reason.as_deref() == Some(Delivery::RELEASED);
            if in_order {
                wait_for(&mut before).await;
            }
            let slot = if self.shared.is_draining() { None } else { self.slots.pop() };
            let Some(mut slot) = slot else {
                not_tried.push(row.delivery.id);
                continue;
            };
            let places = self.shared.lanes.places_of(row.body.len());
            let nothing_else = self.open.lane.state().in_flight() == self.slots.len() + 1;
            if !self.spare.widen(&mut slot, places, nothing_else) {
                too_large.get_or_insert(places);
                self.slots.push(slot);
                not_tried.push(row.delivery.id);
                continue;
            }
            let retry = is_retry(&row);
            if retry {
                self.retry_room = self.retry_room.saturating_sub(1);
            }
            slot.load(retry, leased_at);
            if in_order {
                before = Some(slot.ended());
            }
            self.shared.start_attempt(row, slot);
        }
        // The next claim may begin with the one that follows.
        wait_for(&mut before).await;
        self.shared.give_back_leases(&not_tried).await;
        self.open.lane.state().wait_for_places(too_large.unwrap_or(0));
        too_large.is_none()
    }
}

/// Waits for the attempt before, if there is one.
async fn wait_for(before: &mut Option<impl Future<Output = ()>>) {
    if let Some(before) = before.take() {
        // One that takes longer was begun all the same.
        drop(timeout(IN_ORDER_WAIT, before).await);
    }
}

/// An answer that is not all there is says nothing of what is left.
fn learn(plan: &mut ClaimPlan, asked: Ask, claimed: &Claimed) {
    if claimed.is_all {
        let retries = claimed.deliveries.iter().filter(|row| is_retry(row)).count();
        plan.learn(asked, Got { first_tries: claimed.deliveries.len() - retries, retries });
    }
}

fn is_retry(row: &ClaimedDelivery) -> bool {
    row.delivery.attempts_of_schedule() > 0
}

/// Ends the lane's claim when dropped, panic or not.
struct OpenClaim {
    shared: Arc<Shared>,
    lane: Arc<SharedLane>,
    learnt: Option<ClaimPlan>,
}

impl Drop for OpenClaim {
    fn drop(&mut self) {
        let again = self.lane.state().end_claim(self.learnt);
        if again {
            self.shared.want(&self.lane.id);
        }
    }
}

impl Shared {
    /// Gives up leases of deliveries that were not tried, so that they are due again now rather than when the lease
    /// ends. If the store cannot, they wait for that.
    pub(super) async fn give_back_leases(&self, deliveries: &[DeliveryId]) {
        if deliveries.is_empty() {
            return;
        }
        let now = self.due_clock.now();
        if let Err(error) = self.store.release_leases(&self.node, Some(deliveries), now).await {
            tracing::warn!(code = error.code(), "leases cannot be given back; they will run out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_not_all_there_is_does_not_conclude_that_nothing_is_left() {
        let mut plan = ClaimPlan::new();
        let ask = plan.ask(8, 4).expect("something is asked for");
        learn(&mut plan, ask, &Claimed { deliveries: Vec::new(), is_all: false });
        assert_eq!(plan.ask(8, 4), Some(ask), "both kinds may still wait");
        learn(&mut plan, ask, &Claimed { deliveries: Vec::new(), is_all: true });
        assert_eq!(plan.ask(8, 4), None);
    }
}
