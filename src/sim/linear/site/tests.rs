//! Each strictness refuses, each behaviour behaves.

use std::time::Duration;

use serde_json::{Value, json};

use super::{CLIENT_ID, CLIENT_SECRET};
use crate::sim::{
    browser::{Browser, Page},
    client::Answer,
    world::{
        Choice, Visit,
        tests::{Stage, bearer, call},
    },
};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
// RFC 7636, appendix B.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

fn encoded(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

impl Stage {
    async fn ask_linear(&self, visit: Visit, change: &[(&str, &str)]) -> Page {
        let callback = self.callback("linear");
        let usual = [
            ("client_id", CLIENT_ID),
            ("redirect_uri", callback.as_str()),
            ("response_type", "code"),
            ("scope", "read,write"),
            ("state", "s"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        let query: Vec<(&str, &str)> = usual
            .into_iter()
            .map(|(name, value)| change.iter().find(|(other, _)| *other == name).copied().unwrap_or((name, value)))
            .collect();
        let url = format!("{}/oauth/authorize?{}", self.world.linear.web_url(), encoded(&query));
        Browser::new().with_visit(visit).visit(&url).await.expect("a page")
    }

    async fn linear_code(&self) -> String {
        self.ask_linear(Visit::default(), &[]).await.parameter("code").expect("a code")
    }

    async fn linear_token(&self, fields: &[(&str, &str)]) -> Answer {
        call("POST", &self.world.linear.api_url(), "/oauth/token", &[FORM], &encoded(fields)).await
    }

    async fn trade_linear(&self, code: &str) -> Answer {
        let callback = self.callback("linear");
        self.linear_token(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &callback),
            ("client_id", CLIENT_ID),
            ("client_secret", CLIENT_SECRET),
            ("code_verifier", VERIFIER),
        ])
        .await
    }

    async fn refresh_linear(&self, refresh: &Value) -> Answer {
        let refresh = refresh.as_str().expect("a refresh token");
        let fields = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh),
            ("client_id", CLIENT_ID),
            ("client_secret", CLIENT_SECRET),
        ];
        self.linear_token(&fields).await
    }

    async fn query(&self, token: &Value, query: &str, variables: Value) -> Answer {
        let token = bearer(token.as_str().expect("a token"));
        let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
        let body = json!({"query": query, "variables": variables}).to_string();
        call("POST", &self.world.linear.api_url(), "/graphql", &headers, &body).await
    }
}

#[tokio::test]
async fn the_authorization_page_refuses_what_linear_refuses() {
    let stage = Stage::set().await;
    for wrong in [
        ("client_id", "another"),
        ("redirect_uri", "http://127.0.0.1:1/"),
        ("response_type", "token"),
        ("scope", "read write"),
        ("code_challenge_method", "S512"),
    ] {
        let page = stage.ask_linear(Visit::default(), &[wrong]).await;
        assert_eq!((page.status, page.hops.len()), (400, 1), "{wrong:?}");
    }
    let denied = stage.ask_linear(Visit::default().choosing(Choice::Deny), &[]).await;
    assert_eq!(denied.parameter("error").as_deref(), Some("access_denied"));
    assert_eq!(denied.parameter("state").as_deref(), Some("s"));
    let closed = stage.ask_linear(Visit::default().choosing(Choice::Close), &[]).await;
    assert_eq!(closed.url.path(), "/oauth/authorize");
}

