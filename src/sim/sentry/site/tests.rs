//! Each strictness refuses, each behaviour behaves.

use std::time::Duration;

use serde_json::{Value, json};

use super::{CLIENT_ID, SECRET};
use crate::sim::{
    browser::{Browser, Page},
    client::Answer,
    world::{
        Choice, Visit,
        tests::{Stage, bearer, call},
    },
};

const JSON: (&str, &str) = ("content-type", "application/json");

impl Stage {
    async fn install_sentry(&self, visit: Visit) -> Page {
        let url = format!("{}/sentry-apps/signalbox-sim/external-install/?state=s", self.world.sentry.web_url());
        Browser::new().with_visit(visit).visit(&url).await.expect("a page")
    }

    async fn sentry_pair(&self, uuid: &str, body: &Value) -> Answer {
        let path = format!("/api/0/sentry-app-installations/{uuid}/authorizations/");
        call("POST", &self.world.sentry.api_url(), &path, &[JSON], &body.to_string()).await
    }

    async fn sentry(&self, method: &str, token: &Value, path: &str, body: &Value) -> Answer {
        let token = bearer(token.as_str().expect("a token"));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        call(method, &self.world.sentry.api_url(), path, &[JSON, ("authorization", &token)], &body).await
    }

    /// An installation and its first pair.
    async fn connect_sentry(&self) -> (String, Value) {
        let page = self.install_sentry(Visit::default()).await;
        let uuid = page.parameter("installationId").expect("an id");
        let pair = self.sentry_pair(&uuid, &by_code(&page.parameter("code").expect("a code"))).await;
        assert_eq!(pair.status, 201);
        (uuid, pair.json())
    }
}

fn by_code(code: &str) -> Value {
    json!({"grant_type": "authorization_code", "code": code, "client_id": CLIENT_ID, "client_secret": SECRET})
}

fn by_refresh(pair: &Value) -> Value {
    json!({"grant_type": "refresh_token", "refresh_token": pair["refreshToken"], "client_id": CLIENT_ID, "client_secret": SECRET})
}

#[tokio::test]
async fn the_webhook_with_the_code_comes_before_the_browser() {
    let stage = Stage::set().await;
    let page = stage.install_sentry(Visit::default()).await;
    assert_eq!(page.parameter("orgSlug").as_deref(), Some("harborworks-1"));
    assert_eq!(page.parameter("state").as_deref(), Some("s"));
    let received = stage.sink.received();
    assert_eq!(received[0].path, "/webhooks/sentry");
    let told: Value = serde_json::from_slice(&received[0].body).expect("JSON");
    assert_eq!(told["data"]["installation"]["code"].as_str(), page.parameter("code").as_deref());
    assert_eq!(told["installation"]["uuid"].as_str(), page.parameter("installationId").as_deref());
    let again = stage.install_sentry(Visit::default()).await;
    assert_eq!((again.status, again.hops.len()), (400, 1), "it is installed already");
    let closed = stage.install_sentry(Visit::of_account(2).choosing(Choice::Close)).await;
    assert_eq!((closed.status, closed.hops.len()), (200, 1));
    let stateless = stage.install_sentry(Visit { forget_state: true, ..Visit::of_account(3) }).await;
    assert_eq!(stateless.parameter("state"), None);
}

#[tokio::test]
async fn a_code_is_traded_once_as_json_without_an_authorization_header() {
    let stage = Stage::set().await;
    let page = stage.install_sentry(Visit::default()).await;
    let (uuid, code) = (page.parameter("installationId").expect("an id"), page.parameter("code").expect("a code"));
    let path = format!("/api/0/sentry-app-installations/{uuid}/authorizations/");
    let base = stage.world.sentry.api_url();
    let good = by_code(&code);
    let changed = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for (body, status) in [
        (changed("code", json!("guessed")), 401),
        (changed("client_secret", json!("guessed")), 401),
        (changed("grant_type", json!("password")), 403),
        (changed("code", Value::Null), 400),
    ] {
        assert_eq!(stage.sentry_pair(&uuid, &body).await.status, status, "{body}");
    }
    assert_eq!(stage.sentry_pair("no-such-uuid", &good).await.status, 404);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(call("POST", &base, &path, &form, "grant_type=authorization_code").await.status, 400);
    let authorized = [JSON, ("authorization", "Bearer sim-sentry-client-secret-0001")];
    assert_eq!(call("POST", &base, &path, &authorized, &good.to_string()).await.status, 401);
    let slashless = call("POST", &base, path.trim_end_matches('/'), &[JSON], &good.to_string()).await;
    assert_eq!(slashless.status, 301, "a missing slash redirects and drops the body");

    let pair = stage.sentry_pair(&uuid, &good).await;
    assert_eq!(pair.status, 201);
    assert!(pair.json().get("access_token").is_none() && pair.json()["expiresAt"].is_string());
    assert_eq!(stage.sentry_pair(&uuid, &good).await.status, 401, "a code is good once");
}

