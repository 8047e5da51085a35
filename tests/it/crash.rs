//! `kill -9` at random moments, on both databases: nothing acknowledged is lost, repeats come from crashes alone and
//! carry the same `webhook-id`, the counters add up after every kill, and the next process takes over what the dead one
//! had leased.
//!
//! Providers post from many connections and resend what got no 200, and now and then what did, as providers do. A ledger
//! outside the process (`support/ledger.rs`) compares what was acknowledged with what reached the sink.
//! `SIGNALBOX_CRASH_KILLS` sets the number of kills; the long form is in CONTRIBUTING.md.

use std::time::Duration;

use serde_json::json;
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{
        Dice,
        sink::{Behaviour, Keep, Received, Sink},
    },
};
use tokio::{sync::mpsc::UnboundedReceiver, time::Instant};

use crate::support::{App, Backend, Connected, Deliveries, Load, Options, on_both};

const KILLS: u32 = 20;
const CONNECTIONS: usize = 16;
/// The second one's destination is slow, so that attempts are in flight at every moment; quick enough to keep up with what a
/// machine with nothing else to do acknowledges.
const WORKSPACES: [&str; 2] = ["first", "second"];
const SLOW: (&str, Duration) = ("/slow", Duration::from_millis(50));
/// Kills at a moment when something is known to be in flight, and how many of the others come with each.
const AIMED_KILLS: u32 = 3;
const KILLS_PER_AIMED: u32 = 10;
/// Attempts that can be in flight when the process dies; each may be repeated once by the next one. A destination may
/// have half of what is free, so the slow one has a third of them at most: enough to keep up with the load.
const MAX_IN_FLIGHT: u64 = 192;
/// How long a process may take to deliver what its predecessors left. Leases last far longer, see `TIMEOUT_MS`: whoever
/// waits for them to end fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// An attempt's limit, and with it the length of a lease.
const TIMEOUT_MS: &str = "600000";

fn options() -> Options {
    Options::default()
        .with("SIGNALBOX_DELIVERY__TIMEOUT_MS", TIMEOUT_MS)
        .with("SIGNALBOX_DELIVERY__MAX_IN_FLIGHT", &MAX_IN_FLIGHT.to_string())
        .with("SIGNALBOX_TELEMETRY__LOG_FILTER", "warn")
}

fn slow() -> Behaviour {
    Behaviour::After(SLOW.1, Box::new(Behaviour::ok()))
}

/// An installation of every provider, each with both workspaces.
async fn connect_all(app: &App, sink: &Sink) -> Vec<Connected> {
    sink.behave(SLOW.0, slow());
    sink.expect_all_signed(&app.set_destination("org", None, &sink.url("/in")).await);
    sink.expect_all_signed(&app.set_destination("org", Some(WORKSPACES[1]), &sink.url(SLOW.0)).await);
    app.connect_everybody("org", &WORKSPACES).await
}

/// A moment to be killed at.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// While everybody posts.
    UnderLoad,
    /// While nobody does.
    Idle,
    /// Under load, and once more before the next process has got anywhere.
    WhileStarting,
    /// Under load, and once more as soon as the next process serves.
    Twice,
}

impl Moment {
    const ALL: [Self; 6] =
        [Self::UnderLoad, Self::UnderLoad, Self::UnderLoad, Self::Idle, Self::WhileStarting, Self::Twice];
}

/// The gateway, its load, and what the kills have cost so far.
struct Ordeal {
    app: App,
    load: Load,
    kills: u32,
    /// How long each process took from its start until it listened.
    starts: Vec<Duration>,
}

impl Ordeal {
    async fn kill(&mut self) {
        self.app.kill().await;
        self.kills += 1;
    }

    async fn restart(&mut self) {
        self.app.restart().await;
        self.starts.push(self.app.last_start);
        self.load.moved_to(self.app.address());
    }

