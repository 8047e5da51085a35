//! GitHub's asking half: an App that is installed, mints its installations' tokens, and can be uninstalled.
//!
//! **Owns** the App's settings. **Invariants**: nothing is kept but the App's key; tokens are minted on demand and expire
//! by themselves. Protocol source: GitHub's "Authenticating as a GitHub App installation" and "REST API endpoints for
//! GitHub Apps".

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::{
    GitHub,
    api::{Api, Speaker, nothing_changed},
    endpoints::ENDPOINTS,
    flow::Flow,
};
use crate::{
    crypto::jwt::JwtKey,
    model::{clock::EpochMs, provider::ProviderResourceId, secret::Secret},
    providers::{
        Connector, ConnectorError, ConnectorSettingError, ConnectorSettings, HttpClient,
        connector::{
            Account, Callback, Completion, DeliveryLog, Ended, FreshToken, Grant, HeldToken, Leg, ProxyAnswer,
            ProxyCall, ProxyEndpoint, RepositoryFile, ResourcePage,
        },
        http::Call,
        oauth::OAuthClient,
        proxy,
    },
};

/// How long a minted token lives where the answer does not say.
const TOKEN_LIFE: Duration = Duration::from_hours(1);

impl GitHub {
    /// Its connector.
    pub(in crate::providers) fn connect(
        settings: &ConnectorSettings,
        http: &HttpClient,
    ) -> Result<Arc<dyn Connector>, ConnectorSettingError> {
        let slug = Self::SLUG;
        let web = settings.url(slug, "web_url")?;
        let base = settings.url(slug, "api_url")?;
        let client_id = settings.text(slug, "client_id")?.to_owned();
        let flow = Flow {
            app_slug: settings.text(slug, "app_slug")?.to_owned(),
            oauth: OAuthClient {
                authorize_url: web.at("/login/oauth/authorize"),
                token_url: web.at("/login/oauth/access_token"),
                client_id: client_id.clone(),
                client_secret: settings.secret(slug, "client_secret")?.clone(),
                http: http.clone(),
            },
            web,
        };
        let key = JwtKey::read(settings.secret(slug, "private_key")?)
            .map_err(|problem| ConnectorSettingError::new(slug, "private_key", format!("cannot be used: {problem}")))?;
        let api = Api { http: http.clone(), base, issuer: client_id, key };
        Ok(Arc::new(GitHubConnector { api, flow }))
    }
}

struct GitHubConnector {
    api: Api,
    flow: Flow,
}

#[derive(Deserialize)]
struct Minted {
    token: String,
    expires_at: Option<String>,
    permissions: Option<Map<String, Value>>,
}

#[async_trait]
impl Connector for GitHubConnector {
    /// GitHub's installation page knows no challenge; the page that says who one is does.
    fn uses_pkce(&self, context: Option<&Value>) -> bool {
        context.is_some()
    }

    fn authorize_url(&self, leg: &Leg<'_>) -> Result<Url, ConnectorError> {
        self.flow.authorize_url(leg)
    }

    async fn complete(&self, callback: &Callback<'_>) -> Result<Completion, ConnectorError> {
        self.flow.complete(&self.api, callback).await
    }

    fn keeps_tokens(&self) -> bool {
        false
    }

    async fn renew_token(&self, grant: &Grant, _held: Option<&HeldToken>) -> Result<FreshToken, ConnectorError> {
        let url = self
            .api
            .base
            .below(["app", "installations", grant.external_id.as_str(), "access_tokens"])
            .map_err(|_| ConnectorError::Malformed("our own installation id"))?;
        // A lost answer loses nothing: the token nobody knows expires, and another can be minted beside it.
        let reply = self.api.change("POST", url, Speaker::App(grant.now)).await.map_err(nothing_changed)?;
        if !reply.is_success() {
            let neither = ConnectorError::unavailable(format!("answered {}", reply.status));
            return Err(self.api.explain_refusal(grant, neither).await);
        }
        let minted: Minted = reply.json("a minted token")?;
        let expires_at = minted.expires_at.as_deref().and_then(EpochMs::parse_rfc3339);
        Ok(FreshToken {
            access: Secret::new(minted.token).ok_or(ConnectorError::Malformed("an empty token"))?,
            refresh: None,
            token_type: Some("bearer".into()),
            scope: minted.permissions.map(|granted| scope_of(&granted)),
            expires_at: Some(expires_at.unwrap_or_else(|| grant.now.plus(TOKEN_LIFE))),
            refresh_expires_at: None,
        })
    }

    /// Asked as the App: it is what knows the account, and whether it is paused.
    async fn read_account(&self, grant: &Grant, _access: &Secret) -> Result<Account, ConnectorError> {
        let installation = self.api.read_granted(grant).await?;
        Ok(installation.to_account(GitHub::SLUG, grant.now))
    }

    async fn end_grant(&self, grant: &Grant, _held: Option<&HeldToken>) -> Result<Ended, ConnectorError> {
        let url = self
            .api
            .base
            .below(["app", "installations", grant.external_id.as_str()])
            .map_err(|_| ConnectorError::Malformed("our own installation id"))?;
        let reply = self.api.change("DELETE", url, Speaker::App(grant.now)).await?;
        match reply.status {
            200..300 => Ok(Ended::Revoked),
            404 | 410 => match self.api.explain_absence(grant).await {
                ConnectorError::Gone => Ok(Ended::AlreadyGone),
                error => Err(error),
            },
            status => Err(ConnectorError::unavailable(format!("answered {status}"))),
        }
    }

    async fn list_resources(
        &self,
        grant: &Grant,
        access: &Secret,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, ConnectorError> {
        self.api.list_repositories(grant, access, cursor).await
    }

    async fn find_file(
        &self,
        grant: &Grant,
        access: &Secret,
        resource: &ProviderResourceId,
        path: &str,
        git_ref: Option<&str>,
        max_bytes: u64,
    ) -> Result<Option<RepositoryFile>, ConnectorError> {
        self.api.find_repository_file(grant, access, resource, path, git_ref, max_bytes).await
    }

    fn proxy_endpoints(&self) -> &'static [ProxyEndpoint] {
        ENDPOINTS
    }

    async fn call(&self, _grant: &Grant, access: &Secret, call: &ProxyCall) -> Result<ProxyAnswer, ConnectorError> {
        let prepare = |request: Call| Api::with_usual_headers(request).bearer(access);
        proxy::call(&self.api.http, &self.api.base, call, prepare).await
    }

    fn delivery_log(&self) -> Option<&dyn DeliveryLog> {
        Some(&self.api)
    }
}

/// Permissions as scopes are written: `contents:read issues:write`.
fn scope_of(permissions: &Map<String, Value>) -> String {
    let granted = permissions.iter().filter_map(|(name, level)| Some(format!("{name}:{}", level.as_str()?)));
    granted.collect::<Vec<_>>().join(" ")
}
