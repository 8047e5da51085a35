//! `promises.md` P7: destinations that hang, drip, reset, redirect, flood and talk garbage cost the others nothing. What
//! is theirs is tried as often as the schedule says and ends as it should; the gateway neither follows nor swallows what
//! they answer. How fast the others stay is measured in `loadtest/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};
use signalbox::sim::{
    self,
    sink::{Behaviour, Received, Sink},
};

use crate::support::{App, Options, nobody_listening, on_both};

const SOON: Duration = Duration::from_mins(1);
const EVENTS: usize = 8;
/// A first try and two retries.
const TRIES: usize = 3;
const SCHEDULE: &str = "1,1";
const CAP: u32 = 4;
/// What the process may hold with all of it at once; a flood alone is 100 MB.
const CEILING_MIB: u64 = 256;

/// What a destination does, and how its deliveries end: delivered at the first try, or dead for this reason.
fn destinations() -> Vec<(&'static str, Behaviour, Option<&'static str>)> {
    let after = |millis, then| Behaviour::After(Duration::from_millis(millis), Box::new(then));
    vec![
        ("/fine", Behaviour::ok(), None),
        ("/slow", after(700, Behaviour::ok()), None),
        ("/drips-its-body", Behaviour::Drip(Duration::from_millis(20)), None),
        ("/floods", Behaviour::Flood(100_000_000), None),
        (
            "/floods-and-fails",
            after(
                0,
                Behaviour::Answer {
                    status: 500,
                    headers: vec![("x-large".to_owned(), "~".repeat(8_000))],
                    body: "~".repeat(1_000_000),
                },
            ),
            Some("http_status"),
        ),
        ("/hangs", Behaviour::Hang, Some("timeout")),
        ("/drips-its-head", Behaviour::DripHead(Duration::from_millis(20)), Some("timeout")),
        ("/resets", Behaviour::Reset, Some("connection_failed")),
        ("/talks-garbage", Behaviour::Garbage("SSH-2.0-OpenSSH_9.9\r\n\0\u{1}".to_owned()), Some("connection_failed")),
        (
            "/endless-head",
            Behaviour::Garbage(format!("HTTP/1.1 200 OK\r\nx: {}", "~".repeat(2_000_000))),
            Some("connection_failed"),
        ),
        ("/redirects", Behaviour::redirect("/caught"), Some("http_status")),
        ("/wants-no-more-now", Behaviour::status_only(400), Some("http_status")),
    ]
}

fn at<'a>(received: &'a [Received], path: &str) -> Vec<&'a Received> {
    received.iter().filter(|received| received.path == path).collect()
}

fn ids(received: &[&Received]) -> BTreeSet<String> {
    received.iter().map(|received| received.webhook_id.clone()).collect()
}

