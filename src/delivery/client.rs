//! One POST to a destination.
//!
//! **Owns** the outgoing connections to destinations. **Invariants**: every way a POST can end is a value of
//! [`Answer`]; an address that is not allowed is never dialled, and since the check sits in the resolver of the
//! connection itself, a name cannot answer the check one way and the dial another; redirects are not followed,
//! environment proxies and cookies are not used; an attempt is over when its time is, whatever the other side does;
//! once a status has arrived it decides, however the body after it goes. **Must not know** what the body means or
//! what becomes of the delivery.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, ClientBuilder, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT},
    redirect::Policy,
};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::{
    address,
    destination::{ExtraHeaders, literal_address},
};
use crate::model::delivery::AttemptResult;

/// How much of an answer's body is read, bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// How long the body of an answer is waited for once its status is known. Nothing depends on it; it is kept for the
/// destination's owner to look at.
const ANSWER_BODY_TIME: Duration = Duration::from_secs(2);

/// How long an unused connection is kept. Below the five seconds after which common servers close theirs, so that a
/// request rarely meets a connection that is just being closed.
const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(4);

/// Unused connections kept for one destination.
const IDLE_CONNECTIONS: usize = 32;

/// The HTTP client could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the client for destinations cannot be set up: {0}")]
pub struct ClientUnavailable(String);

/// One POST.
#[derive(Debug, Clone)]
pub struct Post<'a> {
    /// Where to.
    pub url: &'a Url,
    /// Headers the destination asked for.
    pub extra_headers: &'a ExtraHeaders,
    /// `webhook-id`.
    pub webhook_id: &'a str,
    /// `webhook-timestamp`, seconds since the Unix epoch.
    pub timestamp_s: i64,
    /// `webhook-signature`.
    pub signature: Option<&'a str>,
    /// `X-Correlation-Id`.
    pub correlation_id: &'a str,
    /// The signed bytes.
    pub body: Bytes,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What counts.
    pub result: AttemptResult,
    /// What went wrong, in our words; absent when the destination answered.
    pub error: Option<&'static str>,
    /// The first bytes of the body, lossily decoded.
    pub response_body: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// The client every attempt goes through. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DeliveryClient {
    http: Client,
    allow_private_networks: bool,
    timeout: Duration,
}

impl DeliveryClient {
    /// A client whose attempts take at most `timeout` each, answer included.
    ///
    /// # Errors
    /// [`ClientUnavailable`] if TLS cannot be set up.
    pub fn new(timeout: Duration, allow_private_networks: bool) -> Result<Self, ClientUnavailable> {
        // The error says that another part of the process installed one already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = builder(timeout, allow_private_networks)
            .build()
            .or_else(|error| {
                // A machine without root certificates can still deliver to http destinations.
                tracing::warn!(%error, "no root certificates: destinations with https cannot be reached");
                builder(timeout, allow_private_networks).tls_certs_only([]).build()
            })
            .map_err(|error| ClientUnavailable(error.to_string()))?;
        Ok(Self { http, allow_private_networks, timeout })
    }

    /// Longest time of an attempt.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends one POST and waits for its end.
    pub async fn post(&self, post: Post<'_>) -> Answer {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let (result, error, response_body) = self.outcome(post, started, deadline).await;
        Answer { result, error, response_body, took: started.elapsed() }
    }

