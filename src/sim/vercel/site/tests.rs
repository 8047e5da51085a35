//! Each strictness refuses, each behaviour behaves.

use std::time::Duration;

use serde_json::{Value, json};

use super::{CLIENT_ID, SECRET};
use crate::sim::{
    browser::{Browser, Page},
    client::Answer,
    sink::Behaviour,
    world::{
        Choice, Visit,
        tests::{Stage, bearer, call},
    },
};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

impl Stage {
    async fn add(&self, visit: Visit) -> Page {
        let url = format!("{}/integrations/signalbox-sim/new?state=s", self.world.vercel.web_url());
        Browser::new().with_visit(visit).visit(&url).await.expect("a page")
    }

    async fn trade(&self, code: &str, redirect_uri: &str, secret: &str) -> Answer {
        let fields =
            [("client_id", CLIENT_ID), ("client_secret", secret), ("code", code), ("redirect_uri", redirect_uri)];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        call("POST", &self.world.vercel.api_url(), "/v2/oauth/access_token", &[FORM], &body).await
    }

    async fn vercel_token(&self, visit: Visit) -> String {
        let code = self.add(visit).await.parameter("code").expect("a code");
        let answer = self.trade(&code, &self.callback("vercel"), SECRET).await;
        assert_eq!(answer.status, 200);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    async fn vercel(&self, method: &str, token: &str, path: &str) -> Answer {
        call(method, &self.world.vercel.api_url(), path, &[("authorization", &bearer(token))], "").await
    }
}

#[tokio::test]
async fn the_callback_names_configuration_team_and_next_and_a_closed_window_nothing() {
    let stage = Stage::set().await;
    let page = stage.add(Visit::of_account(1)).await;
    assert_eq!(page.url.path(), "/connections/vercel/callback");
    assert_eq!(page.parameter("configurationId").as_deref(), Some("icfg_4Wc0YtB7nL1"));
    assert_eq!(page.parameter("teamId").as_deref(), Some("team_Zr5mQ1aHcW1"));
    assert!(page.parameter("next").expect("next").starts_with(&stage.world.vercel.web_url()));
    assert_eq!(page.parameter("state").as_deref(), Some("s"));
    let personal = stage.add(Visit { personal: true, ..Visit::default() }).await;
    assert_eq!(personal.parameter("teamId"), None);
    let stateless = stage.add(Visit { forget_state: true, ..Visit::default() }).await;
    assert_eq!((stateless.parameter("state"), stateless.parameter("source").as_deref()), (None, Some("marketplace")));
    let closed = stage.add(Visit::default().choosing(Choice::Close)).await;
    assert!(closed.url.path().starts_with("/integrations/"));
}

#[tokio::test]
async fn a_code_is_traded_once_as_a_form_for_the_registered_redirect() {
    let stage = Stage::set().await;
    let callback = stage.callback("vercel");
    let code = stage.add(Visit::default()).await.parameter("code").expect("a code");
    let traded = stage.trade(&code, &callback, SECRET).await.json();
    assert_eq!(
        (&traded["team_id"], &traded["installation_id"]),
        (&json!("team_Zr5mQ1aHcW1"), &json!("icfg_4Wc0YtB7nL1"))
    );
    assert!(traded.get("expires_in").is_none() && traded.get("refresh_token").is_none());
    assert_eq!(stage.trade(&code, &callback, SECRET).await.json()["error"], "invalid_grant");
    for (redirect, secret, status) in
        [("http://127.0.0.1:1/", SECRET, 400), (callback.as_str(), "guessed", 401), ("", SECRET, 400)]
    {
        let code = stage.add(Visit::default()).await.parameter("code").expect("a code");
        assert_eq!(stage.trade(&code, redirect, secret).await.status, status);
    }
    let code = stage.add(Visit::default()).await.parameter("code").expect("a code");
    let body =
        json!({"client_id": CLIENT_ID, "client_secret": SECRET, "code": code, "redirect_uri": callback}).to_string();
    let json_type = [("content-type", "application/json")];
    let base = stage.world.vercel.api_url();
    assert_eq!(call("POST", &base, "/v2/oauth/access_token", &json_type, &body).await.status, 400, "JSON is not taken");
    stage.world.vercel.set(|ambient| ambient.skew_ms = 1_801_000);
    assert_eq!(stage.trade(&code, &callback, SECRET).await.json()["error"], "invalid_grant", "half an hour is over");
}

#[tokio::test]
async fn a_team_token_needs_its_team_and_a_personal_one_none() {
    let stage = Stage::set().await;
    let team = stage.vercel_token(Visit::default()).await;
    let own = stage.vercel_token(Visit { personal: true, ..Visit::default() }).await;
    for (token, path, status) in [
        (&team, "/v10/projects", 403),
        (&team, "/v10/projects?teamId=team_other", 403),
        (&team, "/v10/projects?teamId=team_Zr5mQ1aHcW1", 200),
        (&own, "/v10/projects", 200),
        (&own, "/v10/projects?teamId=team_Zr5mQ1aHcW1", 403),
        (&team, "/v1/integrations/configuration/icfg_4Wc0YtB7nL1?teamId=team_Zr5mQ1aHcW1", 200),
        (&team, "/v1/integrations/configurations?teamId=team_Zr5mQ1aHcW1", 400),
        (&team, "/v2/user?teamId=team_Zr5mQ1aHcW1", 200),
    ] {
        assert_eq!(stage.vercel("GET", token, path).await.status, status, "{path}");
    }
    assert_eq!(call("GET", &stage.world.vercel.api_url(), "/v2/user", &[], "").await.status, 401);
}

#[tokio::test]
async fn all_pages_are_reached_by_numbers_and_by_text() {
    for text in [false, true] {
        let stage = Stage::set().await;
        stage.world.vercel.tune(|knobs| (knobs.projects, knobs.text_cursors) = (250, text));
        let token = stage.vercel_token(Visit::default()).await;
        let (mut from, mut pages, mut ids) = (String::new(), 0, std::collections::BTreeSet::new());
        loop {
            let path = format!("/v10/projects?teamId=team_Zr5mQ1aHcW1&limit=100{from}");
            let page = stage.vercel("GET", &token, &path).await.json();
            pages += 1;
            ids.extend(page["projects"].as_array().expect("a list").iter().map(|project| project["id"].to_string()));
            let next = &page["pagination"]["next"];
            from = match next {
                Value::Null => break,
                Value::String(token) => format!("&from={token}"),
                number => format!("&from={number}"),
            };
            assert_eq!(next.is_string(), text);
        }
        assert_eq!((pages, ids.len()), (3, 250));
        let path = "/v10/projects?teamId=team_Zr5mQ1aHcW1&limit=101";
        assert_eq!(stage.vercel("GET", &token, path).await.status, 400);
    }
}

#[tokio::test]
async fn removing_the_configuration_ends_its_token_and_is_told() {
    let stage = Stage::set().await;
    let token = stage.vercel_token(Visit::default()).await;
    let vercel = &stage.world.vercel;
    let path = "/v1/integrations/configuration/icfg_4Wc0YtB7nL1?teamId=team_Zr5mQ1aHcW1";
    vercel.act("disable", 1, &json!({})).await.expect("disabled");
    assert_eq!(stage.vercel("GET", &token, path).await.status, 403);
    vercel.act("enable", 1, &json!({})).await.expect("enabled");
    assert_eq!(stage.vercel("DELETE", &token, path).await.status, 204);
    vercel.wait_until("the echo", Duration::from_secs(10), |_, sent| sent.len() == 1).await.expect("told");
    assert_eq!(vercel.sent()[0].kind, "vercel:integration-configuration.removed");
    assert_eq!(stage.vercel("GET", &token, path).await.status, 403);
    assert_eq!(stage.add(Visit::default()).await.parameter("configurationId").as_deref(), Some("icfg_4Wc0YtB7nL1r1"));
}

#[tokio::test]
async fn every_try_of_a_webhook_has_its_own_trace_and_the_same_body() {
    let stage = Stage::set().await;
    let vercel = &stage.world.vercel;
    vercel.set(|ambient| ambient.retries_ms = vec![5, 5, 5]);
    let turns = [410, 503, 200].into_iter().map(Behaviour::status_only).collect();
    stage.sink.behave("/webhooks/vercel", Behaviour::InTurn(turns));
    vercel.send("vercel:deployment.created", &vercel.facts(1, 1)).await.expect("sent");
    let received = stage.sink.wait_for(3, Duration::from_secs(10)).await.expect("three tries");
    let traces: std::collections::BTreeSet<_> =
        received.iter().map(|received| received.headers.get("x-vercel-id").map(str::to_owned)).collect();
    assert_eq!(traces.len(), 3, "{traces:?}");
    assert!(received.iter().all(|again| again.body == received[0].body));
}
