//! Sentry's asking half: connecting, the pair of tokens, ending the grant.
//!
//! **Owns** what is Sentry's alone about its API. **Invariants**: an installation is known by the uuid that its own token
//! confirms, in one spelling; a refresh is sent once and never repeated here, because the old pair dies with it; every
//! path ends in a slash. Protocol source: Sentry's "Public Integration" pages and its server. Quirks worth knowing: the
//! token endpoint takes JSON and answers 201; the fields are `token`, `refreshToken`,
//! `expiresAt`; uninstalling needs the installation's own token and a scope for it. **Must not know** the store, actors
//! or routes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::Sentry;
use crate::{
    model::{clock::EpochMs, provider::ExternalId, secret::Secret},
    providers::{
        Connector, ConnectorError, ConnectorSettingError, ConnectorSettings, HttpClient, answers,
        api_url::{ApiUrl, encode_segment},
        connector::{
            Account, Callback, Completion, Connected, Ended, FreshToken, Grant, HeldToken, Leg, ProxyAnswer, ProxyCall,
            ProxyEndpoint, ResourcePage,
        },
        http::{Call, Reply},
        oauth::{callback_code, filled, rejects_grant},
        proxy,
    },
};

/// When a used-up rate limit is fresh again, epoch seconds.
pub(super) const RESET_HEADER: &str = "x-sentry-rate-limit-reset";

/// How long an access token lives where the answer does not say.
const DOCUMENTED_LIFETIME: Duration = Duration::from_hours(8);

impl Sentry {
    /// Its connector.
    pub(in crate::providers) fn connect(
        settings: &ConnectorSettings,
        http: &HttpClient,
    ) -> Result<Arc<dyn Connector>, ConnectorSettingError> {
        let app = encode_segment(settings.text(Self::SLUG, "app_slug")?)
            .map_err(|_| ConnectorSettingError::new(Self::SLUG, "app_slug", "cannot be part of a URL"))?;
        let web_url = settings.url(Self::SLUG, "web_url")?;
        Ok(Arc::new(SentryConnector {
            http: http.clone(),
            install_page: web_url.at(&format!("/sentry-apps/{app}/external-install/")),
            api_url: settings.url(Self::SLUG, "api_url")?,
            client_id: settings.text(Self::SLUG, "client_id")?.to_owned(),
            client_secret: settings.secret(Self::SLUG, "client_secret")?.clone(),
        }))
    }
}

/// Sentry's API, asked by us.
pub(super) struct SentryConnector {
    pub(super) http: HttpClient,
    install_page: Url,
    pub(super) api_url: ApiUrl,
    client_id: String,
    client_secret: Secret,
}

/// The answer of the token endpoint.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenAnswer {
    token: String,
    refresh_token: Option<String>,
    expires_at: Option<String>,
    scopes: Option<Vec<String>>,
}

impl TokenAnswer {
    fn into_fresh(self, now: EpochMs) -> Option<FreshToken> {
        let told = self.expires_at.as_deref().and_then(EpochMs::parse_rfc3339);
        Some(FreshToken {
            access: Secret::new(self.token)?,
            refresh: self.refresh_token.and_then(Secret::new),
            token_type: Some("Bearer".into()),
            scope: self.scopes.filter(|scopes| !scopes.is_empty()).map(|scopes| scopes.join(" ")),
            expires_at: Some(told.unwrap_or_else(|| now.plus(DOCUMENTED_LIFETIME))),
            refresh_expires_at: None,
        })
    }
}

impl SentryConnector {
    /// The address of an installation, or of what is below it (`authorizations/`).
    pub(super) fn installation_url(&self, id: &ExternalId, below: &str) -> Result<Url, ConnectorError> {
        let id = encode_segment(id.as_str()).map_err(|_| ConnectorError::Malformed("an installation id"))?;
        Ok(self.api_url.at(&format!("/api/0/sentry-app-installations/{id}/{below}")))
    }

    /// A call to the token endpoint. The pair of id and secret is all the authentication it wants.
    fn authorization_call(
        &self,
        id: &ExternalId,
        grant_type: &str,
        proof: (&str, &str),
    ) -> Result<Call, ConnectorError> {
        let secret = self.client_secret.expose_str().unwrap_or_default();
        let mut body = json!({"grant_type": grant_type, "client_id": self.client_id, "client_secret": secret});
        body[proof.0] = Value::from(proof.1);
        Ok(Call::new("POST", self.installation_url(id, "authorizations/")?).json(&body))
    }

