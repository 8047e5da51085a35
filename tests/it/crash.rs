//! `kill -9` at random moments under load, on both databases: nothing acknowledged is lost, repeats come from crashes
//! alone and carry the same `webhook-id`, and the next process takes over what the dead one had leased.
//!
//! Providers post from many connections and resend what got no 200, and now and then what did, as providers do. A ledger
//! outside the process compares what was acknowledged with what reached the sink. `SIGNALBOX_CRASH_KILLS` sets the number of kills; the
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
        sink::{Behaviour, Keep, Received, SignatureVerdict, Sink},
    },
};
use tokio::{
    sync::{mpsc::UnboundedReceiver, watch},
    time::Instant,
};

use crate::support::{App, Connected, Options, on_both};

const KILLS: u32 = 20;
const CONNECTIONS: u64 = 16;
/// The second one's destination is slow: an attempt that it has received is still in flight when the process is killed.
const WORKSPACES: [&str; 2] = ["first", "second"];
const SLOW: (&str, Duration) = ("/slow", Duration::from_millis(200));
/// Kills at a moment when something is known to be in flight.
const AIMED_KILLS: u32 = 3;
/// Attempts that can be in flight when the process dies; each may be repeated once by the next one.
const MAX_IN_FLIGHT: u64 = 64;
/// How long a process may take to deliver what its predecessors left. Leases last far longer, see `TIMEOUT_MS`: whoever
/// waits for them to end fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// An attempt's limit, and with it the length of a lease.
const TIMEOUT_MS: &str = "600000";

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
    /// How many were sent again although they were acknowledged.
    repeated: AtomicU64,
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
            if dice.between(1, 4) == 1 {
                let now_at = *address.borrow();
                if let Some(again) = self.post(to, kind, &facts, now_at).await.map(|again| again.json()) {
                    assert_eq!(
                        (&again["status"], &again["eventId"]),
                        (&"duplicate".into(), &body["eventId"]),
                        "{kind}"
                    );
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                }
            }
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

/// How long the next process took, from its start on.
struct Resumption {
    /// Until it attempted anything that was acknowledged before.
    open_work: Duration,
    /// Until it attempted what was in flight at the kill.
    in_flight: Duration,
}

/// Kills the process while an attempt is in flight for certain, and waits until the next one has made it again.
async fn kill_in_flight(
    app: &mut App,
    load: &Load,
    watched: &mut UnboundedReceiver<Received>,
    addresses: &watch::Sender<SocketAddr>,
) -> Resumption {
    let attempt = async {
        // What arrived long ago is answered and recorded by now.
        while watched.try_recv().is_ok() {}
        loop {
            let received = watched.recv().await.expect("the sink lives");
            if received.path == SLOW.0 {
                return received.webhook_id;
            }
        }
    };
    let in_flight = tokio::time::timeout(PATIENCE, attempt).await.expect("the load goes on");
    app.kill().await;
    let acked = load.acked.lock().expect("no panic").clone();
    while watched.try_recv().is_ok() {}
    let restarted = Instant::now();
    app.restart().await;
    addresses.send(app.address()).expect("the load listens");
    let again = async {
        let mut open_work = None;
        loop {
            let received = watched.recv().await.expect("the sink lives");
            let ids = received.envelope.expect("an envelope");
            if acked.contains(&(ids.provider, ids.delivery_id)) {
                open_work.get_or_insert(restarted.elapsed());
            }
            if received.webhook_id == in_flight {
                let in_flight = restarted.elapsed();
                return Resumption { open_work: open_work.unwrap_or(in_flight), in_flight };
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the attempt is made again before its lease ends")
}

on_both! {
    async fn what_was_acknowledged_is_delivered_however_often_the_process_is_killed(backend) {
        let kills = std::env::var_os("SIGNALBOX_CRASH_KILLS")
            .map_or(KILLS, |kills| kills.to_str().and_then(|kills| kills.parse().ok()).expect("a number of kills"));
        let (name, chance) = (backend.name(), u64::try_from(SystemClock.now().0).expect("after 1970"));
        let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
        let mut arrivals = sink.follow();
        let mut watched = sink.follow();
        sink.behave(SLOW.0, Behaviour::After(SLOW.1, Box::new(Behaviour::ok())));
        let options = Options::default()
            .with("SIGNALBOX_DELIVERY__TIMEOUT_MS", TIMEOUT_MS)
            .with("SIGNALBOX_DELIVERY__MAX_IN_FLIGHT", &MAX_IN_FLIGHT.to_string())
            .with("SIGNALBOX_TELEMETRY__LOG_FILTER", "warn");
        let mut app = App::start(backend, options).await;
        sink.expect_all_signed(&app.set_destination("org", None, &sink.url("/in")).await);
        sink.expect_all_signed(&app.set_destination("org", Some(WORKSPACES[1]), &sink.url(SLOW.0)).await);
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
            repeated: AtomicU64::new(0),
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
        let mut resumptions = Vec::new();
        for _ in 0..AIMED_KILLS {
            resumptions.push(kill_in_flight(&mut app, &load, &mut watched, &addresses).await);
            recoveries.push(app.last_start);
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
        let longest = |of: fn(&Resumption) -> Duration| resumptions.iter().map(of).max().unwrap_or_default();
        println!(
            "{name}: {} kills, {} acknowledged, {} tries resent, {} sent again, {} deliveries, {} repeats; serving again: \
             median {:?}, longest {:?}; open work attempted after at most {:?}, what was in flight after {:?} (chance {chance})",
            recoveries.len(), acked.len(), load.resent.load(Ordering::Relaxed), load.repeated.load(Ordering::Relaxed),
            deliveries.ids.len(), deliveries.repeats, recoveries[recoveries.len() / 2], recoveries[recoveries.len() - 1],
            longest(|of| of.open_work), longest(|of| of.in_flight),
        );
        assert!(
            missing.is_empty(),
            "{} acknowledged and not delivered, such as {:?}",
            missing.len(),
            missing.iter().take(5).collect::<Vec<_>>()
        );
        let kills = u64::from(kills + AIMED_KILLS);
        assert!(acked.len() as u64 > kills, "the load was no load: {} acknowledged", acked.len());
        assert!(load.repeated.load(Ordering::Relaxed) > 0, "nothing was sent again");
        assert!(deliveries.repeats >= u64::from(AIMED_KILLS), "the aimed kills cut nothing");
        assert!(deliveries.repeats <= kills * MAX_IN_FLIGHT, "more repeats than attempts were cut");

        // Every provider went on until it had its 200: the rows are what was acknowledged, no more and no less.
        let events = acked.len() as u64;
        let settled = async {
            loop {
                let health = app.health(true).await;
                if health["census"]["deliveries"] == serde_json::json!({"delivered": 2 * events}) {
                    return health;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let settled = tokio::time::timeout(PATIENCE, settled).await;
        let Ok(health) = settled else { panic!("some delivery does not end: {:#}", app.health(true).await) };
        assert_eq!(health["census"]["events"], serde_json::json!({"routed": events}), "{health:#}");
        assert_eq!((health["status"].as_str(), health["adds_up"].as_bool()), (Some("ok"), Some(true)), "{health:#}");
        app.finish().await;
    }
}
