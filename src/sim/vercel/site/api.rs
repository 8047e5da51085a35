//! The REST API.

use serde_json::{Value, json};

use super::{Configuration, Knobs, PERSONAL, Project, Vercel, external_id, user_id};
use crate::sim::world::{
    call::{Answer, Call, Credentials},
    site::Scene,
};

/// What numbered page tokens count down from: they are creation times.
const NEWEST: u64 = 1_771_980_000_000;

/// An error as the REST API words it.
fn problem(status: u16, code: &str, message: &str) -> Answer {
    Answer::json(status, &json!({"error": {"code": code, "message": message}}))
}

fn forbidden() -> Answer {
    Answer::json(403, &json!({"error": {"code": "forbidden", "message": "Not authorized", "invalidToken": true}}))
}

impl Vercel {
    /// Answers an API call.
    pub(super) fn api(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let Knobs { rate_remaining, rate_reset_s, .. } = &mut self.knobs;
        let verdict = self.limit.judge(rate_remaining, 1, *rate_reset_s, scene.now);
        let answer = match self.authenticate(call, scene) {
            _ if !verdict.granted => problem(429, "rate_limited", "Too many requests"),
            Ok(configuration) => self.route(call, &configuration, scene),
            Err(refusal) => refusal,
        };
        answer
            .with("x-ratelimit-limit", "500")
            .with("x-ratelimit-remaining", verdict.remaining.unwrap_or(499).to_string())
            .with("x-ratelimit-reset", verdict.reset_s())
            .with("x-vercel-id", format!("fra1::{}", scene.dice.token(16)))
    }

    fn authenticate(&self, call: &Call, scene: &mut Scene<'_>) -> Result<Configuration, Answer> {
        let Credentials::Bearer(token) = call.credentials() else {
            return Err(problem(401, "forbidden", "The request is missing an authentication token"));
        };
        let held = self.tokens.get(&token).and_then(|id| self.configurations.get(id)).ok_or_else(forbidden)?;
        if held.disabled_at.is_some() {
            return Err(problem(
                403,
                "integration_configuration_disabled",
                "The integration configuration is disabled",
            ));
        }
        let team = (held.account <= PERSONAL).then(|| external_id(held.account));
        if call.parameter("teamId") != team.as_deref() {
            return Err(problem(403, "forbidden", "You don't have permission to access this resource (teamId)"));
        }
        scene.accepted_as = Some("configuration");
        Ok(held.clone())
    }

    fn route(&mut self, call: &Call, own: &Configuration, scene: &mut Scene<'_>) -> Answer {
        match (call.method.as_str(), call.route().as_slice()) {
            ("GET", ["v1", "integrations", "configuration", id]) => match self.configurations.get(*id) {
                Some(found) if found.id == own.id => Answer::json(200, &self.configuration_json(own)),
                Some(_) => problem(403, "forbidden", "You don't have permission to access this resource"),
                None => problem(404, "not_found", "Integration configuration not found"),
            },
            ("DELETE", ["v1", "integrations", "configuration", id]) if *id == own.id => {
                self.uninstall(&own.id, scene);
                Answer::empty(204)
            }
            ("DELETE", ["v1", "integrations", "configuration", _]) => {
                problem(404, "not_found", "Integration configuration not found")
            }
            ("GET", ["v1", "integrations", "configurations"]) => match call.parameter("view") {
                Some("account" | "project") => Answer::json(200, &json!([self.configuration_json(own)])),
                _ => problem(400, "bad_request", "Invalid request: missing required property `view`"),
            },
            ("GET", ["v9" | "v10", "projects"]) => self.list_projects(call, own),
            ("GET", ["v9" | "v10", "projects", wanted]) => {
                let found =
                    self.visible(own).into_iter().find(|project| project.id == *wanted || project.name == *wanted);
                found.map_or_else(
                    || problem(404, "not_found", "Project not found"),
                    |project| Answer::json(200, &project_json(&project, own, 0)),
                )
            }
            ("GET", ["v2", "teams"]) => {
                let teams: Vec<Value> = (own.account <= PERSONAL).then(|| team_json(own.account)).into_iter().collect();
                Answer::json(
                    200,
                    &json!({"teams": teams, "pagination": {"count": teams.len(), "next": null, "prev": null}}),
                )
            }
            ("GET", ["v2", "teams", id]) if own.account <= PERSONAL && *id == external_id(own.account) => {
                Answer::json(200, &team_json(own.account))
            }
            ("GET", ["v2", "user"]) => Answer::json(
                200,
                &json!({"user": {"id": user_id(own.person), "username": format!("mirela-{}", own.person),
                "name": "Mirela O", "email": format!("person{}@harborworks.example", own.person)}}),
            ),
            ("GET", ["v6" | "v7", "deployments"]) => self.list_deployments(call, own),
            ("GET", ["v13", "deployments", id]) => Answer::json(
                200,
                &json!({"id": id, "name": "tide-clock", "readyState": "ERROR", "errorCode": "BUILD_FAILED",
                    "errorMessage": "Command \"npm run build\" exited with 1"}),
            ),
            _ => problem(404, "not_found", "The requested API endpoint was not found"),
        }
    }

