//! `signalbox listen`: the real command beside a real gateway, and a receiver on this machine.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signalbox::sim::{
    self,
    sink::{Behaviour, Received, Sink},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{App, Options, nobody_listening, on_both};

const SOON: Duration = Duration::from_mins(1);
const CONNECTED: &str = "connected, waiting for events";

/// The command as a child process. Its lines are kept, of both streams.
struct Listening {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    ended: bool,
}

impl Listening {
    /// Starts it with nothing of anybody's environment.
    fn start(words: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_signalbox"))
            .arg("listen")
            .args(words)
            .current_dir("/")
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let said = Arc::new(Mutex::new(Vec::new()));
        keep_lines(child.stdout.take().expect("piped"), &said);
        keep_lines(child.stderr.take().expect("piped"), &said);
        Self { child, said, ended: false }
    }

    /// Follows an org of this gateway with the service key, and waits until it does.
    async fn following(app: &App, forward: &str, words: &[&str]) -> Self {
        let from = format!("http://{}", app.address());
        let usual = ["--from", &from, "--forward", forward, "--org", "acme"];
        let listening = Self::start(&[&usual, words].concat(), &[("SIGNALBOX_API_KEY", App::service_key())]);
        listening.says(CONNECTED, 1).await;
        listening
    }

    fn text(&self) -> String {
        self.said.lock().expect("no panic while reading").join("\n")
    }

    /// Waits until this was said so often.
    async fn says(&self, words: &str, times: usize) {
        let deadline = Instant::now() + SOON;
        while self.text().matches(words).count() < times {
            assert!(Instant::now() < deadline, "it does not say `{words}`:\n{}", self.text());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The secret it printed.
    fn secret(&self) -> String {
        let text = self.text();
        let line = text.lines().find(|line| line.starts_with("signing secret")).expect("a secret").to_owned();
        line.rsplit(' ').next().expect("a word").to_owned()
    }

    /// The line about a delivery.
    fn line_of(&self, delivery: &str) -> String {
        let text = self.text();
        text.lines().find(|line| line.contains(delivery)).unwrap_or_else(|| panic!("{delivery}:\n{text}")).to_owned()
    }

    /// Waits for it to end by itself; whether it succeeded, and what it said.
    async fn ends(mut self) -> (bool, String) {
        let deadline = Instant::now() + SOON;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.text());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.ended = true;
        // The readers see the end of the streams a moment after the process is gone.
        let deadline = Instant::now() + SOON;
        while Arc::strong_count(&self.said) > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (status.success(), self.text())
    }

    /// Interrupts it as Ctrl-C does: that is success, and the key was never said.
    async fn interrupt(self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, Signal::SIGINT).expect("it takes signals");
        let (succeeded, said) = self.ends().await;
        assert!(succeeded, "{said}");
        assert!(!said.contains(App::service_key()), "the key is printed");
        assert!(!said.contains('\u{1b}'), "no colours off a terminal");
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if !self.ended {
            self.child.kill().expect("killable");
            self.child.wait().expect("a child of ours");
            eprintln!("--- what listen said\n{}", self.text());
        }
    }
}

fn keep_lines(stream: impl Read + Send + 'static, said: &Arc<Mutex<Vec<String>>>) {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            said.lock().expect("no panic while reading").push(line);
        }
    });
}

/// Whether the official library accepts it.
fn verify(received: &Received, secret: &str) {
    let mut headers = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let value = received.headers.get(name).unwrap_or_else(|| panic!("{name}"));
        headers.insert(name, value.parse().expect("a header's value"));
    }
    let official = standardwebhooks::Webhook::new(secret).expect("the library reads the secret");
    official.verify(&received.body, &headers).expect("the library accepts the delivery");
}

fn of_path(received: &[Received], path: &str) -> Vec<Received> {
    received.iter().filter(|one| one.path == path).cloned().collect()
}

