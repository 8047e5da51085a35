//! To which installation and to which of its resources an event belongs, where payloads differ: several teams, slugs
//! instead of ids, personal accounts, no account at all.

use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{self, Encoding},
};

use crate::support::{App, Options, on_both};

struct Bench {
    app: App,
    posted: u32,
}

impl Bench {
    async fn connect(&self, org: &str, provider: &str, external_id: &str) -> String {
        let body = json!({"provider": provider, "externalId": external_id, "orgId": org, "connectedBy": "me"});
        let made = self.app.operator(org).ask("POST", "/admin/connections", Some(&body)).await.expect("adopted");
        made["id"].as_str().expect("an id").to_owned()
    }

    async fn subscribe(&self, org: &str, workspace: &str, connection: &str, resource: Value, events: &[&str]) {
        let body = json!({"connectionId": connection, "resources": [resource], "events": events});
        let path = format!("/workspaces/{workspace}/integrations");
        self.app.operator(org).ask("POST", &path, Some(&body)).await.expect("subscribed");
    }

    /// Posts a genuine webhook; how it was decided.
    async fn post(&mut self, provider: &str, mut body: Value) -> Value {
        self.posted += 1;
        let number = self.posted;
        let headers = match provider {
            "linear" => {
                body["webhookTimestamp"] = json!(SystemClock.now().0);
                let kind = body["type"].as_str().expect("a type").to_owned();
                vec![("linear-event", kind), ("linear-delivery", format!("delivery-{number}"))]
            }
            "sentry" => {
                // Its delivery id is a hash of the body.
                body["data"]["number"] = json!(number);
                let resource = body["hook"].take().as_str().expect("a hook").to_owned();
                vec![("sentry-hook-resource", resource), ("request-id", format!("request-{number}"))]
            }
            _ => {
                body["id"] = json!(format!("evt_{number}"));
                Vec::new()
            }
        };
        let provider = sim::find(provider).expect("simulated");
        let request = provider.signing.sign(headers, body.to_string(), provider.secret.as_bytes(), Encoding::Json);
        let answer = self.app.outsider().post_webhook(provider.slug, &request).await.expect("an answer");
        let answered = answer.json();
        assert_eq!((answer.status, &answered["status"]), (200, &json!("accepted")), "{answered}");
        let path = format!("/events/{}/explain", answered["eventId"].as_str().expect("an id"));
        self.app.operator("anybody").ask_for_all("GET", &path).await.expect("explained")
    }
}

