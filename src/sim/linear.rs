//! What a Linear OAuth application sends.
//!
//! **Must not know** how the gateway reads it.

mod graphql;
pub mod site;

use serde_json::{Value, json};

use super::{Dice, Draft, EpochMs, Facts, Signing, SimulatedProvider};

/// Linear's sending half.
pub static PROVIDER: SimulatedProvider = SimulatedProvider {
    slug: "linear",
    keys: &[
        "linear:issue.created",
        "linear:issue.updated",
        "linear:issue.deleted",
        "linear:comment.created",
        "linear:comment.updated",
        "linear:comment.deleted",
        "linear:project.created",
        "linear:project.updated",
        "linear:project.deleted",
        "linear:cycle.created",
        "linear:cycle.updated",
        "linear:cycle.deleted",
        "linear:project-update.created",
        "linear:project-update.updated",
        "linear:project-update.deleted",
        "linear:issue-label.created",
        "linear:issue-label.updated",
        "linear:issue-label.deleted",
        "linear:issue-sla.set",
        "linear:issue-sla.high-risk",
        "linear:issue-sla.breached",
        "linear:document.created",
        "linear:document.updated",
        "linear:document.deleted",
        "linear:initiative.created",
        "linear:initiative.updated",
        "linear:initiative.deleted",
        "linear:initiative-update.created",
        "linear:initiative-update.updated",
        "linear:initiative-update.deleted",
        "linear:customer.created",
        "linear:customer.updated",
        "linear:customer.deleted",
        "linear:customer-need.created",
        "linear:customer-need.updated",
        "linear:customer-need.deleted",
        "linear:reaction.created",
        "linear:attachment.created",
        "linear:release.created",
        "linear:release.updated",
        "linear:release.deleted",
    ],
    seed_keys: 15,
    control: &[
        "linear:oauth-app.revoked",
        "linear:oauth-authorization.revoked",
        "linear:permission-change.team-added",
        "linear:permission-change.team-removed",
    ],
    signing: Signing {
        header: "linear-signature",
        prefix: "",
        sha1: false,
        json_content_type: "application/json; charset=utf-8",
    },
    secret: SECRET,
    settings: &[("client_id", site::CLIENT_ID), ("client_secret", site::CLIENT_SECRET), ("webhook_secrets", SECRET)],
    write,
    facts,
};

/// Signs webhooks.
const SECRET: &str = "sim-linear-webhook-secret-0001";

const PERSON: &str = "7d0f9b0a-2a52-4d77-8d6e-3f5c9b1d2e10";
const OAUTH_CLIENT: &str = "ab12cd34-0000-4000-8000-5566778899aa";

fn facts(account: u32, dice: &mut Dice) -> Facts {
    Facts {
        external_id: format!("a9c0d1e2-3344-4556-8778-99aa{account:08x}"),
        alternate_external_id: String::new(),
        previous_external_id: None,
        account: format!("harborworks-{account}"),
        resource_id: format!("f1a2b3c4-5d6e-4f70-8a9b-0c1d{account:08x}"),
        resource_slug: "TIDE".to_owned(),
        resource_name: "Tides".to_owned(),
        delivery_id: dice.uuid(),
        at: EpochMs(0),
        seed: 0,
        body_bytes: 0,
    }
}

fn write(kind: &str, facts: &Facts) -> Option<Draft> {
    if !PROVIDER.keys.contains(&kind) && !PROVIDER.control.contains(&kind) {
        return None;
    }
    let (entity, action) = kind.strip_prefix("linear:")?.split_once('.')?;
    let entity_type = entity_type(entity);
    let mut dice = Dice::new(facts.seed);
    let at = facts.at.to_rfc3339();
    let mut payload = json!({"type": entity_type, "createdAt": at, "organizationId": facts.external_id,
        "webhookId": "5b6c7d8e-0011-4223-8445-667788990011", "webhookTimestamp": facts.at.0});
    let padding = if PROVIDER.control.contains(&kind) {
        control(action, facts, &mut payload);
        "/oauthClientId"
    } else {
        payload["action"] = Value::from(match action {
            "created" => "create",
            "updated" => "update",
            "deleted" => "remove",
            "high-risk" => "highRisk",
            other => other,
        });
        payload["actor"] = json!({"id": PERSON, "type": "user", "name": "Mirela O", "email": "mirela@harborworks.example",
            "url": format!("https://linear.app/{}/profiles/mirela", facts.account)});
        payload["url"] = Value::from(format!("https://linear.app/{}/{entity}/{}", facts.account, dice.hex(8)));
        if action == "updated" {
            payload["updatedFrom"] = json!({"updatedAt": at, "title": dice.title()});
        }
        // An SLA's issue is beside the event, not in `data`.
        if entity == "issue-sla" {
            payload["issueData"] = issue(facts, &mut dice);
            "/issueData/description"
        } else {
            payload["data"] = subject(entity, facts, &mut dice);
            "/data/description"
        }
    };
    let headers = vec![
        ("user-agent", "Linear-Webhook".to_owned()),
        ("linear-delivery", facts.delivery_id.clone()),
        ("linear-event", entity_type),
        ("linear-timestamp", facts.at.0.to_string()),
    ];
    Some(Draft { headers, payload, padding })
}

fn entity_type(entity: &str) -> String {
    match entity {
        "issue-sla" => "IssueSLA".to_owned(),
        "oauth-app" => "OAuthApp".to_owned(),
        "oauth-authorization" => "OAuthAuthorization".to_owned(),
        _ => entity
            .split('-')
            .flat_map(|word| word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)))
            .collect(),
    }
}

