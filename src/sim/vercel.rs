//! What a Vercel integration sends.
//!
//! **Must not know** how the gateway reads it.

pub mod site;

use serde_json::{Value, json};

use super::{Dice, Draft, EpochMs, Facts, Signing, SimulatedProvider};

/// Vercel's sending half.
pub static PROVIDER: SimulatedProvider = SimulatedProvider {
    slug: "vercel",
    keys: &[
        "vercel:deployment.created",
        "vercel:deployment.succeeded",
        "vercel:deployment.ready",
        "vercel:deployment.error",
        "vercel:deployment.canceled",
        "vercel:deployment.check-rerequested",
        "vercel:deployment.promoted",
        "vercel:deployment.rollback",
        "vercel:deployment.blocked",
        "vercel:deployment.cleanup",
        "vercel:deployment.checks-succeeded",
        "vercel:deployment.checks-failed",
        "vercel:project.created",
        "vercel:project.removed",
        "vercel:project.renamed",
        "vercel:project-domain.created",
        "vercel:project-domain.deleted",
        "vercel:project-domain.moved",
        "vercel:project-domain.verified",
        "vercel:project-domain.unverified",
        "vercel:project-domain.updated",
        "vercel:rolling-release.started",
        "vercel:rolling-release.approved",
        "vercel:rolling-release.completed",
        "vercel:rolling-release.aborted",
        "vercel:alert.triggered",
    ],
    seed_keys: 6,
    control: &[
        "vercel:integration-configuration.removed",
        "vercel:integration-configuration.permission-upgraded",
        "vercel:integration-configuration.permission-withdrawn",
        "vercel:integration-configuration.scope-change-confirmed",
        "vercel:integration-configuration.transferred",
    ],
    signing: Signing { header: "x-vercel-signature", prefix: "", sha1: true, json_content_type: "application/json" },
    secret: SECRET,
    settings: &[("integration_slug", "signalbox-sim"), ("client_id", "oac_simulated0001"), ("client_secret", SECRET)],
    write,
    facts,
};

/// The edge's trace id: new on every attempt, never the webhook's id.
const TRACE_HEADER: &str = "x-vercel-id";

/// Signs webhooks.
const SECRET: &str = "sim-vercel-client-secret-0001";

fn facts(account: u32, dice: &mut Dice) -> Facts {
    Facts {
        external_id: format!("team_Zr5mQ1aHcW{account}"),
        alternate_external_id: format!("icfg_4Wc0YtB7nL{account}"),
        previous_external_id: None,
        account: format!("harborworks-{account}"),
        resource_id: format!("prj_hT3vK9sLd2Q{account}"),
        resource_slug: "tide-clock".to_owned(),
        resource_name: "tide-clock".to_owned(),
        delivery_id: format!("evt_{}", dice.token(16)),
        at: EpochMs(0),
        seed: 0,
        body_bytes: 0,
    }
}

fn write(kind: &str, facts: &Facts) -> Option<Draft> {
    if !PROVIDER.keys.contains(&kind) && !PROVIDER.control.contains(&kind) {
        return None;
    }
    let (entity, action) = kind.strip_prefix("vercel:")?.split_once('.')?;
    let mut dice = Dice::new(facts.seed);
    // A team account is named by `team`; a personal one only by `user`, with a null team.
    let team = facts.external_id.starts_with("team_").then(|| json!({"id": facts.external_id}));
    let user = if team.is_some() { "u8Xn1cRk3Pq0" } else { facts.external_id.as_str() };
    let mut payload = json!({"user": {"id": user}, "team": team});
    let (wire_type, padding) = match entity {
        "deployment" => {
            deployment(action, facts, &mut dice, &mut payload);
            let wire = action.strip_prefix("checks-").map_or(action.to_owned(), |outcome| format!("checks.{outcome}"));
            (format!("deployment.{wire}"), "/payload/deployment/meta/githubCommitMessage")
        }
        "project" => {
            payload["project"] =
                json!({"id": facts.resource_id, "name": facts.resource_name, "description": dice.title()});
            if action == "renamed" {
                payload["previousName"] = Value::from("before-the-renaming");
            }
            (format!("project.{action}"), "/payload/project/description")
        }
        "project-domain" | "rolling-release" => {
            payload["project"] = json!({"id": facts.resource_id, "description": dice.title()});
            payload["domain"] = json!({"name": format!("{}.harborworks.example", dice.word())});
            (format!("project.{}.{action}", entity.trim_start_matches("project-")), "/payload/project/description")
        }
        "alert" => {
            payload["project"] = json!({"id": facts.resource_id});
            payload["alert"] = json!({"id": dice.token(12), "title": dice.title(), "severity": "high"});
            ("alerts.triggered".to_owned(), "/payload/alert/title")
        }
        _ => (configuration(action, facts, &mut payload), "/payload/configuration/note"),
    };
    let body = json!({"id": facts.delivery_id, "type": wire_type, "createdAt": facts.at.0, "region": null, "payload": payload});
    let headers = vec![("user-agent", "Vercel-Webhooks/1.0".to_owned()), (TRACE_HEADER, trace(facts.at, &mut dice))];
    Some(Draft { headers, payload: body, padding })
}

