//! Vercel's asking half against a provider that says what each test wants to hear.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox::{
    model::installation::InstallationStatus,
    providers::{
        ConnectorError,
        connector::{Ended, Grant, Leg},
    },
};

use crate::scripted::{
    NOW, REDIRECT, Say, Scripted, complete, connector, fact, grant, held, json as answer, proxy, secret, settings,
    status, text, too_many, try_connector,
};

const EXCHANGE: &str = "POST /v2/oauth/access_token";
const CONFIGURATION: &str = "GET /v1/integrations/configuration/icfg_7";
const UNINSTALL: &str = "DELETE /v1/integrations/configuration/icfg_7";
const PROJECTS: &str = "GET /v10/projects";

fn token(team: Option<&str>) -> Value {
    json!({"token_type": "Bearer", "access_token": "at", "installation_id": "icfg_7", "user_id": "u1", "team_id": team,
        "more": {"than": "expected"}})
}

fn configuration() -> Value {
    json!({"id": "icfg_7", "userId": "u1", "teamId": "team_1", "projectSelection": "selected", "scopes": ["read:project"],
        "disabledAt": null})
}

/// What every call of a disabled configuration is answered with.
fn paused() -> Value {
    json!({"error": {"code": "integration_configuration_disabled", "message": "secret words"}})
}

fn team_grant() -> Grant {
    grant("team_1", Some("icfg_7"), json!({"providerUserId": "u1"}))
}

#[tokio::test]
async fn a_team_install_is_bound_by_its_team_and_keeps_its_configuration_beside_it() {
    let provider = Scripted::saying([
        (EXCHANGE, answer(200, &token(Some("team_1")))),
        (CONFIGURATION, answer(200, &configuration())),
        ("GET /v2/teams/team_1", answer(200, &json!({"id": "team_1", "slug": "harborworks", "name": "Harborworks"}))),
    ])
    .await;
    let vercel = connector("vercel", &provider);
    let connected = complete(&*vercel, &[("code", "c"), ("configurationId", "icfg_7"), ("teamId", "team_1")]).await;
    let connected = connected.expect("connected");
    assert_eq!(connected.external_id.as_str(), "team_1");
    assert_eq!(connected.alternate_external_id.expect("kept").as_str(), "icfg_7");
    assert_eq!(connected.account.login.as_deref(), Some("harborworks"));
    assert_eq!(fact(&connected.account.metadata, "providerUserId"), Some("u1"));
    assert_eq!(fact(&connected.account.metadata, "projectSelection"), Some("selected"));
    assert_eq!(connected.account.info["version"], 1);
    assert_eq!(connected.account.info["sourceType"], "vercel");
    assert_eq!(connected.account.info["raw"]["installation_id"], "icfg_7");
    assert!(!connected.account.info.to_string().contains("\"at\""), "no token in the account's info");
    assert_eq!((connected.status, connected.follow), (InstallationStatus::Active, None));
    let fresh = connected.token.expect("a token");
    assert_eq!((text(&fresh.access), fresh.refresh.is_none(), fresh.expires_at), ("at", true, None));

    let exchange = provider.only(EXCHANGE).form();
    assert_eq!(exchange["client_id"], "the client");
    assert_eq!(exchange["client_secret"], "s&cret");
    assert_eq!((exchange["code"].as_str(), exchange["redirect_uri"].as_str()), ("c", REDIRECT));
    for about_the_team in [CONFIGURATION, "GET /v2/teams/team_1"] {
        let asked = provider.only(about_the_team);
        assert_eq!((asked.query["teamId"].as_str(), asked.bearer()), ("team_1", Some("at")));
    }
}

#[tokio::test]
async fn a_personal_install_is_bound_by_the_person_and_names_no_team() {
    let provider = Scripted::saying([
        (EXCHANGE, answer(200, &token(None))),
        (CONFIGURATION, answer(200, &configuration())),
        ("GET /v2/user", answer(200, &json!({"user": {"id": "u1", "username": "mirela"}}))),
    ])
    .await;
    let connected = complete(&*connector("vercel", &provider), &[("code", "c")]).await.expect("connected");
    assert_eq!(connected.external_id.as_str(), "u1");
    assert_eq!(connected.account.login.as_deref(), Some("mirela"));
    assert!(provider.only(CONFIGURATION).query.is_empty());
}

#[tokio::test]
async fn what_only_describes_the_account_may_fail() {
    let provider = Scripted::saying([
        (EXCHANGE, answer(200, &json!({"access_token": "at", "installation_id": "icfg_7", "team_id": "team_1"}))),
        (CONFIGURATION, status(500)),
        ("GET /v2/teams/team_1", Say::HangUp),
    ])
    .await;
    let connected = complete(&*connector("vercel", &provider), &[("code", "c")]).await.expect("connected");
    assert_eq!((connected.external_id.as_str(), connected.account.login), ("team_1", None));
}

