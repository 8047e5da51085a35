//! A database server that is killed, frozen, restarted, or has no connection left: providers are asked to come again,
//! nothing acknowledged is lost, service resumes by itself. And a pool of one connection, on both databases.
//!
//! Each test has a server of its own: what is done to it must not be felt by others.

use std::time::Duration;

use serde_json::json;
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::sink::{Behaviour, Keep, Received, Sink},
};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::support::{App, Backend, Deliveries, Load, Options, OwnPostgres, SmallDisk, on_both};

const CONNECTIONS: usize = 8;
const WORKSPACE: &str = "ws";
const PATIENCE: Duration = Duration::from_mins(1);
const MAX_IN_FLIGHT: u64 = 16;
/// Tries that are refused before the trouble ends: more than one for each connection.
const REFUSALS: u64 = 3 * CONNECTIONS as u64;
const ACKS: usize = 40;
/// What a delivery takes, so that some are in flight at every moment.
const DELIVERY: Duration = Duration::from_millis(150);
/// How long a disk stays full at least: long enough for a flood of repeats, if anything were sent without a lease.
const FULL: Duration = Duration::from_secs(3);
/// The same where the number of outages is given: a lease lasts 15 s longer than an attempt may take.
const FULL_LONGER_THAN_A_LEASE: Duration = Duration::from_secs(20);

/// The long form: so many outages.
fn outages_wanted() -> Option<u64> {
    let times = std::env::var_os("SIGNALBOX_OUTAGES")?;
    Some(times.to_str().and_then(|times| times.parse().ok()).expect("a number of outages"))
}

/// How often a test breaks its database.
fn outages(usual: u64) -> u64 {
    outages_wanted().unwrap_or(usual)
}

/// A disk that is full: every provider is refused, and whatever was in flight has to be written down somehow.
async fn stay_full(app: &App, load: &Load) {
    load.wait_for_refusals(REFUSALS, PATIENCE).await;
    let full = if outages_wanted().is_some() { FULL_LONGER_THAN_A_LEASE } else { FULL };
    tokio::time::sleep(full).await;
    load.wait_for_refusals(REFUSALS, PATIENCE).await;
    alive(app).await;
}

fn options() -> Options {
    Options::default()
        .with("SIGNALBOX_INGEST__ACK_DEADLINE_MS", "500")
        .with("SIGNALBOX_DATABASE__ACQUIRE_TIMEOUT_MS", "800")
        .with("SIGNALBOX_DELIVERY__TIMEOUT_MS", "2000")
        .with("SIGNALBOX_DELIVERY__MAX_IN_FLIGHT", &MAX_IN_FLIGHT.to_string())
        .with("SIGNALBOX_TELEMETRY__LOG_FILTER", "error")
}

async fn begin_load(app: &App, sink: &Sink) -> Load {
    sink.behave("/in", Behaviour::After(DELIVERY, Box::new(Behaviour::ok())));
    sink.expect_all_signed(&app.set_destination("org", None, &sink.url("/in")).await);
    let connected = app.connect_everybody("org", &[WORKSPACE]).await;
    let chance = u64::try_from(SystemClock.now().0).expect("after 1970");
    Load::begin(connected, app.address(), CONNECTIONS, chance)
}

