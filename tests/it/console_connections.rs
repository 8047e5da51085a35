//! The pages of connections: what they show of a connection's life, and what the API calls in them do.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    console::Visitor,
    support::{App, Options, Stage, on_both},
};

/// The addresses of the API that a page calls, as `METHOD /path`.
fn calls(page: &str) -> Vec<&str> {
    page.split("data-api=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

on_both! {
    async fn the_pages_show_a_connection_from_its_beginning_to_its_receipt(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&stage.app, App::service_key()).await;
        let empty = visitor.read("/console/connections?org=org").await;
        assert!(empty.contains("Nothing is connected yet") && empty.contains("data-connect=\"github\""), "{empty}");
        let github = stage.connect("org", "github", 1).await;
        let resources = json!([{"providerResourceId": "77", "name": "o/<b>r</b>"}]);
        let link = json!({"connectionId": github, "resources": resources});
        stage.ask("org", "POST", "/workspaces/ws%2F1/integrations", Some(link)).await;

        let list = visitor.read("/console/connections?org=org&provider=github&status=active").await;
        assert!(list.contains(&format!("/console/connections/{github}")) && list.contains("harborworks-1"), "{list}");
        assert!(!visitor.read("/console/connections?org=org&status=suspended").await.contains(&github));
        assert!(visitor.read("/console/connections?org=another").await.contains("Nothing is connected yet"));
        let everybody = visitor.read("/console/connections?org=").await;
        assert!(everybody.contains(&github) && everybody.contains("Choose an org"), "every org, and nobody to connect for");

        let path = format!("/console/connections/{github}");
        let page = visitor.read(&path).await;
        for shown in ["o/&#60;b&#62;r&#60;/b&#62;", "/console/workspaces/ws%2F1?org=org\"", ">o/&lt;b&gt;r&lt;/b&gt; to ws/1</a>", "installation.connected", "data-org=\"org\""] {
            assert!(page.contains(shown), "{shown} is not in {page}");
        }
        assert!(!page.contains("How it ended"));
        // Nobody has chosen an org: the link does, and without it the page asks.
        assert_eq!(visitor.get("/console/workspaces/ws%2F1?org=org").await.status, 200);
        let asking = visitor.get("/console/workspaces/ws%2F1").await;
        let asking = (asking.status, String::from_utf8(asking.body.to_vec()).expect("UTF-8"));
        assert!(asking.0 == 400 && asking.1.contains("<h1>Choose an org</h1>"), "{}", asking.1);
        let expected = ["validate", "resources/", "integrations", "reroute"];
        for call in expected {
            assert!(calls(&page).iter().any(|api| api.contains(call)), "{call}: {:?}", calls(&page));
        }
        assert!(calls(&page).contains(&format!("DELETE /connections/{github}").as_str()));

        // Another org's is as unknown as one that never was.
        for path in [path.as_str(), "/console/connections/in_0"] {
            assert_eq!(visitor.get(&format!("{path}?org=another")).await.status, 404, "{path}");
        }
        let reader = Visitor::signed_in(&stage.app, &stage.app.make_key(&["--org", "org", "--scope", "read"])).await;
        let page = reader.read(&path).await;
        assert!(calls(&page).is_empty() && !page.contains("data-connect=\""), "{page}");

        let ended = visitor.call("DELETE", &format!("/connections/{github}"), &[("x-org-id", "org")], None).await;
        assert_eq!(ended.json()["status"], "teardown_initiated");
        let deadline = Instant::now() + Duration::from_mins(1);
        let page = loop {
            let page = visitor.read(&path).await;
            if page.contains(">completed</span>") {
                break page;
            }
            assert!(Instant::now() < deadline, "{page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(page.contains("How it ended") && page.contains("Take the grant back at the provider"), "{page}");
        assert!(!page.contains("data-confirm-verb=\"Disconnect\"") && page.contains("data-connect=\"github\""), "{page}");
        stage.finish().await;
    }

    async fn a_token_is_renewed_before_its_end_only_where_it_still_can_be(backend) {
        let stage = Stage::set(backend, Options::default()).await;
        let linear = stage.connect("org", "linear", 1).await;
        let visitor = Visitor::signed_in(&stage.app, App::service_key()).await;
        let path = format!("/console/connections/{linear}");
        let page = visitor.read(&path).await;
        assert!(page.contains("<dd>ends <time") && page.contains("and is renewed before"), "{page}");
        stage.app.execute("UPDATE gw_installations SET status = 'needs_reauth'").await;
        let page = visitor.read(&path).await;
        assert!(page.contains("<dd>ends <time") && !page.contains("and is renewed before"), "{page}");
        stage.app.execute("UPDATE gw_tokens SET expires_at = 1000").await;
        let page = visitor.read(&path).await;
        assert!(page.contains("<dd>ended <time") && !page.contains("and is renewed before"), "{page}");
        stage.finish().await;
    }

    async fn a_page_that_refreshes_itself_gets_its_parts_and_no_frame(backend) {
        let app = App::start(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        for path in crate::console::PAGES {
            let whole = visitor.get(path).await;
            let joint = if path.contains('?') { '&' } else { '?' };
            let part = visitor.get(&format!("{path}{joint}fragment=1")).await;
            assert_eq!((whole.status, part.status), (200, 200), "{path}");
            let part = String::from_utf8(part.body.to_vec()).expect("UTF-8");
            assert!(!part.contains("<html") && !part.contains("<script") && !part.contains("<nav aria-label=\"Console\""), "{path}");
            assert!(part.contains("<h1"), "{path}");
            let live: Vec<&str> = part.split(" data-live").collect();
            for before in &live[..live.len() - 1] {
                let tag = before.rsplit('<').next().expect("a tag");
                assert!(tag.contains(" id=\""), "{path}: a live part without an id: <{tag}");
            }
        }
        app.finish().await;
    }
}
