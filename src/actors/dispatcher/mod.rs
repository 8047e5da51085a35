//! The dispatcher's handle.

use crate::{
    model::{
        delivery::AttemptResult,
        ids::{DeliveryId, DestinationId, OrgId},
    },
    store::ClaimedDelivery,
};

/// What other rooms hold of the dispatcher.
#[derive(Clone)]
pub struct DispatcherHandle {}

/// Room for one attempt, taken before the delivery's row is written; dropping it gives the room back.
#[derive(Debug)]
pub struct Slot {}

/// A delivery that was committed with its lease and goes out from memory.
#[derive(Debug)]
pub struct FreshDelivery {
    /// The delivery and what its envelope needs.
    pub claimed: ClaimedDelivery,
    /// Its room.
    pub slot: Slot,
}

/// What a test envelope met.
#[derive(Debug, Clone)]
pub struct TestAnswer {
    /// The `webhook-id` it carried.
    pub webhook_id: DeliveryId,
    /// How it ended.
    pub result: AttemptResult,
    /// How long it took, milliseconds.
    pub duration_ms: u32,
    /// The first bytes of the answer.
    pub response_body: Option<String>,
}

impl DispatcherHandle {
    /// The name of this node in leases.
    pub fn node(&self) -> &str {
        todo!()
    }

    /// How long a lease lasts, milliseconds.
    pub fn lease_ms(&self) -> i64 {
        todo!()
    }

    /// Room for one attempt at this destination now, if there is any: its circuit is closed, nothing older waits, and
    /// neither its own limit nor the limit in all is reached.
    pub fn reserve(&self, _destination: &DestinationId) -> Option<Slot> {
        todo!()
    }

    /// Sends deliveries committed with this node's lease.
    pub fn send(&self, _fresh: Vec<FreshDelivery>) {
        todo!()
    }

    /// Says that this destination has something due. A lost nudge is harmless: the dispatcher also polls.
    pub fn nudge(&self, _destination: Option<&DestinationId>) {
        todo!()
    }

    /// Forgets what it knows of an org's destinations (or of all), because they changed.
    pub fn forget_destinations(&self, _org: Option<&OrgId>) {
        todo!()
    }

    /// Sends a signed test envelope to a destination, at once and once.
    pub async fn send_test(&self, _destination: &DestinationId) -> Option<TestAnswer> {
        todo!()
    }

    /// A copy of its state for people.
    pub async fn snapshot(&self) -> serde_json::Value {
        todo!()
    }

    /// Stops claiming, waits for attempts in flight until `deadline` is over, records their results and gives up the
    /// leases of what was not tried.
    pub async fn drain(&self, _deadline: std::time::Duration) {
        todo!()
    }
}