on_both! {
    async fn destinations_that_misbehave_cost_nobody_else_anything_and_end_as_they_should(backend) {
        let sink = Sink::start().await.expect("a port");
        let options = Options::default()
            .with("SIGNALBOX_DELIVERY__TIMEOUT_MS", "1000")
            .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", SCHEDULE)
            .with("SIGNALBOX_DELIVERY__MAX_IN_FLIGHT_PER_DESTINATION", &CAP.to_string())
            // What a circuit does is another test's matter: here every try is to be made.
            .with("SIGNALBOX_DELIVERY__CIRCUIT_FAILURES", "100000");
        let app = App::start(backend, options).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        for (path, behaviour, _) in destinations() {
            sink.behave(path, behaviour);
            let workspace = path.trim_start_matches('/');
            app.subscribe("org", workspace, &github, Some(&["github:push"])).await;
            app.set_destination("org", Some(workspace), &sink.url(path)).await;
        }
        app.subscribe("org", "closed", &github, Some(&["github:push"])).await;
        let (_reserved, closed) = nobody_listening();
        app.set_destination("org", Some("closed"), &format!("http://{closed}/")).await;

        let mut events = Vec::new();
        for seed in 0..EVENTS as u64 {
            let (_, answer) = app.post_event(&github, "github:push", seed).await;
            assert_eq!((answer.status, answer.json()["outcome"].as_str()), (200, Some("routed")));
            events.push(answer.json()["eventId"].as_str().expect("an id").to_owned());
        }
        let arrived = |all: &[Received]| at(all, "/fine").len() == EVENTS;
        sink.wait_until("everything of the one that is fine", SOON, arrived).await.expect("delivered");

        // Every delivery comes to its end, whatever its destination does.
        let ended = async {
            loop {
                let deliveries = app.health(true).await["census"]["deliveries"].clone();
                if deliveries["pending"].as_u64().unwrap_or(0) == 0 {
                    return deliveries;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let ended = tokio::time::timeout(SOON, ended).await.expect("no delivery stays open");
        let of_each = destinations().into_iter().chain([("/closed", Behaviour::Reset, Some("connection_failed"))]);
        let expected: BTreeMap<String, Option<&str>> =
            of_each.map(|(path, _, end)| (path.trim_start_matches('/').to_owned(), end)).collect();
        let dead = expected.values().filter(|end| end.is_some()).count() * EVENTS;
        assert_eq!(ended, json!({"delivered": expected.len() * EVENTS - dead, "dead": dead}));
        for event in &events {
            let detail = app.operator("org").ask("GET", &format!("/events/{event}"), None).await.expect("the event");
            for delivery in detail["deliveries"].as_array().expect("deliveries") {
                let workspace = delivery["workspaceId"].as_str().expect("a workspace");
                let reason = expected[workspace];
                let status = if reason.is_some() { "dead" } else { "delivered" };
                assert_eq!((&delivery["status"], delivery["reason"].as_str()), (&json!(status), reason), "{delivery:#}");
                let tries = if reason.is_some() { TRIES } else { 1 };
                let attempts = delivery["attempts"].as_array().map(Vec::len).or_else(|| {
                    delivery["attempts"].as_u64().and_then(|attempts| usize::try_from(attempts).ok())
                });
                assert_eq!(attempts, Some(tries), "{delivery:#}");
            }
        }

        let received = sink.received();
        for (path, _, end) in destinations() {
            let here = at(&received, path);
            let tries = if end.is_some() { TRIES } else { 1 };
            assert_eq!((ids(&here).len(), here.len()), (EVENTS, EVENTS * tries), "{path}: each as often as it should");
            assert!(here.iter().all(|received| received.beside == 0), "{path}: one attempt of a delivery at a time");
            let most = here.iter().map(|received| received.open_here).max();
            assert!(most <= Some(CAP), "{path}: {most:?} attempts at once");
        }
        assert!(at(&received, "/caught").is_empty(), "a redirect is not followed");
        if let Some(peak) = app.peak_memory_kib() {
            println!("at most {} MiB", peak / 1024);
            assert!(peak / 1024 < CEILING_MIB, "it held {} MiB", peak / 1024);
        }

        // What is dead is not lost: mended, everybody gets everything.
        for (path, _, _) in destinations() {
            sink.behave(path, Behaviour::ok());
        }
        let now_there = json!({"url": sink.url("/closed")});
        app.operator("org").ask("PUT", "/workspaces/closed/destination", Some(&now_there)).await.expect("moved");
        let request = json!({"installationId": github.connection, "batchSize": 1000});
        let caught_up = app.operator("org").ask("POST", "/admin/replay/catchup", Some(&request)).await.expect("done");
        // It names webhooks, each with all of its dead deliveries.
        assert_eq!(caught_up["replayed"].as_array().map(Vec::len), Some(EVENTS), "{caught_up}");
        let everything = |all: &[Received]| {
            expected.keys().all(|workspace| {
                let path = format!("/{workspace}");
                let answered = at(all, &path).into_iter().filter(|received| received.answered == Some(200));
                answered.map(|received| &received.webhook_id).collect::<BTreeSet<_>>().len() == EVENTS
            })
        };
        sink.wait_until("everything for everybody", SOON, everything).await.expect("delivered");
        app.finish().await;
    }

    async fn a_destination_that_is_down_is_left_alone_and_gets_everything_when_it_is_back(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/down", Behaviour::status_only(500));
        let options = Options::default()
            .with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1")
            .with("SIGNALBOX_DELIVERY__CIRCUIT_FAILURES", "3")
            .with("SIGNALBOX_DELIVERY__CIRCUIT_PROBE_S", "1")
            .with("SIGNALBOX_DELIVERY__MAX_IN_FLIGHT_PER_DESTINATION", "1");
        let app = App::start(backend, options).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        for workspace in ["down", "fine"] {
            app.subscribe("org", workspace, &github, Some(&["github:push"])).await;
            app.set_destination("org", Some(workspace), &sink.url(&format!("/{workspace}"))).await;
        }
        let post = async |seeds: std::ops::Range<u64>| {
            for seed in seeds {
                let (_, answer) = app.post_event(&github, "github:push", seed).await;
                assert_eq!((answer.status, answer.json()["outcome"].as_str()), (200, Some("routed")));
            }
        };
        post(0..5).await;
        let open = async {
            loop {
                let actors: Value = app.operator("org").ask_for_all("GET", "/admin/actors").await.expect("shown");
                if actors.to_string().contains("\"circuit\":\"open\"") {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, open).await.expect("its circuit opens");
        post(5..25).await;
        let fine = |all: &[Received]| at(all, "/fine").len() == 25;
        sink.wait_until("everything of the other", SOON, fine).await.expect("delivered");
        // Only probes went there: far fewer tries than there are deliveries waiting.
        assert!(at(&sink.received(), "/down").len() < 15, "{} tries", at(&sink.received(), "/down").len());
        sink.behave("/down", Behaviour::ok());
        let back = |all: &[Received]| {
            let answered = at(all, "/down").into_iter().filter(|received| received.answered == Some(200));
            ids(&answered.collect::<Vec<_>>()).len() == 25
        };
        sink.wait_until("what waited for it", SOON, back).await.expect("delivered");
        assert!(at(&sink.received(), "/down").iter().all(|received| received.open_here == 1), "one at a time");
        app.finish().await;
    }
}
