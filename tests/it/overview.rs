//! What a console shows and does, over the API alone: orgs, workspaces, destinations, deliveries, activity, keys, settings.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signalbox::sim::{
    self,
    client::Answer,
    sink::{Behaviour, Sink},
};

use crate::support::{App, Connected, Options, on_both};

const SOON: Duration = Duration::from_secs(30);

impl App {
    async fn with_key(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.send(method, path, &[("x-api-key", key), ("content-type", "application/json")], body).await
    }

    /// Asks until it is as wanted.
    async fn until(&self, key: &str, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let shown = self.with_key(key, "GET", path, None).await.json();
            if wanted(&shown) {
                return shown;
            }
            assert!(Instant::now() < deadline, "{path} never was as wanted: {shown:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn subscribed(app: &App, org: &str, workspaces: &[&str], account: u32) -> Connected {
    let github = app.connect(org, sim::find("github").expect("simulated"), account).await;
    for workspace in workspaces {
        app.subscribe(org, workspace, &github, Some(&["github:push"])).await;
    }
    github
}

fn items(shown: &Value) -> &Vec<Value> {
    shown["items"].as_array().expect("a list")
}

on_both! {
    async fn an_org_key_sees_its_dead_letters_counts_them_and_sends_them_again(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::status_only(400));
        let app = App::start(backend, Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "")).await;
        for (org, account) in [("org", 1), ("other", 2)] {
            app.set_destination(org, None, &sink.url("/in")).await;
            let github = subscribed(&app, org, &["ws"], account).await;
            for seed in 0..3 {
                app.post_event(&github, "github:push", u64::from(account) * 10 + seed).await;
            }
        }
        let key = app.make_key(&["--org", "org"]);
        let counted = app.until(&key, "/deliveries/count?status=dead", |counted| counted["count"] == 3).await;
        assert_eq!(counted, json!({"count": 3, "more": false}));
        let dead = app.with_key(&key, "GET", "/deliveries?status=dead&limit=2", None).await.json();
        assert_eq!(items(&dead).len(), 2);
        assert!(items(&dead).iter().all(|delivery| delivery["orgId"] == "org" && delivery["reason"] == "http_status"), "{dead:#}");
        let cursor = dead["nextCursor"].as_str().expect("there is more").to_owned();
        let rest = app.with_key(&key, "GET", &format!("/deliveries?status=dead&cursor={cursor}"), None).await.json();
        assert_eq!((items(&rest).len(), &rest["nextCursor"]), (1, &Value::Null));
        for (query, count) in [("provider=github", 3), ("provider=linear", 0), ("workspace=ws", 3), ("workspace=elsewhere", 0)] {
            let counted = app.with_key(&key, "GET", &format!("/deliveries/count?status=dead&{query}"), None).await.json();
            assert_eq!(counted["count"], count, "{query}");
        }

        let mine: Vec<_> = items(&dead).iter().chain(items(&rest)).map(|delivery| delivery["id"].clone()).collect();
        let theirs = app.until(App::service_key(), "/deliveries?status=dead", |all| items(all).len() == 6).await;
        let foreign = items(&theirs).iter().find(|delivery| delivery["orgId"] == "other").expect("one")["id"].clone();
        sink.behave("/in", Behaviour::ok());
        let ids = json!([mine[0], mine[1], foreign, "dlv_nowhere"]);
        let done = app.with_key(&key, "POST", "/deliveries/retry", Some(json!({"deliveryIds": ids}))).await.json();
        assert_eq!(done["retried"], 2, "{done}");
        let statuses: Vec<_> = done["results"].as_array().expect("results").iter().map(|result| result["status"].clone()).collect();
        assert_eq!(statuses, ["pending", "pending", "not_found", "not_found"]);
        let one = format!("/deliveries/{}", mine[0].as_str().expect("an id"));
        let delivered = app.until(&key, &one, |delivery| delivery["status"] == "delivered").await;
        assert_eq!(delivered["attempts"].as_array().map(Vec::len), Some(2), "{delivered:#}");
        app.until(&key, "/deliveries/count?status=delivered", |counted| counted["count"] == 2).await;
        let again = app.with_key(&key, "POST", "/deliveries/retry", Some(json!({"deliveryIds": [mine[0]]}))).await.json();
        assert_eq!(again["results"][0]["status"], "not_retryable");
        let log = app.operator("org").ask("GET", "/admin/audit", None).await.expect("a log");
        assert_eq!(items(&log).iter().filter(|entry| entry["action"] == "delivery.retried").count(), 2);
        app.finish().await;
    }

