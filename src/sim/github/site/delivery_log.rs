//! The App's log of what it sent, and redelivery from it (docs.github.com, "Handling failed webhook deliveries").
//!
//! **Invariants.** Newest first. `id` is of an attempt, `guid` of the event: a redelivery has a new id and the same
//! guid. Entries older than three days are neither listed nor redelivered.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{GitHub, api::problem};
use crate::{
    model::clock::EpochMs,
    sim::{
        Facts, SignedRequest,
        world::{
            call::{Answer, Call, with_query},
            site::{Loss, Scene, Sent},
        },
    },
};

const REACH_MS: i64 = 3 * 24 * 3600 * 1000;

/// What a test may want to know of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStory {
    /// Of the attempt.
    pub id: u64,
    /// Of the event.
    pub guid: String,
    /// Whether it was asked for.
    pub redelivery: bool,
    /// The status it was answered with; 0 if there was no answer.
    pub status: u16,
}

#[derive(Debug, Clone)]
pub(super) struct Logged {
    id: u64,
    guid: String,
    kind: String,
    at: EpochMs,
    redelivery: bool,
    status: Option<u16>,
    answer: Value,
    external_id: String,
    resource_id: String,
    request: SignedRequest,
}

impl Logged {
    fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    fn json(&self) -> Value {
        let status = match self.status {
            Some(status) if (200..300).contains(&status) => "OK".to_owned(),
            Some(status) => format!("Invalid HTTP Response: {status}"),
            None => "failed to connect to host".to_owned(),
        };
        let event = self.request.header("x-github-event").unwrap_or_default();
        let body: Value = serde_json::from_slice(&self.request.body).unwrap_or_default();
        let number = |id: &str| id.parse::<u64>().ok();
        let in_repository = body.get("repository").is_some();
        json!({"id": self.id, "guid": self.guid, "delivered_at": self.at.to_rfc3339(), "redelivery": self.redelivery,
            "duration": 0.27, "status": status, "status_code": self.status.unwrap_or(0), "event": event,
            "action": body.get("action"), "installation_id": number(&self.external_id),
            "repository_id": in_repository.then(|| number(&self.resource_id)).flatten(), "throttled_at": null})
    }
}

impl GitHub {
    /// What is in the log, oldest first, without its lag.
    pub fn log(&self) -> Vec<LogStory> {
        let story = |logged: &Logged| LogStory {
            id: logged.id,
            guid: logged.guid.clone(),
            redelivery: logged.redelivery,
            status: logged.status.unwrap_or(0),
        };
        self.log.iter().map(story).collect()
    }

    /// Moves everything in the log back in time.
    pub fn age_log(&mut self, by: std::time::Duration) {
        for logged in &mut self.log {
            logged.at = logged.at.minus(by);
        }
    }

    pub(super) fn log_delivery(&mut self, sent: &Sent, request: &SignedRequest, scene: &mut Scene<'_>) {
        if sent.loss == Loss::Traceless {
            return;
        }
        let id = 12_000_000_000_001 + self.log.len() as u64 * 7 + scene.dice.between(0, 6);
        self.log.push(Logged {
            id,
            guid: sent.delivery_id.clone(),
            kind: sent.kind.clone(),
            at: sent.at,
            redelivery: sent.redelivery,
            status: sent.status,
            answer: sent.answer.clone(),
            external_id: sent.external_id.clone(),
            resource_id: sent.resource_id.clone(),
            request: request.clone(),
        });
    }

