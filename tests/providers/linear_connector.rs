//! Linear's asking half against a provider that says what each test wants to hear.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use signalbox::{
    model::clock::EpochMs,
    providers::{
        ConnectorError,
        connector::{Ended, Grant, Leg},
    },
};

use crate::scripted::{
    NOW, REDIRECT, Say, Scripted, VERIFIER, complete, connector, fact, grant, held, json as answer, proxy, secret,
    settings, status, text, too_many, try_connector,
};

const TOKEN: &str = "POST /oauth/token";
const REVOKE: &str = "POST /oauth/revoke";
const GRAPHQL: &str = "POST /graphql";

fn pair() -> Value {
    json!({"access_token": "at2", "token_type": "Bearer", "expires_in": 7200, "refresh_token": "rt2", "scope": "read write"})
}

fn viewer() -> Value {
    json!({"data": {"viewer": {"id": "p1", "name": "Mirela", "email": "mirela@harborworks.example",
        "organization": {"id": "org-1", "name": "Harborworks", "urlKey": "harborworks"}}}})
}

fn faults(code: &str) -> Value {
    json!({"errors": [{"message": "secret words", "extensions": {"code": code, "userError": true}}]})
}

fn own_grant() -> Grant {
    grant("org-1", None, json!({}))
}

#[tokio::test]
async fn the_page_asks_for_scopes_separated_by_commas_with_a_challenge_and_consent() {
    let page = |extra: &[(&str, &str)]| {
        let mut settings = settings("http://127.0.0.1:9");
        settings.texts.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let linear = try_connector("linear", &settings).expect("everything is set");
        assert!(linear.uses_pkce(None));
        let leg = Leg { state: "st", redirect_uri: REDIRECT, pkce_challenge: Some("ch"), context: None };
        let url = linear.authorize_url(&leg).expect("a page");
        assert!(url.as_str().starts_with("http://127.0.0.1:9/oauth/authorize?"), "{url}");
        url.query_pairs().into_owned().collect::<BTreeMap<_, _>>()
    };
    let expected = [
        ("client_id", "the client"),
        ("code_challenge", "ch"),
        ("code_challenge_method", "S256"),
        ("prompt", "consent"),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("scope", "read"),
        ("state", "st"),
    ];
    assert_eq!(page(&[]), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let tuned = page(&[("scopes", "read, write issues:create"), ("actor", "app")]);
    assert_eq!((tuned["scope"].as_str(), tuned["actor"].as_str()), ("read,write,issues:create", "app"));
    for (setting, wrong) in [("actor", "nobody"), ("scopes", ", ,")] {
        let mut settings = settings("http://127.0.0.1:9");
        settings.texts.insert(setting.into(), wrong.into());
        assert_eq!(try_connector("linear", &settings).err().expect("refused").setting, setting);
    }
}

#[tokio::test]
async fn the_workspace_is_the_one_that_the_new_token_names() {
    let provider = Scripted::saying([(TOKEN, answer(200, &pair())), (GRAPHQL, answer(200, &viewer()))]).await;
    let connected = complete(&*connector("linear", &provider), &[("code", "c"), ("organizationId", "org-9")]).await;
    let connected = connected.expect("connected");
    assert_eq!(connected.external_id.as_str(), "org-1");
    assert_eq!(connected.account.login.as_deref(), Some("harborworks"));
    assert_eq!(fact(&connected.account.metadata, "providerUserId"), Some("p1"));
    assert_eq!(connected.account.info["organization"]["urlKey"], "harborworks");
    assert_eq!(
        connected.account.info["raw"],
        json!({"token_type": "Bearer", "scope": "read write", "expires_in": 7200})
    );
    let fresh = connected.token.expect("a token");
    assert_eq!((text(&fresh.access), fresh.refresh.as_ref().map(text)), ("at2", Some("rt2")));
    assert_eq!(fresh.expires_at, Some(EpochMs(NOW.0 + 7_200_000)));
    let exchange = provider.only(TOKEN).form();
    let expected = [
        ("client_id", "the client"),
        ("client_secret", "s&cret"),
        ("code", "c"),
        ("code_verifier", VERIFIER),
        ("grant_type", "authorization_code"),
        ("redirect_uri", REDIRECT),
    ];
    assert_eq!(exchange, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(provider.only(GRAPHQL).bearer(), Some("at2"));
}

#[tokio::test]
async fn a_connect_that_fails_says_why_in_our_words() {
    let provider = Scripted::saying([]).await;
    let linear = connector("linear", &provider);
    for (parameters, code) in [
        (vec![("error", "access_denied"), ("error_description", "<i>no</i>")], "access_denied"),
        (vec![("error", "weird error")], "provider_error"),
        (vec![("state", "s")], "missing_code"),
    ] {
        let refused = complete(&*linear, &parameters).await.expect_err("refused");
        assert_eq!(refused, ConnectorError::Refused(code));
    }
    assert!(provider.whats().is_empty());
    let invalid = json!({"error": "invalid_grant", "error_description": "secret words"});
    for (say, expected) in [
        (answer(400, &invalid), ConnectorError::Refused("invalid_code")),
        (answer(401, &json!({"error": "invalid_client"})), ConnectorError::Refused("provider_error")),
        (status(500), ConnectorError::unavailable("answered 500")),
        (Say::HangUp, ConnectorError::AnswerLost),
    ] {
        let provider = Scripted::saying([(TOKEN, say)]).await;
        let failed = complete(&*connector("linear", &provider), &[("code", "c")]).await;
        assert_eq!(failed.expect_err("refused"), expected);
    }
}

#[tokio::test]
async fn tokens_whose_workspace_cannot_be_read_are_revoked_after_a_second_look() {
    let hiccup = [(TOKEN, answer(200, &pair())), (GRAPHQL, status(503)), (GRAPHQL, answer(200, &viewer()))];
    let provider = Scripted::saying(hiccup).await;
    let connected = complete(&*connector("linear", &provider), &[("code", "c")]).await;
    assert_eq!(connected.expect("connected").external_id.as_str(), "org-1");
    assert!(provider.asked(REVOKE).is_empty());

    let away = [(TOKEN, answer(200, &pair())), (GRAPHQL, status(503)), (GRAPHQL, status(503)), (REVOKE, status(200))];
    let provider = Scripted::saying(away).await;
    let failed = complete(&*connector("linear", &provider), &[("code", "c")]).await;
    assert_eq!(failed.expect_err("nothing is bound"), ConnectorError::unavailable("answered 503"));
    assert_eq!(provider.only(REVOKE).bearer(), Some("at2"));
}

#[tokio::test]
async fn a_refresh_rotates_and_tolerates_what_is_missing() {
    let day = Duration::from_secs(86_399);
    for (body, refresh, scope, expires_at) in [
        (pair(), Some("rt2"), Some("read write"), NOW.plus(Duration::from_hours(2))),
        (json!({"access_token": "at2"}), None, None, NOW.plus(day)),
        (
            json!({"access_token": "at2", "refresh_token": null, "expires_in": null, "scope": ["read", "write"], "new": 1}),
            None,
            Some("read write"),
            NOW.plus(day),
        ),
    ] {
        let provider = Scripted::saying([(TOKEN, answer(200, &body))]).await;
        let fresh = connector("linear", &provider).renew_token(&own_grant(), Some(&held("at", Some("rt")))).await;
        let fresh = fresh.expect("renewed");
        assert_eq!(fresh.refresh.as_ref().map(text), refresh);
        assert_eq!((fresh.scope.as_deref(), fresh.expires_at), (scope, Some(expires_at)));
        let form = provider.only(TOKEN).form();
        assert_eq!((form["grant_type"].as_str(), form["refresh_token"].as_str()), ("refresh_token", "rt"));
        assert_eq!((form["client_id"].as_str(), form["client_secret"].as_str()), ("the client", "s&cret"));
    }
}

#[tokio::test]
async fn only_an_explicit_verdict_ends_a_grant() {
    let wait = Some(Duration::from_secs(9));
    let cases = [
        (answer(400, &json!({"error": "invalid_grant"})), ConnectorError::Rejected),
        (status(500), ConnectorError::unavailable("answered 500")),
        (too_many(9), ConnectorError::Unavailable { why: "rate limited".into(), retry_after: wait }),
        (Say::HangUp, ConnectorError::AnswerLost),
        (Say::Answer(200, vec![], "{\"access_token\":\"at2\",\"refr".into()), ConnectorError::AnswerLost),
        (answer(200, &json!({"token_type": "Bearer"})), ConnectorError::AnswerLost),
    ];
    for (say, expected) in cases {
        let provider = Scripted::saying([(TOKEN, say)]).await;
        let renewed = connector("linear", &provider).renew_token(&own_grant(), Some(&held("at", Some("rt")))).await;
        assert_eq!(renewed.expect_err("not renewed"), expected);
        assert_eq!(provider.whats(), [TOKEN], "a rotation is never repeated here");
    }
    for (code, body) in [(401, json!({"error": "invalid_client"})), (400, json!({"error": "invalid_request"}))] {
        let provider = Scripted::saying([(TOKEN, answer(code, &body))]).await;
        let renewed = connector("linear", &provider).renew_token(&own_grant(), Some(&held("at", Some("rt")))).await;
        assert!(
            matches!(renewed, Err(ConnectorError::Unavailable { .. })),
            "our own mistake is no verdict: {renewed:?}"
        );
    }
    let provider = Scripted::saying([]).await;
    let none = connector("linear", &provider).renew_token(&own_grant(), Some(&held("at", None))).await;
    assert_eq!(none.expect_err("nothing to refresh with"), ConnectorError::Rejected);
    assert!(provider.whats().is_empty());
}

#[tokio::test]
async fn errors_of_graphql_mean_what_their_code_says_whatever_their_status() {
    let reset = vec![("x-ratelimit-requests-reset", (NOW.0 + 30_000).to_string())];
    let limited =
        ConnectorError::Unavailable { why: "rate limited".into(), retry_after: Some(Duration::from_secs(30)) };
    let nothing = ConnectorError::Malformed("an answer to a query");
    let cases = [
        (status(401), ConnectorError::Unauthorized),
        (answer(200, &faults("AUTHENTICATION_ERROR")), ConnectorError::Unauthorized),
        (answer(400, &faults("AUTHENTICATION_ERROR")), ConnectorError::Unauthorized),
        (Say::Answer(400, reset.clone(), faults("RATELIMITED").to_string()), limited.clone()),
        (Say::Answer(200, reset.clone(), faults("RATELIMITED").to_string()), limited.clone()),
        (Say::Answer(429, reset, String::new()), limited),
        (answer(200, &faults("FORBIDDEN")), ConnectorError::NotAccessible),
        (answer(200, &faults("INTERNAL_SERVER_ERROR")), ConnectorError::unavailable("answered an internal error")),
        (answer(400, &faults("GRAPHQL_VALIDATION_FAILED")), nothing.clone()),
        (answer(200, &json!({"data": null})), nothing.clone()),
        (Say::Answer(200, vec![], "<html>".into()), nothing),
        (answer(200, &json!({"data": {"viewer": null}})), ConnectorError::Malformed("the viewer")),
        (status(502), ConnectorError::unavailable("answered 502")),
        (Say::HangUp, ConnectorError::unavailable("the connection broke")),
    ];
    for (say, expected) in cases {
        let provider = Scripted::saying([(GRAPHQL, say)]).await;
        let read = connector("linear", &provider).read_account(&own_grant(), &secret("at")).await;
        assert_eq!(read.expect_err("not read"), expected);
    }
    let provider = Scripted::saying([(GRAPHQL, answer(200, &viewer())), (GRAPHQL, answer(200, &viewer()))]).await;
    let linear = connector("linear", &provider);
    let account = linear.read_account(&own_grant(), &secret("at")).await.expect("read");
    assert_eq!(account.login.as_deref(), Some("harborworks"));
    let other = linear.read_account(&grant("org-2", None, json!({})), &secret("at")).await;
    assert_eq!(other.expect_err("another's"), ConnectorError::Malformed("a token of another workspace"));
}

#[tokio::test]
async fn a_grant_ends_once_and_a_dead_access_token_does_not_hide_a_live_refresh_token() {
    let both = held("at", Some("rt"));
    let provider = Scripted::saying([(REVOKE, status(200))]).await;
    assert_eq!(connector("linear", &provider).end_grant(&own_grant(), Some(&both)).await, Ok(Ended::Revoked));
    assert_eq!(provider.only(REVOKE).bearer(), Some("at"));
    for (first, second, expected) in [(401, 200, Ended::Revoked), (400, 400, Ended::AlreadyGone)] {
        let provider = Scripted::saying([(REVOKE, status(first)), (REVOKE, status(second))]).await;
        assert_eq!(connector("linear", &provider).end_grant(&own_grant(), Some(&both)).await, Ok(expected));
        assert_eq!(provider.asked(REVOKE)[1].form()["refresh_token"], "rt");
    }
    let provider = Scripted::saying([(REVOKE, status(401)), (REVOKE, status(500)), (REVOKE, too_many(3))]).await;
    let linear = connector("linear", &provider);
    assert_eq!(linear.end_grant(&own_grant(), Some(&held("at", None))).await, Ok(Ended::AlreadyGone));
    for _unavailable in 0..2 {
        let ended = linear.end_grant(&own_grant(), Some(&both)).await;
        assert!(matches!(ended, Err(ConnectorError::Unavailable { .. })), "{ended:?}");
    }
}

#[tokio::test]
async fn every_page_of_teams_is_reached() {
    let page = |ids: &[&str], next: Option<&str>| {
        let nodes: Vec<Value> =
            ids.iter().map(|id| json!({"id": id, "key": id.to_uppercase(), "name": null, "private": true})).collect();
        let info = json!({"hasNextPage": next.is_some(), "endCursor": next.unwrap_or("last")});
        answer(200, &json!({"data": {"teams": {"nodes": nodes, "pageInfo": info}}}))
    };
    let provider =
        Scripted::saying([(GRAPHQL, page(&["t1", "t2", "t1"], Some("c1"))), (GRAPHQL, page(&["t3"], None))]).await;
    let linear = connector("linear", &provider);
    let first = linear.list_resources(&own_grant(), &secret("at"), None).await.expect("a page");
    assert_eq!(first.items.len(), 2);
    let team = &first.items[0];
    assert_eq!(
        (team.id.as_str(), team.slug.as_deref(), team.name.as_str(), team.private),
        ("t1", Some("T1"), "T1", Some(true))
    );
    assert_eq!(team.attrs["teamKey"], "T1");
    let second =
        linear.list_resources(&own_grant(), &secret("at"), first.next_cursor.as_deref()).await.expect("a page");
    assert_eq!((second.items[0].id.as_str(), second.next_cursor), ("t3", None));
    let asked = provider.asked(GRAPHQL);
    let after: Vec<Value> = asked.iter().map(|asked| asked.json()["variables"]["after"].clone()).collect();
    assert_eq!(after, [Value::Null, json!("c1")]);
}

#[tokio::test]
async fn the_proxy_passes_queries_on_and_knows_a_dead_token_by_its_code() {
    let provider = Scripted::saying([
        (GRAPHQL, answer(200, &json!({"data": {"x": 1}}))),
        (GRAPHQL, answer(400, &faults("INPUT_ERROR"))),
        (GRAPHQL, answer(200, &faults("AUTHENTICATION_ERROR"))),
    ])
    .await;
    let linear = connector("linear", &provider);
    let query = json!({"query": "{ x }"});
    let answered = proxy(&*linear, &own_grant(), "graphql", &[], &[], Some(query.clone())).await.expect("answered");
    assert_eq!((answered.status, answered.data), (200, json!({"data": {"x": 1}})));
    assert_eq!(provider.only(GRAPHQL).json(), query);
    let wrong = proxy(&*linear, &own_grant(), "graphql", &[], &[], Some(query.clone())).await.expect("answered");
    assert_eq!(wrong.status, 400);
    let dead = proxy(&*linear, &own_grant(), "graphql", &[], &[], Some(query)).await;
    assert_eq!(dead.expect_err("dead"), ConnectorError::Unauthorized);
}
