//! The outside ledger: providers that post until they have their 200, and what reached the sink.
//!
//! **Invariants**: a webhook is acknowledged here only after its answer was read; a refusal that does not ask to be tried
//! again fails the test, as does a repeat under another `webhook-id`.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{
        Dice, Facts,
        client::{Answer, Client},
        sink::{Received, SignatureVerdict},
    },
};
use tokio::{
    sync::{mpsc::UnboundedReceiver, watch},
    task::JoinHandle,
    time::Instant,
};

use super::Connected;

/// A provider and its id of a webhook.
pub type Webhook = (String, String);
/// A webhook and a workspace that gets it.
pub type Due = (Webhook, String);

/// How long a provider waits for an answer.
const PROVIDER_PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Going,
    Resting,
    Ended,
}

/// When something was acknowledged, on a clock of the test's choice.
type Stamp = Box<dyn Fn() -> u64 + Send + Sync>;

struct Ledger {
    connected: Vec<Connected>,
    address: watch::Sender<SocketAddr>,
    phase: watch::Sender<Phase>,
    /// Connections in the middle of a webhook.
    busy: watch::Sender<usize>,
    refused: watch::Sender<u64>,
    acked: Mutex<HashMap<Webhook, u64>>,
    stamp: Stamp,
    resent: AtomicU64,
    repeated: AtomicU64,
    next_seed: AtomicU64,
}

/// Providers that post from many connections, and what was acknowledged to them. They resend what got no 200, and now
/// and then what did, as providers do.
pub struct Load {
    ledger: Arc<Ledger>,
    connections: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins to post events of these installations to a gateway; `seed` is the first event's.
    pub fn begin(to: Vec<Connected>, address: SocketAddr, connections: usize, seed: u64) -> Self {
        Self::begin_stamping(to, address, connections, seed, Box::new(|| 0))
    }

    /// The same with a clock that is read after each acknowledgement.
    pub fn begin_stamping(
        to: Vec<Connected>,
        address: SocketAddr,
        connections: usize,
        seed: u64,
        stamp: Stamp,
    ) -> Self {
        let ledger = Arc::new(Ledger {
            connected: to,
            address: watch::Sender::new(address),
            phase: watch::Sender::new(Phase::Going),
            busy: watch::Sender::new(0),
            refused: watch::Sender::new(0),
            acked: Mutex::default(),
            stamp,
            resent: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            next_seed: AtomicU64::new(seed),
        });
        let connections = (0..connections).map(|_| tokio::spawn(Arc::clone(&ledger).run())).collect();
        Self { ledger, connections }
    }

    /// The gateway was started again and listens elsewhere.
    pub fn moved_to(&self, address: SocketAddr) {
        self.ledger.address.send_replace(address);
    }

    /// Waits until every provider has its 200 and nobody posts any more.
    pub async fn rest(&self) {
        self.ledger.phase.send_replace(Phase::Resting);
        self.ledger.busy.subscribe().wait_for(|busy| *busy == 0).await.expect("the ledger lives");
    }

    /// Goes on posting.
    pub fn go_on(&self) {
        self.ledger.phase.send_replace(Phase::Going);
    }

    /// Waits until so many more tries were refused with 503.
    pub async fn wait_for_refusals(&self, more: u64, within: Duration) {
        let mut refused = self.ledger.refused.subscribe();
        let enough = *refused.borrow() + more;
        let waiting = refused.wait_for(|refused| *refused >= enough);
        assert!(tokio::time::timeout(within, waiting).await.is_ok(), "{} of {enough} refusals", self.refused());
    }

