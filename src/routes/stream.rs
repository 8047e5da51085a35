//! `GET /events/stream`: an org's events as they are stored, as server-sent events.
//!
//! Polls the store, because any node may have stored an event. Ids are made when a webhook is taken in and committed a
//! moment later, so they may appear out of order: every poll looks again at the last few seconds and leaves out what it
//! has sent; and a client that comes back begins as far before the last one it saw. A poll looks no further ahead than it
//! looks back: after the clock was set back, ids lie there that were made before, and new ones come here. **Invariants**: an
//! event is sent once per stream, or once more when a clock that was set back comes to its time again; a client that comes back with `Last-Event-ID` gets everything that it has not seen, and some of what it has;
//! the stream ends when the process stops, the key is revoked or the console's session ends; a key has a bounded number of
//! them, and so have all.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::Instant;

use super::{
    auth::{Caller, Reader},
    error_codes as codes,
    events::event_json,
    gateway::Gateway,
    problem::{Answer, Problem},
};
use crate::model::{
    clock::{EpochMs, Ids},
    event::Event,
    ids::{EventId, KeyId, OrgId},
};

/// How often the store is asked.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// How long an id may take to appear after it was made: the acknowledgement deadline with room for nodes whose clocks
/// differ. As far ahead may one of another node be.
const SETTLES_AFTER: Duration = Duration::from_secs(5);
/// How often a silent stream says that it lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// Events read at once.
const CHUNK: u32 = 200;
/// Streams that one key may follow at a time: a console has one for each page that is open.
const STREAMS_OF_A_KEY: usize = 100;
/// Streams of all keys at a time: each asks the store twice a second.
const STREAMS_IN_ALL: usize = 1000;

/// `GET /events/stream`: the org's events as they are stored, as server-sent events.
///
/// An event may appear a moment after a later one. Whoever comes back with `Last-Event-ID`, as an `EventSource` does by
/// itself, therefore gets the five seconds before that event again: leave out by `id` what was seen. So may whoever follows
/// while the gateway's clock is set back: what was stored under the time that comes again.
///
/// # Errors
/// `missing_org_id`, `too_many_streams`.
#[utoipa::path(
    get, path = "/events/stream",
    params((
        "Last-Event-ID" = Option<String>, Header, description = "Goes on from five seconds before this event on.",
    )),
    responses((status = 200, description = "Each `data` is an event", content_type = "text/event-stream", body = String)),
)]
pub async fn follow(Reader(caller): Reader, request: HttpRequest, gateway: web::Data<Gateway>) -> Answer {
    let org = caller.require_org()?.clone();
    let place = gateway.followers.admit(&caller.key.id).ok_or_else(|| Problem::new(&codes::TOO_MANY_STREAMS))?;
    let resumed = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let start = match resumed.filter(|id| id.starts_with(EventId::PREFIX)) {
        Some(id) => resuming_after(EventId::from_raw(id)),
        None => Ids::event_floor(gateway.clock.now()),
    };
    let window = Window::starting_after(start);
    let follower = Follower { gateway, org, caller, window, wrote_at: None, checked_at: Instant::now(), _place: place };
    let body = stream::unfold(follower, |mut follower| async move {
        let chunk = follower.next_chunk().await?;
        Some((Ok::<_, actix_web::Error>(chunk), follower))
    });
    Ok(HttpResponse::Ok().content_type("text/event-stream").insert_header(("x-accel-buffering", "no")).streaming(body))
}

/// Where a stream goes on whose reader has seen this event: others may have appeared before it since.
fn resuming_after(id: EventId) -> EventId {
    Ids::event_made_at(&id).map_or(id, |at| Ids::event_floor(at.minus(SETTLES_AFTER)))
}

/// How many streams each key follows on this node.
#[derive(Debug, Default)]
pub struct Followers {
    open: Mutex<HashMap<KeyId, usize>>,
}

/// A stream's place among them; given back when dropped.
#[derive(Debug)]
struct Place {
    followers: Arc<Followers>,
    key: KeyId,
}

