//! What a GitHub App sends (octokit's webhook schemas).
//!
//! **Must not know** how the gateway reads it.

pub mod site;
mod story;

use serde_json::Value;

use self::story::Story;
use super::{Dice, Draft, Facts, Signing, SimulatedProvider};

/// GitHub's sending half.
pub static PROVIDER: SimulatedProvider = SimulatedProvider {
    slug: "github",
    keys: &[
        "github:push",
        "github:pull-request.opened",
        "github:pull-request.closed",
        "github:pull-request.merged",
        "github:pull-request.reopened",
        "github:pull-request.ready-for-review",
        "github:issue.opened",
        "github:issue.closed",
        "github:issue.reopened",
        "github:release.published",
        "github:release.created",
        "github:discussion.created",
        "github:discussion.answered",
        "github:issue-comment.created",
        "github:issue-comment.edited",
        "github:issue-comment.deleted",
        "github:pull-request.synchronize",
        "github:pull-request.converted-to-draft",
        "github:pull-request.review-requested",
        "github:pull-request-review.submitted",
        "github:pull-request-review.dismissed",
        "github:issue.assigned",
        "github:issue.labeled",
        "github:issue.transferred",
        "github:issue.deleted",
        "github:release.released",
        "github:release.prereleased",
        "github:release.edited",
        "github:release.deleted",
        "github:discussion.closed",
        "github:discussion.reopened",
        "github:discussion.unanswered",
        "github:discussion-comment.created",
        "github:workflow-run.completed",
        "github:check-suite.completed",
        "github:deployment-status.created",
        "github:branch.created",
        "github:branch.deleted",
        "github:repository.renamed",
        "github:repository.transferred",
        "github:repository.archived",
        "github:repository.unarchived",
        "github:repository.deleted",
        "github:repository.privatized",
        "github:repository.publicized",
    ],
    seed_keys: 13,
    control: &[
        "github:installation.created",
        "github:installation.deleted",
        "github:installation.suspend",
        "github:installation.unsuspend",
        "github:installation.new-permissions-accepted",
        "github:installation-repositories.added",
        "github:installation-repositories.removed",
        "github:installation-target.renamed",
        "github:app-authorization.revoked",
        "github:repository.edited",
        "github:ping",
    ],
    signing: Signing {
        header: "x-hub-signature-256",
        prefix: "sha256=",
        sha1: false,
        json_content_type: "application/json",
    },
    secret: SECRET,
    settings: &[
        ("app_slug", site::APP_SLUG),
        ("app_id", "1180442"),
        ("client_id", site::CLIENT_ID),
        ("client_secret", site::CLIENT_SECRET),
        ("private_key", site::APP_PRIVATE_KEY),
        ("webhook_secrets", SECRET),
    ],
    write,
    facts,
};

/// Signs webhooks.
const SECRET: &str = "sim-github-webhook-secret-0001";

const APP_ID: u64 = 1_180_442;

fn facts(account: u32, dice: &mut Dice) -> Facts {
    Facts {
        external_id: (58_214_000 + u64::from(account)).to_string(),
        alternate_external_id: String::new(),
        previous_external_id: None,
        account: format!("harborworks-{account}"),
        resource_id: (771_204_000 + u64::from(account)).to_string(),
        resource_slug: format!("harborworks-{account}/tide-clock"),
        resource_name: "tide-clock".to_owned(),
        delivery_id: dice.uuid(),
        at: super::EpochMs(0),
        seed: 0,
        body_bytes: 0,
    }
}

fn write(kind: &str, facts: &Facts) -> Option<Draft> {
    if !PROVIDER.keys.contains(&kind) && !PROVIDER.control.contains(&kind) {
        return None;
    }
    let (entity, action) = kind.strip_prefix("github:")?.split_once('.').unwrap_or((kind.strip_prefix("github:")?, ""));
    let (event, mut members, padding) = Story::new(facts, action).tell(entity)?;
    // `push`, `ping`, `create` and `delete` have no action.
    if !matches!(event.as_str(), "push" | "ping" | "create" | "delete") {
        members.entry("action").or_insert_with(|| Value::from(action.replace('-', "_")));
    }
    Some(Draft {
        headers: vec![
            ("user-agent", "GitHub-Hookshot/5f2c0c1".to_owned()),
            ("accept", "*/*".to_owned()),
            ("x-github-event", event),
            ("x-github-delivery", facts.delivery_id.clone()),
            ("x-github-hook-id", "491120387".to_owned()),
            ("x-github-hook-installation-target-id", APP_ID.to_string()),
            ("x-github-hook-installation-target-type", "integration".to_owned()),
        ],
        payload: Value::Object(members),
        padding,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::clock::EpochMs;

    #[test]
    fn a_merged_pull_request_is_closed_on_the_wire_and_says_so() {
        let facts = PROVIDER.facts(1, 7, EpochMs(1_771_980_000_000));
        let request = PROVIDER.event("github:pull-request.merged", &facts, b"s").expect("known");
        let payload: Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(request.header("x-github-event"), Some("pull_request"));
        assert_eq!((&payload["action"], &payload["pull_request"]["merged"]), (&json!("closed"), &json!(true)));
        assert_eq!(payload["installation"]["id"], json!(58_214_001));
        assert_eq!(payload["repository"]["id"], json!(771_204_001));
    }

    #[test]
    fn pushes_have_no_action_and_installation_events_no_repository() {
        let facts = PROVIDER.facts(1, 7, EpochMs(1_771_980_000_000));
        let body = |kind| PROVIDER.event(kind, &facts, b"s").map(|request| request.body).expect("known");
        let push: Value = serde_json::from_slice(&body("github:push")).expect("JSON");
        assert!(push.get("action").is_none() && push["repository"]["created_at"].is_u64());
        let created: Value = serde_json::from_slice(&body("github:installation.created")).expect("JSON");
        assert!(created.get("repository").is_none());
        assert_eq!(created["repositories"][0]["id"], json!(771_204_001));
    }
}
