//! Gap healing: what a provider sent and the gateway never got is asked for again, and nothing else.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use signalbox::sim::{
    sink::Sink,
    world::{Fault, FaultRule, Loss},
};

use crate::support::{App, Backend, Options, Stage, on_both};

const SOON: Duration = Duration::from_mins(2);
const ATTEMPTS: &str = "POST /app/hook/deliveries/*/attempts";

fn options() -> Options {
    Options::default().with("SIGNALBOX_HEALING__MAX_PER_SECOND", "1000")
}

/// Sends pushes of the first account, numbered from `first`; whether they are lost on their way.
async fn push(stage: &Stage, numbers: std::ops::Range<u64>, is_lost: bool) {
    let github = &stage.world.github;
    github.set(|ambient| ambient.loss = if is_lost { Loss::Known } else { Loss::None });
    let facts: Vec<_> = numbers.map(|number| github.facts(1, number)).collect();
    join_all(facts.iter().map(|facts| github.send("github:push", facts))).await;
    github.set(|ambient| ambient.loss = Loss::None);
}

async fn subscribed(backend: Backend, options: Options, sink: &Sink) -> Stage {
    let stage = Stage::set(backend, options).await;
    let github = stage.connect("org", "github", 1).await;
    stage.app.set_destination("org", None, &sink.url("/in")).await;
    let facts = stage.world.github.facts(1, 0);
    let body = json!({"connectionId": github, "events": ["github:push"],
        "resources": [{"providerResourceId": facts.resource_id}]});
    stage.ask("org", "POST", "/workspaces/ws/integrations", Some(body)).await;
    stage
}

async fn heal(stage: &Stage, since: &Value) -> Value {
    stage.ask("org", "POST", "/admin/heal", Some(json!({"provider": "github", "since": since}))).await
}

/// How often each webhook was delivered to the sink.
fn deliveries(sink: &Sink) -> BTreeMap<String, u32> {
    let mut deliveries = BTreeMap::new();
    for received in sink.received() {
        let envelope: Value = serde_json::from_slice(&received.body).expect("an envelope");
        let id = envelope["deliveryId"].as_str().expect("an id").to_owned();
        *deliveries.entry(id).or_default() += 1;
    }
    deliveries
}