#[tokio::test]
async fn a_callback_that_names_another_installation_is_refused() {
    let provider = Scripted::saying([(EXCHANGE, answer(200, &token(None)))]).await;
    let refused = complete(&*connector("vercel", &provider), &[("code", "c"), ("configurationId", "icfg_8")]).await;
    assert_eq!(refused.expect_err("refused"), ConnectorError::Refused("installation_not_verified"));
    assert_eq!(provider.whats(), [EXCHANGE], "its token is used for nothing");
}

#[tokio::test]
async fn an_exchange_that_fails_says_why_in_our_words() {
    let used = json!({"error": "invalid_grant", "error_description": "<b>used</b>"});
    let cases: [(Say, ConnectorError); 9] = [
        (answer(400, &used), ConnectorError::Refused("invalid_code")),
        (
            answer(403, &json!({"error": {"code": "forbidden", "message": "no"}})),
            ConnectorError::Refused("provider_error"),
        ),
        (status(503), ConnectorError::unavailable("answered 503")),
        (
            too_many(9),
            ConnectorError::Unavailable { why: "rate limited".into(), retry_after: Some(Duration::from_secs(9)) },
        ),
        (Say::HangUp, ConnectorError::AnswerLost),
        (Say::Answer(200, vec![], "{\"access_tok".into()), ConnectorError::Malformed("the answer to a code")),
        (
            answer(200, &json!({"access_token": "at", "user_id": "u1"})),
            ConnectorError::Malformed("the answer to a code"),
        ),
        (
            answer(200, &json!({"access_token": "", "installation_id": "icfg_7", "user_id": "u1"})),
            ConnectorError::Malformed("an empty access token"),
        ),
        (
            answer(200, &json!({"access_token": "at", "installation_id": "icfg_7", "user_id": null, "team_id": null})),
            ConnectorError::Malformed("a token answer without account"),
        ),
    ];
    for (say, expected) in cases {
        let provider = Scripted::saying([(EXCHANGE, say)]).await;
        let failed = complete(&*connector("vercel", &provider), &[("code", "c")]).await;
        assert_eq!(failed.expect_err("refused"), expected);
    }
    let provider = Scripted::saying([]).await;
    let failed = complete(&*connector("vercel", &provider), &[("configurationId", "icfg_7")]).await;
    assert_eq!(failed.expect_err("refused"), ConnectorError::Refused("missing_code"));
    assert!(provider.whats().is_empty());
}

#[tokio::test]
async fn next_is_followed_only_to_the_providers_own_pages_and_only_if_wanted() {
    let follow = async |web_url: Option<&str>, follow_next: Option<&str>, next: &dyn Fn(&str) -> String| {
        let provider = Scripted::saying([(EXCHANGE, answer(200, &token(None)))]).await;
        let mut settings = settings(&provider.url);
        settings.texts.extend(web_url.map(|url| ("web_url".to_owned(), url.to_owned())));
        settings.texts.extend(follow_next.map(|flag| ("follow_next".to_owned(), flag.to_owned())));
        let vercel = try_connector("vercel", &settings).expect("everything is set");
        let next = next(&provider.url);
        complete(&*vercel, &[("code", "c"), ("next", &next)]).await.expect("connected").follow.map(String::from)
    };
    let real = Some("https://vercel.com");
    let page = "https://vercel.com/harborworks/~/integrations?x=1";
    assert_eq!(follow(real, None, &|_| page.into()).await.as_deref(), Some(page));
    assert_eq!(follow(real, Some("true"), &|_| page.into()).await.as_deref(), Some(page));
    assert_eq!(follow(real, Some("false"), &|_| page.into()).await, None);
    assert!(follow(None, None, &|own| format!("{own}/done")).await.is_some(), "a simulator's own page");
    assert_eq!(follow(None, None, &|_| page.into()).await.as_deref(), Some(page), "the real one's, from a simulator");
    for elsewhere in [
        "http://vercel.com/done",
        "https://vercel.com.example.com/",
        "https://vercel.com@example.com/",
        "https://me:pw@vercel.com/",
        "https://vercel.com:8443/",
        "//vercel.com/",
        "/done",
        "javascript:alert(1)",
        "",
    ] {
        assert_eq!(follow(real, None, &|_| elsewhere.into()).await, None, "{elsewhere}");
    }
}

