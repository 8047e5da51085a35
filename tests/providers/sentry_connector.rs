//! Sentry's asking half against a provider that says what each test wants to hear.

use std::time::Duration;

use serde_json::{Value, json};
use signalbox::{
    model::{clock::EpochMs, installation::InstallationStatus},
    providers::{
        ConnectorError,
        connector::{Ended, Grant, Leg},
    },
};

use crate::scripted::{
    NOW, REDIRECT, Say, Scripted, complete, connector, fact, grant, held, json as answer, proxy, secret, settings,
    status, text, too_many, try_connector,
};

const UUID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";
const TOKEN: &str = "POST /api/0/sentry-app-installations/7c9e6679-7425-40de-944b-e07fc1f90ae7/authorizations/";
const CONFIRM: &str = "PUT /api/0/sentry-app-installations/7c9e6679-7425-40de-944b-e07fc1f90ae7/";
const READ: &str = "GET /api/0/sentry-app-installations/7c9e6679-7425-40de-944b-e07fc1f90ae7/";
const UNINSTALL: &str = "DELETE /api/0/sentry-app-installations/7c9e6679-7425-40de-944b-e07fc1f90ae7/";
const ORGANIZATIONS: &str = "GET /api/0/organizations/";
const PROJECTS: &str = "GET /api/0/organizations/harborworks/projects/";
const ALL_PROJECTS: &str = "GET /api/0/projects/";

fn pair() -> Value {
    json!({"id": "9", "token": "at2", "refreshToken": "rt2", "expiresAt": "2026-05-28T22:26:40Z", "application": null,
        "dateCreated": "2026-05-28T20:26:40Z", "scopes": ["org:read", "event:read"], "state": null})
}

fn installed(status: &str) -> Value {
    json!({"app": {"uuid": "a", "slug": "signalbox"}, "organization": {"slug": "harborworks", "id": 77}, "uuid": UUID,
        "status": status})
}

fn organizations() -> Value {
    json!([{"id": "77", "slug": "harborworks", "name": "Harborworks",
        "links": {"organizationUrl": "https://harborworks.example", "regionUrl": "https://us.example"}}])
}

fn own_grant() -> Grant {
    grant(UUID, None, json!({"organizationSlug": "harborworks"}))
}

const CALLBACK: [(&str, &str); 3] = [("code", "c"), ("installationId", UUID), ("orgSlug", "somebody-else")];

#[tokio::test]
async fn an_install_is_exchanged_confirmed_and_known_by_its_own_organisation() {
    let provider = Scripted::saying([
        (TOKEN, answer(201, &pair())),
        (CONFIRM, answer(200, &installed("installed"))),
        (ORGANIZATIONS, answer(200, &organizations())),
    ])
    .await;
    let connected = complete(&*connector("sentry", &provider), &CALLBACK).await.expect("connected");
    assert_eq!((connected.external_id.as_str(), connected.status), (UUID, InstallationStatus::Active));
    assert_eq!(connected.account.login.as_deref(), Some("harborworks"));
    let metadata = &connected.account.metadata;
    assert_eq!(
        (fact(metadata, "organizationSlug"), fact(metadata, "organizationId")),
        (Some("harborworks"), Some("77"))
    );
    assert_eq!(fact(metadata, "regionUrl"), None, "a region of another host is not kept");
    assert_eq!(connected.account.info["sourceType"], "sentry");
    assert_eq!(connected.account.info["raw"]["scopes"], json!(["org:read", "event:read"]));
    let fresh = connected.token.expect("a token");
    assert_eq!((text(&fresh.access), fresh.refresh.as_ref().map(text)), ("at2", Some("rt2")));
    assert_eq!(fresh.expires_at, EpochMs::parse_rfc3339("2026-05-28T22:26:40Z"));
    assert_eq!(fresh.scope.as_deref(), Some("org:read event:read"));

    let exchange = provider.only(TOKEN);
    assert_eq!(
        exchange.json(),
        json!({"grant_type": "authorization_code", "code": "c", "client_id": "the client", "client_secret": "s&cret"})
    );
    assert_eq!(exchange.bearer(), None);
    let confirm = provider.only(CONFIRM);
    assert_eq!((confirm.json(), confirm.bearer()), (json!({"status": "installed"}), Some("at2")));
}

