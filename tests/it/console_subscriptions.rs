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
}
