//! GitHub's asking half against the simulated GitHub: both are written from GitHub's documentation, neither from the
//! other.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use signalbox::{
    model::{
        clock::{Clock, EpochMs, SystemClock},
        installation::InstallationStatus,
        provider::{ExternalId, ProviderResourceId},
        secret::Secret,
    },
    providers::{
        Connector, ConnectorError, ConnectorSettingError, ConnectorSettings, HttpClient, Registry,
        connector::{Callback, Completion, Connected, Ended, FreshToken, Grant, Leg, ProxyAnswer, ProxyCall},
        http::Call,
    },
    sim::{
        gateway_settings,
        github::site::{Entry, GitHub},
        world::{Choice, Fault, FaultRule, Loss, Options, Simulator, Visit},
    },
};
use url::Url;

const GATEWAY: &str = "http://127.0.0.1:4110";
const REDIRECT: &str = "http://127.0.0.1:4110/connections/github/callback";
const MINT: &str = "POST /app/installations/*/access_tokens";
const EXCHANGE: &str = "POST /login/oauth/access_token";
const READ: &str = "GET /app/installations/*";
/// The pair of RFC 7636's appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

fn now() -> EpochMs {
    SystemClock.now()
}

fn secret(text: &str) -> Secret {
    Secret::new(text).expect("not empty")
}

fn settings() -> ConnectorSettings {
    let mut settings = ConnectorSettings::default();
    for (variable, value) in gateway_settings() {
        let Some(name) = variable.strip_prefix("SIGNALBOX_PROVIDERS__GITHUB__") else { continue };
        settings.secrets.insert(name.to_lowercase(), secret(&value));
        settings.texts.insert(name.to_lowercase(), value);
    }
    settings
}

fn connect(settings: &ConnectorSettings) -> Result<Arc<dyn Connector>, ConnectorSettingError> {
    let registered = Registry::built_in().iter().find(|registered| registered.spec.slug.as_str() == "github");
    (registered.expect("registered").connect)(settings, &HttpClient::new().expect("a client"))
}

/// A simulated GitHub and our half that asks it.
struct Stage {
    github: Simulator<GitHub>,
    connector: Arc<dyn Connector>,
}

impl Stage {
    async fn set() -> Self {
        let github = Simulator::<GitHub>::start(&Options::default()).await.expect("a port");
        github.gateway_is_at(GATEWAY);
        let mut settings = settings();
        settings.texts.insert("web_url".into(), github.web_url());
        settings.texts.insert("api_url".into(), github.api_url());
        let connector = connect(&settings).expect("everything is set");
        Self { github, connector }
    }

    /// With the App installed on account 1 by person 1, without a visit.
    async fn installed() -> (Self, Grant) {
        let stage = Self::set().await;
        let id = stage.github.with(|github| github.install(1, 1, now()));
        let grant = Grant {
            external_id: ExternalId::new(id.to_string()),
            alternate_external_id: None,
            account_login: None,
            metadata: serde_json::Map::new(),
            now: now(),
        };
        (stage, grant)
    }

    /// Sends a browser to a leg's page; where it is sent back to, as the callback's parameters.
    async fn visit(&self, context: Option<&Value>, visit: &Visit) -> BTreeMap<String, String> {
        let pkce_challenge = self.connector.uses_pkce(context).then_some(CHALLENGE);
        let leg = Leg { state: "the state", redirect_uri: REDIRECT, pkce_challenge, context };
        let page = self.connector.authorize_url(&leg).expect("a page");
        let call = Call::new("GET", page).header("x-sim-visit", &visit.to_header());
        let reply = HttpClient::new().expect("a client").send(call).await.expect("an answer");
        let landing = Url::parse(reply.header("location").expect("a way back")).expect("a URL");
        assert!(landing.as_str().starts_with(REDIRECT), "{landing}");
        landing.query_pairs().into_owned().collect()
    }

    async fn complete(
        &self,
        parameters: &BTreeMap<String, String>,
        context: Option<&Value>,
    ) -> Result<Completion, ConnectorError> {
        let verifier = secret(VERIFIER);
        let callback = Callback {
            parameters,
            redirect_uri: REDIRECT,
            pkce_verifier: self.connector.uses_pkce(context).then_some(&verifier),
            context,
            now: now(),
        };
        self.connector.complete(&callback).await
    }

    /// The whole way with two legs.
    async fn connect(&self, visit: &Visit) -> Result<Connected, ConnectorError> {
        let parameters = self.visit(None, visit).await;
        let Completion::Continue { context } = self.complete(&parameters, None).await? else {
            panic!("a callback without a code leads to the second leg");
        };
        let parameters = self.visit(Some(&context), visit).await;
        match self.complete(&parameters, Some(&context)).await? {
            Completion::Connected(connected) => Ok(*connected),
            other => panic!("{other:?}"),
        }
    }

    async fn token(&self, grant: &Grant) -> Result<FreshToken, ConnectorError> {
        self.connector.renew_token(grant, None).await
    }

    fn count(&self, pattern: &str) -> usize {
        self.github.calls(pattern).len()
    }