/// A value of [`TRACE_HEADER`].
fn trace(at: EpochMs, dice: &mut Dice) -> String {
    format!("fra1::{}-{}-{}", dice.token(5), at.0, dice.hex(12))
}

fn deployment(action: &str, facts: &Facts, dice: &mut Dice, payload: &mut Value) {
    let id = format!("dpl_{}", dice.token(12));
    let name = facts.resource_slug.as_str();
    let message = dice.title();
    if action == "check-rerequested" {
        // Names no project: routed by its account.
        payload["deployment"] = json!({"id": id, "meta": {"githubCommitMessage": message}});
        payload["check"] = json!({"id": format!("chk_{}", dice.token(6))});
        return;
    }
    let host = format!("{name}-{}.vercel.app", dice.token(9).to_lowercase());
    let inspector = format!("https://vercel.com/{}/{name}/{}", facts.account, dice.token(8));
    let sha = dice.hex(40);
    payload["project"] = json!({"id": facts.resource_id});
    payload["installationIds"] = json!([facts.alternate_external_id]);
    payload["integrations"] = json!([{"installationId": facts.alternate_external_id}]);
    payload["name"] = Value::from(name);
    payload["plan"] = Value::from("pro");
    payload["regions"] = json!(["fra1"]);
    payload["target"] = dice.pick(&[json!("production"), Value::Null]).cloned().unwrap_or_default();
    payload["type"] = Value::from("LAMBDAS");
    payload["url"] = Value::from(host.as_str());
    payload["links"] =
        json!({"deployment": inspector, "project": format!("https://vercel.com/{}/{name}", facts.account)});
    payload["deployment"] = json!({"id": id, "name": name, "url": host, "inspectorUrl": inspector, "customEnvironmentId": null,
        "meta": {"githubDeployment": "1", "githubOrg": facts.account, "githubRepo": name, "githubRepoId": "771204518",
            "githubRepoOwnerType": "Organization", "githubCommitOrg": facts.account, "githubCommitRepo": name,
            "githubCommitRepoId": "771204518", "githubCommitRef": "main", "githubCommitSha": sha,
            "githubCommitMessage": message, "githubCommitAuthorName": "Mirela O", "githubCommitAuthorLogin": "mirela-okt",
            "branchAlias": format!("{name}-git-main-{}.vercel.app", facts.account)}});
    match action {
        "created" => payload["alias"] = json!([format!("{name}.vercel.app")]),
        "rollback" => {
            payload["fromDeploymentId"] = Value::from(id);
            payload["toDeploymentId"] = Value::from(format!("dpl_{}", dice.token(12)));
        }
        _ => {}
    }
}

/// Configuration events; `permission-withdrawn` is our name for a permission upgrade that takes the project away.
fn configuration(action: &str, facts: &Facts, payload: &mut Value) -> String {
    payload["configuration"] = json!({"id": facts.alternate_external_id, "projectSelection": "selected",
        "projects": [facts.resource_id], "scopes": ["read:project", "read-write:deployment"], "note": ""});
    match action {
        "permission-upgraded" => payload["projects"] = json!({"added": [facts.resource_id], "removed": []}),
        "permission-withdrawn" => payload["projects"] = json!({"added": [], "removed": [facts.resource_id]}),
        "transferred" => {
            let previous = facts.previous_external_id.as_deref().unwrap_or("team_before");
            payload["installationId"] = Value::from(facts.alternate_external_id.as_str());
            for (member, id) in [("previousTeamId", previous), ("previousAccountId", previous)] {
                payload[member] = Value::from(id);
            }
            for member in ["newTeamId", "newAccountId"] {
                payload[member] = Value::from(facts.external_id.as_str());
            }
        }
        _ => {}
    }
    let wire = if action == "permission-withdrawn" { "permission-upgraded" } else { action };
    format!("integration-configuration.{wire}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personal_accounts_have_a_null_team_and_re_requested_checks_no_project() {
        let team = PROVIDER.facts(1, 7, EpochMs(1_771_980_000_000));
        let personal = Facts { external_id: "u1".into(), ..team.clone() };
        let body = |kind, facts: &Facts| -> Value {
            serde_json::from_slice(&PROVIDER.event(kind, facts, b"s").expect("known").body).expect("JSON")
        };
        let deployed = body("vercel:deployment.succeeded", &personal);
        assert_eq!((&deployed["payload"]["team"], &deployed["payload"]["user"]["id"]), (&Value::Null, &json!("u1")));
        let rerequested = body("vercel:deployment.check-rerequested", &team);
        assert!(rerequested["payload"].get("project").is_none());
        assert_eq!(rerequested["payload"]["team"]["id"], json!(team.external_id));
        assert_eq!(rerequested["id"], json!(team.delivery_id));
    }
}
