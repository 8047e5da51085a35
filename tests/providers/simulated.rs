//! The asking halves of Vercel, Linear and Sentry against their simulators: both are written from the providers'
//! documentation, neither from the other. What a well-behaved provider never answers is in `*_connector.rs`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use signalbox::{
    model::{
        clock::{Clock, SystemClock},
        installation::InstallationStatus,
    },
    providers::{
        Connector, ConnectorError, ConnectorSettings, HttpClient,
        connector::{Callback, Completion, Connected, Ended, FreshToken, Grant, HeldToken, Leg},
        http::Call,
    },
    sim::{
        gateway_settings,
        linear::site::Linear,
        sentry::site::Sentry,
        vercel::site::Vercel,
        world::{Choice, Fault, FaultRule, Options, Simulator, Visit, site::Site},
    },
};
use url::Url;

use crate::scripted::{VERIFIER, secret, text, try_connector};

const GATEWAY: &str = "http://127.0.0.1:4110";
/// The challenge of the verifier, from RFC 7636's appendix B.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A simulated provider and our half that asks it.
struct Stage<S: Site> {
    provider: Simulator<S>,
    connector: Arc<dyn Connector>,
    redirect_uri: String,
}

/// A grant and its token.
struct Granted {
    grant: Grant,
    held: HeldToken,
    connected: Connected,
}

impl<S: Site> Stage<S> {
    async fn set() -> Self {
        let provider = Simulator::<S>::start(&Options::default()).await.expect("a port");
        provider.gateway_is_at(GATEWAY);
        let slug = S::PROVIDER.slug;
        let prefix = format!("SIGNALBOX_PROVIDERS__{}__", slug.to_uppercase());
        let mut settings = ConnectorSettings::default();
        for (variable, value) in gateway_settings() {
            let Some(name) = variable.strip_prefix(&prefix) else { continue };
            settings.secrets.insert(name.to_lowercase(), secret(&value));
            settings.texts.insert(name.to_lowercase(), value);
        }
        settings.texts.insert("web_url".into(), provider.web_url());
        settings.texts.insert("api_url".into(), provider.api_url());
        let connector = try_connector(slug, &settings).expect("everything is set");
        Self { provider, connector, redirect_uri: format!("{GATEWAY}/connections/{slug}/callback") }
    }

    /// Sends a browser to the provider's page; where it is sent back to, as the callback's parameters.
    async fn visit(&self, visit: &Visit) -> BTreeMap<String, String> {
        let pkce_challenge = self.connector.uses_pkce(None).then_some(CHALLENGE);
        let leg = Leg { state: "the state", redirect_uri: &self.redirect_uri, pkce_challenge, context: None };
        let page = self.connector.authorize_url(&leg).expect("a page");
        let call = Call::new("GET", page).header("x-sim-visit", &visit.to_header());
        let reply = HttpClient::new().expect("a client").send(call).await.expect("an answer");
        let landing = Url::parse(reply.header("location").expect("a way back")).expect("a URL");
        assert!(landing.as_str().starts_with(&self.redirect_uri), "{landing}");
        landing.query_pairs().into_owned().collect()
    }

    async fn complete_at(
        &self,
        parameters: &BTreeMap<String, String>,
        redirect_uri: &str,
    ) -> Result<Connected, ConnectorError> {
        let verifier = secret(VERIFIER);
        let callback = Callback {
            parameters,
            redirect_uri,
            pkce_verifier: self.connector.uses_pkce(None).then_some(&verifier),
            context: None,
            now: SystemClock.now(),
        };
        match self.connector.complete(&callback).await? {
            Completion::Connected(connected) => Ok(*connected),
            other => panic!("{other:?}"),
        }
    }

    async fn connect(&self, visit: &Visit) -> Result<Connected, ConnectorError> {
        self.complete_at(&self.visit(visit).await, &self.redirect_uri).await
    }

    async fn granted() -> (Self, Granted) {
        let stage = Self::set().await;
        let granted = Granted::of(stage.connect(&Visit::default()).await.expect("connected"));
        (stage, granted)
    }

    async fn renew(&self, granted: &Granted) -> Result<FreshToken, ConnectorError> {
        self.connector.renew_token(&granted.grant, Some(&granted.held)).await
    }

