//! Clients that mean harm, or know no better: every one is refused or bounded, and an honest client beside them sees
//! nothing of it.
//!
//! What each test ends with is [`Neighbourhood::expect_unharmed`]: the process is the same one, its memory stayed bounded,
//! its ledger adds up, and exactly the events that should be stored are. Requests that are no HTTP are answered below the
//! routes, with a bare status; whatever is HTTP gets a problem document.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::future::join_all;
use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock, SystemClock},
    routes::error_codes,
    sim::{
        self, Encoding, SignedRequest,
        client::Client,
        sink::{Keep, Sink},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
};

use crate::support::{App, Backend, Connected, Options, on_both};

/// How long anything may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_mins(1);
/// What the process may hold at its worst unless a test says more: a debug build with a hundred open connections takes
/// about a third of it.
const CEILING_MIB: u64 = 256;
/// What no answer may show.
const INTERNALS: [&str; 8] = ["panicked", ".rs:", "sqlx", "actix", "SELECT", "sqlite", "postgres", "stack backtrace"];

/// A connection on which anything can be written.
struct Raw {
    stream: TcpStream,
    read: BytesMut,
}

/// One answer, read by its `Content-Length`.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A documented problem of that code.
    fn expect_problem(&self, code: &str) {
        let problem = self.json();
        assert_eq!(problem["error"], code, "{self:?}");
        let documented = error_codes::find(code).unwrap_or_else(|| panic!("{code} is not documented"));
        assert_eq!((self.status, &problem["status"]), (documented.status, &json!(documented.status)), "{problem}");
        assert!(self.head.contains("application/problem+json"), "{}", self.head);
        assert!(problem["title"].is_string() && problem["requestId"].is_string(), "{problem}");
        self.expect_no_internals();
    }

    fn expect_no_internals(&self) {
        let text = String::from_utf8_lossy(&self.body);
        for internal in INTERNALS {
            assert!(!text.contains(internal), "an answer shows `{internal}`: {text}");
        }
    }

    /// Refused by the routes with a problem, or below them with a bare 4xx.
    fn expect_refusal(&self, what: &str) {
        assert!((400..500).contains(&self.status), "{what}: {self:?}");
        if !self.body.is_empty() {
            self.expect_problem(self.json()["error"].as_str().unwrap_or_default());
        }
    }
}

impl Raw {
    async fn connect(app: &App) -> Self {
        Self { stream: TcpStream::connect(app.address()).await.expect("it listens"), read: BytesMut::new() }
    }

    /// Writes; whoever refuses may stop reading at any moment, which is no failure of the test.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next answer, interim ones skipped; `None` when the connection ends without one.
    async fn answer(&mut self) -> Option<Reply> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(reply) = take_answer(&mut self.read) {
                    return Some(reply);
                }
                if !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {
                    return None;
                }
            }
        })
        .await
        .expect("an answer or an end")
    }

    /// Writes `piece` again and again until the other side answers or hangs up.
    async fn flood(&mut self, piece: &[u8]) -> Option<Reply> {
        let (mut from, mut to) = self.stream.split();
        let read = &mut self.read;
        let writing = async {
            // Ends when the connection does; the answer may still be there to be read.
            while to.write_all(piece).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let reading = async {
            loop {
                if let Some(reply) = take_answer(read) {
                    return Some(reply);
                }
                if !matches!(from.read_buf(read).await, Ok(1..)) {
                    return None;
                }
            }
        };
        let answered = async {
            tokio::select! { () = writing => None, reply = reading => reply }
        };
        tokio::time::timeout(PATIENCE, answered).await.expect("an answer or an end")
    }

    /// Goes on writing until the other side ends the connection: nobody reads for ever.
    async fn expect_end(&mut self, piece: &[u8]) {
        let ending = async { while self.stream.write_all(piece).await.is_ok() {} };
        tokio::time::timeout(PATIENCE, ending).await.expect("the connection ends");
    }

    /// Ends the connection with a reset.
    fn reset(self) {
        self.stream.set_zero_linger().expect("a socket of ours");
    }
}

/// Takes the next whole answer out of what was read, interim ones skipped.
fn take_answer(read: &mut BytesMut) -> Option<Reply> {
    let end = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    let length = head.to_lowercase().split("content-length:").nth(1).map_or(0, |rest| {
        rest.split("\r\n").next().and_then(|length| length.trim().parse::<usize>().ok()).expect("a length")
    });
    if (100..200).contains(&status) {
        read.advance(end);
        return take_answer(read);
    }
    if read.len() < end + length {
        return None;
    }
    read.advance(end);
    Some(Reply { status, head, body: read.split_to(length).freeze() })
}

