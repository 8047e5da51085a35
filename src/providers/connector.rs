//! A provider's asking half: everything that calls the provider. The receiving half is [`super::Provider`].
//!
//! **Owns** the words between the gateway and a provider's API. **Invariants**: a connector keeps nothing and writes
//! nothing; it is told the time; what it says about a failure is ours, never the provider's own words; only an explicit
//! answer of the provider is [`ConnectorError::Rejected`] or [`ConnectorError::Gone`]: silence, 5xx and 429 are
//! [`ConnectorError::Unavailable`]. **Must not know** the store, actors or routes.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};
use url::Url;

use super::api_url::ApiUrl;
use crate::model::{
    clock::EpochMs,
    error_kind::ErrorKind,
    installation::{Installation, InstallationStatus},
    provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug},
    secret::Secret,
};

/// The `[providers.X]` table of a provider, as its connector reads it.
#[derive(Debug, Clone, Default)]
pub struct ConnectorSettings {
    /// Plain settings by name.
    pub texts: BTreeMap<String, String>,
    /// Secret settings by name.
    pub secrets: BTreeMap<String, Secret>,
}

/// A setting without which a provider can receive webhooks but not connect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("providers.{provider}.{setting} {problem}")]
pub struct ConnectorSettingError {
    /// Which provider.
    pub provider: &'static str,
    /// Which setting.
    pub setting: &'static str,
    /// What is wrong with it (`is missing`).
    pub problem: String,
}

impl ConnectorSettings {
    /// A plain setting.
    ///
    /// # Errors
    /// [`ConnectorSettingError`] if it is missing or empty.
    pub fn text(&self, provider: ProviderSlug, setting: &'static str) -> Result<&str, ConnectorSettingError> {
        let value = self.texts.get(setting).map(|text| text.trim()).filter(|text| !text.is_empty());
        value.ok_or_else(|| ConnectorSettingError::new(provider, setting, "is missing"))
    }

    /// A secret setting.
    ///
    /// # Errors
    /// [`ConnectorSettingError`] if it is missing.
    pub fn secret(&self, provider: ProviderSlug, setting: &'static str) -> Result<&Secret, ConnectorSettingError> {
        self.secrets.get(setting).ok_or_else(|| ConnectorSettingError::new(provider, setting, "is missing"))
    }

    /// A base URL.
    ///
    /// # Errors
    /// [`ConnectorSettingError`] if it is missing or no http(s) URL.
    pub fn url(&self, provider: ProviderSlug, setting: &'static str) -> Result<ApiUrl, ConnectorSettingError> {
        ApiUrl::parse(self.text(provider, setting)?)
            .ok_or_else(|| ConnectorSettingError::new(provider, setting, "is not an http or https URL"))
    }
}

impl ConnectorSettingError {
    /// What is wrong with a setting.
    pub fn new(provider: ProviderSlug, setting: &'static str, problem: impl Into<String>) -> Self {
        Self { provider: provider.0, setting, problem: problem.into() }
    }

    /// The setting's full name.
    pub fn name(&self) -> String {
        format!("providers.{}.{}", self.provider, self.setting)
    }
}

/// One visit of a browser to the provider.
#[derive(Debug, Clone, Copy)]
pub struct Leg<'a> {
    /// Our state, to come back untouched.
    pub state: &'a str,
    /// Our callback's URL.
    pub redirect_uri: &'a str,
    /// The S256 challenge, if this leg uses PKCE.
    pub pkce_challenge: Option<&'a str>,
    /// What the leg before left in [`Completion::Continue`].
    pub context: Option<&'a Value>,
}

/// What came back from the provider with the browser.
#[derive(Debug, Clone, Copy)]
pub struct Callback<'a> {
    /// The query's parameters, the first of each name. All of it is the browser's word.
    pub parameters: &'a BTreeMap<String, String>,
    /// Our callback's URL, as it was sent.
    pub redirect_uri: &'a str,
    /// The verifier of this leg, if it used PKCE.
    pub pkce_verifier: Option<&'a Secret>,
    /// What the leg before left in [`Completion::Continue`].
    pub context: Option<&'a Value>,
    /// The time.
    pub now: EpochMs,
}