    async fn orgs_workspaces_and_destinations_are_listed_with_what_there_is_of_them(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        let secret = app.set_destination("org-a", None, &sink.url("/in")).await;
        app.set_destination("org-a", Some("ws-2"), &sink.url("/in")).await;
        let github = subscribed(&app, "org-a", &["ws-1", "ws-2"], 1).await;
        subscribed(&app, "org-b", &["ws-1"], 2).await;
        let service = App::service_key();
        let orgs = app.with_key(service, "GET", "/orgs", None).await.json();
        assert_eq!(orgs["items"], json!([
            {"id": "org-a", "connections": {"total": 1, "byStatus": {"active": 1}}, "destinations": 2},
            {"id": "org-b", "connections": {"total": 1, "byStatus": {"active": 1}}, "destinations": 0},
        ]));
        let first = app.with_key(service, "GET", "/orgs?limit=1", None).await.json();
        assert_eq!(first["nextCursor"], "org-a");
        let second = app.with_key(service, "GET", "/orgs?limit=1&cursor=org-a", None).await.json();
        assert_eq!((&second["items"][0]["id"], &second["nextCursor"]), (&json!("org-b"), &Value::Null));
        assert_eq!(items(&app.with_key(service, "GET", "/orgs?prefix=org-b", None).await.json()).len(), 1);
        assert_eq!(app.with_key(service, "GET", "/orgs?prefix=a%20b", None).await.status, 400);
        let own = app.operator("org-b").ask("GET", "/orgs", None).await.expect("a list");
        assert_eq!(items(&own).len(), 1);

        let key = app.make_key(&["--org", "org-a", "--scope", "read"]);
        let workspaces = app.with_key(&key, "GET", "/workspaces", None).await.json();
        let shown: Vec<_> = items(&workspaces).iter()
            .map(|workspace| (workspace["id"].as_str(), workspace["active"].as_u64(), workspace["destinationId"].is_string()))
            .collect();
        assert_eq!(shown, [(Some("ws-1"), Some(1), false), (Some("ws-2"), Some(1), true)]);
        let more = app.with_key(&key, "GET", "/workspaces?limit=1&cursor=ws-1", None).await.json();
        assert_eq!((&more["items"][0]["id"], &more["nextCursor"]), (&json!("ws-2"), &Value::Null));

        app.post_event(&github, "github:push", 1).await;
        sink.wait_for(2, SOON).await.expect("delivered");
        let destinations = app.with_key(&key, "GET", "/destinations", None).await.json();
        let shown: Vec<_> = items(&destinations).iter()
            .map(|destination| (destination["scope"].clone(), destination["scopeId"].clone(), destination["circuit"].clone()))
            .collect();
        let row = |scope: &str, id: &str| (json!(scope), json!(id), json!("closed"));
        assert_eq!(shown, [row("org", "org-a"), row("workspace", "ws-2")]);
        assert_eq!(destinations["hasFallback"], false);
        assert!(!destinations.to_string().contains(&secret), "no secret is listed");
        app.finish().await;
    }