#[tokio::test]
async fn another_spelling_of_the_uuid_is_the_same_installation() {
    let provider =
        Scripted::saying([(TOKEN, answer(201, &pair())), (CONFIRM, answer(200, &installed("installed")))]).await;
    let upper = UUID.to_uppercase();
    let connected = complete(&*connector("sentry", &provider), &[("code", "c"), ("installationId", &upper)]).await;
    assert_eq!(connected.expect("connected").external_id.as_str(), UUID);
}

#[tokio::test]
async fn a_confirmation_that_fails_leaves_what_sentry_says_of_the_install() {
    let cases: [(Vec<(&str, Say)>, InstallationStatus); 5] = [
        (vec![(CONFIRM, status(403)), (READ, answer(200, &installed("installed")))], InstallationStatus::Active),
        (vec![(CONFIRM, status(403)), (READ, answer(200, &installed("pending")))], InstallationStatus::Pending),
        (vec![(CONFIRM, status(403)), (READ, status(403))], InstallationStatus::Active),
        (vec![(CONFIRM, status(503)), (CONFIRM, answer(200, &installed("installed")))], InstallationStatus::Active),
        (vec![(CONFIRM, status(401)), (CONFIRM, answer(200, &installed("installed")))], InstallationStatus::Active),
    ];
    for (lines, expected) in cases {
        let provider = Scripted::saying(lines.into_iter().chain([(TOKEN, answer(201, &pair()))])).await;
        let connected = complete(&*connector("sentry", &provider), &CALLBACK).await.expect("connected");
        assert_eq!(connected.status, expected, "{:?}", provider.whats());
        assert_ne!(connected.account.login.as_deref(), Some("somebody-else"), "the browser's word is not taken");
    }
    // What cannot be told now is told later, whatever can be read meanwhile.
    for outage in [vec![status(503); 3], vec![Say::HangUp, status(500), status(502)], vec![too_many(9)]] {
        let tries = outage.len();
        let lines = outage.into_iter().map(|say| (CONFIRM, say)).chain([(TOKEN, answer(201, &pair()))]);
        let provider = Scripted::saying(lines).await;
        let connected = complete(&*connector("sentry", &provider), &CALLBACK).await.expect("connected");
        assert_eq!((connected.status, provider.asked(CONFIRM).len()), (InstallationStatus::Pending, tries));
    }
    let provider = Scripted::saying([(TOKEN, answer(201, &pair())), (CONFIRM, status(404))]).await;
    let gone = complete(&*connector("sentry", &provider), &CALLBACK).await;
    assert_eq!(gone.expect_err("uninstalled meanwhile"), ConnectorError::Gone);
}

#[tokio::test]
async fn a_connect_that_fails_says_why_in_our_words() {
    let detail = json!({"detail": "secret words"});
    let wait = Some(Duration::from_secs(9));
    for (say, expected) in [
        (answer(401, &detail), ConnectorError::Refused("invalid_code")),
        (answer(404, &detail), ConnectorError::Refused("installation_not_verified")),
        (answer(403, &detail), ConnectorError::Refused("provider_error")),
        (answer(400, &detail), ConnectorError::Refused("provider_error")),
        (status(500), ConnectorError::unavailable("answered 500")),
        (too_many(9), ConnectorError::Unavailable { why: "rate limited".into(), retry_after: wait }),
        (Say::HangUp, ConnectorError::AnswerLost),
        (Say::Answer(201, vec![], "{\"token\":".into()), ConnectorError::Malformed("the answer to a code")),
        (answer(201, &json!({"token": ""})), ConnectorError::Malformed("an empty access token")),
    ] {
        let provider = Scripted::saying([(TOKEN, say)]).await;
        let failed = complete(&*connector("sentry", &provider), &CALLBACK).await;
        assert_eq!(failed.expect_err("refused"), expected);
        assert_eq!(provider.whats(), [TOKEN]);
    }
    let provider = Scripted::saying([]).await;
    let sentry = connector("sentry", &provider);
    for (parameters, code) in [
        (vec![("installationId", UUID)], "missing_code"),
        (vec![("code", "c")], "missing_installation_id"),
        (vec![("code", "c"), ("installationId", "../../organizations")], "installation_not_verified"),
    ] {
        assert_eq!(complete(&*sentry, &parameters).await.expect_err("refused"), ConnectorError::Refused(code));
    }
    assert!(provider.whats().is_empty());
}