#[tokio::test]
async fn a_connector_wants_its_settings_and_a_strict_flag() {
    let full = settings("http://127.0.0.1:9");
    for needed in ["integration_slug", "client_id", "web_url", "api_url"] {
        let mut settings = full.clone();
        settings.texts.remove(needed);
        assert_eq!(try_connector("vercel", &settings).err().expect("refused").setting, needed);
    }
    let mut odd = full.clone();
    odd.texts.insert("follow_next".into(), "yes".into());
    let error = try_connector("vercel", &odd).err().expect("refused");
    assert_eq!(error.to_string(), "providers.vercel.follow_next must be true or false");
    let leg = Leg { state: "s&t=1", redirect_uri: REDIRECT, pkce_challenge: None, context: None };
    let vercel = try_connector("vercel", &full).expect("everything is set");
    let page = vercel.authorize_url(&leg).expect("a page");
    assert_eq!(page.as_str(), "http://127.0.0.1:9/integrations/signalbox/new?state=s%26t%3D1");
    assert!(!vercel.uses_pkce(None));
}

#[tokio::test]
async fn the_held_token_is_confirmed_by_its_configuration() {
    let disabled = json!({"id": "icfg_7", "disabledAt": 1_770_000_000_000_i64, "disabledReason": "disabled-by-owner"});
    let cases = [
        (answer(200, &configuration()), Ok(("at".to_owned(), None))),
        (answer(200, &disabled), Err(ConnectorError::Suspended)),
        (answer(200, &json!({"id": "icfg_7", "deletedAt": 1_770_000_000_000_i64})), Err(ConnectorError::Gone)),
        (answer(403, &paused()), Err(ConnectorError::Suspended)),
        (status(401), Err(ConnectorError::Rejected)),
        (status(403), Err(ConnectorError::Gone)),
        (status(404), Err(ConnectorError::Gone)),
        (status(500), Err(ConnectorError::unavailable("answered 500"))),
        (Say::HangUp, Err(ConnectorError::unavailable("the connection broke"))),
        (Say::Answer(200, vec![], "<html>".into()), Err(ConnectorError::Malformed("a configuration"))),
    ];
    for (say, expected) in cases {
        let provider = Scripted::saying([(CONFIGURATION, say)]).await;
        let renewed = connector("vercel", &provider).renew_token(&team_grant(), Some(&held("at", None))).await;
        assert_eq!(renewed.map(|fresh| (text(&fresh.access).to_owned(), fresh.expires_at)), expected);
        assert_eq!(provider.only(CONFIGURATION).query["teamId"], "team_1");
    }
}

#[tokio::test]
async fn a_disabled_configuration_reads_as_suspended_and_a_dead_token_as_unauthorized() {
    let disabled = json!({"id": "icfg_7", "userId": "u1", "disabledAt": 1});
    let provider = Scripted::saying([(CONFIGURATION, answer(200, &disabled)), (CONFIGURATION, status(401))]).await;
    let vercel = connector("vercel", &provider);
    assert!(vercel.read_account(&team_grant(), &secret("at")).await.expect("read").suspended);
    let dead = vercel.read_account(&team_grant(), &secret("at")).await;
    assert_eq!(dead.expect_err("dead"), ConnectorError::Unauthorized);
}

#[tokio::test]
async fn an_adopted_installation_without_configuration_is_confirmed_by_its_account() {
    let provider = Scripted::saying([
        ("GET /v2/teams/team_1", answer(200, &json!({"slug": "harborworks"}))),
        ("GET /v2/teams/team_1", status(401)),
    ])
    .await;
    let vercel = connector("vercel", &provider);
    let grant = grant("team_1", None, json!({}));
    let held = held("at", None);
    assert!(vercel.renew_token(&grant, Some(&held)).await.is_ok());
    assert_eq!(vercel.renew_token(&grant, Some(&held)).await.expect_err("dead"), ConnectorError::Rejected);
    let ended = vercel.end_grant(&grant, Some(&held)).await;
    assert_eq!(ended, Ok(Ended::NotPossible("unknown_configuration")));
}

#[tokio::test]
async fn the_configuration_is_deleted_once_and_then_gone() {
    let cases = [
        (status(204), Ok(Ended::Revoked)),
        (status(404), Ok(Ended::AlreadyGone)),
        (status(403), Ok(Ended::AlreadyGone)),
        (answer(403, &paused()), Ok(Ended::NotPossible("configuration_disabled"))),
        (status(401), Ok(Ended::NotPossible("token_not_accepted"))),
        (status(502), Err(ConnectorError::unavailable("answered 502"))),
    ];
    for (say, expected) in cases {
        let provider = Scripted::saying([(UNINSTALL, say)]).await;
        let ended = connector("vercel", &provider).end_grant(&team_grant(), Some(&held("at", None))).await;
        assert_eq!(ended, expected);
        assert_eq!(provider.only(UNINSTALL).query["teamId"], "team_1");
    }
}

