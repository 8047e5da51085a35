//! Request bodies: read piece by piece within limits of size and time, and the members of a JSON body.
//!
//! **Invariants**: a body is never inflated; nothing past the limit is read; a body that pauses or dawdles is given up;
//! bytes being handled are counted against one budget from their arrival until their handling ends. **Must not know**
//! what any body means.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header::{self, HeaderMap},
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, future::LocalBoxFuture};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::{error_codes as codes, gateway::Gateway, problem::Problem};
use crate::model::clock::EpochMs;

/// The largest body of the JSON API, bytes. Webhooks have their own limits.
pub const MAX_API_BODY_BYTES: usize = 1024 * 1024;

/// The most room made for a body before its bytes have come.
const MAX_ROOM_AHEAD_BYTES: usize = 64 * 1024;

/// Larger bodies leave a quarter of the budget to those that are not, bytes: nobody has proved who he is yet, and five that
/// drip could hold all of it from everybody else. Nearly every webhook is smaller.
const LARGE_BODY_BYTES: usize = 256 * 1024;

/// The longest text member the JSON API takes, bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// How much, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The largest body, bytes.
    pub max_bytes: usize,
    /// The longest pause between two pieces.
    pub idle: Duration,
    /// The longest time in all.
    pub total: Duration,
}

/// Bytes of webhook bodies that may be in hand at once, over all workers.
#[derive(Debug)]
pub struct BodyBudget {
    max_bytes: usize,
    in_hand: AtomicUsize,
}

impl BodyBudget {
    /// A budget of that many bytes.
    pub fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, in_hand: AtomicUsize::new(0) })
    }

    /// Bytes in hand now.
    pub fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::Relaxed)
    }

    /// An empty share, to be grown as bytes arrive.
    pub fn share(self: &Arc<Self>) -> BudgetShare {
        BudgetShare { budget: Arc::clone(self), bytes: 0 }
    }
}

/// What one body holds of the budget; dropping it gives it back.
#[derive(Debug)]
pub struct BudgetShare {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl BudgetShare {
    /// Takes more; false, and nothing taken, if there is no more. A body that is alone is let in whatever its size: it
    /// has a limit of its own.
    fn grow(&mut self, bytes: usize) -> bool {
        let own = self.bytes;
        let is_large = own.saturating_add(bytes) > LARGE_BODY_BYTES;
        let max = self.budget.max_bytes - if is_large { self.budget.max_bytes / 4 } else { 0 };
        let taken = self.budget.in_hand.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |in_hand| {
            in_hand.checked_add(bytes).filter(|sum| *sum <= max || in_hand == own)
        });
        if taken.is_ok() {
            self.bytes += bytes;
        }
        taken.is_ok()
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.in_hand.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a whole body. `share` grows with it.
///
/// # Errors
/// A problem for a body that is compressed, too large, too slow or incomplete, or for which there is no room.
pub async fn read_body<S>(
    headers: &HeaderMap,
    mut pieces: S,
    limits: BodyLimits,
    mut share: Option<&mut BudgetShare>,
) -> Result<Bytes, Problem>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    refuse_compressed(headers)?;
    let too_large = || Problem::new(&codes::PAYLOAD_TOO_LARGE).member("maxBytes", limits.max_bytes);
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok())
        .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|length| length > limits.max_bytes) {
        return Err(too_large());
    }

    let deadline = Instant::now() + limits.total;
    let mut body = BytesMut::new();
    loop {
        let piece = timeout_at(deadline.min(Instant::now() + limits.idle), pieces.next())
            .await
            .map_err(|_| Problem::new(&codes::REQUEST_TIMEOUT))?;
        let piece = match piece {
            None => return Ok(body.freeze()),
            Some(Ok(piece)) => piece,
            Some(Err(PayloadError::Overflow)) => return Err(too_large()),
            Some(Err(error)) => return Err(Problem::new(&codes::INCOMPLETE_BODY).caused_by(error)),
        };
        if body.len().saturating_add(piece.len()) > limits.max_bytes {
            return Err(too_large());
        }
        if let Some(share) = share.as_deref_mut()
            && !share.grow(piece.len())
        {
            return Err(Problem::new(&codes::TEMPORARILY_UNAVAILABLE).caused_by("the budget of body bytes is used up"));
        }
        if body.is_empty() && announced == Some(piece.len()) {
            // The common case, a small body in one piece, is not copied. The end of the stream is read all the same,
            // so that the connection can be used again.
            return match timeout_at(deadline, pieces.next()).await {
                Ok(None) => Ok(piece),
                Ok(Some(Ok(_))) => Err(too_large()),
                Ok(Some(Err(error))) => Err(Problem::new(&codes::INCOMPLETE_BODY).caused_by(error)),
                Err(_) => Err(Problem::new(&codes::REQUEST_TIMEOUT)),
            };
        }
        if body.is_empty() {
            // Room for what is announced, as far as that is worth believing before it has come.
            body.reserve(announced.unwrap_or(0).clamp(piece.len(), MAX_ROOM_AHEAD_BYTES.max(piece.len())));
        }
        body.extend_from_slice(&piece);
    }
}