#[tokio::test]
async fn the_page_is_named_by_the_applications_slug() {
    let full = settings("http://127.0.0.1:9");
    let sentry = try_connector("sentry", &full).expect("everything is set");
    let leg = Leg { state: "s&t", redirect_uri: REDIRECT, pkce_challenge: None, context: None };
    let page = sentry.authorize_url(&leg).expect("a page");
    assert_eq!(page.as_str(), "http://127.0.0.1:9/sentry-apps/signalbox/external-install/?state=s%26t");
    for needed in ["app_slug", "client_id", "web_url", "api_url"] {
        let mut settings = full.clone();
        settings.texts.remove(needed);
        assert_eq!(try_connector("sentry", &settings).err().expect("refused").setting, needed);
    }
}

#[tokio::test]
async fn a_refresh_is_sent_once_and_its_pair_is_taken() {
    let provider = Scripted::saying([(TOKEN, answer(201, &pair()))]).await;
    let fresh = connector("sentry", &provider).renew_token(&own_grant(), Some(&held("at", Some("rt")))).await;
    let fresh = fresh.expect("renewed");
    assert_eq!((text(&fresh.access), fresh.refresh.as_ref().map(text)), ("at2", Some("rt2")));
    let expected = json!({"grant_type": "refresh_token", "refresh_token": "rt", "client_id": "the client", "client_secret": "s&cret"});
    let asked = provider.only(TOKEN);
    assert_eq!((asked.json(), asked.bearer()), (expected, None));

    let provider = Scripted::saying([(TOKEN, answer(201, &json!({"token": "at2", "refreshToken": null})))]).await;
    let fresh = connector("sentry", &provider).renew_token(&own_grant(), Some(&held("at", Some("rt")))).await;
    let fresh = fresh.expect("renewed");
    assert!(fresh.refresh.is_none(), "the old one is kept");
    assert_eq!(fresh.expires_at, Some(NOW.plus(Duration::from_hours(8))));
}

#[tokio::test]
async fn a_refused_refresh_ends_the_grant_only_if_the_access_token_is_dead_too() {
    let lives = ConnectorError::unavailable("the refresh was refused, though not the grant");
    let cases = [
        (status(401), ConnectorError::Rejected),
        (answer(200, &installed("installed")), lives.clone()),
        (status(403), lives.clone()),
        (status(404), ConnectorError::Gone),
        (status(503), ConnectorError::unavailable("answered 503")),
        (Say::HangUp, ConnectorError::unavailable("the connection broke")),
    ];
    for (say, expected) in cases {
        let provider = Scripted::saying([(TOKEN, status(401)), (READ, say)]).await;
        let renewed = connector("sentry", &provider).renew_token(&own_grant(), Some(&held("at", Some("rt")))).await;
        assert_eq!(renewed.expect_err("not renewed"), expected);
        assert_eq!((provider.asked(TOKEN).len(), provider.only(READ).bearer()), (1, Some("at")));
    }
    let wait = Some(Duration::from_secs(9));
    let (invalid, other) = (json!({"error": "invalid_grant"}), json!({"error": "invalid_client"}));
    for (say, expected) in [
        (answer(400, &invalid), ConnectorError::Rejected),
        (answer(401, &invalid), ConnectorError::Rejected),
        (answer(403, &invalid), ConnectorError::Rejected),
        (answer(404, &invalid), ConnectorError::Rejected),
        (answer(500, &invalid), ConnectorError::unavailable("answered 500")),
        (answer(400, &other), ConnectorError::Malformed("an answer of this status")),
        (answer(400, &json!({"detail": "invalid_grant"})), ConnectorError::Malformed("an answer of this status")),
        (Say::HangUp, ConnectorError::AnswerLost),
        (Say::Answer(201, vec![], "{\"token\":\"at2\",\"refr".into()), ConnectorError::AnswerLost),
        (answer(201, &json!({"id": "9"})), ConnectorError::AnswerLost),
        (status(500), ConnectorError::unavailable("answered 500")),
        (too_many(9), ConnectorError::Unavailable { why: "rate limited".into(), retry_after: wait }),
        (status(404), ConnectorError::Gone),
        (status(403), lives),
    ] {
        let provider = Scripted::saying([(TOKEN, say)]).await;
        let renewed = connector("sentry", &provider).renew_token(&own_grant(), Some(&held("at", Some("rt")))).await;
        assert_eq!(renewed.expect_err("not renewed"), expected);
        assert_eq!(provider.whats(), [TOKEN], "a rotation is never repeated here");
    }
}

