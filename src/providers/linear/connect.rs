//! Linear's asking half: connecting, the rotating pair of tokens, ending the grant.
//!
//! **Owns** what is Linear's alone about its API. **Invariants**: the workspace is the one GraphQL names with the new
//! token, never the browser's word; the challenge is always S256. Protocol source: Linear's "OAuth 2.0 Authentication"
//! and "Getting started" (GraphQL) developer pages. Quirks worth knowing: scopes are separated by commas on the way out
//! and by spaces on the way back; a refresh answers a new refresh token each time.
//! **Must not know** the store, actors or routes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{
    Linear,
    graphql::{self, is_rate_limited, rate_limited},
};
use crate::{
    model::{clock::EpochMs, installation::InstallationStatus, provider::ExternalId, secret::Secret},
    providers::{
        Connector, ConnectorError, ConnectorSettingError, ConnectorSettings, HttpClient, answers,
        api_url::ApiUrl,
        connector::{
            Account, Callback, Completion, Connected, EndOf, Ended, FreshToken, Grant, HeldToken, Leg, ProxyAnswer,
            ProxyCall, ProxyEndpoint, ResourcePage,
        },
        facts::{self, facts},
        http::Call,
        oauth::{OAuthClient, callback_code},
        proxy,
    },
};

/// How long an access token lives where the answer does not say: a day less a second.
const DOCUMENTED_LIFETIME: Duration = Duration::from_secs(86_399);

/// Asks who holds the token, and in which workspace.
const VIEWER: &str = "query Viewer { viewer { id name email organization { id name urlKey } } }";

impl Linear {
    /// Its connector.
    pub(in crate::providers) fn connect(
        settings: &ConnectorSettings,
        http: &HttpClient,
    ) -> Result<Arc<dyn Connector>, ConnectorSettingError> {
        let optional = |setting| settings.texts.get(setting).map(String::as_str);
        let api_url = settings.url(Self::SLUG, "api_url")?;
        let scopes: Vec<&str> = optional("scopes")
            .unwrap_or("read")
            .split(|separator: char| separator == ',' || separator.is_whitespace())
            .filter(|scope| !scope.is_empty())
            .collect();
        if scopes.is_empty() {
            return Err(ConnectorSettingError::new(Self::SLUG, "scopes", "names no scope"));
        }
        let actor = match optional("actor") {
            None => None,
            Some("user") => Some("user"),
            Some("app") => Some("app"),
            Some(_) => return Err(ConnectorSettingError::new(Self::SLUG, "actor", "must be user or app")),
        };
        Ok(Arc::new(LinearConnector {
            http: http.clone(),
            oauth: OAuthClient {
                authorize_url: settings.url(Self::SLUG, "web_url")?.at("/oauth/authorize"),
                token_url: api_url.at("/oauth/token"),
                client_id: settings.text(Self::SLUG, "client_id")?.to_owned(),
                client_secret: settings.secret(Self::SLUG, "client_secret")?.clone(),
                http: http.clone(),
            },
            api_url,
            scopes: scopes.join(","),
            actor,
        }))
    }
}

/// Linear's API, asked by us.
pub(super) struct LinearConnector {
    pub(super) http: HttpClient,
    pub(super) api_url: ApiUrl,
    oauth: OAuthClient,
    /// Separated by commas.
    scopes: String,
    actor: Option<&'static str>,
}

#[derive(Deserialize)]
struct ViewerAnswer {
    viewer: Viewer,
}

/// The person, or the application itself, behind a token.
#[derive(Deserialize)]
struct Viewer {
    id: String,
    name: Option<String>,
    organization: Organization,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Organization {
    id: String,
    name: Option<String>,
    url_key: Option<String>,
}

impl Viewer {
    /// The account. The person's address is left out: nothing here needs it.
    fn to_account(&self, token: Option<&FreshToken>, now: EpochMs) -> Account {
        let Organization { id, name, url_key } = &self.organization;
        let metadata = facts([
            ("providerUserId", facts::text(Some(self.id.as_str()))),
            ("providerUserName", facts::text(self.name.as_deref())),
            ("organizationId", facts::text(Some(id.as_str()))),
            ("organizationName", facts::text(name.as_deref())),
            ("urlKey", facts::text(url_key.as_deref())),
        ]);
        let raw = facts([
            ("token_type", facts::text(token.and_then(|token| token.token_type.as_deref()))),
            ("scope", facts::text(token.and_then(|token| token.scope.as_deref()))),
            ("expires_in", token.and_then(|token| token.expires_at).map(|at| at.since(now).as_secs().into())),
        ]);
        let info = facts([
            ("version", Some(1.into())),
            ("sourceType", facts::text(Some(Linear::SLUG.as_str()))),
            ("organization", Some(json!({"id": id, "name": name, "urlKey": url_key}))),
            ("raw", token.map(|_| Value::Object(raw))),
        ]);
        Account { login: url_key.clone(), metadata, info: Value::Object(info), suspended: false }
    }
}

impl LinearConnector {
    async fn read_viewer(&self, access: &Secret, now: EpochMs) -> Result<Viewer, ConnectorError> {
        let data = self.query(VIEWER, json!({}), access, now).await?;
        let ViewerAnswer { viewer } =
            serde_json::from_value(data).map_err(|_| ConnectorError::Malformed("the viewer"))?;
        if viewer.organization.id.is_empty() { Err(ConnectorError::Malformed("the workspace")) } else { Ok(viewer) }
    }

