//! One running provider: its port, its state and everything tests may ask of it.
//!
//! **Invariants.** State changes under one lock, which is never held while anything waits. Dropping the last handle
//! closes the port.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::{
    Options,
    call::Call,
    faults::{FaultRule, Faults},
    journal::JournalEntry,
    server,
    site::{Ambient, Posting, Scene, Sent, Site},
    visit::Visit,
};
use crate::{
    model::clock::{Clock, EpochMs},
    sim::{Dice, Facts},
};

/// A wait that was not rewarded.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what} did not happen within {within:?}; these calls were made: {calls:?}")]
pub struct NotInTime {
    what: String,
    within: Duration,
    calls: Vec<String>,
}

pub(super) struct Inner<S: Site> {
    pub site: S,
    pub ambient: Ambient,
    pub faults: Faults,
    pub journal: Vec<JournalEntry>,
    pub sent: Vec<Sent>,
    pub gateway: Option<String>,
    pub dice: Dice,
    pub issued: Vec<String>,
    /// Webhooks in a row that failed for good.
    pub failed: u32,
}

impl<S: Site> Inner<S> {
    fn new(options: &Options) -> Self {
        let ambient = Ambient {
            timeout_ms: if options.patient { 30_000 } else { S::MANNERS.timeout_ms },
            retries_ms: if options.retries { S::MANNERS.retries_ms.to_vec() } else { Vec::new() },
            ..Ambient::default()
        };
        Self {
            site: S::new(),
            ambient,
            faults: Faults::default(),
            journal: Vec::new(),
            sent: Vec::new(),
            gateway: None,
            dice: Dice::new(options.seed ^ S::PROVIDER.slug.bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte))),
            issued: Vec::new(),
            failed: 0,
        }
    }

    /// Changes what can be set about any provider. One that had stopped sending webhooks begins again.
    pub fn set(&mut self, change: impl FnOnce(&mut Ambient)) {
        change(&mut self.ambient);
        self.failed = 0;
    }

    /// What the provider's clock shows when ours shows `now`.
    pub fn by_its_clock(&self, now: EpochMs) -> EpochMs {
        EpochMs(now.0 + self.ambient.skew_ms)
    }

    /// Lets the site do something; answers what it said and what it wants sent.
    pub fn on_stage<T>(
        &mut self,
        now: EpochMs,
        origin: &str,
        play: impl FnOnce(&mut S, &mut Scene<'_>) -> T,
    ) -> (T, Vec<Posting>, Option<&'static str>) {
        let mut outbox = Vec::new();
        let mut scene = Scene {
            now: self.by_its_clock(now),
            dice: &mut self.dice,
            ambient: &self.ambient,
            origin,
            accepted_as: None,
            slug: S::PROVIDER.slug,
            gateway: self.gateway.as_deref(),
            outbox: &mut outbox,
            issued: &mut self.issued,
        };
        let said = play(&mut self.site, &mut scene);
        let accepted_as = scene.accepted_as;
        (said, outbox, accepted_as)
    }
}

pub(super) struct Shared<S: Site> {
    pub origin: String,
    pub clock: Arc<dyn Clock>,
    pub changes: watch::Sender<usize>,
    options: Options,
    inner: Mutex<Inner<S>>,
}

impl<S: Site> Shared<S> {
    pub fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        // A site that panicked in one test's call is still the best there is to look at.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the site do something now.
    pub fn on_stage<T>(
        &self,
        play: impl FnOnce(&mut S, &mut Scene<'_>) -> T,
    ) -> (T, Vec<Posting>, Option<&'static str>) {
        self.lock().on_stage(self.clock.now(), &self.origin, play)
    }

    /// The facts of a new event of an account as it is connected now, by the provider's clock.
    pub fn facts(&self, account: u32, seed: u64) -> Facts {
        let inner = self.lock();
        inner.site.facts(account, S::PROVIDER.facts(account, seed, inner.by_its_clock(self.clock.now())))
    }

    /// Forgets everything but where the gateway is.
    pub fn reset(&self) {
        let mut inner = self.lock();
        let gateway = inner.gateway.take();
        *inner = Inner { gateway, ..Inner::new(&self.options) };
    }

    pub fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

/// Closes the port with the last handle.
struct Port(JoinHandle<()>);

impl Drop for Port {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A handle on a running provider.
pub struct Simulator<S: Site> {
    pub(super) shared: Arc<Shared<S>>,
    port: Arc<Port>,
}

impl<S: Site> Clone for Simulator<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), port: Arc::clone(&self.port) }
    }
}

impl<S: Site> std::fmt::Debug for Simulator<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator")
            .field("provider", &S::PROVIDER.slug)
            .field("origin", &self.shared.origin)
            .finish_non_exhaustive()
    }
}

