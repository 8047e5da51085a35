//! Who asks: API keys, the org and the person they act for.
//!
//! **Owns** the key ring and the extractors that handlers name in their signatures. **Invariants**: only hashes are
//! stored and remembered; hashes are compared in constant time; a revocation is effective within a second of the store's
//! answer; what an org key may not see looks exactly like what does not exist. **Must not know** any single route.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap},
    web,
};
use futures_util::future::LocalBoxFuture;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::{
    error_codes as codes,
    gateway::Gateway,
    health::PROBE_LIMIT,
    problem::Problem,
    request_frame::note,
    session::{self, Resumed},
};
use crate::{
    crypto::api_key,
    model::{
        clock::Clock,
        ids::{KeyId, OrgId},
        log_entry::Actor,
        secret::Secret,
        session::SessionHash,
    },
    store::{ApiKey, SharedStore, StoreError},
};

/// How long an answer of the store about a key is remembered. With the query it stays under the second that a
/// revocation may take.
const REMEMBERED_FOR: Duration = Duration::from_millis(800);
/// How long a key that was good stays so for whoever asks whether the store answers, while it does not: longer than
/// people take to mend a database.
const TRUSTED_FOR: Duration = Duration::from_hours(24);
/// How many answers are remembered at the most: wrong keys are remembered too.
const REMEMBERED_KEYS: usize = 10_000;
/// How often the use of a key is written down.
const TOUCH_EVERY: Duration = Duration::from_mins(1);
/// The longest key looked at, bytes.
const MAX_KEY_BYTES: usize = 512;
/// The id under which the bootstrap key of the configuration appears in logs.
const BOOTSTRAP_ID: &str = "key_bootstrap";

/// A key that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    /// Which.
    pub id: KeyId,
    /// The org it is bound to; `None` is a service key.
    pub org: Option<OrgId>,
    /// Whether it may change anything.
    pub can_write: bool,
    pub(super) hash: [u8; 32],
}

/// The keys: the bootstrap key of the configuration, and those of the store.
pub struct KeyRing {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    bootstrap: Option<[u8; 32]>,
    memory: Mutex<KeyMemory>,
    remembers: bool,
}

