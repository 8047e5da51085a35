//! The dispatcher at work: a real store in a file, a real vault, destinations on loopback.

use std::{
    collections::VecDeque,
    future::Future,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use url::Url;

use super::{messages::Poison, shared::lock, *};
use crate::{
    delivery::sign::SigningSecret,
    model::{
        clock::{EpochMs, ManualClock, SystemClock},
        delivery::{Delivery, DeliveryStatus},
        destination::{Destination, DestinationScope},
        event::{Event, EventOutcome},
        ids::{IntegrationId, ResourceId, WorkspaceId},
        log_entry::{Actor, LogEntry},
        provider::{ProviderDeliveryId, ProviderSlug},
        secret::Secret,
    },
    store::{self, EventDetail, NewDelivery, NewEvent, NoObserver, OpenOptions},
    vault::SealedAt,
};

/// Far more than any of these tests needs, so that a slow machine changes nothing.
const PATIENCE: Duration = Duration::from_secs(30);

const GITHUB: ProviderSlug = ProviderSlug("github");
const ORG: &str = "org_1";

/// What the sink does with the next request; the last stays.
#[derive(Debug, Clone, Copy)]
enum Play {
    Answer(u16),
    Hang,
    AnswerAfter(u16, Duration),
}

/// A destination on loopback.
struct Sink {
    port: u16,
    requests: mpsc::UnboundedReceiver<String>,
    script: Arc<Mutex<VecDeque<Play>>>,
}

impl Sink {
    async fn playing(script: impl IntoIterator<Item = Play>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
        let (sender, requests) = mpsc::unbounded_channel();
        let plays = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, sender.clone(), Arc::clone(&plays)));
            }
        });
        Self { port, requests, script }
    }

    fn play(&self, play: Play) {
        *lock(&self.script) = VecDeque::from([play]);
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    async fn next(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.requests.recv()).await.expect("a request comes").expect("the sink lives")
    }
}

