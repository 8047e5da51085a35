//! The clock by which deliveries are due and leased.
//!
//! Several nodes read the same due times, and their own clocks may differ, or jump. On PostgreSQL they go by the server's,
//! which each of them looks at once a second and carries on by its monotonic clock; on SQLite, where there is one process,
//! by its own.
//!
//! **Invariants**: where there is a server's clock, no jump of this machine's moves this one. **Must not know** what is due.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::model::clock::{Clock, EpochMs};

/// Before anybody looked at a server's clock, or where there is none.
const UNKNOWN: i64 = i64::MIN;
/// An answer that took longer says too little.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// The clock.
pub(super) struct DueClock {
    own: Arc<dyn Clock>,
    started: Instant,
    /// What the server's clock showed at `started`, milliseconds.
    server_at_start: AtomicI64,
    /// How far the server's clock was ahead of this machine's when it was last looked at, milliseconds.
    server_ahead: AtomicI64,
}

impl DueClock {
    /// One that goes by this machine's clock until a server's was looked at.
    pub(super) fn new(own: Arc<dyn Clock>) -> Self {
        Self { own, started: Instant::now(), server_at_start: AtomicI64::new(UNKNOWN), server_ahead: AtomicI64::new(0) }
    }

    /// The server's clock showed this after `asked_at`. What an answer took is counted as if it had been shown at once: a
    /// lease that is written with this is rather too long than too short.
    pub(super) fn follow(&self, server: EpochMs, asked_at: Instant) {
        if asked_at.elapsed() > LONGEST_LOOK && self.server_at_start.load(Ordering::Relaxed) != UNKNOWN {
            return;
        }
        self.server_ahead.store(server.0.saturating_sub(self.own.now().0), Ordering::Relaxed);
        let since_start = asked_at.saturating_duration_since(self.started);
        self.server_at_start.store(server.minus(since_start).0, Ordering::Relaxed);
    }

    /// What it shows.
    pub(super) fn now(&self) -> EpochMs {
        match self.server_at_start.load(Ordering::Relaxed) {
            UNKNOWN => self.own.now(),
            server_at_start => EpochMs(server_at_start).plus(self.started.elapsed()),
        }
    }

    /// The latest that it may be: a monotonic clock stands still while the machine is suspended, this machine's wall clock
    /// does not.
    pub(super) fn now_at_the_latest(&self) -> EpochMs {
        let by_own = self.own.now().0.saturating_add(self.server_ahead.load(Ordering::Relaxed));
        self.now().max(EpochMs(by_own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::ManualClock;

    const NOON: EpochMs = EpochMs(1_771_980_000_000);
    const DAY: Duration = Duration::from_hours(24);
    /// More than a test takes.
    const AWHILE: Duration = Duration::from_mins(5);

    #[test]
    fn where_there_is_a_server_no_jump_of_this_machines_clock_moves_it() {
        let own = ManualClock::starting_at(NOON);
        let clock = DueClock::new(Arc::new(own.clone()));
        own.advance(DAY);
        assert_eq!(clock.now(), NOON.plus(DAY), "its own");
        clock.follow(NOON, Instant::now());
        for jump in [NOON.plus(DAY * 2), NOON.minus(DAY), NOON] {
            own.set(jump);
            let now = clock.now();
            assert!(now >= NOON && now < NOON.plus(AWHILE), "{now:?}");
        }
        own.set(NOON.plus(DAY));
        clock.follow(NOON, Instant::now());
        own.advance(DAY);
        assert!(clock.now_at_the_latest() >= NOON.plus(DAY), "it was suspended, perhaps");
        own.set(NOON);
        assert!(clock.now_at_the_latest() < NOON.plus(AWHILE));
    }
}