    async fn a_key_is_shown_once_and_does_not_end_itself_by_accident(backend) {
        let app = App::start(backend, Options::default()).await;
        let service = App::service_key();
        let made = app.with_key(service, "POST", "/admin/keys", Some(json!({"name": "console"}))).await;
        assert_eq!(made.status, 201);
        let made = made.json();
        let (id, key) = (made["id"].as_str().expect("an id").to_owned(), made["key"].as_str().expect("a key").to_owned());
        assert_eq!((&made["orgId"], &made["scope"]), (&Value::Null, &json!("write")));
        let listed = app.with_key(&key, "GET", "/admin/keys", None).await.json();
        assert_eq!(items(&listed).iter().find(|row| row["id"] == id.as_str()).map(|row| row["own"].clone()), Some(json!(true)));
        assert!(!listed.to_string().contains(&key), "it is shown once");

        let bound = app.with_key(&key, "POST", "/admin/keys", Some(json!({"name": "reader", "orgId": "org", "scope": "read"}))).await.json();
        let reader = bound["key"].as_str().expect("a key").to_owned();
        assert_eq!(app.with_key(&reader, "GET", "/connections", None).await.status, 200);
        for (method, path, code) in [
            ("GET", "/admin/keys", "service_key_required"),
            ("POST", "/admin/keys", "service_key_required"),
        ] {
            assert_eq!(app.with_key(&reader, method, path, Some(json!({"name": "x"}))).await.json()["error"], code, "{method} {path}");
        }
        let of_org = app.operator("org").ask("GET", "/admin/keys", None).await.expect("a list");
        assert_eq!(items(&of_org).len(), 1, "with X-Org-Id only that org's are seen");
        let theirs = app.operator("other").call("DELETE", &format!("/admin/keys/{}", bound["id"].as_str().expect("an id")), None).await;
        assert_eq!(theirs.expect("an answer").status, 404);

        let own = format!("/admin/keys/{id}");
        let refused = app.with_key(&key, "DELETE", &own, None).await;
        assert_eq!((refused.status, refused.json()["error"].as_str()), (409, Some("own_key")));
        let bound = format!("/admin/keys/{}", bound["id"].as_str().expect("an id"));
        assert_eq!(app.with_key(&key, "DELETE", &bound, None).await.json()["status"], "revoked");
        assert_eq!(app.with_key(&reader, "GET", "/connections", None).await.status, 401, "at once, on this node");
        assert_eq!(app.with_key(&key, "DELETE", &bound, None).await.status, 404, "once");
        assert_eq!(app.with_key(&key, "DELETE", &format!("{own}?force=true"), None).await.status, 200);
        assert_eq!(app.with_key(&key, "GET", "/connections", None).await.status, 401);

        let log = app.operator("org").ask_for_all("GET", "/admin/audit").await.expect("a log");
        let by_key = |action: &str, who: &str| items(&log).iter().filter(|entry| entry["action"] == action && entry["actor"]["who"] == who).count();
        assert_eq!(by_key("key.created", &format!("key:{id}")), 1, "{log:#}");
        assert_eq!(by_key("key.revoked", &format!("key:{id}")), 2, "{log:#}");
        app.finish_without(&[key, reader]).await;
    }

    async fn activity_is_counted_by_org_and_provider_and_outlives_the_process(backend) {
        let sink = Sink::start().await.expect("a port");
        let mut app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = subscribed(&app, "org", &["ws"], 1).await;
        for seed in 0..3 {
            app.post_event(&github, "github:push", seed).await;
        }
        let (_, again) = app.post_event(&github, "github:push", 0).await;
        assert_eq!(again.json()["status"], "duplicate");
        app.post_event(&github, "github:pull-request.opened", 5).await;
        app.send("POST", "/webhooks/github", &[("x-hub-signature-256", "sha256=00")], "{}").await;
        let key = app.make_key(&["--org", "org"]);
        let is_counted = |chart: &Value| chart["total"]["delivered"] == 3;
        for window in ["hour", "day"] {
            let chart = app.until(&key, &format!("/activity?window={window}"), is_counted).await;
            assert_eq!((&chart["total"]["routed"], &chart["total"]["duplicates"]), (&json!(3), &json!(0)), "{chart:#}");
            let buckets = chart["buckets"].as_array().expect("buckets");
            assert_eq!(buckets.len(), if window == "hour" { 60 } else { 96 });
            let by_provider: u64 = buckets.iter().filter_map(|bucket| bucket["providers"]["github"]["routed"].as_u64()).sum();
            assert_eq!(by_provider, 3);
        }
        let all = app.until(App::service_key(), "/activity", is_counted).await;
        assert_eq!((&all["total"]["duplicates"], &all["total"]["refused"]), (&json!(1), &json!(1)));
        let other = app.make_key(&["--org", "other"]);
        let nothing = app.with_key(&other, "GET", "/activity", None).await.json();
        assert_eq!((&nothing["total"]["routed"], nothing["buckets"].as_array().map(Vec::len)), (&json!(0), Some(60)));

        app.terminate().await;
        app.restart().await;
        let kept = app.with_key(&key, "GET", "/activity?window=day", None).await.json();
        assert_eq!((&kept["total"]["routed"], &kept["total"]["delivered"]), (&json!(3), &json!(3)));
        app.finish().await;
    }

