//! One lane per destination, shared by every thread, and the room in all.
//!
//! **Owns** the locks around [`Lane`] and the count of places that attempts in flight take. **Invariants**: room that was taken is given
//! back by dropping the [`Slot`], panic or not; a lane is forgotten only while nobody holds it; no lock is held across
//! an await. **Must not know** what is sent.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::{
    destinations::Loaded,
    seats::Seats,
    shared::Shared,
    state::{Aftermath, Circuit, ClaimRoom, Lane, LaneRules, Place, Verdict},
};
use crate::model::{
    clock::EpochMs,
    ids::{DestinationId, OrgId},
};

/// A lane unused for this long is forgotten.
const IDLE_LANE_AGE: Duration = Duration::from_mins(10);

/// Bytes of bodies on seats, all lanes together: beyond that a delivery waits in the store.
const MAX_SEATED_BYTES: usize = 32 * 1024 * 1024;

/// Room in all is worth claiming for from a 16th of it on.
const WORTHWHILE_SHARE: usize = 16;

/// The body that a place of the room in all has room for; a larger one takes several. So the memory of what is in flight is
/// bounded with its number: 64 MiB of bodies for 512 places, and as much for the envelopes around them.
const PLACE_BYTES: usize = 128 * 1024;

/// One destination's lane, with what was loaded of the destination.
pub(super) struct SharedLane {
    pub id: DestinationId,
    state: Mutex<Lane>,
    /// Who waits in memory for a slot.
    pub seats: Seats,
    /// What was loaded last; the lock makes one load serve all who wait for it.
    pub loaded: tokio::sync::Mutex<Option<Loaded>>,
    /// Raised when the destination changed: what was loaded under an older number is stale.
    pub generation: AtomicU64,
    /// Whose it is, once known.
    pub org: OnceLock<OrgId>,
}

impl SharedLane {
    /// The lane's state. A panic of somebody who held it leaves counters at worst one off, never inconsistent memory.
    pub(super) fn state(&self) -> MutexGuard<'_, Lane> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every lane.
pub(super) struct Lanes {
    by_destination: DashMap<DestinationId, Arc<SharedLane>>,
    pub rules: LaneRules,
    in_flight: AtomicUsize,
    limit_in_all: usize,
    seated_bytes: AtomicUsize,
}

impl Lanes {
    pub(super) fn new(rules: LaneRules, limit_in_all: usize) -> Self {
        Self {
            by_destination: DashMap::new(),
            rules,
            in_flight: AtomicUsize::new(0),
            limit_in_all,
            seated_bytes: AtomicUsize::new(0),
        }
    }

    /// The lane of this destination, made on first use.
    pub(super) fn lane(&self, destination: &DestinationId) -> Arc<SharedLane> {
        if let Some(lane) = self.by_destination.get(destination) {
            return Arc::clone(&lane);
        }
        let lane = self.by_destination.entry(destination.clone()).or_insert_with(|| {
            Arc::new(SharedLane {
                id: destination.clone(),
                state: Mutex::new(Lane::new(&self.rules, Instant::now())),
                seats: Seats::default(),
                loaded: tokio::sync::Mutex::new(None),
                generation: AtomicU64::new(0),
                org: OnceLock::new(),
            })
        });
        Arc::clone(&lane)
    }

    /// The lane of this destination, if there is one.
    pub(super) fn find(&self, destination: &DestinationId) -> Option<Arc<SharedLane>> {
        self.by_destination.get(destination).map(|lane| Arc::clone(&lane))
    }