async fn serve(mut stream: TcpStream, sender: mpsc::UnboundedSender<String>, script: Arc<Mutex<VecDeque<Play>>>) {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = header(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if body.len() < length {
            continue;
        }
        let play = {
            let mut script = lock(&script);
            if script.len() > 1 { script.pop_front() } else { script.front().copied() }
        };
        if sender.send(text.clone()).is_err() {
            return;
        }
        let status = match play.unwrap_or(Play::Answer(200)) {
            Play::Answer(status) => status,
            Play::AnswerAfter(status, wait) => {
                tokio::time::sleep(wait).await;
                status
            }
            Play::Hang => return std::future::pending().await,
        };
        let answer = format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        drop(stream.write_all(answer.as_bytes()).await);
        return;
    }
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let head = request.split("\r\n\r\n").next().unwrap_or_default();
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A dispatcher with everything below it.
struct Rig {
    dispatcher: DispatcherHandle,
    store: SharedStore,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    ids: Ids,
    _file: tempfile::TempDir,
}

fn config(default: Option<&Sink>) -> DeliveryConfig {
    DeliveryConfig {
        url: default.map(|sink| Url::parse(&sink.url()).expect("a URL")),
        secret: Secret::new(SigningSecret::generate().to_text().as_bytes()),
        timeout: Duration::from_secs(10),
        retry_schedule: vec![Duration::from_millis(20); 2],
        allow_private_networks: true,
        max_in_flight: 16,
        max_in_flight_per_destination: 4,
        circuit_failures: 100,
        circuit_probe: Duration::from_hours(1),
        disable_after: Duration::from_hours(5 * 24),
    }
}

impl Rig {
    async fn start(config: DeliveryConfig) -> Self {
        Self::start_at(config, Arc::new(SystemClock)).await
    }

    async fn start_at(config: DeliveryConfig, clock: Arc<dyn Clock>) -> Self {
        let file = tempfile::tempdir().expect("a directory");
        let node = "node-test".to_owned();
        let options = OpenOptions {
            url: format!("sqlite://{}", file.path().join("test.db").display()),
            max_connections: 4,
            acquire_timeout: Duration::from_secs(5),
            providers: vec![GITHUB],
            node: node.clone(),
            serving: true,
        };
        let store = store::open(options, Arc::new(NoObserver)).await.expect("a store");
        store.migrate().await.expect("migrated");
        let key = Secret::new(rand::random::<[u8; 32]>()).expect("a key");
        let vault = Arc::new(Vault::new(vec![("test".to_owned(), key)]).expect("a vault"));
        let ids = Ids::new(Arc::clone(&clock));
        let deps = DispatcherDeps {
            store: Arc::clone(&store),
            vault: Arc::clone(&vault),
            metrics: Arc::new(Metrics::default()),
            traces: Traces::default(),
            clock: Arc::clone(&clock),
            ids: ids.clone(),
            config,
            node,
            remembers_destinations: true,
        };
        let dispatcher = DispatcherHandle::start(deps).expect("started");
        Self { dispatcher, store, vault, clock, ids, _file: file }
    }

    /// Commits an event with one delivery, leased if there is a slot for it; answers what is to be sent.
    async fn commit(&self, destination: &DestinationId, leased: bool) -> ClaimedDelivery {
        self.commit_to_each(std::slice::from_ref(destination), leased).await.remove(0)
    }

    /// Commits an event with one delivery to each of these.
    async fn commit_to_each(&self, destinations: &[DestinationId], leased: bool) -> Vec<ClaimedDelivery> {
        let body = Bytes::from_static(br#"{"ref":"refs/heads/main","n":1e400}"#);
        self.commit_body(destinations, leased, body).await
    }

    /// Commits an event with a body of so many bytes, for whoever claims it.
    async fn commit_large(&self, destination: &DestinationId, bytes: usize) -> ClaimedDelivery {
        let body = format!("{{\"text\":\"{}\"}}", "x".repeat(bytes));
        self.commit_body(std::slice::from_ref(destination), false, body.into()).await.remove(0)
    }

    /// Commits an event that waits for its release.
    async fn commit_held(&self, destination: &DestinationId) -> ClaimedDelivery {
        let mut claimed = self.new_event(std::slice::from_ref(destination), None, &Bytes::from_static(b"{}"));
        claimed[0].event.held = true;
        claimed[0].delivery.status = DeliveryStatus::Held;
        self.accept(&claimed).await;
        claimed.remove(0)
    }

    async fn commit_body(&self, destinations: &[DestinationId], leased: bool, body: Bytes) -> Vec<ClaimedDelivery> {
        let lease_until = leased.then(|| self.dispatcher.lease_until());
        let claimed = self.new_event(destinations, lease_until, &body);
        self.accept(&claimed).await;
        claimed
    }

    /// One event's deliveries to each of these.
    fn new_event(
        &self,
        destinations: &[DestinationId],
        lease_until: Option<EpochMs>,
        body: &Bytes,
    ) -> Vec<ClaimedDelivery> {
        let now = self.clock.now();
        let event = Event {
            provider_delivery_id: ProviderDeliveryId::new(self.ids.event().to_string()),
            org: Some(OrgId::from_raw(ORG)),
            outcome: EventOutcome::Routed,
            received_at: now,
            ..Event::ignored(self.ids.event(), GITHUB)
        };
        let delivery_to = |destination: &DestinationId| Delivery {
            id: self.ids.delivery(),
            event: event.id.clone(),
            integration: IntegrationId::from_raw("int_1"),
            resource: ResourceId::from_raw("res_1"),
            workspace: WorkspaceId::from_raw("ws_1"),
            org: OrgId::from_raw(ORG),
            destination: Some(destination.clone()),
            status: DeliveryStatus::Pending,
            reason: None,
            attempts: 0,
            attempts_before_retry: 0,
            due_at: lease_until.unwrap_or(now),
            lease_until,
            replay: false,
            created_at: now,
            finished_at: None,
        };
        let claimed = |destination| ClaimedDelivery {
            delivery: delivery_to(destination),
            event: event.clone(),
            content_type: Some("application/json".to_owned()),
            body: body.clone(),
        };
        destinations.iter().map(claimed).collect()
    }

    /// Commits an event with its deliveries.
    async fn accept(&self, claimed: &[ClaimedDelivery]) {
        let new_delivery = |claimed: &ClaimedDelivery| NewDelivery {
            delivery: claimed.delivery.clone(),
            lease_owner: claimed.delivery.lease_until.map(|_| self.dispatcher.node().to_owned()),
        };
        let new = NewEvent {
            event: claimed[0].event.clone(),
            headers: "{}".to_owned(),
            content_type: claimed[0].content_type.clone(),
            body: claimed[0].body.clone(),
            body_digest: None,
            decision: "{}".to_owned(),
            deliveries: claimed.iter().map(new_delivery).collect(),
            drop_possible_replay: false,
        };
        self.store.accept_event(new).await.expect("committed");
    }

    /// As the router does it: reserve, commit, send.
    async fn send_fresh(&self, destination: &DestinationId) -> ClaimedDelivery {
        let slot = self.dispatcher.reserve(destination, 100).expect("room");
        let claimed = self.commit(destination, true).await;
        self.dispatcher.send(vec![FreshDelivery { claimed: claimed.clone(), slot }]);
        claimed
    }

    async fn add_destination(&self, sink: &Sink) -> (DestinationId, SigningSecret) {
        let (id, secret, now) = (self.ids.destination(), SigningSecret::generate(), SystemClock.now());
        let sealed = |column, text: &[u8]| {
            self.vault.seal(SealedAt { table: "gw_destinations", row: id.as_str(), column }, text).expect("sealed")
        };
        let row = Destination {
            id: id.clone(),
            org: OrgId::from_raw(ORG),
            scope: DestinationScope::Workspace,
            scope_id: id.to_string(),
            url: sink.url(),
            headers_sealed: Some(sealed("headers", br#"{"X-Token":"t0ken"}"#)),
            secret_sealed: sealed("secret", secret.to_text().as_bytes()),
            previous_secret_sealed: None,
            previous_until: None,
            disabled_reason: None,
            failing_since: None,
            created_at: now,
            updated_at: now,
        };
        self.store.save_destination(&row, None, &self.entry("destination.created")).await.expect("saved");
        (id, secret)
    }

    fn entry(&self, action: &str) -> LogEntry {
        LogEntry {
            org: Some(OrgId::from_raw(ORG)),
            ..LogEntry::new(self.ids.log(), action, Actor::system(), SystemClock.now())
        }
    }

    async fn detail(&self, claimed: &ClaimedDelivery) -> EventDetail {
        self.store.find_event_detail(&claimed.event.id).await.expect("read").expect("the event")
    }

    async fn delivery(&self, claimed: &ClaimedDelivery) -> Delivery {
        self.store.find_delivery(&claimed.delivery.id).await.expect("read").expect("the delivery").0
    }

    async fn ends(&self, claimed: &ClaimedDelivery, status: DeliveryStatus) -> Delivery {
        eventually(async || Some(self.delivery(claimed).await).filter(|delivery| delivery.status == status)).await
    }

    async fn row(&self, destination: &DestinationId) -> Destination {
        self.store.find_destination(destination).await.expect("read").expect("the destination")
    }
}

/// Waits until there is something.
async fn eventually<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("what is waited for comes true")
}

async fn within_patience<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it ends")
}

#[actix::test]
async fn a_fresh_delivery_goes_out_from_memory_signed_and_is_recorded() {
    let mut sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(None)).await;
    let (destination, secret) = rig.add_destination(&sink).await;
    let claimed = rig.send_fresh(&destination).await;

    let request = sink.next().await;
    let (_, body) = request.split_once("\r\n\r\n").expect("a body");
    let id = claimed.delivery.id.as_str();
    let timestamp: i64 = header(&request, "webhook-timestamp").expect("a timestamp").parse().expect("seconds");
    let official = standardwebhooks::Webhook::new(&secret.to_text()).expect("a secret");
    let expected = official.sign(id, timestamp, body.as_bytes()).expect("signed");
    assert_eq!(header(&request, "webhook-signature"), Some(expected.as_str()));
    for (name, value) in [("webhook-id", id), ("x-correlation-id", "cor-1"), ("x-token", "t0ken")] {
        assert_eq!(header(&request, name), Some(value), "{name}");
    }
    assert!(body.ends_with(r#""payload":{"ref":"refs/heads/main","n":1e400}}"#), "{body}");

    let delivery = rig.ends(&claimed, DeliveryStatus::Delivered).await;
    assert_eq!((delivery.attempts, delivery.lease_until), (1, None));
    let attempts = rig.detail(&claimed).await.attempts;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].number, attempts[0].result.as_str(), attempts[0].status_code), (1, "delivered", Some(200)));
}