on_both! {
    async fn of_a_thousand_deliveries_the_fifty_that_were_lost_are_asked_for_arrive_and_go_out_once(backend) {
        let sink = Sink::start().await.expect("a port");
        let stage = subscribed(backend, options().with("SIGNALBOX_HEALING__ENABLED", "false"), &sink).await;
        let github = &stage.world.github;
        for round in 0..50_u64 {
            push(&stage, round * 20..round * 20 + 19, false).await;
            push(&stage, round * 20 + 19..round * 20 + 20, true).await;
        }
        let lost: Vec<_> = github.sent().into_iter().filter(|sent| sent.loss == Loss::Known).map(|sent| sent.delivery_id).collect();
        assert_eq!(lost.len(), 50);
        sink.wait_for(950, SOON).await.expect("what was not lost is delivered");

        let report = heal(&stage, &json!(0)).await;
        let counts = ["missing", "requested", "healed", "refused", "outstanding"].map(|name| report[name].as_u64());
        assert_eq!(counts, [Some(50), Some(50), Some(50), Some(0), Some(0)], "{report:#}");
        assert_eq!(report["status"], "completed", "{report:#}");
        assert!(report["examined"].as_u64().is_some_and(|examined| examined >= 1000), "{report:#}");
        let mut asked_for: Vec<_> =
            github.sent().into_iter().filter(|sent| sent.redelivery).map(|sent| sent.delivery_id).collect();
        asked_for.sort_unstable();
        let mut expected = lost.clone();
        expected.sort_unstable();
        assert_eq!(asked_for, expected, "those and only those");

        sink.wait_for(1000, SOON).await.expect("everything is delivered");
        let again = heal(&stage, &json!(0)).await;
        assert_eq!((&again["missing"], &again["requested"]), (&json!(0), &json!(0)), "{again:#}");
        assert_eq!(github.calls(ATTEMPTS).len(), 50);
        let delivered = deliveries(&sink);
        assert_eq!(delivered.len(), 1000);
        assert!(delivered.values().all(|times| *times == 1));
        let listed = stage.ask("org", "GET", "/admin/heal?provider=github", None).await;
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
        stage.finish().await;
    }

    async fn after_an_outage_the_gap_is_healed_without_being_asked(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut stage = subscribed(backend, options().with("SIGNALBOX_HEALING__INTERVAL_S", "0.5"), &sink).await;
        push(&stage, 0..3, false).await;
        stage.until("org", "/admin/heal", |list| list["items"][0]["status"] == "completed").await;
        sink.wait_for(3, SOON).await.expect("delivered");
        stage.app.terminate().await;
        // Nobody answers: the provider notes that they failed, and does not try again.
        push(&stage, 3..8, false).await;
        // Until the provider knows the new address.
        stage.world.github.fail(FaultRule::once("GET /app/hook/deliveries", Fault::Delay { ms: 1_000 }));
        stage.app.restart().await;
        stage.tell_where();
        sink.wait_for(8, SOON).await.expect("the outage is made good");
        let healed = stage.until("org", "/admin/heal?limit=100", |list| {
            let items = list["items"].as_array().expect("items");
            items.iter().map(|run| run["healed"].as_u64().unwrap_or(0)).sum::<u64>() == 5
        }).await;
        assert!(healed["items"].as_array().expect("items").iter().all(|run| run["cause"] != "on_demand"));
        assert!(deliveries(&sink).values().all(|times| *times == 1));
        stage.finish().await;
    }

    async fn a_run_that_fails_leaves_its_gap_to_the_next(backend) {
        let sink = Sink::start().await.expect("a port");
        let stage = subscribed(backend, options().with("SIGNALBOX_HEALING__ENABLED", "false"), &sink).await;
        push(&stage, 0..3, true).await;
        stage.world.github.fail(FaultRule::always("GET /app/hook/deliveries", Fault::status(500)));
        let failed = heal(&stage, &json!(0)).await;
        assert_eq!((&failed["status"], &failed["requested"]), (&json!("failed"), &json!(0)), "{failed:#}");
        assert!(failed["error"].is_string() && failed["finishedAt"].is_string());
        stage.world.github.heal();
        stage.world.github.fail(FaultRule::once(ATTEMPTS, Fault::too_many_requests(1)).after(1));
        let healed = heal(&stage, &json!(0)).await;
        assert_eq!((&healed["status"], &healed["healed"]), (&json!("completed"), &json!(3)), "{healed:#}");
        stage.world.github.tune(|knobs| knobs.refuse_redelivery = true);
        push(&stage, 3..4, true).await;
        let refused = heal(&stage, &json!(0)).await;
        assert_eq!((&refused["missing"], &refused["refused"]), (&json!(1), &json!(1)), "{refused:#}");
        stage.finish().await;
    }

    async fn what_cannot_be_healed_is_refused_by_its_reason(backend) {
        let stage = Stage::set(backend, Options::default().with("SIGNALBOX_HEALING__ENABLED", "false")).await;
        for (body, expected) in [
            (json!({}), "missing_required_fields"),
            (json!({"provider": "acme", "since": 0}), "unknown_provider"),
            (json!({"provider": "linear", "since": 0}), "not_supported"),
            (json!({"provider": "github", "since": "yesterday"}), "invalid_fields"),
            (json!({"provider": "github", "since": "2199-01-01T00:00:00Z"}), "invalid_fields"),
        ] {
            assert_eq!(stage.refused("org", "POST", "/admin/heal", Some(body)).await, (400, expected.into()));
        }
        stage.world.github.fail(FaultRule::always("GET /app/hook/deliveries", Fault::Delay { ms: 2_000 }));
        let headers = [("x-api-key", App::service_key())];
        let ask = || stage.app.send("POST", "/admin/heal", &headers, r#"{"provider":"github"}"#);
        let (one, other) = tokio::join!(ask(), ask());
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409]);
        let key = stage.app.make_key(&["--org", "org"]);
        assert_eq!(stage.with_key(&key, "GET", "/admin/heal", None).await.status, 403);
        stage.finish().await;
    }
}
