//! The brake: whoever presents bad keys or bad states again and again waits for each refusal.
//!
//! **Invariants**: only refusals are delayed, so a good key or state is served at once whatever its neighbours do; what
//! is remembered is bounded, and when there is no room a newcomer's refusals take longest. **Must not know** what was
//! refused.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actix_web::HttpRequest;
use tokio::time::Instant;

/// Refusals that cost nothing: people mistype, and tabs stay open.
const FREE: f64 = 60.0;
/// Refusals forgiven in a second.
const FORGIVEN_PER_S: f64 = 5.0;
/// What each refusal beyond the free ones adds to the wait.
const STEP: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);
const MAX_SOURCES: usize = 20_000;

/// Remembers who was refused how often.
#[derive(Debug, Default)]
pub struct Brake {
    sources: Mutex<HashMap<IpAddr, Refusals>>,
}

#[derive(Debug, Clone, Copy)]
struct Refusals {
    count: f64,
    at: Instant,
}

impl Refusals {
    /// How many are not forgiven yet.
    fn left(self, now: Instant) -> f64 {
        (self.count - now.duration_since(self.at).as_secs_f64() * FORGIVEN_PER_S).max(0.0)
    }
}

impl Brake {
    /// Counts a refusal of this request's peer, and waits if it had many.
    pub async fn refused(&self, request: &HttpRequest) {
        let Some(peer) = request.peer_addr() else { return };
        let wait = self.count(source_of(peer.ip()), Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Counts a refusal; how long it is to take.
    fn count(&self, source: IpAddr, now: Instant) -> Duration {
        // A count is as good after a panic as before.
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, refusals| refusals.left(now) > 0.0);
            if sources.len() >= MAX_SOURCES {
                return LONGEST;
            }
        }
        let refusals = sources.entry(source).or_insert(Refusals { count: 0.0, at: now });
        *refusals = Refusals { count: refusals.left(now) + 1.0, at: now };
        STEP.mul_f64((refusals.count - FREE).max(0.0)).min(LONGEST)
    }
}

/// Whose address it is: a machine's, or in IPv6 a network's, because a machine has as many addresses as it likes.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn many_refusals_take_longer_and_longer_and_time_forgives() {
        let (brake, start) = (Brake::default(), Instant::now());
        let source = address("192.0.2.1");
        for _ in 0..60 {
            assert_eq!(brake.count(source, start), Duration::ZERO);
        }
        let (first, second) = (brake.count(source, start), brake.count(source, start));
        assert!(Duration::ZERO < first && first < second, "{first:?} {second:?}");
        for _ in 0..200 {
            assert!(brake.count(source, start) <= LONGEST);
        }
        assert_eq!(brake.count(source, start), LONGEST);
        assert_eq!(brake.count(address("192.0.2.2"), start), Duration::ZERO, "others are not slowed");
        assert_eq!(brake.count(source, start + Duration::from_mins(2)), Duration::ZERO);
    }

    #[test]
    fn a_table_that_is_full_makes_room_or_slows_newcomers() {
        let (brake, start) = (Brake::default(), Instant::now());
        for index in 0..MAX_SOURCES {
            let index = u32::try_from(index).expect("small");
            brake.count(IpAddr::from(index.to_be_bytes()), start);
        }
        assert_eq!(brake.count(address("203.0.113.9"), start), LONGEST);
        assert_eq!(brake.count(address("203.0.113.9"), start + Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        assert_eq!(source_of(address("2001:db8:1:2::1")), source_of(address("2001:db8:1:2:ffff::9")));
        assert_ne!(source_of(address("2001:db8:1:2::1")), source_of(address("2001:db8:1:3::1")));
        assert_eq!(source_of(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