    /// Every lane there is.
    pub(super) fn all(&self) -> Vec<Arc<SharedLane>> {
        self.by_destination.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// Forgets lanes that say nothing. The map's own reference being the only one, nobody can be using it.
    pub(super) fn forget_idle(&self, now: Instant) {
        self.by_destination.retain(|_, lane| Arc::strong_count(lane) > 1 || !lane.state().is_idle(now, IDLE_LANE_AGE));
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether enough room in all is free that a claim is worth a transaction. The poll uses what is left over.
    pub(super) fn has_room_in_all(&self) -> bool {
        self.free_in_all().saturating_mul(WORTHWHILE_SHARE) >= self.limit_in_all
    }

    pub(super) fn free_in_all(&self) -> usize {
        self.limit_in_all.saturating_sub(self.in_flight())
    }

    pub(super) fn open_circuits(&self) -> usize {
        self.by_destination.iter().filter(|lane| lane.state().circuit() != Circuit::Closed).count()
    }

    /// Takes memory for a body on a seat, if there is any left.
    fn take_seated_bytes(&self, bytes: usize) -> bool {
        let taken = self.seated_bytes.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |seated| {
            seated.checked_add(bytes).filter(|seated| *seated <= MAX_SEATED_BYTES)
        });
        taken.is_ok()
    }

    /// How many places of the room in all an attempt takes whose body has this many bytes; the largest takes all there are.
    pub(super) fn places_of(&self, body_bytes: usize) -> usize {
        body_bytes.div_ceil(PLACE_BYTES).clamp(1, self.limit_in_all)
    }

    /// Takes so many places of the room in all, or none.
    fn take_all(&self, places: usize) -> bool {
        let taken = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |in_flight| {
            in_flight.checked_add(places).filter(|in_flight| *in_flight <= self.limit_in_all)
        });
        taken.is_ok()
    }

    /// Takes up to `wanted` places of the room in all; answers how many.
    fn take(&self, wanted: usize) -> usize {
        let mut taken = 0;
        let changed = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |in_flight| {
            taken = wanted.min(self.limit_in_all.saturating_sub(in_flight));
            (taken > 0).then_some(in_flight + taken)
        });
        changed.map_or(0, |_| taken)
    }

    fn give_back(&self, places: usize) {
        self.in_flight.fetch_sub(places, Ordering::AcqRel);
    }
}

/// What came of asking for room for a claim.
pub(super) enum ClaimStart {
    /// It has this room: slots, and places for bodies that are large.
    Started(ClaimRoom, Vec<Slot>, RoomInAll),
    /// There is no room in all.
    NoRoomInAll,
    /// Not for this destination, not now.
    NotNow,
}

impl Shared {
    /// Room for one attempt that goes out from memory, now or when an attempt in flight has ended.
    pub(super) fn reserve_slot(self: &Arc<Self>, destination: &DestinationId, body_bytes: usize) -> Option<Slot> {
        let lane = self.lanes.lane(destination);
        let places = self.lanes.places_of(body_bytes);
        let free_in_all = self.lanes.free_in_all();
        if !self.lanes.take_all(places) {
            lane.state().wait_in_store();
            return None;
        }
        let place = lane.state().reserve(&self.lanes.rules, free_in_all, Instant::now());
        if place != Some(Place::Slot) {
            self.lanes.give_back(places);
        }
        match place? {
            Place::Slot => Some(Slot::new(self, &lane, places, false)),
            Place::Seat if self.lanes.take_seated_bytes(body_bytes) => {
                let mut slot = Slot::new(self, &lane, places, false);
                slot.seat = Some(Seat { body_bytes });
                Some(slot)
            }
            Place::Seat => {
                let mut state = lane.state();
                state.leave_seat();
                state.wait_in_store();
                None
            }
        }
    }

    /// Takes for one of those on seats its places of the room in all.
    pub(super) fn take_places_for(&self, seated: &Slot) -> bool {
        self.lanes.take_all(seated.places)
    }

    /// Room for a claim of at most `share` attempts. Half of what its slots leave of the share is for large bodies, and more
    /// where one is known to need it.
    pub(super) fn start_claim(self: &Arc<Self>, lane: &Arc<SharedLane>, share: usize) -> ClaimStart {
        let free_in_all = self.lanes.free_in_all();
        let awaited = lane.state().places_awaited();
        if awaited > free_in_all {
            return ClaimStart::NotNow;
        }
        let taken = self.lanes.take(share.min(self.lanes.rules.limit));
        if taken == 0 {
            return ClaimStart::NoRoomInAll;
        }
        let room = lane.state().start_claim(taken, free_in_all, Instant::now());
        let used = room.map_or(0, |room| room.slots);
        self.lanes.give_back(taken - used);
        room.map_or(ClaimStart::NotNow, |room| {
            let slots = (0..room.slots).map(|_| Slot::new(self, lane, 1, room.probe)).collect();
            let for_bodies = self.lanes.take((share.saturating_sub(room.slots) / 2).max(awaited));
            ClaimStart::Started(room, slots, RoomInAll { shared: Arc::clone(self), places: for_bodies })
        })
    }
}