#[tokio::test]
async fn a_code_is_traded_once_as_a_form_with_its_verifier() {
    let stage = Stage::set().await;
    let code = stage.linear_code().await;
    let tokens = stage.trade_linear(&code).await.json();
    assert_eq!((&tokens["expires_in"], &tokens["scope"]), (&json!(86_399), &json!("read write")));
    assert_eq!(stage.trade_linear(&code).await.json()["error"], "invalid_grant");
    let callback = stage.callback("linear");
    let usual = [("grant_type", "authorization_code"), ("redirect_uri", callback.as_str()), ("client_id", CLIENT_ID)];
    for (more, status) in [
        (vec![("client_secret", CLIENT_SECRET)], 400),
        (vec![("client_secret", CLIENT_SECRET), ("code_verifier", "guessed")], 400),
        (vec![("client_secret", "guessed"), ("code_verifier", VERIFIER)], 401),
        (vec![], 401),
        (vec![("code_verifier", VERIFIER)], 200),
    ] {
        let code = stage.linear_code().await;
        let fields: Vec<_> = usual.into_iter().chain(more).chain([("code", code.as_str())]).collect();
        assert_eq!(stage.linear_token(&fields).await.status, status, "{fields:?}");
    }
    let code = stage.linear_code().await;
    let body = json!({"grant_type": "authorization_code", "code": code}).to_string();
    let json_type = [("content-type", "application/json")];
    assert_eq!(call("POST", &stage.world.linear.api_url(), "/oauth/token", &json_type, &body).await.status, 400);
    stage.world.linear.tune(|knobs| knobs.scope_as_array = true);
    assert_eq!(stage.trade_linear(&code).await.json()["scope"], json!(["read", "write"]));
}

#[tokio::test]
async fn every_refresh_rotates_and_grace_is_a_knob() {
    let stage = Stage::set().await;
    let linear = &stage.world.linear;
    let first = stage.trade_linear(&stage.linear_code().await).await.json();
    let second = stage.refresh_linear(&first["refresh_token"]).await.json();
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_eq!(stage.refresh_linear(&first["refresh_token"]).await.json()["error"], "invalid_grant");
    let viewer = "{ viewer { id } }";
    assert_eq!(stage.query(&first["access_token"], viewer, json!({})).await.status, 401);
    assert_eq!(stage.query(&second["access_token"], viewer, json!({})).await.status, 200);

    linear.tune(|knobs| knobs.refresh_grace_s = 1800);
    assert_eq!(stage.refresh_linear(&first["refresh_token"]).await.json(), second, "the same pair within the grace");
    linear.set(|ambient| ambient.skew_ms = 1_801_000);
    assert_eq!(stage.refresh_linear(&first["refresh_token"]).await.status, 400);
    linear.set(|ambient| ambient.skew_ms = 86_400_000);
    assert_eq!(stage.query(&second["access_token"], viewer, json!({})).await.status, 401, "a day is over");
}

#[tokio::test]
async fn teams_are_paged_and_unknown_fields_are_refused() {
    let stage = Stage::set().await;
    stage.world.linear.tune(|knobs| knobs.teams = 250);
    let token = stage.trade_linear(&stage.linear_code().await).await.json()["access_token"].clone();
    let query = "query Teams($first: Int!, $after: String) { teams(first: $first, after: $after) { nodes { id key name private } pageInfo { hasNextPage endCursor } } }";
    let (mut after, mut pages, mut ids) = (Value::Null, 0, std::collections::BTreeSet::new());
    loop {
        let page =
            stage.query(&token, query, json!({"first": 100, "after": after})).await.json()["data"]["teams"].clone();
        pages += 1;
        ids.extend(page["nodes"].as_array().expect("nodes").iter().map(|team| team["id"].to_string()));
        if page["pageInfo"]["hasNextPage"] != true {
            break;
        }
        after = page["pageInfo"]["endCursor"].clone();
    }
    assert_eq!((pages, ids.len()), (3, 250));
    assert_eq!(stage.query(&token, query, json!({"first": 251})).await.status, 400);
    let unknown = stage.query(&token, "{ viewer { id shoeSize } }", json!({})).await;
    assert_eq!(unknown.json()["errors"][0]["extensions"]["code"], "GRAPHQL_VALIDATION_FAILED");
    let unscoped = stage.query(&token, "{ webhooks { nodes { id } } }", json!({})).await;
    assert_eq!(unscoped.json()["errors"][0]["extensions"]["code"], "FORBIDDEN");
    stage.world.linear.tune(|knobs| knobs.graphql_errors_are_400 = false);
    assert_eq!(stage.query(&token, "{ webhooks { nodes { id } } }", json!({})).await.status, 200, "both occur");
    stage.world.linear.tune(|knobs| knobs.requests_remaining = Some(0));
    let limited = stage.query(&token, "{ viewer { id } }", json!({})).await;
    assert_eq!((limited.status, &limited.json()["errors"][0]["extensions"]["code"]), (400, &json!("RATELIMITED")));
}

