//! Time and randomness, injectable. Nothing else in the crate reads the wall clock or invents ids.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::ids::{
    AttemptId, BackfillRunId, DeliveryId, DestinationId, EventId, HealRunId, InstallationId, IntegrationId, KeyId,
    LogId, QuarantineId, ResourceId,
};

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EpochMs(pub i64);

impl EpochMs {
    /// This time moved forward by `duration`, saturating.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This time moved back by `duration`, saturating.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC with milliseconds, as the JSON API shows times.
    pub fn to_rfc3339(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(|_| self.0.to_string(), |time| format!("{time:.3}"))
    }

    /// Reads an RFC 3339 time; `None` if it is not one.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|time| Self(time.as_millisecond()))
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The present.
    fn now(&self) -> EpochMs;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> EpochMs {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        EpochMs(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands until it is told to move; for tests.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock standing at `start`.
    pub fn starting_at(start: EpochMs) -> Self {
        Self(Arc::new(AtomicI64::new(start.0)))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets the clock, backwards too.
    pub fn set(&self, to: EpochMs) {
        self.0.store(to.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> EpochMs {
        EpochMs(self.0.load(Ordering::SeqCst))
    }
}

/// Where new ids come from: the time in front (so that they sort), 74 random bits behind.
#[derive(Clone)]
pub struct Ids {
    clock: Arc<dyn Clock>,
}

impl Ids {
    /// Ids stamped by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    fn next(&self, prefix: &str) -> String {
        let millis = u64::try_from(self.clock.now().0).unwrap_or(0);
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
        format!("{prefix}{}", id.simple())
    }

    /// A fresh id for a request that brought none (`req_…`).
    pub fn request(&self) -> String {
        self.next("req_")
    }

    /// The smallest possible event id of that moment: a bound for range queries over time.
    pub fn event_floor(at: EpochMs) -> EventId {
        let millis = u64::try_from(at.0).unwrap_or(0);
        EventId::from_raw(format!("{}{millis:012x}", EventId::PREFIX))
    }

    /// When an event's id was made; `None` if it is none of ours.
    pub fn event_made_at(id: &EventId) -> Option<EpochMs> {
        let digits = id.as_str().strip_prefix(EventId::PREFIX)?.get(..12)?;
        i64::from_str_radix(digits, 16).ok().map(EpochMs)
    }
}

macro_rules! next_ids {
    ($($method:ident -> $id:ident;)*) => {
        impl Ids {$(
            #[doc = concat!("A fresh [`", stringify!($id), "`].")]
            pub fn $method(&self) -> $id {
                $id::from_raw(self.next($id::PREFIX))
            }
        )*}
    };
}

next_ids! {
    installation -> InstallationId;
    resource -> ResourceId;
    integration -> IntegrationId;
    event -> EventId;
    delivery -> DeliveryId;
    attempt -> AttemptId;
    key -> KeyId;
    destination -> DestinationId;
    quarantine -> QuarantineId;
    log -> LogId;
    backfill_run -> BackfillRunId;
    heal_run -> HealRunId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_the_time_they_were_made() {
        let clock = ManualClock::starting_at(EpochMs(1_771_980_000_000));
        let ids = Ids::new(Arc::new(clock.clone()));
        let earlier = ids.event();
        clock.advance(Duration::from_millis(1));
        let later = ids.event();
        assert!(earlier < later);
        assert!(Ids::event_floor(clock.now()) < later && Ids::event_floor(clock.now()) > earlier);
        assert_eq!(Ids::event_made_at(&later), Some(clock.now()));
        assert_eq!(Ids::event_made_at(&EventId::from_raw("evt_short")), None);
    }

    #[test]
    fn times_are_shown_in_rfc_3339_with_milliseconds() {
        assert_eq!(EpochMs(1_771_980_000_000).to_rfc3339(), "2026-02-25T00:40:00.000Z");
        assert_eq!(EpochMs::parse_rfc3339("2026-02-25T00:40:00Z"), Some(EpochMs(1_771_980_000_000)));
    }
}
