//! `promises.md` P1, P2, P15, P16: `kill -9` at random moments under load, on both databases.
//!
//! Providers post from many connections and resend what got no 200, as providers do. A ledger outside the process
//! compares what was acknowledged with what reached the sink. `SIGNALBOX_CRASH_KILLS` sets the number of kills; the
//! long form is `SIGNALBOX_CRASH_KILLS=200 cargo test --release --test it crash`.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{
        self, Dice, Facts,
        client::{Answer, Client},
        sink::{Keep, Received, SignatureVerdict, Sink},
    },
};
use tokio::{sync::watch, time::Instant};

use crate::support::{App, Connected, Options, on_both};

const KILLS: u32 = 20;
const CONNECTIONS: u64 = 16;
const WORKSPACES: [&str; 2] = ["first", "second"];
/// Attempts that can be in flight when the process dies; each may be repeated once by the next one.
const MAX_IN_FLIGHT: u64 = 64;
/// How long the last process may take to deliver what its predecessors left, their leases included.
const PATIENCE: Duration = Duration::from_mins(2);

/// A provider and its id of a webhook.
type Webhook = (String, String);
/// A webhook and a workspace that gets it.
type Due = (Webhook, String);

/// Who posts, to whom, and what was acknowledged.
struct Load {
    connected: Vec<Connected>,
    /// Where the gateway listens now.
    address: watch::Receiver<SocketAddr>,
    acked: Mutex<HashSet<Webhook>>,
    resent: AtomicU64,
    next_seed: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// One connection: event after event, each until it is acknowledged.
    async fn run(self: Arc<Self>) {
        let mut address = self.address.clone();
        while !self.stop.load(Ordering::Relaxed) {
            let seed = self.next_seed.fetch_add(1, Ordering::Relaxed);
            let mut dice = Dice::new(seed);
            let to = dice.pick(&self.connected).expect("connections");
            let kinds = &to.provider.seed_keys()[..5];
            let kind = dice.pick(kinds).expect("kinds");
            let mut facts = to.facts(seed, SystemClock.now());
            let answer = loop {
                let now_at = *address.borrow_and_update();
                if let Some(answer) = self.post(to, kind, &facts, now_at).await {
                    break answer;
                }
                self.resent.fetch_add(1, Ordering::Relaxed);
                // A provider waits and tries again; the next start is worth trying at once.
                let restarted = tokio::time::timeout(Duration::from_millis(200), address.changed()).await;
                assert!(!matches!(restarted, Ok(Err(_))), "the test ended before its load");
                // Linear stamps every try anew, and the gateway insists on it.
                if to.provider.slug == "linear" {
                    facts.at = SystemClock.now();
                }
            };
            let body = answer.json();
            let id = body["deliveryId"].as_str().expect("the provider's id").to_owned();
            assert!(body["status"] == "duplicate" || body["outcome"] == "routed", "{kind}: {body}");
            self.acked.lock().expect("no panic").insert((to.provider.slug.to_owned(), id));
        }
    }