    /// The calls so far, without the pages people visit.
    fn calls(&self) -> Vec<String> {
        self.github
            .call_lines()
            .into_iter()
            .filter(|line| !line.starts_with("GET /apps") && !line.contains("authorize"))
            .collect()
    }
}

fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn json_member(name: &str, value: Value) -> serde_json::Map<String, Value> {
    [(name.to_owned(), value)].into_iter().collect()
}

fn refused(outcome: Result<Completion, ConnectorError>) -> &'static str {
    match outcome {
        Err(ConnectorError::Refused(code)) => code,
        other => panic!("{other:?}"),
    }
}

fn retry_after(error: Option<ConnectorError>) -> Option<Duration> {
    match error {
        Some(ConnectorError::Unavailable { retry_after, .. }) => retry_after,
        other => panic!("{other:?}"),
    }
}

fn is_unavailable<T>(outcome: &Result<T, ConnectorError>) -> bool {
    matches!(outcome, Err(ConnectorError::Unavailable { .. }))
}

// Settings.

#[test]
fn a_missing_or_unusable_setting_is_named() {
    for name in ["app_slug", "client_id", "client_secret", "private_key", "web_url", "api_url"] {
        let mut incomplete = settings();
        incomplete.texts.entry("web_url".into()).or_insert_with(|| "https://github.com".into());
        incomplete.texts.entry("api_url".into()).or_insert_with(|| "https://api.github.com".into());
        assert!(connect(&incomplete).is_ok());
        incomplete.texts.remove(name);
        incomplete.secrets.remove(name);
        let error = connect(&incomplete).err().expect("not without it");
        assert_eq!(error.to_string(), format!("providers.github.{name} is missing"));
    }
    let mut damaged = settings();
    damaged.texts.insert("web_url".into(), "https://github.com".into());
    damaged.texts.insert("api_url".into(), "https://api.github.com".into());
    damaged.secrets.insert("private_key".into(), secret("no key"));
    let error = connect(&damaged).err().expect("not with that");
    assert_eq!(error.setting, "private_key");
    assert!(error.to_string().contains("not PEM") && !error.to_string().contains("no key"), "{error}");
}

// Connecting.

#[tokio::test]
async fn an_installation_that_brings_a_code_is_proved_with_the_persons_own_token() {
    let stage = Stage::set().await;
    stage.github.tune(|knobs| knobs.code_with_install = true);
    let parameters = stage.visit(None, &Visit::of_account(3)).await;
    assert_eq!(parameters["state"], "the state");
    let Completion::Connected(connected) = stage.complete(&parameters, None).await.expect("proved") else {
        panic!("a proved installation is bound");
    };
    let id = stage.github.with(|github| github.installation_id(3)).expect("installed").to_string();
    assert_eq!(connected.external_id.as_str(), id);
    assert_eq!(connected.alternate_external_id, None);
    assert_eq!((connected.status, connected.setup_action), (InstallationStatus::Active, Some("install")));
    assert!(connected.token.is_none() && connected.follow.is_none());
    let account = &connected.account;
    assert_eq!((account.login.as_deref(), account.suspended), (Some("harborworks-3"), false));
    assert_eq!(account.metadata["accountId"], "99120389");
    assert_eq!(account.metadata["accountType"], "Organization");
    assert_eq!(account.metadata["repositorySelection"], "selected");
    assert_eq!(account.metadata["permissions"]["contents"], "read");
    assert!(account.metadata["events"].as_array().is_some_and(|events| events.contains(&json!("push"))));
    assert_eq!((&account.info["version"], &account.info["sourceType"]), (&json!(1), &json!("github")));
    assert_eq!(account.info["raw"]["account"]["login"], "harborworks-3");
    assert!(account.info["installedAt"].is_string() && account.info["lastValidatedAt"].is_string());
    let expected = [EXCHANGE.to_owned(), "GET /user/installations".to_owned(), format!("GET /app/installations/{id}")];
    assert_eq!(stage.calls(), expected, "these calls and no other");
    let as_whom: Vec<_> = stage.github.journal().iter().filter_map(|entry| entry.accepted_as).collect();
    assert_eq!(as_whom, ["client", "user", "app"]);
}

#[tokio::test]
async fn an_installation_without_a_code_leads_to_a_second_leg_with_pkce() {
    let stage = Stage::set().await;
    let parameters = stage.visit(None, &Visit::default()).await;
    let Completion::Continue { context } = stage.complete(&parameters, None).await.expect("goes on") else {
        panic!("there is no code yet");
    };
    assert!(!stage.connector.uses_pkce(None) && stage.connector.uses_pkce(Some(&context)));
    assert_eq!(stage.calls(), [""; 0], "nothing is asked on the word of a URL");
    let parameters = stage.visit(Some(&context), &Visit::default()).await;
    assert!(!parameters.contains_key("installation_id"));
    let Completion::Connected(connected) = stage.complete(&parameters, Some(&context)).await.expect("proved") else {
        panic!("a proved installation is bound");
    };
    let id = stage.github.with(|github| github.installation_id(1)).expect("installed").to_string();
    assert_eq!((connected.external_id.as_str(), connected.setup_action), (id.as_str(), Some("install")));
    // The code is spent.
    assert_eq!(refused(stage.complete(&parameters, Some(&context)).await), "invalid_code");
}