impl Followers {
    /// A place for one more stream of this key, if it may have one.
    fn admit(self: &Arc<Self>, key: &KeyId) -> Option<Place> {
        let mut open = self.open();
        let of_key = open.get(key).copied().unwrap_or_default();
        if of_key >= STREAMS_OF_A_KEY || open.values().sum::<usize>() >= STREAMS_IN_ALL {
            return None;
        }
        open.insert(key.clone(), of_key + 1);
        Some(Place { followers: Arc::clone(self), key: key.clone() })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<KeyId, usize>> {
        // A count is as good after a panic as before.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.followers.open();
        let left = open.get(&self.key).map_or(0, |of_key| of_key.saturating_sub(1));
        if left == 0 {
            open.remove(&self.key);
        } else {
            open.insert(self.key.clone(), left);
        }
    }
}

/// One stream in progress.
struct Follower {
    gateway: web::Data<Gateway>,
    org: OrgId,
    caller: Caller,
    window: Window,
    wrote_at: Option<Instant>,
    /// When the key was last seen to be good.
    checked_at: Instant,
    _place: Place,
}

impl Follower {
    /// The next thing to write; `None` ends the stream.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        let Some(mut wrote_at) = self.wrote_at else {
            // At once, so that the client knows it is connected.
            self.wrote_at = Some(Instant::now());
            return Some(Bytes::from_static(b"retry: 1000\n: following\n\n"));
        };
        loop {
            if self.window.has_pages_left() {
                if self.gateway.readiness.is_draining() {
                    return None;
                }
            } else {
                tokio::select! {
                    () = self.gateway.readiness.draining() => return None,
                    () = tokio::time::sleep(POLL_EVERY) => {}
                }
            }
            if self.checked_at.elapsed() >= POLL_EVERY {
                // An unreachable store says nothing about the key: the stream goes on and shows nothing meanwhile.
                if let Ok(false) = self.caller.is_still_good(&self.gateway).await {
                    return None;
                }
                self.checked_at = Instant::now();
            }
            let chunk = self.poll().await;
            if !chunk.is_empty() {
                wrote_at = Instant::now();
                self.wrote_at = Some(wrote_at);
                return Some(chunk.into());
            }
            if wrote_at.elapsed() >= HEARTBEAT_EVERY {
                self.wrote_at = Some(Instant::now());
                return Some(Bytes::from_static(b": alive\n\n"));
            }
        }
    }

    async fn poll(&mut self) -> String {
        match self.gateway.store.list_events_after(Some(&self.org), self.window.cursor(), CHUNK).await {
            Ok(page) => {
                let fresh = self.window.take(page, self.gateway.clock.now());
                fresh.iter().map(frame).collect()
            }
            Err(error) => {
                self.window.begin_round();
                tracing::warn!(%error, "an event stream could not be continued for the moment");
                String::new()
            }
        }
    }
}

fn frame(event: &Event) -> String {
    format!("id: {}\ndata: {}\n\n", event.id, event_json(event))
}

/// What a stream has sent of the ids that may still be joined by earlier ones. Pure.
#[derive(Debug)]
struct Window {
    /// Everything up to here is settled.
    settled: EventId,
    /// Where the next page begins, within one round of pages.
    cursor: EventId,
    /// Sent ids after `settled`.
    sent: BTreeSet<EventId>,
    /// Whether the round goes on with another page.
    pages_left: bool,
}

impl Window {
    fn starting_after(id: EventId) -> Self {
        Self { settled: id.clone(), cursor: id, sent: BTreeSet::new(), pages_left: false }
    }

    fn cursor(&self) -> &EventId {
        &self.cursor
    }

    fn has_pages_left(&self) -> bool {
        self.pages_left
    }

    /// The next page is the first of a round.
    fn begin_round(&mut self) {
        self.pages_left = false;
        self.cursor = self.settled.clone();
    }