    /// One try; `None` unless it was acknowledged.
    async fn post(&self, to: &Connected, kind: &str, facts: &Facts, address: SocketAddr) -> Option<Answer> {
        let request = to.provider.event(kind, facts, to.provider.secret.as_bytes()).expect("a known kind");
        let mut client = Client::new(address).with_limit(Duration::from_secs(10));
        let answer = client.post_webhook(to.provider.slug, &request).await.ok()?;
        match answer.status {
            200 => Some(answer),
            503 => None,
            other => panic!("{kind} was answered {other}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }
}

/// What reached the sink.
#[derive(Default)]
struct Deliveries {
    /// The `webhook-id` of each webhook and workspace.
    ids: HashMap<Due, String>,
    repeats: u64,
}

impl Deliveries {
    fn record(&mut self, received: &Received) -> Due {
        let ids = received.envelope.as_ref().expect("an envelope");
        assert_eq!(received.signature, SignatureVerdict::Valid, "{} is signed", received.webhook_id);
        assert!(received.webhook_id.starts_with("dlv_"), "{}", received.webhook_id);
        let due: Due = ((ids.provider.clone(), ids.delivery_id.clone()), ids.workspace_id.clone());
        match self.ids.get(&due) {
            None => assert_eq!(self.ids.insert(due.clone(), received.webhook_id.clone()), None),
            Some(first) => {
                assert_eq!(*first, received.webhook_id, "a repeat carries the same webhook-id");
                self.repeats += 1;
            }
        }
        due
    }
}

on_both! {
    async fn what_was_acknowledged_is_delivered_however_often_the_process_is_killed(backend) {
        let kills = std::env::var_os("SIGNALBOX_CRASH_KILLS")
            .map_or(KILLS, |kills| kills.to_str().and_then(|kills| kills.parse().ok()).expect("a number of kills"));
        let (name, chance) = (backend.name(), u64::try_from(SystemClock.now().0).expect("after 1970"));
        let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
        let mut arrivals = sink.follow();
        // Short attempts make short leases: a dead process holds its deliveries no longer than that.
        let options = Options::default()
            .with("SIGNALBOX_DELIVERY__TIMEOUT_MS", "2000")
            .with("SIGNALBOX_DELIVERY__MAX_IN_FLIGHT", &MAX_IN_FLIGHT.to_string())
            .with("SIGNALBOX_TELEMETRY__LOG_FILTER", "warn");
        let mut app = App::start(backend, options).await;
        sink.expect_all_signed(&app.set_destination("org", None, &sink.url("/in")).await);
        let mut connected = Vec::new();
        for provider in sim::PROVIDERS {
            let to = app.connect("org", provider, 1).await;
            for workspace in WORKSPACES {
                app.subscribe("org", workspace, &to, None).await;
            }
            connected.push(to);
        }

        let (addresses, address) = watch::channel(app.address());
        let load = Arc::new(Load {
            connected,
            address,
            acked: Mutex::default(),
            resent: AtomicU64::new(0),
            next_seed: AtomicU64::new(chance),
            stop: AtomicBool::new(false),
        });
        let posting: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(Arc::clone(&load).run())).collect();
        let mut dice = Dice::new(chance);
        let mut recoveries = Vec::new();
        for _ in 0..kills {
            // Not waiting for anything: the moment is the point.
            tokio::time::sleep(Duration::from_millis(dice.between(10, 500))).await;
            app.kill().await;
            app.restart().await;
            recoveries.push(app.last_start);
            addresses.send(app.address()).expect("the load listens");
        }
        load.stop.store(true, Ordering::Relaxed);
        for connection in posting {
            connection.await.expect("the load sees only 200, 503 and broken connections");
        }

        let acked = load.acked.lock().expect("no panic").clone();
        let mut deliveries = Deliveries::default();
        let deadline = Instant::now() + PATIENCE;
        let mut missing: HashSet<Due> = acked
            .iter()
            .flat_map(|webhook| WORKSPACES.map(|workspace| (webhook.clone(), workspace.to_owned())))
            .collect();
        while let Ok(received) = arrivals.try_recv() {
            missing.remove(&deliveries.record(&received));
        }
        while !missing.is_empty() {
            let Ok(Some(received)) = tokio::time::timeout_at(deadline, arrivals.recv()).await else { break };
            missing.remove(&deliveries.record(&received));
        }
        recoveries.sort_unstable();
        println!(
            "{name}: {kills} kills, {} acknowledged, {} tries resent, {} deliveries, {} repeats, recovery median {:?}, longest {:?} (chance {chance})",
            acked.len(), load.resent.load(Ordering::Relaxed), deliveries.ids.len(), deliveries.repeats,
            recoveries[recoveries.len() / 2], recoveries[recoveries.len() - 1],
        );
        assert!(
            missing.is_empty(),
            "{} acknowledged and not delivered, such as {:?}",
            missing.len(),
            missing.iter().take(5).collect::<Vec<_>>()
        );
        assert!(acked.len() > kills as usize, "the load was no load: {} acknowledged", acked.len());
        assert!(deliveries.repeats <= u64::from(kills) * MAX_IN_FLIGHT, "more repeats than attempts were cut");
        app.finish().await;
    }
}