    /// The viewer of tokens that were just given. Their code is used up: one hiccup shall not undo what a person agreed to.
    async fn read_viewer_of_new(&self, access: &Secret, now: EpochMs) -> Result<Viewer, ConnectorError> {
        match self.read_viewer(access, now).await {
            Err(ConnectorError::Unavailable { retry_after: None, .. }) => self.read_viewer(access, now).await,
            outcome => outcome,
        }
    }

    fn revocation(&self) -> Call {
        Call::new("POST", self.api_url.at("/oauth/revoke"))
    }

    async fn revoke_access(&self, access: &Secret, now: EpochMs) -> Result<bool, ConnectorError> {
        self.revoke(self.revocation().bearer(access), now).await
    }

    /// Revokes one token: true if it ended by this call, false if it was dead already.
    async fn revoke(&self, call: Call, now: EpochMs) -> Result<bool, ConnectorError> {
        let reply = answers::ask(&self.http, call).await?;
        match reply.status {
            200..300 => Ok(true),
            _ if is_rate_limited(&reply) => Err(rate_limited(&reply, now)),
            400 | 401 => Ok(false),
            status => Err(ConnectorError::unavailable(format!("answered {status}"))),
        }
    }
}

#[async_trait]
impl Connector for LinearConnector {
    fn uses_pkce(&self, _context: Option<&Value>) -> bool {
        true
    }

    fn authorize_url(&self, leg: &Leg<'_>) -> Result<Url, ConnectorError> {
        let mut parameters = vec![("scope", self.scopes.as_str()), ("prompt", "consent")];
        parameters.extend(self.actor.map(|actor| ("actor", actor)));
        self.oauth.authorize_url(leg, &parameters)
    }

    async fn complete(&self, callback: &Callback<'_>) -> Result<Completion, ConnectorError> {
        let code = callback_code(callback)?;
        let token = self.oauth.exchange_code(code, callback).await?;
        let token = token.into_fresh(callback.now, Some(DOCUMENTED_LIFETIME));
        let viewer = match self.read_viewer_of_new(&token.access, callback.now).await {
            Ok(viewer) => viewer,
            Err(error) => {
                // Nobody will know of these tokens.
                if let Err(error) = self.revoke_access(&token.access, callback.now).await {
                    tracing::warn!(%error, "tokens that cannot be used were not revoked");
                }
                return Err(error);
            }
        };
        let account = viewer.to_account(Some(&token), callback.now);
        Ok(Completion::Connected(Box::new(Connected {
            external_id: ExternalId::new(viewer.organization.id),
            alternate_external_id: None,
            account,
            status: InstallationStatus::Active,
            token: Some(token),
            setup_action: None,
            is_update: false,
            follow: None,
        })))
    }

    async fn renew_token(&self, grant: &Grant, held: Option<&HeldToken>) -> Result<FreshToken, ConnectorError> {
        // Without a refresh token there is nothing to go on with: the person has to connect again.
        let refresh = held.and_then(|held| held.refresh.as_ref()).ok_or(ConnectorError::Rejected)?;
        let answer = self.oauth.refresh(refresh).await?;
        Ok(answer.into_fresh(grant.now, Some(DOCUMENTED_LIFETIME)))
    }

    async fn read_account(&self, grant: &Grant, access: &Secret) -> Result<Account, ConnectorError> {
        let viewer = self.read_viewer(access, grant.now).await?;
        if viewer.organization.id != grant.external_id.as_str() {
            return Err(ConnectorError::Malformed("a token of another workspace"));
        }
        Ok(viewer.to_account(None, grant.now))
    }

    /// Every person who connects a workspace gets a pair of tokens of their own.
    fn end_of(&self, _grant: &Grant) -> EndOf {
        EndOf::Token
    }

    async fn end_grant(&self, grant: &Grant, held: Option<&HeldToken>) -> Result<Ended, ConnectorError> {
        let Some(held) = held else { return Ok(Ended::NotPossible("no_token")) };
        if self.revoke_access(&held.access, grant.now).await? {
            return Ok(Ended::Revoked);
        }
        // An access token that has died of age says nothing about the grant: its refresh token may live.
        let Some(refresh) = held.refresh.as_ref().and_then(Secret::expose_str) else { return Ok(Ended::AlreadyGone) };
        let fields = [("refresh_token", refresh), ("token_type_hint", "refresh_token")];
        let ended = self.revoke(self.revocation().form(&fields), grant.now).await?;
        Ok(if ended { Ended::Revoked } else { Ended::AlreadyGone })
    }

    async fn list_resources(
        &self,
        grant: &Grant,
        access: &Secret,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, ConnectorError> {
        self.list_teams(access, cursor, grant.now).await
    }

    fn proxy_endpoints(&self) -> &'static [ProxyEndpoint] {
        graphql::PROXY_ENDPOINTS
    }

    async fn call(&self, _grant: &Grant, access: &Secret, call: &ProxyCall) -> Result<ProxyAnswer, ConnectorError> {
        let answer = proxy::call(&self.http, &self.api_url, call, |request| request.bearer(access)).await?;
        // A dead token is not always told by the status.
        if graphql::tells_dead_token(&answer.data) { Err(ConnectorError::Unauthorized) } else { Ok(answer) }
    }
}
