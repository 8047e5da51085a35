//! The console's pages of events, dead letters and the quarantine: what they show, to whom, and where they lead.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use signalbox::{
    model::clock::{Clock as _, SystemClock},
    sim::{
        self,
        sink::{Behaviour, Sink},
    },
};

use crate::{
    console::Visitor,
    support::{App, Connected, Options, on_both},
};

const SOON: Duration = Duration::from_secs(30);

fn id_of(answer: &Value) -> &str {
    answer["eventId"].as_str().expect("an id")
}

async fn subscribed(app: &App, org: &str, account: u32) -> Connected {
    let github = app.connect(org, sim::find("github").expect("simulated"), account).await;
    app.subscribe(org, "ws", &github, Some(&["github:push"])).await;
    github
}

/// Reads a page until it has a text.
async fn until_it_has(visitor: &Visitor<'_>, path: &str, text: &str) -> String {
    let deadline = Instant::now() + SOON;
    loop {
        let page = visitor.read(path).await;
        if page.contains(text) {
            return page;
        }
        assert!(Instant::now() < deadline, "{path} never had {text}: {page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

on_both! {
    async fn an_event_that_nobody_can_get_says_what_it_was_and_claims_nothing_that_was_not_asked(backend) {
        let app = App::start(backend, Options::default()).await;
        let github = subscribed(&app, "org", 1).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        let facts = github.facts(1, SystemClock.now());
        let push = github.provider.event("github:push", &facts, github.provider.secret.as_bytes()).expect("known");
        let unnamed = push.with_header("x-github-event", Some("star")).with_header("x-github-delivery", Some("star-1"));
        let answer = app.outsider().post_webhook("github", &unnamed).await.expect("an answer");
        let page = visitor.read(&format!("/console/events/{}", id_of(&answer.json()))).await;
        assert!(page.contains("so nobody can subscribe to it.") && page.contains("harborworks-1</a>"), "{page}");
        for falsehood in ["No linked resource", "Once somebody subscribes", "class=\"btn primary\" data-script", "unmapped event"] {
            assert!(!page.contains(falsehood), "{falsehood}: {page}");
        }

        let (_, answer) = app.post_event(&github, "github:installation.created", 2).await;
        let page = visitor.read(&format!("/console/events/{}", id_of(&answer.json()))).await;
        assert!(page.contains("This is about our records") && !page.contains("class=\"bad\""), "{page}");

        let (_, answer) = app.post_event(&github, "github:pull-request.opened", 3).await;
        let page = visitor.read(&format!("/console/events/{}", id_of(&answer.json()))).await;
        for said in ["Its workspace did not choose this event.", "No subscription chose this event.", " (77", "data-done-empty="] {
            assert!(page.contains(said), "{said}: {page}");
        }
        app.finish().await;
    }

    async fn what_is_held_or_waits_is_told_and_let_go_on_the_page_of_its_connection(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let path = format!("/console/connections/{}", github.connection);
        let visitor = Visitor::signed_in(&app, &app.make_key(&["--org", "org"])).await;
        let page = visitor.read(&path).await;
        let release = format!("POST {}/release-held", &path["/console".len()..]);
        assert!(page.contains("no event has come yet") && !page.contains(&release), "{page}");
        assert!(!page.contains("Events wait that nobody was to get"), "{page}");

        app.post_event(&github, "github:push", 1).await;
        let page = until_it_has(&visitor, &path, "Events wait that nobody was to get when they came").await;
        assert!(!page.contains(&release) && page.contains("&amp;outcome=unrouted\">Look at them"), "{page}");

        app.subscribe("org", "ws", &github, Some(&["github:push"])).await;
        let facts = github.facts(2, SystemClock.now());
        let push = github.provider.event("github:push", &facts, b"unused").expect("known");
        let payload: Value = serde_json::from_slice(&push.body).expect("JSON");
        let body = json!({"connectionId": github.connection, "orgId": "org", "deliveryId": "held-1", "eventType": "push",
            "payload": payload, "receivedAt": 1_771_980_000});
        let headers = [("x-api-key", App::service_key()), ("content-type", "application/json"), ("x-backfill-hold", "true")];
        let held = app.send("POST", "/webhooks/github", &headers, body.to_string()).await.json();
        let event = visitor.read(&format!("/console/events/{}", id_of(&held))).await;
        assert!(event.contains("held until its connection") && !event.contains("next try") && !event.contains("/retry"), "{event}");
        let page = visitor.read(&path).await;
        assert!(page.contains("Release 1 held") && page.contains(&release), "{page}");
        let released = visitor.call("POST", &release["POST ".len()..], &[], None).await;
        assert_eq!(released.json()["released"], 1);
        let rerouted = format!("{}/reroute", &path["/console".len()..]);
        assert_eq!(visitor.call("POST", &rerouted, &[], None).await.json()["routed"], 1);
        let page = visitor.read(&path).await;
        assert!(!page.contains(&release) && !page.contains("Events wait that nobody was to get"), "{page}");
        sink.wait_for(2, SOON).await.expect("delivered");
        app.finish().await;
    }

    async fn of_what_came_before_the_account_was_connected_the_page_says_that_it_waits_and_leads_to_no_empty_list(backend) {
        let app = App::start(backend, Options::default()).await;
        let account = app.connect("other", sim::find("github").expect("simulated"), 1).await;
        let facts = account.facts(1, SystemClock.now());
        app.operator("other").ask("DELETE", &format!("/connections/{}", account.connection), None).await.expect("ended");
        let push = account.provider.event("github:push", &facts, account.provider.secret.as_bytes()).expect("known");
        let early = app.outsider().post_webhook("github", &push).await.expect("an answer").json();
        let github = app.connect("org", sim::find("github").expect("simulated"), 1).await;
        let visitor = Visitor::signed_in(&app, &app.make_key(&["--org", "org"])).await;
        let path = format!("/console/connections/{}", github.connection);
        let page = until_it_has(&visitor, &path, "Events wait that nobody was to get when they came").await;
        assert!(!page.contains("outcome=unrouted"), "{page}");
        let list = format!("/console/events?connection={}&outcome=unrouted", github.connection);
        assert!(!visitor.read(&list).await.contains(id_of(&early)));
        app.post_event(&github, "github:push", 2).await;
        until_it_has(&visitor, &path, "outcome=unrouted").await;
        app.finish().await;
    }

    async fn events_are_listed_filtered_found_by_any_id_and_shown_only_to_their_org(backend) {
        let sink = Sink::start().await.expect("a port");
        let app = App::start(backend, Options::default()).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = subscribed(&app, "org", 1).await;
        let (facts, answer) = app.post_event(&github, "github:push", 1).await;
        let event = answer.json()["eventId"].as_str().expect("an id").to_owned();
        let (_, filtered) = app.post_event(&github, "github:pull-request.opened", 2).await;
        let filtered = filtered.json()["eventId"].as_str().expect("an id").to_owned();
        sink.wait_for(1, SOON).await.expect("delivered");
        let delivery = sink.received()[0].webhook_id.clone();

        let key = app.make_key(&["--org", "org"]);
        let visitor = Visitor::signed_in(&app, &key).await;
        let all = visitor.read("/console/events").await;
        assert!(all.contains(&event) && all.contains(&filtered) && all.contains("data-live"), "{all}");
        for (query, shows, hides) in [
            ("outcome=routed", &event, &filtered),
            ("outcome=filtered", &filtered, &event),
            ("eventKey=github:push", &event, &filtered),
            (&format!("search={}", facts.delivery_id), &event, &filtered),
            ("until=2099-01-01T00:00&eventKey=github:push", &event, &filtered),
        ] {
            let page = visitor.read(&format!("/console/events?{query}")).await;
            assert!(page.contains(shows.as_str()) && !page.contains(hides.as_str()), "{query}: {page}");
        }
        let nothing = visitor.read("/console/events?provider=linear").await;
        assert!(nothing.contains("No event is like that") && !nothing.contains(&event), "{nothing}");
        for (search, address) in [(&event, format!("/console/events/{event}")), (&delivery, format!("/console/events/{event}#{delivery}"))] {
            let found = visitor.get(&format!("/console/events?search={search}")).await;
            assert_eq!((found.status, found.headers.get("location")), (303, Some(address.as_str())));
        }
        // Whatever is looked for, it is looked for among events.
        for (search, segment) in [("%0Ab", "%0Ab"), ("/../../../events", "%2F..%2F..%2F..%2Fevents"), ("%23%3F", "%23%3F")] {
            let found = visitor.get(&format!("/console/events?search={event}{search}")).await;
            let address = format!("/console/events/{event}{segment}");
            assert_eq!((found.status, found.headers.get("location")), (303, Some(address.as_str())));
            assert_eq!(visitor.get(&address).await.status, 404);
        }
        assert_eq!(visitor.get("/console/events?search=dlv_nobody").await.status, 404);
        assert_eq!(visitor.get("/console/events?outcome=odd").await.status, 400);

        let shown = until_it_has(&visitor, &format!("/console/events/{event}"), "HTTP 200").await;
        for text in ["The newest webhook secret made its signature", "Workspace ws", delivery.as_str(), "&#34;ref&#34;:"] {
            assert!(shown.contains(text), "{text} is not in {shown}");
        }
        let fragment = visitor.read(&format!("/console/events/{event}?fragment=1")).await;
        assert!(fragment.contains("The newest webhook secret") && !fragment.contains("&#34;ref&#34;:"), "{fragment}");
        let raw = visitor.read(&format!("/console/events/{event}?view=raw")).await;
        assert!(raw.contains("aria-current=\"true\">Raw"), "{raw}");
        let stranger = app.make_key(&["--org", "other"]);
        let stranger = Visitor::signed_in(&app, &stranger).await;
        assert_eq!(stranger.get(&format!("/console/events/{event}")).await.status, 404);
        assert_eq!(stranger.get(&format!("/console/events?search={delivery}")).await.status, 404);
        assert!(!stranger.read("/console/events").await.contains(&event));
        app.finish().await;
    }

    async fn dead_letters_are_counted_chosen_and_sent_again_by_who_may_write(backend) {
        let sink = Sink::start().await.expect("a port");
        sink.behave("/in", Behaviour::status_only(400));
        let app = App::start(backend, Options::default().with("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "")).await;
        app.set_destination("org", None, &sink.url("/in")).await;
        let github = subscribed(&app, "org", 1).await;
        let reader = app.make_key(&["--org", "org", "--scope", "read"]);
        let reader = Visitor::signed_in(&app, &reader).await;
        assert!(reader.read("/console/dead-letters").await.contains("Nothing was given up"));
        for seed in 0..2 {
            app.post_event(&github, "github:push", seed).await;
        }
        let page = until_it_has(&reader, "/console/dead-letters", "2 in all, 2 on this page").await;
        assert!(page.contains("answered with an error") && !page.contains("name=\"deliveryIds[]\""), "{page}");
        let key = app.make_key(&["--org", "org"]);
        let writer = Visitor::signed_in(&app, &key).await;
        let page = writer.read("/console/dead-letters?provider=github").await;
        let ids: Vec<_> = page.split("name=\"deliveryIds[]\" value=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(ids.len(), 2, "{page}");
        assert!(page.contains("data-api=\"POST /deliveries/retry\""), "{page}");
        sink.behave("/in", Behaviour::ok());
        let done = writer.call("POST", "/deliveries/retry", &[], Some(json!({"deliveryIds": ids}))).await;
        assert_eq!(done.json()["retried"], 2);
        until_it_has(&writer, "/console/dead-letters", "Nothing was given up").await;
        app.finish().await;
    }

    async fn the_quarantine_is_for_service_keys_and_shows_what_is_believed_by_nobody_as_text(backend) {
        let app = App::start(backend, Options::default()).await;
        let visitor = Visitor::signed_in(&app, App::service_key()).await;
        assert!(visitor.read("/console/quarantine").await.contains("Nothing is set aside"));
        let headers = [("x-github-event", "push"), ("x-github-delivery", "d"), ("x-hub-signature-256", "sha256=5ec2e7")];
        app.send("POST", "/webhooks/github", &headers, "<script>alert(1)</script>").await;
        let page = visitor.read("/console/quarantine").await;
        let id = page.split("/console/quarantine/").nth(1).and_then(|rest| rest.split('"').next()).expect("a link").to_owned();
        let shown = visitor.read(&format!("/console/quarantine/{id}")).await;
        assert!(shown.contains("No live webhook secret made its signature") && shown.contains("x-hub-signature-256"), "{shown}");
        assert!(!shown.contains("<script>alert") && !shown.contains("5ec2e7"), "{shown}");
        assert_eq!(visitor.get("/console/quarantine/qtn_nowhere").await.status, 404);
        let key = app.make_key(&["--org", "org"]);
        let org = Visitor::signed_in(&app, &key).await;
        for path in ["/console/quarantine".to_owned(), format!("/console/quarantine/{id}")] {
            assert_eq!(org.get(&path).await.status, 403);
        }
        app.finish().await;
    }
}
