//! A receiver of deliveries over real HTTP that does to each path what it was told to: answer, dawdle, hang, reset,
//! redirect, flood, drip, talk garbage, fail a few times.
//!
//! **Invariants.** A request is recorded before it is answered, so an answer seen is a record kept. Paths know nothing
//! of each other. Without instructions a path answers 200 at once.
//!
//! **Must not know** the gateway's own signing or envelope types: it reads what is on the wire.

mod behaviour;
mod server;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

pub use self::behaviour::Behaviour;
pub use super::standard_webhooks::SignatureVerdict;
use crate::model::{
    clock::{Clock, EpochMs, SystemClock},
    webhook::Headers,
};

/// The ids of a received envelope; each is empty where the envelope had none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvelopeIds {
    /// The gateway's id of the event.
    pub event_id: String,
    /// The provider's id of it.
    pub delivery_id: String,
    /// The connection; absent in a test envelope.
    pub connection_id: Option<String>,
    /// The org.
    pub org_id: String,
    /// The provider's slug.
    pub provider: String,
    /// The provider's name of the event.
    pub event_type: String,
    /// The gateway's name of the event.
    pub event_key: Option<String>,
    /// The workspace.
    pub workspace_id: String,
    /// The integration.
    pub integration_id: String,
    /// The resource.
    pub resource_id: String,
}

/// One request the sink received.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its position among everything received, from 0.
    pub number: usize,
    /// The path, query included.
    pub path: String,
    /// The headers.
    pub headers: Headers,
    /// The body; empty when the sink keeps ids only.
    pub body: Bytes,
    /// `webhook-id`: the gateway's id of the delivery, the same on every try. Empty if it is missing.
    pub webhook_id: String,
    /// What its signature was worth.
    pub signature: SignatureVerdict,
    /// The envelope's ids; `None` if the body is not an envelope.
    pub envelope: Option<EnvelopeIds>,
    /// The wall clock when its last byte arrived.
    pub at: EpochMs,
    /// The same moment on the monotonic clock.
    pub instant: Instant,
    /// The status it was answered with; `None` if it got no proper answer.
    pub answered: Option<u16>,
    /// How many earlier tries of the same delivery were still open when it came: neither answered nor given up.
    pub beside: u32,
    /// How many requests were open at its path when it came, itself included. Neither is counted for load.
    pub open_here: u32,
}

impl Received {
    /// The payload's bytes exactly as they stood in the envelope; `None` if there is none or the body was not kept.
    pub fn payload(&self) -> Option<&[u8]> {
        #[derive(Deserialize)]
        struct Carrier<'a> {
            #[serde(borrow)]
            payload: &'a RawValue,
        }
        let carrier: Carrier<'_> = serde_json::from_slice(&self.body).ok()?;
        Some(carrier.payload.get().as_bytes())
    }
}

/// How much of each request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything, for tests and the demo.
    Everything,
    /// No requests at all, only their count: followers get ids, headers and bodies are dropped. For load.
    Nothing,
}

/// A wait that was not rewarded.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what} did not happen within {within:?}; {received} requests arrived")]
pub struct NotInTime {
    what: String,
    within: Duration,
    received: usize,
}

#[derive(Debug, Default)]
struct PathRules {
    behaviour: Option<Behaviour>,
    secrets: Vec<String>,
    /// Tries so far, by `webhook-id`, if the behaviour counts them.
    seen: HashMap<String, u32>,
    requests: u32,
    /// Requests that are open, by `webhook-id`.
    open: HashMap<String, u32>,
}

#[derive(Debug)]
struct Ledger {
    keep: Keep,
    total: usize,
    received: Vec<Received>,
    rules: HashMap<String, PathRules>,
    /// Secrets for every path.
    secrets: Vec<String>,
    followers: Vec<mpsc::UnboundedSender<Received>>,
}

#[derive(Debug)]
struct Shared {
    ledger: Mutex<Ledger>,
    arrivals: watch::Sender<usize>,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A poisoned ledger is still true: every write to it is one push.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sink. Dropping it closes its port.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Sink {
    /// A sink on a free loopback port that keeps everything.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> io::Result<Self> {
        Self::start_keeping(Keep::Everything).await
    }

