//! How long lists take when very much is stored: every filter that people have, over HTTP, one request at a time.
//!
//! **Owns** the questions. **Invariants.** What is asked is what the console asks; an answer that is no 200 ends the run.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde_json::Value;
use signalbox::{
    model::clock::{Clock, EpochMs, SystemClock},
    sim::{self, client::Client, operator::Operator},
};

use crate::{
    database::Database,
    gateway::{GatewayCommand, SERVICE_KEY, Server},
    history::{self, BIG, FEW, SMALL},
    ledger::empty_histogram,
    pool,
    scenario::Ending,
    stage::Options,
};

/// What every list shall stay under.
const GOAL: Duration = Duration::from_millis(50);

/// A question, and whose key asks.
struct Question {
    name: &'static str,
    org: Option<&'static str>,
    path: String,
}

/// Seeds a database, asks every question so many times, and prints how long the answers took. Whether all of them met
/// the goal.
pub async fn run(options: &Options, events: u64, times: u32) -> anyhow::Result<bool> {
    ensure!(times > 0, "at least once");
    let directory = tempfile::Builder::new().prefix("loadtest-").tempdir_in(&options.directory)?;
    let mut database = Database::create(directory.path(), options.postgres.as_deref()).await?;
    let command = command(options, directory.path(), &database)?;
    let (server, _) = command.start().await?;
    post_templates(&server).await?;
    server.stop(Ending::Term).await?;
    history::seed(&mut database, events).await?;
    let (server, started) = command.start().await?;
    println!("{events} events, {}: started in {} ms\n", database.kind_name(), started.as_millis());
    println!(
        "{:<58}{:>6}{:>7}{:>9}{:>9}{:>9}  what is answered",
        "question", "items", "more", "p50 ms", "p99 ms", "max ms"
    );
    let mut is_met = true;
    let cookie = sign_in(&server).await?;
    for question in questions(&server).await? {
        is_met &= ask(&server, &cookie, &question, times).await?;
    }
    server.stop(Ending::Term).await?;
    let sizes = database.sizes().await?;
    let per_event = |bytes: f64| bytes / sizes.count.max(1.0);
    println!("\nindexes of events: {:.0} bytes for each event", per_event(sizes.event_indexes));
    database.remove().await?;
    println!("{}", if is_met { "all under 50 ms at p99" } else { "NOT all under 50 ms at p99" });
    Ok(is_met)
}

fn command(options: &Options, directory: &Path, database: &Database) -> anyhow::Result<GatewayCommand> {
    Ok(GatewayCommand {
        binary: GatewayCommand::find(options.binary.as_deref())?,
        directory: directory.canonicalize()?,
        database: database.url.clone(),
        settings: options.settings.clone(),
    })
}

/// One event of each provider for each org, written by the gateway itself: what the history is copied from.
async fn post_templates(server: &Server) -> anyhow::Result<()> {
    for (place, org) in [BIG, SMALL, FEW].into_iter().enumerate() {
        let mut operator = Operator::new(server.address, SERVICE_KEY, org);
        for provider in sim::PROVIDERS {
            let account = u32::try_from(place)? + 1;
            let facts = provider.facts(account, 0, SystemClock.now());
            let connection = operator.adopt(provider, &facts).await?;
            operator.subscribe("ws", &connection, &facts, Some(pool::kinds(provider))).await?;
            let facts = provider.facts(account, 1 + place as u64, SystemClock.now());
            let event = provider.event(pool::kinds(provider)[0], &facts, provider.secret.as_bytes());
            let event = event.context("an unknown kind")?;
            let answer = Client::new(server.address).post_webhook(provider.slug, &event).await?;
            ensure!(answer.status == 200, "a template was answered {}: {}", answer.status, answer.json());
        }
    }
    Ok(())
}

/// A session of the console.
async fn sign_in(server: &Server) -> anyhow::Result<String> {
    let body = Bytes::from(serde_json::json!({"key": SERVICE_KEY}).to_string());
    let headers = [("content-type", "application/json")];
    let answer = Client::new(server.address).send("POST", "/console/session", &headers, body).await?;
    let cookie = answer.headers.get("set-cookie").with_context(|| format!("no session: {}", answer.status))?;
    Ok(cookie.split(';').next().unwrap_or_default().to_owned())
}