/// Places of the room in all that belong to no slot.
pub(super) struct RoomInAll {
    shared: Arc<Shared>,
    places: usize,
}

impl RoomInAll {
    /// The place that an attempt has again after its end, until its result is written down; beyond the limit, if it must.
    pub(super) fn take_back(shared: &Arc<Shared>) -> Self {
        shared.lanes.in_flight.fetch_add(1, Ordering::AcqRel);
        Self { shared: Arc::clone(shared), places: 1 }
    }

    /// How large the bodies may be for which there is room here and on so many slots.
    pub(super) fn bytes_with(&self, slots: usize) -> usize {
        (self.places + slots).saturating_mul(PLACE_BYTES)
    }

    /// Gives a slot so many places in all for its delivery's body. False if there are not as many here; `must` takes them
    /// beyond the limit then.
    pub(super) fn widen(&mut self, slot: &mut Slot, places: usize, must: bool) -> bool {
        let wanted = places.saturating_sub(slot.places);
        let missing = wanted.saturating_sub(self.places);
        if missing > 0 && !must {
            return false;
        }
        self.shared.lanes.in_flight.fetch_add(missing, Ordering::AcqRel);
        self.places -= wanted - missing;
        slot.places += wanted;
        true
    }
}

impl Drop for RoomInAll {
    fn drop(&mut self) {
        if self.places > 0 {
            self.shared.lanes.give_back(self.places);
            self.shared.room_was_freed(None);
        }
    }
}

/// Room for one attempt, taken before the delivery's row is written; dropping it gives the room back.
pub struct Slot {
    shared: Arc<Shared>,
    lane: Arc<SharedLane>,
    /// How many of the room in all are its own; as a seat, how many it will need.
    places: usize,
    /// When the lease of what it carries began at the earliest, by a clock that only moves forward.
    leased_at: Instant,
    retry: bool,
    probe: bool,
    judged: bool,
    /// It is only a seat as yet.
    seat: Option<Seat>,
    /// Dropped with it, which tells whoever waits for its end.
    end: Option<oneshot::Sender<Infallible>>,
}

/// A seat, and what may be kept on it.
struct Seat {
    body_bytes: usize,
}

impl Slot {
    fn new(shared: &Arc<Shared>, lane: &Arc<SharedLane>, places: usize, probe: bool) -> Self {
        Self {
            shared: Arc::clone(shared),
            lane: Arc::clone(lane),
            places,
            leased_at: Instant::now(),
            retry: false,
            probe,
            judged: false,
            seat: None,
            end: None,
        }
    }

    /// Waits for its end.
    pub(super) fn ended(&mut self) -> impl Future<Output = ()> + use<> {
        let (end, ended) = oneshot::channel();
        self.end = Some(end);
        // Nothing is ever sent.
        ended.map(drop)
    }

    /// Whether it is only a seat: nothing may be sent on it.
    pub(super) fn is_seat(&self) -> bool {
        self.seat.is_some()
    }

    /// Its seat became a slot; the lane has counted that.
    pub(super) fn stand_up(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.shared.lanes.seated_bytes.fetch_sub(seat.body_bytes, Ordering::AcqRel);
        }
    }

    pub(super) fn lane(&self) -> &Arc<SharedLane> {
        &self.lane
    }

    /// It carries this: a delivery leased at that time.
    pub(super) fn load(&mut self, retry: bool, leased_at: Instant) {
        self.leased_at = leased_at;
        if retry {
            self.retry = true;
            self.lane.state().count_retry();
        }
    }

    /// When the lease of what it carries began at the earliest.
    pub(super) fn leased_at(&self) -> Instant {
        self.leased_at
    }

    /// Its attempt ended so.
    pub(super) fn judge(&mut self, verdict: Verdict, wall: EpochMs) -> Aftermath {
        self.judged = true;
        self.lane.state().judge(&self.shared.lanes.rules, verdict, self.probe, Instant::now(), wall)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_seat() {
            self.stand_up();
            self.lane.state().leave_seat();
            return;
        }
        let wants_claim = self.lane.state().release(self.retry, self.probe && !self.judged, Instant::now());
        self.shared.lanes.give_back(self.places);
        self.shared.room_was_freed(wants_claim.then_some(&self.lane.id));
        self.shared.seat_to_slot(&self.lane);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("destination", &self.lane.id).finish_non_exhaustive()
    }
}
