//! The console's pages about who gets what, and where it goes.

use signalbox::sim;

use crate::{
    console::{Visitor, text},
    support::{App, Options, on_both},
};

on_both! {
    async fn a_workspace_shows_its_integrations_and_where_its_deliveries_go(backend) {
        let app = App::start(backend, Options::default()).await;
        let connected = app.connect("acme", sim::find("github").expect("simulated"), 1).await;
        let name = "wörk space/1";
        let path = "w%C3%B6rk%20space%2F1";
        let integration = app.subscribe("acme", path, &connected, None).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        let page = text(&visitor.get(&format!("/console/workspaces/{path}?org=acme")).await);
        for expected in [name, "tide-clock", "13 of 45", "active", "nowhere", &format!("/console/integrations/{integration}")] {
            assert!(page.contains(expected), "{expected}:\n{page}");
        }
        assert!(page.contains(&format!("PUT /workspaces/{path}/destination")), "{page}");
        assert!(page.contains(&format!("/console/dead-letters?workspace={path}\"")), "{page}");

        app.set_destination("acme", None, "http://127.0.0.1:9/org").await;
        let page = text(&visitor.get(&format!("/console/workspaces/{path}?org=acme")).await);
        assert!(page.contains("http://127.0.0.1:9/org") && page.contains("none of its own") && !page.contains("nowhere"));
        app.set_destination("acme", Some(path), "http://127.0.0.1:9/own?a=<b>").await;
        let page = text(&visitor.get(&format!("/console/workspaces/{path}?org=acme")).await);
        assert!(page.contains("http://127.0.0.1:9/own?a=%3Cb%3E") && !page.contains("none of its own"), "{page}");

        app.operator("acme").ask("DELETE", &format!("/integrations/{integration}"), None).await.expect("ended");
        let page = text(&visitor.get(&format!("/console/workspaces/{path}?org=acme")).await);
        assert!(page.contains("Show 1 that ended") && !page.contains(&integration));
        let page = text(&visitor.get(&format!("/console/workspaces/{path}?org=acme&all=1")).await);
        assert!(page.contains(&integration) && page.contains("disconnected"));
        assert!(page.contains("providerResourceId"), "and it can be subscribed again");
        app.finish().await;
    }

    async fn an_integration_shows_every_event_of_its_provider_with_the_chosen_ones_checked(backend) {
        let app = App::start(backend, Options::default()).await;
        let connected = app.connect("acme", sim::find("github").expect("simulated"), 1).await;
        let only = ["github:push", "github:issue.closed"];
        let integration = app.subscribe("acme", "main", &connected, Some(&only)).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        let page = text(&visitor.get(&format!("/console/integrations/{integration}?org=acme")).await);
        assert_eq!(page.matches("name=\"events[]\"").count(), 45);
        assert_eq!(page.matches(" checked").count(), 2, "{page}");
        for key in only {
            assert!(page.contains(&format!("value=\"{key}\" checked")), "{key}");
        }
        assert!(page.contains("2</span> of 45") && page.contains("/console/workspaces/main"));

        let reading = app.make_key(&["--org", "acme", "--scope", "read"]);
        let reader = Visitor::signed_in(&app, &reading).await;
        let page = text(&reader.get(&format!("/console/integrations/{integration}")).await);
        let disabled = page.matches(" disabled>").count() + page.matches(" disabled aria-label=").count();
        assert_eq!(disabled, page.matches("type=\"checkbox\"").count(), "{page}");
        assert!(!page.contains("data-confirm=") && !page.contains(">Save<"), "{page}");

        let foreign = app.make_key(&["--org", "globex"]);
        let stranger = Visitor::signed_in(&app, &foreign).await;
        assert_eq!(stranger.get(&format!("/console/integrations/{integration}")).await.status, 404);
        assert_eq!(stranger.get("/console/integrations/int_nobody").await.status, 404);
        let page = text(&stranger.get("/console/workspaces/main").await);
        assert!(page.contains("Not subscribed to anything"), "a workspace is an id of whoever asks");
        app.finish().await;
    }

    async fn the_org_sees_its_workspaces_and_destinations_and_nobody_elses(backend) {
        let app = App::start(backend, Options::default()).await;
        let connected = app.connect("acme", sim::find("github").expect("simulated"), 1).await;
        app.subscribe("acme", "main", &connected, None).await;
        let narrow = app.subscribe("acme", "a%20b", &connected, None).await;
        let half = app.connect("acme", sim::find("github").expect("simulated"), 2).await;
        let pausing = app.subscribe("acme", "main", &half, None).await;
        let pause = serde_json::json!({"autoSync": false});
        app.operator("acme").ask("PATCH", &format!("/integrations/{pausing}"), Some(&pause)).await.expect("paused");
        let secret = app.set_destination("acme", Some("main"), "http://127.0.0.1:9/main?a=<b>").await;
        let own = serde_json::json!({"destination": {"url": "http://127.0.0.1:9/narrow", "headers": {"X-Team": "tides"}}});
        app.operator("acme").ask("PATCH", &format!("/integrations/{narrow}"), Some(&own)).await.expect("set");
        let own_test = format!("POST /integrations/{narrow}/destination/test");
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        assert!(text(&visitor.get("/console/workspaces?org=").await).contains("Choose an org"));
        assert!(text(&visitor.get("/console/destinations?org=").await).contains("Choose an org"));
        let page = text(&visitor.get("/console/workspaces?org=acme").await);
        for expected in ["/console/workspaces/main", "/console/workspaces/a%20b", "its own destination", "nowhere", "1 active, 1 paused<"] {
            assert!(page.contains(expected), "{expected}: {page}");
        }
        assert!(!page.contains(">disabled</span>"), "{page}");
        app.write_rows("UPDATE gw_destinations SET disabled_reason = 'gone' WHERE scope = 'workspace'").await;
        assert!(text(&visitor.get("/console/workspaces?org=acme").await).contains("its own destination <span class=\"badge bad\">disabled"));
        for path in ["/console/workspaces/main?org=acme", "/console/destinations?org=acme", "/console?org=acme"] {
            assert!(text(&visitor.get(path).await).contains("It answered 410 Gone, so nothing is sent to it any more"), "{path}");
        }
        let unlinked = app.connect("acme", sim::find("github").expect("simulated"), 3).await;
        let page = text(&visitor.get(&format!("/console/workspaces/main?org=acme&connection={}", unlinked.connection)).await);
        assert!(page.contains("Nothing of harborworks-3 is linked yet"), "{page}");
        let opened = visitor.get("/console/workspaces?org=acme&open=x%2Fy%20z").await;
        assert_eq!((opened.status, opened.headers.get("location")), (303, Some("/console/workspaces/x%2Fy%20z")));

        let page = text(&visitor.get("/console/destinations?org=acme").await);
        for expected in ["Workspace main", "POST /workspaces/main/destination/test", "/console/integrations/", "X-Team", &own_test, "The org has no destination of its own"] {
            assert!(page.contains(expected), "{expected}: {page}");
        }
        assert!(!page.contains(&secret) && !page.contains("tides<") && !page.contains("<b>\""), "{page}");
        app.set_destination("acme", None, "http://127.0.0.1:9/org").await;
        let page = text(&visitor.get("/console/destinations?org=acme").await);
        assert!(page.contains("The whole org") && page.contains("DELETE /orgs/acme/destination"), "{page}");

        let reading = app.make_key(&["--org", "acme", "--scope", "read"]);
        let page = text(&Visitor::signed_in(&app, &reading).await.get("/console/destinations").await);
        assert!(page.contains("The whole org") && !page.contains("data-api="), "{page}");
        let foreign = app.make_key(&["--org", "globex"]);
        let stranger = Visitor::signed_in(&app, &foreign).await;
        assert!(text(&stranger.get("/console/destinations").await).contains("Nothing goes anywhere yet"));
        assert!(text(&stranger.get("/console/workspaces").await).contains("No workspace has subscribed yet"));
        app.finish().await;
    }
}
