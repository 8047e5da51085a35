//! What can be asked and changed through GraphQL.

use serde_json::{Map, Value, json};

use super::{Knobs, Linear, Team, oauth::Grant, organization_id, user_id};
use crate::sim::{
    linear::graphql::{self, Field},
    world::{
        call::{Answer, Call, Credentials},
        site::Scene,
    },
};

/// What every call costs, in points of complexity.
const COMPLEXITY: u32 = 100;

/// An error with its code in `extensions`.
fn errors(status: u16, code: &str, message: &str) -> Answer {
    let extensions = json!({"type": code.to_lowercase().replace('_', " "), "code": code, "userError": true,
        "userPresentableMessage": message});
    Answer::json(status, &json!({"errors": [{"message": message, "extensions": extensions}]}))
}

impl Linear {
    /// `POST /graphql`
    pub(super) fn graphql(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        const UNAUTHENTICATED: &str = "Authentication required, not authenticated";
        let Credentials::Bearer(token) = call.credentials() else {
            return errors(401, "AUTHENTICATION_ERROR", UNAUTHENTICATED);
        };
        let Some(grant) = self.grant_of(&token, scene.now).cloned() else {
            return errors(401, "AUTHENTICATION_ERROR", UNAUTHENTICATED);
        };
        scene.accepted_as = Some("grant");
        let Knobs { requests_remaining, complexity_remaining, rate_reset_s, over_limit_is_429, .. } = &mut self.knobs;
        let requests = self.requests_limit.judge(requests_remaining, 1, *rate_reset_s, scene.now);
        let complexity = self.complexity_limit.judge(complexity_remaining, COMPLEXITY, *rate_reset_s, scene.now);
        let answer = if requests.granted && complexity.granted {
            self.operate(call, &grant, scene)
        } else {
            errors(if *over_limit_is_429 { 429 } else { 400 }, "RATELIMITED", "Rate limit exceeded")
        };
        answer
            .with("x-ratelimit-requests-limit", "5000")
            .with("x-ratelimit-requests-remaining", requests.remaining.unwrap_or(4999).to_string())
            .with("x-ratelimit-requests-reset", requests.reset.0.to_string())
            .with("x-ratelimit-complexity-limit", "3000000")
            .with(
                "x-ratelimit-complexity-remaining",
                complexity.remaining.unwrap_or(3_000_000 - COMPLEXITY).to_string(),
            )
            .with("x-ratelimit-complexity-reset", complexity.reset.0.to_string())
    }

    /// Does what the operation asks, within the limits.
    fn operate(&mut self, call: &Call, grant: &Grant, scene: &mut Scene<'_>) -> Answer {
        let failed = if self.knobs.graphql_errors_are_400 { 400 } else { 200 };
        let Some(body) = call.json() else {
            return errors(400, "INVALID_INPUT", "The body must be JSON with a query");
        };
        let variables = body.get("variables").and_then(Value::as_object).cloned().unwrap_or_default();
        let document = body.get("query").and_then(Value::as_str).unwrap_or_default();
        let operation = match graphql::parse(document, &variables) {
            Ok(operation) => operation,
            Err(why) => return errors(400, "GRAPHQL_PARSE_FAILED", &why),
        };
        let mut data = Map::new();
        for field in &operation.fields {
            let found = if operation.is_mutation { self.change(field, grant, scene) } else { self.find(field, grant) };
            let selected = match found {
                Ok(value) => graphql::select(&value, &field.selection, &field.name),
                Err((code, message)) => return errors(failed, code, &message),
            };
            match selected {
                Ok(value) => drop(data.insert(field.alias.clone(), value)),
                Err(why) => return errors(400, "GRAPHQL_VALIDATION_FAILED", &why),
            }
        }
        Answer::json(200, &json!({"data": data}))
    }

    fn find(&mut self, field: &Field, grant: &Grant) -> Result<Value, (&'static str, String)> {
        let account = grant.workspace;
        match field.name.as_str() {
            "viewer" => {
                Ok(json!({"id": user_id(grant.person), "name": "Mirela O", "displayName": "mirela", "active": true,
                "email": format!("person{}@harborworks.example", grant.person), "organization": organization(account)}))
            }
            "organization" => Ok(organization(account)),
            "teams" => {
                let teams: Vec<Team> = self.teams(account).iter().filter(|team| team.granted).cloned().collect();
                let items: Vec<_> = teams.iter().map(|team| (team.id.clone(), team_json(team))).collect();
                connection(field, &items)
            }
            "team" => {
                let wanted = text(field, "id");
                let found =
                    self.teams(account).iter().find(|team| team.granted && (team.id == wanted || team.key == wanted));
                found.map(team_json).ok_or_else(|| not_found("Team"))
            }
            "projects" | "issues" => connection(field, &[]),
            "project" | "issue" => {
                let team = self.teams(account).first().cloned().ok_or_else(|| not_found("Team"))?;
                let id = text(field, "id");
                if field.name == "issue" {
                    return Ok(
                        json!({"id": id, "identifier": format!("{}-1", team.key), "title": "Recalibrate north buoy",
                        "team": team_json(&team)}),
                    );
                }
                Ok(json!({"id": id, "name": "Winter buoys", "teams": page(&[team_json(&team)], false, None)}))
            }
            "webhooks" => {
                admin(grant)?;
                let items: Vec<_> = self.webhooks.iter().map(|hook| (hook["id"].to_string(), hook.clone())).collect();
                connection(field, &items)
            }
            other => Err(("GRAPHQL_VALIDATION_FAILED", format!("Cannot query field \"{other}\" on type \"Query\"."))),
        }
    }