#[tokio::test]
async fn an_update_is_proved_like_an_installation() {
    let stage = Stage::set().await;
    let first = stage.connect(&Visit::default()).await.expect("connected");
    let again = stage.connect(&Visit::default()).await.expect("connected");
    assert_eq!((first.setup_action, again.setup_action), (Some("install"), Some("update")));
    assert_eq!(first.external_id, again.external_id);
    // A person whom GitHub does not show the installation cannot update it either.
    let id = first.external_id.as_str().to_owned();
    let spoof = Visit { report_id: Some(id), ..Visit::of_account(2).by_person(2) };
    assert_eq!(stage.connect(&spoof).await.err(), Some(ConnectorError::Refused("installation_not_verified")));
}

#[tokio::test]
async fn a_request_for_approval_binds_nothing_and_asks_nothing() {
    let stage = Stage::set().await;
    let parameters = stage.visit(None, &Visit::default().choosing(Choice::Request)).await;
    let completion = stage.complete(&parameters, None).await.expect("understood");
    assert!(matches!(completion, Completion::AwaitsApproval { setup_action: "request" }), "{completion:?}");
    // Even with an id and a code: whoever requests has not installed.
    let more = parameters
        .into_iter()
        .chain([("installation_id".to_owned(), "1".to_owned()), ("code".to_owned(), "c".to_owned())]);
    let completion = stage.complete(&more.collect(), None).await.expect("understood");
    assert!(matches!(completion, Completion::AwaitsApproval { .. }), "{completion:?}");
    assert_eq!(stage.calls(), [""; 0]);
}

#[tokio::test]
async fn a_person_who_declines_ends_the_flow() {
    let stage = Stage::set().await;
    let parameters = stage.visit(None, &Visit::default()).await;
    let Completion::Continue { context } = stage.complete(&parameters, None).await.expect("goes on") else {
        panic!("there is no code yet");
    };
    let parameters = stage.visit(Some(&context), &Visit::default().choosing(Choice::Deny)).await;
    assert_eq!(refused(stage.complete(&parameters, Some(&context)).await), "access_denied");
    assert_eq!(stage.calls(), [""; 0]);
}

#[tokio::test]
async fn an_incomplete_callback_is_refused_by_what_is_missing() {
    let stage = Stage::set().await;
    let outcome =
        |pairs, context| async move { refused(Stage::set().await.complete(&parameters(pairs), context).await) };
    assert_eq!(outcome(&[("state", "s")], None).await, "missing_installation_id");
    assert_eq!(outcome(&[("code", "c")], None).await, "missing_installation_id");
    assert_eq!(outcome(&[("installation_id", ""), ("code", "c")], None).await, "missing_installation_id");
    assert_eq!(outcome(&[("error", "server_error")], None).await, "provider_error");
    let context = json!({"installationId": "58214001"});
    assert_eq!(refused(stage.complete(&parameters(&[]), Some(&context)).await), "missing_code");
}

#[tokio::test]
async fn an_installation_id_is_never_believed_on_the_word_of_a_url() {
    let stage = Stage::set().await;
    let theirs = stage.github.with(|github| github.install(7, 7, now())).to_string();
    for claimed in [theirs.as_str(), "99999999", "58214001/../58214007", "-1", "058214007", "1e9", "<script>"] {
        let spoof = Visit { report_id: Some(claimed.to_owned()), ..Visit::of_account(1) };
        let outcome = stage.connect(&spoof).await;
        assert_eq!(outcome.err(), Some(ConnectorError::Refused("installation_not_verified")), "{claimed}");
    }
    assert_eq!(stage.count(READ), 0, "what is not proved is not even looked at");
    // The second page's own query cannot change what the first one claimed.
    let parameters = stage.visit(None, &Visit::of_account(1)).await;
    let Completion::Continue { context } = stage.complete(&parameters, None).await.expect("goes on") else {
        panic!("there is no code yet");
    };
    let mut parameters = stage.visit(Some(&context), &Visit::of_account(1)).await;
    parameters.insert("installation_id".into(), theirs.clone());
    let Completion::Connected(connected) = stage.complete(&parameters, Some(&context)).await.expect("proved") else {
        panic!("the true claim is proved");
    };
    assert_ne!(connected.external_id.as_str(), theirs);
}

#[tokio::test]
async fn an_installation_is_found_on_the_last_of_many_pages() {
    let stage = Stage::set().await;
    for account in 2..=250 {
        stage.github.with(|github| github.install(account, 1, now()));
    }
    let last = stage.connect(&Visit::of_account(251)).await.expect("connected");
    assert_eq!(last.account.login.as_deref(), Some("harborworks-251"));
    assert_eq!(stage.count("GET /user/installations"), 3);
    stage.github.with(|github| github.install(400, 9, now()));
    let theirs = stage.github.with(|github| github.installation_id(400)).map(|id| id.to_string());
    let spoof = Visit { report_id: theirs, ..Visit::of_account(2) };
    assert_eq!(stage.connect(&spoof).await.err(), Some(ConnectorError::Refused("installation_not_verified")));
}