#[actix::test]
async fn what_was_not_leased_is_claimed_after_a_nudge_or_a_poll() {
    let mut sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let default = DestinationId::configured_default();
    let nudged = rig.commit(&default, false).await;
    rig.dispatcher.nudge(Some(&default));
    sink.next().await;
    rig.ends(&nudged, DeliveryStatus::Delivered).await;
    let polled = rig.commit(&default, false).await;
    rig.ends(&polled, DeliveryStatus::Delivered).await;
}

#[actix::test]
async fn a_failed_attempt_is_repeated_under_the_same_webhook_id() {
    let mut sink = Sink::playing([Play::Answer(500), Play::Answer(302), Play::Answer(200)]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let claimed = rig.send_fresh(&DestinationId::configured_default()).await;
    for _ in 0..3 {
        assert_eq!(header(&sink.next().await, "webhook-id"), Some(claimed.delivery.id.as_str()));
    }
    assert_eq!(rig.ends(&claimed, DeliveryStatus::Delivered).await.attempts, 3);
    let attempts = rig.detail(&claimed).await.attempts;
    let told: Vec<_> = attempts.iter().map(|attempt| (attempt.number, attempt.status_code)).collect();
    assert_eq!(told, [(1, Some(500)), (2, Some(302)), (3, Some(200))]);
}

#[actix::test]
async fn a_delivery_whose_schedule_is_used_up_is_a_dead_letter() {
    let sink = Sink::playing([Play::Answer(500)]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let claimed = rig.send_fresh(&DestinationId::configured_default()).await;
    let dead = rig.ends(&claimed, DeliveryStatus::Dead).await;
    assert_eq!((dead.attempts, dead.reason.as_deref()), (3, Some("http_status")));
    assert!(dead.finished_at.is_some() && dead.lease_until.is_none());
}

#[actix::test]
async fn a_destination_that_is_gone_is_disabled_and_gets_nothing_more() {
    let mut sink = Sink::playing([Play::Answer(410)]).await;
    let rig = Rig::start(config(None)).await;
    let (destination, _) = rig.add_destination(&sink).await;
    let first = rig.send_fresh(&destination).await;
    sink.next().await;
    assert_eq!(rig.ends(&first, DeliveryStatus::Dead).await.reason.as_deref(), Some("gone"));
    let row = eventually(async || Some(rig.row(&destination).await).filter(|row| row.disabled_reason.is_some())).await;
    assert_eq!(row.disabled_reason.as_deref(), Some("gone"));

    rig.dispatcher.forget_destinations(Some(&OrgId::from_raw(ORG)));
    let second = rig.commit(&destination, false).await;
    rig.dispatcher.nudge(Some(&destination));
    assert_eq!(rig.ends(&second, DeliveryStatus::Dead).await.reason.as_deref(), Some("gone"));
    assert!(sink.requests.try_recv().is_err(), "nothing more was sent");
    let log = rig.store.list_log(None, None, store::PageRequest { limit: 10, cursor: None }).await.expect("read");
    assert!(log.items.iter().any(|entry| entry.action == "destination.disabled"));
}

/// As another node does: nobody tells this one.
async fn rewrite(rig: &Rig, destination: &DestinationId, change: impl FnOnce(&mut Destination)) {
    let before = rig.row(destination).await;
    let mut after = before.clone();
    change(&mut after);
    let entry = rig.entry("destination.changed");
    assert!(rig.store.save_destination(&after, Some(&before), &entry).await.expect("saved"));
}

#[actix::test]
async fn what_a_replaced_address_says_is_gone_is_sent_to_the_new_one() {
    let mut former = Sink::playing([Play::AnswerAfter(410, Duration::from_millis(200))]).await;
    let mut new = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(None)).await;
    let (destination, _) = rig.add_destination(&former).await;
    let claimed = rig.send_fresh(&destination).await;
    former.next().await;
    rewrite(&rig, &destination, |row| row.url = new.url()).await;
    new.next().await;
    assert_eq!(rig.ends(&claimed, DeliveryStatus::Delivered).await.attempts, 2);
    assert_eq!(rig.row(&destination).await.disabled_reason, None);
}

#[actix::test]
async fn nothing_is_buried_because_its_destination_was_disabled_when_somebody_last_looked() {
    let mut sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(None)).await;
    let (destination, _) = rig.add_destination(&sink).await;
    rewrite(&rig, &destination, |row| row.disabled_reason = Some("failing".to_owned())).await;
    let buried = rig.send_fresh(&destination).await;
    rig.ends(&buried, DeliveryStatus::Dead).await;
    rewrite(&rig, &destination, |row| row.disabled_reason = None).await;
    let sent = rig.send_fresh(&destination).await;
    sink.next().await;
    rig.ends(&sent, DeliveryStatus::Delivered).await;
}

