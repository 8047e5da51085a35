//! The REST API.
//!
//! **Invariants.** Every call needs a `User-Agent` and the kind of token its endpoint is for. Lists answer at most 100
//! at a time and link the rest.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{APP_SLUG, CLIENT_ID, GitHub, InstallationToken, Knobs, app_jwt, person_json};
use crate::sim::{
    to_the_second,
    world::{
        call::{Answer, Call, Credentials},
        site::Scene,
    },
};

/// An error as the REST API words it.
pub(super) fn problem(status: u16, message: &str) -> Answer {
    let body =
        json!({"message": message, "documentation_url": "https://docs.github.com/rest", "status": status.to_string()});
    Answer::json(status, &body)
}

impl GitHub {
    /// Answers an API call.
    pub(super) fn api(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        if call.headers.get("user-agent").is_none_or(str::is_empty) {
            let mut answer = Answer::empty(403).with("content-type", "text/plain");
            answer.body =
                "Request forbidden by administrative rules. Please make sure your request has a User-Agent header."
                    .into();
            return answer;
        }
        let Knobs { rate_remaining, rate_reset_s, .. } = &mut self.knobs;
        let verdict = self.limit.judge(rate_remaining, 1, *rate_reset_s, scene.now);
        let remaining = verdict.remaining.unwrap_or(4999);
        let answer = if verdict.granted {
            self.route(call, scene)
        } else {
            problem(403, "API rate limit exceeded for installation.")
        };
        answer
            .with("x-ratelimit-limit", "5000")
            .with("x-ratelimit-remaining", remaining.to_string())
            .with("x-ratelimit-used", 5000_u32.saturating_sub(remaining).to_string())
            .with("x-ratelimit-reset", verdict.reset_s())
            .with("x-ratelimit-resource", "core")
            .with("x-github-request-id", scene.dice.hex(16))
    }

    fn route(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let route = call.route();
        match (call.method.as_str(), route.as_slice()) {
            ("GET", ["meta"]) => {
                Answer::json(200, &json!({"hooks": ["127.0.0.0/8"], "verifiable_password_authentication": false}))
            }
            (_, ["applications", CLIENT_ID, what @ ("token" | "grant")]) => self.applications(call, what, scene),
            (_, ["app", ..]) => self.as_app(call, route.as_slice(), scene).unwrap_or_else(|refusal| refusal),
            ("GET", ["repos", owner, name, "installation"]) => {
                if let Err(refusal) = require_app(call, scene) {
                    return refusal;
                }
                let wanted = format!("{owner}/{name}");
                let ids: Vec<u64> = self.installations.keys().copied().collect();
                let found = ids.into_iter().find(|id| self.visible(*id).iter().any(|r| r.full_name() == wanted));
                found.map_or_else(|| problem(404, "Not Found"), |id| Answer::json(200, &self.installation_json(id)))
            }
            ("GET", ["user"]) => self.as_user(call, scene, |_, person, _| Answer::json(200, &person_json(person))),
            ("GET", ["user", "installations"]) => self.as_user(call, scene, Self::installations_of_user),
            ("GET", ["user", "installations", id, "repositories"]) => {
                let id = id.parse().unwrap_or(0);
                self.as_user(call, scene, |github, person, call| {
                    let seen = github.installations.get(&id).is_some_and(|found| found.seen_by.contains(&person));
                    if seen { github.list_repositories(call, id, None) } else { problem(404, "Not Found") }
                })
            }
            ("DELETE", ["installation", "token"]) => match self.installation_token(call, scene) {
                Ok((token, _)) => {
                    self.tokens.remove(&token);
                    Answer::empty(204)
                }
                Err(refusal) => refusal,
            },
            ("GET", ["installation", "repositories"]) => match self.installation_token(call, scene) {
                Ok((_, token)) => self.list_repositories(call, token.installation, token.repositories.as_ref()),
                Err(refusal) => refusal,
            },
            ("GET", ["repos" | "repositories", ..]) => match self.installation_token(call, scene) {
                Ok((_, token)) => {
                    let visible = self.visible(token.installation);
                    Self::repository(call, &visible, token.repositories.as_ref(), route.as_slice())
                }
                Err(refusal) => refusal,
            },
            _ => problem(404, "Not Found"),
        }
    }