fn issue(facts: &Facts, dice: &mut Dice) -> Value {
    let number = dice.between(1, 900);
    let identifier = format!("{}-{number}", facts.resource_slug);
    let at = facts.at.to_rfc3339();
    let state = dice.uuid();
    json!({"id": dice.uuid(), "identifier": identifier, "number": number, "title": dice.title(), "description": dice.words(40),
        "priority": 2, "priorityLabel": "High", "sortOrder": -12.5, "teamId": facts.resource_id,
        "team": {"id": facts.resource_id, "key": facts.resource_slug, "name": facts.resource_name},
        "stateId": state, "state": {"id": state, "name": "In Progress", "color": "#f2c94c", "type": "started"},
        "assigneeId": PERSON, "assignee": {"id": PERSON, "name": "Mirela O", "email": "mirela@harborworks.example"},
        "projectId": null, "cycleId": null, "labelIds": [], "labels": [], "subscriberIds": [], "previousIdentifiers": [],
        "reactionData": [], "createdAt": at, "updatedAt": at, "startedAt": at,
        "url": format!("https://linear.app/{}/issue/{identifier}", facts.account)})
}

/// The `data` of an entity. Only issues, comments on issues, projects, cycles and labels name a team.
fn subject(entity: &str, facts: &Facts, dice: &mut Dice) -> Value {
    if entity == "issue" {
        return issue(facts, dice);
    }
    let at = facts.at.to_rfc3339();
    let mut subject = json!({"id": dice.uuid(), "description": dice.words(20), "createdAt": at, "updatedAt": at});
    let own = match entity {
        "comment" => {
            let issue = dice.uuid();
            json!({"body": dice.words(12), "issueId": issue, "userId": PERSON, "parentId": null, "reactionData": [],
                "issue": {"id": issue, "identifier": format!("{}-88", facts.resource_slug), "title": dice.title(),
                    "teamId": facts.resource_id,
                    "team": {"id": facts.resource_id, "key": facts.resource_slug, "name": facts.resource_name}},
                "user": {"id": PERSON, "name": "Mirela O"}})
        }
        "project" => {
            json!({"name": dice.title(), "slugId": dice.hex(12), "color": "#5e6ad2", "teamIds": [facts.resource_id],
            "leadId": null, "memberIds": [], "labelIds": [], "statusId": PERSON, "health": null, "priority": 0, "sortOrder": 1,
            "status": {"id": PERSON, "name": "Planned", "color": "#bbb", "type": "planned"}, "targetDate": "2026-12-01"})
        }
        "project-update" => {
            let project = dice.uuid();
            json!({"body": dice.words(12), "health": "onTrack", "projectId": project, "slugId": dice.hex(12), "userId": PERSON,
                "project": {"id": project, "name": dice.title(), "url": "https://linear.app/harborworks/project/winter"},
                "user": {"id": PERSON, "name": "Mirela O"}, "editedAt": at})
        }
        "cycle" => {
            json!({"number": dice.between(1, 60), "name": null, "teamId": facts.resource_id, "startsAt": at, "endsAt": at,
            "completedAt": null, "issueCountHistory": [], "scopeHistory": [], "uncompletedIssuesUponCloseIds": []})
        }
        "issue-label" => {
            json!({"name": dice.word(), "color": "#5e6ad2", "isGroup": false, "teamId": facts.resource_id})
        }
        _ => json!({"name": dice.title(), "slugId": dice.hex(12), "creatorId": PERSON}),
    };
    if let (Value::Object(subject), Value::Object(own)) = (&mut subject, own) {
        subject.extend(own);
    }
    subject
}

fn control(action: &str, facts: &Facts, payload: &mut Value) {
    payload["oauthClientId"] = Value::from(OAUTH_CLIENT);
    payload["action"] = Value::from("revoked");
    if payload["type"] == "OAuthAuthorization" {
        payload["userId"] = Value::from(PERSON);
        payload["activeTokensForUser"] = Value::from(0);
    }
    if let Some(change) = action.strip_prefix("team-") {
        let (added, removed) = if change == "added" {
            (json!([facts.resource_id]), json!([]))
        } else {
            (json!([]), json!([facts.resource_id]))
        };
        payload["action"] = Value::from("teamAccessChanged");
        payload["appUserId"] = Value::from(PERSON);
        payload["canAccessAllPublicTeams"] = Value::from(false);
        payload["addedTeamIds"] = added;
        payload["removedTeamIds"] = removed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_time_is_in_the_body_and_teams_are_where_each_type_keeps_them() {
        let facts = PROVIDER.facts(1, 7, EpochMs(1_771_980_000_000));
        let body = |kind| -> Value {
            serde_json::from_slice(&PROVIDER.event(kind, &facts, b"s").expect("known").body).expect("JSON")
        };
        let team = json!(facts.resource_id);
        assert_eq!(body("linear:issue.updated")["webhookTimestamp"], json!(1_771_980_000_000_i64));
        assert_eq!(body("linear:issue.updated")["data"]["teamId"], team);
        assert_eq!(body("linear:comment.created")["data"]["issue"]["teamId"], team);
        assert_eq!(body("linear:project.deleted")["data"]["teamIds"][0], team);
        assert_eq!(body("linear:issue-sla.high-risk")["issueData"]["teamId"], team);
        let update = body("linear:project-update.created");
        assert_eq!((&update["type"], &update["action"]), (&json!("ProjectUpdate"), &json!("create")));
        assert!(!update.to_string().contains(&facts.resource_id), "a project update names no team");
    }
}