#[actix::test]
async fn the_configured_default_rests_when_it_says_gone_and_nothing_is_lost() {
    let mut sink = Sink::playing([Play::Answer(410)]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let default = DestinationId::configured_default();
    let first = rig.send_fresh(&default).await;
    sink.next().await;
    rig.ends(&first, DeliveryStatus::Dead).await;
    assert!(rig.dispatcher.reserve(&default, 100).is_none());
    let second = rig.commit(&default, false).await;
    assert_eq!(rig.delivery(&second).await.status, DeliveryStatus::Pending);
}

#[actix::test]
async fn a_failing_destination_is_left_alone_noted_and_hinders_nobody() {
    let (failing, mut healthy) = (Sink::playing([Play::Answer(500)]).await, Sink::playing([Play::Answer(200)]).await);
    let rig = Rig::start(DeliveryConfig { circuit_failures: 2, ..config(None) }).await;
    let (bad, _) = rig.add_destination(&failing).await;
    let (good, _) = rig.add_destination(&healthy).await;
    rig.send_fresh(&bad).await;
    eventually(async || rig.row(&bad).await.failing_since).await;
    assert!(rig.dispatcher.reserve(&bad, 100).is_none(), "its circuit is open");
    let claimed = rig.send_fresh(&good).await;
    healthy.next().await;
    rig.ends(&claimed, DeliveryStatus::Delivered).await;
    let snapshot = rig.dispatcher.snapshot().await;
    let open: Vec<_> = snapshot["lanes"].as_array().expect("lanes").iter().map(|lane| &lane["circuit"]).collect();
    assert!(open.contains(&&"open".into()) && open.contains(&&"closed".into()), "{snapshot}");
}

#[actix::test]
async fn destinations_that_hang_keep_nobody_else_waiting() {
    let hanging = Sink::playing([Play::Hang]).await;
    let mut answering = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(DeliveryConfig { timeout: PATIENCE, ..config(None) }).await;
    for _ in 0..4 {
        let (destination, _) = rig.add_destination(&hanging).await;
        for _ in 0..6 {
            rig.commit(&destination, false).await;
        }
        rig.dispatcher.nudge(Some(&destination));
        eventually(async || (rig.dispatcher.shared.lanes.lane(&destination).state().in_flight() > 0).then_some(()))
            .await;
    }
    let (destination, _) = rig.add_destination(&answering).await;
    let waiting = rig.commit(&destination, false).await;
    rig.dispatcher.nudge(Some(&destination));
    answering.next().await;
    rig.ends(&waiting, DeliveryStatus::Delivered).await;
}

#[actix::test]
async fn a_mended_destination_is_probed_as_soon_as_it_is_known_and_recovers() {
    let (failing, mut healthy) = (Sink::playing([Play::Answer(500)]).await, Sink::playing([Play::Answer(200)]).await);
    let schedule = vec![Duration::from_millis(20); 20];
    let rig = Rig::start(DeliveryConfig { circuit_failures: 2, retry_schedule: schedule, ..config(None) }).await;
    let (destination, _) = rig.add_destination(&failing).await;
    let claimed = rig.send_fresh(&destination).await;
    let row = eventually(async || Some(rig.row(&destination).await).filter(|row| row.failing_since.is_some())).await;
    let mended = Destination { url: healthy.url(), ..row.clone() };
    assert!(rig.store.save_destination(&mended, Some(&row), &rig.entry("destination.changed")).await.expect("saved"));
    rig.dispatcher.forget_destinations(Some(&OrgId::from_raw(ORG)));
    healthy.next().await;
    rig.ends(&claimed, DeliveryStatus::Delivered).await;
    eventually(async || rig.row(&destination).await.failing_since.is_none().then_some(())).await;
}

#[actix::test]
async fn a_destination_that_fails_for_too_long_is_disabled() {
    let sink = Sink::playing([Play::Answer(500)]).await;
    let rig = Rig::start(DeliveryConfig { circuit_failures: 2, ..config(None) }).await;
    let (destination, _) = rig.add_destination(&sink).await;
    let row = rig.row(&destination).await;
    let failing = Destination { failing_since: Some(EpochMs(1)), ..row.clone() };
    assert!(rig.store.save_destination(&failing, Some(&row), &rig.entry("destination.failing")).await.expect("saved"));
    rig.send_fresh(&destination).await;
    let row = eventually(async || Some(rig.row(&destination).await).filter(|row| row.disabled_reason.is_some())).await;
    assert_eq!(row.disabled_reason.as_deref(), Some("failing"));
}

#[actix::test]
async fn the_backlog_of_a_destination_disabled_for_failing_is_buried_without_waiting_for_probes() {
    let mut sink = Sink::playing([Play::Answer(500)]).await;
    // Its first failure opens the circuit for an hour, and is one too many.
    let rules = DeliveryConfig { circuit_failures: 1, disable_after: Duration::ZERO, ..config(None) };
    let rig = Rig::start(rules).await;
    let (destination, _) = rig.add_destination(&sink).await;
    rig.send_fresh(&destination).await;
    sink.next().await;
    eventually(async || rig.row(&destination).await.disabled_reason).await;
    let mut backlog = Vec::new();
    for _ in 0..12 {
        backlog.push(rig.commit(&destination, false).await);
    }
    rig.dispatcher.nudge(Some(&destination));
    for claimed in &backlog {
        assert_eq!(rig.ends(claimed, DeliveryStatus::Dead).await.reason.as_deref(), Some("failing"));
    }
    assert_eq!(rig.dispatcher.shared.lanes.open_circuits(), 0);
    assert!(sink.requests.try_recv().is_err(), "nothing of it was sent");
}

/// Waits until the destination's circuit is no longer counted and its lane may be forgotten.
async fn lane_says_nothing_more(rig: &Rig, destination: &DestinationId) {
    let lanes = &rig.dispatcher.shared.lanes;
    let lane = lanes.lane(destination);
    eventually(async || lane.state().is_idle(Instant::now(), Duration::ZERO).then_some(())).await;
    assert_eq!(lanes.open_circuits(), 0);
}

#[actix::test]
async fn the_circuit_of_a_deleted_destination_does_not_outlive_it() {
    let sink = Sink::playing([Play::Answer(500)]).await;
    let rig = Rig::start(DeliveryConfig { circuit_failures: 1, ..config(None) }).await;
    let (destination, _) = rig.add_destination(&sink).await;
    rig.send_fresh(&destination).await;
    eventually(async || (rig.dispatcher.circuit(&destination) == Some("open")).then_some(())).await;
    rig.store.delete_destination(&destination, &rig.entry("destination.deleted")).await.expect("deleted");
    rig.dispatcher.forget_destinations(Some(&OrgId::from_raw(ORG)));
    lane_says_nothing_more(&rig, &destination).await;
}

#[actix::test]
async fn an_attempt_that_fails_after_its_destination_was_deleted_leaves_no_open_circuit() {
    let mut sink = Sink::playing([Play::AnswerAfter(500, Duration::from_millis(200))]).await;
    let rig = Rig::start(DeliveryConfig { circuit_failures: 1, ..config(None) }).await;
    let (destination, _) = rig.add_destination(&sink).await;
    let claimed = rig.send_fresh(&destination).await;
    sink.next().await;
    rig.store.delete_destination(&destination, &rig.entry("destination.deleted")).await.expect("deleted");
    rig.dispatcher.forget_destinations(Some(&OrgId::from_raw(ORG)));
    eventually(async || (rig.delivery(&claimed).await.attempts == 1).then_some(())).await;
    lane_says_nothing_more(&rig, &destination).await;
}

#[actix::test]
async fn destinations_behind_the_last_page_of_a_poll_have_their_turn_in_the_next() {
    let rig = Rig::start(config(None)).await;
    // From here on only this test polls, and nothing is claimed.
    within_patience(rig.dispatcher.drain(PATIENCE)).await;
    let destinations: Vec<_> = (0..4_001).map(|n| DestinationId::from_raw(format!("dst_{n:05}"))).collect();
    rig.commit_to_each(&destinations, false).await;
    let [first, last] = [&destinations[0], &destinations[4_000]];
    let shared = &rig.dispatcher.shared;
    let is_wanted = |destination| shared.lanes.find(destination).is_some();
    shared.poll().await;
    assert!(is_wanted(first) && !is_wanted(last), "a poll ends");
    shared.poll().await;
    assert!(is_wanted(last));
    let newcomer = DestinationId::from_raw("dst_0");
    assert!(newcomer < *first);
    rig.commit(&newcomer, false).await;
    shared.poll().await;
    assert!(is_wanted(&newcomer), "after the last page the next poll begins anew");
}

#[actix::test]
async fn deliveries_of_a_deleted_destination_go_to_what_serves_them_now() {
    let (deleted, mut default) = (Sink::playing([Play::Answer(200)]).await, Sink::playing([Play::Answer(200)]).await);
    let rig = Rig::start(config(Some(&default))).await;
    let (destination, _) = rig.add_destination(&deleted).await;
    rig.store.delete_destination(&destination, &rig.entry("destination.deleted")).await.expect("deleted");
    let claimed = rig.send_fresh(&destination).await;
    default.next().await;
    let delivery = rig.ends(&claimed, DeliveryStatus::Delivered).await;
    assert_eq!(delivery.destination, Some(DestinationId::configured_default()));
}

#[actix::test]
async fn during_a_rotation_both_secrets_sign_and_afterwards_one() {
    let mut sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(None)).await;
    let (destination, _) = rig.add_destination(&sink).await;
    let mut row = rig.row(&destination).await;
    let at = SealedAt { table: "gw_destinations", row: destination.as_str(), column: "previous_secret" };
    row.previous_secret_sealed =
        Some(rig.vault.seal(at, SigningSecret::generate().to_text().as_bytes()).expect("sealed"));
    for (until, signatures) in [(SystemClock.now().plus(PATIENCE * 100), 2), (SystemClock.now(), 1)] {
        row.previous_until = Some(until);
        let seen = rig.row(&destination).await;
        assert!(rig.store.save_destination(&row, Some(&seen), &rig.entry("destination.rotated")).await.expect("saved"));
        rig.dispatcher.forget_destinations(None);
        rig.send_fresh(&destination).await;
        let request = sink.next().await;
        assert_eq!(header(&request, "webhook-signature").expect("signed").split(' ').count(), signatures);
    }
}

