//! What GitHub says about an installation of the App: `GET /app/installations/{id}`.
//!
//! **Invariant**: metadata has the names that control events use for the same facts, so that either refreshes the other.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::{Api, Id, Speaker};
use crate::{
    model::{
        clock::EpochMs,
        provider::{ExternalId, ProviderSlug},
    },
    providers::{
        ConnectorError,
        connector::{Account, Grant},
        facts::{self, facts},
    },
};

/// The metadata's name for the id of the App that is installed.
pub(super) const APP_ID: &str = "appId";

/// An App about itself.
#[derive(Debug, Deserialize)]
struct App {
    id: Id,
}

/// An installation as the App sees it.
#[derive(Debug, Deserialize)]
pub(super) struct AppInstallation {
    /// Its id.
    pub id: Id,
    account: Option<Owner>,
    repository_selection: Option<String>,
    app_id: Option<Id>,
    app_slug: Option<String>,
    target_type: Option<String>,
    html_url: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
    suspended_at: Option<Value>,
    #[serde(default)]
    permissions: Option<Map<String, Value>>,
    #[serde(default)]
    events: Option<Vec<String>>,
}

/// A user or an organisation; an enterprise has a slug instead of a login.
#[derive(Debug, Deserialize)]
struct Owner {
    id: Option<Id>,
    login: Option<String>,
    slug: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    avatar_url: Option<String>,
}

impl AppInstallation {
    /// Whether it is paused.
    pub fn is_suspended(&self) -> bool {
        self.suspended_at.as_ref().is_some_and(|at| !at.is_null())
    }

    /// The account behind it, as validated `now`.
    pub fn to_account(&self, provider: ProviderSlug, now: EpochMs) -> Account {
        let owner = self.account.as_ref();
        let text = |of: fn(&Owner) -> Option<&String>| owner.and_then(of);
        let login = text(|owner| owner.login.as_ref()).or_else(|| text(|owner| owner.slug.as_ref())).cloned();
        let id = owner.and_then(|owner| owner.id.as_ref()).map(|id| id.0.clone());
        let kind = text(|owner| owner.kind.as_ref()).or(self.target_type.as_ref());
        let events = self.events.clone().unwrap_or_default();
        let permissions = self.permissions.clone().unwrap_or_default();
        let metadata = facts([
            ("accountId", facts::text(id.clone())),
            ("accountType", facts::text(kind.cloned())),
            (APP_ID, facts::text(self.app_id.as_ref().map(|app| app.0.clone()))),
            ("appSlug", facts::text(self.app_slug.clone())),
            ("repositorySelection", facts::text(self.repository_selection.clone())),
            ("permissions", (!permissions.is_empty()).then(|| Value::Object(permissions.clone()))),
            ("events", facts::list(events.clone())),
        ]);
        let info = json!({
            "version": 1,
            "sourceType": provider,
            "events": events,
            "installedAt": self.created_at,
            "lastValidatedAt": now.to_rfc3339(),
            "raw": {
                "id": self.id.0,
                "account": {
                    "id": id,
                    "login": login,
                    "type": kind,
                    "avatarUrl": text(|owner| owner.avatar_url.as_ref()),
                },
                "repositorySelection": self.repository_selection,
                "permissions": permissions,
                "updatedAt": self.updated_at,
                "suspendedAt": self.suspended_at,
                "htmlUrl": self.html_url,
            },
        });
        Account { login, metadata, info, suspended: self.is_suspended() }
    }
}

impl Api {
    /// Reads an installation as the App.
    ///
    /// # Errors
    /// [`ConnectorError::Gone`] if GitHub says that the App is not installed there.
    pub async fn read_installation(&self, id: &ExternalId, now: EpochMs) -> Result<AppInstallation, ConnectorError> {
        let url = self
            .base
            .below(["app", "installations", id.as_str()])
            .map_err(|_| ConnectorError::Malformed("our own installation id"))?;
        let reply = self.get(url, Speaker::App(now)).await?;
        match reply.status {
            200 => reply.json("the App's installation"),
            404 => Err(ConnectorError::Gone),
            status => Err(ConnectorError::unavailable(format!("answered {status}"))),
        }
    }

    /// Reads the installation of a grant as the App.
    ///
    /// # Errors
    /// [`ConnectorError::Gone`] if GitHub says that the App is not installed there any more.
    pub async fn read_granted(&self, grant: &Grant) -> Result<AppInstallation, ConnectorError> {
        match self.read_installation(&grant.external_id, grant.now).await {
            Err(ConnectorError::Gone) => Err(self.explain_absence(grant).await),
            read => read,
        }
    }

    /// Which App speaks: `GET /app` (docs.github.com/en/rest/apps/apps#get-the-authenticated-app).
    async fn read_app(&self, now: EpochMs) -> Result<App, ConnectorError> {
        let reply = self.get(self.base.at("/app"), Speaker::App(now)).await?;
        match reply.status {
            200 => reply.json("the App"),
            status => Err(ConnectorError::unavailable(format!("answered {status}"))),
        }
    }

    /// Why GitHub knows no such installation: it is gone, or the settings are those of another App, which has never had it.
    pub async fn explain_absence(&self, grant: &Grant) -> ConnectorError {
        let Some(granted) = grant.metadata.get(APP_ID).and_then(Value::as_str) else { return ConnectorError::Gone };
        match self.read_app(grant.now).await {
            Ok(app) if app.id.0 == granted => ConnectorError::Gone,
            Ok(app) => ConnectorError::unavailable(format!(
                "the settings are those of App {}, and the connection is with App {granted}",
                app.id.0
            )),
            Err(error) => error,
        }
    }

    /// Why GitHub refused something of an installation: it is gone, it is paused, or neither explains it.
    pub async fn explain_refusal(&self, grant: &Grant, neither: ConnectorError) -> ConnectorError {
        match self.read_granted(grant).await {
            Ok(installation) if installation.is_suspended() => ConnectorError::Suspended,
            Ok(_) => neither,
            Err(error) => error,
        }
    }
}