    /// The events of a page that were not sent before. After the last page of a round the next one begins where ids are
    /// settled.
    fn take(&mut self, mut page: Vec<Event>, now: EpochMs) -> Vec<Event> {
        let is_full = page.len() == CHUNK as usize;
        let ahead = Ids::event_floor(now.plus(SETTLES_AFTER));
        page.retain(|event| event.id < ahead);
        self.pages_left = is_full && page.len() == CHUNK as usize;
        if let Some(last) = page.last() {
            self.cursor = last.id.clone();
        }
        let fresh: Vec<_> = page.into_iter().filter(|event| self.sent.insert(event.id.clone())).collect();
        let floor = Ids::event_floor(now.minus(SETTLES_AFTER));
        // Of a long history nothing is remembered that is settled already.
        let passed = if self.pages_left { floor.min(self.cursor.clone()) } else { floor };
        if passed > self.settled {
            self.sent = self.sent.split_off(&passed);
            self.settled = passed;
        } else if !self.pages_left && Ids::event_floor(now) < self.settled {
            // The clock was set back: what comes now would lie before what is settled.
            self.settled = passed;
        }
        if !self.pages_left {
            self.begin_round();
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{event::EventOutcome, provider::ProviderSlug};

    fn event(at_ms: i64, suffix: &str) -> Event {
        Event {
            outcome: EventOutcome::Routed,
            received_at: EpochMs(at_ms),
            correlation_id: "line\nbreak".into(),
            ..Event::ignored(
                EventId::from_raw(format!("{}{suffix}", Ids::event_floor(EpochMs(at_ms)))),
                ProviderSlug("github"),
            )
        }
    }

    #[test]
    fn an_event_that_appears_behind_a_later_one_is_sent_and_none_is_sent_twice() {
        let start = 1_771_980_000_000;
        let mut window = Window::starting_after(Ids::event_floor(EpochMs(start)));
        let (early, late) = (event(start + 10, "a"), event(start + 500, "b"));
        let now = EpochMs(start + 1000);
        assert_eq!(window.take(vec![late.clone()], now).len(), 1);
        assert_eq!(window.take(vec![early.clone(), late.clone()], now), [early], "and not the later one again");
        assert!(window.cursor() < &late.id, "the next poll looks again");
        assert!(window.take(vec![late.clone()], EpochMs(start + 60_000)).is_empty());
        assert!(window.cursor() > &late.id, "what is settled is not read again");
        assert!(window.sent.is_empty());
    }

    #[test]
    fn an_event_that_appears_behind_a_later_one_between_two_streams_is_sent_by_the_second() {
        let start = 1_771_980_000_000;
        let (early, seen) = (event(start + 10, "a"), event(start + 500, "b"));
        let mut window = Window::starting_after(resuming_after(seen.id.clone()));
        assert!(window.cursor() < &early.id);
        assert_eq!(window.take(vec![early.clone(), seen.clone()], EpochMs(start + 900)), [early, seen]);
        let foreign = EventId::from_raw("evt_x");
        assert_eq!(resuming_after(foreign.clone()), foreign);
    }

    #[test]
    fn pages_of_one_round_follow_each_other() {
        let start = 1_771_980_000_000;
        let mut window = Window::starting_after(Ids::event_floor(EpochMs(start)));
        let full: Vec<_> = (0..CHUNK).map(|number| event(start + 1, &format!("{number:04}"))).collect();
        let now = EpochMs(start + 3);
        assert_eq!(window.take(full.clone(), now), full);
        assert!(window.has_pages_left());
        assert_eq!(Some(window.cursor()), full.last().map(|last| &last.id));
        assert_eq!(window.take(vec![event(start + 2, "b")], now).len(), 1);
        assert!(!window.has_pages_left());
        assert_eq!(window.cursor(), &Ids::event_floor(EpochMs(start)));
    }

    #[test]
    fn of_a_long_history_only_what_is_not_settled_is_remembered() {
        let start = 1_771_980_000_000;
        let now = EpochMs(start + 3_600_000);
        let mut window = Window::starting_after(EventId::from_raw("evt_0"));
        for page in 0..50 {
            let full: Vec<_> = (0..CHUNK)
                .map(|number| event(start + page * 1000 + i64::from(number), &format!("{number:04}")))
                .collect();
            assert_eq!(window.take(full.clone(), now), full);
            assert!(window.sent.len() <= 1, "{} of page {page}", window.sent.len());
        }
        let late = event(now.0 - 10, "a");
        assert_eq!(window.take(vec![late.clone()], now).len(), 1);
        assert!(window.take(vec![late], now).is_empty(), "and what may be joined by earlier ones is not sent twice");
    }

    #[test]
    fn what_comes_after_the_clock_was_set_back_is_sent_and_what_was_stored_before_is_not_looked_through() {
        let (noon, hour) = (1_771_980_000_000, 3_600_000);
        let mut window = Window::starting_after(Ids::event_floor(EpochMs(noon)));
        let before = event(noon + 10, "a");
        assert_eq!(window.take(vec![before.clone()], EpochMs(noon + 60_000)).len(), 1);
        // An hour back: the first round sees that, the second one what came meanwhile.
        let back = noon + 60_000 - hour;
        assert!(window.take(Vec::new(), EpochMs(back)).is_empty());
        let after = event(back + 100, "b");
        assert!(window.cursor() < &after.id);
        let page: Vec<_> = [after.clone()].into_iter().chain((1..CHUNK).map(|_| before.clone())).collect();
        assert_eq!(window.take(page, EpochMs(back + 500)), [after]);
        assert!(!window.has_pages_left(), "the round ends where the time before begins");
        // A reader who saw the time before comes back.
        let mut again = Window::starting_after(resuming_after(before.id));
        assert!(again.take(Vec::new(), EpochMs(back)).is_empty());
        assert!(again.cursor() < &Ids::event_floor(EpochMs(back)));
    }

    #[test]
    fn a_key_follows_so_many_streams_and_all_keys_so_many_together() {
        let followers = Arc::new(Followers::default());
        let admit = |key: usize| followers.admit(&KeyId::from_raw(format!("key_{key}")));
        let mut places: Vec<_> = (0..STREAMS_OF_A_KEY).map(|_| admit(0).expect("a place")).collect();
        assert!(admit(0).is_none(), "that is all of one key");
        places.extend((STREAMS_OF_A_KEY..STREAMS_IN_ALL).map(|number| admit(number).expect("a place")));
        assert!(admit(1).is_none(), "that is all");
        places.remove(0);
        places.push(admit(0).expect("the place that was given back"));
        drop(places);
        assert!(followers.open().is_empty(), "who is gone is forgotten");
    }

    #[test]
    fn a_frame_is_one_line_of_data_whatever_the_event_holds() {
        let text = frame(&event(1, "a"));
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with("\n\n"));
    }
}
