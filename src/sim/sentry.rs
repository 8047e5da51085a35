//! What a Sentry public integration sends.
//!
//! **Must not know** how the gateway reads it.

pub mod site;

use serde_json::{Value, json};

use super::{Dice, Draft, EpochMs, Facts, Signing, SimulatedProvider, numeric_id};

/// Sentry's sending half.
pub static PROVIDER: SimulatedProvider = SimulatedProvider {
    slug: "sentry",
    keys: &[
        "sentry:issue.created",
        "sentry:issue.resolved",
        "sentry:issue.assigned",
        "sentry:issue.ignored",
        "sentry:error",
        "sentry:event-alert",
        "sentry:metric-alert",
        "sentry:issue.unresolved",
        "sentry:comment.created",
        "sentry:comment.updated",
        "sentry:comment.deleted",
        "sentry:metric-alert.critical",
        "sentry:metric-alert.warning",
        "sentry:metric-alert.resolved",
        "sentry:activity-alert.triggered",
    ],
    seed_keys: 7,
    control: &["sentry:installation.created", "sentry:installation.deleted"],
    signing: Signing {
        header: "sentry-hook-signature",
        prefix: "",
        sha1: false,
        json_content_type: "application/json",
    },
    secret: SECRET,
    settings: &[("app_slug", "signalbox-sim"), ("client_id", "simulated-sentry-client"), ("client_secret", SECRET)],
    write,
    facts,
};

/// Signs webhooks.
const SECRET: &str = "sim-sentry-client-secret-0001";

fn facts(account: u32, dice: &mut Dice) -> Facts {
    Facts {
        external_id: format!("3e1d5b7a-9c20-4b6f-8f11-7a2c{account:08x}"),
        alternate_external_id: String::new(),
        previous_external_id: None,
        account: format!("harborworks-{account}"),
        resource_id: (4_507_811_234_560_000 + u64::from(account)).to_string(),
        resource_slug: "tide-clock".to_owned(),
        resource_name: "tide-clock".to_owned(),
        delivery_id: dice.hex(32),
        at: EpochMs(0),
        seed: 0,
        body_bytes: 0,
    }
}

fn write(kind: &str, facts: &Facts) -> Option<Draft> {
    if !PROVIDER.keys.contains(&kind) && !PROVIDER.control.contains(&kind) {
        return None;
    }
    let rest = kind.strip_prefix("sentry:")?;
    let (entity, action) = rest.split_once('.').unwrap_or((
        rest,
        match rest {
            "error" => "created",
            "metric-alert" => "critical",
            _ => "triggered",
        },
    ));
    let mut dice = Dice::new(facts.seed);
    let (data, padding) = match entity {
        "issue" => (json!({"issue": issue(action, facts, &mut dice)}), "/data/issue/culprit"),
        "error" => (json!({"error": error(facts, &mut dice)}), "/data/error/message"),
        "event-alert" => {
            let data = json!({"event": error(facts, &mut dice), "triggered_rule": "Prod burst", "issue_alert":
                {"id": "99120", "title": "Prod burst", "sentry_app_id": 5510, "settings": [{"name": "channel", "value": "ops"}]}});
            (data, "/data/event/message")
        }
        "metric-alert" => (metric_alert(action, facts, &mut dice), "/data/description_text"),
        "comment" => {
            let data = json!({"comment_id": dice.between(1, 1 << 31), "issue_id": dice.between(1, 1 << 31),
                "project_slug": facts.resource_slug, "timestamp": facts.at.to_rfc3339(), "comment": dice.words(9)});
            (data, "/data/comment")
        }
        "installation" => {
            let data = json!({"installation": {"uuid": facts.external_id, "status": "installed", "code": dice.hex(64),
                "app": {"uuid": "77e1c0de-0000-4000-8000-000000000001", "slug": "signalbox"},
                "organization": {"slug": facts.account, "id": 4_507_810_000_000_000_u64}}});
            (data, "/data/installation/code")
        }
        _ => {
            let data = json!({"activity": {"id": dice.hex(8), "text": dice.title()}, "issue": issue("created", facts, &mut dice)});
            (data, "/data/activity/text")
        }
    };
    let actor = if entity == "installation" {
        json!({"type": "user", "id": 88_120, "name": "Mirela O"})
    } else {
        json!({"type": "application", "id": "sentry", "name": "Sentry"})
    };
    let headers = vec![
        ("user-agent", "sentry-apps".to_owned()),
        ("request-id", facts.delivery_id.clone()),
        ("sentry-hook-resource", entity.replace('-', "_")),
        ("sentry-hook-timestamp", (facts.at.0 / 1000).to_string()),
    ];
    let payload = json!({"action": action, "installation": {"uuid": facts.external_id}, "data": data, "actor": actor});
    Some(Draft { headers, payload, padding })
}

