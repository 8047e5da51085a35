//! Loss of power: what was not flushed to the disk is really gone, and nothing that was acknowledged was among it.
//!
//! The gateway (or PostgreSQL below it) is recorded while providers post; then the disk is built as it may look after a
//! cut at many moments of that recording (`support/power`), a gateway is started on each of these disks, and the outside
//! ledger says what must be there. **The proof is proved**: with flushes ignored, with `synchronous` turned off in SQLite, and
//! with `synchronous_commit` or `fsync` off in PostgreSQL, the same procedure finds acknowledged work missing.
//!
//! `SIGNALBOX_POWER_CUTS` sets the number of cuts; the long form is in CONTRIBUTING.md.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{
        self, Dice,
        sink::{Keep, Sink},
    },
};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};
use tempfile::TempDir;

use crate::support::{
    App, Backend, Cut, Deliveries, Flushes, Load, Options, OwnPostgres, Recorder, Trace, Unflushed, Webhook, in_memory,
};

const CUTS: usize = 9;
/// Cuts of one recording in the long form.
const CUTS_OF_ONE: usize = 25;
const CONNECTIONS: usize = 12;
const ACKS: usize = 150;
const WORKSPACE: &str = "ws";
const PATIENCE: Duration = Duration::from_mins(1);
const WEBHOOKS: &str = "SELECT provider, provider_delivery_id FROM gw_events";
const INTEGRATIONS: &str = "SELECT COUNT(*) FROM workspace_integrations";

fn cuts_wanted(usual: usize) -> usize {
    std::env::var_os("SIGNALBOX_POWER_CUTS")
        .map_or(usual, |cuts| cuts.to_str().and_then(|cuts| cuts.parse().ok()).expect("a number of cuts"))
}

fn options() -> Options {
    Options::default().with("SIGNALBOX_TELEMETRY__LOG_FILTER", "warn")
}

/// What was promised by when, on the recording's clock.
struct Promises {
    /// The integrations are there.
    set_up: u64,
    acked: HashMap<Webhook, u64>,
}

impl Promises {
    fn until(&self, at: u64) -> HashSet<Webhook> {
        self.acked.iter().filter(|(_, acked)| **acked <= at).map(|(webhook, _)| webhook.clone()).collect()
    }

    /// Moments worth a cut: right after an acknowledgement, at any moment of the load, now and then before it.
    fn moment(&self, dice: &mut Dice, number: usize) -> u64 {
        let acks: Vec<u64> = self.acked.values().copied().collect();
        let last = acks.iter().copied().max().expect("something was acknowledged");
        match number % 4 {
            0 | 1 => *dice.pick(&acks).expect("some"),
            2 => dice.between(self.set_up, last),
            _ => dice.between(0, last),
        }
    }

    fn cuts(&self, dice: &mut Dice, count: usize) -> Vec<Cut> {
        let cut = |number| {
            let unflushed = match number % 3 {
                0 => Unflushed::Gone,
                1 => Unflushed::Torn { seed: dice.between(0, u64::MAX - 1) },
                _ if dice.between(0, 2) == 0 => Unflushed::Torn { seed: dice.between(0, u64::MAX - 1) },
                _ => Unflushed::There,
            };
            Cut { at: self.moment(dice, number), flushes: Flushes::Kept, unflushed }
        };
        (0..count).map(cut).collect()
    }

    fn last_cut(&self, flushes: Flushes) -> Cut {
        let last = self.acked.values().copied().max().expect("something was acknowledged");
        Cut { at: last, flushes, unflushed: Unflushed::Gone }
    }
}