fn refuse_compressed(headers: &HeaderMap) -> Result<(), Problem> {
    let identity = |value: &[u8]| value.trim_ascii().is_empty() || value.trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).all(|value| value.as_bytes().split(|byte| *byte == b',').all(identity))
    {
        Ok(())
    } else {
        Err(Problem::new(&codes::UNSUPPORTED_CONTENT_ENCODING))
    }
}

/// The body of a request to the JSON API, read but not yet parsed: who asks is checked first.
#[derive(Debug)]
pub struct ApiBody(Bytes);

impl ApiBody {
    /// Its members.
    ///
    /// # Errors
    /// `invalid_json` if it is not a JSON object.
    pub fn members(&self) -> Result<Members, Problem> {
        match serde_json::from_slice::<Value>(&self.0) {
            Ok(Value::Object(members)) => Ok(Members::new(members)),
            _ => Err(Problem::new(&codes::INVALID_JSON)),
        }
    }

    /// The body as it came.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Its members; an empty body is an empty object.
    ///
    /// # Errors
    /// As [`Self::members`].
    pub fn optional_members(&self) -> Result<Members, Problem> {
        if self.0.trim_ascii().is_empty() { Ok(Members::new(Map::new())) } else { self.members() }
    }
}

impl FromRequest for ApiBody {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let server = request.app_data::<web::Data<Gateway>>().map(|gateway| gateway.config.server.clone());
            let Some(server) = server else {
                return Err(Problem::new(&codes::INTERNAL_ERROR).caused_by("the gateway is not in the app's data"));
            };
            let limits = BodyLimits {
                max_bytes: MAX_API_BODY_BYTES,
                idle: server.body_idle_timeout,
                total: server.body_timeout,
            };
            read_body(request.headers(), payload, limits, None).await.map(Self)
        })
    }
}

/// The members of a JSON body, taken one by one; complaints are collected and raised together by [`Members::finish`].
#[derive(Debug)]
pub struct Members {
    left: Map<String, Value>,
    missing: BTreeSet<String>,
    invalid: BTreeSet<String>,
}

impl Members {
    /// The members of an object.
    pub fn new(members: Map<String, Value>) -> Self {
        Self { left: members, missing: BTreeSet::new(), invalid: BTreeSet::new() }
    }

    /// Whether a member is there, `null` included.
    pub fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// Takes a member; `null` is as good as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// A text that must be there; empty if it is not, and then noted.
    pub fn required_text(&mut self, name: &str) -> String {
        self.required(name, as_text)
    }

    /// The same of any length, for what has a bound of its own.
    pub fn required_long_text(&mut self, name: &str) -> String {
        self.required(name, as_long_text)
    }

    /// A text or an integer that must be there, as text: ids at providers come as either.
    pub fn required_id(&mut self, name: &str) -> String {
        self.required(name, as_id)
    }

    fn required(&mut self, name: &str, read: impl FnOnce(&Value) -> Option<String>) -> String {
        self.take(name).as_ref().and_then(read).unwrap_or_else(|| {
            self.missing.insert(name.to_owned());
            String::new()
        })
    }

