//! The framework, and what every site's tests stand on.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Fault, FaultRule, Options, Simulator, Simulators, site::Site};
use crate::{
    model::clock::{Clock, EpochMs, ManualClock, SystemClock},
    sim::{
        browser::{Browser, Page},
        client::{Answer, Client, ClientError},
        sink::{Behaviour, Sink},
    },
};

/// A world whose gateway is a sink that takes everything.
pub(crate) struct Stage {
    pub world: Simulators,
    pub sink: Sink,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let world = Simulators::start(&Options::default()).await.expect("ports");
        let sink = Sink::start().await.expect("a port");
        world.gateway_is_at(&sink.url(""));
        Self { world, sink }
    }

    /// The callback of a provider at the pretended gateway.
    pub(crate) fn callback(&self, slug: &str) -> String {
        self.sink.url(&format!("/connections/{slug}/callback"))
    }

    /// Where a browser lands that visits a page of a provider; the sink answers it.
    pub(crate) async fn visit(&self, url: &str) -> Page {
        Browser::new().visit(url).await.expect("a page")
    }
}

/// A call to a base URL and a path below it.
pub(crate) async fn ask(
    method: &str,
    base: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, ClientError> {
    let (host, prefix) =
        base.trim_start_matches("http://").split_once('/').unwrap_or((base.trim_start_matches("http://"), ""));
    let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
    let mut client = Client::new(host.parse().expect("an address")).with_limit(Duration::from_secs(20));
    client.send(method, &format!("{prefix}{path}"), headers, Bytes::from(body.to_owned())).await
}

/// The same, which must be answered.
pub(crate) async fn call(method: &str, base: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    ask(method, base, path, headers, body).await.expect("an answer")
}

/// An authorization header with a token.
pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The current time, as the simulators have it.
pub(crate) fn now() -> crate::model::clock::EpochMs {
    SystemClock.now()
}

async fn admin<S: Site>(simulator: &Simulator<S>, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    call(method, &simulator.web_url(), &format!("/_sim/{path}"), &[("content-type", "application/json")], &body).await
}

#[tokio::test]
async fn the_journal_holds_what_came_and_how_it_was_answered() {
    let stage = Stage::set().await;
    let github = &stage.world.github;
    let answer = call("GET", &github.api_url(), "/meta?x=1", &[("user-agent", "test")], "").await;
    assert_eq!(answer.status, 200);
    let journal = github.journal();
    assert_eq!(journal.len(), 1);
    assert!(journal[0].is("GET /meta") && journal[0].answered == Some(200));
    assert_eq!(journal[0].call.query, [("x".to_owned(), "1".to_owned())]);
    let shown = admin(github, "GET", "journal", &Value::Null).await.json();
    assert_eq!(shown["calls"][0]["path"], "/meta");
    assert_eq!(shown["calls"][0]["surface"], "api");
    assert_eq!(github.journal().len(), 1, "looking at it is no call");
    github.reset();
    assert!(github.journal().is_empty());
}

#[tokio::test]
async fn each_fault_befalls_the_calls_it_names_and_no_others() {
    let stage = Stage::set().await;
    let github = &stage.world.github;
    let base = github.api_url();
    let meta = || ask("GET", &base, "/meta", &[("user-agent", "test")], "");
    github.fail(FaultRule::once("GET /meta", Fault::too_many_requests(7)));
    let limited = meta().await.expect("an answer");
    assert_eq!((limited.status, limited.headers.get("retry-after")), (429, Some("7")));
    assert_eq!(meta().await.expect("an answer").status, 200);

    for fault in [Fault::Cut, Fault::LoseAnswer] {
        github.fail(FaultRule::once("GET /meta", fault));
        assert!(meta().await.is_err());
    }
    github.fail(FaultRule::once("GET /meta", Fault::Malformed));
    let half = meta().await.expect("an answer");
    assert!(half.status == 200 && half.json().is_null() && !half.body.is_empty());
    github.fail(FaultRule::once("GET /meta", Fault::Without { members: vec!["hooks".to_owned()] }));
    assert!(meta().await.expect("an answer").json().get("hooks").is_none());
    let more = serde_json::Map::from_iter([("surprise".to_owned(), json!(1))]);
    github.fail(FaultRule::once("GET /meta", Fault::With { members: more }));
    assert_eq!(meta().await.expect("an answer").json()["surprise"], 1);
    github.fail(FaultRule::once("GET /meta", Fault::Drip { ms: 1 }));
    assert_eq!(meta().await.expect("an answer").json()["hooks"], json!(["127.0.0.0/8"]));
    github.fail(FaultRule::always("POST /elsewhere", Fault::status(500)));
    assert_eq!(meta().await.expect("an answer").status, 200);
    assert_eq!(github.calls("GET /meta").iter().filter(|entry| entry.fault.is_some()).count(), 7);
}

#[tokio::test]
async fn a_hung_call_is_in_the_journal_unanswered() {
    let stage = Stage::set().await;
    let github = stage.world.github.clone();
    github.fail(FaultRule::once("GET /meta", Fault::Hang));
    let base = github.api_url();
    let hung = tokio::spawn(async move { ask("GET", &base, "/meta", &[("user-agent", "test")], "").await });
    github.wait_until("the call", Duration::from_secs(10), |calls, _| !calls.is_empty()).await.expect("it came");
    assert_eq!(github.journal()[0].answered, None);
    assert_eq!(github.journal()[0].fault, Some("hang"));
    hung.abort();
}

#[tokio::test]
async fn another_process_sets_knobs_and_faults_and_acts() {
    let stage = Stage::set().await;
    let github = &stage.world.github;
    let knobs = json!({"any": {"skewMs": 90_000, "visit": {"account": 3}}, "own": {"tokenLifetimeS": 5}});
    let answer = admin(github, "PATCH", "knobs", &knobs).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(github.with(|github| github.knobs.token_lifetime_s), 5);
    assert_eq!(answer.json()["own"]["repositories"], 3, "the others keep their value");
    github.set(|ambient| assert_eq!((ambient.skew_ms, ambient.visit.account), (90_000, 3)));
    let wrong = admin(github, "PATCH", "knobs", &json!({"own": {"tokenLifetimeS": "soon"}})).await;
    assert_eq!(wrong.status, 400);

    let rule = json!({"calls": "GET /meta", "times": 1, "fault": "status", "status": 503});
    assert_eq!(admin(github, "POST", "faults", &rule).await.status, 200);
    assert_eq!(call("GET", &github.api_url(), "/meta", &[("user-agent", "test")], "").await.status, 503);

    let unknown = admin(github, "POST", "act", &json!({"act": "uninstall", "account": 3})).await;
    assert_eq!(unknown.status, 400, "nothing is installed there");
    let sent = admin(github, "POST", "send", &json!({"kind": "github:push", "account": 3, "seed": 4})).await.json();
    assert_eq!(sent["status"], 200);
    assert_eq!(stage.sink.received()[0].path, "/webhooks/github");
}

#[tokio::test]
async fn another_process_makes_a_provider_send_again_that_had_given_up() {
    let stage = Stage::set().await;
    let linear = &stage.world.linear;
    let send =
        async |seed| admin(linear, "POST", "send", &json!({"kind": "linear:issue.created", "seed": seed})).await.status;
    admin(linear, "PATCH", "knobs", &json!({"any": {"disableAfter": 2}})).await;
    stage.sink.behave("/webhooks/linear", Behaviour::status_only(500));
    assert_eq!([send(1).await, send(2).await, send(3).await], [200, 200, 400], "it gives up after two");
    admin(linear, "PATCH", "knobs", &json!({"own": {"teams": 4}})).await;
    assert_eq!(send(4).await, 400, "what else is set is no reason to begin again");
    admin(linear, "PATCH", "knobs", &json!({"any": {"disableAfter": 2}})).await;
    assert_eq!([send(5).await, send(6).await, send(7).await], [200, 200, 400], "it counts from the beginning");
    assert_eq!(stage.sink.total(), 4);
}

#[tokio::test]
async fn what_is_sent_on_demand_is_stamped_by_the_providers_own_clock() {
    const SKEW_MS: i64 = 90_000;
    let clock = ManualClock::starting_at(EpochMs(1_771_980_000_000));
    let options = Options { clock: Arc::new(clock.clone()), ..Options::default() };
    let world = Simulators::start(&options).await.expect("ports");
    let sink = Sink::start().await.expect("a port");
    world.gateway_is_at(&sink.url(""));
    world.linear.set(|ambient| ambient.skew_ms = SKEW_MS);
    world.sentry.set(|ambient| ambient.skew_ms = SKEW_MS);
    let skewed_ms = clock.now().0 + SKEW_MS;

    let issue = "linear:issue.created";
    let sent = admin(&world.linear, "POST", "send", &json!({"kind": issue, "seed": 4})).await.json();
    assert_eq!(sent["at"], EpochMs(skewed_ms).to_rfc3339());
    world.linear.send(issue, &world.linear.facts(1, 5)).await.expect("sent");
    for received in sink.received() {
        let body: Value = serde_json::from_slice(&received.body).expect("JSON");
        assert_eq!(body["webhookTimestamp"], json!(skewed_ms));
        assert_eq!(received.headers.get("linear-timestamp"), Some(skewed_ms.to_string().as_str()));
    }
    admin(&world.sentry, "POST", "send", &json!({"kind": "sentry:error", "seed": 4})).await;
    let received = sink.received().pop().expect("received");
    assert_eq!(received.headers.get("sentry-hook-timestamp"), Some((skewed_ms / 1000).to_string().as_str()));
    assert_eq!(sink.total(), 3);
}

#[tokio::test]
async fn a_refusal_is_final_to_sentry_and_an_outage_is_tried_again_as_a_new_request() {
    let stage = Stage::set().await;
    let sentry = &stage.world.sentry;
    sentry.set(|ambient| ambient.retries_ms = vec![5, 5, 5]);
    stage.sink.behave("/webhooks/sentry", Behaviour::status_only(400));
    sentry.send("sentry:error", &sentry.facts(1, 1)).await.expect("sent");
    assert_eq!(sentry.shared.lock().failed, 1, "it failed for good at once");

    let turns = [503, 410, 200].into_iter().map(Behaviour::status_only).collect();
    stage.sink.behave("/webhooks/sentry", Behaviour::InTurn(turns));
    sentry.send("sentry:error", &sentry.facts(1, 2)).await.expect("sent");
    // Counted when no more tries are to come.
    while sentry.shared.lock().failed < 2 {
        tokio::task::yield_now().await;
    }
    let statuses: Vec<_> = sentry.sent().iter().map(|sent| sent.status).collect();
    assert_eq!(statuses, [Some(400), Some(503), Some(410)]);
    let received = stage.sink.received();
    let id = |at: usize| received[at].headers.get("request-id").map(str::to_owned);
    assert!(id(1) != id(2) && received[1].body == received[2].body);
}

#[tokio::test]
async fn the_same_seed_invents_the_same_world() {
    let mut codes = Vec::new();
    for seed in [5, 5, 6] {
        let world = Simulators::start(&Options { seed, ..Options::default() }).await.expect("ports");
        let sink = Sink::start().await.expect("a port");
        world.gateway_is_at(&sink.url(""));
        let url = format!("{}/login/oauth/authorize?client_id=Iv23liSimulated00001", world.github.web_url());
        codes.push(Browser::new().visit(&url).await.expect("a page").parameter("code").expect("a code"));
    }
    assert_eq!(codes[0], codes[1]);
    assert_ne!(codes[0], codes[2]);
}

#[tokio::test]
async fn a_person_can_click_and_nothing_of_the_url_becomes_markup() {
    let stage = Stage::set().await;
    let github = &stage.world.github;
    let url = format!(
        "{}/apps/signalbox-sim/installations/new?interactive=1&state=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        github.web_url()
    );
    let mut browser = Browser::new();
    let page = browser.visit(&url).await.expect("a page");
    assert_eq!(page.status, 200);
    assert!(page.content_type.starts_with("text/html") && !page.body.contains("<script"), "{}", page.body);
    let approve = page.link("Approve for harborworks-1").expect("a link");
    let landed = browser.follow(&page, approve.as_str()).await.expect("a page");
    assert_eq!(landed.url.path(), "/connections/github/callback");
    assert_eq!(landed.parameter("state").as_deref(), Some("\"><script>alert(1)</script>"));
    assert!(landed.parameter("installation_id").is_some());
}