#[actix::test]
async fn a_secret_that_does_not_open_is_told_and_nothing_is_sent() {
    let mut sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(None)).await;
    let (destination, _) = rig.add_destination(&sink).await;
    let row = rig.row(&destination).await;
    let secret_sealed = row.headers_sealed.clone().expect("sealed for another column");
    let tampered = Destination { secret_sealed, ..row.clone() };
    assert!(
        rig.store.save_destination(&tampered, Some(&row), &rig.entry("destination.tampered")).await.expect("saved")
    );
    let claimed = rig.send_fresh(&destination).await;
    let dead = rig.ends(&claimed, DeliveryStatus::Dead).await;
    assert_eq!(dead.reason.as_deref(), Some("invalid_destination"));
    assert!(sink.requests.try_recv().is_err());
}

#[actix::test]
async fn room_is_bounded_per_destination_and_in_all_and_comes_back() {
    let sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(DeliveryConfig { max_in_flight: 6, ..config(Some(&sink)) }).await;
    let [one, two] = ["dst_one", "dst_two"].map(DestinationId::from_raw);
    let reserve = |destination| (0..10).map_while(|_| rig.dispatcher.reserve(destination, 100)).collect::<Vec<_>>();
    let (first, second) = (reserve(&one), reserve(&two));
    assert_eq!((first.len(), second.len()), (2, 2), "half of what is free is left for others");
    drop((first, second));
    let third = DestinationId::from_raw("dst_three");
    assert_eq!(reserve(&third).len(), 2);
}