    fn configuration_json(&mut self, own: &Configuration) -> Value {
        let team = (own.account <= PERSONAL).then(|| external_id(own.account));
        let projects: Vec<String> = self.visible(own).into_iter().map(|project| project.id).collect();
        json!({"id": own.id, "integrationId": "oac_simulated0001", "ownerId": external_id(own.account), "teamId": team,
            "userId": user_id(own.person), "slug": "signalbox-sim", "type": "integration-configuration", "status": "ready",
            "source": "external", "scopes": ["read:project", "read-write:deployment"], "projectSelection": own.selection,
            "projects": if own.selection == "all" { json!(null) } else { json!(projects) }, "installationType": "external",
            "createdAt": own.created_at.0, "updatedAt": own.created_at.0, "completedAt": own.created_at.0,
            "disabledAt": own.disabled_at.map(|at| at.0), "disabledReason": null, "deletedAt": null})
    }

    fn list_projects(&mut self, call: &Call, own: &Configuration) -> Answer {
        let projects = self.visible(own);
        let search = call.parameter("search").unwrap_or_default();
        let found: Vec<Project> = projects.into_iter().filter(|project| project.name.contains(search)).collect();
        let Some((from, limit)) = self.page(call, "from", found.len()) else {
            return problem(400, "bad_request", "Invalid request: `limit` should be <= 100, `from` a page token");
        };
        let shown: Vec<Value> =
            (from..found.len().min(from + limit)).map(|at| project_json(&found[at], own, at)).collect();
        let next = self.next(from + limit, found.len());
        let prev = (from > 0).then(|| NEWEST - from as u64);
        Answer::json(200, &json!({"pagination": {"count": shown.len(), "next": next, "prev": prev}, "projects": shown}))
    }

    fn list_deployments(&mut self, call: &Call, own: &Configuration) -> Answer {
        const DEPLOYMENTS: usize = 25;
        let Some((from, limit)) = self.page(call, "until", DEPLOYMENTS) else {
            return problem(400, "bad_request", "Invalid request: `limit` should be <= 100, `until` a timestamp");
        };
        let deployment = |at: usize| {
            json!({"uid": format!("dpl_{at:04}"), "name": "tide-clock", "url": format!("tide-clock-{at}.vercel.app"),
                "created": NEWEST - at as u64, "state": "READY", "readyState": "READY", "target": "production",
                "creator": {"uid": user_id(own.person)}, "meta": {}, "inspectorUrl": null})
        };
        let shown: Vec<Value> = (from..DEPLOYMENTS.min(from + limit)).map(deployment).collect();
        let next = self.next(from + limit, DEPLOYMENTS);
        Answer::json(
            200,
            &json!({"pagination": {"count": shown.len(), "next": next, "prev": null}, "deployments": shown}),
        )
    }

    /// Where a page begins and how long it may be.
    fn page(&self, call: &Call, cursor: &str, all: usize) -> Option<(usize, usize)> {
        let limit = call.parameter("limit").map_or(Some(20), |limit| limit.parse().ok())?;
        let from = match call.parameter(cursor) {
            None => 0,
            Some(token) if self.knobs.text_cursors => token.strip_prefix("pt_")?.parse().ok()?,
            Some(number) => usize::try_from(NEWEST.checked_sub(number.parse().ok()?)?).ok()?,
        };
        ((1..=100).contains(&limit) && from <= all).then_some((from, limit))
    }

    fn next(&self, at: usize, all: usize) -> Value {
        match (at < all, self.knobs.text_cursors) {
            (false, _) => Value::Null,
            (true, true) => json!(format!("pt_{at}")),
            (true, false) => json!(NEWEST - at as u64),
        }
    }
}

fn team_json(account: u32) -> Value {
    json!({"id": external_id(account), "slug": format!("harborworks-{account}"), "name": format!("Harborworks {account}"), "avatar": null})
}

fn project_json(project: &Project, own: &Configuration, at: usize) -> Value {
    let created_at = NEWEST - at as u64;
    json!({"id": project.id, "name": project.name, "accountId": external_id(own.account), "framework": "sveltekit",
        "createdAt": created_at, "updatedAt": created_at, "latestDeployments": [], "targets": {},
        "link": {"type": "github", "repo": project.name, "org": format!("harborworks-{}", own.account), "repoId": 771_204_518,
            "productionBranch": "main"}})
}