/// What a callback leads to.
#[derive(Debug, Clone)]
pub enum Completion {
    /// The grant is proved: bind it.
    Connected(Box<Connected>),
    /// The person has to visit the provider once more ([`Connector::authorize_url`] with this context).
    Continue {
        /// What the next leg needs to know; kept with its state, no secrets.
        context: Value,
    },
    /// Somebody else has to approve first; nothing is bound.
    AwaitsApproval {
        /// The provider's word for it, shown as `setup_action`.
        setup_action: &'static str,
    },
}

/// A proved grant.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The installation's id at the provider.
    pub external_id: ExternalId,
    /// The second id some payloads name (Vercel: configuration id).
    pub alternate_external_id: Option<ExternalId>,
    /// The account.
    pub account: Account,
    /// `Active`, or `Pending` if the provider has yet to confirm it.
    pub status: InstallationStatus,
    /// Its first token; `None` where tokens are minted on demand.
    pub token: Option<FreshToken>,
    /// Shown as `setup_action` at the end, where the provider told one.
    pub setup_action: Option<&'static str>,
    /// Whether the person changed what an installation covers that was there before; it is nobody else's for that.
    pub is_update: bool,
    /// Where the provider wants the browser next (Vercel's `next`), already checked to be the provider's own page.
    pub follow: Option<Url>,
}

/// What a provider says about the account behind a grant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// Its login or slug.
    pub login: Option<String>,
    /// Facts to merge into the installation's `metadata`; `providerUserId` is the person who connected, where known.
    pub metadata: Map<String, Value>,
    /// `provider_account_info`: `version: 1`, `sourceType`, what the provider says. No secrets.
    pub info: Value,
    /// Whether the provider has paused it.
    pub suspended: bool,
}

/// A grant as a connector needs it.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The installation's id at the provider.
    pub external_id: ExternalId,
    /// The second id.
    pub alternate_external_id: Option<ExternalId>,
    /// The account's login or slug.
    pub account_login: Option<String>,
    /// What is kept beside the installation.
    pub metadata: Map<String, Value>,
    /// The time.
    pub now: EpochMs,
}

impl Grant {
    /// The grant of an installation.
    pub fn of(installation: &Installation, now: EpochMs) -> Self {
        Self {
            external_id: installation.external_id.clone(),
            alternate_external_id: installation.alternate_external_id.clone(),
            account_login: installation.account_login.clone(),
            metadata: installation.metadata.clone(),
            now,
        }
    }
}

/// An opened token that we hold.
#[derive(Debug, Clone)]
pub struct HeldToken {
    /// The access token.
    pub access: Secret,
    /// The refresh token.
    pub refresh: Option<Secret>,
}

/// A token just given by the provider.
#[derive(Debug, Clone)]
pub struct FreshToken {
    /// The access token.
    pub access: Secret,
    /// The refresh token; `None` keeps the old one.
    pub refresh: Option<Secret>,
    /// What kind (`bearer`).
    pub token_type: Option<String>,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
    /// When the access token dies: as the answer says, else by the provider's documented lifetime, else never.
    pub expires_at: Option<EpochMs>,
    /// When the refresh token dies, where the provider says.
    pub refresh_expires_at: Option<EpochMs>,
}

/// A resource as the provider lists it for a grant.
#[derive(Debug, Clone, PartialEq)]
pub struct VisibleResource {
    /// Its id there.
    pub id: ProviderResourceId,
    /// Its name.
    pub name: String,
    /// Its full name (`harborworks/tide-clock`), where it has one.
    pub full_name: Option<String>,
    /// Its slug, where events name it by slug.
    pub slug: Option<String>,
    /// Whether it is private, where the provider says.
    pub private: Option<bool>,
    /// Whether it is archived, where the provider says.
    pub archived: Option<bool>,
    /// Its default branch, where it has one.
    pub default_branch: Option<String>,
    /// Further small facts for the resource's `attrs`, in the shape control events use.
    pub attrs: Map<String, Value>,
}

/// A page of resources.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourcePage {
    /// Them.
    pub items: Vec<VisibleResource>,
    /// What to ask for the next page with; `None` at the end.
    pub next_cursor: Option<String>,
    /// How many there are on all pages together, by the count of a provider that counts.
    pub total: Option<usize>,
}

/// A file in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryFile {
    /// Its path.
    pub path: String,
    /// Its size as the provider tells it, bytes; `content` is only fetched up to the limit asked for.
    pub size: u64,
    /// What is in it; `None` if it is larger than the limit.
    pub content: Option<Bytes>,
    /// The provider's hash of this version.
    pub sha: String,
}