/// Ends the load: all that was acknowledged is delivered, is in the rows, and came twice at most where an attempt could not be
/// written down.
async fn expect_nothing_lost(app: App, mut load: Load, arrivals: &mut UnboundedReceiver<Received>, most_repeats: u64) {
    let acked = load.end().await;
    let mut deliveries = Deliveries::default();
    let missing = deliveries.collect(arrivals, acked.keys(), &[WORKSPACE], PATIENCE).await;
    assert!(missing.is_empty(), "{} of {} acknowledged and not delivered", missing.len(), acked.len());
    let settled = async {
        loop {
            let health = app.health(true).await;
            let census = &health["census"];
            if census["deliveries"] == json!({"delivered": acked.len()}) && health["ledger"]["inProgress"] == 0 {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let settled = tokio::time::timeout(PATIENCE, settled).await;
    let Ok(health) = settled else { panic!("it does not settle: {:#}", app.health(true).await) };
    assert_eq!((health["status"].as_str(), health["adds_up"].as_bool()), (Some("ok"), Some(true)), "{health:#}");
    assert_eq!(health["census"]["events"], json!({"routed": acked.len()}), "{health:#}");
    while let Ok(received) = arrivals.try_recv() {
        deliveries.record(&received);
    }
    println!(
        "{} acknowledged, {} refused, {} resent, {} repeats (at most {most_repeats})",
        acked.len(),
        load.refused(),
        load.resent(),
        deliveries.repeats
    );
    assert!(deliveries.repeats <= most_repeats, "{} repeats, at most {most_repeats}", deliveries.repeats);
    app.finish().await;
}

async fn alive(app: &App) {
    assert_eq!(app.send("GET", "/healthz", &[], "").await.status, 200, "the process is well");
}

/// Breaks a server under load that many times and mends it again: nothing is lost.
async fn break_and_mend(name: &str, times: u64, break_and_mend: impl AsyncFn(&mut OwnPostgres, &Load, &App)) {
    let Some(mut server) = OwnPostgres::prepare(name, "") else { return };
    server.start();
    let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
    let mut arrivals = sink.follow();
    let app = App::start(server.backend(), options()).await;
    let load = begin_load(&app, &sink).await;
    for _ in 0..times {
        load.wait_for_acks(ACKS, PATIENCE).await;
        break_and_mend(&mut server, &load, &app).await;
    }
    load.wait_for_acks(ACKS, PATIENCE).await;
    expect_nothing_lost(app, load, &mut arrivals, times * MAX_IN_FLIGHT).await;
}

/// Webhooks are refused meanwhile, and the process is well.
async fn expect_refusals(load: &Load, app: &App) {
    load.wait_for_refusals(REFUSALS, PATIENCE).await;
    alive(app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgresql_loses_nothing_and_is_used_again_when_it_is_back() {
    break_and_mend("a killed PostgreSQL", outages(2), async |server, load, app| {
        server.kill();
        expect_refusals(load, app).await;
        server.start();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_postgresql_is_a_503_in_time_and_everything_goes_on_when_it_thaws() {
    break_and_mend("a frozen PostgreSQL", outages(1), async |server, load, app| {
        server.freeze();
        expect_refusals(load, app).await;
        server.thaw();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_is_restarted_under_load_loses_nothing() {
    break_and_mend("a restarted PostgreSQL", outages(1), async |server, _, _| {
        server.stop();
        server.start();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_without_a_free_connection_is_a_503_until_there_is_one() {
    // The gateway needs six: two that commit, two that read, its listener, its presence.
    let Some(server) = OwnPostgres::prepare("a PostgreSQL without a free connection", "-c max_connections=20") else {
        return;
    };
    server.start();
    let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
    let mut arrivals = sink.follow();
    let app = App::start(server.backend(), options().with("SIGNALBOX_DATABASE__MAX_CONNECTIONS", "4")).await;
    let load = begin_load(&app, &sink).await;
    load.wait_for_acks(ACKS, PATIENCE).await;
    // Somebody takes whatever is free, and the gateway's own as soon as they are cut.
    let mut taken: Vec<PgConnection> = vec![server.connect().await];
    let cutting = async {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'signalbox'";
        loop {
            sqlx::query(cut).execute(&mut taken[0]).await.expect("an administrator may");
            while let Some(one) = server.try_connect().await {
                taken.push(one);
            }
            let ours = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'signalbox'";
            let left: i64 = sqlx::query_scalar(ours).fetch_one(&mut taken[0]).await.expect("counted");
            if left == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, cutting).await.expect("nothing is left for the gateway");
    load.wait_for_refusals(REFUSALS, PATIENCE).await;
    alive(&app).await;
    for connection in taken {
        connection.close().await.expect("closed");
    }
    load.wait_for_acks(ACKS, PATIENCE).await;
    expect_nothing_lost(app, load, &mut arrivals, MAX_IN_FLIGHT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_to_a_key_of_the_database_while_the_database_is_away_unless_it_was_revoked() {
    let Some(server) = OwnPostgres::prepare("health without a PostgreSQL", "") else { return };
    server.start();
    let app = App::start(server.backend(), options()).await;
    let (used, unused) = (app.make_key(&[]), app.make_key(&[]));
    let ask = async |key: &str| app.send("GET", "/admin/health", &[("x-api-key", key)], "").await;
    let until_health_is = async |status: u16| {
        let asking = async {
            while ask(&used).await.status != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("in time");
    };
    let expect_told = async || {
        let answer = ask(&used).await;
        let shown = answer.json();
        assert_eq!((answer.status, &shown["status"], &shown["database"]), (503, &json!("degraded"), &json!("error")));
        assert!(shown["uptime_ms"].is_u64(), "{shown}");
        let to_a_stranger = ask(&unused).await.json();
        assert_eq!(to_a_stranger["error"], "store_unavailable", "nobody knows whether this key is good");
    };
    until_health_is(200).await;
    server.stop();
    expect_told().await;
    server.start();
    until_health_is(200).await;
    server.freeze();
    expect_told().await;
    server.thaw();
    until_health_is(200).await;
    server.execute("UPDATE gw_api_keys SET revoked_at = 1".into()).await;
    until_health_is(401).await;
    server.freeze();
    let shown = ask(&used).await.json();
    assert!(shown["error"].is_string() && shown.get("database").is_none(), "{shown}");
    server.thaw();
    until_health_is(401).await;
    app.finish().await;
}

on_both! {
    async fn a_pool_of_one_connection_serves_everybody_under_load(backend) {
        let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
        let mut arrivals = sink.follow();
        let usual = Options::default().with("SIGNALBOX_DATABASE__MAX_CONNECTIONS", "1");
        let app = App::start(backend, usual).await;
        let load = begin_load(&app, &sink).await;
        load.wait_for_acks(5 * ACKS, PATIENCE).await;
        assert_eq!(load.refused(), 0, "nobody is refused, however long the queue");
        expect_nothing_lost(app, load, &mut arrivals, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_503_on_sqlite_and_no_flood_of_repeats_when_there_is_room_again() {
    let fills = outages(2);
    // What is acknowledged between two outages has to fit.
    let Some(disk) = SmallDisk::mount(12 + 4 * u32::try_from(fills).expect("few")) else { return };
    let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
    let mut arrivals = sink.follow();
    let app = App::start_in(disk.directory(), Backend::sqlite(), options()).await;
    let load = begin_load(&app, &sink).await;
    for _ in 0..fills {
        load.wait_for_acks(ACKS, PATIENCE).await;
        disk.fill();
        stay_full(&app, &load).await;
        disk.make_room();
    }
    load.wait_for_acks(ACKS, PATIENCE).await;
    expect_nothing_lost(app, load, &mut arrivals, fills * MAX_IN_FLIGHT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_503_on_postgresql_and_no_flood_of_repeats_when_there_is_room_again() {
    let Some(disk) = SmallDisk::mount(100) else { return };
    let home = disk.directory().path().join("server");
    let Some(server) = OwnPostgres::prepare_below(&home, "PostgreSQL on a full disk", "") else {
        return;
    };
    server.start();
    let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
    let mut arrivals = sink.follow();
    let app = App::start(server.backend(), options()).await;
    let load = begin_load(&app, &sink).await;
    let fills = outages(2);
    for _ in 0..fills {
        load.wait_for_acks(ACKS, PATIENCE).await;
        disk.fill();
        stay_full(&app, &load).await;
        disk.make_room();
        if !server.is_running() {
            // Without room for its log PostgreSQL itself gives up; whoever runs it starts it again.
            server.start();
        }
    }
    load.wait_for_acks(ACKS, PATIENCE).await;
    expect_nothing_lost(app, load, &mut arrivals, fills * MAX_IN_FLIGHT).await;
}