#[tokio::test]
async fn a_failing_github_fails_a_flow_without_blaming_the_person() {
    let stage = Stage::set().await;
    let visit = Visit::default();
    stage.github.fail(FaultRule::once("GET /user/installations", Fault::status(502)));
    stage.github.fail(FaultRule::once(READ, Fault::Cut));
    assert!(stage.connect(&visit).await.is_ok(), "a read is repeated once");
    assert_eq!((stage.count("GET /user/installations"), stage.count(READ)), (2, 2));
    for (calls, fault) in [
        (EXCHANGE, Fault::status(503)),
        (EXCHANGE, Fault::too_many_requests(9)),
        (EXCHANGE, Fault::status(404)),
        ("GET /user/installations", Fault::status(500)),
        (READ, Fault::status(500)),
        (READ, Fault::status(401)),
    ] {
        stage.github.fail(FaultRule::always(calls, fault.clone()));
        let outcome = stage.connect(&visit).await;
        assert!(is_unavailable(&outcome), "{calls} {fault:?}: {outcome:?}");
        stage.github.heal();
    }
    stage.github.fail(FaultRule::once(EXCHANGE, Fault::LoseAnswer));
    assert_eq!(stage.connect(&visit).await.err(), Some(ConnectorError::AnswerLost));
    stage.github.fail(FaultRule::once(EXCHANGE, Fault::Malformed));
    assert!(matches!(stage.connect(&visit).await.err(), Some(ConnectorError::Malformed(_))));
    stage.github.fail(FaultRule::once("GET /user/installations", Fault::status(401)));
    assert_eq!(stage.connect(&visit).await.err(), Some(ConnectorError::Refused("installation_not_verified")));
    let odd = Fault::With { members: json_member("error", json!("incorrect_client_credentials")) };
    stage.github.fail(FaultRule::once(EXCHANGE, odd));
    assert_eq!(stage.connect(&visit).await.err(), Some(ConnectorError::Refused("provider_error")));
}

#[tokio::test]
async fn an_installation_that_is_paused_already_is_bound_as_paused() {
    let stage = Stage::set().await;
    stage.github.with(|github| github.install(1, 1, now()));
    stage.github.act("suspend", 1, &json!({})).await.expect("suspended");
    let connected = stage.connect(&Visit::default()).await.expect("connected");
    assert_eq!((connected.status, connected.account.suspended), (InstallationStatus::Suspended, true));
}

// Tokens.

#[tokio::test]
async fn tokens_are_minted_for_an_hour_and_kept_nowhere() {
    let (stage, grant) = Stage::installed().await;
    assert!(!stage.connector.keeps_tokens());
    let first = stage.token(&grant).await.expect("minted");
    let second = stage.token(&grant).await.expect("minted");
    assert_ne!(first.access, second.access);
    assert!(first.access.expose().starts_with(b"ghs_") && first.refresh.is_none());
    let lifetime = first.expires_at.expect("it expires").since(grant.now);
    assert!(lifetime.abs_diff(Duration::from_hours(1)) < Duration::from_secs(30), "{lifetime:?}");
    assert!(first.scope.is_some_and(|scope| scope.contains("contents:read")));
    assert_eq!(stage.count(MINT), 2);
    assert_eq!(stage.calls().len(), 2, "minting is one call");
    stage.github.tune(|knobs| knobs.stateless_tokens = true);
    assert!(stage.token(&grant).await.expect("minted").access.expose().len() > 400);
    stage
        .github
        .fail(FaultRule::once(MINT, Fault::Without { members: vec!["expires_at".into(), "permissions".into()] }));
    assert_eq!(stage.token(&grant).await.expect("minted").expires_at, Some(grant.now.plus(Duration::from_hours(1))));
}

#[tokio::test]
async fn a_clock_that_differs_a_little_does_not_matter() {
    let (stage, grant) = Stage::installed().await;
    for skew_ms in [-50_000, 50_000] {
        stage.github.set(|ambient| ambient.skew_ms = skew_ms);
        assert!(stage.token(&grant).await.is_ok(), "{skew_ms}");
    }
    stage.github.set(|ambient| ambient.skew_ms = -120_000);
    let outcome = stage.token(&grant).await;
    assert!(outcome.as_ref().is_err_and(|error| error.to_string().contains("JWT was not accepted")), "{outcome:?}");
}

#[tokio::test]
async fn only_githubs_explicit_word_ends_or_pauses_an_installation() {
    let (stage, grant) = Stage::installed().await;
    for fault in [Fault::status(404), Fault::status(403), Fault::status(422), Fault::status(401), Fault::status(500)] {
        stage.github.fail(FaultRule::always(MINT, fault.clone()));
        let outcome = stage.token(&grant).await;
        assert!(is_unavailable(&outcome), "{fault:?}: {outcome:?}");
        stage.github.heal();
    }
    stage.github.act("suspend", 1, &json!({})).await.expect("suspended");
    assert_eq!(stage.token(&grant).await.err(), Some(ConnectorError::Suspended));
    stage.github.act("unsuspend", 1, &json!({})).await.expect("resumed");
    assert!(stage.token(&grant).await.is_ok());
    stage.github.act("uninstall", 1, &json!({})).await.expect("uninstalled");
    assert_eq!(stage.token(&grant).await.err(), Some(ConnectorError::Gone));
    // A 404 that cannot be confirmed is no verdict.
    stage.github.fail(FaultRule::always(READ, Fault::status(503)));
    assert!(is_unavailable(&stage.token(&grant).await));
}