#[actix::test]
async fn what_was_held_goes_out_in_the_order_of_its_release() {
    let mut sink = Sink::playing([Play::AnswerAfter(200, Duration::from_millis(5))]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let default = DestinationId::configured_default();
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(rig.commit_held(&default).await);
    }
    let events: Vec<_> = held.iter().map(|held| held.event.id.clone()).collect();
    rig.store.release_held(&events, rig.clock.now(), &rig.entry("events.released")).await.expect("released");
    rig.dispatcher.nudge(Some(&default));
    for held in &held {
        let request = sink.next().await;
        assert_eq!(header(&request, "webhook-id"), Some(held.delivery.id.as_str()));
    }
}

#[actix::test]
async fn a_large_body_takes_the_room_of_several() {
    const MIB: usize = 1024 * 1024;
    let hanging = Sink::playing([Play::Hang]).await;
    let mut answering = Sink::playing([Play::Answer(200)]).await;
    // 4 MiB of bodies.
    let rig = Rig::start(DeliveryConfig { max_in_flight: 32, timeout: PATIENCE, ..config(None) }).await;
    let in_flight = async || rig.dispatcher.snapshot().await["inFlight"].as_u64().expect("a number");
    let (hangs, _) = rig.add_destination(&hanging).await;
    let room: Vec<_> = (0..10).map_while(|_| rig.dispatcher.reserve(&hangs, MIB)).collect();
    assert_eq!((room.len(), in_flight().await), (4, 32));
    drop(room);
    eventually(async || (in_flight().await == 0).then_some(())).await;

    for _ in 0..6 {
        rig.commit_large(&hangs, 2 * MIB).await;
    }
    rig.dispatcher.nudge(Some(&hangs));
    eventually(async || (in_flight().await > 16).then_some(())).await;
    let (answers, _) = rig.add_destination(&answering).await;
    let small = rig.commit(&answers, false).await;
    rig.dispatcher.nudge(Some(&answers));
    answering.next().await;
    rig.ends(&small, DeliveryStatus::Delivered).await;
    assert!(in_flight().await <= 32 + 17, "no more than the last body is beyond the room");

    let larger_than_all_the_room = rig.commit_large(&answers, 8 * MIB).await;
    rig.dispatcher.nudge(Some(&answers));
    rig.ends(&larger_than_all_the_room, DeliveryStatus::Delivered).await;
}

/// Leases as many deliveries as a destination of eight has slots and four seats, and sends them.
async fn fill_seats(rig: &Rig, destination: &DestinationId) -> Vec<ClaimedDelivery> {
    let mut fresh = Vec::new();
    for _ in 0..12 {
        let slot = rig.dispatcher.reserve(destination, 100).expect("a slot or a seat");
        fresh.push(FreshDelivery { claimed: rig.commit(destination, true).await, slot });
    }
    let claimed = fresh.iter().map(|fresh| fresh.claimed.clone()).collect();
    rig.dispatcher.send(fresh);
    claimed
}