    fn as_app(&mut self, call: &Call, route: &[&str], scene: &mut Scene<'_>) -> Result<Answer, Answer> {
        require_app(call, scene)?;
        Ok(match (call.method.as_str(), route) {
            ("GET", ["app"]) => Answer::json(
                200,
                &json!({"id": super::APP_ID, "slug": APP_SLUG, "client_id": CLIENT_ID,
                "name": "Signalbox", "owner": {"login": "signalbox", "id": 1}, "permissions": {"metadata": "read", "contents": "read"},
                "events": ["push", "pull_request"], "installations_count": self.installations.len()}),
            ),
            ("GET", ["app", "installations"]) => {
                let ids: Vec<u64> = self.installations.keys().copied().collect();
                let items: Vec<Value> = ids.into_iter().map(|id| self.installation_json(id)).collect();
                list(call, items, Value::Array)
            }
            ("GET", ["app", "installation-requests"]) => {
                let requests = self.requests.clone();
                let items = requests.into_iter().map(|request| {
                    json!({"id": request.id, "account": self.account_json(request.account),
                        "requester": person_json(request.person), "created_at": to_the_second(request.at)})
                });
                let items = items.collect();
                list(call, items, Value::Array)
            }
            ("GET" | "PATCH", ["app", "hook", "config"]) => self.hook_config(call, scene),
            (_, ["app", "hook", "deliveries", rest @ ..]) => self.deliveries(call, rest, scene),
            (method, ["app", "installations", id, rest @ ..]) => {
                let id = id.parse().ok().filter(|id| self.installations.contains_key(id));
                let id = id.ok_or_else(|| problem(404, "Integration not found"))?;
                self.one_installation(call, method, id, rest, scene)
            }
            _ => problem(404, "Not Found"),
        })
    }

    fn one_installation(&mut self, call: &Call, method: &str, id: u64, rest: &[&str], scene: &mut Scene<'_>) -> Answer {
        let account = self.installations.get(&id).map_or(0, |installation| installation.account);
        match (method, rest) {
            ("GET", []) => Answer::json(200, &self.installation_json(id)),
            ("DELETE", []) => {
                self.uninstall(id, scene);
                Answer::empty(204)
            }
            ("PUT" | "DELETE", ["suspended"]) => {
                self.suspend(account, method == "PUT", scene);
                Answer::empty(204)
            }
            ("POST", ["access_tokens"]) => self.mint(call, id, scene),
            _ => problem(404, "Not Found"),
        }
    }

    fn mint(&mut self, call: &Call, id: u64, scene: &mut Scene<'_>) -> Answer {
        let Some(installation) = self.installations.get(&id).cloned() else { return problem(404, "Not Found") };
        if installation.suspended_at.is_some() {
            return problem(403, "This installation has been suspended");
        }
        let asked = if call.body.is_empty() { Some(serde_json::Map::new()) } else { call.json() };
        let Some(asked) = asked else { return problem(400, "Problems parsing JSON") };
        let visible = self.visible(id);
        let by_id = asked.get("repository_ids").and_then(Value::as_array);
        let by_name = asked.get("repositories").and_then(Value::as_array);
        let mut narrowed = None;
        if by_id.is_some() || by_name.is_some() {
            let mut only = BTreeSet::new();
            for wanted in by_id.into_iter().flatten().chain(by_name.into_iter().flatten()) {
                let found = visible.iter().find(|repository| *wanted == repository.id || *wanted == repository.name);
                let Some(found) = found else {
                    return problem(
                        422,
                        "There is at least one repository that does not exist or is not accessible to the parent installation.",
                    );
                };
                only.insert(found.id);
            }
            narrowed = Some(only);
        }
        for (name, level) in asked.get("permissions").and_then(Value::as_object).into_iter().flatten() {
            if installation.permissions[name] != *level {
                return problem(422, "The permissions requested are not granted to this installation.");
            }
        }
        let token = if self.knobs.stateless_tokens {
            let middle = scene.dice.token(300);
            scene.issue(&format!("ghs_{}_eyJhbGciOiJFUzI1NiJ9.{middle}.", super::APP_ID), 160)
        } else {
            scene.issue("ghs_", 36)
        };
        let expires_at = scene.now.plus(Duration::from_secs(self.knobs.token_lifetime_s));
        let mut answer = json!({"token": token, "expires_at": to_the_second(expires_at),
            "permissions": asked.get("permissions").unwrap_or(&installation.permissions),
            "repository_selection": if narrowed.is_some() { "selected" } else { installation.selection.as_str() }});
        if let Some(only) = &narrowed {
            let repositories: Vec<Value> =
                visible.iter().filter(|r| only.contains(&r.id)).map(super::Repository::json).collect();
            answer["repositories"] = Value::Array(repositories);
        }
        self.tokens.insert(token, InstallationToken { installation: id, expires_at, repositories: narrowed });
        Answer::json(201, &answer)
    }