#[tokio::test]
async fn reading_a_pending_install_confirms_it() {
    let provider = Scripted::saying([
        (READ, answer(200, &installed("pending"))),
        (CONFIRM, answer(200, &installed("installed"))),
        (READ, status(401)),
        (READ, status(404)),
    ])
    .await;
    let sentry = connector("sentry", &provider);
    let account = sentry.read_account(&own_grant(), &secret("at")).await.expect("read");
    assert_eq!(fact(&account.metadata, "status"), Some("installed"));
    assert_eq!(sentry.read_account(&own_grant(), &secret("at")).await, Err(ConnectorError::Unauthorized));
    assert_eq!(sentry.read_account(&own_grant(), &secret("at")).await, Err(ConnectorError::Gone));
    assert_eq!(provider.asked(CONFIRM).len(), 1);
}

#[tokio::test]
async fn a_pending_install_is_confirmed_later_unless_sentry_refuses() {
    let refused = ConnectorError::Refused("confirmation_refused");
    let wait = Some(Duration::from_secs(9));
    let cases = [
        (vec![(CONFIRM, answer(200, &installed("installed")))], Ok(())),
        (vec![(CONFIRM, status(403)), (READ, answer(200, &installed("installed")))], Ok(())),
        (vec![(CONFIRM, status(403)), (READ, status(403))], Ok(())),
        (vec![(CONFIRM, status(403)), (READ, answer(200, &installed("pending")))], Err(refused.clone())),
        (vec![(CONFIRM, status(400)), (READ, answer(200, &installed("pending")))], Err(refused)),
        (vec![(CONFIRM, status(403)), (READ, status(503))], Err(ConnectorError::unavailable("answered 503"))),
        (
            vec![(CONFIRM, Say::Answer(200, vec![], "{".into())), (READ, answer(200, &installed("pending")))],
            Err(ConnectorError::Malformed("an installation")),
        ),
        (vec![(CONFIRM, status(503))], Err(ConnectorError::unavailable("answered 503"))),
        (vec![(CONFIRM, Say::HangUp)], Err(ConnectorError::unavailable("the connection broke"))),
        (
            vec![(CONFIRM, too_many(9))],
            Err(ConnectorError::Unavailable { why: "rate limited".into(), retry_after: wait }),
        ),
        (vec![(CONFIRM, status(401))], Err(ConnectorError::Unauthorized)),
        (vec![(CONFIRM, status(404))], Err(ConnectorError::Gone)),
    ];
    for (lines, expected) in cases {
        let provider = Scripted::saying(lines).await;
        let confirmed = connector("sentry", &provider).confirm_arrival(&own_grant(), &secret("at")).await;
        assert_eq!(confirmed, expected, "{:?}", provider.whats());
        assert_eq!(provider.only(CONFIRM).bearer(), Some("at"));
    }
}

#[tokio::test]
async fn uninstalling_uses_the_installations_own_token() {
    for (say, expected) in [
        (status(204), Ok(Ended::Revoked)),
        (status(404), Ok(Ended::AlreadyGone)),
        (status(403), Ok(Ended::NotPossible("missing_scope"))),
        (status(401), Err(ConnectorError::Unauthorized)),
        (status(500), Err(ConnectorError::unavailable("answered 500"))),
    ] {
        let provider = Scripted::saying([(UNINSTALL, say)]).await;
        let ended = connector("sentry", &provider).end_grant(&own_grant(), Some(&held("at", Some("rt")))).await;
        assert_eq!(ended, expected);
        assert_eq!(provider.only(UNINSTALL).bearer(), Some("at"));
    }
    let provider = Scripted::saying([]).await;
    let ended = connector("sentry", &provider).end_grant(&own_grant(), None).await;
    assert_eq!(ended, Ok(Ended::NotPossible("no_token")));
}