    async fn outcome(
        &self,
        post: Post<'_>,
        started: Instant,
        deadline: Instant,
    ) -> (AttemptResult, Option<&'static str>, Option<String>) {
        let failed = |result, error| (result, Some(error), None);
        // The HTTP library does not ask its resolver about addresses.
        if literal_address(post.url).is_some_and(|ip| !address::is_allowed(ip, self.allow_private_networks)) {
            return failed(AttemptResult::AddressRefused, ADDRESS_REFUSED);
        }
        let Some(headers) = headers_of(&post) else {
            return failed(AttemptResult::InvalidDestination, "a header cannot be sent");
        };
        let sending = self.http.post(post.url.clone()).headers(headers).body(post.body).send();
        match timeout_at(deadline, sending).await {
            Err(_) => failed(AttemptResult::TimedOut, TIMED_OUT),
            Ok(Err(error)) => {
                let (result, error) = classify(&error);
                failed(result, error)
            }
            Ok(Ok(response)) => {
                let our_now_s = post.timestamp_s.saturating_add_unsigned(started.elapsed().as_secs());
                let result = AttemptResult::Answered {
                    status: response.status().as_u16(),
                    retry_after_s: retry_after_s(response.headers(), our_now_s),
                };
                let body_deadline = deadline.min(Instant::now() + ANSWER_BODY_TIME);
                (result, None, first_bytes(response, body_deadline).await)
            }
        }
    }
}

/// What [`Answer::error`] says when nothing was sent because nobody listens there.
pub const NOT_CONNECTED: &str = "the connection could not be made";
const ADDRESS_REFUSED: &str = "the address is private, local or reserved";
const TIMED_OUT: &str = "no answer within the time limit";

fn builder(timeout: Duration, allow_private_networks: bool) -> ClientBuilder {
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .http1_only()
        .connect_timeout(timeout)
        .pool_idle_timeout(IDLE_CONNECTION_TIME)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .tcp_nodelay(true)
        .dns_resolver(Arc::new(CheckingResolver { allow_private_networks }))
}

/// Everything but `host` and `content-length`, ours last so that they win. `None` if a value cannot be sent.
fn headers_of(post: &Post<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in post.extra_headers.iter() {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
    }
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("Signalbox/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", HeaderValue::from_str(post.webhook_id).ok()?);
    headers.insert("webhook-timestamp", HeaderValue::from(post.timestamp_s));
    if let Some(signature) = post.signature {
        headers.insert("webhook-signature", HeaderValue::from_str(signature).ok()?);
    }
    // A correlation id is the caller's text. One that cannot be a header is no reason not to deliver.
    if let Ok(correlation_id) = HeaderValue::from_str(post.correlation_id) {
        headers.insert("x-correlation-id", correlation_id);
    }
    Some(headers)
}

/// What an error of the HTTP library is to us.
fn classify(error: &reqwest::Error) -> (AttemptResult, &'static str) {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<AddressRefused>() {
            return (AttemptResult::AddressRefused, ADDRESS_REFUSED);
        }
        source = cause.source();
    }
    if error.is_builder() {
        (AttemptResult::InvalidDestination, "the URL cannot be requested")
    } else if error.is_timeout() {
        (AttemptResult::TimedOut, TIMED_OUT)
    } else if error.is_connect() {
        (AttemptResult::ConnectionFailed, NOT_CONNECTED)
    } else {
        (AttemptResult::ConnectionFailed, "the connection broke before an answer")
    }
}

/// `Retry-After` in seconds. A date is measured against the answer's own `Date`, their clock, and against ours where they do
/// not tell; one that has passed is now.
fn retry_after_s(headers: &HeaderMap, our_now_s: i64) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let then = http_date_s(text)?;
    let their_now = headers.get(DATE).and_then(|date| http_date_s(date.to_str().ok()?));
    Some(u64::try_from(then.saturating_sub(their_now.unwrap_or(our_now_s))).unwrap_or(0))
}

fn http_date_s(text: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    parser.parse_timestamp(text.trim()).ok().map(jiff::Timestamp::as_second)
}

/// As much of the body as arrives in time, up to the limit; the rest is never read, and the connection is dropped with
/// it.
async fn first_bytes(mut response: Response, deadline: Instant) -> Option<String> {
    let mut body = Vec::new();
    while body.len() < MAX_ANSWER_BYTES {
        let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await else { break };
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER_BYTES - body.len())]);
    }
    (!body.is_empty()).then(|| String::from_utf8_lossy(&body).into_owned())
}

/// Resolves names, leaving out the addresses we do not dial.
struct CheckingResolver {
    allow_private_networks: bool,
}