    /// A sink on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start_keeping(keep: Keep) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (arrivals, _) = watch::channel(0);
        let ledger = Ledger {
            keep,
            total: 0,
            received: Vec::new(),
            rules: HashMap::new(),
            secrets: Vec::new(),
            followers: Vec::new(),
        };
        let shared = Arc::new(Shared { ledger: Mutex::new(ledger), arrivals });
        let server = tokio::spawn(server::accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, server })
    }

    /// The URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells a path what to do from now on, forgetting what it counted before.
    pub fn behave(&self, path: &str, behaviour: Behaviour) {
        let mut ledger = self.shared.ledger();
        let rules = ledger.rules.entry(path.to_owned()).or_default();
        rules.behaviour = Some(behaviour);
        rules.seen.clear();
        rules.requests = 0;
    }

    /// Makes a path check signatures against this secret (`whsec_…`) too.
    pub fn expect_signed(&self, path: &str, secret: &str) {
        self.shared.ledger().rules.entry(path.to_owned()).or_default().secrets.push(secret.to_owned());
    }

    /// Makes every path check signatures against this secret too.
    pub fn expect_all_signed(&self, secret: &str) {
        self.shared.ledger().secrets.push(secret.to_owned());
    }

    /// Everything kept so far, in order of arrival.
    pub fn received(&self) -> Vec<Received> {
        self.shared.ledger().received.clone()
    }

    /// How many requests have arrived in all.
    pub fn total(&self) -> usize {
        self.shared.ledger().total
    }

    /// Every request from now on, as it arrives.
    pub fn follow(&self) -> mpsc::UnboundedReceiver<Received> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared.ledger().followers.push(sender);
        receiver
    }

    /// Waits until at least `count` requests were kept and answers them all.
    ///
    /// # Errors
    /// [`NotInTime`].
    pub async fn wait_for(&self, count: usize, within: Duration) -> Result<Vec<Received>, NotInTime> {
        self.wait_until(&format!("the arrival of {count} requests"), within, |received| received.len() >= count).await
    }

    /// Waits until what was kept satisfies `condition`, which is asked again after every arrival; answers it all.
    ///
    /// # Errors
    /// [`NotInTime`], in the words of `what`.
    pub async fn wait_until(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn(&[Received]) -> bool,
    ) -> Result<Vec<Received>, NotInTime> {
        let mut arrivals = self.shared.arrivals.subscribe();
        let rewarded = tokio::time::timeout(within, async {
            loop {
                arrivals.borrow_and_update();
                if condition(&self.shared.ledger().received) {
                    return;
                }
                if arrivals.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
        .await;
        match rewarded {
            Ok(()) => Ok(self.received()),
            Err(_) => Err(NotInTime { what: what.to_owned(), within, received: self.total() }),
        }
    }
}

/// A request that is open until this is dropped, and what was open beside it when it came.
#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    path: String,
    webhook_id: String,
    beside: u32,
    here: u32,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut ledger = self.shared.ledger();
        let Some(rules) = ledger.rules.get_mut(&self.path) else { return };
        if let Some(open) = rules.open.get_mut(&self.webhook_id) {
            *open -= 1;
            if *open == 0 {
                rules.open.remove(&self.webhook_id);
            }
        }
    }
}

impl Shared {
    /// Counts a request as open; not for load, which asks nothing of it.
    fn open(self: &Arc<Self>, path: &str, webhook_id: &str) -> Option<Open> {
        let mut ledger = self.ledger();
        if ledger.keep == Keep::Nothing {
            return None;
        }
        let rules = ledger.rules.entry(path.to_owned()).or_default();
        let beside = rules.open.get(webhook_id).copied().unwrap_or_default();
        let here = rules.open.values().sum::<u32>() + 1;
        rules.open.insert(webhook_id.to_owned(), beside + 1);
        drop(ledger);
        Some(Open { shared: Arc::clone(self), path: path.to_owned(), webhook_id: webhook_id.to_owned(), beside, here })
    }

    /// Records a request and says what to do with it.
    fn record(&self, path: &str, headers: Headers, body: Bytes, open: Option<&Open>) -> Behaviour {
        let (at, instant) = (SystemClock.now(), Instant::now());
        let webhook_id = headers.get("webhook-id").unwrap_or_default().to_owned();
        let envelope = serde_json::from_slice::<EnvelopeIds>(&body).ok().filter(|ids| !ids.event_id.is_empty());
        let secrets = {
            let ledger = self.ledger();
            let of_path = ledger.rules.get(path).map(|rules| rules.secrets.as_slice()).unwrap_or_default();
            [of_path, &ledger.secrets].concat()
        };
        // Outside the lock: a MAC over a large body is the one slow step.
        let signature = super::standard_webhooks::verify(&headers, &body, &secrets, at);

        let mut ledger = self.ledger();
        let rules = ledger.rules.entry(path.to_owned()).or_default();
        let doing = match &rules.behaviour {
            None => Behaviour::ok(),
            Some(behaviour) => {
                let mut tries = 0;
                if behaviour.counts_tries() {
                    let seen = rules.seen.entry(webhook_id.clone()).or_insert(0);
                    tries = *seen;
                    *seen += 1;
                }
                let doing = behaviour.resolve(tries, rules.requests);
                rules.requests += 1;
                doing
            }
        };
        let number = ledger.total;
        ledger.total += 1;
        let answered = doing.status();
        let mut received = Received {
            number,
            path: path.to_owned(),
            headers,
            body,
            webhook_id,
            signature,
            envelope,
            at,
            instant,
            answered,
            beside: open.as_ref().map_or(0, |open| open.beside),
            open_here: open.as_ref().map_or(0, |open| open.here),
        };
        if ledger.keep == Keep::Nothing {
            received.headers = Headers::new();
            received.body = Bytes::new();
        }
        ledger.followers.retain(|follower| follower.send(received.clone()).is_ok());
        if ledger.keep == Keep::Everything {
            ledger.received.push(received);
        }
        drop(ledger);
        self.arrivals.send_modify(|arrivals| *arrivals += 1);
        doing
    }
}

#[cfg(test)]
mod tests;