fn projects(ids: &[u64], results: &str, cursor: &str) -> Say {
    let list: Vec<Value> = ids
        .iter()
        .map(|id| json!({"id": id.to_string(), "slug": format!("slug-{id}"), "name": format!("Name {id}")}))
        .collect();
    let link = format!(
        "<https://s.example/?cursor=0:0:1>; rel=\"previous\"; results=\"false\"; cursor=\"0:0:1\", <https://s.example/?cursor={cursor}>; rel=\"next\"; results=\"{results}\"; cursor=\"{cursor}\""
    );
    Say::Answer(200, vec![("link", link)], Value::from(list).to_string())
}

#[tokio::test]
async fn every_page_of_projects_is_reached_and_the_last_next_link_is_not_followed() {
    let provider = Scripted::saying([
        (PROJECTS, projects(&[1, 2, 1], "true", "0:100:0")),
        (PROJECTS, projects(&[3], "false", "0:200:0")),
    ])
    .await;
    let sentry = connector("sentry", &provider);
    let first = sentry.list_resources(&own_grant(), &secret("at"), None).await.expect("a page");
    let slugs: Vec<_> = first.items.iter().map(|item| item.slug.as_deref()).collect();
    assert_eq!(slugs, [Some("slug-1"), Some("slug-2")]);
    let second =
        sentry.list_resources(&own_grant(), &secret("at"), first.next_cursor.as_deref()).await.expect("a page");
    assert_eq!((second.items[0].name.as_str(), second.next_cursor), ("Name 3", None));
    let asked = provider.asked(PROJECTS);
    let cursors: Vec<_> = asked.iter().map(|asked| asked.query.get("cursor").map(String::as_str)).collect();
    assert_eq!(cursors, [None, Some("0:100:0")]);
    assert!(asked.iter().all(|asked| asked.query["per_page"] == "100" && asked.bearer() == Some("at")));
}

#[tokio::test]
async fn an_organisation_that_was_renamed_is_found_by_its_installation() {
    let mut renamed = installed("installed");
    renamed["organization"]["slug"] = json!("harborworks-2");
    let provider = Scripted::saying([
        (PROJECTS, status(404)),
        (READ, answer(200, &renamed)),
        ("GET /api/0/organizations/harborworks-2/projects/", projects(&[1], "false", "0:100:0")),
    ])
    .await;
    let listed = connector("sentry", &provider).list_resources(&own_grant(), &secret("at"), None).await;
    assert_eq!(listed.expect("a page").items.len(), 1);

    let same = answer(200, &installed("installed"));
    for (read, then, expected) in [
        (same, None, Some(ConnectorError::NotAccessible)),
        (status(404), None, Some(ConnectorError::Gone)),
        (status(401), None, Some(ConnectorError::Unauthorized)),
        (status(403), Some((ALL_PROJECTS, projects(&[1], "false", "0:100:0"))), None),
    ] {
        let provider = Scripted::saying([(PROJECTS, status(403)), (READ, read)].into_iter().chain(then)).await;
        let listed = connector("sentry", &provider).list_resources(&own_grant(), &secret("at"), None).await;
        assert_eq!(listed.err(), expected, "{:?}", provider.whats());
    }
    let provider = Scripted::saying([(PROJECTS, status(401)), (PROJECTS, too_many(4))]).await;
    let sentry = connector("sentry", &provider);
    let dead = sentry.list_resources(&own_grant(), &secret("at"), None).await;
    assert_eq!(dead.err(), Some(ConnectorError::Unauthorized));
    let limited = sentry.list_resources(&own_grant(), &secret("at"), None).await;
    assert!(matches!(limited, Err(ConnectorError::Unavailable { retry_after: Some(_), .. })), "{limited:?}");
}

#[tokio::test]
async fn the_proxy_keeps_trailing_slashes() {
    let provider =
        Scripted::saying([("GET /api/0/organizations/harborworks/issues/7%2F8/", answer(200, &json!({"id": "7"})))]);
    let provider = provider.await;
    let sentry = connector("sentry", &provider);
    let path = [("organizationSlug", "harborworks"), ("issueId", "7/8")];
    let answered = proxy(&*sentry, &own_grant(), "get-issue", &path, &[], None).await.expect("an answer");
    assert_eq!((answered.status, answered.data), (200, json!({"id": "7"})));
    let path = [("organizationSlug", ".."), ("issueId", "7")];
    let hostile = proxy(&*sentry, &own_grant(), "get-issue", &path, &[], None).await;
    assert_eq!(hostile.expect_err("refused"), ConnectorError::Refused("invalid_path_parameter"));
}
