//! `promises.md` P5 and `system.md` 7: two nodes on one PostgreSQL are one gateway.

use std::{collections::HashSet, time::Duration};

use serde_json::json;
use signalbox::sim::{
    self,
    sink::{Behaviour, Sink},
};

use crate::support::{App, Backend, Connected, Options};

const SOON: Duration = Duration::from_secs(30);
/// Less than what a node would find out by itself, without a word from the other: caches live for half a minute.
const TOLD: Duration = Duration::from_secs(10);
/// Less than a lease: what comes back within it was taken over.
const TAKEN_OVER: Duration = Duration::from_secs(20);

/// Two nodes with a connection, a workspace's integration and a destination; `None` without a PostgreSQL server.
async fn two_nodes(sink: &Sink) -> Option<(App, App, Connected, String)> {
    let first = App::start(Backend::postgres().await?, Options::default()).await;
    let second = first.start_beside().await;
    first.set_destination("org", None, &sink.url("/in")).await;
    let github = first.connect("org", sim::find("github").expect("simulated"), 1).await;
    let integration = first.subscribe("org", "ws", &github, Some(&["github:push"])).await;
    Some((first, second, github, integration))
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
    second.leave().await;
    first.finish().await;
}