impl Resolve for CheckingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private_networks = self.allow_private_networks;
        Box::pin(async move {
            let resolved: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let found = resolved.len();
            let allowed: Vec<_> =
                resolved.into_iter().filter(|at| address::is_allowed(at.ip(), allow_private_networks)).collect();
            if allowed.is_empty() && found > 0 {
                return Err(AddressRefused.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Every address of a name was refused.
#[derive(Debug)]
struct AddressRefused;

impl fmt::Display for AddressRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ADDRESS_REFUSED)
    }
}

impl std::error::Error for AddressRefused {}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, future::Future};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket, TcpStream},
        sync::mpsc,
    };

    use super::*;
    use crate::{
        delivery::{destination::validate_headers, sign},
        model::clock::{Clock, SystemClock},
    };

    /// Far more than any of these tests needs, so that a slow machine changes nothing.
    const PATIENT: Duration = Duration::from_secs(30);
    const IMPATIENT: Duration = Duration::from_millis(300);

    /// A server that reads each request, hands it to the test and then does what `answer` does. The port comes back.
    async fn server<F, A>(answer: F) -> (u16, mpsc::UnboundedReceiver<String>)
    where
        F: Fn(TcpStream) -> A + Send + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (sender, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                if let Some(request) = read_request(&mut stream).await {
                    sender.send(request).expect("the test is listening");
                }
                tokio::spawn(answer(stream));
            }
        });
        (port, requests)
    }

    async fn read_request(stream: &mut TcpStream) -> Option<String> {
        let mut bytes = Vec::new();
        loop {
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = header(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return Some(text);
            }
        }
    }

    fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
        let head = request.split("\r\n\r\n").next().unwrap_or_default();
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    async fn answering(text: &'static str) -> (u16, mpsc::UnboundedReceiver<String>) {
        server(move |mut stream| async move {
            stream.write_all(text.as_bytes()).await.expect("written");
        })
        .await
    }

    async fn post_to(url: &str, timeout: Duration, allow_private_networks: bool) -> Answer {
        let client = DeliveryClient::new(timeout, allow_private_networks).expect("a client");
        let post = Post {
            url: &url.parse().expect("a URL"),
            extra_headers: &ExtraHeaders::default(),
            webhook_id: "dlv_1",
            timestamp_s: 1_771_980_000,
            signature: None,
            correlation_id: "cor-1",
            body: Bytes::from_static(b"{}"),
        };
        client.post(post).await
    }

    fn answered(status: u16) -> AttemptResult {
        AttemptResult::Answered { status, retry_after_s: None }
    }

    #[tokio::test]
    async fn a_request_carries_what_the_contract_says_and_the_official_library_verifies_it() {
        let (port, mut requests) = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let secret = sign::SigningSecret::generate();
        let now_s = SystemClock.now().0 / 1000;
        let body = Bytes::from_static(br#"{"eventId":"evt_1","payload":{"n":1e400}}"#);
        let extra_headers =
            validate_headers(&BTreeMap::from([("X-Token".to_owned(), "t".to_owned())])).expect("accepted");
        let signature = sign::signature([&secret], "dlv_7", now_s, &body);
        let request = Post {
            url: &format!("http://127.0.0.1:{port}/hook?a=b").parse().expect("a URL"),
            extra_headers: &extra_headers,
            webhook_id: "dlv_7",
            timestamp_s: now_s,
            signature: signature.as_deref(),
            correlation_id: "cor-7",
            body: body.clone(),
        };
        let answer = DeliveryClient::new(PATIENT, true).expect("a client").post(request).await;
        assert_eq!((answer.result, answer.response_body.as_deref()), (answered(200), Some("ok")));

        let request = requests.recv().await.expect("a request");
        assert!(request.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{request}");
        for (name, value) in [
            ("webhook-id", "dlv_7"),
            ("content-type", "application/json"),
            ("x-correlation-id", "cor-7"),
            ("x-token", "t"),
            ("user-agent", concat!("Signalbox/", env!("CARGO_PKG_VERSION"))),
        ] {
            assert_eq!(header(&request, name), Some(value), "{name}");
        }
        let mut headers = HeaderMap::new();
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            headers.insert(name, header(&request, name).expect(name).parse().expect("a header value"));
        }
        let (_, sent) = request.split_once("\r\n\r\n").expect("a body");
        assert_eq!(sent.as_bytes(), body);
        let official = standardwebhooks::Webhook::new(&secret.to_text()).expect("a secret");
        official.verify(sent.as_bytes(), &headers).expect("verified");
        assert!(official.verify(b"{}", &headers).is_err());
    }

    #[tokio::test]
    async fn the_status_is_the_result() {
        for (text, status) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", 204),
            ("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", 410),
            ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", 500),
        ] {
            let (port, _requests) = answering(text).await;
            let answer = post_to(&format!("http://127.0.0.1:{port}/"), PATIENT, true).await;
            assert_eq!((answer.result, answer.error), (answered(status), None));
        }
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_is_not_followed() {
        let (target, mut target_requests) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let (port, mut requests) = server(move |mut stream| async move {
            let text =
                format!("HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:{target}/\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(text.as_bytes()).await.expect("written");
        })
        .await;
        let answer = post_to(&format!("http://127.0.0.1:{port}/"), PATIENT, true).await;
        assert_eq!(answer.result, answered(307));
        assert!(requests.recv().await.is_some() && target_requests.try_recv().is_err());
    }

    #[tokio::test]
    async fn retry_after_is_read_as_seconds_or_as_a_date() {
        for (text, expected) in [
            ("HTTP/1.1 503 Busy\r\nretry-after: 17\r\ncontent-length: 0\r\n\r\n", Some(17)),
            (
                "HTTP/1.1 429 Slow\r\ndate: Wed, 25 Feb 2026 00:40:00 GMT\r\nretry-after: Wed, 25 Feb 2026 00:41:30 GMT\r\ncontent-length: 0\r\n\r\n",
                Some(90),
            ),
            (
                "HTTP/1.1 503 Busy\r\ndate: Wed, 25 Feb 2026 00:40:00 GMT\r\nretry-after: Tue, 24 Feb 2026 23:00:00 GMT\r\ncontent-length: 0\r\n\r\n",
                Some(0),
            ),
            ("HTTP/1.1 503 Busy\r\nretry-after: Tue, 24 Feb 2026 23:00:00 GMT\r\ncontent-length: 0\r\n\r\n", Some(0)),
            ("HTTP/1.1 503 Busy\r\nretry-after: soon\r\ncontent-length: 0\r\n\r\n", None),
            ("HTTP/1.1 503 Busy\r\nretry-after: -5\r\ncontent-length: 0\r\n\r\n", None),
        ] {
            let (port, _requests) = answering(text).await;
            let answer = post_to(&format!("http://127.0.0.1:{port}/"), PATIENT, true).await;
            let AttemptResult::Answered { retry_after_s, .. } = answer.result else { panic!("{answer:?}") };
            assert_eq!(retry_after_s, expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_date_in_retry_after_is_measured_by_our_clock_if_the_answer_has_none() {
        for date in ["", "date: today\r\n"] {
            let (port, _requests) = server(move |mut stream| async move {
                // An hour after the attempt's timestamp.
                let wait = "retry-after: Wed, 25 Feb 2026 01:40:00 GMT";
                let text = format!("HTTP/1.1 503 Busy\r\n{date}{wait}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(text.as_bytes()).await.expect("written");
            })
            .await;
            let answer = post_to(&format!("http://127.0.0.1:{port}/"), PATIENT, true).await;
            let AttemptResult::Answered { retry_after_s: Some(wait), .. } = answer.result else { panic!("{answer:?}") };
            assert!((3600 - PATIENT.as_secs()..=3600).contains(&wait), "{wait}");
        }
    }

    #[tokio::test]
    async fn a_destination_that_never_answers_times_out() {
        let (port, _requests) = server(|stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
        .await;
        let answer = post_to(&format!("http://127.0.0.1:{port}/"), IMPATIENT, true).await;
        assert_eq!(answer.result, AttemptResult::TimedOut);
    }

    #[tokio::test]
    async fn a_reset_and_a_closed_port_are_connection_failures() {
        let (port, _requests) = server(|stream| async move { drop(stream) }).await;
        let answer = post_to(&format!("http://127.0.0.1:{port}/"), PATIENT, true).await;
        assert_eq!(answer.result, AttemptResult::ConnectionFailed);

        // Bound and not listening: nobody else can be there.
        let reserved = TcpSocket::new_v4().expect("a socket");
        reserved.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let closed = reserved.local_addr().expect("an address").port();
        let answer = post_to(&format!("http://127.0.0.1:{closed}/"), PATIENT, true).await;
        assert_eq!(answer.result, AttemptResult::ConnectionFailed);
    }

    #[tokio::test]
    async fn garbage_instead_of_http_is_a_connection_failure() {
        let (port, _requests) = answering("SSH-2.0-OpenSSH_9.6\r\n\r\n").await;
        let answer = post_to(&format!("http://127.0.0.1:{port}/"), PATIENT, true).await;
        assert_eq!(answer.result, AttemptResult::ConnectionFailed);
    }

    #[tokio::test]
    async fn a_huge_answer_is_cut_and_still_counts() {
        const HUGE_BYTES: usize = 100 * 1024 * 1024;
        let (port, _requests) = server(|mut stream| async move {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {HUGE_BYTES}\r\n\r\n");
            let block = vec![b'x'; 64 * 1024];
            let mut sent = stream.write_all(head.as_bytes()).await;
            for _ in 0..HUGE_BYTES / block.len() {
                if sent.is_err() {
                    return;
                }
                sent = stream.write_all(&block).await;
            }
            panic!("all of it was taken");
        })
        .await;
        let answer = post_to(&format!("http://127.0.0.1:{port}/"), PATIENT, true).await;
        assert_eq!(answer.result, answered(200));
        assert_eq!(answer.response_body.map(|body| body.len()), Some(MAX_ANSWER_BYTES));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_does_not_undo_the_status() {
        let (port, _requests) = server(|mut stream| async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab").await.expect("written");
            std::future::pending::<()>().await;
        })
        .await;
        let answer = post_to(&format!("http://127.0.0.1:{port}/"), IMPATIENT, true).await;
        assert_eq!((answer.result, answer.response_body.as_deref()), (answered(200), Some("ab")));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_not_undo_the_status() {
        let (port, _requests) = answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab").await;
        let answer = post_to(&format!("http://127.0.0.1:{port}/"), PATIENT, true).await;
        assert_eq!(answer.result, answered(200));
    }

    #[tokio::test]
    async fn private_addresses_are_not_dialled_by_address_or_by_name() {
        let (port, mut requests) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"] {
            let answer = post_to(&format!("http://{host}:{port}/"), PATIENT, false).await;
            assert_eq!(answer.result, AttemptResult::AddressRefused, "{host}");
        }
        assert!(requests.try_recv().is_err(), "nothing was dialled");
    }

    #[tokio::test]
    async fn private_networks_are_dialled_by_name_where_the_operator_allows_them() {
        let (port, _requests) = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let answer = post_to(&format!("http://localhost:{port}/"), PATIENT, true).await;
        assert_eq!(answer.result, answered(200));
        let answer = post_to("http://169.254.169.254/latest/meta-data", PATIENT, true).await;
        assert_eq!(answer.result, AttemptResult::AddressRefused);
    }

    #[tokio::test]
    async fn an_unknown_name_is_a_connection_failure() {
        let answer = post_to("http://no-such-host.invalid/", PATIENT, false).await;
        assert_eq!(answer.result, AttemptResult::ConnectionFailed);
    }
}