#[tokio::test]
async fn every_page_of_projects_is_reached_whether_next_is_a_number_or_a_text() {
    let page = |ids: &[&str], next: Value| {
        let projects: Vec<Value> =
            ids.iter().map(|id| json!({"id": id, "name": format!("name of {id}"), "framework": null})).collect();
        answer(200, &json!({"projects": projects, "pagination": {"count": ids.len(), "next": next, "prev": null}}))
    };
    let provider = Scripted::saying([
        (PROJECTS, page(&["prj_1", "prj_2", "prj_1"], json!(1_771_000_000_000_i64))),
        (PROJECTS, page(&["prj_3"], json!("token-2"))),
        (PROJECTS, page(&["prj_4"], json!("token-2"))),
    ])
    .await;
    let vercel = connector("vercel", &provider);
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let page = vercel.list_resources(&team_grant(), &secret("at"), cursor.as_deref()).await.expect("a page");
        names.extend(page.items.into_iter().map(|item| item.name));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(names, ["name of prj_1", "name of prj_2", "name of prj_3", "name of prj_4"]);
    let asked = provider.asked(PROJECTS);
    let from: Vec<_> = asked.iter().map(|asked| asked.query.get("from").map(String::as_str)).collect();
    assert_eq!(from, [None, Some("1771000000000"), Some("token-2")], "a provider in circles is left");
    assert!(asked.iter().all(|asked| asked.query["teamId"] == "team_1" && asked.query["limit"] == "100"));
}

#[tokio::test]
async fn a_forbidden_list_is_judged_by_the_configuration() {
    let cases = [
        (answer(200, &configuration()), ConnectorError::NotAccessible),
        (status(404), ConnectorError::Gone),
        (status(401), ConnectorError::Unauthorized),
        (status(500), ConnectorError::unavailable("answered 500")),
    ];
    for (say, expected) in cases {
        let provider = Scripted::saying([(PROJECTS, status(403)), (CONFIGURATION, say)]).await;
        let listed = connector("vercel", &provider).list_resources(&team_grant(), &secret("at"), None).await;
        assert_eq!(listed.expect_err("none"), expected);
    }
    let reset = vec![("x-ratelimit-reset", (NOW.0 / 1000 + 30).to_string())];
    let provider =
        Scripted::saying([(PROJECTS, Say::Answer(429, reset, String::new())), (PROJECTS, status(401))]).await;
    let vercel = connector("vercel", &provider);
    let limited = vercel.list_resources(&team_grant(), &secret("at"), None).await.expect_err("limited");
    let wait = Some(Duration::from_secs(30));
    assert_eq!(limited, ConnectorError::Unavailable { why: "rate limited".into(), retry_after: wait });
    let dead = vercel.list_resources(&team_grant(), &secret("at"), None).await;
    assert_eq!(dead.expect_err("dead"), ConnectorError::Unauthorized);
}

#[tokio::test]
async fn the_proxy_speaks_for_the_grants_own_team_only() {
    let cookie = vec![("set-cookie", "session=1".to_owned()), ("x-ratelimit-remaining", "9".to_owned())];
    let provider = Scripted::saying([
        ("GET /v9/projects/a%2F..%2Fb", Say::Answer(404, cookie, "{\"error\":{\"code\":\"not_found\"}}".into())),
        ("GET /v2/user", status(401)),
    ])
    .await;
    let vercel = connector("vercel", &provider);
    let query = [("teamId", "team_9"), ("slug", "others"), ("x", "1")];
    let answered = proxy(&*vercel, &team_grant(), "get-project", &[("idOrName", "a/../b")], &query, None).await;
    let answered = answered.expect("an answer of any status");
    assert_eq!((answered.status, &answered.data["error"]["code"]), (404, &json!("not_found")));
    assert!(!answered.headers.contains_key("set-cookie") && answered.headers.contains_key("x-ratelimit-remaining"));
    let asked = provider.only("GET /v9/projects/a%2F..%2Fb");
    assert_eq!(asked.query, [("teamId".into(), "team_1".into()), ("x".into(), "1".into())].into());
    assert_eq!(asked.bearer(), Some("at"));
    let dead = proxy(&*vercel, &team_grant(), "get-user", &[], &[], None).await;
    assert_eq!(dead.expect_err("dead"), ConnectorError::Unauthorized);
}
