//! A Sentry installation as Sentry tells of it: whether it is confirmed, and whose it is.
//!
//! **Invariants**: the organisation is the one Sentry names, never the callback's; what only describes the account is
//! best effort; an outage leaves an installation pending, to be confirmed later, and a flow does not wait for its end; the
//! token is only ever sent to the configured host or to a region of it. Protocol source: Sentry's "Public Integration"
//! pages and its API reference. Quirk worth knowing: an organisation's slug can be changed at any time.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{
    Sentry,
    connect::{RESET_HEADER, SentryConnector},
};
use crate::{
    model::{clock::EpochMs, installation::InstallationStatus, provider::ExternalId, secret::Secret},
    providers::{
        ConnectorError,
        answers::{self, id_of},
        api_url::ApiUrl,
        connector::{Account, Grant},
        facts::{self, facts},
        http::{Call, Reply},
    },
};

/// How long a flow waits for Sentry to hear that the installation has arrived: a person waits with it, and whoever uses
/// the connection tells Sentry again.
const CONFIRM_TIME: Duration = Duration::from_secs(3);
/// How often a flow tells it within that time, and the pause in between.
const CONFIRM_TRIES: u32 = 3;
const CONFIRM_PAUSE: Duration = Duration::from_millis(250);
/// How long the organisation's name may take, which nobody needs in order to go on.
const DESCRIBE_TIME: Duration = Duration::from_secs(3);

