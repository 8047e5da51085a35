//! Each strictness refuses, each behaviour behaves.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{CLIENT_ID, CLIENT_SECRET, Entry, app_jwt::tests::good};
use crate::{
    model::clock::{Clock, EpochMs, ManualClock},
    sim::{
        browser::Browser,
        client::Answer,
        sink::Behaviour,
        world::{
            Choice, Loss, Options, Simulators, Visit,
            tests::{Stage, bearer, call, now},
        },
    },
};

const AGENT: (&str, &str) = ("user-agent", "test");

impl Stage {
    async fn install(&self, visit: Visit) -> crate::sim::browser::Page {
        let url = format!("{}/apps/signalbox-sim/installations/new?state=s%2B1", self.world.github.web_url());
        Browser::new().with_visit(visit).visit(&url).await.expect("a page")
    }

    async fn as_app(&self, method: &str, path: &str, body: &str) -> Answer {
        let token = bearer(&good(now()));
        let headers = [AGENT, ("authorization", token.as_str()), ("content-type", "application/json")];
        call(method, &self.world.github.api_url(), path, &headers, body).await
    }

    async fn with_token(&self, token: &str, path: &str) -> Answer {
        let token = bearer(token);
        call("GET", &self.world.github.api_url(), path, &[AGENT, ("authorization", token.as_str())], "").await
    }

    async fn mint(&self, account: u32) -> String {
        let id = self.world.github.with(|github| github.installation_id(account)).expect("installed");
        let minted = self.as_app("POST", &format!("/app/installations/{id}/access_tokens"), "").await;
        assert_eq!(minted.status, 201);
        minted.json()["token"].as_str().expect("a token").to_owned()
    }

    async fn exchange(&self, fields: &[(&str, &str)]) -> Value {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let headers = [("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")];
        let base = self.world.github.web_url();
        let answer = call("POST", &base, "/login/oauth/access_token", &headers, &body).await;
        assert_eq!(answer.status, 200, "errors come with 200 too");
        answer.json()
    }