    async fn settings_say_who_set_them_and_show_no_secret_and_the_doctor_examines_what_runs(backend) {
        let options = Options::default().with("SIGNALBOX_TELEMETRY__OTLP_ENDPOINT", "http://user:hidden-password@127.0.0.1:9?token=hidden-token");
        let app = App::start(backend, options).await;
        let shown = app.operator("org").ask_for_all("GET", "/admin/settings").await.expect("settings");
        let setting = |name: &str| items(&shown).iter().find(|setting| setting["name"] == name).expect(name).clone();
        let listen = setting("server.listen");
        assert_eq!((&listen["source"], &listen["value"], &listen["default"]), (&json!("environment"), &json!("127.0.0.1:0"), &json!("127.0.0.1:4110")));
        assert_eq!(listen["variable"], "SIGNALBOX_SERVER__LISTEN");
        let retention = setting("retention.events_days");
        assert_eq!((&retention["source"], &retention["value"]), (&json!("default"), &json!(30)));
        let key = setting("auth.service_key");
        assert_eq!((&key["secret"], &key["isSet"], &key["value"]), (&json!(true), &json!(true), &Value::Null));
        assert_eq!(setting("delivery.secret")["isSet"], false);
        assert_eq!(setting("telemetry.otlp_endpoint")["value"], "http://user:***@127.0.0.1:9/?***");
        for secret in [App::service_key(), "hidden-password", "hidden-token", sim::find("github").expect("simulated").secret] {
            assert!(!shown.to_string().contains(secret), "a secret is shown");
        }

        let report = app.operator("org").ask_for_all("GET", "/admin/doctor").await.expect("a report");
        assert_eq!(report["mistakes"], 0, "{report:#}");
        for subject in ["vault", "database", "migrations", "durability", "public_url", "providers.github"] {
            let found = report["findings"].as_array().expect("findings").iter().find(|finding| finding["subject"] == subject);
            assert!(found.is_some(), "{subject} is not in {report:#}");
        }
        let reached = format!("http://{}", app.address());
        assert_eq!(setting("server.public_url")["value"], reached, "with the port that was chosen");
        assert!(report.to_string().contains(&format!("{reached}/")) && !report.to_string().contains(":0/"), "{report:#}");
        app.finish_without(&["hidden-password".to_owned(), "hidden-token".to_owned()]).await;
    }

    async fn a_quarantined_webhook_is_looked_at_verified_again_and_forgotten_one_by_one(backend) {
        let app = App::start(backend, Options::default()).await;
        let body = format!("{{\"n\":\"{}\"}}", "x".repeat(20_000));
        for body in ["{\"n\":1}", body.as_str()] {
            let headers = [("x-github-event", "push"), ("x-github-delivery", "d"), ("x-hub-signature-256", "sha256=5ec2e7")];
            assert_eq!(app.send("POST", "/webhooks/github", &headers, body.to_owned()).await.status, 401);
        }
        let mut operator = app.operator("org");
        let kept = operator.ask_for_all("GET", "/admin/quarantine").await.expect("a list");
        let path = |index: usize| format!("/admin/quarantine/{}", kept["items"][index]["id"].as_str().expect("an id"));
        let newest = operator.ask("GET", &path(0), None).await.expect("there");
        assert_eq!((&newest["bodyIsCut"], newest["body"].as_str().map(str::len)), (&json!(true), Some(16 * 1024)));
        assert_eq!(newest["bodyBytes"], body.len());
        let oldest = operator.ask("GET", &path(1), None).await.expect("there");
        assert_eq!((&oldest["body"], &oldest["bodyIsCut"]), (&json!("{\"n\":1}"), &json!(false)));
        assert!(oldest["headerNames"].as_array().expect("names").contains(&json!("x-hub-signature-256")), "{oldest}");
        assert!(!oldest.to_string().contains("5ec2e7"), "no header's value is shown: {oldest}");
        let checked = operator.ask("POST", &format!("{}/reverify", path(0)), None).await.expect("checked");
        assert_eq!((&checked["considered"], &checked["rejected"]), (&json!(1), &json!(1)));
        assert_eq!(operator.ask("DELETE", &path(0), None).await.expect("forgotten")["status"], "deleted");
        assert_eq!(operator.call("GET", &path(0), None).await.expect("an answer").status, 404);
        assert_eq!(items(&operator.ask_for_all("GET", "/admin/quarantine").await.expect("a list")).len(), 1);
        let log = operator.ask_for_all("GET", "/admin/audit").await.expect("a log");
        for action in ["quarantine.reverified", "quarantine.discarded"] {
            assert!(items(&log).iter().any(|entry| entry["action"] == action), "{action} is not in {log:#}");
        }
        app.finish().await;
    }
}