/// Sends bytes on a connection of their own; the first answer.
async fn exchange(app: &App, bytes: &[u8]) -> Option<Reply> {
    let mut raw = Raw::connect(app).await;
    raw.write(bytes).await;
    raw.answer().await
}

/// A POST of these headers and this body; `also` are whole further lines, framing included.
fn post(path: &str, request: &SignedRequest, also: &str) -> Vec<u8> {
    let mut bytes = format!("POST {path} HTTP/1.1\r\nHost: gateway\r\n").into_bytes();
    for (name, value) in &request.headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(also.as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&request.body);
    bytes
}

/// The same with the length that is true.
fn post_whole(path: &str, request: &SignedRequest) -> Vec<u8> {
    post(path, request, &format!("Content-Length: {}\r\n", request.body.len()))
}

fn github_headers(id: &str) -> Vec<(&'static str, String)> {
    vec![("x-github-event", "push".to_owned()), ("x-github-delivery", id.to_owned())]
}

/// Any bytes at all, signed by GitHub's secret.
fn signed(id: &str, body: impl Into<Vec<u8>>) -> SignedRequest {
    let github = sim::find("github").expect("simulated");
    github.signing.sign(github_headers(id), body, github.secret.as_bytes(), Encoding::Json)
}

/// A gateway, and an honest provider that posts to it all the while.
struct Neighbourhood {
    app: App,
    github: Connected,
    sink: Sink,
    stop: watch::Sender<bool>,
    /// How many webhooks the honest provider has posted.
    posted: watch::Receiver<usize>,
    posting: JoinHandle<usize>,
}

impl Neighbourhood {
    async fn start(backend: Backend, options: Options) -> Self {
        let app = App::start(backend, options).await;
        let sink = Sink::start_keeping(Keep::Everything).await.expect("a port");
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let (stop, stopped) = watch::channel(false);
        let (counter, posted) = watch::channel(0);
        let posting = tokio::spawn(be_honest(Client::new(app.address()), github.clone(), stopped, counter));
        Self { app, github, sink, stop, posted, posting }
    }

    /// A genuine push of this installation, under that id.
    fn genuine(&self, id: &str) -> SignedRequest {
        let facts = self.github.facts(7, SystemClock.now());
        let request = self.github.provider.event("github:push", &facts, self.github.provider.secret.as_bytes());
        request.expect("known").with_header("x-github-delivery", Some(id))
    }