    /// `/app/hook/deliveries…`
    pub(super) fn deliveries(&mut self, call: &Call, rest: &[&str], scene: &mut Scene<'_>) -> Answer {
        let listed_until = EpochMs(scene.now.0 - i64::try_from(self.knobs.log_lag_ms).unwrap_or(0));
        let listed_since = EpochMs(scene.now.0 - REACH_MS);
        let shown = |logged: &&Logged| logged.at <= listed_until && logged.at >= listed_since;
        match (call.method.as_str(), rest) {
            ("GET", []) => {
                let wanted = call.parameter("status");
                if wanted.is_some_and(|status| status != "success" && status != "failure") {
                    return problem(422, "status must be success or failure");
                }
                let before = match call.parameter("cursor").map(read_cursor) {
                    None => u64::MAX,
                    Some(Some(before)) => before,
                    Some(None) => return problem(422, "Invalid cursor"),
                };
                let per_page = call.number("per_page").unwrap_or(30).clamp(1, 100);
                let mut entries: Vec<&Logged> = self
                    .log
                    .iter()
                    .rev()
                    .filter(shown)
                    .filter(|logged| logged.id < before)
                    .filter(|logged| wanted.is_none_or(|status| (status == "success") == logged.succeeded()))
                    .take(per_page + 1)
                    .collect();
                let more = entries.len() > per_page;
                entries.truncate(per_page);
                let items: Vec<Value> = entries.iter().map(|logged| logged.json()).collect();
                let answer = Answer::json(200, &Value::Array(items));
                let Some(last) = entries.last().filter(|_| more) else { return answer };
                let cursor = write_cursor(last.id);
                let kept =
                    call.query.iter().filter(|(name, _)| name != "cursor").map(|(k, v)| (k.as_str(), v.as_str()));
                let url = format!("{}{}", call.base, call.path);
                let next = with_query(&url, kept.chain([("cursor", cursor.as_str())]));
                answer.with("link", format!("<{next}>; rel=\"next\""))
            }
            ("GET", [id]) => match self.log.iter().filter(shown).find(|logged| logged.id.to_string() == *id) {
                Some(logged) => {
                    let mut detail = logged.json();
                    let headers: serde_json::Map<String, Value> =
                        logged.request.headers.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
                    detail["url"] = json!(
                        scene.callback().map(|url| url.replace("/connections/github/callback", "/webhooks/github"))
                    );
                    detail["request"] = json!({"headers": headers,
                        "payload": serde_json::from_slice::<Value>(&logged.request.body).unwrap_or_default()});
                    detail["response"] = json!({"headers": {}, "payload": logged.answer.to_string()});
                    Answer::json(200, &detail)
                }
                None => problem(404, "Not Found"),
            },
            ("POST", [id, "attempts"]) => {
                let found = self.log.iter().find(|logged| logged.id.to_string() == *id).cloned();
                let Some(logged) = found else { return problem(404, "Not Found") };
                if self.knobs.refuse_redelivery || logged.at < listed_since {
                    return problem(422, "This delivery cannot be redelivered.");
                }
                let facts = Facts {
                    delivery_id: logged.guid.clone(),
                    external_id: logged.external_id.clone(),
                    resource_id: logged.resource_id.clone(),
                    ..super::PROVIDER.facts(1, 0, scene.now)
                };
                scene.tell_again(&logged.kind, facts, logged.request);
                Answer::json(202, &json!({}))
            }
            _ => problem(404, "Not Found"),
        }
    }

    /// `GET` and `PATCH /app/hook/config`
    pub(super) fn hook_config(&mut self, call: &Call, scene: &Scene<'_>) -> Answer {
        if call.method == "PATCH" {
            let Some(changes) = call.json() else { return problem(400, "Problems parsing JSON") };
            for (name, value) in changes {
                self.hook[name.as_str()] = if name == "secret" { json!("********") } else { value };
            }
        }
        let mut hook = self.hook.clone();
        if hook.get("url").is_none() {
            let callback = scene.callback().unwrap_or_default();
            hook["url"] = json!(callback.replace("/connections/github/callback", "/webhooks/github"));
        }
        Answer::json(200, &hook)
    }
}

fn write_cursor(id: u64) -> String {
    URL_SAFE_NO_PAD.encode(format!("v1_{id}"))
}

fn read_cursor(cursor: &str) -> Option<u64> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?.strip_prefix("v1_")?.parse().ok()
}