    /// Every resource, over all pages.
    async fn list(&self, granted: &Granted) -> Vec<String> {
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.connector.list_resources(&granted.grant, &granted.held.access, cursor.as_deref()).await;
            let page = page.expect("a page");
            ids.extend(page.items.into_iter().map(|item| item.id.as_str().to_owned()));
            cursor = page.next_cursor;
            if cursor.is_none() {
                return ids;
            }
        }
    }

    /// Nothing is listed now, because of a limit that is lifted so many seconds after its first call.
    async fn is_limited_for_about(&self, granted: &Granted, seconds: u64) {
        let limited = self.connector.list_resources(&granted.grant, &granted.held.access, None).await;
        let Err(ConnectorError::Unavailable { retry_after: Some(wait), .. }) = limited else { panic!("{limited:?}") };
        assert!((seconds / 2..=seconds + 1).contains(&wait.as_secs()), "{wait:?}");
    }

    /// What holds for each of them: a code works once, at its own callback; a token lives until its grant ends.
    async fn hold_to_the_common_rules(exchange: &str, list: &str) {
        let stage = Self::set().await;
        let parameters = stage.visit(&Visit::default()).await;
        assert_eq!(parameters["state"], "the state");
        let connected = stage.complete_at(&parameters, &stage.redirect_uri).await.expect("connected");
        assert_eq!(connected.status, InstallationStatus::Active);
        assert!(connected.account.login.is_some() && connected.account.info["version"] == 1);
        let again = stage.complete_at(&parameters, &stage.redirect_uri).await;
        assert_eq!(again.expect_err("a code works once"), ConnectorError::Refused("invalid_code"));

        let wait = Some(Duration::from_secs(3));
        // Each an account of its own: one that is installed is not installed again.
        for (account, (fault, expected)) in (2..).zip([
            (Fault::status(503), ConnectorError::unavailable("answered 503")),
            (
                Fault::too_many_requests(3),
                ConnectorError::Unavailable { why: "rate limited".into(), retry_after: wait },
            ),
            (Fault::LoseAnswer, ConnectorError::AnswerLost),
            (Fault::Cut, ConnectorError::AnswerLost),
            (Fault::Malformed, ConnectorError::Malformed("the answer to a code")),
        ]) {
            let parameters = stage.visit(&Visit::of_account(account)).await;
            stage.provider.fail(FaultRule::once(exchange, fault));
            let failed = stage.complete_at(&parameters, &stage.redirect_uri).await;
            assert_eq!(failed.expect_err("no answer, no grant"), expected);
        }
        let more = json!({"unheard_of": {"deep": [1]}}).as_object().cloned().expect("an object");
        stage.provider.fail(FaultRule::once(exchange, Fault::With { members: more }));
        let granted =
            Granted::of(stage.connect(&Visit::of_account(9)).await.expect("members that nobody knows are fine"));

        let account = stage.connector.read_account(&granted.grant, &granted.held.access).await.expect("read");
        assert_eq!(account.login, granted.connected.account.login);
        stage.provider.fail(FaultRule::once(list, Fault::status(401)));
        let page = stage.connector.list_resources(&granted.grant, &granted.held.access, None).await;
        assert_eq!(page.expect_err("401"), ConnectorError::Unauthorized);
        assert!(!stage.list(&granted).await.is_empty(), "401 once, then fine");
        let held = Some(&granted.held);
        assert_eq!(stage.connector.end_grant(&granted.grant, held).await, Ok(Ended::Revoked));
    }
}

impl Granted {
    fn of(connected: Connected) -> Self {
        let token = connected.token.clone().expect("a token");
        Self {
            grant: Grant {
                external_id: connected.external_id.clone(),
                alternate_external_id: connected.alternate_external_id.clone(),
                account_login: connected.account.login.clone(),
                metadata: connected.account.metadata.clone(),
                now: SystemClock.now(),
            },
            held: HeldToken { access: token.access, refresh: token.refresh },
            connected,
        }
    }

    /// With the pair of a renewal.
    fn renewed(mut self, fresh: FreshToken) -> Self {
        self.held = HeldToken { access: fresh.access, refresh: fresh.refresh.or(self.held.refresh) };
        self
    }
}

// Vercel.