#[tokio::test]
async fn revoking_ends_the_grant_once_and_an_uninstall_is_told() {
    let stage = Stage::set().await;
    let linear = &stage.world.linear;
    let base = linear.api_url();
    let tokens = stage.trade_linear(&stage.linear_code().await).await.json();
    let access = tokens["access_token"].as_str().expect("a token");
    let by_form = encoded(&[("access_token", access)]);
    assert_eq!(call("POST", &base, "/oauth/revoke", &[FORM], &by_form).await.status, 200);
    assert_eq!(call("POST", &base, "/oauth/revoke", &[FORM], &by_form).await.status, 400);
    assert_eq!(call("POST", &base, "/oauth/revoke", &[], "").await.status, 401);
    assert_eq!(stage.refresh_linear(&tokens["refresh_token"]).await.json()["error"], "invalid_grant");
    assert!(linear.sent().is_empty(), "what we revoke ourselves is not told by default");

    let tokens = stage.trade_linear(&stage.linear_code().await).await.json();
    linear.tune(|knobs| knobs.tell_of_own_revocation = true);
    let by_bearer = bearer(tokens["access_token"].as_str().expect("a token"));
    assert_eq!(call("POST", &base, "/oauth/revoke", &[("authorization", &by_bearer)], "").await.status, 200);
    linear.wait_until("the echo", Duration::from_secs(10), |_, sent| sent.len() == 1).await.expect("told");

    stage.trade_linear(&stage.linear_code().await).await;
    linear.act("uninstall", 1, &json!({})).await.expect("uninstalled");
    assert_eq!(linear.sent()[1].kind, "linear:oauth-app.revoked");
    assert_eq!(linear.with(|linear| linear.live_grants()), 0);
}

#[tokio::test]
async fn a_failed_webhook_is_sent_again_with_a_new_time_and_only_200_is_success() {
    let stage = Stage::set().await;
    let linear = &stage.world.linear;
    linear.set(|ambient| ambient.retries_ms = vec![5, 5, 5]);
    stage.sink.behave(
        "/webhooks/linear",
        crate::sim::sink::Behaviour::InTurn(vec![
            crate::sim::sink::Behaviour::status_only(202),
            crate::sim::sink::Behaviour::status_only(500),
            crate::sim::sink::Behaviour::ok(),
        ]),
    );
    linear.send("linear:issue.created", &linear.facts(1, 1)).await.expect("sent");
    let received = stage.sink.wait_for(3, Duration::from_secs(10)).await.expect("three tries");
    let body = |at: usize| -> Value { serde_json::from_slice(&received[at].body).expect("JSON") };
    assert!(body(1)["webhookTimestamp"].as_i64() > body(0)["webhookTimestamp"].as_i64());
    assert_eq!(body(1)["createdAt"], body(0)["createdAt"]);
    let delivery = |at: usize| received[at].headers.get("linear-delivery").map(str::to_owned);
    assert_eq!(delivery(0), delivery(2));
}

#[tokio::test]
async fn after_so_many_failures_in_a_row_nothing_more_is_sent_until_somebody_looks() {
    let stage = Stage::set().await;
    let linear = &stage.world.linear;
    linear.set(|ambient| ambient.disable_after = Some(2));
    stage.sink.behave("/webhooks/linear", crate::sim::sink::Behaviour::status_only(202));
    for seed in 1..=2 {
        let sent = linear.send("linear:issue.created", &linear.facts(1, seed)).await.expect("sent");
        assert_eq!(sent.status, Some(202));
    }
    assert!(linear.send("linear:issue.created", &linear.facts(1, 3)).await.is_none(), "it has given up");
    stage.sink.behave("/webhooks/linear", crate::sim::sink::Behaviour::ok());
    linear.set(|_| {});
    assert!(linear.send("linear:issue.created", &linear.facts(1, 4)).await.is_some());
    assert_eq!(stage.sink.received().len(), 3);
}