    /// Waits until so many more webhooks were acknowledged.
    pub async fn wait_for_acks(&self, more: usize, within: Duration) {
        let enough = self.acked_so_far() + more;
        let waiting = async {
            while self.acked_so_far() < enough {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(within, waiting).await.is_ok(), "{} of {enough} acks", self.acked_so_far());
    }

    fn acked_so_far(&self) -> usize {
        self.ledger.acked.lock().expect("no panic").len()
    }

    /// What was acknowledged so far, and when.
    pub fn acked(&self) -> HashMap<Webhook, u64> {
        self.ledger.acked.lock().expect("no panic").clone()
    }

    /// Tries that were refused with 503.
    pub fn refused(&self) -> u64 {
        *self.ledger.refused.borrow()
    }

    /// Tries that got no 200 and were made again.
    pub fn resent(&self) -> u64 {
        self.ledger.resent.load(Ordering::Relaxed)
    }

    /// How many were sent again although they were acknowledged.
    pub fn repeated(&self) -> u64 {
        self.ledger.repeated.load(Ordering::Relaxed)
    }

    /// Ends when every provider has its 200; what was acknowledged, and when.
    pub async fn end(&mut self) -> HashMap<Webhook, u64> {
        self.ledger.phase.send_replace(Phase::Ended);
        for connection in self.connections.drain(..) {
            connection.await.expect("the load sees only 200, 503 and broken connections");
        }
        self.acked()
    }
}

impl Ledger {
    /// One connection: event after event, each until it is acknowledged.
    async fn run(self: Arc<Self>) {
        let mut phase = self.phase.subscribe();
        let mut address = self.address.subscribe();
        loop {
            // Counted before it looks: whoever rests waits for it.
            self.busy.send_modify(|busy| *busy += 1);
            let now = *phase.borrow_and_update();
            if now == Phase::Going {
                self.post_one(&mut address).await;
            }
            self.busy.send_modify(|busy| *busy -= 1);
            match now {
                Phase::Going => {}
                Phase::Resting => phase.changed().await.expect("the ledger lives"),
                Phase::Ended => return,
            }
        }
    }

    async fn post_one(&self, address: &mut watch::Receiver<SocketAddr>) {
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
            let restarted = tokio::time::timeout(PAUSE, address.changed()).await;
            assert!(!matches!(restarted, Ok(Err(_))), "the test ended before its load");
            // Linear stamps every try anew, and the gateway insists on it.
            if to.provider.slug == "linear" {
                facts.at = SystemClock.now();
            }
        };
        let at = (self.stamp)();
        let body = answer.json();
        let id = body["deliveryId"].as_str().expect("the provider's id").to_owned();
        assert!(body["status"] == "duplicate" || body["outcome"] == "routed", "{kind}: {body}");
        self.acked.lock().expect("no panic").insert((to.provider.slug.to_owned(), id), at);
        if dice.between(1, 4) == 1 {
            let now_at = *address.borrow();
            if let Some(again) = self.post(to, kind, &facts, now_at).await.map(|again| again.json()) {
                assert_eq!((&again["status"], &again["eventId"]), (&"duplicate".into(), &body["eventId"]), "{kind}");
                self.repeated.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// One try; `None` unless it was acknowledged.
    async fn post(&self, to: &Connected, kind: &str, facts: &Facts, address: SocketAddr) -> Option<Answer> {
        let request = to.provider.event(kind, facts, to.provider.secret.as_bytes()).expect("a known kind");
        let mut client = Client::new(address).with_limit(PROVIDER_PATIENCE);
        let answer = client.post_webhook(to.provider.slug, &request).await.ok()?;
        match answer.status {
            200 => Some(answer),
            503 => {
                let wait = answer.headers.get("retry-after").and_then(|wait| wait.parse::<u32>().ok());
                assert!(wait.is_some(), "a 503 says when to come again: {:?}", answer.headers);
                self.refused.send_modify(|refused| *refused += 1);
                None
            }
            other => panic!("{kind} was answered {other}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }
}

/// What reached the sink.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// The `webhook-id` of each webhook and workspace.
    pub ids: HashMap<Due, String>,
    /// How many came again.
    pub repeats: u64,
}

impl Deliveries {
    /// Takes down one arrival.
    pub fn record(&mut self, received: &Received) -> Due {
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

    /// Reads what arrives until every webhook has reached every workspace; what is still missing after `patience`.
    pub async fn collect<'a>(
        &mut self,
        arrivals: &mut UnboundedReceiver<Received>,
        webhooks: impl Iterator<Item = &'a Webhook>,
        workspaces: &[&str],
        patience: Duration,
    ) -> HashSet<Due> {
        let deadline = Instant::now() + patience;
        let mut missing: HashSet<Due> = webhooks
            .flat_map(|webhook| workspaces.iter().map(|workspace| (webhook.clone(), (*workspace).to_owned())))
            .filter(|due| !self.ids.contains_key(due))
            .collect();
        while let Ok(received) = arrivals.try_recv() {
            missing.remove(&self.record(&received));
        }
        while !missing.is_empty() {
            let Ok(Some(received)) = tokio::time::timeout_at(deadline, arrivals.recv()).await else { break };
            missing.remove(&self.record(&received));
        }
        missing
    }
}
