//! `promises.md` P12: a machine's clock that jumps a day loses nothing, repeats nothing and frees nobody's lease.
//!
//! The real binary runs under `libfaketime` (Debian: `faketime`), which moves the wall clock of a running process and
//! leaves its monotonic clock alone, as a correction by NTP or by hand does. Without the library these tests are
//! skipped, said aloud; with `REQUIRE_FAKETIME=1` that is a failure.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use signalbox::sim::{
    self,
    sink::{Behaviour, Received, Sink},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::support::{App, Backend, Connected, Options, on_both};

const SOON: Duration = Duration::from_secs(40);

/// The wall clock of processes that are started with its settings.
pub struct FakeClock {
    directory: TempDir,
    library: PathBuf,
}

impl FakeClock {
    /// At the true time; `None` on a machine without the library.
    pub fn find() -> Option<Self> {
        let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
        let mut candidates = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
        let Some(library) = candidates.find(|library| library.exists()) else {
            assert!(std::env::var_os("REQUIRE_FAKETIME").is_none(), "libfaketime is required and not there");
            eprintln!("!!! SKIPPED: there is no libfaketime (Debian: apt-get install faketime)");
            return None;
        };
        let clock = Self { directory: tempfile::tempdir().expect("a temporary directory"), library };
        clock.jump_to("+0");
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// Sets the clock, this far from the true time: `+1d`, `-1d`, `+0`.
    pub fn jump_to(&self, offset: &str) {
        // In one step: whoever reads it sees the old time or the new.
        let aside = self.directory.path().join("next");
        std::fs::write(&aside, format!("{offset}\n")).expect("written");
        std::fs::rename(aside, self.file()).expect("renamed");
    }

    /// The settings of a process that has this clock.
    pub fn of(&self, options: Options) -> Options {
        options
            .with("LD_PRELOAD", &self.library.display().to_string())
            .with("FAKETIME_TIMESTAMP_FILE", &self.file().display().to_string())
            .with("FAKETIME_NO_CACHE", "1")
            .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1,1,1,1")
    }
}

async fn subscribed(app: &App, sink: &Sink, workspaces: &[&str]) -> Connected {
    let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
    for workspace in workspaces {
        app.subscribe("org", workspace, &github, Some(&["github:push"])).await;
        app.set_destination("org", Some(workspace), &sink.url(&format!("/{workspace}"))).await;
    }
    github
}

async fn post(app: &App, to: &Connected, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (_, answer) = app.post_event(to, "github:push", seed).await;
        assert_eq!((answer.status, answer.json()["outcome"].as_str()), (200, Some("routed")), "{seed}");
    }
}

/// How often each delivery was tried at that path.
fn tries(received: &[Received], path: &str) -> BTreeMap<String, usize> {
    let mut tries = BTreeMap::new();
    for received in received.iter().filter(|received| received.path == path) {
        *tries.entry(received.webhook_id.clone()).or_default() += 1;
    }
    tries
}

/// Waits until everything is delivered; nothing was tried twice, whichever node had it.
async fn assert_all_are_delivered_by_one_attempt(app: &App, sink: &Sink) {
    let delivered = async {
        while app.count("SELECT COUNT(*) FROM gw_deliveries WHERE status <> 'delivered'").await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, delivered).await.expect("all are delivered");
    let received = sink.received();
    assert!(received.iter().all(|received| received.beside == 0), "one attempt of a delivery in the whole cluster");
    assert!(tries(&received, "/in").values().all(|tries| *tries == 1), "{:?}", tries(&received, "/in"));
}

/// Follows the org's event stream: the ids of its events, as they come.
async fn follow(app: &App) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let mut stream = TcpStream::connect(app.address()).await.expect("it listens");
    let key = App::service_key();
    let request = format!("GET /events/stream HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nx-org-id: org\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(stream).lines();
    while lines.next_line().await.expect("reads").expect("it goes on") != ": following" {}
    let (seen, ids) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let Some(id) = line.strip_prefix("id: ") else { continue };
            if seen.send(id.to_owned()).is_err() {
                return;
            }
        }
    });
    ids
}