    /// What follows from a refresh that the provider refused without a word about the grant, or that cannot be asked for:
    /// the grant is dead only if the access token is dead too. A wrong client secret of ours looks the same, and is no
    /// verdict on the grant.
    async fn judge_refused_refresh(&self, grant: &Grant, access: &Secret) -> ConnectorError {
        match self.read_installation(&grant.external_id, access, grant.now).await {
            Ok(_) | Err(ConnectorError::NotAccessible) => {
                tracing::warn!("a refresh was refused though the access token lives: is client_secret right?");
                ConnectorError::unavailable("the refresh was refused, though not the grant")
            }
            Err(ConnectorError::Unauthorized) => ConnectorError::Rejected,
            Err(error) => error,
        }
    }

    async fn refresh(&self, grant: &Grant, refresh: &Secret) -> Result<FreshToken, ConnectorError> {
        let refresh = refresh.expose_str().ok_or(ConnectorError::Unauthorized)?;
        let call = self.authorization_call(&grant.external_id, "refresh_token", ("refresh_token", refresh))?;
        let reply = answers::rotate(&self.http, call).await?;
        if reply.is_success() {
            let answer: TokenAnswer = answers::rotated(&reply)?;
            return answer.into_fresh(grant.now).ok_or(ConnectorError::AnswerLost);
        }
        Err(match (reply.status, answers::refusal(&reply, RESET_HEADER, grant.now)) {
            (_, outage @ ConnectorError::Unavailable { .. }) => outage,
            _ if rejects_grant(&reply) => ConnectorError::Rejected,
            (404, _) => ConnectorError::Gone,
            // The application is disabled, or is asked in a way it does not know: no verdict on this grant.
            (403, _) => ConnectorError::unavailable("the refresh was refused, though not the grant"),
            (_, error) => error,
        })
    }
}

#[async_trait]
impl Connector for SentryConnector {
    fn uses_pkce(&self, _context: Option<&Value>) -> bool {
        false
    }

    fn authorize_url(&self, leg: &Leg<'_>) -> Result<Url, ConnectorError> {
        let mut url = self.install_page.clone();
        url.query_pairs_mut().append_pair("state", leg.state);
        Ok(url)
    }

    async fn complete(&self, callback: &Callback<'_>) -> Result<Completion, ConnectorError> {
        let code = callback_code(callback)?;
        let claimed =
            filled(callback.parameters, "installationId").ok_or(ConnectorError::Refused("missing_installation_id"))?;
        // One spelling: another one of the same uuid must not pass for another installation.
        let external_id = Uuid::parse_str(claimed)
            .map(|uuid| ExternalId::new(uuid.hyphenated().to_string()))
            .map_err(|_| ConnectorError::Refused("installation_not_verified"))?;
        let call = self.authorization_call(&external_id, "authorization_code", ("code", code))?;
        let reply = self.http.send(call).await?;
        if !reply.is_success() {
            return Err(exchange_refusal(&reply, callback.now));
        }
        let answer: TokenAnswer = reply.json("the answer to a code")?;
        let token = answer.into_fresh(callback.now).ok_or(ConnectorError::Malformed("an empty access token"))?;
        let installed = self.confirm_in_time(&external_id, &token.access, callback.now).await?;
        let scopes = token.scope.clone();
        let account =
            self.describe(&external_id, &installed, scopes.as_deref(), token.expires_at, callback.now, &token.access);
        let account = account.await;
        Ok(Completion::Connected(Box::new(Connected {
            external_id,
            alternate_external_id: None,
            account,
            status: installed.installation_status(),
            token: Some(token),
            setup_action: None,
            is_update: false,
            follow: None,
        })))
    }

    async fn renew_token(&self, grant: &Grant, held: Option<&HeldToken>) -> Result<FreshToken, ConnectorError> {
        let held = held.ok_or(ConnectorError::Rejected)?;
        let refreshed = match &held.refresh {
            Some(refresh) => self.refresh(grant, refresh).await,
            None => Err(ConnectorError::Unauthorized),
        };
        match refreshed {
            Err(ConnectorError::Unauthorized) => Err(self.judge_refused_refresh(grant, &held.access).await),
            other => other,
        }
    }

