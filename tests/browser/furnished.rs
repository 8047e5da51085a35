//! A gateway in use: what pages look like when there is something on them.

use serde_json::json;
use signalbox::sim::{self, sink::Behaviour};

use crate::stage::{Stage, WORKSPACE};

/// Another workspace, whose destination is broken.
pub const OTHER_WORKSPACE: &str = "ci-bots";
/// The path of the org's destination at the sink.
pub const DESTINATION: &str = "/webhooks";
/// The path of the broken one.
pub const BROKEN: &str = "/broken";

/// What was put there.
pub struct Furniture {
    /// An event that was delivered to one workspace and is a dead letter of another.
    pub event: String,
    /// A connection with linked resources.
    pub connection: String,
    /// One of the integrations.
    pub integration: String,
}

/// Connects every provider, subscribes two workspaces, and lets everything happen that events can come to.
pub async fn furnish(stage: &Stage) -> Furniture {
    stage.send_to(DESTINATION).await;
    stage.sink.behave(BROKEN, Behaviour::status_only(500));
    let broken = json!({"url": stage.sink.url(BROKEN), "headers": {"Authorization": "Bearer t"}});
    stage.ask("PUT", &format!("/workspaces/{OTHER_WORKSPACE}/destination"), Some(broken)).await;
    let mut connections = Vec::new();
    let mut integrations = Vec::new();
    for provider in sim::PROVIDERS {
        let connection = stage.connect(provider.slug, 1).await;
        integrations.push(stage.subscribe(provider.slug, 1, &connection, WORKSPACE).await);
        connections.push(connection);
    }
    let others = stage.subscribe("github", 1, &connections[0], OTHER_WORKSPACE).await;
    let narrow = json!({"events": ["github:pull-request.opened"]});
    stage.ask("PATCH", &format!("/integrations/{others}"), Some(narrow)).await;
    stage.ask("PATCH", &format!("/integrations/{}", integrations[3]), Some(json!({"autoSync": false}))).await;
    let key = json!({"name": "nightly report", "scope": "read"});
    stage.ask("POST", "/admin/keys", Some(key)).await;

    let kinds = [
        "github:push",
        "github:issue.opened",
        "vercel:deployment.created",
        "vercel:deployment.succeeded",
        "linear:issue.created",
        "linear:comment.created",
        "sentry:issue.created",
    ];
    for (kind, seed) in kinds.into_iter().zip(1..) {
        assert_eq!(stage.post_event(kind, 1, seed).await.status, 200, "{kind}");
    }
    // Nobody has connected this account.
    assert_eq!(stage.post_event("github:push", 9, 20).await.json()["outcome"], "unrouted");
    let forged = sim::find("github").expect("simulated");
    let facts = stage.world.facts("github", 1, 21).expect("simulated");
    let request = forged.event("github:push", &facts, b"not the secret").expect("a known kind");
    assert_eq!(stage.app.outsider().post_webhook("github", &request).await.expect("an answer").status, 401);

    let both = stage.post_event("github:pull-request.opened", 1, 30).await.json();
    let event = both["eventId"].as_str().expect("an id").to_owned();
    stage
        .until(&format!("/events/{event}"), |event| {
            let of = |status: &str| {
                let deliveries = event["deliveries"].as_array().into_iter().flatten();
                deliveries.filter(|delivery| delivery["status"] == status).count()
            };
            of("dead") == 1 && of("delivered") == 1
        })
        .await;
    Furniture { event, connection: connections[0].clone(), integration: integrations[0].clone() }
}