async fn questions(server: &Server) -> anyhow::Result<Vec<Question>> {
    let mut operator = Operator::new(server.address, SERVICE_KEY, BIG);
    let newest = operator.ask("GET", "/events?limit=1&provider=github", None).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (event, delivery_id, connection) = (
        text(&newest["items"][0]["id"]),
        text(&newest["items"][0]["deliveryId"]),
        text(&newest["items"][0]["connectionId"]),
    );
    let rare = operator.ask("GET", "/connections?provider=sentry", None).await?;
    let rare = text(&rare["items"][0]["id"]);
    let dead = text(&operator.ask("GET", "/deliveries?status=dead&limit=1", None).await?["items"][0]["id"]);
    let now = SystemClock.now();
    let (oldest, span) = history::span(now);
    let at = |part: i64| EpochMs(oldest.0 + span / 10 * part).to_rfc3339();
    let middle = format!("evt_{:012x}", oldest.0 + span / 2);
    let middle_delivery = format!("dlv_{:012x}", oldest.0 + span / 2);
    let big = |name, path: String| Question { name, org: Some(BIG), path };
    let few = |name, path: &str| Question { name, org: Some(FEW), path: path.to_owned() };
    let all = |name, path: &str| Question { name, org: None, path: path.to_owned() };
    let mut questions = vec![
        big("events: the newest", "/events".into()),
        big("events: a page from the middle", format!("/events?cursor={middle}")),
        big("events: a common provider", "/events?provider=github".into()),
        big("events: a rare provider", "/events?provider=sentry".into()),
        big("events: a provider nobody has", "/events?provider=nobody".into()),
        big("events: a connection", format!("/events?connection={connection}")),
        big("events: a rare connection, from the middle", format!("/events?connection={rare}&cursor={middle}")),
        big("events: routed", "/events?outcome=routed".into()),
        big("events: filtered", "/events?outcome=filtered".into()),
        big("events: ignored", "/events?outcome=ignored".into()),
        big("events: control, of which there are none", "/events?outcome=control".into()),
        big("events: a common key", "/events?eventKey=github:key-7".into()),
        big("events: a rare key", "/events?eventKey=github:rare".into()),
        big("events: a key nobody has", "/events?eventKey=github:nothing".into()),
        big("events: a key nobody has, from the middle", format!("/events?eventKey=github:nothing&cursor={middle}")),
        big("events: held", "/events?held=true".into()),
        big("events: not held", "/events?held=false".into()),
        big("events: a delivery id", format!("/events?deliveryId={delivery_id}")),
        big("events: a delivery id nobody has", "/events?deliveryId=nobody".into()),
        big("events: since, the last tenth", format!("/events?since={}", at(9))),
        big("events: until, the first tenth", format!("/events?until={}", at(1))),
        big("events: between", format!("/events?since={}&until={}", at(4), at(5))),
        big("events: before everything", format!("/events?until={}", at(-1))),
        big(
            "events: provider, outcome and key",
            "/events?provider=github&outcome=filtered&eventKey=github:key-10".into(),
        ),
        big("events: connection and rare key", format!("/events?connection={connection}&eventKey=github:rare")),
        big("events: rare connection and a key nobody has", format!("/events?connection={rare}&eventKey=nothing")),
        big("events: rare key between", format!("/events?eventKey=github:rare&since={}&until={}", at(4), at(5))),
        few("events of an org with few: all", "/events"),
        few("events of an org with few: a key nobody has", "/events?eventKey=github:nothing"),
        few("events of an org with few: filtered, held", "/events?outcome=filtered&held=true"),
        all("events of all orgs: the newest", "/events"),
        all("events of all orgs: a provider", "/events?provider=linear"),
        all("events of all orgs: unrouted", "/events?outcome=unrouted"),
        all("events of all orgs: a key nobody has", "/events?eventKey=github:nothing"),
        big("one event", format!("/events/{event}")),
        big("one event explained", format!("/events/{event}/explain")),
        big("deliveries: the newest", "/deliveries".into()),
        big("deliveries: a page from the middle", format!("/deliveries?cursor={middle_delivery}")),
        big("deliveries: pending, of which there are none", "/deliveries?status=pending".into()),
        big("dead letters: the newest", "/deliveries?status=dead".into()),
        big("dead letters: a page from the middle", format!("/deliveries?status=dead&cursor={middle_delivery}")),
        big("dead letters: a provider", "/deliveries?status=dead&provider=linear".into()),
        big("dead letters: a provider nobody has", "/deliveries?status=dead&provider=nobody".into()),
        big("dead letters: a connection", format!("/deliveries?status=dead&connection={rare}")),
        big("dead letters: between", format!("/deliveries?status=dead&since={}&until={}", at(4), at(5))),
        big("dead letters: counted", "/deliveries/count?status=dead".into()),
        big("dead letters: of a connection, counted", format!("/deliveries/count?status=dead&connection={rare}")),
        few("dead letters of an org with few", "/deliveries?status=dead"),
        few("deliveries of an org with few", "/deliveries"),
        all("dead letters of all orgs", "/deliveries?status=dead"),
        all("dead letters of all orgs, the old list", "/admin/dlq"),
        big("one delivery", format!("/deliveries/{dead}")),
        big("activity of an hour", "/activity".into()),
        all("activity of everybody's day", "/activity?window=day"),
        all("orgs", "/orgs?limit=100"),
        big("workspaces", "/workspaces".into()),
        big("destinations", "/destinations".into()),
        big("connections", "/connections".into()),
        big("page: overview", "/console".into()),
    ];
    for (name, path) in [
        ("page: events", "/console/events".to_owned()),
        ("page: events, a rare key", "/console/events?eventKey=github:rare".to_owned()),
        ("page: events, a key nobody has", "/console/events?eventKey=github:nothing".to_owned()),
        ("page: events, between", format!("/console/events?since={}&until={}", at(4), at(5))),
        ("page: one event", format!("/console/events/{event}")),
        ("page: dead letters", "/console/dead-letters".to_owned()),
        ("page: dead letters of a provider", "/console/dead-letters?provider=linear".to_owned()),
    ] {
        questions.push(big(name, path));
    }
    Ok(questions)
}

