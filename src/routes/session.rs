//! Sessions of the console: a browser that presented a key once, and then comes with a cookie.
//!
//! **Owns** the cookie, its row, and the question where a request comes from. **Invariants**: a session is its key: it may
//! what the key may, and ends with it; an ended or expired one is as unknown as one that never was; what changes anything
//! is taken only from pages of our own origin; the cookie is in no log and, but for its hash, in no row. **Must not know**
//! any page.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest,
    cookie::{Cookie, SameSite},
    http::{Method, header},
};
use url::Url;

use super::{
    auth::{KeyRing, KnownKey, is_org_id},
    error_codes as codes,
    gateway::Gateway,
    problem::Problem,
    query::Query,
};
use crate::{
    config::ConsoleConfig,
    crypto::nonce,
    model::{
        clock::{Clock, EpochMs, Ids},
        ids::OrgId,
        log_entry::{Actor, LogEntry},
        secret::Secret,
        session::{ConsoleSession, SessionHash},
    },
    store::{SharedStore, StoreError},
};

/// How often the use of a session is written down, unless it may not be idle for that long.
const TOUCH_EVERY: Duration = Duration::from_mins(1);
/// The cookie in which a service key's session keeps the org that its pages show. It is a choice, and no secret.
pub const ORG_COOKIE: &str = "signalbox_org";

/// The sessions.
pub struct Sessions {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    ids: Ids,
    idle: Duration,
    max: Duration,
}

/// A session that is good now.
#[derive(Debug, Clone)]
pub struct Resumed {
    /// Its key.
    pub key: KnownKey,
    /// The person, as they named themselves.
    pub user: Option<String>,
    /// Which it is.
    pub hash: SessionHash,
}

impl Sessions {
    /// Sessions of that length.
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>, ids: Ids, config: &ConsoleConfig) -> Self {
        Self { store, clock, ids, idle: config.session_idle, max: config.session_max }
    }

    /// Begins a session; its cookie's value.
    ///
    /// # Errors
    /// Only if the store cannot be asked.
    pub async fn begin(
        &self,
        key: &KnownKey,
        user: Option<String>,
        from: Option<String>,
    ) -> Result<Secret, StoreError> {
        let cookie = nonce::generate();
        let text = cookie.expose_str().unwrap_or_default();
        let now = self.clock.now();
        let session = ConsoleSession {
            hash: nonce::hash(text),
            key: key.id.clone(),
            masked_key_hash: nonce::masked(text, key.hash),
            user: user.clone(),
            created_at: now,
            last_seen_at: now,
            expires_at: self.end_of(now, now),
        };
        let actor = Actor { who: format!("key:{}", key.id), user, from };
        self.store.insert_session(&session, &self.entry("session.began", key, actor)).await?;
        Ok(cookie)
    }

    /// The session with this cookie, if it and its key are good. With `is_person` it goes on for its idle time from now.
    ///
    /// # Errors
    /// Only if the store cannot be asked.
    pub async fn resume(&self, keys: &KeyRing, cookie: &str, is_person: bool) -> Result<Option<Resumed>, StoreError> {
        if !nonce::is_well_formed(cookie) {
            return Ok(None);
        }
        let (hash, now) = (nonce::hash(cookie), self.clock.now());
        let Some(session) = self.store.find_session(&hash).await?.filter(|session| session.expires_at > now) else {
            return Ok(None);
        };
        let Some(key) = keys.look_up(nonce::masked(cookie, session.masked_key_hash)).await? else { return Ok(None) };
        if is_person && now.since(session.last_seen_at) >= TOUCH_EVERY.min(self.idle / 4) {
            self.note_use(hash, now, self.end_of(session.created_at, now));
        }
        Ok(Some(Resumed { key, user: session.user, hash }))
    }

    /// Writes down, beside the request, that a session is used: what can be read is shown even if nothing can be written.
    fn note_use(&self, hash: SessionHash, seen_at: EpochMs, expires_at: EpochMs) {
        let store = Arc::clone(&self.store);
        actix_web::rt::spawn(async move {
            if let Err(error) = store.touch_session(&hash, seen_at, expires_at).await {
                tracing::warn!(%error, "the use of a session could not be noted");
            }
        });
    }

    /// Whether a session resumed earlier is still good.
    ///
    /// # Errors
    /// Only if the store cannot be asked.
    pub async fn is_still_good(&self, hash: &SessionHash) -> Result<bool, StoreError> {
        let now = self.clock.now();
        Ok(self.store.find_session(hash).await?.is_some_and(|session| session.expires_at > now))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// Only if the store cannot be asked.
    pub async fn end(&self, session: &SessionHash, key: &KnownKey, actor: Actor) -> Result<(), StoreError> {
        self.store.end_session(session, &self.entry("session.ended", key, actor)).await.map(|_| ())
    }

    fn end_of(&self, created_at: EpochMs, seen_at: EpochMs) -> EpochMs {
        created_at.plus(self.max).min(seen_at.plus(self.idle))
    }

    fn entry(&self, action: &str, key: &KnownKey, actor: Actor) -> LogEntry {
        LogEntry {
            org: key.org.clone(),
            subject: Some(key.id.to_string()),
            ..LogEntry::new(self.ids.log(), action, actor, self.clock.now())
        }
    }
}