#[tokio::test]
async fn a_mint_is_never_repeated_by_itself_and_says_when_to_come_back() {
    let (stage, grant) = Stage::installed().await;
    for fault in [Fault::LoseAnswer, Fault::Cut, Fault::status(503)] {
        let before = stage.count(MINT);
        stage.github.fail(FaultRule::always(MINT, fault.clone()));
        let outcome = stage.token(&grant).await;
        assert!(is_unavailable(&outcome), "{fault:?}: {outcome:?}");
        assert_eq!(stage.count(MINT), before + 1, "{fault:?}");
        stage.github.heal();
    }
    stage.github.fail(FaultRule::once(MINT, Fault::too_many_requests(17)));
    assert_eq!(retry_after(stage.token(&grant).await.err()), Some(Duration::from_secs(17)));
    let secondary = Fault::Status {
        status: 403,
        headers: vec![("retry-after".into(), "60".into())],
        body: json!({"message": "slow"}),
    };
    stage.github.fail(FaultRule::once(MINT, secondary));
    assert_eq!(retry_after(stage.token(&grant).await.err()), Some(Duration::from_mins(1)));
    stage.github.tune(|knobs| (knobs.rate_remaining, knobs.rate_reset_s) = (Some(0), 300));
    let wait = retry_after(stage.token(&grant).await.err()).expect("a time");
    assert!(wait > Duration::from_secs(200) && wait <= Duration::from_mins(5), "{wait:?}");
    stage.github.tune(|knobs| knobs.rate_remaining = None);
    stage.github.fail(FaultRule::once(MINT, Fault::Malformed));
    assert!(matches!(stage.token(&grant).await.err(), Some(ConnectorError::Malformed(_))));
    assert!(stage.token(&grant).await.is_ok());
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let (stage, grant) = Stage::installed().await;
    let Stage { github, connector } = stage;
    drop(github);
    let outcome = connector.renew_token(&grant, None).await;
    assert!(is_unavailable(&outcome), "{outcome:?}");
}

// The account, and its end.

#[tokio::test]
async fn the_account_is_read_as_it_is_now() {
    let (stage, grant) = Stage::installed().await;
    let token = secret("unused");
    assert_eq!(
        stage.connector.read_account(&grant, &token).await.expect("read").login.as_deref(),
        Some("harborworks-1")
    );
    stage.github.act("rename_account", 1, &json!({"login": "tidewrights"})).await.expect("renamed");
    stage.github.act("suspend", 1, &json!({})).await.expect("suspended");
    let account = stage.connector.read_account(&grant, &token).await.expect("read");
    assert_eq!((account.login.as_deref(), account.suspended), (Some("tidewrights"), true));
    assert!(stage.github.calls(READ).iter().all(|entry| entry.accepted_as == Some("app")));
    stage.github.act("uninstall", 1, &json!({})).await.expect("uninstalled");
    assert_eq!(stage.connector.read_account(&grant, &token).await.err(), Some(ConnectorError::Gone));
}

#[tokio::test]
async fn ending_a_grant_uninstalls_the_app_once() {
    let (stage, grant) = Stage::installed().await;
    let delete = "DELETE /app/installations/*";
    stage.github.fail(FaultRule::once(delete, Fault::status(500)));
    assert!(is_unavailable(&stage.connector.end_grant(&grant, None).await));
    assert_eq!(stage.count(delete), 1, "it is for teardown to repeat it");
    stage.github.fail(FaultRule::once(delete, Fault::status(401)));
    assert!(is_unavailable(&stage.connector.end_grant(&grant, None).await));
    assert_eq!(stage.connector.end_grant(&grant, None).await, Ok(Ended::Revoked));
    assert_eq!(stage.github.with(|github| github.installation_id(1)), None);
    assert_eq!(stage.connector.end_grant(&grant, None).await, Ok(Ended::AlreadyGone));
    assert_eq!(stage.token(&grant).await.err(), Some(ConnectorError::Gone));
}

#[tokio::test]
async fn an_end_whose_answer_is_lost_has_happened() {
    let (stage, grant) = Stage::installed().await;
    stage.github.fail(FaultRule::once("DELETE /app/installations/*", Fault::LoseAnswer));
    assert_eq!(stage.connector.end_grant(&grant, None).await, Err(ConnectorError::AnswerLost));
    assert_eq!(stage.connector.end_grant(&grant, None).await, Ok(Ended::AlreadyGone));
}

// Repositories and files.