    async fn read_account(&self, grant: &Grant, access: &Secret) -> Result<Account, ConnectorError> {
        let read = match self.read_installation(&grant.external_id, access, grant.now).await {
            // The token may lack the scope to read it; confirming needs none, and is harmless.
            Err(ConnectorError::NotAccessible) => None,
            read => Some(read?),
        };
        let installed = match read {
            Some(installed) if !installed.is_pending() => installed,
            read => match self.confirm_installation(&grant.external_id, access, grant.now).await {
                Err(error @ (ConnectorError::Gone | ConnectorError::Unauthorized)) => return Err(error),
                confirmed => confirmed.ok().or(read).unwrap_or_default(),
            },
        };
        Ok(self.describe(&grant.external_id, &installed, None, None, grant.now, access).await)
    }

    async fn confirm_arrival(&self, grant: &Grant, access: &Secret) -> Result<(), ConnectorError> {
        self.confirm_installation(&grant.external_id, access, grant.now).await.map(drop)
    }

    /// # Errors
    /// [`ConnectorError::Unauthorized`] where the access token has died of age: a renewed one can still uninstall.
    async fn end_grant(&self, grant: &Grant, held: Option<&HeldToken>) -> Result<Ended, ConnectorError> {
        let Some(held) = held else { return Ok(Ended::NotPossible("no_token")) };
        let call = Call::new("DELETE", self.installation_url(&grant.external_id, "")?).bearer(&held.access);
        let reply = answers::ask(&self.http, call).await?;
        match reply.status {
            200..300 => Ok(Ended::Revoked),
            404 => Ok(Ended::AlreadyGone),
            403 => Ok(Ended::NotPossible("missing_scope")),
            _ => Err(answers::refusal(&reply, RESET_HEADER, grant.now)),
        }
    }

    async fn list_resources(
        &self,
        grant: &Grant,
        access: &Secret,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, ConnectorError> {
        self.list_projects(grant, access, cursor).await
    }

    fn proxy_endpoints(&self) -> &'static [ProxyEndpoint] {
        super::projects::PROXY_ENDPOINTS
    }

    async fn call(&self, grant: &Grant, access: &Secret, call: &ProxyCall) -> Result<ProxyAnswer, ConnectorError> {
        proxy::call(&self.http, &self.data_url(grant), call, |request| request.bearer(access)).await
    }
}

/// Why a code was not exchanged, in our words. Sentry says 401 to a used or expired code and to a wrong secret alike.
fn exchange_refusal(reply: &Reply, now: EpochMs) -> ConnectorError {
    match (reply.status, answers::refusal(reply, RESET_HEADER, now)) {
        (_, unavailable @ ConnectorError::Unavailable { .. }) => unavailable,
        (401, _) => ConnectorError::Refused("invalid_code"),
        (404, _) => ConnectorError::Refused("installation_not_verified"),
        (status, _) => {
            tracing::warn!(status, "the provider refused to exchange a code");
            ConnectorError::Refused("provider_error")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_answer_dies_when_it_says_or_after_eight_hours() {
        let now = EpochMs(1_771_980_000_000);
        let fresh = |text: &str| serde_json::from_str::<TokenAnswer>(text).expect("an answer").into_fresh(now);
        let told = fresh(
            r#"{"token":"t","refreshToken":"r","expiresAt":"2026-02-25T01:00:00.123456Z","scopes":["org:read","event:read"]}"#,
        );
        let told = told.expect("a token");
        assert_eq!(told.expires_at, EpochMs::parse_rfc3339("2026-02-25T01:00:00.123Z"));
        assert_eq!(told.scope.as_deref(), Some("org:read event:read"));
        for silent in
            [r#"{"token":"t","expiresAt":null,"id":7,"application":null}"#, r#"{"token":"t","expiresAt":"soon"}"#]
        {
            let silent = fresh(silent).expect("a token");
            assert_eq!(silent.expires_at, Some(now.plus(DOCUMENTED_LIFETIME)));
            assert!(silent.refresh.is_none() && silent.scope.is_none());
        }
        assert!(fresh(r#"{"token":""}"#).is_none());
    }
}