fn issue(action: &str, facts: &Facts, dice: &mut Dice) -> Value {
    let id = dice.between(6_120_000_000, 6_129_999_999).to_string();
    let at = facts.at.to_rfc3339();
    let (status, details) = match action {
        "resolved" => ("resolved", json!({"inRelease": "2.4.0"})),
        "ignored" => ("ignored", json!({})),
        _ => ("unresolved", json!({})),
    };
    let assigned = (action == "assigned")
        .then(|| json!({"type": "user", "id": "88120", "name": "Mirela O", "email": "mirela@harborworks.example"}));
    json!({"id": id, "shortId": format!("TIDE-CLOCK-{}", dice.token(2).to_uppercase()),
        "title": format!("SensorTimeout: {}", dice.words(4)), "culprit": format!("sensor::{}", dice.word()),
        "permalink": format!("https://{}.sentry.io/issues/{id}/", facts.account), "level": "error", "status": status,
        "substatus": "new", "statusDetails": details, "platform": "rust", "type": "error", "issueType": "error",
        "issueCategory": "error", "metadata": {"type": "SensorTimeout", "value": "no reading in 30s", "filename": "src/sensor.rs"},
        "project": {"id": facts.resource_id, "name": facts.resource_name, "slug": facts.resource_slug, "platform": "rust"},
        "count": "1", "userCount": 0, "numComments": 0, "assignedTo": assigned, "isBookmarked": false, "isSubscribed": false,
        "hasSeen": false, "logger": null, "firstSeen": at, "lastSeen": at,
        "url": format!("https://us.sentry.io/api/0/organizations/{}/issues/{id}/", facts.account),
        "web_url": format!("https://{}.sentry.io/issues/{id}/", facts.account)})
}

/// The project of an event is an integer, of an issue a text.
fn error(facts: &Facts, dice: &mut Dice) -> Value {
    let (event, issue) = (dice.hex(32), dice.between(6_120_000_000, 6_129_999_999).to_string());
    #[expect(clippy::cast_precision_loss, reason = "Sentry writes seconds as a float")]
    let seconds = facts.at.0 as f64 / 1000.0;
    json!({"event_id": event, "project": numeric_id(&facts.resource_id), "issue_id": issue, "level": "error", "platform": "rust",
        "title": format!("SensorTimeout: {}", dice.words(4)), "message": dice.words(6), "timestamp": seconds, "received": seconds,
        "datetime": facts.at.to_rfc3339(), "release": "2.4.0", "tags": [["environment", "prod"], ["release", "2.4.0"]],
        "metadata": {"type": "SensorTimeout", "value": "no reading in 30s"}, "user": null,
        "web_url": format!("https://{}.sentry.io/issues/{issue}/events/{event}/", facts.account),
        "issue_url": format!("https://us.sentry.io/api/0/organizations/{}/issues/{issue}/", facts.account)})
}

/// Names its projects by slug only.
fn metric_alert(action: &str, facts: &Facts, dice: &mut Dice) -> Value {
    let at = facts.at.to_rfc3339();
    let status = match action {
        "critical" => 20,
        "warning" => 10,
        _ => 2,
    };
    let alert = json!({"id": dice.between(1, 99_999).to_string(), "identifier": "12", "organization_id": "4507810000000000",
        "status": status, "status_method": 3, "type": 2, "title": "p95 latency", "projects": [facts.resource_slug],
        "date_created": at, "date_started": at, "date_detected": at, "date_closed": (status == 2).then_some(&at),
        "alert_rule": {"id": "4410", "name": "p95 latency", "organization_id": "4507810000000000",
            "projects": [facts.resource_slug], "aggregate": "p95(transaction.duration)", "query": "", "time_window": 5,
            "threshold_type": 0, "resolve_threshold": null, "status": 0,
            "triggers": [{"id": "9001", "label": "critical", "alert_threshold": 900}]}});
    json!({"metric_alert": alert, "description_title": format!("{action}: p95 latency"),
        "description_text": format!("{} ms in the last 5 minutes", dice.between(100, 2000)),
        "web_url": format!("https://{}.sentry.io/alerts/rules/details/12/", facts.account)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_text_in_issues_integers_in_errors_and_slugs_in_metric_alerts() {
        let facts = PROVIDER.facts(1, 7, EpochMs(1_771_980_000_000));
        let body = |kind| -> Value {
            serde_json::from_slice(&PROVIDER.event(kind, &facts, b"s").expect("known").body).expect("JSON")
        };
        assert_eq!(body("sentry:issue.created")["data"]["issue"]["project"]["id"], json!("4507811234560001"));
        assert_eq!(body("sentry:error")["data"]["error"]["project"], json!(4_507_811_234_560_001_u64));
        let alert = body("sentry:metric-alert");
        assert_eq!(
            (&alert["action"], &alert["data"]["metric_alert"]["projects"]),
            (&json!("critical"), &json!(["tide-clock"]))
        );
    }
}