#[tokio::test]
async fn vercel_keeps_the_common_rules() {
    Stage::<Vercel>::hold_to_the_common_rules("POST /v2/oauth/access_token", "GET /v10/projects").await;
}

#[tokio::test]
async fn vercel_binds_teams_and_persons_and_refuses_a_spoofed_configuration() {
    let (stage, team) = Stage::<Vercel>::granted().await;
    assert!(team.grant.external_id.as_str().starts_with("team_"));
    let configuration = stage.provider.with(|vercel| vercel.configuration_id(1)).expect("connected");
    assert_eq!(team.grant.alternate_external_id.as_ref().expect("kept").as_str(), configuration);
    assert!(team.connected.follow.is_some(), "the simulator's own page is followed");
    let person = stage.connect(&Visit { personal: true, ..Visit::default() }).await.expect("connected");
    assert!(!person.external_id.as_str().starts_with("team_"));
    let person = Granted::of(person);
    assert!(!stage.list(&person).await.is_empty());
    let spoof = Visit { report_id: Some("icfg_other".into()), ..Visit::default() };
    let refused = stage.connect(&spoof).await;
    assert_eq!(refused.expect_err("a spoof"), ConnectorError::Refused("installation_not_verified"));
    let parameters = stage.visit(&Visit::default()).await;
    let wrong = stage.complete_at(&parameters, "http://127.0.0.1:4110/elsewhere").await;
    assert_eq!(wrong.expect_err("another callback"), ConnectorError::Refused("invalid_code"));
    stage.provider.tune(|knobs| knobs.next = Some("https://example.com/".into()));
    assert_eq!(stage.connect(&Visit::default()).await.expect("connected").follow, None);
}

#[tokio::test]
async fn vercel_lists_all_projects_with_either_kind_of_page_token() {
    for text_cursors in [false, true] {
        let stage = Stage::<Vercel>::set().await;
        stage.provider.tune(|knobs| {
            knobs.projects = 230;
            knobs.text_cursors = text_cursors;
        });
        let granted = Granted::of(stage.connect(&Visit::default()).await.expect("connected"));
        assert_eq!(stage.list(&granted).await.len(), 230);
        assert_eq!(stage.provider.calls("GET /v10/projects").len(), 3);
    }
}

#[tokio::test]
async fn vercel_says_when_its_limit_is_lifted_and_lifts_it_then() {
    let (stage, granted) = Stage::<Vercel>::granted().await;
    stage.provider.tune(|knobs| (knobs.rate_remaining, knobs.rate_reset_s) = (Some(1), 90));
    assert_eq!(stage.list(&granted).await.len(), 3, "the last call that is left");
    stage.is_limited_for_about(&granted, 90).await;
    stage.provider.set(|ambient| ambient.skew_ms = 90_000);
    assert_eq!(stage.list(&granted).await.len(), 3);
}

#[tokio::test]
async fn vercel_confirms_a_token_until_its_configuration_is_disabled_or_removed() {
    let (stage, granted) = Stage::<Vercel>::granted().await;
    let same = stage.renew(&granted).await.expect("confirmed");
    assert_eq!((text(&same.access), same.expires_at), (text(&granted.held.access), None));
    stage.provider.act("disable", 1, &json!({})).await.expect("disabled");
    assert_eq!(stage.renew(&granted).await.expect_err("paused"), ConnectorError::Suspended);
    let listed = stage.connector.list_resources(&granted.grant, &granted.held.access, None).await;
    assert_eq!(listed.expect_err("paused"), ConnectorError::Suspended);
    stage.provider.act("enable", 1, &json!({})).await.expect("enabled");
    assert!(stage.renew(&granted).await.is_ok());
    stage.provider.act("uninstall", 1, &json!({})).await.expect("removed");
    assert_eq!(stage.renew(&granted).await.expect_err("removed"), ConnectorError::Gone);
    let ended = stage.connector.end_grant(&granted.grant, Some(&granted.held)).await;
    assert_eq!(ended, Ok(Ended::AlreadyGone));
}

// Linear.

#[tokio::test]
async fn linear_keeps_the_common_rules() {
    Stage::<Linear>::hold_to_the_common_rules("POST /oauth/token", "POST /graphql").await;
}