/// The provider's ids of the resources that an event was decided to concern, sorted.
fn resources(explained: &Value) -> Vec<String> {
    let listed = explained["resources"].as_array().expect("a list").iter();
    let mut ids: Vec<_> =
        listed.map(|resource| resource["providerResourceId"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    ids
}

on_both! {
    async fn a_linear_event_belongs_to_each_team_it_names_and_to_all_if_it_names_none(backend) {
        let mut bench = Bench { app: App::start(backend, Options::default()).await, posted: 0 };
        let linear = bench.connect("org", "linear", "org-1").await;
        let other = bench.connect("org", "linear", "org-2").await;
        for (connection, team) in [(&linear, "t1"), (&linear, "t2"), (&linear, "t3"), (&other, "t1")] {
            bench.subscribe("org", "ws", connection, json!({"providerResourceId": team}), &["Issue", "Project"]).await;
        }
        for (kind, more, expected) in [
            ("Issue", json!({"teamId": "t1"}), &["t1"][..]),
            ("Issue", json!({"team": {"id": "t2"}}), &["t2"]),
            ("Project", json!({"teamIds": ["t1", "t3", "t9"]}), &["t1", "t3"]),
            ("Project", json!({}), &["t1", "t2", "t3"]),
            ("Issue", json!({"teamId": "t9"}), &[]),
        ] {
            let mut subject = more.clone();
            subject["id"] = json!("7f1c0b8e");
            let explained =
                bench.post("linear", json!({"type": kind, "action": "update", "organizationId": "org-1", "data": subject})).await;
            assert_eq!(resources(&explained), expected, "{kind} {more}");
            assert_eq!(explained["installation"]["id"], json!(linear), "the other organisation is not asked");
        }
        bench.app.finish().await;
    }

    async fn a_sentry_event_belongs_to_its_project_by_id_or_slug_and_to_all_if_it_names_none(backend) {
        let mut bench = Bench { app: App::start(backend, Options::default()).await, posted: 0 };
        let sentry = bench.connect("org", "sentry", "5a1f").await;
        for (id, slug) in [("111", "web"), ("222", "api")] {
            let resource = json!({"providerResourceId": id, "name": slug, "slug": slug});
            bench.subscribe("org", "ws", &sentry, resource, &["issue", "metric_alert"]).await;
        }
        let issue = |id: &str| json!({"issue": {"id": "1", "project": {"id": id, "slug": "web"}}});
        let alert = |projects: Value| json!({"metric_alert": {"id": "1", "projects": projects}});
        for (hook, action, about, expected) in [
            ("issue", "created", issue("111"), &["111"][..]),
            ("metric_alert", "critical", alert(json!(["api"])), &["222"]),
            ("metric_alert", "critical", alert(json!(["web", "api"])), &["111", "222"]),
            ("metric_alert", "critical", json!({"metric_alert": {"id": "1"}}), &["111", "222"]),
            ("metric_alert", "critical", alert(json!(["unknown"])), &[]),
        ] {
            let body = json!({"hook": hook, "action": action, "installation": {"uuid": "5a1f"}, "data": about});
            assert_eq!(resources(&bench.post("sentry", body).await), expected, "{hook} {about}");
        }
        bench.app.finish().await;
    }

    async fn a_vercel_event_belongs_to_the_team_it_names_and_else_to_the_person(backend) {
        let mut bench = Bench { app: App::start(backend, Options::default()).await, posted: 0 };
        let person = bench.connect("org", "vercel", "user_1").await;
        let team = bench.connect("org", "vercel", "team_1").await;
        for connection in [&person, &team] {
            bench.subscribe("org", "ws", connection, json!({"providerResourceId": "prj_1"}), &["vercel:deployment.created"]).await;
        }
        let cases = [
            (json!({"user": {"id": "user_1"}, "team": null}), Some(&person)),
            (json!({"user": {"id": "user_1"}}), Some(&person)),
            (json!({"user": {"id": "user_1"}, "team": {"id": "team_1"}}), Some(&team)),
            (json!({"user": {"id": "user_1"}, "team": {"id": "team_2"}}), None),
        ];
        for (mut payload, expected) in cases {
            payload["project"] = json!({"id": "prj_1"});
            payload["deployment"] = json!({"id": "dpl_1"});
            let body = json!({"type": "deployment.created", "createdAt": SystemClock.now().0, "payload": payload});
            let explained = bench.post("vercel", body).await;
            assert_eq!(explained["installation"]["id"].as_str(), expected.map(String::as_str), "{payload}");
        }
        bench.app.finish().await;
    }

    async fn an_event_that_names_no_account_belongs_to_the_one_installation_that_has_its_resource(backend) {
        let mut bench = Bench { app: App::start(backend, Options::default()).await, posted: 0 };
        let body = || json!({"hook": "issue", "action": "created", "data": {"issue": {"id": "1", "project": {"id": "111", "slug": "web"}}}});
        let first = bench.connect("org", "sentry", "uuid-1").await;
        assert_eq!(bench.post("sentry", body()).await["outcome"], "unrouted");
        bench.subscribe("org", "ws", &first, json!({"providerResourceId": "111"}), &["issue"]).await;
        let explained = bench.post("sentry", body()).await;
        assert_eq!((&explained["installation"]["id"], &explained["installation"]["matchedBy"]), (&json!(first), &json!("resource")));
        // Linked by another org as well, it is nobody's: nothing leaks on a guess.
        let second = bench.connect("other", "sentry", "uuid-2").await;
        bench.subscribe("other", "ws", &second, json!({"providerResourceId": "111"}), &["issue"]).await;
        let explained = bench.post("sentry", body()).await;
        assert_eq!((&explained["outcome"], &explained["installation"]), (&json!("unrouted"), &Value::Null));
        bench.app.finish().await;
    }
}
