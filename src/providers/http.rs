//! The client for providers' APIs, and for the backfill service.
//!
//! **Owns** the limits of every outgoing API call: time, size of the answer, our `User-Agent`. **Invariants**: no proxy
//! from the environment, no redirect followed of its own accord, no cookies; header values and bodies are never logged;
//! a failure says whether the request may have reached the other side. **Must not know** any provider.

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, ClientBuilder, Method,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
    redirect::Policy,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::connector::ConnectorError;
use crate::model::{clock::EpochMs, secret::Secret};

/// How long a call may take, its answer included, unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer read, bytes, unless a call says otherwise.
const MAX_ANSWER_BYTES: usize = 8 << 20;
const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(30);

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the client for providers cannot be made: {0}")]
pub struct HttpClientUnavailable(String);

/// The client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpClient {
    inner: Client,
}

/// A call to be made.
#[derive(Debug)]
pub struct Call {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
    timeout: Duration,
    max_answer_bytes: usize,
    unusable: Option<&'static str>,
}

/// What was answered, whatever its status.
#[derive(Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Headers in lower case; repeated ones joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Nothing was sent: no address, no connection, or the request cannot be made.
    #[error("not sent: {0}")]
    NotSent(&'static str),
    /// The request may have been received: what it changed is not known.
    #[error("no answer: {0}")]
    AnswerLost(&'static str),
    /// The answer is larger than allowed.
    #[error("the answer is too large")]
    AnswerTooLarge,
}

impl From<HttpError> for ConnectorError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::NotSent(why) => Self::unavailable(why),
            HttpError::AnswerLost(_) => Self::AnswerLost,
            HttpError::AnswerTooLarge => Self::Malformed("the answer is too large"),
        }
    }
}

impl HttpClient {
    /// A client.
    ///
    /// # Errors
    /// [`HttpClientUnavailable`] if TLS cannot be set up.
    pub fn new() -> Result<Self, HttpClientUnavailable> {
        // The error says that another part of the process installed one already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let inner = builder()
            .build()
            .or_else(|error| {
                tracing::warn!(%error, "no root certificates: providers with https cannot be reached");
                builder().tls_certs_only([]).build()
            })
            .map_err(|error| HttpClientUnavailable(error.to_string()))?;
        Ok(Self { inner })
    }

    /// Makes a call.
    ///
    /// # Errors
    /// [`HttpError`] if there is no answer; an answer of any status is a [`Reply`].
    pub async fn send(&self, call: Call) -> Result<Reply, HttpError> {
        if let Some(why) = call.unusable {
            return Err(HttpError::NotSent(why));
        }
        let mut request = self.inner.request(call.method, call.url).headers(call.headers);
        if let Some(body) = call.body {
            request = request.body(body);
        }
        let max = call.max_answer_bytes;
        let exchange = async {
            let mut response = request.send().await.map_err(|error| classify(&error))?;
            let status = response.status().as_u16();
            let headers = readable_headers(response.headers());
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(|_| HttpError::AnswerLost("the answer broke off"))? {
                if body.len() + chunk.len() > max {
                    return Err(HttpError::AnswerTooLarge);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Reply { status, headers, body: body.freeze() })
        };
        tokio::time::timeout(call.timeout, exchange)
            .await
            .unwrap_or(Err(HttpError::AnswerLost("no answer within the time limit")))
    }
}

fn builder() -> ClientBuilder {
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .http1_only()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_CONNECTION_TIME)
        .tcp_nodelay(true)
}

fn classify(error: &reqwest::Error) -> HttpError {
    if error.is_connect() {
        return HttpError::NotSent("no connection");
    }
    if error.is_builder() || error.is_request() && error.source().is_none() {
        return HttpError::NotSent("the request cannot be made");
    }
    HttpError::AnswerLost("the connection broke")
}

fn readable_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut readable = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        readable
            .entry(name.as_str().to_owned())
            .and_modify(|known| {
                known.push_str(", ");
                known.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    readable
}

impl Call {
    /// A call with this method (`GET`, `POST`, …).
    pub fn new(method: &str, url: Url) -> Self {
        let known = Method::from_bytes(method.as_bytes());
        let unusable = known.is_err().then_some("no such method");
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("Signalbox/", env!("CARGO_PKG_VERSION"))));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        Self {
            method: known.unwrap_or(Method::GET),
            url,
            headers,
            body: None,
            timeout: TIMEOUT,
            max_answer_bytes: MAX_ANSWER_BYTES,
            unusable,
        }
    }

    /// With this header instead of any other of its name. The value is never logged.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(mut value) => {
                value.set_sensitive(true);
                self.headers.insert(HeaderName::from_static(name), value);
            }
            Err(_) => self.unusable = Some("a header cannot be sent"),
        }
        self
    }

    /// With `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(self, token: &Secret) -> Self {
        let value = token.expose_str().map(|token| format!("Bearer {token}")).unwrap_or_default();
        self.header("authorization", &value)
    }

    /// With a JSON body.
    #[must_use]
    pub fn json(mut self, body: &Value) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = Some(Bytes::from(body.to_string()));
        self
    }

    /// With a form as its body.
    #[must_use]
    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.body = Some(Bytes::from(body));
        self
    }

    /// With these bytes as its body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// With this limit on its time, answer included.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With this limit on its answer, bytes.
    #[must_use]
    pub fn at_most(mut self, bytes: usize) -> Self {
        self.max_answer_bytes = bytes;
        self
    }
}

impl Reply {
    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`ConnectorError::Malformed`], naming `what` was expected.
    pub fn json<T: DeserializeOwned>(&self, what: &'static str) -> Result<T, ConnectorError> {
        serde_json::from_slice(&self.body).map_err(|_| ConnectorError::Malformed(what))
    }

    /// The error of a 429 or 5xx, with the time to come back (`Retry-After`: seconds). A refusal that is a web page is one,
    /// too: no API spoke, but a proxy, or whatever is at a URL that is none of the API's.
    pub fn unavailable(&self) -> Option<ConnectorError> {
        let why = match self.status {
            429 => "rate limited".into(),
            500.. => format!("answered {}", self.status),
            400.. if self.is_page() => format!("answered {} with a web page: is the API's URL right?", self.status),
            _ => return None,
        };
        Some(ConnectorError::Unavailable { why, retry_after: self.retry_after() })
    }

    fn is_page(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"))
    }

    /// `Retry-After` in seconds, if it is there.
    pub fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs)
    }

    /// How long until the moment that a `…reset` header names in epoch seconds.
    pub fn wait_until_reset(&self, header: &str, now: EpochMs) -> Option<Duration> {
        let reset: i64 = self.header(header)?.trim().parse().ok()?;
        let wait_ms = reset.checked_mul(1000)?.checked_sub(now.0)?;
        u64::try_from(wait_ms).ok().map(Duration::from_millis)
    }
}

impl std::fmt::Debug for Reply {
    /// Status and size: what was answered may be a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({}, {} bytes)", self.status, self.body.len())
    }
}