#[tokio::test]
async fn linear_refuses_a_denial_and_another_callback() {
    let stage = Stage::<Linear>::set().await;
    let denied = stage.connect(&Visit::default().choosing(Choice::Deny)).await;
    assert_eq!(denied.expect_err("denied"), ConnectorError::Refused("access_denied"));
    let parameters = stage.visit(&Visit::default()).await;
    let wrong = stage.complete_at(&parameters, "http://127.0.0.1:4110/elsewhere").await;
    assert_eq!(wrong.expect_err("another callback"), ConnectorError::Refused("invalid_code"));
}

#[tokio::test]
async fn linear_rotates_and_a_dead_refresh_token_is_a_verdict() {
    let stage = Stage::<Linear>::set().await;
    stage.provider.tune(|knobs| {
        knobs.refresh_grace_s = 0;
        knobs.scope_as_array = true;
    });
    let granted = Granted::of(stage.connect(&Visit::default()).await.expect("connected"));
    let fresh = stage.renew(&granted).await.expect("renewed");
    assert_ne!(text(&fresh.access), text(&granted.held.access));
    assert_eq!(fresh.scope.as_deref(), Some("read"));
    assert_eq!(stage.renew(&granted).await.expect_err("rotated away"), ConnectorError::Rejected);
    let granted = granted.renewed(fresh);

    for fault in [Fault::status(500), Fault::too_many_requests(2), Fault::status(502)] {
        stage.provider.fail(FaultRule::once("POST /oauth/token", fault));
        let outage = stage.renew(&granted).await;
        assert!(matches!(outage, Err(ConnectorError::Unavailable { .. })), "{outage:?}");
    }
    let gone = Fault::Without { members: vec!["refresh_token".into(), "expires_in".into()] };
    stage.provider.fail(FaultRule::once("POST /oauth/token", gone));
    let fresh = stage.renew(&granted).await.expect("renewed");
    assert!(fresh.refresh.is_none() && fresh.expires_at.is_some());
}

#[tokio::test]
async fn linear_gives_a_lost_pair_again_within_its_grace() {
    for fault in [Fault::LoseAnswer, Fault::Malformed] {
        let stage = Stage::<Linear>::set().await;
        stage.provider.tune(|knobs| knobs.refresh_grace_s = 1800);
        let granted = Granted::of(stage.connect(&Visit::default()).await.expect("connected"));
        stage.provider.fail(FaultRule::once("POST /oauth/token", fault));
        assert_eq!(stage.renew(&granted).await.expect_err("lost"), ConnectorError::AnswerLost);
        let fresh = stage.renew(&granted).await.expect("the same pair");
        assert!(stage.connector.read_account(&granted.grant, &fresh.access).await.is_ok());
    }
}

#[tokio::test]
async fn linear_lists_all_teams_and_says_when_its_limit_is_used_up() {
    let stage = Stage::<Linear>::set().await;
    stage.provider.tune(|knobs| knobs.teams = 510);
    let granted = Granted::of(stage.connect(&Visit::default()).await.expect("connected"));
    assert_eq!(stage.list(&granted).await.len(), 510);
    for over_limit_is_429 in [false, true] {
        stage.provider.tune(|knobs| {
            (knobs.requests_remaining, knobs.rate_reset_s) = (Some(0), 90);
            knobs.over_limit_is_429 = over_limit_is_429;
        });
        stage.is_limited_for_about(&granted, 90).await;
        stage.provider.tune(|knobs| (knobs.requests_remaining, knobs.complexity_remaining) = (None, Some(0)));
        stage.is_limited_for_about(&granted, 90).await;
        stage.provider.set(|ambient| ambient.skew_ms = 90_000);
        assert_eq!(stage.list(&granted).await.len(), 510, "at the reset time it is lifted");
        stage.provider.set(|ambient| ambient.skew_ms = 0);
    }
}

#[tokio::test]
async fn linear_has_no_grant_left_after_it_was_ended_twice() {
    let (stage, granted) = Stage::<Linear>::granted().await;
    let end = async || stage.connector.end_grant(&granted.grant, Some(&granted.held)).await;
    assert_eq!(end().await, Ok(Ended::Revoked));
    assert_eq!(stage.provider.with(|linear| linear.live_grants()), 0);
    assert_eq!(end().await, Ok(Ended::AlreadyGone));
    let dead = stage.connector.read_account(&granted.grant, &granted.held.access).await;
    assert_eq!(dead.expect_err("dead"), ConnectorError::Unauthorized);
}

