//! `promises.md` P9 and P16: SIGTERM under load loses nothing, repeats nothing and complains about nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{
        self,
        client::Client,
        sink::{Behaviour, Sink},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::support::{App, Options, on_both};

const CONNECTIONS: u64 = 16;
const ROUNDS: usize = 3;
const SOON: Duration = Duration::from_mins(1);

on_both! {
    async fn a_stop_under_load_loses_repeats_and_complains_about_nothing(backend) {
        let sink = Sink::start().await.expect("a port");
        // Slow enough that attempts are in flight whenever the signal comes.
        sink.behave("/in", Behaviour::After(Duration::from_millis(300), Box::new(Behaviour::ok())));
        let mut app = App::start(backend, Options::default().with("SIGNALBOX_TELEMETRY__LOG_FILTER", "warn")).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let acked: Arc<Mutex<HashSet<String>>> = Arc::default();
        let next_seed = Arc::new(AtomicU64::new(0));
        for _ in 0..ROUNDS {
            let stop = Arc::new(AtomicBool::new(false));
            let posting: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let (acked, next_seed, stop) = (Arc::clone(&acked), Arc::clone(&next_seed), Arc::clone(&stop));
                    let (github, address) = (github.clone(), app.address());
                    tokio::spawn(async move {
                        while !stop.load(Ordering::Relaxed) {
                            let facts = github.facts(next_seed.fetch_add(1, Ordering::Relaxed), SystemClock.now());
                            let event = github.provider.event("github:push", &facts, github.provider.secret.as_bytes());
                            // What gets no answer was promised nothing.
                            let posted = Client::new(address).post_webhook("github", &event.expect("known")).await;
                            if posted.is_ok_and(|answer| answer.status == 200) {
                                acked.lock().expect("no panic").insert(facts.delivery_id);
                            } else {
                                // Told to come again, or nobody there: no provider is back at once.
                                tokio::time::sleep(Duration::from_millis(50)).await;
                            }
                        }
                    })
                })
                .collect();
            // Not waiting for anything: the moment is the point.
            tokio::time::sleep(Duration::from_millis(700)).await;
            app.terminate().await;
            stop.store(true, Ordering::Relaxed);
            for connection in posting {
                connection.await.expect("no panic");
            }
            app.restart().await;
        }
        let acked = acked.lock().expect("no panic").clone();
        assert!(acked.len() > ROUNDS, "the load was no load");
        let deadline = Instant::now() + SOON;
        let arrived = || {
            let mut times: HashMap<String, u32> = HashMap::new();
            for received in sink.received() {
                *times.entry(received.envelope.expect("an envelope").delivery_id).or_default() += 1;
            }
            times
        };
        while acked.iter().any(|id| !arrived().contains_key(id)) {
            assert!(Instant::now() < deadline, "acknowledged and not delivered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let repeated: Vec<_> = arrived().into_iter().filter(|(_, times)| *times > 1).collect();
        assert_eq!(repeated, [], "of {} acknowledged", acked.len());
        // Whoever comes while it stops is told to come again: that is no complaint.
        let log = app.log_text();
        let complaints: Vec<_> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        assert_eq!(complaints, Vec::<&str>::new());
        app.finish().await;
    }

    async fn a_client_that_drips_its_body_does_not_cut_the_attempts_in_flight(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::After(Duration::from_secs(3), Box::new(Behaviour::ok())));
        let options = Options::default().with("SIGNALBOX_SERVER__SHUTDOWN_DEADLINE_MS", "6000");
        let mut app = App::start(backend, options).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let mut dripping = TcpStream::connect(app.address()).await.expect("it listens");
        let head = "POST /webhooks/github HTTP/1.1\r\nhost: x\r\nx-hub-signature-256: sha256=00\r\n\
                    content-length: 100000\r\n\r\n{";
        dripping.write_all(head.as_bytes()).await.expect("sent");
        let drip = tokio::spawn(async move {
            while dripping.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let mut rest = Vec::new();
            drop(dripping.read_to_end(&mut rest).await);
        });
        let (_, answer) = app.post_event(&github, "github:push", 1).await;
        assert_eq!(answer.status, 200);
        sink.wait_for(1, SOON).await.expect("in flight");
        app.terminate().await;
        drip.abort();
        app.restart().await;
        app.check_invariants().await;
        assert_eq!(sink.total(), 1, "it was recorded, and is not repeated");
        app.finish().await;
    }

    async fn a_lost_key_file_is_noticed_at_the_start_and_not_one_delivery_at_a_time(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        app.terminate().await;
        let (key_file, aside) = (app.key_file(), app.key_file().with_extension("aside"));
        std::fs::rename(&key_file, &aside).expect("moved away");
        let examined = app.cli(&["doctor"]);
        let report = String::from_utf8_lossy(&examined.stdout);
        assert!(!examined.status.success() && report.contains("MISTAKE  vault: "), "{report}");
        assert!(!key_file.exists(), "the doctor makes nothing");
        let said = app.restart_refused().await;
        assert!(said.contains("vault.key_file") && said.contains("does not exist"), "{said}");
        assert!(!key_file.exists(), "a key beside what another one has sealed is of no use");
        std::fs::rename(&aside, &key_file).expect("moved back");
        app.restart().await;
        app.finish().await;
    }
}