#[tokio::test]
async fn every_repository_is_listed_over_all_pages() {
    let stage = Stage::set().await;
    stage.github.tune(|knobs| knobs.repositories = 250);
    let id = stage.github.with(|github| github.install(1, 1, now()));
    let (_, grant) = Stage::installed().await;
    let grant = Grant { external_id: ExternalId::new(id.to_string()), ..grant };
    let token = stage.token(&grant).await.expect("minted").access;
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = stage.connector.list_resources(&grant, &token, cursor.as_deref()).await.expect("a page");
        seen.extend(page.items);
        pages += 1;
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((seen.len(), pages), (250, 3));
    let second = seen.iter().find(|resource| resource.name == "harbor-001").expect("listed");
    assert_eq!(second.full_name.as_deref(), Some("harborworks-1/harbor-001"));
    assert_eq!(
        (second.private, second.archived, second.default_branch.as_deref()),
        (Some(true), Some(false), Some("main"))
    );
    assert_eq!(second.attrs["repoFullName"], "harborworks-1/harbor-001");
    assert_eq!(second.attrs["isPrivate"], true);
    for nonsense in ["0", "-1", "x", "1&page=2"] {
        let outcome = stage.connector.list_resources(&grant, &token, Some(nonsense)).await;
        assert_eq!(outcome.err(), Some(ConnectorError::Refused("invalid_parameter")), "{nonsense}");
    }
}

#[tokio::test]
async fn a_list_that_is_refused_says_why() {
    let (stage, grant) = Stage::installed().await;
    let token = stage.token(&grant).await.expect("minted").access;
    let list = |token: Secret| {
        let (connector, grant) = (Arc::clone(&stage.connector), grant.clone());
        async move { connector.list_resources(&grant, &token, None).await.map(|page| page.items.len()) }
    };
    assert_eq!(list(token.clone()).await, Ok(3));
    assert_eq!(list(secret("ghs_of_somebody_else")).await, Err(ConnectorError::Unauthorized));
    stage.github.fail(FaultRule::once("GET /installation/repositories", Fault::status(403)));
    assert_eq!(list(token.clone()).await, Err(ConnectorError::NotAccessible));
    stage.github.fail(FaultRule::once("GET /installation/repositories", Fault::LoseAnswer));
    assert_eq!(list(token.clone()).await, Ok(3), "a read is repeated once");
    stage.github.fail(FaultRule::times("GET /installation/repositories", 2, Fault::Cut));
    assert!(is_unavailable(&list(token.clone()).await));
    stage.github.act("suspend", 1, &json!({})).await.expect("suspended");
    assert_eq!(list(token).await, Err(ConnectorError::Suspended));
}

#[tokio::test]
async fn a_file_is_found_by_its_repositorys_id_and_nothing_but_a_file() {
    let (stage, grant) = Stage::installed().await;
    let content = "services:\n  - tide-clock\n".repeat(40);
    let large = "x".repeat(60_000);
    let id = stage.github.with(|github| {
        github.write_file(1, 0, "lightfast.yml", content.clone());
        github.write_file(1, 0, "deploy/prod env/100%.yml", "a: 1");
        github.write_file(1, 0, "empty.yml", "");
        github.write_file(1, 0, "large.yml", large.clone());
        let entries = &mut github.repositories(1)[0].entries;
        entries.insert("link.yml".into(), Entry::Symlink("../elsewhere.yml".into()));
        entries.insert("vendor".into(), Entry::Submodule("https://github.com/x/y".into()));
        github.repositories(1)[0].id.to_string()
    });
    let token = stage.token(&grant).await.expect("minted").access;
    let repository = ProviderResourceId::new(id);
    let find = |path: &'static str, git_ref: Option<&'static str>, max_bytes: u64| {
        let (connector, grant, token, repository) =
            (Arc::clone(&stage.connector), grant.clone(), token.clone(), repository.clone());
        async move { connector.find_file(&grant, &token, &repository, path, git_ref, max_bytes).await }
    };
    let found = find("lightfast.yml", None, 51_200).await.expect("asked").expect("there");
    assert_eq!(found.content.as_deref(), Some(content.as_bytes()));
    assert_eq!((found.path.as_str(), found.size), ("lightfast.yml", content.len() as u64));
    assert_eq!(found.sha.len(), 40);
    let odd = find("deploy/prod env/100%.yml", Some("main"), 51_200).await.expect("asked").expect("there");
    assert_eq!(odd.content.as_deref(), Some(b"a: 1".as_slice()));
    let empty = find("empty.yml", None, 51_200).await.expect("asked").expect("there");
    assert_eq!(empty.content.as_deref(), Some(b"".as_slice()));
    let too_large = find("large.yml", None, 51_200).await.expect("asked").expect("there");
    assert_eq!((too_large.size, too_large.content), (60_000, None));
    for path in ["nothing.yml", "deploy", "", "link.yml", "vendor", "../lightfast.yml", "./lightfast.yml"] {
        assert_eq!(find(path, None, 51_200).await, Ok(None), "{path:?}");
    }
    assert_eq!(find("lightfast.yml", Some("no-such-branch"), 51_200).await, Ok(None));
    stage.github.fail(FaultRule::once("GET /repos/*/*/contents/**", Fault::status(403)));
    assert_eq!(find("lightfast.yml", None, 51_200).await, Err(ConnectorError::NotAccessible));
    let foreign = ProviderResourceId::new("1".to_owned());
    let outcome = stage.connector.find_file(&grant, &token, &foreign, "lightfast.yml", None, 51_200).await;
    assert_eq!(outcome, Err(ConnectorError::NotAccessible));
}

