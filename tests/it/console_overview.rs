//! The overview, the keys and the settings: what they show, and to whom.

use serde_json::json;
use signalbox::sim::{self, sink::Sink};

use crate::{
    console::Visitor,
    support::{App, Options, on_both},
};

on_both! {
    async fn the_overview_counts_what_came_and_shows_who_needs_somebody(backend) {
        let app = App::start(backend, Options::default()).await;
        let sink = Sink::start().await.expect("a port");
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        assert!(visitor.read("/console?org=org").await.contains("Nothing is connected yet"));
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        for seed in 0..3 {
            app.post_event(&github, "github:push", seed).await;
        }
        sink.wait_for(3, std::time::Duration::from_secs(30)).await.expect("delivered");
        for path in ["/console?org=org", "/console?org=org&window=day", "/console?org="] {
            let page = visitor.read(path).await;
            assert!(page.contains("Events: 3 routed, 0 filtered or ignored, 0 unrouted"), "{path}: {page}");
            assert!(page.contains("github:push") && !page.contains("need somebody"), "{path}: {page}");
        }
        let another = visitor.read("/console?org=another").await;
        assert!(another.contains("Events: 0 routed") && !another.contains("github:push"), "{another}");
        assert_eq!(visitor.get("/console?window=year").await.status, 400);

        let id = &github.connection;
        app.write_rows(&format!("UPDATE gw_installations SET status = 'needs_reauth' WHERE id = '{id}'")).await;
        let page = visitor.read("/console?org=org").await;
        assert!(page.contains("Connections that need somebody") && page.contains(">needs_reauth<"), "{page}");
        app.finish().await;
    }

    async fn what_needs_somebody_is_found_however_much_needs_nobody(backend) {
        let app = App::start(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        let connections = |prefix: &str, status: &str, count: u32| {
            format!("INSERT INTO gw_installations (id, provider, external_id, org_id, connected_by, status, created_at, updated_at)
                WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
                SELECT '{prefix}' || i, 'github', '{prefix}' || i, 'org', 'ada', '{status}', 1, 1 FROM n")
        };
        let destinations = |prefix: &str, disabled: &str, count: u32| {
            format!("INSERT INTO gw_destinations (id, org_id, scope, scope_id, url, secret_sealed, created_at, updated_at, disabled_reason)
                WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
                SELECT '{prefix}' || i, 'org', 'workspace', '{prefix}' || i, 'http://127.0.0.1:9/' || '{prefix}' || i, 'x', 1, 1, {disabled} FROM n")
        };
        app.execute(&connections("in_1old", "needs_reauth", 1)).await;
        app.execute(&connections("in_2new", "revoked", 120)).await;
        app.execute(&destinations("dst_1old", "NULL", 120)).await;
        app.execute(&destinations("dst_2new", "'gone'", 1)).await;
        for path in ["/console?org=org", "/console?org="] {
            let page = visitor.read(path).await;
            assert!(page.contains("need somebody") && page.contains("/console/connections/in_1old1\""), "{path}: {page}");
            assert!(page.contains("127.0.0.1:9/dst_2new1<") && page.contains("It answered 410 Gone"), "{path}: {page}");
            assert!(!page.contains("More that are") && !page.contains("And more"), "{path}: {page}");
        }
        let workspace = visitor.read("/console/workspaces/main?org=org").await;
        assert!(workspace.contains("<option value=\"in_1old1\""), "the one that routes can be chosen: {workspace}");
        let another = visitor.read("/console?org=another").await;
        assert!(!another.contains("need somebody") && !another.contains("dst_2new1"), "{another}");

        app.execute(&connections("in_3more", "suspended", 30)).await;
        app.execute(&connections("in_4more", "active", 101)).await;
        app.execute(&destinations("dst_3more", "'gone'", 30)).await;
        let page = visitor.read("/console?org=org").await;
        assert!(page.contains("/console/connections?status=suspended\">More that are"), "{page}");
        assert!(!page.contains("status=needs_reauth") && page.contains("And more: these are the oldest 20."), "{page}");
        assert!(visitor.read("/console/workspaces/main?org=org").await.contains("These are the newest."));
        app.execute("DELETE FROM gw_destinations; DELETE FROM gw_installations").await;
        app.finish().await;
    }

    async fn keys_and_settings_are_for_service_keys_and_show_no_secret(backend) {
        let app = App::start(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        let made = json!({"name": "<ci>", "orgId": "org", "scope": "read"});
        let made = visitor.call("POST", "/admin/keys", &[], Some(made)).await;
        assert_eq!(made.status, 201, "{}", made.json());
        let (key, id) = (made.json()["key"].clone(), made.json()["id"].clone());
        let (key, id) = (key.as_str().expect("a key"), id.as_str().expect("an id"));
        let page = visitor.read("/console/keys?org=org").await;
        assert!(page.contains("&#60;ci&#62;") && page.contains(&format!("DELETE /admin/keys/{id}")), "{page}");
        assert!(!page.contains(key), "the key itself is shown once");
        let bound = Visitor::signed_in(&app, key).await;
        for path in ["/console/keys", "/console/settings"] {
            assert_eq!(bound.get(path).await.status, 403, "{path}");
        }
        assert!(!bound.read("/console").await.contains("/console/keys"), "nor does the navigation lead there");
        assert_eq!(visitor.call("DELETE", &format!("/admin/keys/{id}"), &[], None).await.status, 200);
        assert!(visitor.read("/console/keys?org=org").await.contains(">revoked</span>"));

        let page = visitor.read("/console/settings").await;
        let reached = format!("http://{}/", app.address());
        for shown in [reached.as_str(), "server.public_url", "auth.service_key", "set, not shown", "What the doctor says", "environment"] {
            assert!(page.contains(shown), "{shown}: {page}");
        }
        assert!(!page.contains(App::service_key()), "no secret");
        app.finish_without(&[key.to_owned()]).await;
    }
}