on_both! {
    async fn a_clock_that_jumps_loses_repeats_and_hurries_nothing(backend) {
        const ROUND: u64 = 4;
        const CAP: usize = 4;
        let Some(clock) = FakeClock::find() else { return };
        let sink = Sink::start().await.expect("a port");
        let slowly = Behaviour::After(Duration::from_millis(600), Box::new(Behaviour::ok()));
        sink.behave("/slow", slowly);
        sink.behave("/fails", Behaviour::FailFirst { times: 2, with: Box::new(Behaviour::status_only(500)) });
        let options = clock
            .of(Options::default())
            .with("SIGNALBOX_DELIVERY__CIRCUIT_FAILURES", "100000")
            // So that some are in flight and the others wait.
            .with("SIGNALBOX_DELIVERY__MAX_IN_FLIGHT_PER_DESTINATION", &CAP.to_string());
        let app = App::start(backend, options).await;
        let github = subscribed(&app, &sink, &["slow", "fails"]).await;
        let mut events = 0;
        // A day on, two days back, a day on to the true time: in flight, waiting for their turn and waiting for a retry.
        for offset in ["+1d", "-1d", "+0"] {
            post(&app, &github, events..events + ROUND).await;
            events += ROUND;
            let all = usize::try_from(events).expect("small");
            let first_tries = |received: &[Received]| tries(received, "/fails").len() == all;
            sink.wait_until("a first try of each", SOON, first_tries).await.expect("tried");
            clock.jump_to(offset);
            post(&app, &github, events..events + ROUND).await;
            events += ROUND;
            let all = usize::try_from(events).expect("small");
            let done = |received: &[Received]| {
                let fails = tries(received, "/fails");
                tries(received, "/slow").len() == all && fails.len() == all && fails.values().all(|tries| *tries >= 3)
            };
            let waited = sink.wait_until("everything everywhere", SOON, done).await;
            waited.unwrap_or_else(|error| panic!("after the jump to {offset}: {error}"));
        }
        let delivered = async {
            while app.count("SELECT COUNT(*) FROM gw_deliveries WHERE status = 'delivered'").await
                < i64::try_from(2 * events).expect("small")
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, delivered).await.expect("recorded");
        let received = sink.received();
        assert!(received.iter().all(|received| received.beside == 0), "one attempt of a delivery at a time");
        // A result that is being written when the clock jumps ahead may be repeated, as after a crash: no more than were in
        // flight, at each of the two jumps forward.
        for (path, each) in [("/slow", 1), ("/fails", 3)] {
            let tries = tries(&received, path);
            let repeats = tries.values().sum::<usize>() - tries.len() * each;
            assert!(repeats <= 2 * CAP, "{path}: {repeats} repeats, {tries:?}");
        }
        app.finish().await;
    }

    async fn the_event_stream_goes_on_when_the_clock_is_set_back(backend) {
        let Some(clock) = FakeClock::find() else { return };
        let app = App::start(backend, clock.of(Options::default())).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let mut ids = follow(&app).await;
        for (seed, offset) in (0..).zip(["+0", "-1d", "+0", "-2h"]) {
            clock.jump_to(offset);
            let (_, answer) = app.post_event(&github, "github:push", seed).await;
            let posted = answer.json()["eventId"].as_str().expect("an id").to_owned();
            let shown = async { while ids.recv().await.expect("it goes on") != posted {} };
            tokio::time::timeout(SOON, shown).await.unwrap_or_else(|_| panic!("at {offset} nothing came"));
        }
        app.finish().await;
    }

    async fn a_start_with_a_clock_a_day_behind_goes_on_with_what_is_open(backend) {
        let Some(clock) = FakeClock::find() else { return };
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::FailFirst { times: 1, with: Box::new(Behaviour::status_only(500)) });
        let options = clock.of(Options::default()).with("SIGNALBOX_DELIVERY__CIRCUIT_FAILURES", "100000");
        let mut app = App::start(backend, options).await;
        let github = subscribed(&app, &sink, &["in"]).await;
        post(&app, &github, 0..5).await;
        sink.wait_for(5, SOON).await.expect("tried");
        app.kill().await;
        clock.jump_to("-1d");
        app.restart().await;
        post(&app, &github, 5..6).await;
        let done = |received: &[Received]| {
            let tries = tries(received, "/in");
            tries.len() == 6 && tries.values().all(|tries| *tries >= 2)
        };
        sink.wait_until("everything", SOON, done).await.expect("delivered");
        app.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_ahead_on_one_node_frees_no_lease_of_another() {
    const EVENTS: u64 = 6;
    let (Some(backend), Some(clock)) = (Backend::postgres().await, FakeClock::find()) else { return };
    let sink = Sink::start().await.expect("a port");
    let first = App::start(backend, Options::default().with("SIGNALBOX_DELIVERY__TIMEOUT_MS", "20000")).await;
    let second = first.start_beside_with(clock.of(Options::default())).await;
    let github = subscribed(&first, &sink, &["in", "other"]).await;
    sink.behave("/in", Behaviour::After(Duration::from_secs(5), Box::new(Behaviour::ok())));
    post(&first, &github, 0..EVENTS).await;
    let events = usize::try_from(EVENTS).expect("small");
    let in_flight = |received: &[Received]| tries(received, "/in").len() == events;
    sink.wait_until("every one in flight", SOON, in_flight).await.expect("sent");
    for (round, offset) in (1..).zip(["+1d", "+0", "+1d"]) {
        clock.jump_to(offset);
        // It looks for what is due, and works.
        post(&second, &github, 100 * round..100 * round + 2).await;
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    assert_all_are_delivered_by_one_attempt(&first, &sink).await;
    second.leave().await;
    first.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_behind_on_one_node_does_not_end_its_leases_for_another() {
    const EVENTS: u64 = 3;
    let (Some(backend), Some(clock)) = (Backend::postgres().await, FakeClock::find()) else { return };
    let sink = Sink::start().await.expect("a port");
    sink.behave("/in", Behaviour::After(Duration::from_secs(4), Box::new(Behaviour::ok())));
    let patient = || Options::default().with("SIGNALBOX_DELIVERY__TIMEOUT_MS", "20000");
    clock.jump_to("-1d");
    // It is behind when it starts, and falls behind again while it runs.
    let behind = App::start(backend, clock.of(patient())).await;
    let other = behind.start_beside_with(patient()).await;
    let github = subscribed(&behind, &sink, &["in"]).await;
    let mut events = 0;
    for offset in ["-1d", "+0", "-2d"] {
        clock.jump_to(offset);
        // The janitor looks at the clocks once a second.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        post(&behind, &github, events..events + EVENTS).await;
        events += EVENTS;
        let all = usize::try_from(events).expect("small");
        sink.wait_until("every one in flight", SOON, |received| tries(received, "/in").len() == all)
            .await
            .expect("sent");
    }
    assert_all_are_delivered_by_one_attempt(&behind, &sink).await;
    other.leave().await;
    behind.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_a_day_off_on_one_node_neither_hurries_nor_delays_what_others_send() {
    const EVENTS: u64 = 3;
    let (Some(backend), Some(clock)) = (Backend::postgres().await, FakeClock::find()) else { return };
    let sink = Sink::start().await.expect("a port");
    sink.behave("/in", Behaviour::status_only(500));
    let patient = |options: Options| {
        options
            .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "600")
            .with("SIGNALBOX_DELIVERY__CIRCUIT_FAILURES", "100000")
    };
    let first = App::start(backend, patient(Options::default())).await;
    let second = first.start_beside_with(patient(clock.of(Options::default()))).await;
    let github = subscribed(&first, &sink, &["in"]).await;
    let mut events = 0;
    for offset in ["+0", "-1d", "+1d", "+0"] {
        clock.jump_to(offset);
        // The janitor looks at the clocks once a second.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        for node in [&first, &second] {
            post(node, &github, events..events + EVENTS).await;
            events += EVENTS;
        }
        let retries =
            "SELECT COUNT(*) FROM gw_deliveries WHERE attempts = 1 AND due_at / 1000 - EXTRACT(EPOCH FROM now()) ";
        let waiting = async {
            let between = format!("{retries} BETWEEN 400 AND 720");
            while first.count(&between).await < i64::try_from(events).expect("small") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("at {offset} something waits otherwise"));
    }
    let all = usize::try_from(events).expect("small");
    assert_eq!(sink.total(), all, "each was tried once, and no retry before its time");
    second.leave().await;
    first.finish().await;
}