#[actix::test]
async fn who_finds_no_slot_waits_in_memory_and_goes_out_once_under_its_first_lease() {
    let mut sink = Sink::playing([Play::AnswerAfter(200, Duration::from_millis(200))]).await;
    let rig =
        Rig::start(DeliveryConfig { max_in_flight: 64, max_in_flight_per_destination: 8, ..config(Some(&sink)) }).await;
    let claimed = fill_seats(&rig, &DestinationId::configured_default()).await;
    assert_eq!(rig.dispatcher.snapshot().await["lanes"][0]["seated"], 4);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..claimed.len() {
        let request = sink.next().await;
        assert!(seen.insert(header(&request, "webhook-id").expect("an id").to_owned()), "each is sent once");
    }
    for claimed in &claimed {
        let ended = rig.ends(claimed, DeliveryStatus::Delivered).await;
        assert_eq!(ended.attempts, 1);
    }
    assert_eq!(rig.dispatcher.snapshot().await["lanes"][0]["seated"], 0);
    assert!(sink.requests.try_recv().is_err(), "and not again");
}

#[actix::test]
async fn when_the_circuit_opens_those_on_seats_go_back_to_the_store() {
    let mut sink = Sink::playing([Play::AnswerAfter(500, Duration::from_millis(200))]).await;
    let rules = DeliveryConfig {
        max_in_flight: 64,
        max_in_flight_per_destination: 8,
        circuit_failures: 1,
        ..config(Some(&sink))
    };
    let rig = Rig::start(rules).await;
    let claimed = fill_seats(&rig, &DestinationId::configured_default()).await;
    for _ in 0..8 {
        sink.next().await;
    }
    for seated in &claimed[8..] {
        eventually(async || rig.delivery(seated).await.lease_until.is_none().then_some(())).await;
        assert_eq!(rig.delivery(seated).await.attempts, 0);
    }
    assert_eq!(rig.dispatcher.snapshot().await["lanes"][0]["seated"], 0);
}

#[actix::test]
async fn a_drain_gives_up_the_leases_of_those_on_seats() {
    let mut sink = Sink::playing([Play::AnswerAfter(200, Duration::from_millis(200))]).await;
    let rig =
        Rig::start(DeliveryConfig { max_in_flight: 64, max_in_flight_per_destination: 8, ..config(Some(&sink)) }).await;
    let claimed = fill_seats(&rig, &DestinationId::configured_default()).await;
    for _ in 0..8 {
        sink.next().await;
    }
    within_patience(rig.dispatcher.drain(PATIENCE)).await;
    for (index, claimed) in claimed.iter().enumerate() {
        let delivery = rig.delivery(claimed).await;
        let sent = index < 8;
        assert_eq!((delivery.attempts, delivery.lease_until), (u32::from(sent), None));
    }
    assert!(sink.requests.try_recv().is_err(), "nobody left his seat for a slot");
}

#[actix::test]
async fn a_backlog_is_worked_off_though_there_is_little_room() {
    let mut sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let default = DestinationId::configured_default();
    let mut backlog = Vec::new();
    for _ in 0..40 {
        backlog.push(rig.commit(&default, false).await);
    }
    rig.dispatcher.nudge(Some(&default));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..backlog.len() {
        let request = sink.next().await;
        assert!(seen.insert(header(&request, "webhook-id").expect("an id").to_owned()), "each is sent once");
    }
    for claimed in &backlog {
        assert_eq!(rig.ends(claimed, DeliveryStatus::Delivered).await.attempts, 1);
    }
    assert!(sink.requests.try_recv().is_err(), "and not again");
    eventually(async || rig.dispatcher.reserve(&default, 100)).await;
}

#[actix::test]
async fn a_lease_too_short_for_a_whole_attempt_is_given_back_unused() {
    send_what_is_left_of_a_lease(Duration::from_secs(1)).await;
}

#[actix::test]
async fn a_lease_that_leaves_no_time_to_record_the_result_is_given_back_unused() {
    send_what_is_left_of_a_lease(config(None).timeout + Duration::from_secs(4)).await;
}

/// A suspended machine: only the wall clock has gone on.
#[actix::test]
async fn a_lease_that_went_on_while_the_machine_stood_still_is_given_back_unused() {
    let clock = ManualClock::starting_at(SystemClock.now());
    send_late(clock.clone(), |rig, _slot| clock.advance(rig.dispatcher.shared.lease())).await;
}

/// Sends a delivery with that much of its lease left.
async fn send_what_is_left_of_a_lease(left: Duration) {
    send_late(ManualClock::starting_at(SystemClock.now()), |rig, slot| {
        let used_up = rig.dispatcher.shared.lease().saturating_sub(left);
        slot.load(false, Instant::now().checked_sub(used_up).expect("the machine is up for long enough"));
    })
    .await;
}

/// Sends a delivery after that was done to its lease; it must be given back, and go out under its next lease.
async fn send_late(clock: ManualClock, use_up: impl FnOnce(&Rig, &mut Slot)) {
    let mut sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start_at(config(Some(&sink)), Arc::new(clock)).await;
    let default = DestinationId::configured_default();
    let mut slot = rig.dispatcher.reserve(&default, 100).expect("room");
    let claimed = rig.commit(&default, true).await;
    use_up(&rig, &mut slot);
    rig.dispatcher.send(vec![FreshDelivery { claimed: claimed.clone(), slot }]);
    eventually(async || {
        let delivery = rig.delivery(&claimed).await;
        (delivery.lease_until.is_none() && delivery.attempts == 0).then_some(())
    })
    .await;
    sink.next().await;
    assert_eq!(rig.ends(&claimed, DeliveryStatus::Delivered).await.attempts, 1);
    assert!(sink.requests.try_recv().is_err(), "it was sent once");
}