/// An API call the proxy may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyEndpoint {
    /// Its name in `execute`.
    pub id: &'static str,
    /// `GET`, `POST`, …
    pub method: &'static str,
    /// Its path below `api_url`; `{name}` is a path parameter, encoded when filled in.
    pub path: &'static str,
    /// One line.
    pub description: &'static str,
}

/// A call of the proxy.
#[derive(Debug, Clone)]
pub struct ProxyCall {
    /// Which endpoint.
    pub endpoint: &'static ProxyEndpoint,
    /// Its path parameters, each to be encoded as one segment.
    pub path_parameters: BTreeMap<String, String>,
    /// The query.
    pub query: Vec<(String, String)>,
    /// A JSON body.
    pub body: Option<Value>,
}

/// What the provider answered to the proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyAnswer {
    /// The status.
    pub status: u16,
    /// The body: JSON as it is, anything else as a string.
    pub data: Value,
    /// Headers in lower case, without cookies and hop-by-hop ones.
    pub headers: BTreeMap<String, String>,
}

/// What a provider ends when it is asked to end a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndOf {
    /// What the token stands for: no grant that has another token, and with a dead token there is none left to end.
    Token,
    /// The installation of this id, whoever has it by then.
    Installation(ExternalId),
}

/// What became of a grant at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It ended because of us.
    Revoked,
    /// It had ended already.
    AlreadyGone,
    /// The provider has no call for it, or the grant lacks the right: people have to do it there. A short code why.
    NotPossible(&'static str),
}

/// A webhook in a provider's own delivery log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedDelivery {
    /// The id to ask for a redelivery with.
    pub log_id: String,
    /// The id every attempt of this webhook carries.
    pub delivery_id: ProviderDeliveryId,
    /// When it was attempted.
    pub at: EpochMs,
    /// Whether the provider counts it as received.
    pub succeeded: bool,
}

/// A page of a delivery log, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// Its entries.
    pub items: Vec<LoggedDelivery>,
    /// What to ask for the next (older) page with.
    pub next_cursor: Option<String>,
    /// How long to wait before the next call, where the provider's rate limit is used up.
    pub wait: Option<Duration>,
}

/// Why a provider's API did not give what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectorError {
    /// A flow cannot be completed; the code goes to the browser (`missing_code`, `access_denied`,
    /// `installation_not_verified`).
    #[error("the flow was refused: {0}")]
    Refused(&'static str),
    /// The provider says that the grant's refresh token, or the grant, is dead (`invalid_grant`).
    #[error("the provider rejected the grant")]
    Rejected,
    /// The access token was not accepted (401).
    #[error("the provider did not accept the token")]
    Unauthorized,
    /// The provider says that the installation does not exist any more.
    #[error("the installation is gone at the provider")]
    Gone,
    /// The provider has paused the installation.
    #[error("the installation is suspended at the provider")]
    Suspended,
    /// The grant may not do that (403), or the thing asked for does not exist in its reach (404).
    #[error("not accessible with this grant")]
    NotAccessible,
    /// The request may have reached the provider and its answer is lost: what it changed is not known.
    #[error("the provider's answer is lost")]
    AnswerLost,
    /// The provider cannot be asked now: unreachable, 5xx or rate limited.
    #[error("the provider cannot be asked now: {why}")]
    Unavailable {
        /// A short text of ours (`answered 503`, `rate limited`, `connection refused`).
        why: String,
        /// When it asks to be asked again.
        retry_after: Option<Duration>,
    },
    /// The provider answered something that is not what its documentation says.
    #[error("the provider's answer cannot be understood: {0}")]
    Malformed(&'static str),
    /// This provider has nothing of the kind.
    #[error("this provider has no such thing")]
    NotSupported,
}

impl ConnectorError {
    /// Without a time to come back.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into(), retry_after: None }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(code) => code,
            Self::Rejected => "token_expired",
            Self::Unauthorized => "connection_expired",
            Self::Gone => "installation_gone",
            Self::Suspended => "installation_not_active",
            Self::NotAccessible => "resource_not_accessible",
            Self::AnswerLost | Self::Unavailable { .. } | Self::Malformed(_) => "provider_unavailable",
            Self::NotSupported => "not_supported",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(_) | Self::Suspended | Self::NotSupported => ErrorKind::BadRequest,
            Self::Rejected | Self::Unauthorized => ErrorKind::Unauthorized,
            Self::Gone | Self::NotAccessible => ErrorKind::NotFound,
            Self::AnswerLost | Self::Unavailable { .. } | Self::Malformed(_) => ErrorKind::Unavailable,
        }
    }
}

