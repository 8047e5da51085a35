//! Seats: where new deliveries wait in memory for a slot of their destination.
//!
//! A burst that is a little larger than a destination's limit, or a commit that takes a while, would otherwise send
//! deliveries to the store and read them back a moment later. **Invariants**: what is seated has its lease in a committed
//! row; it is in this process's hands, so that it is not claimed beside; who came first gets the first slot; nobody
//! stays seated while nothing is in flight whose end would call him. **Must not know** how a delivery is sent.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Instant,
};

use super::{
    attempt::HeldDelivery,
    lanes::{SharedLane, Slot},
    shared::{Shared, lock},
    state::Promotion,
};
use crate::{model::ids::DeliveryId, store::ClaimedDelivery};

/// A delivery on its seat. The fields are dropped in this order: it is let go before its seat is free.
pub(super) struct Seated {
    pub claimed: ClaimedDelivery,
    pub held: HeldDelivery,
    pub slot: Slot,
}

/// Those on one lane's seats, the first to come at the front.
#[derive(Default)]
pub(super) struct Seats(Mutex<VecDeque<Seated>>);

impl Seats {
    /// Empties them.
    pub(super) fn clear(&self) {
        let seated = std::mem::take(&mut *lock(&self.0));
        drop(seated);
    }
}

impl Shared {
    /// Seats a delivery, and lets it go at once if there is a slot by now.
    pub(super) fn seat(self: &Arc<Self>, seated: Seated) {
        let lane = Arc::clone(seated.slot.lane());
        lock(&lane.seats.0).push_back(seated);
        self.seat_to_slot(&lane);
    }

    /// Lets those on seats go for whom there are slots.
    pub(super) fn seat_to_slot(self: &Arc<Self>, lane: &Arc<SharedLane>) {
        loop {
            let mut seats = lock(&lane.seats.0);
            // While draining they stay: their leases are given up at its end.
            if seats.is_empty() || self.is_draining() {
                return;
            }
            // Its lock ends with the statement: what follows takes it again.
            let promotion = lane.state().promote(self.lanes.free_in_all(), Instant::now());
            match promotion {
                Promotion::Later => return,
                Promotion::Promoted if seats.front().is_some_and(|next| self.take_places_for(&next.slot)) => {
                    let next = seats.pop_front();
                    drop(seats);
                    if let Some(Seated { claimed, held, mut slot }) = next {
                        slot.stand_up();
                        self.attempt(claimed, held, slot);
                    }
                    continue;
                }
                // There is no slot in all, and whoever has one may be of another lane.
                Promotion::Promoted => lane.state().return_to_seat(),
                Promotion::Never => {}
            }
            let all = std::mem::take(&mut *seats);
            drop(seats);
            return self.send_back(lane, all);
        }
    }

    /// Gives their leases back: they are due now, and wait in the store.
    fn send_back(self: &Arc<Self>, lane: &Arc<SharedLane>, seated: VecDeque<Seated>) {
        // Each is let go before its row can be claimed again.
        let ids: Vec<DeliveryId> = seated.into_iter().map(|seated| seated.claimed.delivery.id).collect();
        lane.state().wait_in_store();
        let (shared, lane) = (Arc::clone(self), Arc::clone(lane));
        self.spawn("release", async move {
            shared.give_back_leases(&ids).await;
            shared.want(&lane.id);
        });
    }
}
