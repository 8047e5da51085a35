//! The same that tests do in the process, for other processes: JSON below `/_sim/` of every simulated provider.
//!
//! | call | does |
//! |---|---|
//! | `GET /_sim/journal`, `DELETE` | every call so far; forgets them |
//! | `GET /_sim/sent` | every webhook sent or lost |
//! | `GET /_sim/faults`, `POST` (a rule), `DELETE` | faults |
//! | `GET /_sim/knobs`, `PATCH` `{"any": {…}, "own": {…}}` | what can be set; with `any`, a provider that had stopped sending webhooks begins again |
//! | `POST /_sim/gateway` `{"url"}` | where the gateway is |
//! | `POST /_sim/act` `{"act", "account", …}` | what people do at the provider |
//! | `POST /_sim/send` `{"kind", "account", "seed"}` | sends a webhook |
//! | `POST /_sim/reset` | forgets everything |

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    call::{Answer, Call},
    faults::FaultRule,
    server,
    simulator::Shared,
    site::{Posting, Sent, Site, merge},
};

pub(super) async fn answer<S: Site>(shared: &Arc<Shared<S>>, call: &Call, path: &str) -> Answer {
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let done = || Ok(json!({"done": true}));
    let result: Result<Value, String> = match (call.method.as_str(), path) {
        ("GET", "journal") => {
            let calls: Vec<Value> = shared.lock().journal.iter().map(super::journal::JournalEntry::to_json).collect();
            Ok(json!({"calls": calls}))
        }
        ("DELETE", "journal") => {
            shared.lock().journal.clear();
            done()
        }
        ("GET", "sent") => {
            let sent: Vec<Value> = shared.lock().sent.iter().map(sent_json).collect();
            Ok(json!({"sent": sent}))
        }
        ("GET", "faults") => Ok(json!({"faults": shared.lock().faults.rules()})),
        ("POST", "faults") => {
            serde_json::from_value::<FaultRule>(body).map_err(|error| error.to_string()).map(|rule| {
                shared.lock().faults.add(rule);
                json!({"done": true})
            })
        }
        ("DELETE", "faults") => {
            shared.lock().faults.clear();
            done()
        }
        ("GET", "knobs") => Ok(knobs(shared)),
        ("PATCH", "knobs") => patch(shared, &body).map(|()| knobs(shared)),
        ("POST", "gateway") => {
            shared.lock().gateway = body["url"].as_str().map(|url| url.trim_end_matches('/').to_owned());
            done()
        }
        ("POST", "act") => {
            let act = body["act"].as_str().unwrap_or_default();
            let (said, outbox, _) = shared.on_stage(|site, scene| site.act(act, account(&body), &body, scene));
            for posting in outbox {
                server::post(shared, posting).await;
            }
            said
        }
        ("POST", "send") => {
            let facts = shared.facts(account(&body), body["seed"].as_u64().unwrap_or(0));
            let kind = body["kind"].as_str().unwrap_or_default().to_owned();
            let posting = Posting { kind, facts, edit: Value::Null, first: true, verbatim: None };
            let sent = server::post(shared, posting).await;
            sent.map(|sent| sent_json(&sent)).ok_or_else(|| "nothing of that kind is sent now".to_owned())
        }
        ("POST", "reset") => {
            shared.reset();
            done()
        }
        _ => return Answer::json(404, &json!({"error": "no such thing in a simulator"})),
    };
    match result {
        Ok(said) => Answer::json(200, &said),
        Err(why) => Answer::json(400, &json!({"error": why})),
    }
}

fn account(body: &Value) -> u32 {
    body["account"].as_u64().and_then(|account| u32::try_from(account).ok()).unwrap_or(1)
}

fn sent_json(sent: &Sent) -> Value {
    json!({"number": sent.number, "kind": sent.kind, "externalId": sent.external_id, "deliveryId": sent.delivery_id,
        "at": sent.at.to_rfc3339(), "redelivery": sent.redelivery, "status": sent.status, "answer": sent.answer,
        "loss": sent.loss})
}

fn knobs<S: Site>(shared: &Shared<S>) -> Value {
    let mut inner = shared.lock();
    json!({"any": inner.ambient, "own": inner.site.knobs()})
}

fn patch<S: Site>(shared: &Shared<S>, body: &Value) -> Result<(), String> {
    let mut current = knobs(shared);
    merge(&mut current, body);
    let ambient = serde_json::from_value(current["any"].take()).map_err(|error| error.to_string())?;
    let own = serde_json::from_value(current["own"].take()).map_err(|error| error.to_string())?;
    let mut inner = shared.lock();
    *inner.site.knobs() = own;
    if body.get("any").is_some() {
        inner.set(|current| *current = ambient);
    }
    Ok(())
}