/// The session's cookie. Over TLS its prefix makes browsers refuse one that was set by another host or without TLS.
fn cookie_name(gateway: &Gateway) -> &'static str {
    if gateway.connecting.public_url().is_secure() { "__Host-signalbox_session" } else { "signalbox_session" }
}

/// The session's cookie as a browser sent it.
pub fn read_cookie(request: &HttpRequest, gateway: &Gateway) -> Option<String> {
    request.cookie(cookie_name(gateway)).map(|cookie| cookie.value().to_owned())
}

/// The session's cookie with this value; without one, a cookie that makes the browser forget it. It goes with the
/// browser, or when the session ends, whichever comes first.
pub fn make_cookie(value: Option<&Secret>, gateway: &Gateway) -> Cookie<'static> {
    let text = value.and_then(Secret::expose_str).unwrap_or_default().to_owned();
    finish_cookie(Cookie::build(cookie_name(gateway), text).http_only(true), value.is_some(), gateway)
}

/// The cookie of the org that a service key's pages show; without one, a cookie that makes the browser forget it.
pub fn make_org_cookie(org: Option<&OrgId>, gateway: &Gateway) -> Cookie<'static> {
    let text = org.map(ToString::to_string).unwrap_or_default();
    finish_cookie(Cookie::build(ORG_COOKIE, text).http_only(true), org.is_some(), gateway)
}

fn finish_cookie(
    cookie: actix_web::cookie::CookieBuilder<'static>,
    is_kept: bool,
    gateway: &Gateway,
) -> Cookie<'static> {
    let cookie = cookie.path("/").secure(gateway.connecting.public_url().is_secure()).same_site(SameSite::Strict);
    let mut cookie = cookie.finish();
    if !is_kept {
        cookie.make_removal();
    }
    cookie
}

/// The org that a request with a session names beside `X-Org-Id`: `?org=` (empty for all of them), which an
/// `EventSource` and a link can say, or else the choice made earlier.
///
/// # Errors
/// `invalid_org_id`.
pub fn chosen_org(request: &HttpRequest) -> Result<Option<OrgId>, Problem> {
    match named_org(request) {
        Some(text) if text.is_empty() => Ok(None),
        Some(text) if is_org_id(&text) => Ok(Some(OrgId::from_raw(text))),
        Some(_) => Err(Problem::new(&codes::INVALID_ORG_ID)),
        None => {
            let chosen = request.cookie(ORG_COOKIE).map(|cookie| cookie.value().to_owned());
            Ok(chosen.filter(|text| is_org_id(text)).map(OrgId::from_raw))
        }
    }
}

/// What `?org=` says, if it is there.
pub fn named_org(request: &HttpRequest) -> Option<String> {
    Query::parse(request.query_string()).raw("org").map(|text| text.trim().to_owned())
}

/// Whether a person did something, rather than a page that refreshes itself: that keeps no session alive.
pub fn is_person(request: &HttpRequest) -> bool {
    let accept = request.headers().get(header::ACCEPT).map(header::HeaderValue::as_bytes);
    accept != Some(b"text/event-stream") && Query::parse(request.query_string()).raw("fragment").is_none()
}

/// Refuses what would change something and does not come from a page of ours.
///
/// # Errors
/// `cross_origin_request`.
pub fn refuse_cross_origin(request: &HttpRequest, gateway: &Gateway) -> Result<(), Problem> {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let one = |name: header::HeaderName| {
        let mut values = request.headers().get_all(name);
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    let public = gateway.connecting.public_url().base();
    match one(header::ORIGIN) {
        Some(origin) if is_own_origin(origin, one(header::HOST), public) => Ok(()),
        _ => Err(Problem::new(&codes::CROSS_ORIGIN_REQUEST)),
    }
}

/// Whether an origin is ours: the public URL's, or that of the host we were asked at, as browsers write it.
fn is_own_origin(origin: &str, host: Option<&str>, public: &Url) -> bool {
    let Ok(parsed) = Url::parse(origin) else { return false };
    if parsed.origin().ascii_serialization() != origin {
        return false;
    }
    let asked_at = host.and_then(|host| Url::parse(&format!("{}://{host}", public.scheme())).ok());
    parsed.origin() == public.origin() || asked_at.is_some_and(|asked_at| asked_at.origin() == parsed.origin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_origin_is_ours_however_others_look() {
        let public: Url = "https://hooks.example.test/signalbox".parse().expect("a URL");
        let is_own = |origin: &str| is_own_origin(origin, Some("10.0.0.7:4110"), &public);
        assert!(is_own("https://hooks.example.test") && is_own("https://10.0.0.7:4110"));
        for foreign in [
            "",
            "null",
            "http://hooks.example.test",
            "https://hooks.example.test:8443",
            "https://hooks.example.test.evil.test",
            "https://evil.test/hooks.example.test",
            "https://hooks.example.test@evil.test",
            "https://hooks.example.test/",
            "https://hooks.example.test https://hooks.example.test",
            "https://example.test",
            "http://10.0.0.7:4110",
            "https://10.0.0.7",
        ] {
            assert!(!is_own(foreign), "{foreign}");
        }
        let local: Url = "http://127.0.0.1:4110".parse().expect("a URL");
        assert!(is_own_origin("http://localhost:4110", Some("localhost:4110"), &local));
        assert!(!is_own_origin("http://localhost:4110", Some("evil.test@localhost:4111"), &local));
        assert!(!is_own_origin("http://localhost:4110", None, &local));
    }
}