async fn ask(server: &Server, cookie: &str, question: &Question, times: u32) -> anyhow::Result<bool> {
    let mut client = Client::new(server.address);
    let mut headers = if question.path.starts_with("/console") {
        vec![("cookie", cookie), ("accept", "text/html")]
    } else {
        vec![("x-api-key", SERVICE_KEY)]
    };
    headers.extend(question.org.map(|org| ("x-org-id", org)));
    let mut latencies = empty_histogram()?;
    let mut shown = Value::Null;
    for round in 0..=times {
        let began = Instant::now();
        let answer = client.send("GET", &question.path, &headers, Bytes::new()).await?;
        let took = began.elapsed();
        ensure!(answer.status == 200, "{} was answered {}: {}", question.path, answer.status, answer.json());
        // The first may find nothing in memory.
        if round > 0 {
            latencies.saturating_record(u64::try_from(took.as_micros())?);
        } else if !question.path.starts_with("/console") {
            shown = answer.json();
        }
    }
    let ms = |micros: u64| micros as f64 / 1000.0;
    let items = shown["items"].as_array().map_or(String::new(), |items| items.len().to_string());
    let more = match (&shown["searchedBackTo"], &shown["nextCursor"]) {
        (Value::String(_), _) => "search",
        (_, Value::String(_)) => "yes",
        _ => "",
    };
    let answered = if shown["count"].is_u64() { format!("  {}", shown["count"]) } else { String::new() };
    println!(
        "{:<58}{items:>6}{more:>7}{:>9.2}{:>9.2}{:>9.2}{answered}",
        question.name,
        ms(latencies.value_at_quantile(0.5)),
        ms(latencies.value_at_quantile(0.99)),
        ms(latencies.max())
    );
    Ok(latencies.value_at_quantile(0.99) <= u64::try_from(GOAL.as_micros())?)
}
