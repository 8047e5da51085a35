//! `promises.md` P5: two nodes on one PostgreSQL are one gateway.

use std::{collections::HashSet, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;
use signalbox::sim::{
    self,
    sink::{Behaviour, Sink},
};

use crate::support::{App, Backend, Connected, Options, Wire};

const SOON: Duration = Duration::from_secs(30);
/// Less than what a node would find out by itself, without a word from the other: it notices after a quarter of a minute
/// that nothing is told any more.
const TOLD: Duration = Duration::from_secs(10);
/// Less than a lease: what comes back within it was taken over.
const TAKEN_OVER: Duration = Duration::from_secs(20);

/// Two nodes with a connection, a workspace's integration and a destination; `None` without a PostgreSQL server.
async fn two_nodes(sink: &Sink) -> Option<(App, App, Connected, String)> {
    two_nodes_with(sink, Options::default()).await
}

async fn two_nodes_with(sink: &Sink, options: Options) -> Option<(App, App, Connected, String)> {
    let first = App::start(Backend::postgres().await?, options).await;
    let second = first.start_beside().await;
    let (github, integration) = subscribe(&first, sink).await;
    Some((first, second, github, integration))
}

/// The same, and the wire by which the second node reaches the database.
async fn two_nodes_on_a_wire(sink: &Sink) -> Option<(App, App, Wire, Connected, String)> {
    let first = App::start(Backend::postgres().await?, Options::default()).await;
    let (second, wire) = first.start_beside_on_a_wire().await;
    let (github, integration) = subscribe(&first, sink).await;
    Some((first, second, wire, github, integration))
}

async fn subscribe(first: &App, sink: &Sink) -> (Connected, String) {
    first.set_destination("org", None, &sink.url("/in")).await;
    let github = first.connect("org", sim::find("github").expect("simulated"), 1).await;
    let integration = first.subscribe("org", "ws", &github, Some(&["github:push"])).await;
    (github, integration)
}

async fn outcome_of(node: &App, to: &Connected, seed: u64) -> String {
    let (_, answer) = node.post_event(to, "github:push", seed).await;
    let body = answer.json();
    assert_eq!((answer.status, body["status"].as_str()), (200, Some("accepted")), "{body}");
    body["outcome"].as_str().expect("an outcome").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_on_one_node_holds_on_the_other() {
    let sink = Sink::start().await.expect("a port");
    let Some((first, second, github, integration)) = two_nodes(&sink).await else { return };
    let mut operator = first.operator("org");
    let mut seed = 0;
    let mut post = async || {
        seed += 1;
        outcome_of(&second, &github, seed).await
    };
    assert_eq!(post().await, "routed", "the other node knows the link");
    sink.wait_for(1, SOON).await.expect("delivered");

    let told = tokio::time::timeout(TOLD, async {
        let path = format!("/integrations/{integration}");
        operator.ask("PATCH", &path, Some(&json!({"autoSync": false}))).await.expect("patched");
        while post().await != "filtered" {}
        operator.ask("PATCH", &path, Some(&json!({"autoSync": true}))).await.expect("patched");
        while post().await != "routed" {}
        operator.ask("PUT", "/orgs/org/destination", Some(&json!({"url": sink.url("/new")}))).await.expect("put");
        let mut arrivals = sink.follow();
        loop {
            post().await;
            if arrivals.recv().await.expect("the sink is there").path == "/new" {
                break;
            }
        }
    });
    told.await.expect("the other node is told");
    second.leave().await;
    first.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_delivery_is_sent_once_whichever_node_took_it() {
    const EVENTS: u64 = 60;
    let sink = Sink::start().await.expect("a port");
    sink.behave("/in", Behaviour::After(Duration::from_millis(200), Box::new(Behaviour::ok())));
    let Some((first, second, github, _)) = two_nodes(&sink).await else { return };
    for seed in (0..EVENTS).step_by(2) {
        let (here, there) = tokio::join!(outcome_of(&first, &github, seed), outcome_of(&second, &github, seed + 1));
        assert_eq!((here.as_str(), there.as_str()), ("routed", "routed"));
    }
    let received = sink.wait_for(usize::try_from(EVENTS).expect("small"), SOON).await.expect("delivered");
    let ids: HashSet<_> = received.iter().map(|received| received.webhook_id.clone()).collect();
    assert_eq!(ids.len(), received.len(), "none twice");
    assert!(received.iter().all(|received| received.beside == 0));
    // Both stop in order, and what was delivered stays delivered.
    second.leave().await;
    first.check_invariants().await;
    assert_eq!(sink.total(), received.len());
    first.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_s_deliveries_are_taken_over() {
    const EVENTS: usize = 12;
    let sink = Sink::start().await.expect("a port");
    sink.behave("/in", Behaviour::Hang);
    let Some((first, mut second, github, _)) = two_nodes(&sink).await else { return };
    for seed in 0..EVENTS {
        assert_eq!(outcome_of(&second, &github, u64::try_from(seed).expect("small")).await, "routed");
    }
    let hung = sink.wait_for(EVENTS, SOON).await.expect("all are in flight");
    sink.behave("/in", Behaviour::ok());
    second.kill().await;
    let all = sink.wait_for(2 * EVENTS, TAKEN_OVER).await.expect("the other node sends them");
    let ids = |received: &[sim::sink::Received]| -> HashSet<_> {
        received.iter().map(|received| received.webhook_id.clone()).collect()
    };
    assert_eq!(ids(&all[EVENTS..]), ids(&hung), "the same deliveries, under the same ids");
    assert!(all.iter().all(|received| received.beside == 0), "never two attempts of one at a time");
    second.leave().await;
    first.finish().await;
}

/// Neither side knows that the other is there, and both go on: the one that was cut off has stopped before the other begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_from_the_database_ends_its_attempts_before_they_are_made_again() {
    const EVENTS: usize = 12;
    let sink = Sink::start().await.expect("a port");
    sink.behave("/in", Behaviour::Hang);
    let Some((first, second, wire, github, _)) = two_nodes_on_a_wire(&sink).await else { return };
    for seed in 0..EVENTS {
        assert_eq!(outcome_of(&second, &github, u64::try_from(seed).expect("small")).await, "routed");
    }
    sink.wait_for(EVENTS, SOON).await.expect("all are in flight");
    sink.behave("/in", Behaviour::ok());
    wire.part();
    let all = sink.wait_for(2 * EVENTS, TAKEN_OVER).await.expect("the other node sends them");
    assert!(all.iter().all(|received| received.beside == 0), "never two attempts of one at a time");
    wire.resume();
    let back = async {
        while second.post_event(&github, "github:push", 1000).await.1.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, back).await.expect("it is a node like any other again");
    sink.wait_for(2 * EVENTS + 1, SOON).await.expect("delivered");
    second.leave().await;
    first.check_invariants().await;
    assert_eq!(sink.total(), 2 * EVENTS + 1, "nothing was sent a third time");
    first.finish().await;
}

/// Nobody tells it of the change, and it cannot even listen: what it remembers is not believed for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_listen_routes_as_the_database_says() {
    let sink = Sink::start().await.expect("a port");
    let Some((first, second, wire, github, integration)) = two_nodes_on_a_wire(&sink).await else { return };
    let mut seed = 0;
    let mut post = async || {
        seed += 1;
        let answer = second.post_event(&github, "github:push", seed).await.1;
        answer.json()["outcome"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(post().await, "routed", "the other node knows the link");
    wire.lose_listeners();
    let path = format!("/integrations/{integration}");
    first.operator("org").ask("PATCH", &path, Some(&json!({"autoSync": false}))).await.expect("patched");
    let noticed = async { while post().await != "filtered" {} };
    tokio::time::timeout(TOLD, noticed).await.expect("it reads again what it remembered");
    wire.resume();
    second.leave().await;
    first.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_is_refused_on_every_node() {
    let sink = Sink::start().await.expect("a port");
    let Some((first, second, _, _)) = two_nodes(&sink).await else { return };
    let key = first.make_key(&["--org", "org"]);
    let ask = async |node: &App| node.send("GET", "/connections", &[("x-api-key", key.as_str())], "").await.status;
    assert_eq!((ask(&first).await, ask(&second).await), (200, 200));
    let listed = first.cli(&["keys", "list"]);
    let listed = String::from_utf8(listed.stdout).expect("text");
    let id =
        listed.split_whitespace().find(|word| word.starts_with("key_")).expect("the only key has an id").to_owned();
    assert!(first.cli(&["keys", "revoke", &id]).status.success());
    let refused = tokio::time::timeout(TOLD, async {
        while (ask(&first).await, ask(&second).await) != (401, 401) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    refused.await.expect("neither node takes it any more");
    second.leave().await;
    first.finish().await;
}

/// An attempt's limit of a second makes a lease of sixteen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_keeps_its_leases_to_their_end_and_what_it_says_afterwards_changes_nothing() {
    const EVENTS: usize = 6;
    const LEASE: Duration = Duration::from_secs(16);
    let sink = Sink::start().await.expect("a port");
    sink.behave("/in", Behaviour::Hang);
    let options = Options::default().with("SIGNALBOX_DELIVERY__TIMEOUT_MS", "1000");
    let Some((first, mut second, github, _)) = two_nodes_with(&sink, options).await else { return };
    for seed in 0..EVENTS {
        assert_eq!(outcome_of(&second, &github, u64::try_from(seed).expect("small")).await, "routed");
    }
    let hung = sink.wait_for(EVENTS, SOON).await.expect("all are in flight");
    second.signal(Signal::SIGSTOP);
    sink.behave("/in", Behaviour::ok());
    // The other node goes on with what is its own.
    assert_eq!(outcome_of(&first, &github, 1000).await, "routed");
    let all = sink.wait_for(2 * EVENTS + 1, SOON).await.expect("the other node takes over");
    for late in all.iter().skip(EVENTS) {
        let Some(before) = hung.iter().find(|hung| hung.webhook_id == late.webhook_id) else { continue };
        // A little less: the lease began before the request arrived.
        let apart = late.instant - before.instant;
        assert!(apart + Duration::from_secs(4) > LEASE, "a lease was freed after {apart:?}");
    }
    second.signal(Signal::SIGCONT);
    // What it tried is written down, if at all, as what it was: a try that ended too late. It is there again once that is done.
    assert_eq!(outcome_of(&second, &github, 2000).await, "routed", "it is a node like any other again");
    sink.wait_for(2 * EVENTS + 2, SOON).await.expect("delivered");
    let settled = async {
        while first.count("SELECT COUNT(*) FROM gw_deliveries WHERE status <> 'delivered'").await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, settled).await.expect("what the sink answered is written down");
    assert_eq!(first.count_leases().await, 0);
    second.leave().await;
    first.check_invariants().await;
    assert_eq!(sink.total(), 2 * EVENTS + 2, "nothing was sent a third time");
    first.finish().await;
}