/// A provider's asking half. Gets its HTTP client and its settings at construction.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Whether a leg with this context carries a PKCE challenge.
    fn uses_pkce(&self, context: Option<&Value>) -> bool;

    /// The provider's page for one leg of a flow.
    fn authorize_url(&self, leg: &Leg<'_>) -> Result<Url, ConnectorError>;

    /// Turns what came back into a proved grant. Nothing the browser says is believed without the provider's word.
    async fn complete(&self, callback: &Callback<'_>) -> Result<Completion, ConnectorError>;

    /// Whether its tokens are kept in rows; otherwise they are minted on demand and only cached, and every grant has an id of
    /// its own.
    fn keeps_tokens(&self) -> bool {
        true
    }

    /// A new token: minted, or refreshed from the one held. A provider whose tokens neither expire nor refresh answers
    /// the held one again if the provider confirms that the grant lives.
    ///
    /// # Errors
    /// [`ConnectorError::Rejected`] on an explicit verdict; [`ConnectorError::AnswerLost`] if a rotation may have
    /// happened without us learning its result; [`ConnectorError::Gone`], [`ConnectorError::Suspended`].
    async fn renew_token(&self, grant: &Grant, held: Option<&HeldToken>) -> Result<FreshToken, ConnectorError>;

    /// Reads the account with a token; the cheapest call that tells whether the token is alive.
    async fn read_account(&self, grant: &Grant, access: &Secret) -> Result<Account, ConnectorError>;

    /// Tells a provider that wants to hear of it that a `pending` installation has arrived. Asked more than once it does
    /// no harm.
    ///
    /// # Errors
    /// [`ConnectorError::Refused`] if the provider does not take it, the code of which is logged; an outage is to be
    /// outlasted; verdicts on the grant as for any call.
    async fn confirm_arrival(&self, _grant: &Grant, _access: &Secret) -> Result<(), ConnectorError> {
        Err(ConnectorError::NotSupported)
    }

    /// What [`Connector::end_grant`] ends for this grant: what it names in its call.
    fn end_of(&self, grant: &Grant) -> EndOf {
        EndOf::Installation(grant.external_id.clone())
    }

    /// Ends the grant at the provider. Asked more than once it answers [`Ended::AlreadyGone`].
    async fn end_grant(&self, grant: &Grant, held: Option<&HeldToken>) -> Result<Ended, ConnectorError>;

    /// One page of the resources the grant reaches; `cursor` is a former page's `next_cursor`.
    async fn list_resources(
        &self,
        grant: &Grant,
        access: &Secret,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, ConnectorError>;

    /// A file of a repository, its content up to `max_bytes`; `None` if there is none at that path.
    async fn find_file(
        &self,
        _grant: &Grant,
        _access: &Secret,
        _resource: &ProviderResourceId,
        _path: &str,
        _git_ref: Option<&str>,
        _max_bytes: u64,
    ) -> Result<Option<RepositoryFile>, ConnectorError> {
        Err(ConnectorError::NotSupported)
    }

    /// The calls the proxy may make.
    fn proxy_endpoints(&self) -> &'static [ProxyEndpoint];

    /// Makes one of them. 401 is [`ConnectorError::Unauthorized`]; every other status is an answer.
    async fn call(&self, grant: &Grant, access: &Secret, call: &ProxyCall) -> Result<ProxyAnswer, ConnectorError>;

    /// The provider's own log of what it sent us, where it keeps one that can be read and redelivered from.
    fn delivery_log(&self) -> Option<&dyn DeliveryLog> {
        None
    }
}

/// A provider's own delivery log.
#[async_trait]
pub trait DeliveryLog: Send + Sync {
    /// How far back the provider can deliver again.
    fn reach(&self) -> Duration;

    /// One page, newest first.
    async fn list(&self, now: EpochMs, cursor: Option<&str>) -> Result<LogPage, ConnectorError>;

    /// Asks for another delivery of a logged one; false if the provider will not.
    async fn redeliver(&self, now: EpochMs, log_id: &str) -> Result<bool, ConnectorError>;
}