    async fn suffer(&mut self, moment: Moment, dice: &mut Dice) {
        // Not waiting for anything: the moment is the point.
        tokio::time::sleep(Duration::from_millis(dice.between(10, 500))).await;
        match moment {
            Moment::UnderLoad => self.kill().await,
            Moment::Idle => {
                self.load.rest().await;
                tokio::time::sleep(Duration::from_millis(dice.between(0, 300))).await;
                self.kill().await;
            }
            Moment::WhileStarting => {
                self.kill().await;
                let usual = self.starts.iter().max().copied().unwrap_or(self.app.last_start);
                let after = dice.between(0, u64::try_from(usual.as_millis()).expect("short"));
                self.app.start_and_kill(Duration::from_millis(after)).await;
                self.kills += 1;
            }
            Moment::Twice => {
                self.kill().await;
                self.restart().await;
                self.kill().await;
            }
        }
        self.restart().await;
        // While the load goes on: the rows contradict each other at no moment.
        self.app.check_invariants().await;
        let health = self.app.health(false).await;
        assert_eq!(health["adds_up"], json!(true), "after {moment:?}: {health:#}");
        self.load.go_on();
    }

    /// Kills the process while an attempt is in flight for certain, and waits until the next one has made it again.
    async fn kill_in_flight(&mut self, sink: &Sink, watched: &mut UnboundedReceiver<Received>) -> Resumption {
        // What arrives from now on has no answer, however long the kill takes on a busy machine.
        sink.behave(SLOW.0, Behaviour::Hang);
        let attempt = async {
            while watched.try_recv().is_ok() {}
            loop {
                let received = watched.recv().await.expect("the sink lives");
                if received.path == SLOW.0 {
                    return received.webhook_id;
                }
            }
        };
        let in_flight = tokio::time::timeout(PATIENCE, attempt).await.expect("the load goes on");
        self.kill().await;
        sink.behave(SLOW.0, slow());
        let acked = self.load.acked();
        while watched.try_recv().is_ok() {}
        let restarted = Instant::now();
        self.restart().await;
        let again = async {
            let mut open_work = None;
            loop {
                let received = watched.recv().await.expect("the sink lives");
                let ids = received.envelope.expect("an envelope");
                if acked.contains_key(&(ids.provider, ids.delivery_id)) {
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
}

/// How long the next process took, from its start on.
struct Resumption {
    /// Until it attempted anything that was acknowledged before.
    open_work: Duration,
    /// Until it attempted what was in flight at the kill.
    in_flight: Duration,
}

fn median_and_longest(mut of: Vec<Duration>) -> String {
    of.sort_unstable();
    format!("median {:?}, longest {:?}", of[of.len() / 2], of[of.len() - 1])
}

/// Every provider went on until it had its 200: the rows are what was acknowledged, no more and no less.
async fn expect_rows_of(app: &App, events: usize) {
    let settled = async {
        loop {
            let health = app.health(true).await;
            if health["census"]["deliveries"] == json!({"delivered": WORKSPACES.len() * events}) {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let settled = tokio::time::timeout(PATIENCE, settled).await;
    let Ok(health) = settled else { panic!("some delivery does not end: {:#}", app.health(true).await) };
    assert_eq!(health["census"]["events"], json!({"routed": events}), "{health:#}");
    assert_eq!((health["status"].as_str(), health["adds_up"].as_bool()), (Some("ok"), Some(true)), "{health:#}");
}

fn seed_of_today() -> u64 {
    u64::try_from(SystemClock.now().0).expect("after 1970")
}

on_both! {
    async fn what_was_acknowledged_is_delivered_however_often_the_process_is_killed(backend) {
        let kills = std::env::var_os("SIGNALBOX_CRASH_KILLS")
            .map_or(KILLS, |kills| kills.to_str().and_then(|kills| kills.parse().ok()).expect("a number of kills"));
        let (name, chance) = (backend.name(), seed_of_today());
        let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
        let (mut arrivals, mut watched) = (sink.follow(), sink.follow());
        let app = App::start(backend, options()).await;
        let load = Load::begin(connect_all(&app, &sink).await, app.address(), CONNECTIONS, chance);
        let mut ordeal = Ordeal { app, load, kills: 0, starts: Vec::new() };
        let mut dice = Dice::new(chance);
        while ordeal.kills < kills {
            let moment = *dice.pick(&Moment::ALL).expect("there are some");
            ordeal.suffer(moment, &mut dice).await;
        }
        let aimed = AIMED_KILLS.max(kills / KILLS_PER_AIMED);
        let mut resumptions = Vec::new();
        for _ in 0..aimed {
            resumptions.push(ordeal.kill_in_flight(&sink, &mut watched).await);
        }
        drop(watched);
        let Ordeal { app, mut load, kills, starts } = ordeal;
        let acked = load.end().await;

        let mut deliveries = Deliveries::default();
        let missing = deliveries.collect(&mut arrivals, acked.keys(), &WORKSPACES, PATIENCE).await;
        println!(
            "{name}: {kills} kills, {} acknowledged, {} tries resent, {} sent again, {} deliveries, {} lost, {} repeats; \
             serving again: {}; open work attempted: {}; what was in flight: {} (chance {chance})",
            acked.len(), load.resent(), load.repeated(), deliveries.ids.len(), missing.len(), deliveries.repeats,
            median_and_longest(starts),
            median_and_longest(resumptions.iter().map(|of| of.open_work).collect()),
            median_and_longest(resumptions.iter().map(|of| of.in_flight).collect()),
        );
        assert!(
            missing.is_empty(),
            "{} acknowledged and not delivered, such as {:?}",
            missing.len(),
            missing.iter().take(5).collect::<Vec<_>>()
        );
        let kills = u64::from(kills);
        assert!(acked.len() as u64 > kills, "the load was no load: {} acknowledged", acked.len());
        assert!(load.repeated() > 0, "nothing was sent again");
        assert!(deliveries.repeats >= u64::from(aimed), "the aimed kills cut nothing");
        assert!(deliveries.repeats <= kills * MAX_IN_FLIGHT, "more repeats than attempts were cut");

        expect_rows_of(&app, acked.len()).await;
        app.finish().await;
    }

    async fn without_a_crash_nothing_is_sent_twice_however_often_the_process_is_stopped(backend) {
        let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
        let mut arrivals = sink.follow();
        let mut app = App::start(backend, options()).await;
        let mut load = Load::begin(connect_all(&app, &sink).await, app.address(), CONNECTIONS, seed_of_today());
        for _ in 0..3 {
            load.wait_for_acks(50, PATIENCE).await;
            app.terminate().await;
            app.restart().await;
            load.moved_to(app.address());
        }
        let acked = load.end().await;
        let mut deliveries = Deliveries::default();
        let missing = deliveries.collect(&mut arrivals, acked.keys(), &WORKSPACES, PATIENCE).await;
        assert!(missing.is_empty(), "{} acknowledged and not delivered", missing.len());
        expect_rows_of(&app, acked.len()).await;
        // Whatever was sent has arrived by now, and was taken down.
        while let Ok(received) = arrivals.try_recv() {
            deliveries.record(&received);
        }
        assert_eq!((deliveries.repeats, deliveries.ids.len()), (0, WORKSPACES.len() * acked.len()));
        app.finish().await;
    }
}

/// Kills the very first starts, on a database without tables, at random moments; then one serves.
async fn survives_killed_migrations(backend: Backend) {
    let mut dice = Dice::new(seed_of_today());
    let sink = Sink::start().await.expect("a port");
    let mut app = App::stopped(backend, options());
    for longest in [50, 100, 200, 400, 400] {
        app.start_and_kill(Duration::from_millis(dice.between(1, longest))).await;
    }
    app.restart().await;
    let mut load = Load::begin(connect_all(&app, &sink).await, app.address(), 2, 1);
    load.wait_for_acks(10, PATIENCE).await;
    let acked = load.end().await;
    expect_rows_of(&app, acked.len()).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_is_killed_while_it_migrates_is_made_good_by_the_next_sqlite() {
    survives_killed_migrations(Backend::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_is_killed_while_it_migrates_is_made_good_by_the_next_postgres() {
    let Some(backend) = Backend::empty_postgres().await else { return };
    survives_killed_migrations(backend).await;
}