// Sentry.

#[tokio::test]
async fn sentry_keeps_the_common_rules() {
    let exchange = "POST /api/0/sentry-app-installations/*/authorizations/";
    Stage::<Sentry>::hold_to_the_common_rules(exchange, "GET /api/0/organizations/*/projects/").await;
}

#[tokio::test]
async fn sentry_installs_are_confirmed() {
    let stage = Stage::<Sentry>::set().await;
    stage.provider.tune(|knobs| knobs.verify_install = true);
    let granted = Granted::of(stage.connect(&Visit::default()).await.expect("connected"));
    assert!(!stage.provider.with(|sentry| sentry.is_pending(1)));
    let uuid = stage.provider.with(|sentry| sentry.installation_id(1)).expect("installed");
    assert_eq!(granted.grant.external_id.as_str(), uuid);
    let calls = stage.provider.calls("* /api/0/**");
    assert!(calls.iter().all(|entry| entry.answered.is_some_and(|status| status < 300)), "nothing asked in vain");
}

#[tokio::test]
async fn sentry_rotates_and_a_lost_answer_ends_in_a_verdict() {
    let (stage, granted) = Stage::<Sentry>::granted().await;
    let fresh = stage.renew(&granted).await.expect("renewed");
    let dead = stage.connector.read_account(&granted.grant, &granted.held.access).await;
    assert_eq!(dead.expect_err("the old one dies with the rotation"), ConnectorError::Unauthorized);
    let granted = granted.renewed(fresh);
    let exchange = "POST /api/0/sentry-app-installations/*/authorizations/";
    for fault in [Fault::status(500), Fault::too_many_requests(2)] {
        stage.provider.fail(FaultRule::once(exchange, fault));
        let outage = stage.renew(&granted).await;
        assert!(matches!(outage, Err(ConnectorError::Unavailable { .. })), "{outage:?}");
    }
    stage.provider.fail(FaultRule::once(exchange, Fault::LoseAnswer));
    assert_eq!(stage.renew(&granted).await.expect_err("lost"), ConnectorError::AnswerLost);
    assert_eq!(stage.renew(&granted).await.expect_err("dead"), ConnectorError::Rejected);
}

#[tokio::test]
async fn sentry_lists_all_projects_of_an_organisation_that_was_renamed() {
    let stage = Stage::<Sentry>::set().await;
    stage.provider.tune(|knobs| knobs.projects = 230);
    let granted = Granted::of(stage.connect(&Visit::default()).await.expect("connected"));
    assert_eq!(stage.list(&granted).await.len(), 230);
    assert_eq!(stage.provider.calls("GET /api/0/organizations/*/projects/").len(), 3);
    let slug: Value = json!({"slug": "harborworks-renamed"});
    stage.provider.act("rename_organization", 1, &slug).await.expect("renamed");
    assert_eq!(stage.list(&granted).await.len(), 230);
}

#[tokio::test]
async fn sentry_says_when_its_limit_is_lifted_and_lifts_it_then() {
    let (stage, granted) = Stage::<Sentry>::granted().await;
    stage.provider.tune(|knobs| (knobs.rate_remaining, knobs.rate_reset_s) = (Some(0), 90));
    stage.is_limited_for_about(&granted, 90).await;
    stage.provider.set(|ambient| ambient.skew_ms = 90_000);
    assert_eq!(stage.list(&granted).await.len(), 3);
}

#[tokio::test]
async fn sentry_is_uninstalled_only_with_the_scope_for_it() {
    let (stage, granted) = Stage::<Sentry>::granted().await;
    let end = async || stage.connector.end_grant(&granted.grant, Some(&granted.held)).await;
    stage.provider.tune(|knobs| knobs.may_uninstall = false);
    assert_eq!(end().await, Ok(Ended::NotPossible("missing_scope")));
    stage.provider.tune(|knobs| knobs.may_uninstall = true);
    assert_eq!(end().await, Ok(Ended::Revoked));
    assert_eq!(stage.renew(&granted).await.expect_err("uninstalled"), ConnectorError::Gone);
}