on_both! {
    async fn each_delivery_is_forwarded_with_the_very_bytes_its_destination_gets_and_a_valid_signature(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("acme", None, &sink.url("/destination")).await;
        let connected = app.connect_everybody("acme", &["main", "other"]).await;
        let listening = Listening::following(&app, &sink.url("/local"), &[]).await;
        for (to, kind) in connected.iter().zip(["github:push", "vercel:deployment.created", "linear:issue.created", "sentry:issue.created"]) {
            let (_, answer) = app.post_event(to, kind, 1).await;
            assert_eq!(answer.json()["outcome"], "routed", "{kind}: {:?}", answer.json());
        }
        let received = sink
            .wait_until("every delivery, to both", SOON, |received| {
                of_path(received, "/local").len() >= 8 && of_path(received, "/destination").len() >= 8
            })
            .await
            .expect("all of them");
        let (local, destination) = (of_path(&received, "/local"), of_path(&received, "/destination"));
        assert_eq!((local.len(), destination.len()), (8, 8));
        let secret = listening.secret();
        for one in &local {
            let twin = destination.iter().find(|other| other.webhook_id == one.webhook_id).expect("the same delivery");
            assert_eq!(one.body, twin.body, "byte for byte");
            for name in ["content-type", "user-agent", "x-correlation-id"] {
                assert_eq!(one.headers.get(name), twin.headers.get(name), "{name}");
            }
            verify(one, &secret);
            listening.says(&one.webhook_id, 1).await;
            let line = listening.line_of(&one.webhook_id);
            let key = one.envelope.as_ref().and_then(|ids| ids.event_key.clone()).expect("a key");
            for part in [key.as_str(), "  200 ", " ms  "] {
                assert!(line.contains(part), "{part}: {line}");
            }
        }
        listening.interrupt().await;
        app.finish().await;
    }

    async fn nothing_is_skipped_or_repeated_while_the_gateway_is_killed_and_stopped_and_started_again(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default()).await;
        let address = app.address().to_string();
        app.set("SIGNALBOX_SERVER__LISTEN", &address);
        app.set_destination("acme", None, &sink.url("/destination")).await;
        let connected = app.connect("acme", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("acme", "main", &connected, None).await;
        let listening = Listening::following(&app, &sink.url("/local"), &[]).await;
        let mut posted = Vec::new();
        for round in 0..3 {
            for seed in 0..5 {
                let (_, answer) = app.post_event(&connected, "github:push", round * 100 + seed).await;
                assert_eq!(answer.status, 200);
                posted.push(answer.json()["eventId"].as_str().expect("an id").to_owned());
            }
            // The moment is any: events of this round may be forwarded, in the stream, or not yet in it.
            if round == 1 { app.terminate().await } else { app.kill().await }
            app.restart().await;
        }
        let (_, answer) = app.post_event(&connected, "github:push", 999).await;
        posted.push(answer.json()["eventId"].as_str().expect("an id").to_owned());
        let count = posted.len();
        let received = sink
            .wait_until("every event at the local URL", SOON, |received| of_path(received, "/local").len() >= count)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", listening.text()));
        let mut forwarded: Vec<_> = of_path(&received, "/local")
            .iter()
            .map(|one| one.envelope.as_ref().expect("an envelope").event_id.clone())
            .collect();
        forwarded.sort();
        posted.sort();
        assert_eq!(forwarded, posted, "each of them once\n{}", listening.text());
        listening.says(CONNECTED, 2).await;
        listening.interrupt().await;
        app.finish().await;
    }

    async fn filters_choose_workspaces_providers_and_keys_and_an_event_that_nobody_gets_is_said(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("acme", None, &sink.url("/destination")).await;
        let connected = app.connect_everybody("acme", &["main", "other"]).await;
        let (github, linear) = (&connected[0], &connected[2]);
        let all = Listening::following(&app, &sink.url("/all"), &[]).await;
        let one = Listening::following(&app, &sink.url("/one"), &["--workspace", "other", "--provider", "github"]).await;
        let keyed = Listening::following(&app, &sink.url("/keyed"), &["--event", "github:pull-request.*"]).await;
        let events = [(github, "github:push"), (linear, "linear:issue.created"), (github, "github:pull-request.opened")];
        for ((to, kind), seed) in events.into_iter().zip(1..) {
            let (_, answer) = app.post_event(to, kind, seed).await;
            assert_eq!(answer.json()["outcome"], "routed", "{kind}");
        }
        let elsewhere = app.connect("acme", sim::find("sentry").expect("simulated"), 7).await;
        let (_, answer) = app.post_event(&elsewhere, "sentry:issue.created", 1).await;
        assert_eq!(answer.json()["outcome"], "unrouted");
        all.says("not forwarded, it has no delivery (unrouted", 1).await;
        let received = sink.wait_until("what is wanted", SOON, |received| {
            ["/all", "/one", "/keyed"].map(|path| of_path(received, path).len()) == [6, 2, 2]
        });
        let received = received.await.expect("what is wanted, and nothing else");
        for one in of_path(&received, "/one") {
            let ids = one.envelope.expect("an envelope");
            assert_eq!((ids.workspace_id.as_str(), ids.provider.as_str()), ("other", "github"));
        }
        for one in of_path(&received, "/keyed") {
            let key = one.envelope.and_then(|ids| ids.event_key);
            assert_eq!(key.as_deref(), Some("github:pull-request.opened"));
        }
        assert!(!one.text().contains("not forwarded"), "what does not concern the workspace is not said");
        for listening in [all, one, keyed] {
            listening.interrupt().await;
        }
        app.finish().await;
    }

    async fn events_from_before_are_forwarded_if_they_are_asked_for(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("acme", None, &sink.url("/destination")).await;
        let connected = app.connect("acme", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("acme", "main", &connected, None).await;
        app.post_event(&connected, "github:push", 1).await;
        let listening = Listening::following(&app, &sink.url("/local"), &["--since", "10m"]).await;
        let received = sink.wait_until("the one from before", SOON, |received| !of_path(received, "/local").is_empty());
        received.await.expect("forwarded");
        listening.interrupt().await;
        app.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_url_where_nobody_listens_is_said_and_waited_for_and_any_answer_is_an_answer() {
    let sink = Sink::start().await.expect("a port");
    let app = App::start(crate::support::Backend::sqlite(), Options::default()).await;
    app.set_destination("acme", None, &sink.url("/destination")).await;
    let connected = app.connect("acme", sim::find("github").expect("simulated"), 1).await;
    app.subscribe("acme", "main", &connected, None).await;
    let (reserved, address) = nobody_listening();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let listening = Listening::following(&app, &format!("http://{address}/hook"), &["--secret", secret]).await;
    app.post_event(&connected, "github:push", 1).await;
    app.post_event(&connected, "github:push", 2).await;
    listening.says("nobody listens at", 1).await;
    let server = reserved.listen(8).expect("it listens");
    for answer in ["HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", ""] {
        let (mut stream, _) = server.accept().await.expect("a connection");
        let mut bytes = vec![0; 64 * 1024];
        let read = stream.read(&mut bytes).await.expect("a request");
        assert!(bytes[..read].starts_with(b"POST /hook HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&bytes[..read]));
        stream.write_all(answer.as_bytes()).await.expect("written");
    }
    listening.says("  500 ", 1).await;
    listening.says("the connection broke before an answer", 1).await;
    assert!(!listening.text().contains(secret), "a secret that was given is not repeated");
    listening.interrupt().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_follow_is_told_what_to_do_and_the_command_fails() {
    let app = App::start(crate::support::Backend::sqlite(), Options::default()).await;
    let other = Sink::start().await.expect("a port");
    other.behave("/events/stream", Behaviour::redirect("http://127.0.0.1:1/"));
    let from = format!("http://{}", app.address());
    let elsewhere = other.url("");
    let key = app.make_key(&["--org", "acme", "--scope", "read"]);
    let forward = ["--forward", "http://127.0.0.1:9/"];
    for (from, words, variables, told) in [
        (
            from.as_str(),
            &["--org", "acme"][..],
            &[("SIGNALBOX_API_KEY", "sbx_wrong-key-that-nobody-has")][..],
            "wrong or revoked",
        ),
        (&from, &[], &[("SIGNALBOX_API_KEY", App::service_key())], "--org"),
        (&from, &["--org", "not an org"], &[("SIGNALBOX_API_KEY", App::service_key())], "--org"),
        (&from, &["--org", "globex", "--api-key", &key], &[], "another org"),
        (&from, &["--api-key", &key, "--secret", "too short"], &[], "--secret"),
        (&from, &["--org", "acme"], &[], "which API key"),
        (&elsewhere, &["--api-key", &key], &[], "sends on to"),
        (&other.url("/elsewhere"), &["--api-key", &key], &[], "not a Signalbox gateway"),
    ] {
        let words = [&["--from", from], &forward[..], words].concat();
        let (succeeded, said) = Listening::start(&words, variables).ends().await;
        assert!(!succeeded && said.contains(told), "{words:?}: {said}");
        for secret in [key.as_str(), App::service_key(), "too short", "nobody-has"] {
            assert!(!said.contains(secret), "a secret is printed: {said}");
        }
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_ends_it_and_a_reading_key_of_an_org_needs_no_more() {
    let app = App::start(crate::support::Backend::sqlite(), Options::default()).await;
    let key = app.make_key(&["--org", "acme", "--scope", "read"]);
    let from = format!("http://{}", app.address());
    let words = ["--from", from.as_str(), "--forward", "http://127.0.0.1:9/"];
    let listening = Listening::start(&words, &[("SIGNALBOX_API_KEY", key.as_str())]);
    listening.says(CONNECTED, 1).await;
    let keys = app.cli(&["keys", "list", "--json"]);
    let keys: serde_json::Value = serde_json::from_slice(&keys.stdout).expect("JSON");
    let id = keys[0]["id"].as_str().expect("an id");
    assert!(app.cli(&["keys", "revoke", id]).status.success());
    let (succeeded, said) = listening.ends().await;
    assert!(!succeeded && said.contains("wrong or revoked"), "{said}");
    app.finish().await;
}
