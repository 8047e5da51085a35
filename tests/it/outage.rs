//! A database that does not answer: intake refuses within its deadline and asks to be tried again, nothing acknowledged
//! is lost, and service resumes by itself.

use std::time::Duration;

use serde_json::json;
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{
        self, SignedRequest,
        client::{Answer, Client},
        sink::Sink,
    },
};
use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};

use crate::support::{App, Backend, Connected, Options, on_both};

const PATIENCE: Duration = Duration::from_mins(1);
/// Providers that hang up first would not see the refusal: the answer must come before the first of them does, with
/// room for a slow machine. Sentry is gone after one second; the gateway's own deadline is shorter.
const ACK_DEADLINE_MS: &str = "500";
const PROVIDER_PATIENCE: Duration = Duration::from_secs(10);

/// Somebody else in the database who holds what every commit needs.
pub(crate) enum Obstacle {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Obstacle {
    pub(crate) async fn put_up(app: &App, backend: &'static str) -> Self {
        let url = app.database_url();
        if backend == "SQLite" {
            let mut connection = SqliteConnection::connect(&url).await.expect("the file is there");
            connection.execute("BEGIN IMMEDIATE").await.expect("the write lock, between two commits");
            Self::Sqlite(connection)
        } else {
            let mut connection = PgConnection::connect(&url).await.expect("the server answers");
            connection.execute("BEGIN; LOCK TABLE gw_events IN ACCESS EXCLUSIVE MODE").await.expect("locked");
            Self::Postgres(connection)
        }
    }

