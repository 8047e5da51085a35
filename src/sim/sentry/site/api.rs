//! Tokens, installations and projects.

use std::time::Duration;

use serde_json::{Value, json};

use super::{CLIENT_ID, Knobs, SECRET, SLUG, Sentry, Token};
use crate::sim::world::{
    call::{Answer, Call, Credentials, with_query},
    site::Scene,
};

/// An error as the API words it.
fn detail(status: u16, text: &str) -> Answer {
    Answer::json(status, &json!({"detail": text}))
}

impl Sentry {
    /// Answers an API call.
    pub(super) fn api(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let Knobs { rate_remaining, rate_reset_s, .. } = &mut self.knobs;
        let verdict = self.limit.judge(rate_remaining, 1, *rate_reset_s, scene.now);
        let answer = if verdict.granted {
            self.route(call, scene)
        } else {
            detail(429, "You are attempting to use this endpoint too frequently. Limit is 40 requests in 1 seconds")
        };
        answer
            .with("x-sentry-rate-limit-limit", "40")
            .with("x-sentry-rate-limit-remaining", verdict.remaining.unwrap_or(39).to_string())
            .with("x-sentry-rate-limit-reset", verdict.reset_s())
            .with("x-sentry-rate-limit-concurrentlimit", "25")
            .with("x-sentry-rate-limit-concurrentremaining", "24")
    }

    fn route(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let route = call.route();
        if let ("POST", ["api", "0", "sentry-app-installations", uuid, "authorizations", ""]) =
            (call.method.as_str(), route.as_slice())
        {
            return self.authorize(call, uuid, scene);
        }
        let token = match self.authenticate(call, scene) {
            Ok(token) => token,
            Err(refusal) => return refusal,
        };
        let Some(account) = self.installations.get(&token.installation).map(|found| found.account) else {
            return detail(401, "Invalid token");
        };
        let organization = self.organization(account).clone();
        match (call.method.as_str(), route.as_slice()) {
            (method, ["api", "0", "sentry-app-installations", uuid, ""]) if *uuid == token.installation => {
                self.installation(call, method, uuid, scene)
            }
            ("GET", ["api", "0", "organizations", ""]) => {
                list(call, vec![organization_json(&organization.slug, account, scene.origin)])
            }
            ("GET", ["api", "0", "organizations", slug, ""]) if *slug == organization.slug => {
                Answer::json(200, &organization_json(&organization.slug, account, scene.origin))
            }
            ("GET", ["api", "0", "projects", ""]) => self.list_projects(call, account),
            ("GET", ["api", "0", "organizations", slug, "projects", ""]) if *slug == organization.slug => {
                self.list_projects(call, account)
            }
            ("GET", ["api", "0", "projects", slug, project, ""]) if *slug == organization.slug => {
                let found = organization.projects.iter().find(|found| found.slug == *project);
                found.map_or_else(
                    || detail(404, "The requested resource does not exist"),
                    |found| Answer::json(200, &project_json(found, &organization.slug, account)),
                )
            }
            ("GET", ["api", "0", "organizations", slug, "issues", ""]) if *slug == organization.slug => {
                list(call, Vec::new())
            }
            ("GET", ["api", "0", "organizations", slug, "issues", id, ""]) if *slug == organization.slug => {
                Answer::json(
                    200,
                    &json!({"id": id, "title": "SensorTimeout", "status": "unresolved", "level": "error",
                    "project": organization.projects.first().map(|project| json!({"id": project.id, "slug": project.slug}))}),
                )
            }
            ("GET", ["api", "0", "organizations", ..]) => {
                detail(403, "You do not have permission to perform this action.")
            }
            _ => detail(404, "The requested resource does not exist"),
        }
    }

    /// `POST …/authorizations/`: the pair for a code, or the next pair for a refresh token.
    fn authorize(&mut self, call: &Call, uuid: &str, scene: &mut Scene<'_>) -> Answer {
        let Some(installation) = self.installations.get(uuid).cloned() else {
            return detail(404, "The requested resource does not exist");
        };
        if call.credentials() != Credentials::None {
            return detail(401, "Invalid token header");
        }
        let Some(body) = call.json() else { return detail(400, "JSON parse error") };
        let field = |name: &str| body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let (Some(grant_type), Some(client_id), Some(client_secret)) =
            (field("grant_type"), field("client_id"), field("client_secret"))
        else {
            return detail(400, "grant_type, client_id and client_secret are required");
        };
        if client_id != CLIENT_ID || client_secret != SECRET {
            return detail(401, "Unauthorized");
        }
        match grant_type {
            "authorization_code" => {
                let lifetime = i64::try_from(self.knobs.code_lifetime_s).unwrap_or(i64::MAX / 1000) * 1000;
                let good = installation
                    .code
                    .as_ref()
                    .is_some_and(|(code, at)| field("code") == Some(code.as_str()) && scene.now.0 - at.0 <= lifetime);
                if field("code").is_none() {
                    return detail(400, "code is required");
                }
                if !good {
                    return detail(401, "Unauthorized");
                }
                if let Some(installation) = self.installations.get_mut(uuid) {
                    installation.code = None;
                }
            }
            "refresh_token" => {
                let Some(asked) = field("refresh_token") else { return detail(400, "refresh_token is required") };
                let held = self.tokens.iter().find(|(_, token)| token.refresh == asked && token.installation == uuid);
                let Some(access) = held.map(|(access, _)| access.clone()) else { return detail(401, "Unauthorized") };
                self.tokens.remove(&access);
            }
            _ => return detail(403, "Forbidden: grant_type"),
        }
        scene.accepted_as = Some("client");
        let (token, refresh) = (scene.dice.hex(64), scene.dice.hex(64));
        scene.note_issued(&token);
        scene.note_issued(&refresh);
        let expires_at = scene.now.plus(Duration::from_secs(self.knobs.token_lifetime_s));
        let held = Token { installation: uuid.to_owned(), refresh: refresh.clone(), expires_at };
        self.tokens.insert(token.clone(), held);
        let answer = json!({"id": scene.dice.between(1, 1 << 31).to_string(), "token": token, "refreshToken": refresh,
            "expiresAt": expires_at.to_rfc3339(), "dateCreated": scene.now.to_rfc3339(), "scopes": self.scopes(),
            "state": null, "application": null});
        Answer::json(201, &answer)
    }