#[tokio::test]
async fn a_large_file_is_read_raw_and_a_huge_one_not_at_all() {
    let (stage, grant) = Stage::installed().await;
    let content = "0123456789abcdef".repeat(100_000);
    let id = stage.github.with(|github| {
        github.write_file(1, 0, "large.bin", content.clone());
        github.repositories(1)[0].id.to_string()
    });
    let token = stage.token(&grant).await.expect("minted").access;
    let repository = ProviderResourceId::new(id);
    let find = |max_bytes| stage.connector.find_file(&grant, &token, &repository, "large.bin", None, max_bytes);
    let read = find(2 << 20).await.expect("asked").expect("there");
    assert_eq!(read.content.as_deref(), Some(content.as_bytes()));
    assert_eq!(find(1 << 20).await.expect("asked").expect("there").content, None);
    let body = json!({"message": "too large", "errors": [{"resource": "Blob", "field": "data", "code": "too_large"}]});
    stage
        .github
        .fail(FaultRule::once("GET /repos/*/*/contents/**", Fault::Status { status: 403, headers: Vec::new(), body }));
    let huge = find(2 << 20).await.expect("asked").expect("there");
    assert_eq!((huge.size >= 100 << 20, huge.content), (true, None));
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_host_only() {
    let (stage, grant) = Stage::installed().await;
    let id = stage.github.with(|github| {
        github.write_file(1, 0, "lightfast.yml", "a: 1");
        github.repositories(1)[0].id.to_string()
    });
    let token = stage.token(&grant).await.expect("minted").access;
    let repository = ProviderResourceId::new(id);
    let find = || stage.connector.find_file(&grant, &token, &repository, "lightfast.yml", None, 1000);
    // It was renamed between our two questions: the second one is answered with a redirect to its id.
    let former = stage.github.with(|github| github.repositories(1)[0].full_name());
    stage.github.act("rename_repository", 1, &json!({"index": 0, "name": "tidepool"})).await.expect("renamed");
    let members = json_member("full_name", json!(former));
    stage.github.fail(FaultRule::once("GET /repositories/*", Fault::With { members }));
    assert!(find().await.expect("asked").is_some());
    let redirects = stage.github.journal().into_iter().filter(|entry| entry.answered == Some(301)).count();
    assert_eq!(redirects, 1);
    let other = Simulator::<GitHub>::start(&Options::default()).await.expect("a port");
    for target in [format!("{}/repositories/1", other.api_url()), "//elsewhere.invalid/".to_owned()] {
        let headers = vec![("location".to_owned(), target)];
        stage.github.fail(FaultRule::once(
            "GET /repos/*/*/contents/**",
            Fault::Status { status: 301, headers, body: Value::Null },
        ));
        assert!(matches!(find().await, Err(ConnectorError::Malformed(_))));
    }
    assert!(other.journal().is_empty(), "the token stays with its host");
    let headers = vec![("location".to_owned(), format!("{}/repositories/1", stage.github.api_url()))];
    stage
        .github
        .fail(FaultRule::always("GET /repositories/*", Fault::Status { status: 301, headers, body: Value::Null }));
    assert!(matches!(find().await, Err(ConnectorError::Malformed(_))), "a circle ends");
}

// The proxy.

fn proxy_call(connector: &dyn Connector, id: &str, path: &[(&str, &str)]) -> ProxyCall {
    let endpoint = connector.proxy_endpoints().iter().find(|endpoint| endpoint.id == id).expect("allowed");
    ProxyCall { endpoint, path_parameters: parameters(path), query: Vec::new(), body: None }
}

#[tokio::test]
async fn the_proxy_calls_what_is_allowed_and_shows_every_answer_but_a_dead_token() {
    let (stage, grant) = Stage::installed().await;
    let name = stage.github.with(|github| {
        github.write_file(1, 0, "src/main.rs", "fn main() {}");
        github.repositories(1)[0].name.clone()
    });
    let token = stage.token(&grant).await.expect("minted").access;
    let call = |id, path: &[(&str, &str)]| {
        let call = proxy_call(&*stage.connector, id, path);
        let (connector, grant, token) = (Arc::clone(&stage.connector), grant.clone(), token.clone());
        async move { connector.call(&grant, &token, &call).await }
    };
    let repository = [("owner", "harborworks-1"), ("repo", name.as_str())];
    let answer: ProxyAnswer = call("repos.get", &repository).await.expect("answered");
    assert_eq!((answer.status, &answer.data["name"]), (200, &json!(name)));
    assert!(answer.headers.contains_key("x-ratelimit-remaining") && !answer.headers.contains_key("content-length"));
    let file = [&repository[..], &[("path", "src/main.rs")]].concat();
    assert_eq!(call("contents.get", &file).await.expect("answered").data["path"], "src/main.rs");
    let missing = call("repos.get", &[("owner", "harborworks-1"), ("repo", "../../app")]).await.expect("answered");
    assert_eq!((missing.status, &missing.data["message"]), (404, &json!("Not Found")));
    let outcome = call("repos.get", &[("owner", ".."), ("repo", "x")]).await;
    assert_eq!(outcome, Err(ConnectorError::Refused("invalid_path_parameter")));
    stage.github.fail(FaultRule::once("GET /repos/**", Fault::status(503)));
    assert_eq!(call("repos.get", &repository).await.expect("answered").status, 503);
    let cookies = vec![("set-cookie".to_owned(), "a=b".to_owned())];
    stage
        .github
        .fail(FaultRule::once("GET /repos/**", Fault::Status { status: 418, headers: cookies, body: json!({}) }));
    let teapot = call("repos.get", &repository).await.expect("answered");
    assert!(teapot.status == 418 && !teapot.headers.contains_key("set-cookie"));
    stage.github.fail(FaultRule::once("GET /repos/**", Fault::status(401)));
    assert_eq!(call("repos.get", &repository).await, Err(ConnectorError::Unauthorized));
}

#[tokio::test]
async fn the_allow_list_is_consistent() {
    let stage = Stage::set().await;
    let endpoints = stage.connector.proxy_endpoints();
    let ids: std::collections::BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.id).collect();
    assert_eq!(ids.len(), endpoints.len(), "an id is listed twice");
    for endpoint in endpoints {
        assert!(endpoint.path.starts_with('/') && endpoint.description.ends_with('.'), "{}", endpoint.id);
        assert!(["GET", "POST"].contains(&endpoint.method), "{}", endpoint.id);
        assert!(!endpoint.path.contains("/app"), "{} is the App's own", endpoint.id);
    }
}