    /// A text that may be there.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.optional(name, |value| as_text(&value))
    }

    /// A text or an integer that may be there, as text.
    pub fn id(&mut self, name: &str) -> Option<String> {
        self.optional(name, |value| as_id(&value))
    }

    /// A boolean that may be there.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        self.optional(name, |value| value.as_bool())
    }

    /// An integer that may be there.
    pub fn integer(&mut self, name: &str) -> Option<i64> {
        self.optional(name, |value| value.as_i64())
    }

    /// A time in RFC 3339 that may be there.
    pub fn time(&mut self, name: &str) -> Option<EpochMs> {
        self.optional(name, |value| value.as_str().and_then(EpochMs::parse_rfc3339))
    }

    /// A list of texts that may be there.
    pub fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        self.optional(name, |value| value.as_array()?.iter().map(as_text).collect())
    }

    /// A member that may be there, in whatever shape `read` accepts.
    pub fn optional<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Option<T>) -> Option<T> {
        let read = self.take(name).map(read);
        if matches!(read, Some(None)) {
            self.invalid.insert(name.to_owned());
        }
        read.flatten()
    }

    /// Notes that a member is missing or, being required, of the wrong type.
    pub fn note_missing(&mut self, name: impl Into<String>) {
        self.missing.insert(name.into());
    }

    /// Notes that whatever is left is not known.
    pub fn note_unknown(&mut self) {
        self.invalid.extend(self.left.keys().cloned());
    }

    /// The names of what is left.
    pub fn names(&self) -> Vec<String> {
        self.left.keys().cloned().collect()
    }

    /// Raises the complaints.
    ///
    /// # Errors
    /// `missing_required_fields` or `invalid_fields`, each with `fields`.
    pub fn finish(&self) -> Result<(), Problem> {
        let list = |names: &BTreeSet<String>| names.iter().cloned().map(Value::from).collect::<Vec<_>>();
        if !self.missing.is_empty() {
            return Err(Problem::new(&codes::MISSING_REQUIRED_FIELDS).member("fields", list(&self.missing)));
        }
        if !self.invalid.is_empty() {
            return Err(Problem::new(&codes::INVALID_FIELDS).member("fields", list(&self.invalid)));
        }
        Ok(())
    }
}

/// A text that is not empty, not too long, and holds no NUL (which PostgreSQL refuses).
pub fn as_text(value: &Value) -> Option<String> {
    as_long_text(value).filter(|text| text.len() <= MAX_TEXT_BYTES)
}

fn as_long_text(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
}