    /// What must hold after any of it, with `besides` stored and `delivered` of these delivered beside what the honest
    /// client posted.
    async fn expect_unharmed(self, besides: u64, delivered: usize, ceiling_mib: u64) {
        // A few more after the worst of it.
        let before = *self.posted.borrow();
        let mut posted = self.posted.clone();
        let going_on = tokio::time::timeout(PATIENCE, posted.wait_for(|posted| *posted >= before + 20)).await;
        self.stop.send(true).expect("it posts");
        let honest = self.posting.await.expect("the honest client saw no failure");
        going_on.expect("the honest client goes on").expect("it posts");
        let wanted = honest + delivered;
        self.sink.wait_for(wanted, PATIENCE).await.expect("what was accepted is delivered");
        assert_eq!(self.sink.total(), wanted, "nothing else is delivered, and nothing twice");

        let settled = async {
            loop {
                let health = self.app.health(true).await;
                if health["ledger"]["inProgress"] == 0 && health["bodyBytesInHand"] == 0 {
                    return health;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let health = tokio::time::timeout(PATIENCE, settled).await.expect("every webhook comes to its end");
        assert_eq!((health["status"].as_str(), &health["adds_up"]), (Some("ok"), &json!(true)), "{health:#}");
        let count =
            |of: &Value| of.as_object().into_iter().flatten().filter_map(|(_, rows)| rows.as_u64()).sum::<u64>();
        assert_eq!(health["ledger"]["stored"].as_u64(), Some(honest as u64 + besides), "{health:#}");
        assert_eq!(count(&health["census"]["events"]), honest as u64 + besides, "{health:#}");
        if let Some(peak) = self.app.peak_memory_kib() {
            println!("{honest} honest webhooks, at most {} MiB", peak / 1024);
            assert!(peak / 1024 < ceiling_mib, "it held {} MiB", peak / 1024);
        }
        assert!(!self.app.log_text().contains("panicked"), "something panicked:\n{}", self.app.log_text());
        self.app.finish().await;
    }
}

/// One webhook after another, until told to stop; how many.
async fn be_honest(
    mut client: Client,
    to: Connected,
    stopped: watch::Receiver<bool>,
    counter: watch::Sender<usize>,
) -> usize {
    let mut posted = 0;
    while !*stopped.borrow() {
        let facts = to.facts(1_000_000 + posted as u64, SystemClock.now());
        let request = to.provider.event("github:push", &facts, to.provider.secret.as_bytes()).expect("known");
        let answer = client.post_webhook("github", &request).await.expect("an answer");
        let body = answer.json();
        assert_eq!(
            (answer.status, &body["status"], &body["outcome"]),
            (200, &json!("accepted"), &json!("routed")),
            "{body}"
        );
        posted += 1;
        counter.send_replace(posted);
        // A neighbour, not a storm.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    posted
}

on_both! {
    async fn a_request_whose_framing_contradicts_itself_is_refused_and_smuggles_nothing(backend) {
        let there = Neighbourhood::start(backend, Options::default()).await;
        let smuggled = String::from_utf8(post_whole("/webhooks/github", &there.genuine("smuggled"))).expect("ASCII");
        let chunked = format!("0\r\n\r\n{smuggled}");
        let head = "POST /webhooks/github HTTP/1.1\r\nHost: gateway\r\n";
        let cases = [
            format!("{head}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}", chunked.len()),
            format!("{head}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{chunked}"),
            format!("{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n{chunked}"),
            format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n{chunked}"),
            format!("{head}Transfer-Encoding: xchunked\r\n\r\n{chunked}"),
            format!("{head}Transfer-Encoding: \x0bchunked\r\n\r\n{chunked}"),
            format!("{head}Transfer-Encoding : chunked\r\n\r\n{chunked}"),
            format!("{head}Transfer-Encoding:\r\n chunked\r\n\r\n{chunked}"),
            format!("{head}Content-Length: 0\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
            format!("{head}Content-Length: 0, {}\r\n\r\n{smuggled}", smuggled.len()),
            format!("{head}Content-Length: +0\r\n\r\n{smuggled}"),
            format!("{head}Content-Length: -1\r\n\r\n{smuggled}"),
            format!("{head}Content-Length: 0x0\r\n\r\n{smuggled}"),
            format!("{head}Content-Length: 99999999999999999999999999\r\n\r\n{smuggled}"),
            format!("{head}Host: another\r\nContent-Length: 0\r\n\r\n{smuggled}"),
            format!("{head}Transfer-Encoding: chunked\r\n\r\nZZ\r\n{smuggled}"),
            format!("{head}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n{smuggled}"),
            format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n0\r\n\r\n{smuggled}"),
            format!("POST /webhooks/github HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
            format!("POST /webhooks/github HTTP/1.1\r\nContent-Length: 0\r\n\r\n{smuggled}"),
            format!("POST /webhooks/github HTTP/9.9\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n{smuggled}"),
            format!("POST /webhooks/git\0hub HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n{smuggled}"),
            format!("{head}X-GitHub-Delivery: a\0b\r\nContent-Length: 0\r\n\r\n{smuggled}"),
            format!("{head}X GitHub: spaced\r\nContent-Length: 0\r\n\r\n{smuggled}"),
            format!("PO ST /webhooks/github HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n{smuggled}"),
            format!("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03{smuggled}"),
            format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{smuggled}"),
        ];
        let app = &there.app;
        join_all(cases.iter().map(|case| async move {
            let mut raw = Raw::connect(app).await;
            raw.write(case.as_bytes()).await;
            if let Some(reply) = raw.answer().await {
                reply.expect_refusal(case);
                let second = raw.answer().await;
                assert!(second.is_none(), "{case:?} was refused and its rest was read as {second:?}");
            }
        }))
        .await;
        there.expect_unharmed(0, 0, CEILING_MIB).await;
    }

    async fn two_signatures_or_two_ids_are_refused_whichever_of_them_is_genuine(backend) {
        let there = Neighbourhood::start(backend, Options::default()).await;
        let request = there.genuine("twice");
        let signature = request.header("x-hub-signature-256").expect("signed").to_owned();
        let forged = format!("sha256={}", "0".repeat(64));
        let length = format!("Content-Length: {}\r\n", request.body.len());
        for (also, code) in [
            (format!("x-hub-signature-256: {signature}\r\n"), "invalid_signature"),
            (format!("X-Hub-Signature-256: {forged}\r\n"), "invalid_signature"),
            ("X-Hub-Signature-256: \r\n".to_owned(), "invalid_signature"),
            ("X-GitHub-Delivery: another\r\n".to_owned(), "missing_required_headers"),
            ("x-github-delivery: twice\r\n".to_owned(), "missing_required_headers"),
            ("X-GitHub-Event: issues\r\n".to_owned(), "missing_required_headers"),
        ] {
            let reply = exchange(&there.app, &post("/webhooks/github", &request, &(also + &length))).await;
            reply.expect("an answer").expect_problem(code);
        }
        let list = request.clone().with_header("x-hub-signature-256", Some(&format!("{signature}, {forged}")));
        exchange(&there.app, &post_whole("/webhooks/github", &list)).await.expect("an answer").expect_problem("invalid_signature");
        there.expect_unharmed(0, 0, CEILING_MIB).await;
    }

    async fn what_is_too_large_is_refused_at_its_limit_and_not_a_byte_later(backend) {
        let options = Options::default().with("SIGNALBOX_SERVER__MAX_BODY_BYTES", "1048576");
        let there = Neighbourhood::start(backend, options).await;
        let app = &there.app;

        // Declared: answered before a byte of it is sent.
        for length in ["1048577", "10737418240", "18446744073709551615"] {
            for expect in ["", "Expect: 100-continue\r\n"] {
                let headless = SignedRequest { headers: github_headers("declared"), body: Bytes::new() };
                let head = post("/webhooks/github", &headless, &format!("Content-Length: {length}\r\n{expect}"));
                exchange(app, &head).await.expect("an answer").expect_problem("payload_too_large");
            }
        }
        // Not declared: many at once, none of them kept beyond the limit.
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        join_all((0..16).map(|_| async {
            let headless = SignedRequest { headers: github_headers("endless"), body: Bytes::new() };
            let mut raw = Raw::connect(app).await;
            raw.write(&post("/webhooks/github", &headless, "Transfer-Encoding: chunked\r\n")).await;
            raw.flood(chunk.as_bytes()).await.expect("an answer").expect_problem("payload_too_large");
            raw.expect_end(chunk.as_bytes()).await;
        }))
        .await;
        // Where nobody reads a body, an endless one ends too.
        for (line, code) in [
            ("POST /webhooks/nobody", "unknown_provider"),
            ("POST /nowhere", "not_found"),
            ("POST /admin/connections", "unauthorized"),
            ("GET /events", "unauthorized"),
        ] {
            let mut raw = Raw::connect(app).await;
            raw.write(format!("{line} HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes()).await;
            raw.flood(chunk.as_bytes()).await.expect("an answer").expect_problem(code);
            raw.expect_end(chunk.as_bytes()).await;
        }
        // A chunked body that ends is as good as any, and so is its connection.
        let fitting = there.genuine("chunked");
        let headless = SignedRequest { headers: fitting.headers.clone(), body: Bytes::new() };
        let mut framed = post("/webhooks/github", &headless, "Transfer-Encoding: chunked\r\n");
        framed.extend_from_slice(format!("{:x}\r\n", fitting.body.len()).as_bytes());
        framed.extend_from_slice(&fitting.body);
        framed.extend_from_slice(b"\r\n0\r\n\r\n");
        let mut raw = Raw::connect(app).await;
        for status in ["accepted", "duplicate", "duplicate"] {
            assert!(raw.write(&framed).await);
            let reply = raw.answer().await.expect("an answer");
            assert_eq!((reply.status, &reply.json()["status"]), (200, &json!(status)), "{reply:?}");
        }
        // The head: paths, headers and their number. It is answered, or the connection ends.
        let long = "x".repeat(1024 * 1024);
        let many: String = (0..500).map(|number| format!("X-Header-{number}: value\r\n")).collect();
        for head in [
            format!("POST /webhooks/{long} HTTP/1.1\r\nHost: gateway\r\n\r\n"),
            format!("GET /events?{long} HTTP/1.1\r\nHost: gateway\r\n\r\n"),
            format!("POST /webhooks/github HTTP/1.1\r\nHost: gateway\r\n{many}Content-Length: 0\r\n\r\n"),
            format!("POST /webhooks/github HTTP/1.1\r\nHost: gateway\r\nX-Hub-Signature-256: sha256={long}\r\n\r\n"),
            format!("{long} / HTTP/1.1\r\nHost: gateway\r\n\r\n"),
        ] {
            if let Some(reply) = exchange(app, head.as_bytes()).await {
                reply.expect_refusal(&head[..40]);
            }
        }
        join_all((0..16).map(|_| async {
            let mut raw = Raw::connect(app).await;
            raw.write(b"GET / HTTP/1.1\r\nHost: gateway\r\nX-Endless: ").await;
            if let Some(reply) = raw.flood(&[b'x'; 0x10000]).await {
                reply.expect_refusal("an endless header");
            }
        }))
        .await;
        // The longest that fit are nothing special.
        let fitting = format!("/webhooks/{}", "x".repeat(30_000));
        exchange(app, &post_whole(&fitting, &there.genuine("unused"))).await.expect("an answer").expect_problem("unknown_provider");
        there.expect_unharmed(1, 1, CEILING_MIB).await;
    }

    async fn a_compressed_body_is_refused_before_it_is_inflated_whatever_it_is_compressed_with(backend) {
        let there = Neighbourhood::start(backend, Options::default()).await;
        // A gzip member that would inflate to more than it is; nobody looks.
        let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        bomb.extend_from_slice(&[0xec; 100_000]);
        let request = signed("compressed", bomb);
        let length = format!("Content-Length: {}\r\n", request.body.len());
        for encoding in [
            "Content-Encoding: gzip\r\n",
            "Content-Encoding: deflate\r\n",
            "Content-Encoding: br\r\n",
            "Content-Encoding: zstd\r\n",
            "Content-Encoding: x-unheard-of\r\n",
            "Content-Encoding: identity, gzip\r\n",
            "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n",
            "content-encoding: GZIP\r\n",
            "Content-Encoding: \u{fc}\r\n",
        ] {
            let reply = exchange(&there.app, &post("/webhooks/github", &request, &format!("{encoding}{length}"))).await;
            reply.expect("an answer").expect_problem("unsupported_content_encoding");
        }
        let key = [("x-api-key", App::service_key()), ("content-encoding", "gzip"), ("x-org-id", "org")];
        let answer = there.app.send("POST", "/admin/connections", &key, "{}").await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (415, Some("unsupported_content_encoding")));
        // Said to be gzip only in a header that means something else: the bytes are what they are, and no JSON.
        exchange(&there.app, &post("/webhooks/github", &request, &format!("Accept-Encoding: gzip\r\n{length}")))
            .await
            .expect("an answer")
            .expect_problem("invalid_payload");
        there.expect_unharmed(0, 0, CEILING_MIB).await;
    }

    async fn a_client_that_sends_a_byte_at_a_time_is_given_up(backend) {
        let options = Options::default()
            .with("SIGNALBOX_SERVER__BODY_IDLE_TIMEOUT_MS", "1000")
            .with("SIGNALBOX_SERVER__BODY_TIMEOUT_MS", "2000");
        let there = Neighbourhood::start(backend, options).await;
        let app = &there.app;
        let headless = SignedRequest { headers: github_headers("slow"), body: Bytes::new() };
        let declared = post("/webhooks/github", &headless, "Content-Length: 100000\r\n");
        let chunked = post("/webhooks/github", &headless, "Transfer-Encoding: chunked\r\n");
        let drip = |head: Vec<u8>, piece: &'static [u8]| async move {
            let mut raw = Raw::connect(app).await;
            raw.write(&head).await;
            let (reading, mut writing) = raw.stream.into_split();
            let writing = tokio::spawn(async move {
                while writing.write_all(piece).await.is_ok() {
                    // The pace is the attack.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
            let mut reading = reading;
            let mut read = BytesMut::new();
            let answered = async {
                while matches!(reading.read_buf(&mut read).await, Ok(1..)) && !read.ends_with(b"}") {}
            };
            tokio::time::timeout(PATIENCE, answered).await.expect("an answer");
            tokio::time::timeout(PATIENCE, writing).await.expect("the connection ends").expect("no panic");
            String::from_utf8_lossy(&read).into_owned()
        };
        let bodies = (0..40).map(|number| {
            let (head, piece) = if number % 2 == 0 { (&declared, &b"x"[..]) } else { (&chunked, &b"1\r\nx\r\n"[..]) };
            drip(head.clone(), piece)
        });
        // One that says nothing at all after its head.
        let silent = async {
            let reply = exchange(app, &declared).await;
            reply.expect("an answer").expect_problem("request_timeout");
        };
        // And one that never ends its head: answered below the routes.
        let head = drip(b"GET / HTTP/1.1\r\nHost: gateway\r\nX-Slow: ".to_vec(), b"x");
        let (answers, (), _ended) = tokio::join!(join_all(bodies), silent, head);
        for answer in answers {
            assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
        }
        there.expect_unharmed(0, 0, CEILING_MIB).await;
    }

    async fn a_client_that_hangs_up_leaves_nothing_half_done(backend) {
        let there = Neighbourhood::start(backend, Options::default()).await;
        let request = there.genuine("aborted");
        let whole = post_whole("/webhooks/github", &request);
        let headless = SignedRequest { headers: request.headers.clone(), body: Bytes::new() };
        let mut chunked = post("/webhooks/github", &headless, "Transfer-Encoding: chunked\r\n");
        chunked.extend_from_slice(b"10\r\n0123456789abcdef\r\n");
        join_all((0..60_usize).map(|number| {
            let bytes = if number % 2 == 0 { &whole[..whole.len() - 1 - number] } else { &chunked[..] };
            let app = &there.app;
            async move {
                let mut raw = Raw::connect(app).await;
                assert!(raw.write(bytes).await);
                match number % 3 {
                    0 => drop(raw),
                    1 => raw.reset(),
                    _ => {
                        raw.stream.shutdown().await.expect("half closed");
                        if let Some(reply) = raw.answer().await {
                            reply.expect_problem("incomplete_body");
                        }
                    }
                }
            }
        }))
        .await;
        // Whole webhooks whose sender does not wait: each is stored once, or its retry is welcome.
        let ids: Vec<String> = (0..20).map(|number| format!("hung-up-{number}")).collect();
        for id in &ids {
            let mut raw = Raw::connect(&there.app).await;
            assert!(raw.write(&post_whole("/webhooks/github", &there.genuine(id))).await);
            raw.reset();
        }
        for id in &ids {
            let answer = there.app.outsider().post_webhook("github", &there.genuine(id)).await.expect("an answer");
            let body = answer.json();
            assert_eq!((answer.status, body["deliveryId"].as_str()), (200, Some(id.as_str())), "{body}");
            assert!(body["status"] == "accepted" || body["status"] == "duplicate", "{body}");
        }
        there.expect_unharmed(20, 20, CEILING_MIB).await;
    }

    async fn unusual_but_proper_http_is_answered_in_order(backend) {
        let there = Neighbourhood::start(backend, Options::default()).await;
        // Forty at once on one connection, a refused one among them.
        let mut raw = Raw::connect(&there.app).await;
        let mut pipelined = Vec::new();
        for number in 0..40 {
            let request = there.genuine(&format!("pipelined-{number}"));
            let request = if number == 20 { request.with_header("x-hub-signature-256", None) } else { request };
            pipelined.extend_from_slice(&post_whole("/webhooks/github", &request));
        }
        assert!(raw.write(&pipelined).await);
        for number in 0..40 {
            let reply = raw.answer().await.expect("an answer");
            if number == 20 {
                reply.expect_problem("invalid_signature");
            } else {
                assert_eq!(reply.json()["deliveryId"], format!("pipelined-{number}"), "{reply:?}");
                assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("accepted")));
            }
        }
        // HTTP/1.0 has neither `Host` nor open connections.
        let old = String::from_utf8(post_whole("/webhooks/github", &there.genuine("http-1.0"))).expect("ASCII");
        let old = old.replacen("HTTP/1.1\r\nHost: gateway", "HTTP/1.0", 1);
        let mut raw = Raw::connect(&there.app).await;
        assert!(raw.write(old.as_bytes()).await);
        assert_eq!(raw.answer().await.expect("an answer").status, 200);
        assert!(raw.answer().await.is_none(), "the connection is closed");
        // Methods: known or not, there is an answer that names the problem.
        for (line, code) in [
            ("BREW /webhooks/github", "method_not_allowed"),
            ("post /webhooks/github", "method_not_allowed"),
            ("GET /webhooks/github", "method_not_allowed"),
            ("TRACE /", "method_not_allowed"),
            ("OPTIONS /events", "method_not_allowed"),
            ("DELETE /webhooks/github/x", "not_found"),
            ("GET //", "not_found"),
            ("GET /webhooks/../admin/health", "not_found"),
            ("GET /admin/health", "unauthorized"),
            ("GET http://elsewhere/admin/health", "unauthorized"),
        ] {
            let bytes = format!("{line} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n");
            exchange(&there.app, bytes.as_bytes()).await.expect("an answer").expect_problem(code);
        }
        for line in ["OPTIONS *", "CONNECT elsewhere:443", "GET elsewhere", "GET /\u{fc}"] {
            let bytes = format!("{line} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n");
            if let Some(reply) = exchange(&there.app, bytes.as_bytes()).await {
                reply.expect_refusal(line);
            }
        }
        there.expect_unharmed(40, 40, CEILING_MIB).await;
    }

    async fn nul_bytes_and_invalid_utf_8_are_refused_where_they_are_names_and_kept_where_they_are_data(backend) {
        let there = Neighbourhood::start(backend, Options::default()).await;
        let app = &there.app;
        let key = App::service_key();
        for path in [
            "/events/%00", "/events/evt_%00/payload", "/connections/in_%00", "/integrations/%00", "/webhooks/%00",
            "/events?cursor=%00", "/events?limit=%00", "/workspaces/%00/integrations", "/admin/quarantine?provider=%00",
            "/events/%FF%FE", "/connections/%C3%28", "/workspaces/%F0%28%8C%28/integrations", "/events?provider=%FF",
            "/events?cursor=%FF", "/events/%2500", "/admin/audit?connection=%FF", "/admin/dlq?provider=%FF&offset=-1",
        ] {
            for method in ["GET", "POST", "DELETE"] {
                let bytes = format!(
                    "{method} {path} HTTP/1.1\r\nHost: g\r\nX-Api-Key: {key}\r\nX-Org-Id: org\r\nContent-Length: 2\r\n\r\n{{}}"
                );
                let reply = exchange(app, bytes.as_bytes()).await.expect("an answer");
                assert!(reply.status < 500, "{method} {path}: {reply:?}");
                reply.expect_no_internals();
            }
        }
        // Header values may be any bytes; as names of something they are refused.
        let with_raw_header = |request: &SignedRequest, name: &str, value: &[u8]| {
            let mut bytes = format!("POST /webhooks/github HTTP/1.1\r\nHost: g\r\n{name}: ").into_bytes();
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
            for (other, value) in request.headers.iter().filter(|(other, _)| !other.eq_ignore_ascii_case(name)) {
                bytes.extend_from_slice(format!("{other}: {value}\r\n").as_bytes());
            }
            bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", request.body.len()).as_bytes());
            bytes.extend_from_slice(&request.body);
            bytes
        };
        let request = there.genuine("odd-headers");
        for (name, code) in [
            ("X-GitHub-Delivery", "missing_required_headers"),
            ("X-GitHub-Event", "missing_required_headers"),
            ("X-Hub-Signature-256", "invalid_signature"),
        ] {
            let bytes = with_raw_header(&request, name, b"\xff\xfe\x80");
            exchange(app, &bytes).await.expect("an answer").expect_problem(code);
        }
        let odd = ["User-Agent", "X-Api-Key", "X-Org-Id", "X-Request-Id", "X-Correlation-Id", "Content-Type", "Cookie"];
        for (number, name) in odd.iter().enumerate() {
            let bytes = with_raw_header(&there.genuine(&format!("odd-{number}")), name, b"\xff\xfe\x80");
            let reply = exchange(app, &bytes).await.expect("an answer");
            assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("accepted")), "{name}: {reply:?}");
        }
        // In a payload a NUL is data; as an id it is none, and the content takes its place.
        let mut stored = odd.len() as u64;
        for (slug, body) in [
            ("vercel", r#"{"id":"a\u0000b","type":"deployment.created","payload":{"team":{"id":"\u0000"},"project":{"id":"\u0000\ud800"}}}"#),
            ("sentry", r#"{"action":"created\u0000","installation":{"uuid":"\u0000"},"data":{"issue":{"id":"\u0000","project":{"slug":"\u0000"}}}}"#),
            ("github", r#"{"action":"\u0000","installation":{"id":"\u0000"},"repository":{"id":"\u0000","full_name":"\u0000"},"ref":"\u0000"}"#),
        ] {
            let provider = sim::find(slug).expect("simulated");
            let headers = match slug {
                "sentry" => vec![("sentry-hook-resource", "issue".to_owned())],
                "github" => github_headers("nul-payload"),
                _ => Vec::new(),
            };
            let request = provider.signing.sign(headers, body, provider.secret.as_bytes(), Encoding::Json);
            for status in ["accepted", "duplicate"] {
                let answer = app.outsider().post_webhook(slug, &request).await.expect("an answer");
                assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some(status)), "{slug}: {}", answer.json());
            }
            stored += 1;
        }
        // Invalid UTF-8 in a body is no JSON, wherever it stands.
        for body in [&b"{\"a\":\"\xff\"}"[..], b"{\"\xff\":1}", b"\xff", b"\0", b"{\"a\":\"\0\"}"] {
            exchange(app, &post_whole("/webhooks/github", &signed("not-utf-8", body))).await.expect("an answer").expect_problem("invalid_payload");
        }
        let form = there.github.provider.signing.sign(github_headers("not-utf-8"), &b"{\"a\":\"\xff\"}"[..],
            there.github.provider.secret.as_bytes(), Encoding::Form);
        exchange(app, &post_whole("/webhooks/github", &form)).await.expect("an answer").expect_problem("invalid_payload");
        for body in [
            json!({"provider": "github", "externalId": "\0", "orgId": "org", "connectedBy": "me"}),
            json!({"provider": "\0", "externalId": "1", "orgId": "org", "connectedBy": "me"}),
            json!({"provider": "github", "externalId": "1", "orgId": "\0", "connectedBy": "\0"}),
        ] {
            let answer = app.operator("org").call("POST", "/admin/connections", Some(&body)).await.expect("an answer");
            assert!((400..500).contains(&answer.status), "{body}: {}", answer.json());
        }
        there.expect_unharmed(stored, odd.len(), CEILING_MIB).await;
    }

    async fn nesting_is_no_danger_to_any_parser(backend) {
        let there = Neighbourhood::start(backend, Options::default()).await;
        let app = &there.app;
        let facts = there.github.facts(7, SystemClock.now());
        let identity =
            format!(r#""installation":{{"id":{}}},"repository":{{"id":{}}}"#, facts.external_id, facts.resource_id);
        let arrays = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let objects = format!("{}0{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        let bodies = [
            format!(r#"{{{identity},"deep":{arrays}}}"#),
            format!(r#"{{{identity},"deep":{objects},"deep":{arrays}}}"#),
            format!(r#"{{"installation":{arrays},"repository":{objects},{identity},"ref":{objects}}}"#),
        ];
        for (number, body) in bodies.iter().enumerate() {
            let request = signed(&format!("deep-{number}"), body.as_str());
            let answer = app.outsider().post_webhook("github", &request).await.expect("an answer").json();
            assert_eq!((&answer["status"], &answer["outcome"]), (&json!("accepted"), &json!("routed")), "{answer}");
        }
        for unfinished in ["[".repeat(100_000), "{\"a\":".repeat(100_000), format!("{{\"a\":{}", "[".repeat(100_000))] {
            let reply = exchange(app, &post_whole("/webhooks/github", &signed("unfinished", unfinished.as_str()))).await;
            reply.expect("an answer").expect_problem("invalid_payload");
        }
        // The JSON API reads whole bodies, and no deep ones.
        let headers = [("x-api-key", App::service_key()), ("x-org-id", "org"), ("content-type", "application/json")];
        for path in ["/admin/connections", "/workspaces/ws/integrations", "/admin/dlq/replay"] {
            let answer = app.send("POST", path, &headers, format!(r#"{{"provider":{arrays}}}"#)).await;
            assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_json")), "{path}");
        }
        // The service path carries a payload it does not look into.
        let trusted = format!(
            r#"{{"connectionId":"{}","orgId":"org","deliveryId":"deep-trusted","eventType":"push","payload":{{{identity},"deep":{objects}}},"receivedAt":1}}"#,
            there.github.connection
        );
        let answer = app.send("POST", "/webhooks/github", &headers, trusted).await;
        assert_eq!((answer.status, answer.json()["outcome"].as_str()), (200, Some("routed")), "{}", answer.json());
        there.expect_unharmed(4, 4, CEILING_MIB).await;
    }

    async fn twenty_five_megabytes_are_accepted_and_delivered_byte_for_byte(backend) {
        const LIMIT: usize = 25 * 1024 * 1024;
        // A debug build hashes and compresses slowly; the promise under test is not the deadline.
        let options = Options::default().with("SIGNALBOX_INGEST__ACK_DEADLINE_MS", "60000");
        let there = Neighbourhood::start(backend, options).await;
        let facts = there.github.facts(7, SystemClock.now());
        let body_of = |bytes: usize| {
            let facts = sim::Facts { body_bytes: bytes, ..facts.clone() };
            let request = there.github.provider.event("github:push", &facts, there.github.provider.secret.as_bytes());
            request.expect("known").with_header("x-github-delivery", Some("large"))
        };
        let over = body_of(LIMIT + 1);
        assert_eq!(over.body.len(), LIMIT + 1);
        exchange(&there.app, &post_whole("/webhooks/github", &over)).await.expect("an answer").expect_problem("payload_too_large");
        let largest = body_of(LIMIT);
        assert_eq!(largest.body.len(), LIMIT);
        let mut client = there.app.outsider().with_limit(PATIENCE);
        let answer = client.post_webhook("github", &largest).await.expect("an answer").json();
        assert_eq!((&answer["status"], &answer["outcome"]), (&json!("accepted"), &json!("routed")), "{answer}");
        let is_it = |received: &sim::sink::Received| received.body.len() > LIMIT;
        let arrived = async {
            loop {
                if let Some(received) = there.sink.received().into_iter().find(is_it) {
                    return received;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let received = tokio::time::timeout(PATIENCE, arrived).await.expect("delivered");
        let mut expected = b",\"payload\":".to_vec();
        expected.extend_from_slice(&largest.body);
        expected.push(b'}');
        assert!(received.body.ends_with(&expected), "the payload was changed");
        let kept = there.app.operator("org")
            .call("GET", &format!("/events/{}/payload", answer["eventId"].as_str().expect("an id")), None)
            .await
            .expect("an answer");
        assert!(kept.body == largest.body, "the stored bytes are other ones");
        there.expect_unharmed(1, 1, 768).await;
    }
}