// The delivery log.

#[tokio::test]
async fn the_delivery_log_is_walked_from_the_newest_over_all_pages() {
    let (stage, grant) = Stage::installed().await;
    stage.github.set(|ambient| ambient.loss = Loss::Known);
    for seed in 0..205 {
        stage.github.send("github:push", &stage.github.facts(1, seed)).await;
    }
    let log = stage.connector.delivery_log().expect("GitHub keeps one");
    assert_eq!(log.reach(), Duration::from_hours(72));
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = log.list(grant.now, cursor.as_deref()).await.expect("a page");
        assert_eq!(page.wait, None);
        seen.extend(page.items);
        pages += 1;
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((seen.len(), pages), (205, 3));
    let mut story = stage.github.with(|github| github.log());
    story.reverse();
    let expected: Vec<_> = story.iter().map(|entry| (entry.id.to_string(), entry.guid.clone())).collect();
    let listed: Vec<_> =
        seen.iter().map(|entry| (entry.log_id.clone(), entry.delivery_id.as_str().to_owned())).collect();
    assert_eq!(listed, expected);
    assert!(seen.iter().all(|entry| !entry.succeeded));
    assert!(seen.is_sorted_by(|newer, older| newer.at >= older.at));
}

#[tokio::test]
async fn a_redelivery_is_asked_for_once_and_a_refusal_is_told_from_an_outage() {
    let (stage, grant) = Stage::installed().await;
    stage.github.set(|ambient| ambient.loss = Loss::Known);
    stage.github.send("github:push", &stage.github.facts(1, 1)).await;
    let log = stage.connector.delivery_log().expect("GitHub keeps one");
    let lost = log.list(grant.now, None).await.expect("a page").items.remove(0);
    assert_eq!(log.redeliver(grant.now, &lost.log_id).await, Ok(true));
    let attempts = "POST /app/hook/deliveries/*/attempts";
    assert_eq!(stage.count(attempts), 1);
    assert_eq!(log.redeliver(grant.now, "12345").await, Ok(false));
    stage.github.tune(|knobs| knobs.refuse_redelivery = true);
    assert_eq!(log.redeliver(grant.now, &lost.log_id).await, Ok(false));
    let before = stage.count(attempts);
    stage.github.fail(FaultRule::once(attempts, Fault::status(503)));
    assert!(is_unavailable(&log.redeliver(grant.now, &lost.log_id).await));
    assert_eq!(stage.count(attempts), before + 1, "never by itself twice");
}

#[tokio::test]
async fn a_used_up_rate_limit_is_told_before_it_refuses() {
    let (stage, grant) = Stage::installed().await;
    stage.github.tune(|knobs| (knobs.rate_remaining, knobs.rate_reset_s) = (Some(2), 90));
    let log = stage.connector.delivery_log().expect("GitHub keeps one");
    assert_eq!(log.list(grant.now, None).await.expect("a page").wait, None);
    let wait = log.list(grant.now, None).await.expect("a page").wait.expect("the limit is used up");
    assert!(wait > Duration::from_mins(1) && wait <= Duration::from_secs(90), "{wait:?}");
    assert!(retry_after(log.list(grant.now, None).await.err()).is_some_and(|wait| wait > Duration::from_mins(1)));
    assert_eq!(stage.count("GET /app/hook/deliveries"), 3, "a refusal with a time is not repeated");
}