    pub(crate) async fn take_away(self) {
        match self {
            Self::Sqlite(mut connection) => {
                connection.execute("ROLLBACK").await.expect("unlocked");
                connection.close().await.expect("closed");
            }
            Self::Postgres(mut connection) => {
                connection.execute("ROLLBACK").await.expect("unlocked");
                connection.close().await.expect("closed");
            }
        }
    }
}

/// GitHub is connected, and its pushes go to the sink.
pub(crate) async fn subscribed(app: &App, sink: &Sink) -> Connected {
    app.set_destination("org", None, &sink.url("/in")).await;
    let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
    app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
    github
}

pub(crate) fn push(of: &Connected, seed: u64) -> SignedRequest {
    let facts = of.facts(seed, SystemClock.now());
    of.provider.event("github:push", &facts, of.provider.secret.as_bytes()).expect("known")
}

async fn post(app: &App, request: &SignedRequest) -> Answer {
    let mut client = Client::new(app.address()).with_limit(PROVIDER_PATIENCE);
    client.post_webhook("github", request).await.expect("an answer while the provider waits")
}

/// Posts until it is acknowledged, as a provider would; every answer before is a proper refusal.
async fn until_acknowledged(app: &App, request: &SignedRequest) -> serde_json::Value {
    let posting = async {
        loop {
            let answer = post(app, request).await;
            if answer.status == 200 {
                return answer.json();
            }
            expect_come_again(&answer);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, posting).await.expect("service resumes by itself")
}

fn expect_come_again(answer: &Answer) {
    let problem = answer.json();
    assert_eq!(answer.status, 503, "{problem}");
    assert!(answer.headers.get("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok()), "{:?}", answer.headers);
    assert_eq!(problem["status"], 503, "{problem}");
    assert!(!problem.to_string().contains("lock"), "the cause is ours to know: {problem}");
}

/// Everything acknowledged is delivered, under one `webhook-id` each.
async fn expect_all_delivered(sink: &Sink, webhooks: usize) {
    let ids = || {
        let mut ids: Vec<_> = sink.received().into_iter().map(|received| received.webhook_id).collect();
        ids.sort();
        ids.dedup();
        ids.len()
    };
    let delivered = async {
        while ids() < webhooks {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, delivered).await;
    assert!(in_time.is_ok(), "{} of {webhooks} were delivered", ids());
    assert_eq!(ids(), webhooks, "nothing was fanned out twice");
}

async fn expect_healthy(app: &App) {
    let healthy = async {
        loop {
            let health = app.health(true).await;
            if health["status"] == "ok" && health["database"] == "connected" && health["ledger"]["inProgress"] == 0 {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let health = tokio::time::timeout(PATIENCE, healthy).await.expect("it is healthy again");
    assert_eq!(health["adds_up"], json!(true), "{health:#}");
}

on_both! {
    async fn no_acknowledgement_before_the_commit(backend) {
        let name = backend.name();
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        let github = subscribed(&app, &sink).await;
        let obstacle = Obstacle::put_up(&app, name).await;
        let request = push(&github, 1);
        let mut posting = Box::pin(post(&app, &request));
        let early = tokio::time::timeout(Duration::from_secs(1), &mut posting).await;
        assert!(early.is_err(), "answered while nothing can be committed: {}", early.map_or(0, |answer| answer.status));
        assert_eq!(sink.total(), 0, "nor is anything sent that the database does not know of");
        obstacle.take_away().await;
        let answer = posting.as_mut().await;
        drop(posting);
        assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("accepted")));
        let path = format!("/events/{}", answer.json()["eventId"].as_str().expect("an id"));
        app.operator("org").ask("GET", &path, None).await.expect("it is in the database");
        expect_all_delivered(&sink, 1).await;
        app.finish().await;
    }

    async fn a_locked_database_is_a_503_in_time_and_everything_goes_on_when_the_lock_is_gone(backend) {
        let name = backend.name();
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()
            .with("SIGNALBOX_INGEST__ACK_DEADLINE_MS", ACK_DEADLINE_MS)
            .with("SIGNALBOX_DELIVERY__TIMEOUT_MS", "2000")).await;
        let github = subscribed(&app, &sink).await;
        for seed in 0..10 {
            assert_eq!(post(&app, &push(&github, seed)).await.status, 200);
        }
        let obstacle = Obstacle::put_up(&app, name).await;
        // More than a batch, and longer than any one lock is waited for.
        for round in 0..3 {
            let posts = (0..20).map(|seed| {
                let request = push(&github, 100 + seed);
                let app = &app;
                async move { post(app, &request).await }
            });
            for answer in futures_util::future::join_all(posts).await {
                expect_come_again(&answer);
            }
            let alive = app.send("GET", "/healthz", &[], "").await;
            assert_eq!(alive.status, 200, "round {round}: the process is well");
        }
        obstacle.take_away().await;
        for seed in 0..20 {
            let body = until_acknowledged(&app, &push(&github, 100 + seed)).await;
            assert!(body["status"] == "accepted" || body["status"] == "duplicate", "{body}");
        }
        for seed in 0..10 {
            assert_eq!(until_acknowledged(&app, &push(&github, seed)).await["status"], "duplicate");
        }
        expect_all_delivered(&sink, 30).await;
        expect_healthy(&app).await;
        app.finish().await;
    }
}

// On SQLite nothing keeps a reader waiting for so long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_event_that_is_found_to_be_a_duplicate_after_its_refusal_is_counted_once() {
    let Some(backend) = Backend::postgres().await else { return };
    let name = backend.name();
    let app = App::start(backend, Options::default().with("SIGNALBOX_INGEST__ACK_DEADLINE_MS", ACK_DEADLINE_MS)).await;
    let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
    let facts = github.facts(1, SystemClock.now());
    let secret = github.provider.secret.as_bytes();
    let suspension = github.provider.event("github:installation.suspend", &facts, secret).expect("known");
    assert_eq!(post(&app, &suspension).await.json()["status"], "accepted");
    let obstacle = Obstacle::put_up(&app, name).await;
    expect_come_again(&post(&app, &suspension).await);
    // Now the database answers what nobody waits for any more.
    obstacle.take_away().await;
    assert_eq!(until_acknowledged(&app, &suspension).await["status"], "duplicate");
    expect_healthy(&app).await;
    let ledger = &app.health(false).await["ledger"];
    let counted = ["received", "stored", "refused", "duplicates"].map(|count| ledger[count].as_u64());
    assert_eq!(counted, [Some(3), Some(1), Some(1), Some(1)], "{ledger:#}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_postgresql_cuts_are_made_anew_and_nothing_acknowledged_is_lost() {
    let Some(backend) = Backend::postgres().await else { return };
    let sink = Sink::start().await.expect("a port");
    let app = App::start(backend, Options::default().with("SIGNALBOX_DELIVERY__TIMEOUT_MS", "2000")).await;
    let github = subscribed(&app, &sink).await;
    let mut administrator = PgConnection::connect(&app.database_url()).await.expect("the server answers");
    for seed in 0..30 {
        // Between two webhooks and, with the dispatcher at work, in the middle of things.
        if seed % 5 == 0 {
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
            administrator.execute(cut).await.expect("an administrator may");
        }
        until_acknowledged(&app, &push(&github, seed)).await;
    }
    administrator.close().await.expect("closed");
    expect_all_delivered(&sink, 30).await;
    expect_healthy(&app).await;
    app.finish().await;
}