impl KeyRing {
    /// A key ring; `bootstrap` is `auth.service_key`.
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>, bootstrap: Option<&Secret>) -> Self {
        let bootstrap = bootstrap.and_then(Secret::expose_str).map(api_key::hash);
        Self { store, clock, bootstrap, memory: Mutex::default(), remembers: true }
    }

    /// The same, remembering what the store said or asking it every time.
    #[must_use]
    pub fn remembering(mut self, remembers: bool) -> Self {
        self.remembers = remembers;
        self
    }

    /// The key with this text, if it is good.
    ///
    /// # Errors
    /// Only if the store cannot be asked.
    pub async fn identify(&self, presented: &str) -> Result<Option<KnownKey>, StoreError> {
        if presented.is_empty() || presented.len() > MAX_KEY_BYTES {
            return Ok(None);
        }
        self.look_up(api_key::hash(presented)).await
    }

    /// The same, but while the store does not answer a key is what the store last said it was. Only for what says whether
    /// the store answers.
    ///
    /// # Errors
    /// Only if the store cannot be asked about a key that was not good lately.
    pub(super) async fn identify_or_recall(&self, presented: &str) -> Result<Option<KnownKey>, StoreError> {
        let asked = tokio::time::timeout(PROBE_LIMIT, self.identify(presented)).await;
        let error = match asked {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error,
            Err(_) => StoreError::Unavailable("it does not answer in time".into()),
        };
        let hash = api_key::hash(presented);
        let last = self.memory().last_answer(&hash, Instant::now());
        last.and_then(|key| good(key, hash)).map(Some).ok_or(error)
    }

    /// The same, asked of the store whatever is remembered: what begins now is not to begin with a key that just ended.
    ///
    /// # Errors
    /// Only if the store cannot be asked.
    pub async fn identify_afresh(&self, presented: &str) -> Result<Option<KnownKey>, StoreError> {
        self.memory().answers.remove(&api_key::hash(presented));
        self.identify(presented).await
    }

    /// Whether a key identified earlier is still good.
    ///
    /// # Errors
    /// Only if the store cannot be asked.
    pub async fn is_still_good(&self, key: &KnownKey) -> Result<bool, StoreError> {
        Ok(self.look_up(key.hash).await?.is_some())
    }

    /// Forgets what the store said, because keys changed.
    pub fn forget(&self) {
        self.memory().answers.clear();
    }

    /// The key with this hash, if it is good.
    pub(super) async fn look_up(&self, hash: [u8; 32]) -> Result<Option<KnownKey>, StoreError> {
        if self.bootstrap.is_some_and(|bootstrap| bool::from(bootstrap.ct_eq(&hash))) {
            return Ok(Some(KnownKey { id: KeyId::from_raw(BOOTSTRAP_ID), org: None, can_write: true, hash }));
        }
        let recalled = if self.remembers { self.memory().recall(&hash, Instant::now()) } else { Recalled::Nothing };
        let found = match recalled {
            Recalled::Key(key) => Some(key),
            Recalled::NoKey => None,
            Recalled::Nothing => {
                let found = self.store.find_key(&hash).await?;
                self.memory().remember(hash, found.clone(), Instant::now());
                found
            }
        };
        let known = found.and_then(|key| good(key, hash));
        if let Some(key) = &known {
            self.note_use(&key.id);
        }
        Ok(known)
    }

    /// Writes down, now and then and beside the request, that a key is used.
    fn note_use(&self, id: &KeyId) {
        if !self.memory().should_touch(id, Instant::now()) {
            return;
        }
        let (store, used) = (Arc::clone(&self.store), vec![(id.clone(), self.clock.now())]);
        actix_web::rt::spawn(async move {
            if let Err(error) = store.touch_keys(used).await {
                tracing::warn!(error = %error, "the use of a key could not be noted");
            }
        });
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, KeyMemory> {
        // Nothing in the memory can be left half done: what a panicking thread left is as good as ever.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of this row and hash, unless it ended.
fn good(key: ApiKey, hash: [u8; 32]) -> Option<KnownKey> {
    let is_good = key.revoked_at.is_none() && bool::from(key.hash.ct_eq(&hash));
    is_good.then_some(KnownKey { id: key.id, org: key.org, can_write: key.can_write, hash })
}

/// What is remembered of keys; pure, the present is an argument.
#[derive(Debug, Default)]
struct KeyMemory {
    answers: HashMap<[u8; 32], (Instant, Option<ApiKey>)>,
    touched: HashMap<KeyId, Instant>,
}

/// What is remembered of a hash.
#[derive(Debug, PartialEq, Eq)]
enum Recalled {
    /// Nothing, or nothing recent.
    Nothing,
    /// The store had no such key.
    NoKey,
    /// The store had this key.
    Key(ApiKey),
}

impl KeyMemory {
    /// What the store said about this hash a moment ago.
    fn recall(&self, hash: &[u8; 32], now: Instant) -> Recalled {
        match self.answers.get(hash) {
            Some((at, found)) if now.duration_since(*at) < REMEMBERED_FOR => {
                found.clone().map_or(Recalled::NoKey, Recalled::Key)
            }
            _ => Recalled::Nothing,
        }
    }

    /// The key that the store last said this is, if that is not too long ago.
    fn last_answer(&self, hash: &[u8; 32], now: Instant) -> Option<ApiKey> {
        let (at, found) = self.answers.get(hash)?;
        found.clone().filter(|_| now.duration_since(*at) < TRUSTED_FOR)
    }

    fn remember(&mut self, hash: [u8; 32], found: Option<ApiKey>, now: Instant) {
        if self.answers.len() >= REMEMBERED_KEYS {
            // Whoever sends wrong keys does not make it forget the good ones.
            self.answers.retain(|_, (at, found)| found.is_some() || now.duration_since(*at) < REMEMBERED_FOR);
        }
        if self.answers.len() >= REMEMBERED_KEYS {
            self.answers.clear();
        }
        self.answers.insert(hash, (now, found));
    }

    /// Whether the use of a key is to be written down now.
    fn should_touch(&mut self, id: &KeyId, now: Instant) -> bool {
        let due = self.touched.get(id).is_none_or(|at| now.duration_since(*at) >= TOUCH_EVERY);
        if due {
            self.touched.insert(id.clone(), now);
        }
        due
    }
}

/// The key a request presents: `X-API-Key`, else `Authorization: Bearer`. A header that is repeated or not text
/// presents nothing.
pub fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let once = |name: &str| {
        let mut values = headers.get_all(name);
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    };
    if headers.contains_key("x-api-key") {
        return once("x-api-key").map(str::trim);
    }
    let (scheme, key) = once(header::AUTHORIZATION.as_str())?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Whether a text can be an org id.
pub fn is_org_id(text: &str) -> bool {
    (1..=191).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key.
    pub key: KnownKey,
    /// The org acted for; `None` is a service key that named none and sees everything.
    pub org: Option<OrgId>,
    /// The person acted for.
    pub user: Option<String>,
    /// The peer's address.
    pub from: Option<String>,
    /// The console's session through which they ask; `None` with a key of their own.
    pub session: Option<SessionHash>,
}

impl Caller {
    /// Whether the key is a service key.
    pub fn is_service(&self) -> bool {
        self.key.org.is_none()
    }

    /// The org acted for.
    ///
    /// # Errors
    /// `missing_org_id` if a service key named none.
    pub fn require_org(&self) -> Result<&OrgId, Problem> {
        self.org.as_ref().ok_or_else(|| Problem::new(&codes::MISSING_ORG_ID))
    }

    /// Whether rows of this org are visible. Rows of no org are visible only to a service key that named none.
    pub fn sees(&self, org: Option<&OrgId>) -> bool {
        self.org.is_none() || self.org.as_ref() == org
    }

    /// For the audit log.
    pub fn actor(&self) -> Actor {
        Actor { who: format!("key:{}", self.key.id), user: self.user.clone(), from: self.from.clone() }
    }

    /// Whether the key, and the session it was named by, are still good.
    ///
    /// # Errors
    /// Only if the store cannot be asked.
    pub async fn is_still_good(&self, gateway: &Gateway) -> Result<bool, StoreError> {
        let session_is_good = match &self.session {
            Some(session) => gateway.sessions.is_still_good(session).await?,
            None => true,
        };
        Ok(session_is_good && gateway.keys.is_still_good(&self.key).await?)
    }

    /// Finds out who asks: by the key they present, or else by the console's session.
    ///
    /// # Errors
    /// `unauthorized`, `cross_origin_request`, `invalid_org_id`, `invalid_user_id`, `forbidden`.
    pub async fn authenticate(gateway: &Gateway, request: &HttpRequest) -> Result<Self, Problem> {
        Self::authenticate_by(KeyRing::identify, gateway, request).await
    }

    async fn authenticate_by(
        identify: impl AsyncFn(&KeyRing, &str) -> Result<Option<KnownKey>, StoreError>,
        gateway: &Gateway,
        request: &HttpRequest,
    ) -> Result<Self, Problem> {
        let headers = request.headers();
        let from = request.peer_addr().map(|peer| peer.ip().to_string());
        let cookie = session::read_cookie(request, gateway).filter(|_| !headers.contains_key("x-api-key"));
        let (key, resumed) = match (presented_key(headers), cookie) {
            (Some(key), _) => (identify(&gateway.keys, key).await?, None),
            (None, Some(cookie)) => {
                let is_person = session::is_person(request);
                let resumed = gateway.sessions.resume(&gateway.keys, &cookie, is_person).await?;
                (resumed.as_ref().map(|resumed| resumed.key.clone()), resumed)
            }
            (None, None) => return Err(Problem::new(&codes::UNAUTHORIZED)),
        };
        let Some(key) = key else {
            gateway.brake.refused(request).await;
            return Err(Problem::new(&codes::UNAUTHORIZED));
        };
        note(request, |notes| notes.key_id = Some(key.id.to_string()));
        let chosen = if resumed.is_some() {
            session::refuse_cross_origin(request, gateway)?;
            session::chosen_org(request)?
        } else {
            None
        };
        let mut caller = Self::acting_for(key, headers, chosen, from)?;
        if let Some(Resumed { user, hash, .. }) = resumed {
            caller.user = user.or(caller.user);
            caller.session = Some(hash);
        }
        note(request, |notes| notes.org_id = caller.org.as_ref().map(ToString::to_string));
        Ok(caller)
    }

    /// Reads `X-Org-Id` and `X-User-Id`; `chosen` is the org of a service key that names none there.
    fn acting_for(
        key: KnownKey,
        headers: &HeaderMap,
        chosen: Option<OrgId>,
        from: Option<String>,
    ) -> Result<Self, Problem> {
        let named = match headers.get("x-org-id") {
            None => None,
            Some(value) => match value.to_str() {
                Ok(text) if is_org_id(text) => Some(OrgId::from_raw(text)),
                _ => return Err(Problem::new(&codes::INVALID_ORG_ID)),
            },
        };
        let org = match (&key.org, named) {
            (Some(bound), Some(named)) if *bound != named => return Err(Problem::new(&codes::FORBIDDEN)),
            (Some(bound), _) => Some(bound.clone()),
            (None, named) => named.or(chosen),
        };
        let user = match headers.get("x-user-id").map(|value| value.to_str()) {
            None => None,
            Some(Ok(text)) if Self::is_user_id(text) => Some(text.to_owned()),
            Some(_) => return Err(Problem::new(&codes::INVALID_USER_ID)),
        };
        Ok(Self { key, org, user, from, session: None })
    }

    /// Whether a text can name a person.
    pub fn is_user_id(text: &str) -> bool {
        (1..=191).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    }

    fn require_write(self) -> Result<Self, Problem> {
        if self.key.can_write { Ok(self) } else { Err(Problem::new(&codes::INSUFFICIENT_SCOPE)) }
    }

    fn require_service(self) -> Result<Self, Problem> {
        if self.is_service() { Ok(self) } else { Err(Problem::new(&codes::SERVICE_KEY_REQUIRED)) }
    }
}

/// Any good key.
#[derive(Debug)]
pub struct Reader(pub Caller);
/// A key that may change things.
#[derive(Debug)]
pub struct Writer(pub Caller);
/// A service key.
#[derive(Debug)]
pub struct ServiceReader(pub Caller);
/// A service key that may change things.
#[derive(Debug)]
pub struct ServiceWriter(pub Caller);
/// A service key, or one that was good lately while the store does not answer.
#[derive(Debug)]
pub struct ServiceProbe(pub Caller);

macro_rules! extractors {
    ($($name:ident by $identify:ident: |$caller:ident| $check:expr;)*) => {$(
        impl FromRequest for $name {
            type Error = Problem;
            type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                let request = request.clone();
                Box::pin(async move {
                    let Some(gateway) = request.app_data::<web::Data<Gateway>>() else {
                        return Err(Problem::new(&codes::INTERNAL_ERROR).caused_by("the gateway is not in the app's data"));
                    };
                    let $caller = Caller::authenticate_by(KeyRing::$identify, gateway, &request).await?;
                    $check.map($name)
                })
            }
        }
    )*};
}

extractors! {
    Reader by identify: |caller| Ok::<Caller, Problem>(caller);
    Writer by identify: |caller| caller.require_write();
    ServiceReader by identify: |caller| caller.require_service();
    ServiceWriter by identify: |caller| caller.require_service().and_then(Caller::require_write);
    ServiceProbe by identify_or_recall: |caller| caller.require_service();
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::model::clock::EpochMs;

    fn headers(entries: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in entries {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"));
        }
        map
    }

    fn key(org: Option<&str>, can_write: bool) -> KnownKey {
        KnownKey { id: KeyId::from_raw("key_1"), org: org.map(OrgId::from_raw), can_write, hash: [0; 32] }
    }

    fn row(hash: [u8; 32]) -> ApiKey {
        ApiKey {
            id: KeyId::from_raw("key_1"),
            name: "ci".into(),
            hash,
            prefix: "sbx_".into(),
            org: None,
            can_write: true,
            created_at: EpochMs(0),
            last_used_at: None,
            revoked_at: None,
        }
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> &'static str {
        result.expect_err("a refusal").code().code
    }

    #[test]
    fn a_key_is_presented_in_either_header_but_not_twice() {
        for (entries, expected) in [
            (&[][..], None),
            (&[("x-api-key", "k1")], Some("k1")),
            (&[("authorization", "Bearer k2")], Some("k2")),
            (&[("authorization", "bearer  k2")], Some("k2")),
            (&[("authorization", "Basic k2")], None),
            (&[("x-api-key", "k1"), ("authorization", "Bearer k2")], Some("k1")),
            (&[("x-api-key", "k1"), ("x-api-key", "k3")], None),
        ] {
            assert_eq!(presented_key(&headers(entries)), expected, "{entries:?}");
        }
    }

    #[test]
    fn a_service_key_acts_for_the_org_it_names_and_an_org_key_for_its_own() {
        let named = headers(&[("x-org-id", "org_a"), ("x-user-id", "user_7")]);
        let caller = Caller::acting_for(key(None, true), &named, None, None).expect("good");
        assert_eq!(caller.org, Some(OrgId::from_raw("org_a")));
        assert_eq!(caller.actor().user.as_deref(), Some("user_7"));
        let nobody = Caller::acting_for(key(None, true), &headers(&[]), None, None).expect("good");
        assert_eq!(code(nobody.require_org().cloned()), "missing_org_id");
        let bound = Caller::acting_for(key(Some("org_a"), true), &headers(&[]), None, None).expect("good");
        assert_eq!(bound.require_org().expect("bound"), &OrgId::from_raw("org_a"));
        let foreign = headers(&[("x-org-id", "org_b")]);
        assert_eq!(code(Caller::acting_for(key(Some("org_a"), true), &foreign, None, None)), "forbidden");
    }

    #[test]
    fn an_org_id_is_letters_digits_underscores_and_dashes() {
        let long = "a".repeat(192);
        for bad in ["", "a b", "ö", "a/b", long.as_str()] {
            let named = headers(&[("x-org-id", bad)]);
            assert_eq!(code(Caller::acting_for(key(None, true), &named, None, None)), "invalid_org_id", "{bad}");
        }
        assert!(is_org_id(&long[..191]) && is_org_id("org_A-9"));
    }

    #[test]
    fn rows_of_another_org_or_of_none_are_invisible_unless_no_org_was_named() {
        let of = |org: Option<&str>| Caller {
            key: key(None, true),
            org: org.map(OrgId::from_raw),
            user: None,
            from: None,
            session: None,
        };
        let (a, b) = (OrgId::from_raw("a"), OrgId::from_raw("b"));
        assert!(of(Some("a")).sees(Some(&a)) && !of(Some("a")).sees(Some(&b)) && !of(Some("a")).sees(None));
        assert!(of(None).sees(Some(&b)) && of(None).sees(None));
    }

    #[test]
    fn scope_and_kind_of_the_key_are_checked() {
        let of = |org, can_write| Caller { key: key(org, can_write), org: None, user: None, from: None, session: None };
        assert_eq!(code(of(None, false).require_write()), "insufficient_scope");
        assert_eq!(code(of(Some("a"), true).require_service()), "service_key_required");
        assert!(of(None, true).require_service().and_then(Caller::require_write).is_ok());
    }

    #[test]
    fn the_store_is_asked_again_within_a_second_and_use_is_noted_once_a_minute() {
        let mut memory = KeyMemory::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let row = row([7; 32]);
        memory.remember([7; 32], Some(row.clone()), start);
        memory.remember([8; 32], None, start);
        assert_eq!(memory.recall(&[7; 32], start), Recalled::Key(row.clone()));
        assert_eq!(memory.recall(&[8; 32], start), Recalled::NoKey, "wrong keys are remembered too");
        assert!(memory.should_touch(&row.id, start));
        assert_eq!(memory.recall(&[7; 32], after(1)), Recalled::Nothing);
        assert!(!memory.should_touch(&row.id, after(1)));
        assert!(memory.should_touch(&row.id, after(60)));
        assert_eq!(memory.last_answer(&[7; 32], after(3600)), Some(row), "for a store that does not answer");
        assert_eq!(memory.last_answer(&[7; 32], after(24 * 3600)), None);
        assert_eq!(memory.last_answer(&[8; 32], start), None);
    }

    #[test]
    fn remembered_keys_are_bounded_and_wrong_ones_make_room_first() {
        let mut memory = KeyMemory::default();
        let now = Instant::now();
        memory.remember([255; 32], Some(row([255; 32])), now);
        for index in 0..=REMEMBERED_KEYS {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&index.to_le_bytes());
            let later = if index == REMEMBERED_KEYS - 1 { now + REMEMBERED_FOR } else { now };
            memory.remember(hash, None, later);
        }
        assert!(memory.answers.len() <= REMEMBERED_KEYS);
        assert!(memory.last_answer(&[255; 32], now).is_some());
    }
}