    /// The installation token of a call.
    fn installation_token(&self, call: &Call, scene: &mut Scene<'_>) -> Result<(String, InstallationToken), Answer> {
        let Credentials::Bearer(token) = call.credentials() else {
            return Err(problem(401, "Requires authentication"));
        };
        if self.people.person_of(&token, scene.now).is_some() {
            return Err(problem(403, "Resource not accessible by integration"));
        }
        let held = self.tokens.get(&token).filter(|held| held.expires_at > scene.now).cloned();
        let held = held.ok_or_else(|| problem(401, "Bad credentials"))?;
        match self.installations.get(&held.installation) {
            None => Err(problem(401, "Bad credentials")),
            Some(installation) if installation.suspended_at.is_some() => {
                Err(problem(403, "This installation has been suspended"))
            }
            Some(_) => {
                scene.accepted_as = Some("installation");
                Ok((token, held))
            }
        }
    }

    fn as_user(
        &mut self,
        call: &Call,
        scene: &mut Scene<'_>,
        answer: impl FnOnce(&mut Self, u32, &Call) -> Answer,
    ) -> Answer {
        let Credentials::Bearer(token) = call.credentials() else { return problem(401, "Requires authentication") };
        if self.tokens.contains_key(&token) {
            return problem(403, "Resource not accessible by integration");
        }
        match self.people.person_of(&token, scene.now) {
            Some(person) => {
                scene.accepted_as = Some("user");
                answer(self, person, call)
            }
            None => problem(401, "Bad credentials"),
        }
    }

    fn installations_of_user(&mut self, person: u32, call: &Call) -> Answer {
        let seen = self.installations.values().filter(|installation| installation.seen_by.contains(&person));
        let ids: Vec<u64> = seen.map(|installation| installation.id).collect();
        let items: Vec<Value> = ids.into_iter().map(|id| self.installation_json(id)).collect();
        let total = items.len();
        list(call, items, |page| json!({"total_count": total, "installations": page}))
    }

    fn list_repositories(&mut self, call: &Call, installation: u64, narrowed: Option<&BTreeSet<u64>>) -> Answer {
        let visible = self.visible(installation);
        let allowed = visible.iter().filter(|repository| narrowed.is_none_or(|only| only.contains(&repository.id)));
        let items: Vec<Value> = allowed.map(super::Repository::json).collect();
        let total = items.len();
        let selection = self.installations.get(&installation).map(|found| found.selection.clone());
        list(call, items, |page| json!({"total_count": total, "repository_selection": selection, "repositories": page}))
    }
}

fn require_app(call: &Call, scene: &mut Scene<'_>) -> Result<(), Answer> {
    let Credentials::Bearer(token) = call.credentials() else {
        return Err(problem(401, "A JSON web token could not be decoded"));
    };
    app_jwt::judge(&token, scene.now).map_err(|why| problem(401, why))?;
    scene.accepted_as = Some("app");
    Ok(())
}

/// A page of a list, with its `Link` (docs.github.com: "Using pagination in the REST API").
fn list(call: &Call, items: Vec<Value>, wrap: impl FnOnce(Vec<Value>) -> Value) -> Answer {
    let per_page = call.number("per_page").unwrap_or(30).clamp(1, 100);
    let page = call.number("page").unwrap_or(1).max(1);
    let last = items.len().div_ceil(per_page).max(1);
    let shown = items.into_iter().skip((page - 1) * per_page).take(per_page).collect();
    let url = |page: usize| {
        let kept = call.query.iter().filter(|(name, _)| name != "page").map(|(k, v)| (k.as_str(), v.as_str()));
        let page = page.to_string();
        let url = format!("{}{}", call.base, call.path);
        crate::sim::world::call::with_query(&url, kept.chain([("page", page.as_str())]))
    };
    let mut links = Vec::new();
    if page > 1 {
        links.push(format!("<{}>; rel=\"prev\"", url(page - 1)));
    }
    if page < last {
        links.push(format!("<{}>; rel=\"next\"", url(page + 1)));
        links.push(format!("<{}>; rel=\"last\"", url(last)));
    }
    if page > 1 {
        links.push(format!("<{}>; rel=\"first\"", url(1)));
    }
    let answer = Answer::json(200, &wrap(shown));
    if links.is_empty() { answer } else { answer.with("link", links.join(", ")) }
}