impl<S: Site> Simulator<S> {
    /// Starts a provider on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start(options: &Options) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let (changes, _) = watch::channel(0);
        let shared = Arc::new(Shared {
            origin,
            clock: Arc::clone(&options.clock),
            changes,
            options: options.clone(),
            inner: Mutex::new(Inner::new(options)),
        });
        let port = Arc::new(Port(tokio::spawn(server::accept(listener, Arc::clone(&shared)))));
        Ok(Self { shared, port })
    }

    /// Base of its pages: `web_url`.
    pub fn web_url(&self) -> String {
        self.shared.origin.clone()
    }

    /// Base of its API: `api_url`.
    pub fn api_url(&self) -> String {
        format!("{}{}", self.shared.origin, S::API_BASE)
    }

    /// Tells it where the gateway is (`http://127.0.0.1:4110`): where webhooks go and which callback is registered.
    pub fn gateway_is_at(&self, url: &str) {
        self.shared.lock().gateway = Some(url.trim_end_matches('/').to_owned());
    }

    /// Looks at its state, or changes it.
    pub fn with<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        change(&mut self.shared.lock().site)
    }

    /// Changes what can be set about it alone.
    pub fn tune(&self, change: impl FnOnce(&mut S::Knobs)) {
        change(self.shared.lock().site.knobs());
    }

    /// Changes what can be set about any provider. One that had stopped sending webhooks begins again.
    pub fn set(&self, change: impl FnOnce(&mut Ambient)) {
        self.shared.lock().set(change);
    }

    /// What people who say nothing themselves do on its pages from now on.
    pub fn visitors_will(&self, visit: Visit) {
        self.set(|ambient| ambient.visit = visit);
    }

    /// Makes calls fail.
    pub fn fail(&self, rule: FaultRule) {
        self.shared.lock().faults.add(rule);
    }

    /// Ends every fault.
    pub fn heal(&self) {
        self.shared.lock().faults.clear();
    }

    /// Forgets everything but where the gateway is.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Every call so far.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.shared.lock().journal.clone()
    }

    /// The calls that a pattern names (`POST /oauth/token`).
    pub fn calls(&self, pattern: &str) -> Vec<JournalEntry> {
        self.shared.lock().journal.iter().filter(|entry| entry.is(pattern)).cloned().collect()
    }

    /// Every webhook sent or lost so far, in the order of its end.
    pub fn sent(&self) -> Vec<Sent> {
        self.shared.lock().sent.clone()
    }

    /// Every secret it has issued so far: codes and tokens. For tests that look for leaks.
    pub fn issued(&self) -> Vec<String> {
        self.shared.lock().issued.clone()
    }

    /// Does what people do at the provider, and delivers what it tells of it. What there is: `act` of each site.
    ///
    /// # Errors
    /// What the site does not know.
    pub async fn act(&self, act: &str, account: u32, details: &Value) -> Result<Value, String> {
        let (said, outbox, _) = self.shared.on_stage(|site, scene| site.act(act, account, details, scene));
        for posting in outbox {
            server::post(&self.shared, posting).await;
        }
        said
    }

    /// The facts of a new event of an account as it is connected now, by the provider's clock.
    pub fn facts(&self, account: u32, seed: u64) -> Facts {
        self.shared.facts(account, seed)
    }

    /// Sends a webhook to the gateway; how its first try ended. Tries again later as the provider would.
    pub async fn send(&self, kind: &str, facts: &Facts) -> Option<Sent> {
        let posting =
            Posting { kind: kind.to_owned(), facts: facts.clone(), edit: Value::Null, first: true, verbatim: None };
        server::post(&self.shared, posting).await
    }

    /// Waits until its journal and what it sent satisfy a condition, which is asked again after every change.
    ///
    /// # Errors
    /// [`NotInTime`], in the words of `what`.
    pub async fn wait_until(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn(&[JournalEntry], &[Sent]) -> bool,
    ) -> Result<(), NotInTime> {
        let mut changes = self.shared.changes.subscribe();
        let rewarded = tokio::time::timeout(within, async {
            loop {
                changes.borrow_and_update();
                {
                    let inner = self.shared.lock();
                    if condition(&inner.journal, &inner.sent) {
                        return;
                    }
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
        .await;
        rewarded.map_err(|_| NotInTime { what: what.to_owned(), within, calls: self.call_lines() })
    }

    /// Method and path of every call so far: what a failing test wants to show.
    pub fn call_lines(&self) -> Vec<String> {
        let line = |call: &Call| format!("{} {}", call.method, call.path);
        self.shared.lock().journal.iter().map(|entry| line(&entry.call)).collect()
    }
}