/// What Sentry says of an installation; all of it may be missing.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Installed {
    organization: Option<Organization>,
    app: Option<App>,
    status: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Organization {
    slug: Option<String>,
    id: Option<Value>,
    name: Option<String>,
    links: Option<Links>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Links {
    region_url: Option<String>,
}

#[derive(Debug, Deserialize)]
struct App {
    slug: Option<String>,
}

impl Installed {
    /// One of which is only known that Sentry has yet to hear of it.
    fn pending() -> Self {
        Self { status: Some("pending".into()), ..Self::default() }
    }

    /// Whether Sentry says that the installation has yet to be confirmed.
    pub(super) fn is_pending(&self) -> bool {
        self.status.as_deref() == Some("pending")
    }

    /// Ours, for Sentry's status.
    pub(super) fn installation_status(&self) -> InstallationStatus {
        if self.is_pending() { InstallationStatus::Pending } else { InstallationStatus::Active }
    }

    /// The organisation's slug of this moment.
    pub(super) fn slug(&self) -> Option<&str> {
        self.organization.as_ref()?.slug.as_deref().filter(|slug| !slug.is_empty())
    }
}

impl SentryConnector {
    /// Reads an installation with its own token.
    ///
    /// # Errors
    /// [`ConnectorError::Gone`] on 404; [`ConnectorError::NotAccessible`] if the token lacks the scope to read it.
    pub(super) async fn read_installation(
        &self,
        id: &ExternalId,
        access: &Secret,
        now: EpochMs,
    ) -> Result<Installed, ConnectorError> {
        let call = Call::new("GET", self.installation_url(id, "")?).bearer(access);
        understand(&answers::ask(&self.http, call).await?, now)
    }

    /// Tells Sentry that the installation has arrived, without which it may stay `pending` and send nothing. Harmless
    /// where it has been told before.
    ///
    /// # Errors
    /// [`ConnectorError::Gone`], [`ConnectorError::Unauthorized`]: there is no such installation or token.
    /// [`ConnectorError::Refused`]: Sentry does not take it, and the installation stays pending. After any other error it
    /// is to be told again.
    pub(super) async fn confirm_installation(
        &self,
        id: &ExternalId,
        access: &Secret,
        now: EpochMs,
    ) -> Result<Installed, ConnectorError> {
        let call = Call::new("PUT", self.installation_url(id, "")?).bearer(access);
        let reply = answers::ask(&self.http, call.json(&json!({"status": "installed"}))).await?;
        let error = match understand(&reply, now) {
            Ok(installed) if installed.is_pending() => ConnectorError::unavailable("it is pending as before"),
            Err(ConnectorError::NotAccessible | ConnectorError::Malformed(_)) if (400..500).contains(&reply.status) => {
                ConnectorError::Refused("confirmation_refused")
            }
            Err(error @ ConnectorError::Malformed(_)) => error,
            told => return told,
        };
        // It may be installed all the same, or nobody may tell with this token.
        match (self.read_installation(id, access, now).await, error) {
            (Ok(installed), _) if !installed.is_pending() => Ok(installed),
            (Ok(_pending), error) => Err(error),
            (Err(ConnectorError::NotAccessible), ConnectorError::Refused(_)) => Ok(Installed::default()),
            (Err(error), _) => Err(error),
        }
    }

    /// Confirms it while a person waits. A token was given, so the grant is proved: that Sentry cannot be told is fatal
    /// only if it says that there is no such installation or token. Else the installation is pending, and will be
    /// confirmed later: Sentry lets nobody install it a second time.
    pub(super) async fn confirm_in_time(
        &self,
        id: &ExternalId,
        access: &Secret,
        now: EpochMs,
    ) -> Result<Installed, ConnectorError> {
        let confirming = async {
            for _try in 1..CONFIRM_TRIES {
                match self.confirm_installation(id, access, now).await {
                    // A token that is this new may not be known everywhere yet.
                    Err(
                        ConnectorError::Unauthorized
                        | ConnectorError::Malformed(_)
                        | ConnectorError::Unavailable { retry_after: None, .. },
                    ) => tokio::time::sleep(CONFIRM_PAUSE).await,
                    told => return told,
                }
            }
            self.confirm_installation(id, access, now).await
        };
        let confirmed = tokio::time::timeout(CONFIRM_TIME, confirming).await;
        match confirmed.unwrap_or_else(|_elapsed| Err(ConnectorError::unavailable("no answer in time"))) {
            Err(error) if !matches!(error, ConnectorError::Gone | ConnectorError::Unauthorized) => {
                tracing::warn!(%error, "the installation is not confirmed yet");
                Ok(Installed::pending())
            }
            told => told,
        }
    }

    /// The one organisation that a token belongs to.
    async fn read_organization(&self, access: &Secret, now: EpochMs) -> Result<Organization, ConnectorError> {
        let call = Call::new("GET", self.api_url.at("/api/0/organizations/")).bearer(access).within(DESCRIBE_TIME);
        let reply = answers::ask(&self.http, call).await?;
        if !reply.is_success() {
            return Err(answers::refusal(&reply, RESET_HEADER, now));
        }
        let mut organizations: Vec<Organization> = reply.json("a list of organisations")?;
        match organizations.len() {
            1 => organizations.pop().ok_or(ConnectorError::NotAccessible),
            _ => Err(ConnectorError::NotAccessible),
        }
    }

    /// What is told about the account.
    pub(super) async fn describe(
        &self,
        id: &ExternalId,
        installed: &Installed,
        scopes: Option<&str>,
        expires_at: Option<EpochMs>,
        now: EpochMs,
        access: &Secret,
    ) -> Account {
        let listed = self.read_organization(access, now).await.inspect_err(|error| {
            tracing::debug!(%error, "the organisation cannot be read");
        });
        let listed = listed.ok();
        // Both are Sentry's word; the installation's own comes first.
        let both = || installed.organization.iter().chain(&listed);
        let slug = both().find_map(|organization| organization.slug.clone()).filter(|slug| !slug.is_empty());
        let organization_id = both().find_map(|organization| id_of(organization.id.as_ref()?));
        let name = both().find_map(|organization| organization.name.clone());
        let region = both().find_map(|organization| organization.links.as_ref()?.region_url.clone());
        let metadata = facts([
            ("organizationSlug", facts::text(slug.clone())),
            ("organizationId", facts::text(organization_id.clone())),
            ("organizationName", facts::text(name.clone())),
            ("regionUrl", facts::text(region.filter(|region| self.find_region(region).is_some()))),
            ("appSlug", facts::text(installed.app.as_ref().and_then(|app| app.slug.clone()))),
            ("status", facts::text(installed.status.clone())),
        ]);
        let scopes = scopes.map(|scopes| scopes.split(' ').collect::<Vec<_>>());
        let raw = facts([
            ("expiresAt", facts::text(expires_at.map(EpochMs::to_rfc3339))),
            ("scopes", scopes.map(Value::from)),
        ]);
        let info = facts([
            ("version", Some(1.into())),
            ("sourceType", facts::text(Some(Sentry::SLUG.as_str()))),
            ("installationId", facts::text(Some(id.as_str()))),
            ("organizationSlug", facts::text(slug.clone())),
            ("organizationId", facts::text(organization_id)),
            ("organizationName", facts::text(name)),
            ("raw", Some(Value::Object(raw))),
        ]);
        Account { login: slug, metadata, info: Value::Object(info), suspended: false }
    }

    /// Where the data of a grant's organisation is: the region that Sentry named, else the configured API.
    pub(super) fn data_url(&self, grant: &Grant) -> ApiUrl {
        let region = grant.metadata.get("regionUrl").and_then(Value::as_str);
        region.and_then(|region| self.find_region(region)).unwrap_or_else(|| self.api_url.clone())
    }

    /// A region's base, if it is the configured host or a subdomain of it.
    fn find_region(&self, region: &str) -> Option<ApiUrl> {
        let base = ApiUrl::parse(region)?;
        is_within(self.api_url.as_url(), base.as_url()).then_some(base)
    }
}

/// An answer about an installation.
fn understand(reply: &Reply, now: EpochMs) -> Result<Installed, ConnectorError> {
    match reply.status {
        200..300 => reply.json("an installation"),
        status => Err(match answers::refusal(reply, RESET_HEADER, now) {
            ConnectorError::NotAccessible if status == 404 => ConnectorError::Gone,
            error => error,
        }),
    }
}

/// Whether a region's URL is the configured one's host, or below its name on https and the same port.
fn is_within(configured: &Url, region: &Url) -> bool {
    if configured.origin() == region.origin() {
        return true;
    }
    let (Some(own), Some(other)) = (configured.domain(), region.domain()) else { return false };
    let is_below = other.strip_suffix(own).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
    is_below
        && configured.scheme() == "https"
        && region.scheme() == "https"
        && configured.port_or_known_default() == region.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_only_to_the_configured_host_and_to_regions_of_it() {
        let within = |configured: &str, region: &str| {
            is_within(&Url::parse(configured).expect("a URL"), &Url::parse(region).expect("a URL"))
        };
        assert!(within("https://sentry.io", "https://us.sentry.io"));
        assert!(within("https://sentry.io", "https://sentry.io/"));
        assert!(within("http://127.0.0.1:9000", "http://127.0.0.1:9000"));
        for elsewhere in [
            "http://us.sentry.io",
            "https://us.sentry.io:8443",
            "https://notsentry.io",
            "https://sentry.io.example.com",
            "https://example.com",
        ] {
            assert!(!within("https://sentry.io", elsewhere), "{elsewhere}");
        }
        assert!(!within("http://127.0.0.1:9000", "http://127.0.0.1:9001"));
    }
}