#[actix::test]
async fn a_dead_actor_is_replaced_and_its_work_goes_on() {
    let mut sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let actor = rig.dispatcher.shared.actor();
    assert!(actor.send(Poison).await.is_err());
    let claimed = rig.commit(&DestinationId::configured_default(), false).await;
    rig.dispatcher.nudge(Some(&DestinationId::configured_default()));
    sink.next().await;
    rig.ends(&claimed, DeliveryStatus::Delivered).await;
    assert_eq!(rig.dispatcher.snapshot().await["actorsStarted"], 2);
}

#[actix::test]
async fn draining_lets_attempts_end_and_takes_no_more() {
    let mut sink = Sink::playing([Play::AnswerAfter(200, Duration::from_millis(100))]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let default = DestinationId::configured_default();
    let claimed = rig.send_fresh(&default).await;
    sink.next().await;
    let slot = rig.dispatcher.reserve(&default, 100).expect("room");
    within_patience(rig.dispatcher.drain(PATIENCE)).await;
    assert_eq!(rig.delivery(&claimed).await.status, DeliveryStatus::Delivered);

    assert!(rig.dispatcher.reserve(&default, 100).is_none());
    let late = rig.commit(&default, true).await;
    rig.dispatcher.send(vec![FreshDelivery { claimed: late.clone(), slot }]);
    eventually(async || rig.delivery(&late).await.lease_until.is_none().then_some(())).await;
    let unleased = rig.commit(&default, false).await;
    rig.dispatcher.nudge(Some(&default));
    rig.dispatcher.nudge(None);
    assert_eq!(rig.delivery(&unleased).await.attempts, 0);
    assert!(sink.requests.try_recv().is_err());
}

#[actix::test]
async fn a_drain_whose_time_is_over_cuts_attempts_and_gives_their_leases_up() {
    let mut sink = Sink::playing([Play::Hang]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let claimed = rig.send_fresh(&DestinationId::configured_default()).await;
    sink.next().await;
    assert!(rig.delivery(&claimed).await.lease_until.is_some());
    within_patience(rig.dispatcher.drain(Duration::from_millis(200))).await;
    let delivery = rig.delivery(&claimed).await;
    assert_eq!((delivery.status, delivery.attempts, delivery.lease_until), (DeliveryStatus::Pending, 0, None));
    assert!(delivery.due_at <= SystemClock.now(), "the next to come may take it at once");
}

#[actix::test]
async fn a_test_envelope_is_signed_and_leaves_no_trace() {
    let mut sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(None)).await;
    let (destination, secret) = rig.add_destination(&sink).await;
    let answer = rig.dispatcher.send_test(&destination, "cor-1").await.expect("there is such a destination");
    assert_eq!(answer.result, AttemptResult::Answered { status: 200, retry_after_s: None });
    let request = sink.next().await;
    let (_, body) = request.split_once("\r\n\r\n").expect("a body");
    let timestamp: i64 = header(&request, "webhook-timestamp").expect("a timestamp").parse().expect("seconds");
    let official = standardwebhooks::Webhook::new(&secret.to_text()).expect("a secret");
    let expected = official.sign(answer.webhook_id.as_str(), timestamp, body.as_bytes()).expect("signed");
    assert_eq!(header(&request, "webhook-signature"), Some(expected.as_str()));
    assert_eq!(header(&request, "x-correlation-id"), Some("cor-1"), "who asked for it finds it there");
    assert!(rig.dispatcher.send_test(&DestinationId::from_raw("dst_none"), "cor-1").await.is_none());
    sink.play(Play::Answer(500));
    let answer = rig.dispatcher.send_test(&destination, "cor-1").await.expect("there is such a destination");
    assert_eq!(answer.result.status(), Some(500));
    assert!(rig.dispatcher.reserve(&destination, 100).is_some());
}

#[actix::test]
async fn nothing_of_a_secret_is_in_the_snapshot() {
    let sink = Sink::playing([Play::Answer(200)]).await;
    let rig = Rig::start(config(Some(&sink))).await;
    let claimed = rig.send_fresh(&DestinationId::configured_default()).await;
    rig.ends(&claimed, DeliveryStatus::Delivered).await;
    let snapshot = rig.dispatcher.snapshot().await.to_string();
    assert!(snapshot.contains("dst_default") && !snapshot.contains("whsec_") && !snapshot.contains("http"));
}

#[actix::test]
async fn a_clock_that_jumps_a_day_makes_no_second_attempt_and_loses_nothing() {
    const DAY: Duration = Duration::from_hours(24);
    let mut sink = Sink::playing([Play::Hang, Play::Answer(200)]).await;
    let clock = ManualClock::starting_at(SystemClock.now());
    let rig = Rig::start_at(config(Some(&sink)), Arc::new(clock.clone())).await;
    let default = DestinationId::configured_default();
    let hanging = rig.send_fresh(&default).await;
    sink.next().await;
    let lease_until = rig.delivery(&hanging).await.lease_until.expect("leased");

    clock.advance(DAY);
    rig.dispatcher.nudge(None);
    // Its lease looks expired, so it is claimed again; but it is in our hands.
    eventually(async || rig.delivery(&hanging).await.lease_until.filter(|until| *until > lease_until)).await;
    eventually(async || (rig.dispatcher.snapshot().await["tasks"] == 1).then_some(())).await;
    assert!(sink.requests.try_recv().is_err(), "it was not sent again");

    clock.set(clock.now().minus(DAY * 2));
    let after = rig.send_fresh(&default).await;
    sink.next().await;
    rig.ends(&after, DeliveryStatus::Delivered).await;
}