    fn scopes(&self) -> Vec<&'static str> {
        let mut scopes = vec!["event:read", "org:read", "project:read"];
        if self.knobs.may_uninstall {
            scopes.push("org:integrations");
        }
        scopes
    }

    fn authenticate(&self, call: &Call, scene: &mut Scene<'_>) -> Result<Token, Answer> {
        let Credentials::Bearer(token) = call.credentials() else {
            return Err(detail(401, "Authentication credentials were not provided."));
        };
        let held = self.tokens.get(&token).ok_or_else(|| detail(401, "Invalid token"))?;
        if held.expires_at <= scene.now {
            return Err(detail(401, "Token expired"));
        }
        scene.accepted_as = Some("installation");
        Ok(held.clone())
    }

    /// `…/sentry-app-installations/{uuid}/`
    fn installation(&mut self, call: &Call, method: &str, uuid: &str, scene: &mut Scene<'_>) -> Answer {
        match method {
            "GET" => self.installation_json(uuid),
            "PUT" => {
                let Some(body) = call.json() else { return detail(400, "JSON parse error") };
                if body.get("status").and_then(Value::as_str) != Some("installed") {
                    return Answer::json(
                        400,
                        &json!({"status": ["Invalid value for status. Must be 'installed' in order to mark as installed."]}),
                    );
                }
                if let Some(installation) = self.installations.get_mut(uuid) {
                    installation.is_pending = false;
                }
                self.installation_json(uuid)
            }
            "DELETE" if !self.knobs.may_uninstall => detail(403, "You do not have permission to perform this action."),
            "DELETE" => {
                self.uninstall(uuid, scene);
                Answer::empty(204)
            }
            _ => detail(405, "Method not allowed"),
        }
    }

    fn installation_json(&mut self, uuid: &str) -> Answer {
        let Some(installation) = self.installations.get(uuid).cloned() else {
            return detail(404, "The requested resource does not exist");
        };
        let slug = self.organization(installation.account).slug.clone();
        let status = if installation.is_pending { "pending" } else { "installed" };
        let body = json!({"uuid": uuid, "status": status, "app": {"uuid": "77e1c0de-0000-4000-8000-000000000001", "slug": SLUG},
            "organization": {"slug": slug, "id": organization_id(installation.account)}});
        Answer::json(200, &body)
    }

    fn list_projects(&mut self, call: &Call, account: u32) -> Answer {
        let organization = self.organization(account).clone();
        let items =
            organization.projects.iter().map(|project| project_json(project, &organization.slug, account)).collect();
        list(call, items)
    }
}

fn organization_id(account: u32) -> String {
    (4_507_810_000_000_000 + u64::from(account)).to_string()
}

fn organization_json(slug: &str, account: u32, origin: &str) -> Value {
    json!({"id": organization_id(account), "slug": slug, "name": format!("Harborworks {account}"),
        "links": {"organizationUrl": origin, "regionUrl": origin}, "status": {"id": "active", "name": "active"}})
}

fn project_json(project: &super::Project, slug: &str, account: u32) -> Value {
    json!({"id": project.id, "slug": project.slug, "name": project.slug, "platform": "rust", "status": "active", "isMember": true,
        "dateCreated": "2026-01-01T10:00:00.000Z", "organization": {"id": organization_id(account), "slug": slug}})
}

/// A page with its `Link`: both directions are always there, `results` says whether they lead anywhere.
fn list(call: &Call, items: Vec<Value>) -> Answer {
    let per_page = call.number("per_page").unwrap_or(100);
    let cursor = call.parameter("cursor").unwrap_or("0:0:0");
    let page: Option<usize> = cursor.split(':').nth(1).and_then(|offset| offset.parse().ok());
    let Some(offset) = page.filter(|_| (1..=100).contains(&per_page) && cursor.split(':').count() == 3) else {
        return detail(400, "Invalid cursor or per_page parameter");
    };
    let all = items.len();
    let shown: Vec<Value> = items.into_iter().skip(offset).take(per_page).collect();
    let link = |rel: &str, offset: usize, results: bool| {
        let cursor = format!("0:{offset}:{}", u8::from(rel == "previous"));
        let kept = call.query.iter().filter(|(name, _)| name != "cursor").map(|(k, v)| (k.as_str(), v.as_str()));
        let url = with_query(&format!("{}{}", call.base, call.path), kept.chain([("cursor", cursor.as_str())]));
        format!("<{url}>; rel=\"{rel}\"; results=\"{results}\"; cursor=\"{cursor}\"")
    };
    let previous = link("previous", offset.saturating_sub(per_page), offset > 0);
    let next = link("next", offset + per_page, offset + per_page < all);
    Answer::json(200, &Value::Array(shown)).with("link", format!("{previous}, {next}"))
}