    fn change(&mut self, field: &Field, grant: &Grant, scene: &mut Scene<'_>) -> Result<Value, (&'static str, String)> {
        let id = text(field, "id");
        let at = self.webhooks.iter().position(|hook| hook["id"] == id.as_str());
        let input = field.arguments.get("input").and_then(Value::as_object);
        let ours = field.name.starts_with("webhook");
        if ours {
            admin(grant)?;
        }
        match (field.name.as_str(), at) {
            ("webhookCreate", _) => {
                let input = input.ok_or_else(|| invalid("input is missing"))?;
                if !input.contains_key("url") || !input.contains_key("resourceTypes") {
                    return Err(invalid("url and resourceTypes are required"));
                }
                if input.contains_key("teamId") == input.contains_key("allPublicTeams") {
                    return Err(invalid("either teamId or allPublicTeams"));
                }
                let secret = input.get("secret").cloned().unwrap_or_else(|| json!(scene.issue("lin_wh_", 32)));
                let hook = json!({"id": scene.dice.uuid(), "enabled": true, "url": input["url"], "secret": secret,
                    "resourceTypes": input["resourceTypes"], "allPublicTeams": input.get("allPublicTeams"),
                    "label": input.get("label"), "failures": []});
                self.webhooks.push(hook.clone());
                Ok(json!({"success": true, "lastSyncId": 1, "webhook": hook}))
            }
            ("webhookUpdate", Some(at)) => {
                for (name, value) in input.into_iter().flatten() {
                    self.webhooks[at][name.as_str()] = value.clone();
                }
                Ok(json!({"success": true, "lastSyncId": 2, "webhook": self.webhooks[at]}))
            }
            ("webhookDelete", Some(at)) => {
                self.webhooks.remove(at);
                Ok(json!({"success": true, "entityId": id}))
            }
            ("webhookRotateSecret", Some(at)) => {
                let secret = json!(scene.issue("lin_wh_", 32));
                self.webhooks[at]["secret"] = secret.clone();
                Ok(json!({"success": true, "secret": secret}))
            }
            ("webhookUpdate" | "webhookDelete" | "webhookRotateSecret", None) => Err(not_found("Webhook")),
            (other, _) => {
                Err(("GRAPHQL_VALIDATION_FAILED", format!("Cannot query field \"{other}\" on type \"Mutation\".")))
            }
        }
    }
}

fn admin(grant: &Grant) -> Result<(), (&'static str, String)> {
    if grant.scope.iter().any(|scope| scope == "admin") {
        return Ok(());
    }
    Err(("FORBIDDEN", "Invalid scope: `admin` required".to_owned()))
}

fn invalid(why: &str) -> (&'static str, String) {
    ("INVALID_INPUT", format!("Argument Validation Error: {why}"))
}

fn not_found(what: &str) -> (&'static str, String) {
    ("INPUT_ERROR", format!("Entity not found: {what}"))
}

fn text(field: &Field, argument: &str) -> String {
    field.arguments.get(argument).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn organization(account: u32) -> Value {
    json!({"id": organization_id(account), "name": format!("Harborworks {account}"), "urlKey": format!("harborworks-{account}"), "logoUrl": null})
}

fn team_json(team: &Team) -> Value {
    json!({"id": team.id, "key": team.key, "name": team.name, "displayName": team.name, "private": false, "description": null,
        "icon": null, "color": "#5e6ad2", "archivedAt": null, "createdAt": "2026-01-01T10:00:00.000Z"})
}

fn page(nodes: &[Value], more: bool, end: Option<&str>) -> Value {
    json!({"nodes": nodes, "pageInfo": {"hasNextPage": more, "hasPreviousPage": false, "startCursor": null, "endCursor": end}})
}

/// A page of a connection: `first` up to 250, `after` the id of a former page's last.
fn connection(field: &Field, items: &[(String, Value)]) -> Result<Value, (&'static str, String)> {
    let first = field.arguments.get("first").filter(|first| !first.is_null()).map_or(Some(50), Value::as_u64);
    let Some(first) = first.and_then(|first| usize::try_from(first).ok()).filter(|first| (1..=250).contains(first))
    else {
        return Err(invalid("first must be between 1 and 250"));
    };
    let from = match field.arguments.get("after").and_then(Value::as_str) {
        None => 0,
        Some(after) => items.iter().position(|(id, _)| id == after).ok_or_else(|| invalid("after is no cursor"))? + 1,
    };
    let nodes: Vec<Value> = items.iter().skip(from).take(first).map(|(_, item)| item.clone()).collect();
    let end = items.get((from + nodes.len()).wrapping_sub(1)).filter(|_| !nodes.is_empty()).map(|(id, _)| id.as_str());
    Ok(page(&nodes, from + nodes.len() < items.len(), end))
}