/// Providers connect and post to a gateway that is recorded, or whose database is.
async fn make_promises(app: &App, sink: &Sink, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Promises {
    sink.expect_all_signed(&app.set_destination("org", None, &sink.url("/in")).await);
    let connected = app.connect_everybody("org", &[WORKSPACE]).await;
    let set_up = clock();
    let chance = u64::try_from(SystemClock.now().0).expect("after 1970");
    let mut load = Load::begin_stamping(connected, app.address(), CONNECTIONS, chance, Box::new(clock));
    load.wait_for_acks(ACKS, PATIENCE).await;
    Promises { set_up, acked: load.end().await }
}

/// The gateway was started on what the cut left: whatever was promised by then is there and ends delivered, the rows
/// contradict each other nowhere.
async fn expect_kept(app: &App, promises: &Promises, cut: &Cut, stored: &HashSet<Webhook>, integrations: i64) {
    let lost: Vec<_> = promises.until(cut.at).into_iter().filter(|webhook| !stored.contains(webhook)).collect();
    assert!(lost.is_empty(), "{cut:?}: {} acknowledged and lost, such as {:?}", lost.len(), lost.iter().take(3));
    if cut.at >= promises.set_up {
        assert_eq!(integrations, i64::try_from(sim::PROVIDERS.len()).expect("few"), "{cut:?}");
    }
    let wanted = match stored.len() {
        0 => (json!({}), json!({})),
        events => (json!({"routed": events}), json!({"delivered": events})),
    };
    let settled = async {
        loop {
            let census = app.health(true).await["census"].clone();
            if (&census["events"], &census["deliveries"]) == (&wanted.0, &wanted.1) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let settled = tokio::time::timeout(PATIENCE, settled).await;
    assert!(settled.is_ok(), "{cut:?}: some delivery does not end: {:#}", app.health(true).await);
    let health = app.health(true).await;
    assert_eq!((health["status"].as_str(), health["adds_up"].as_bool()), (Some("ok"), Some(true)), "{health:#}");
}

// --- SQLite -------------------------------------------------------------------------------------------------------------

fn sqlite_url(directory: &Path) -> String {
    format!("sqlite://{}", directory.join("signalbox.db").display())
}

async fn read_sqlite(directory: &Path) -> Result<(HashSet<Webhook>, i64), sqlx::Error> {
    let mut connection = SqliteConnection::connect(&sqlite_url(directory)).await?;
    let rows = sqlx::query(WEBHOOKS).fetch_all(&mut connection).await?;
    let integrations = sqlx::query_scalar(INTEGRATIONS).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok((rows.iter().map(|row| (row.get(0), row.get(1))).collect(), integrations))
}

async fn expect_sound(directory: &Path) {
    let mut connection = SqliteConnection::connect(&sqlite_url(directory)).await.expect("it opens");
    let said: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.expect("checked");
    connection.close().await.expect("closed");
    assert_eq!(said, "ok");
}

async fn lost_on_sqlite(trace: &Trace, promises: &Promises, cut: &Cut) -> usize {
    let disk = in_memory();
    trace.image(cut, disk.path());
    let stored = read_sqlite(disk.path()).await.map(|(stored, _)| stored).unwrap_or_default();
    promises.until(cut.at).iter().filter(|webhook| !stored.contains(*webhook)).count()
}

/// One recording and some cuts of it; `None` where nothing can be recorded.
async fn lose_power_on_sqlite(cuts: usize, dice: &mut Dice) -> Option<usize> {
    let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
    let mut arrivals = sink.follow();
    let directory = Arc::new(in_memory());
    let recorder = Recorder::of(directory.path())?;
    let settings = recorder.environment().into_iter().fold(options(), |all, (name, value)| all.with(name, &value));
    let app = App::start_in(Arc::clone(&directory), Backend::sqlite(), settings).await;
    let promises = make_promises(&app, &sink, recorder.clock()).await;
    app.leave().await;
    let trace = recorder.finish();
    trace.expect_whole(&[]);
    let lost = lost_on_sqlite(&trace, &promises, &promises.last_cut(Flushes::Ignored)).await;
    assert!(lost > 0, "what was never flushed is there: this test would not notice");

    for cut in promises.cuts(dice, cuts) {
        let disk = Arc::new(in_memory());
        trace.image(&cut, disk.path());
        let app = App::start_in(Arc::clone(&disk), Backend::sqlite(), options()).await;
        let (stored, integrations) = read_sqlite(disk.path()).await.expect("the gateway serves from it");
        expect_kept(&app, &promises, &cut, &stored, integrations).await;
        app.finish().await;
        expect_sound(disk.path()).await;
    }
    expect_all_arrived(&mut arrivals, &promises).await;
    Some(promises.acked.len())
}

/// What was acknowledged has reached the sink, from the recorded gateway or from one that came after a cut.
async fn expect_all_arrived(
    arrivals: &mut tokio::sync::mpsc::UnboundedReceiver<sim::sink::Received>,
    promises: &Promises,
) {
    let missing = Deliveries::default().collect(arrivals, promises.acked.keys(), &[WORKSPACE], PATIENCE).await;
    assert!(missing.is_empty(), "{} acknowledged and not delivered", missing.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_loss_of_power_on_sqlite() {
    let chance = u64::try_from(SystemClock.now().0).expect("after 1970");
    let (mut dice, mut left) = (Dice::new(chance), cuts_wanted(CUTS));
    while left > 0 {
        let cuts = left.min(CUTS_OF_ONE);
        let Some(acked) = lose_power_on_sqlite(cuts, &mut dice).await else { return };
        left -= cuts;
        println!("SQLite: {cuts} losses of power within {acked} acknowledged webhooks, none lost (chance {chance})");
    }
}

/// How many of the commits that a writer acknowledged are gone after a loss of power, with that `synchronous`.
async fn lost_by_a_writer(synchronous: &str) -> Option<usize> {
    let directory = in_memory();
    let recorder = Recorder::of(directory.path())?;
    let clock = recorder.clock();
    let mut writer = Command::new(std::env::current_exe().expect("this program"))
        .args(["power_loss::a_writer_for_the_test_above", "--exact", "--ignored", "--nocapture"])
        .env("SIGNALBOX_POWER_WRITER", format!("{synchronous} {}", sqlite_url(directory.path())))
        .envs(recorder.environment())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let lines = BufReader::new(writer.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let acked: Vec<u64> = lines.filter(|line| line.contains("committed")).map(|_| clock()).collect();
    assert!(writer.wait().expect("a child of ours").success() && acked.len() == 50, "{} commits", acked.len());
    let trace = recorder.finish();
    let disk = in_memory();
    let cut = Cut { at: acked[acked.len() - 1], flushes: Flushes::Kept, unflushed: Unflushed::Gone };
    trace.image(&cut, disk.path());
    let stored = async {
        let mut connection = SqliteConnection::connect(&sqlite_url(disk.path())).await?;
        sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM numbers").fetch_one(&mut connection).await
    };
    let stored = stored.await.unwrap_or_default();
    Some(acked.len() - usize::try_from(stored).expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_of_power_takes_what_sqlite_committed_without_full_synchronisation() {
    let Some(lost) = lost_by_a_writer("OFF").await else { return };
    assert!(lost > 0, "synchronous=OFF lost nothing: the test of power loss would not notice");
    assert!(lost_by_a_writer("NORMAL").await.is_some_and(|lost| lost > 0), "nor would it notice NORMAL");
    assert_eq!(lost_by_a_writer("FULL").await, Some(0));
}

#[tokio::test]
#[ignore = "the program that the test above records"]
async fn a_writer_for_the_test_above() {
    let Some(task) = std::env::var_os("SIGNALBOX_POWER_WRITER") else { return };
    let task = task.into_string().expect("text");
    let (synchronous, url) = task.split_once(' ').expect("two words");
    let mut connection = SqliteConnection::connect(&format!("{url}?mode=rwc")).await.expect("it opens");
    let prepare =
        format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; CREATE TABLE numbers (number INTEGER)");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await.expect("prepared");
    for number in 0..50 {
        sqlx::query("INSERT INTO numbers VALUES ($1)").bind(number).execute(&mut connection).await.expect("inserted");
        writeln!(std::io::stdout(), "\ncommitted {number}").expect("somebody reads");
    }
    // Killed, as it were: closing would fold the log into the database.
    std::process::exit(0);
}

// --- PostgreSQL -----------------------------------------------------------------------------------------------------------

/// What PostgreSQL writes past the recorder: statistics, which a crash resets, and a cache, which every start removes.
const UNSEEN_IN_POSTGRES: [&str; 2] = ["pg_stat/", "pg_internal.init"];

/// A server on what the cut left; `None` if it does not even start.
fn postgres_after(trace: &Trace, cut: &Cut) -> Option<OwnPostgres> {
    let home = in_memory();
    trace.image(cut, &home.path().join("data"));
    let server = OwnPostgres::prepare_on(home, "what is left after a loss of power", "")?;
    server.try_start().is_ok().then_some(server)
}

async fn read_postgres(server: &OwnPostgres) -> Result<(HashSet<Webhook>, i64), sqlx::Error> {
    let mut connection = server.connect().await;
    let rows = sqlx::query(WEBHOOKS).fetch_all(&mut connection).await?;
    let integrations = sqlx::query_scalar(INTEGRATIONS).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok((rows.iter().map(|row| (row.get(0), row.get(1))).collect(), integrations))
}

async fn lost_on_postgres(trace: &Trace, promises: &Promises, cut: &Cut) -> usize {
    let due = promises.until(cut.at);
    let Some(server) = postgres_after(trace, cut) else { return due.len() };
    let stored = read_postgres(&server).await.map(|(stored, _)| stored).unwrap_or_default();
    due.iter().filter(|webhook| !stored.contains(*webhook)).count()
}

/// A recording of a server under a gateway, with those settings changed once the gateway has begun to serve.
async fn record_postgres(sink: &Sink, changed: &[(&str, &str)]) -> Option<(Trace, Promises, Arc<TempDir>)> {
    let mut server = OwnPostgres::prepare("loss of power below PostgreSQL", "")?;
    let recorder = Recorder::of(&server.data())?;
    server.set_environment(recorder.environment());
    server.start();
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let app = App::start_in(Arc::clone(&directory), server.backend(), options()).await;
    for (setting, value) in changed {
        server.set(setting, value).await;
    }
    let promises = make_promises(&app, sink, recorder.clock()).await;
    app.leave().await;
    server.stop();
    let trace = recorder.finish();
    trace.expect_whole(&UNSEEN_IN_POSTGRES);
    Some((trace, promises, directory))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_loss_of_power_on_postgresql() {
    let chance = u64::try_from(SystemClock.now().0).expect("after 1970");
    let (mut dice, mut left) = (Dice::new(chance), cuts_wanted(CUTS / 3));
    while left > 0 {
        let cuts = left.min(CUTS_OF_ONE);
        left -= cuts;
        let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
        let mut arrivals = sink.follow();
        let Some((trace, promises, directory)) = record_postgres(&sink, &[]).await else { return };
        let lost = lost_on_postgres(&trace, &promises, &promises.last_cut(Flushes::Ignored)).await;
        assert!(lost > 0, "what was never flushed is there: this test would not notice");
        for cut in promises.cuts(&mut dice, cuts) {
            let server = postgres_after(&trace, &cut).unwrap_or_else(|| panic!("{cut:?}: the server does not start"));
            let app = App::start_in(Arc::clone(&directory), server.backend(), options()).await;
            let (stored, integrations) = read_postgres(&server).await.expect("the gateway serves from it");
            expect_kept(&app, &promises, &cut, &stored, integrations).await;
            app.finish().await;
        }
        expect_all_arrived(&mut arrivals, &promises).await;
        let acked = promises.acked.len();
        println!(
            "PostgreSQL: {cuts} losses of power within {acked} acknowledged webhooks, none lost (chance {chance})"
        );
    }
}

/// How much is lost at the worst of some moments at which everything that was not flushed is gone, with that setting off
/// since the gateway began to serve.
async fn most_lost_with(setting: &str) -> Option<usize> {
    let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
    let (trace, promises, _) = record_postgres(&sink, &[(setting, "off")]).await?;
    // A background process may have flushed just before one of these moments, not before all of them.
    let mut moments: Vec<u64> = promises.acked.values().copied().collect();
    moments.sort_unstable();
    let mut most = 0;
    for at in moments.into_iter().rev().step_by(5).take(10) {
        let cut = Cut { at, flushes: Flushes::Kept, unflushed: Unflushed::Gone };
        most = most.max(lost_on_postgres(&trace, &promises, &cut).await);
    }
    Some(most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_of_power_takes_what_postgresql_committed_without_flushing() {
    let Some(lost) = most_lost_with("fsync").await else { return };
    assert!(lost > 0, "fsync=off lost nothing: the test of power loss would not notice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_told_to_commit_without_waiting_under_a_running_gateway_loses_nothing() {
    let Some(lost) = most_lost_with("synchronous_commit").await else { return };
    assert_eq!(lost, 0, "the gateway's connections insist on synchronous_commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_does_not_start_on_a_postgresql_database_that_would_lose_commits() {
    let Some(backend) = Backend::postgres().await else { return };
    let mut app = App::start(backend, options()).await;
    app.terminate().await;
    let change = |to: &str| {
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = {to}', current_database()); END $$"
        )
    };
    app.execute(&change("off")).await;
    let said = app.restart_refused().await;
    assert!(said.contains("synchronous_commit is off"), "{said}");
    app.execute(&change("on")).await;
    app.restart().await;
    app.finish().await;
}