#[tokio::test]
async fn a_refresh_ends_the_old_pair_at_once() {
    let stage = Stage::set().await;
    let (uuid, first) = stage.connect_sentry().await;
    let second = stage.sentry_pair(&uuid, &by_refresh(&first)).await;
    assert_eq!(second.status, 201);
    assert_eq!(stage.sentry_pair(&uuid, &by_refresh(&first)).await.status, 401, "there is no grace");
    let second = second.json();
    assert_eq!(stage.sentry("GET", &first["token"], "/api/0/projects/", &Value::Null).await.status, 401);
    assert_eq!(stage.sentry("GET", &second["token"], "/api/0/projects/", &Value::Null).await.status, 200);
    stage.world.sentry.set(|ambient| ambient.skew_ms = 28_801_000);
    assert_eq!(stage.sentry("GET", &second["token"], "/api/0/projects/", &Value::Null).await.status, 401);
}

#[tokio::test]
async fn nothing_is_sent_until_the_installation_is_confirmed() {
    let stage = Stage::set().await;
    let sentry = &stage.world.sentry;
    let (uuid, pair) = stage.connect_sentry().await;
    assert!(sentry.send("sentry:issue.created", &sentry.facts(1, 1)).await.is_none());
    let path = format!("/api/0/sentry-app-installations/{uuid}/");
    assert_eq!(stage.sentry("PUT", &pair["token"], &path, &json!({"status": "pending"})).await.status, 400);
    let confirmed = stage.sentry("PUT", &pair["token"], &path, &json!({"status": "installed"})).await.json();
    assert_eq!(
        (&confirmed["status"], &confirmed["organization"]["slug"]),
        (&json!("installed"), &json!("harborworks-1"))
    );
    assert!(!sentry.with(|sentry| sentry.is_pending(1)));
    assert!(sentry.send("sentry:issue.created", &sentry.facts(1, 1)).await.is_some());
}

#[tokio::test]
async fn uninstalling_needs_the_scope_and_is_told_and_a_new_installation_has_a_new_id() {
    let stage = Stage::set().await;
    let sentry = &stage.world.sentry;
    let (uuid, pair) = stage.connect_sentry().await;
    let path = format!("/api/0/sentry-app-installations/{uuid}/");
    sentry.tune(|knobs| knobs.may_uninstall = false);
    assert_eq!(stage.sentry("DELETE", &pair["token"], &path, &Value::Null).await.status, 403);
    sentry.tune(|knobs| knobs.may_uninstall = true);
    assert_eq!(stage.sentry("DELETE", &json!(SECRET), &path, &Value::Null).await.status, 401);
    assert_eq!(stage.sentry("DELETE", &pair["token"], &path, &Value::Null).await.status, 204);
    sentry.wait_until("the echo", Duration::from_secs(10), |_, sent| sent.len() == 2).await.expect("told");
    assert_eq!(sentry.sent()[1].kind, "sentry:installation.deleted");
    let (anew, _) = stage.connect_sentry().await;
    assert_ne!(anew, uuid);
}

#[tokio::test]
async fn a_next_link_is_always_there_and_results_says_when_to_stop() {
    let stage = Stage::set().await;
    stage.world.sentry.tune(|knobs| knobs.projects = 250);
    let (_, pair) = stage.connect_sentry().await;
    let base = stage.world.sentry.api_url();
    let (mut path, mut pages, mut ids) =
        ("/api/0/organizations/harborworks-1/projects/?per_page=100".to_owned(), 0, std::collections::BTreeSet::new());
    loop {
        let answer = stage.sentry("GET", &pair["token"], &path, &Value::Null).await;
        pages += 1;
        ids.extend(answer.json().as_array().expect("a list").iter().map(|project| project["id"].to_string()));
        let link = answer.headers.get("link").expect("always there").to_owned();
        let next = link.split(", ").find(|link| link.contains("rel=\"next\"")).expect("always a next").to_owned();
        if next.contains("results=\"false\"") {
            break;
        }
        let url = next.split(['<', '>']).nth(1).expect("a URL");
        path = url.strip_prefix(base.as_str()).expect("below the base").to_owned();
    }
    assert_eq!((pages, ids.len()), (3, 250));
    let foreign = "/api/0/organizations/somebody-else/projects/";
    assert_eq!(stage.sentry("GET", &pair["token"], foreign, &Value::Null).await.status, 403);
    let too_many = "/api/0/projects/?per_page=101";
    assert_eq!(stage.sentry("GET", &pair["token"], too_many, &Value::Null).await.status, 400);
}