    async fn code(&self, more: &str) -> Option<String> {
        let url = format!("{}/login/oauth/authorize?client_id={CLIENT_ID}&state=s{more}", self.world.github.web_url());
        self.visit(&url).await.parameter("code")
    }
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn an_installation_is_told_before_the_browser_lands_and_told_again_when_it_ends() {
    let stage = Stage::set().await;
    let page = stage.install(Visit::of_account(2)).await;
    assert_eq!(page.parameter("setup_action").as_deref(), Some("install"));
    assert_eq!(page.parameter("state").as_deref(), Some("s+1"));
    assert_eq!(page.parameter("code"), None);
    let received = stage.sink.received();
    assert_eq!(received[0].path, "/webhooks/github", "the webhook was first");
    assert!(received[1].path.starts_with("/connections/github/callback"));
    let told: Value = serde_json::from_slice(&received[0].body).expect("JSON");
    assert_eq!(told["installation"]["id"].to_string(), page.parameter("installation_id").expect("an id"));
    assert_eq!(told["repositories"].as_array().map(Vec::len), Some(3));

    let again = stage.install(Visit::of_account(2)).await;
    assert_eq!(again.parameter("setup_action").as_deref(), Some("update"));
    assert_eq!(again.parameter("installation_id"), page.parameter("installation_id"));

    let id = page.parameter("installation_id").expect("an id");
    assert_eq!(stage.as_app("DELETE", &format!("/app/installations/{id}"), "").await.status, 204);
    let github = &stage.world.github;
    github.wait_until("the echo", Duration::from_secs(10), |_, sent| sent.len() == 2).await.expect("told");
    assert_eq!(github.sent()[1].kind, "github:installation.deleted");
    assert_eq!(stage.as_app("DELETE", &format!("/app/installations/{id}"), "").await.status, 404);
    let anew = stage.install(Visit::of_account(2)).await;
    assert_ne!(anew.parameter("installation_id"), Some(id), "a new installation has a new id");
}

#[tokio::test]
async fn every_way_a_visit_can_end() {
    let stage = Stage::set().await;
    let denied = Browser::new().with_visit(Visit::default().choosing(Choice::Deny));
    let url = format!("{}/login/oauth/authorize?client_id={CLIENT_ID}&state=s", stage.world.github.web_url());
    let mut denied_browser = denied;
    let page = denied_browser.visit(&url).await.expect("a page");
    assert_eq!(page.parameter("error").as_deref(), Some("access_denied"));
    assert_eq!(page.parameter("state").as_deref(), Some("s"));

    let closed = stage.install(Visit::default().choosing(Choice::Close)).await;
    assert!(closed.url.path().starts_with("/apps/") && closed.hops.len() == 1);

    let asked = stage.install(Visit::of_account(5).choosing(Choice::Request)).await;
    assert_eq!(asked.parameter("setup_action").as_deref(), Some("request"));
    assert!(asked.parameter("installation_id").is_none() && asked.parameter("code").is_none());
    let requests = stage.as_app("GET", "/app/installation-requests", "").await.json();
    assert_eq!(requests[0]["requester"]["login"], "mirela-okt");
    let approved = stage.world.github.act("approve_request", 5, &json!({})).await.expect("approved");
    let lands_on = approved["ownerLandsOn"].as_str().expect("a URL");
    assert!(lands_on.contains("setup_action=install") && !lands_on.contains("state="));
    let sent = stage.world.github.sent();
    let told = stage.sink.received().into_iter().find(|received| received.path == "/webhooks/github").expect("told");
    let told: Value = serde_json::from_slice(&told.body).expect("JSON");
    assert_eq!((sent.len(), &told["requester"]["login"]), (1, &json!("mirela-okt")));

    stage.world.github.tune(|knobs| knobs.code_with_install = true);
    assert!(stage.install(Visit::of_account(6)).await.parameter("code").is_some());
    let stateless = stage.install(Visit { forget_state: true, ..Visit::of_account(7) }).await;
    assert!(stateless.parameter("state").is_none() && stateless.parameter("installation_id").is_some());
    let spoof = stage.install(Visit { report_id: Some("1".to_owned()), ..Visit::of_account(8) }).await;
    assert_eq!(spoof.parameter("installation_id").as_deref(), Some("1"));
    let own = stage.install(Visit { personal: true, ..Visit::default() }).await;
    let path = format!("/app/installations/{}", own.parameter("installation_id").expect("an id"));
    assert_eq!(stage.as_app("GET", &path, "").await.json()["account"]["type"], "User");
}

#[tokio::test]
async fn a_code_is_good_once_for_its_redirect_and_its_verifier() {
    let stage = Stage::set().await;
    let github = &stage.world.github;
    let callback = stage.callback("github");
    // RFC 7636, appendix B.
    let pkce = "&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";
    let with_all = format!("{pkce}&redirect_uri={}", encode(&callback));
    let client = [("client_id", CLIENT_ID), ("client_secret", CLIENT_SECRET)];
    let verifier = ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    let redirect = ("redirect_uri", callback.as_str());

    let code = stage.code(&with_all).await.expect("a code");
    let full = [client[0], client[1], ("code", code.as_str()), redirect, verifier];
    let tokens = stage.exchange(&full).await;
    assert_eq!((&tokens["expires_in"], &tokens["token_type"]), (&json!(28_800), &json!("bearer")));
    assert_eq!(stage.exchange(&full).await["error"], "bad_verification_code", "a code is good once");

    for (wrong, error) in [
        (vec![client[0], client[1], redirect], "bad_verification_code"),
        (vec![client[0], client[1], redirect, ("code_verifier", "guessed")], "bad_verification_code"),
        (vec![client[0], client[1], verifier], "redirect_uri_mismatch"),
        (vec![client[0], client[1], ("redirect_uri", "http://127.0.0.1:1/"), verifier], "redirect_uri_mismatch"),
        (vec![client[0], ("client_secret", "guessed"), redirect, verifier], "incorrect_client_credentials"),
    ] {
        let code = stage.code(&with_all).await.expect("a code");
        let fields: Vec<_> = wrong.into_iter().chain([("code", code.as_str())]).collect();
        assert_eq!(stage.exchange(&fields).await["error"], error, "{fields:?}");
    }
    github.tune(|knobs| knobs.code_lifetime_s = 600);
    let code = stage.code("").await.expect("a code");
    github.set(|ambient| ambient.skew_ms = 601_000);
    assert_eq!(stage.exchange(&[client[0], client[1], ("code", &code)]).await["error"], "bad_verification_code");
    github.set(|ambient| ambient.skew_ms = 0);

    for wrong in ["&redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2F", "&code_challenge=abc&code_challenge_method=plain"] {
        assert_eq!(stage.code(wrong).await, None, "{wrong}");
    }
    let refreshed = [client[0], client[1], ("grant_type", "refresh_token")];
    let old = tokens["refresh_token"].as_str().expect("a refresh token");
    let new = stage.exchange(&[&refreshed[..], &[("refresh_token", old)]].concat()).await;
    assert_ne!(new["refresh_token"], tokens["refresh_token"]);
    assert_eq!(
        stage.exchange(&[&refreshed[..], &[("refresh_token", old)]].concat()).await["error"],
        "bad_refresh_token"
    );
    let access = tokens["access_token"].as_str().expect("a token");
    assert_eq!(stage.with_token(access, "/user/installations").await.status, 401, "the old access token is dead too");
}

#[tokio::test]
async fn only_what_a_person_can_see_is_listed_for_them() {
    let stage = Stage::set().await;
    stage.install(Visit::of_account(1)).await;
    stage.install(Visit::of_account(2).by_person(2)).await;
    let code = stage.code("").await.expect("a code");
    let tokens = stage.exchange(&[("client_id", CLIENT_ID), ("client_secret", CLIENT_SECRET), ("code", &code)]).await;
    let access = tokens["access_token"].as_str().expect("a token");
    let seen = stage.with_token(access, "/user/installations").await.json();
    assert_eq!(
        (&seen["total_count"], &seen["installations"][0]["account"]["login"]),
        (&json!(1), &json!("harborworks-1"))
    );
    stage.world.github.with(|github| github.add_member(2, 1));
    assert_eq!(stage.with_token(access, "/user/installations").await.json()["total_count"], 2);
    assert_eq!(stage.with_token(access, "/installation/repositories").await.status, 403);
}

#[tokio::test]
async fn each_endpoint_takes_its_own_kind_of_token_only() {
    let stage = Stage::set().await;
    stage.install(Visit::of_account(1)).await;
    let token = stage.mint(1).await;
    let base = stage.world.github.api_url();
    assert_eq!(call("GET", &base, "/installation/repositories", &[], "").await.status, 403, "no User-Agent");
    assert_eq!(call("GET", &base, "/installation/repositories", &[AGENT], "").await.status, 401);
    assert_eq!(
        stage.as_app("GET", "/installation/repositories", "").await.status,
        401,
        "a JWT is no installation token"
    );
    assert_eq!(stage.with_token(&token, "/app").await.status, 401, "an installation token is no JWT");
    assert_eq!(stage.with_token(&token, "/user/installations").await.status, 403);
    assert_eq!(stage.with_token(&token, "/installation/repositories").await.status, 200);
    assert_eq!(stage.world.github.journal().last().and_then(|entry| entry.accepted_as), Some("installation"));

    stage.world.github.act("suspend", 1, &json!({})).await.expect("suspended");
    assert_eq!(stage.with_token(&token, "/installation/repositories").await.status, 403);
    let id = stage.world.github.with(|github| github.installation_id(1)).expect("installed");
    let path = format!("/app/installations/{id}/access_tokens");
    assert_eq!(stage.as_app("POST", &path, "").await.status, 403);
    stage.world.github.act("unsuspend", 1, &json!({})).await.expect("unsuspended");
    assert_eq!(stage.as_app("POST", &path, r#"{"repository_ids":[1]}"#).await.status, 422);
    assert_eq!(stage.as_app("POST", &path, r#"{"permissions":{"contents":"write"}}"#).await.status, 422);
    stage.world.github.set(|ambient| ambient.skew_ms = -90_000);
    assert_eq!(stage.as_app("POST", &path, "").await.status, 401, "signed in what is the future to GitHub");
    stage.world.github.set(|ambient| ambient.skew_ms = 3_700_000);
    assert_eq!(stage.with_token(&token, "/installation/repositories").await.status, 401, "an hour is over");
}

#[tokio::test]
async fn two_hundred_and_fifty_repositories_take_three_pages() {
    let stage = Stage::set().await;
    stage.world.github.tune(|knobs| knobs.repositories = 250);
    stage.install(Visit::of_account(1)).await;
    let token = stage.mint(1).await;
    let base = stage.world.github.api_url();
    let (mut path, mut pages, mut names) = ("/installation/repositories?per_page=500".to_owned(), 0, Vec::new());
    loop {
        let answer = stage.with_token(&token, &path).await;
        pages += 1;
        assert_eq!(answer.json()["total_count"], 250);
        let list = answer.json()["repositories"].as_array().cloned().expect("a list");
        names.extend(list.into_iter().map(|repository| repository["full_name"].to_string()));
        let link = answer.headers.get("link").unwrap_or_default().to_owned();
        let next = link.split(", ").find(|link| link.ends_with("rel=\"next\""));
        let Some(next) = next.and_then(|next| next.split(['<', '>']).nth(1)) else { break };
        path = next.strip_prefix(base.as_str()).expect("below the base").to_owned();
    }
    names.dedup();
    assert_eq!((pages, names.len()), (3, 250));
}

#[tokio::test]
async fn renamed_repositories_redirect_and_contents_follow_the_size_rules() {
    let stage = Stage::set().await;
    stage.install(Visit::of_account(1)).await;
    let token = stage.mint(1).await;
    let github = &stage.world.github;
    github.with(|github| {
        github.write_file(1, 0, "lightfast.yml", "version: 1\n".repeat(20));
        github.write_file(1, 0, "docs/large.bin", vec![7; 1024 * 1024 + 1]);
        github.repositories(1)[0].entries.insert("link".to_owned(), Entry::Symlink("README.md".to_owned()));
    });
    let file = stage.with_token(&token, "/repos/harborworks-1/tide-clock/contents/lightfast.yml").await.json();
    let content = file["content"].as_str().expect("content");
    assert!(content.contains('\n'), "base64 is wrapped");
    let decoded = STANDARD.decode(content.replace('\n', "")).expect("base64");
    assert_eq!((decoded, &file["type"]), ("version: 1\n".repeat(20).into_bytes(), &json!("file")));
    let large = stage.with_token(&token, "/repos/harborworks-1/tide-clock/contents/docs/large.bin").await.json();
    assert_eq!((&large["encoding"], &large["content"]), (&json!("none"), &json!("")));
    let listed = stage.with_token(&token, "/repos/harborworks-1/tide-clock/contents").await.json();
    let kinds: Vec<_> =
        listed.as_array().expect("a directory is an array").iter().map(|item| item["type"].clone()).collect();
    assert_eq!(kinds, ["file", "dir", "file", "symlink"]);
    for missing in ["/contents/no.yml", "/contents/lightfast.yml?ref=other"] {
        let path = format!("/repos/harborworks-1/tide-clock{missing}");
        assert_eq!(stage.with_token(&token, &path).await.status, 404);
    }
    github.act("rename_repository", 1, &json!({"index": 0, "name": "tidepool"})).await.expect("renamed");
    let moved = stage.with_token(&token, "/repos/harborworks-1/tide-clock/contents/lightfast.yml").await;
    let location = moved.headers.get("location").expect("a location").to_owned();
    assert_eq!(moved.status, 301);
    let path = location.strip_prefix(github.api_url().as_str()).expect("below the base");
    assert_eq!(stage.with_token(&token, path).await.json()["name"], "lightfast.yml");
    github.act("remove_repositories", 1, &json!({"repositories": [0]})).await.expect("removed");
    assert_eq!(stage.with_token(&token, "/repos/harborworks-1/tidepool").await.status, 404);
}

#[tokio::test]
async fn the_log_pages_by_an_opaque_cursor_and_redelivers_with_the_same_guid() {
    let stage = Stage::set().await;
    stage.install(Visit::of_account(1)).await;
    let github = &stage.world.github;
    for seed in 0..7 {
        github.set(|ambient| ambient.loss = if seed % 3 == 0 { Loss::Known } else { Loss::None });
        github.send("github:push", &github.facts(1, seed)).await.expect("sent");
    }
    github.set(|ambient| ambient.loss = Loss::Traceless);
    github.send("github:push", &github.facts(1, 99)).await.expect("lost");
    github.set(|ambient| ambient.loss = Loss::None);

    let mut path = "/app/hook/deliveries?per_page=2&status=failure".to_owned();
    let mut failed = Vec::new();
    loop {
        let answer = stage.as_app("GET", &path, "").await;
        let page = answer.json().as_array().cloned().expect("a list");
        assert!(page.len() <= 2);
        failed.extend(page);
        let Some(link) = answer.headers.get("link") else { break };
        let next = link.split(['<', '>']).nth(1).expect("a URL");
        path = next.strip_prefix(github.api_url().as_str()).expect("below the base").to_owned();
    }
    assert_eq!(failed.len(), 3);
    assert!(failed.windows(2).all(|two| two[0]["id"].as_u64() > two[1]["id"].as_u64()), "newest first");
    let (id, guid) = (failed[0]["id"].to_string(), failed[0]["guid"].as_str().expect("a guid").to_owned());
    let before = stage.sink.total();
    let attempts = format!("/app/hook/deliveries/{id}/attempts");
    assert_eq!(stage.as_app("POST", &attempts, "").await.status, 202);
    stage.sink.wait_for(before + 1, Duration::from_secs(10)).await.expect("redelivered");
    let again = stage.sink.received().pop().expect("received");
    assert_eq!(again.headers.get("x-github-delivery"), Some(guid.as_str()));
    github
        .wait_until("the log", Duration::from_secs(10), |_, sent| sent.last().is_some_and(|last| last.redelivery))
        .await
        .expect("logged");
    let log = github.with(|github| github.log());
    let last = log.last().expect("an entry");
    assert!(last.guid == guid && last.redelivery && last.status == 200 && last.id.to_string() != id);
    let detail = stage.as_app("GET", &format!("/app/hook/deliveries/{id}"), "").await.json();
    assert_eq!(detail["request"]["headers"]["x-github-delivery"], guid.as_str());

    github.tune(|knobs| knobs.refuse_redelivery = true);
    assert_eq!(stage.as_app("POST", &attempts, "").await.status, 422);
    github.tune(|knobs| knobs.refuse_redelivery = false);
    github.with(|github| github.age_log(Duration::from_hours(73)));
    assert_eq!(stage.as_app("GET", "/app/hook/deliveries", "").await.json(), json!([]));
    assert_eq!(stage.as_app("POST", &attempts, "").await.status, 422);
}

#[tokio::test]
async fn a_refused_webhook_is_a_failure_in_the_log_and_the_rate_limit_ends_the_listing() {
    let stage = Stage::set().await;
    stage.install(Visit::of_account(1)).await;
    stage.sink.behave("/webhooks/github", Behaviour::status_only(503));
    let github = &stage.world.github;
    github.send("github:push", &github.facts(1, 1)).await.expect("sent");
    let failed = stage.as_app("GET", "/app/hook/deliveries?status=failure", "").await.json();
    assert_eq!((&failed[0]["status_code"], &failed[0]["event"]), (&json!(503), &json!("push")));
    github.tune(|knobs| knobs.rate_remaining = Some(1));
    let last = stage.as_app("GET", "/app/hook/deliveries", "").await;
    assert_eq!((last.status, last.headers.get("x-ratelimit-remaining")), (200, Some("0")));
    let limited = stage.as_app("GET", "/app/hook/deliveries", "").await;
    assert_eq!((limited.status, limited.headers.get("x-ratelimit-remaining")), (403, Some("0")));
}

#[tokio::test]
async fn the_rate_limit_is_lifted_at_the_time_its_headers_tell() {
    let clock = ManualClock::starting_at(EpochMs(1_771_980_000_000));
    let options = Options { clock: Arc::new(clock.clone()), ..Options::default() };
    let github = Simulators::start(&options).await.expect("ports").github;
    let meta = async || call("GET", &github.api_url(), "/meta", &[AGENT], "").await;
    github.tune(|knobs| (knobs.rate_remaining, knobs.rate_reset_s) = (Some(1), 90));
    for status in [200, 403, 403] {
        let answer = meta().await;
        assert_eq!((answer.status, answer.headers.get("x-ratelimit-reset")), (status, Some("1771980090")));
        clock.advance(Duration::from_secs(40));
    }
    assert_eq!(clock.now().0, 1_771_980_120_000);
    let lifted = meta().await;
    assert_eq!((lifted.status, lifted.headers.get("x-ratelimit-remaining")), (200, Some("4999")));
}

#[tokio::test]
async fn an_event_speaks_of_one_repository_whatever_became_of_the_first() {
    let stage = Stage::set().await;
    let github = &stage.world.github;
    for account in [1, 2] {
        stage.install(Visit::of_account(account)).await;
    }
    for (act, details) in [
        ("rename_repository", json!({"name": "tide-watch"})),
        ("rename_account", json!({"login": "quayworks"})),
        ("transfer_repository", json!({"to": 2})),
        ("delete_repository", json!({})),
    ] {
        github.act(act, 1, &details).await.expect(act);
        let (first, login) = github.with(|github| (github.repositories(1)[0].clone(), github.owner(1).login.clone()));
        let facts = github.facts(1, 7);
        assert_eq!(
            (&facts.resource_id, &facts.resource_name, &facts.resource_slug, &facts.account),
            (&first.id.to_string(), &first.name, &first.full_name(), &login),
            "{act}"
        );
        github.send("github:push", &facts).await.expect("sent");
        let told = stage.sink.received().pop().expect("received");
        let told: Value = serde_json::from_slice(&told.body).expect("JSON");
        assert_eq!(
            (&told["repository"]["id"], &told["repository"]["full_name"]),
            (&json!(first.id), &json!(first.full_name())),
            "{act}"
        );
        let compare = told["compare"].as_str().expect("a page");
        assert!(compare.starts_with(&format!("https://github.com/{}/compare/", first.full_name())), "{act}: {compare}");
    }
    github.with(|github| github.repositories(1).clear());
    let facts = github.facts(1, 7);
    assert_eq!(
        facts.resource_slug,
        format!("quayworks/{}", facts.resource_name),
        "none is left: the one invented first"
    );
}
