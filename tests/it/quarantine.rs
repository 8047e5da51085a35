//! What cannot become an event is kept: wrongly signed webhooks until their secret is mended, and those whose handling
//! fails until it is.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox::{
    crypto::hmac::sha256,
    model::clock::{Clock, SystemClock},
    sim::{self, Encoding, sink::Sink},
};

use crate::support::{App, Options, on_both};

const SOON: Duration = Duration::from_secs(30);

on_both! {
    async fn a_wrongly_signed_webhook_becomes_an_event_once_its_secret_is_configured(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let facts = github.facts(1, SystemClock.now());
        let rotated = github.provider.event("github:push", &facts, b"the secret nobody told us about").expect("known");
        let rotated = rotated.with_header("x-correlation-id", Some("cor-of-its-sender"));
        for _ in 0..2 {
            let answer = app.outsider().post_webhook("github", &rotated).await.expect("an answer");
            assert_eq!(answer.status, 401);
        }
        let kept = app.operator("org").ask_for_all("GET", "/admin/quarantine").await.expect("an answer");
        assert_eq!(kept["items"].as_array().map(Vec::len), Some(1), "{kept}");
        assert_eq!(kept["items"][0]["cause"], "invalid_signature", "{kept}");
        assert!(!kept.to_string().contains("x-hub-signature"), "no header is shown: {kept}");
        let useless = app.operator("org").ask_for_all("POST", "/admin/quarantine/reverify").await.expect("an answer");
        assert_eq!((useless["accepted"].as_i64(), useless["rejected"].as_i64()), (Some(0), Some(1)), "{useless}");

        app.terminate().await;
        let secrets = format!("[\"{}\", \"the secret nobody told us about\"]", github.provider.secret);
        app.set("SIGNALBOX_PROVIDERS__GITHUB__WEBHOOK_SECRETS", &secrets);
        app.restart().await;
        let mended = app.operator("org").ask_for_all("POST", "/admin/quarantine/reverify").await.expect("an answer");
        assert_eq!((mended["accepted"].as_i64(), mended["rejected"].as_i64()), (Some(1), Some(0)), "{mended}");
        let delivered = sink.wait_for(1, SOON).await.expect("delivered at last");
        assert_eq!(delivered[0].headers.get("x-correlation-id"), Some("cor-of-its-sender"));
        let empty = app.operator("org").ask_for_all("GET", "/admin/quarantine").await.expect("an answer");
        assert_eq!(empty["items"], json!([]));
        app.finish().await;
    }

    async fn whoever_has_the_bytes_of_a_kept_webhook_takes_nothing_from_it(backend) {
        let mut app = App::start(backend, Options::default()).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let facts = github.facts(1, SystemClock.now());
        let first = github.provider.event("github:push", &facts, b"the secret nobody told us about").expect("known");
        let copies = [
            ("user-agent", Some("GitHub-Hookshot/1")),
            // It comes again.
            ("user-agent", Some("GitHub-Hookshot/2")),
            // The same bytes are an event of their own.
            ("x-github-delivery", Some("another delivery")),
            // What anybody can send who saw it.
            ("x-hub-signature-256", None),
            ("x-hub-signature-256", Some("sha256=00")),
            ("content-type", Some("application/x-www-form-urlencoded")),
            ("x-github-event", Some("ping")),
        ];
        for (name, value) in copies {
            let copy = first.clone().with_header(name, value);
            let answer = app.outsider().post_webhook("github", &copy).await.expect("an answer");
            assert_eq!(answer.status, 401);
        }
        let kept = app.operator("org").ask_for_all("GET", "/admin/quarantine").await.expect("an answer");
        let kept = kept["items"].as_array().expect("items");
        let attempts: Vec<_> = kept.iter().rev().map(|webhook| webhook["attempts"].as_i64()).collect();
        assert_eq!(attempts, [2, 1, 1, 1, 1, 1].map(Some), "{kept:#?}");
        let digest = hex::encode(sha256(&first.body));
        assert!(kept.iter().all(|webhook| webhook["bodySha256"] == json!(digest)), "it is the body's: {kept:#?}");

        app.terminate().await;
        let secrets = format!("[\"{}\", \"the secret nobody told us about\"]", github.provider.secret);
        app.set("SIGNALBOX_PROVIDERS__GITHUB__WEBHOOK_SECRETS", &secrets);
        app.restart().await;
        let mended = app.operator("org").ask_for_all("POST", "/admin/quarantine/reverify").await.expect("an answer");
        assert_eq!((mended["accepted"].as_i64(), mended["duplicates"].as_i64()), (Some(2), Some(2)), "{mended}");
        let events = app.operator("org").ask("GET", "/events?key=github:push", None).await.expect("a list");
        let mut ids: Vec<_> = events["items"].as_array().expect("items").iter().map(|event| &event["deliveryId"]).collect();
        ids.sort_by_key(ToString::to_string);
        let mut wanted = [json!(facts.delivery_id), json!("another delivery")];
        wanted.sort_by_key(ToString::to_string);
        assert_eq!(ids, wanted.iter().collect::<Vec<_>>(), "{events:#}");
        app.finish().await;
    }

    async fn a_body_that_nobody_can_read_is_kept_the_third_time_and_its_connection_goes_on(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let headers = vec![("x-github-event", "push".to_owned()), ("x-github-delivery", "unreadable".to_owned())];
        let secret = github.provider.secret.as_bytes();
        let unreadable = github.provider.signing.sign(headers, "{\"ref\":", secret, Encoding::Json);
        let kept = async || {
            let kept = app.operator("org").ask_for_all("GET", "/admin/quarantine").await.expect("an answer");
            kept["items"].as_array().expect("items").clone()
        };
        for time in 1..=4 {
            let answer = app.outsider().post_webhook("github", &unreadable).await.expect("an answer");
            assert_eq!(answer.status, 400, "{}", answer.json());
            assert_eq!(kept().await.len(), usize::from(time >= 3), "after {time} times");
            let (_, fine) = app.post_event(&github, "github:push", time).await;
            assert_eq!(fine.json()["outcome"], "routed", "its connection goes on");
        }
        assert_eq!(kept().await[0]["cause"], "invalid_payload", "{:?}", kept().await);
        // Nothing has been mended: it stays, and says so.
        let released = app.operator("org").ask_for_all("POST", "/admin/quarantine/reverify").await.expect("an answer");
        assert_eq!((released["accepted"].as_i64(), kept().await.len()), (Some(0), 1), "{released}");
        sink.wait_for(4, SOON).await.expect("the others are delivered");
        app.finish().await;
    }

    async fn of_a_flood_of_bad_signatures_as_many_are_kept_as_are_allowed_and_the_rest_is_counted(backend) {
        let options = Options::default().with("SIGNALBOX_INGEST__QUARANTINE_PER_S", "0");
        let app = App::start(backend, options).await;
        let headers = [("x-github-event", "push"), ("x-github-delivery", "d"), ("x-hub-signature-256", "sha256=00")];
        for number in 0..3 {
            let answer = app.send("POST", "/webhooks/github", &headers, format!("{{\"n\":{number}}}")).await;
            assert_eq!(answer.status, 401);
        }
        let kept: Value = app.operator("org").ask_for_all("GET", "/admin/quarantine").await.expect("an answer");
        assert_eq!(kept["items"].as_array().map(Vec::len), Some(0), "{kept}");
        let metrics = app.send("GET", "/metrics", &[], "").await;
        let metrics = String::from_utf8_lossy(&metrics.body);
        assert!(metrics.contains("signalbox_webhooks_not_quarantined_total{provider=\"github\"} 3"), "{metrics}");
        app.finish().await;
    }

    async fn the_quarantine_stays_within_its_bounds(backend) {
        let options = Options::default().with("SIGNALBOX_INGEST__QUARANTINE_MAX_COUNT", "5");
        let app = App::start(backend, options).await;
        for number in 0..12 {
            let headers = [("x-github-event", "push"), ("x-github-delivery", "d"), ("x-hub-signature-256", "sha256=00")];
            let answer = app.send("POST", "/webhooks/github", &headers, format!("{{\"n\":{number}}}")).await;
            assert_eq!(answer.status, 401);
        }
        let kept: Value = app.operator("org").ask_for_all("GET", "/admin/quarantine?limit=100").await.expect("an answer");
        assert_eq!(kept["items"].as_array().map(Vec::len), Some(5), "{kept}");
        app.finish().await;
    }
}