/// A text or an integer, as text.
fn as_id(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string()),
        _ => as_text(value),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use futures_util::stream;
    use serde_json::json;

    use super::*;

    const LIMITS: BodyLimits =
        BodyLimits { max_bytes: 10, idle: Duration::from_secs(5), total: Duration::from_secs(12) };

    fn headers(entries: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        entries.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn pieces(pieces: &[&'static str]) -> impl Stream<Item = Result<Bytes, PayloadError>> + Unpin + use<> {
        stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect::<Vec<_>>())
    }

    /// Pieces of one byte, each after a pause.
    fn drip(pause: Duration) -> impl Stream<Item = Result<Bytes, PayloadError>> + Unpin {
        Box::pin(stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok(Bytes::from_static(b"x")), ()))
        }))
    }

    fn code(result: &Result<Bytes, Problem>) -> &'static str {
        result.as_ref().map_or_else(|problem| problem.code().code, |_| "ok")
    }

    #[actix_web::test]
    async fn a_body_up_to_the_limit_is_read_whole_and_a_longer_one_is_refused() {
        let none = HeaderMap::new();
        let body = read_body(&none, pieces(&["01234", "56789"]), LIMITS, None).await.expect("within the limit");
        assert_eq!(&body[..], b"0123456789");
        let chunked = read_body(&none, pieces(&["01234", "567890"]), LIMITS, None).await;
        assert_eq!(code(&chunked), "payload_too_large");
        let exact = headers(&[(header::CONTENT_LENGTH, "3")]);
        assert_eq!(&read_body(&exact, pieces(&["abc"]), LIMITS, None).await.expect("one piece")[..], b"abc");
    }

    #[actix_web::test]
    async fn an_announced_length_over_the_limit_is_refused_before_a_byte_is_read() {
        let untouchable = Box::pin(stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, PayloadError>>> {
            panic!("the body was read")
        }));
        let announced = headers(&[(header::CONTENT_LENGTH, "11")]);
        assert_eq!(code(&read_body(&announced, untouchable, LIMITS, None).await), "payload_too_large");
    }

    #[actix_web::test]
    async fn a_compressed_body_is_refused_and_identity_is_not_compression() {
        for encoding in ["gzip", "identity, br", "deflate"] {
            let encoded = headers(&[(header::CONTENT_ENCODING, encoding)]);
            assert_eq!(
                code(&read_body(&encoded, pieces(&["x"]), LIMITS, None).await),
                "unsupported_content_encoding",
                "{encoding}"
            );
        }
        let identity = headers(&[(header::CONTENT_ENCODING, "Identity")]);
        assert_eq!(code(&read_body(&identity, pieces(&["x"]), LIMITS, None).await), "ok");
    }

    #[actix_web::test]
    async fn a_body_that_pauses_or_dawdles_is_given_up() {
        let (none, long) = (HeaderMap::new(), Duration::from_hours(1));
        let impatient = BodyLimits { idle: Duration::from_millis(5), total: long, ..LIMITS };
        assert_eq!(code(&read_body(&none, drip(long), impatient, None).await), "request_timeout", "the idle limit");
        let busy = BodyLimits { idle: long, total: Duration::from_millis(20), max_bytes: usize::MAX };
        let piecemeal = drip(Duration::from_millis(1));
        assert_eq!(code(&read_body(&none, piecemeal, busy, None).await), "request_timeout", "the limit in all");
    }

    #[actix_web::test]
    async fn bytes_in_hand_are_bounded_over_all_bodies_and_given_back() {
        let budget = BodyBudget::new(8);
        let none = HeaderMap::new();
        let mut first = budget.share();
        let mut second = budget.share();
        assert_eq!(code(&read_body(&none, pieces(&["01234"]), LIMITS, Some(&mut first)).await), "ok");
        let refused = read_body(&none, pieces(&["01234"]), LIMITS, Some(&mut second)).await;
        assert_eq!(code(&refused), "temporarily_unavailable");
        drop((first, second));
        assert_eq!(budget.in_hand(), 0);
    }

    #[test]
    fn large_bodies_leave_room_for_those_that_are_not() {
        const MIB: usize = 1024 * 1024;
        let budget = BodyBudget::new(8 * MIB);
        let mut alone = budget.share();
        assert!(alone.grow(10 * MIB), "one that is alone is let in whatever its size");
        drop(alone);
        let mut large: Vec<_> = (0..3).map(|_| budget.share()).collect();
        assert!(large.iter_mut().all(|share| share.grow(2 * MIB)));
        assert!(!large[0].grow(1), "they have three quarters");
        let mut small: Vec<_> = (0..8).map(|_| budget.share()).collect();
        assert!(small.iter_mut().all(|share| share.grow(LARGE_BODY_BYTES)));
        assert!(!budget.share().grow(1), "and that is all");
    }

    #[test]
    fn complaints_about_members_are_raised_together() {
        let body = json!({"a": "", "b": 7, "c": "x\u{0}", "d": "2026-13-01", "e": 12});
        let mut members = Members::new(body.as_object().expect("an object").clone());
        assert_eq!(members.required_text("a"), "");
        assert_eq!(members.required_id("b"), "7");
        assert_eq!(members.required_text("c"), "");
        assert_eq!(members.time("d"), None);
        assert_eq!(members.integer("e"), Some(12));
        let problem = members.finish().expect_err("complaints");
        assert_eq!(problem.code(), &codes::MISSING_REQUIRED_FIELDS);
        assert_eq!(problem.to_json("")["fields"], json!(["a", "c"]));
    }
}
