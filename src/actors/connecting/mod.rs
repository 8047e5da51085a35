//! Connecting: one attempt of a person to connect a provider, from the address they open to where their browser ends.
//!
//! **Owns** the rows of flows, their states, cookies and PKCE verifiers, and through [`Binder`] what a proved grant
//! does to installations. Plain async functions; no actor is needed, because one statement of the store decides who takes
//! a state. **Invariants**: a state is good once, for ten minutes, for its provider and for the browser that opened it;
//! what is stored of states and cookies is a hash, and verifiers are sealed; nothing is bound without the provider's
//! own word; how a flow ended is written before its browser is sent on; every bad state looks alike and costs the same.
//! **Must not know** HTTP, or any provider.

mod callback;
mod ending;
mod public_url;

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use url::Url;

pub use self::{
    callback::{Arrival, Arrived},
    ending::{Destination, FlowEnd, INLINE},
    public_url::PublicUrl,
};
use crate::{
    actors::{
        AskError,
        binding::{AdoptInstallation, Binder, Bound},
        installation::InstallationError,
    },
    config::ConsoleConfig,
    crypto::nonce,
    model::{
        clock::{Clock, EpochMs, Ids},
        error_kind::ErrorKind,
        ids::{InstallationId, OrgId},
        installation::Installation,
        log_entry::{Actor, LogEntry},
        oauth_flow::{FlowStatus, OAuthFlow, TokenHash},
        provider::ProviderSlug,
        secret::Secret,
    },
    providers::{Connector, ConnectorError, ConnectorSettingError, Registry, connector::Leg},
    store::{SharedStore, StoreError},
    vault::{SealedAt, Vault, VaultError},
};

/// How long a state is good.
pub const STATE_LIFE: Duration = Duration::from_mins(10);
/// How long it is told how a flow ended.
pub const RESULT_LIFE: Duration = Duration::from_mins(5);
/// The longest state that is looked at, characters.
const MAX_STATE_CHARS: usize = 128;
const TABLE: &str = "gw_oauth_states";

/// Why a flow could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum ConnectingError {
    /// No provider of that name is enabled.
    #[error("the provider is unknown or disabled")]
    UnknownProvider,
    /// A setting is missing without which the provider cannot connect.
    #[error(transparent)]
    NotConfigured(ConnectorSettingError),
    /// A flow may not end there.
    #[error("a flow may not end there")]
    RedirectRefused,
    /// The state is missing, unknown, used, expired, another provider's or another browser's.
    #[error("the state is not good")]
    BadState,
    /// The provider's page cannot be named.
    #[error("the provider's page: {0}")]
    Provider(#[from] ConnectorError),
    /// A verifier cannot be sealed or does not open.
    #[error("sealing: {0}")]
    Sealing(#[from] VaultError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work panicked.
    #[error("the request failed")]
    Crashed,
}

impl ConnectingError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownProvider => "unknown_provider",
            Self::NotConfigured(_) => "connecting_not_configured",
            Self::RedirectRefused => "invalid_redirect_to",
            Self::BadState => "invalid_or_expired_state",
            Self::Provider(_) | Self::Sealing(_) | Self::Crashed => "internal_error",
            Self::Store(error) => error.code(),
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownProvider | Self::NotConfigured(_) | Self::RedirectRefused | Self::BadState => {
                ErrorKind::BadRequest
            }
            Self::Provider(_) | Self::Sealing(_) | Self::Crashed => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

/// A flow to be begun.
#[derive(Debug, Clone)]
pub struct BeginFlow {
    /// At which provider.
    pub provider: String,
    /// For which org.
    pub org: OrgId,
    /// Where the browser is to end; `None` for the console.
    pub redirect_to: Option<String>,
    /// Who begins it, and for whom.
    pub actor: Actor,
}

/// A flow that has begun.
#[derive(Debug)]
pub struct Begun {
    /// What the person's browser opens.
    pub url: Url,
    /// Names the flow for [`ConnectingHandle::status`].
    pub state: Secret,
}

/// What the launch page does.
#[derive(Debug)]
pub struct Launch {
    /// The provider's page.
    pub location: Url,
    /// What the browser is to keep.
    pub cookie: Secret,
}

/// How far a flow is, as its org is told.
#[derive(Debug, Clone, PartialEq)]
pub enum FlowState {
    /// Not finished, or waiting for somebody's approval at the provider.
    Pending {
        /// Further members.
        result: Map<String, Value>,
    },
    /// Connected.
    Completed {
        /// At which provider.
        provider: ProviderSlug,
        /// What.
        installation: InstallationId,
        /// Further members.
        result: Map<String, Value>,
    },
    /// It failed.
    Failed {
        /// At which provider.
        provider: ProviderSlug,
        /// The code of what went wrong.
        error: String,
    },
    /// Unknown, expired, or another org's.
    Expired,
}

/// What connecting needs of the other rooms.
pub struct ConnectingDeps {
    /// Flows, and everything else.
    pub store: SharedStore,
    /// The providers and their connectors.
    pub registry: Arc<Registry>,
    /// Seals verifiers.
    pub vault: Arc<Vault>,
    /// Binds proved grants.
    pub binder: Binder,
    /// What providers and browsers call us.
    pub public_url: PublicUrl,
    /// `[console]`
    pub console: ConsoleConfig,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Ids,
}

/// Begins, launches, completes and tells of flows.
#[derive(Clone)]
pub struct ConnectingHandle {
    deps: Arc<ConnectingDeps>,
}

impl ConnectingHandle {
    /// A handle over these.
    pub fn new(deps: ConnectingDeps) -> Self {
        Self { deps: Arc::new(deps) }
    }

    /// What providers and browsers call us.
    pub fn public_url(&self) -> &PublicUrl {
        &self.deps.public_url
    }

    /// Begins a flow: a state that only the caller knows, and the address of our launch page.
    ///
    /// # Errors
    /// [`ConnectingError`] if the provider is not enabled or cannot connect, if a flow may not end where it is asked to,
    /// or if the vault or the store fails.
    pub async fn begin(&self, request: BeginFlow) -> Result<Begun, ConnectingError> {
        let (provider, connector) = self.connector(&request.provider)?;
        if let Some(address) = &request.redirect_to
            && !ending::is_allowed(address, Some(ending::console_of(&self.deps.console, self.deps.public_url.base())))
        {
            return Err(ConnectingError::RedirectRefused);
        }
        let state = nonce::generate();
        let state_hash = nonce::hash(text(&state));
        let now = self.deps.clock.now();
        let flow = OAuthFlow {
            state_hash,
            root_hash: None,
            provider,
            org: request.org,
            user: request.actor.user.clone(),
            actor: request.actor,
            cookie_hash: None,
            pkce_verifier_sealed: self.fresh_verifier(connector.as_ref(), &state_hash, None)?,
            redirect_to: request.redirect_to,
            context: None,
            status: FlowStatus::Pending,
            error: None,
            installation: None,
            result: Map::new(),
            created_at: now,
            expires_at: now.plus(STATE_LIFE),
            taken_at: None,
            finished_at: None,
        };
        let entry = LogEntry {
            org: Some(flow.org.clone()),
            reason: Some(provider.to_string()),
            ..LogEntry::new(self.deps.ids.log(), "connecting.began", flow.actor.clone(), now)
        };
        self.deps.store.insert_flow(&flow, Some(&entry)).await?;
        let url = self.deps.public_url.join(&format!("/connect/{provider}/{}", text(&state)));
        Ok(Begun { url, state })
    }

    /// Binds the browser that opens the launch page to the flow. A browser that has our cookie keeps it, so that several
    /// flows of one person do not end each other.
    ///
    /// # Errors
    /// [`ConnectingError::BadState`], whatever is wrong with the state; or the provider, the vault or the store fails.
    pub async fn launch(&self, provider: &str, state: &str, cookie: Option<&str>) -> Result<Launch, ConnectingError> {
        let (provider, connector) = self.connector(provider)?;
        let kept = cookie.filter(|cookie| nonce::is_well_formed(cookie)).and_then(Secret::new);
        let cookie = kept.unwrap_or_else(nonce::generate);
        let (state_hash, cookie_hash) = (hash_state(Some(state)), nonce::hash(text(&cookie)));
        let bound = self.deps.store.bind_flow(&state_hash, provider, &cookie_hash, self.deps.clock.now()).await?;
        let flow = bound.ok_or(ConnectingError::BadState)?;
        let location = self.leg_url(connector.as_ref(), &flow, state)?;
        Ok(Launch { location, cookie })
    }

    /// How far the flow of a state is; `org` is whom the caller acts for.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn status(&self, state: &str, org: Option<&OrgId>) -> Result<FlowState, ConnectingError> {
        let asked = self.deps.store.find_flow(&hash_state(Some(state))).await?;
        let root = match asked.as_ref().and_then(|leg| leg.root_hash) {
            Some(root) => self.deps.store.find_flow(&root).await?,
            None => asked,
        };
        let visible = root.filter(|flow| org.is_none_or(|org| *org == flow.org));
        Ok(visible.map_or(FlowState::Expired, |flow| state_of(flow, self.deps.clock.now())))
    }

    /// Adopts an installation on an operator's word.
    ///
    /// # Errors
    /// As [`Binder::adopt`].
    pub async fn adopt(
        &self,
        request: AdoptInstallation,
    ) -> Result<(Installation, Bound), AskError<InstallationError>> {
        self.deps.binder.adopt(request).await
    }

    fn connector(&self, slug: &str) -> Result<(ProviderSlug, &Arc<dyn Connector>), ConnectingError> {
        let (provider, _) = self.deps.registry.find_enabled(slug).ok_or(ConnectingError::UnknownProvider)?;
        let slug = provider.slug();
        match self.deps.registry.find_connector(slug) {
            Some(Ok(connector)) => Ok((slug, connector)),
            Some(Err(missing)) => Err(ConnectingError::NotConfigured(missing.clone())),
            // An enabled provider has a connector, or what it lacks; so this one is not enabled for anything but webhooks.
            None => Err(ConnectingError::UnknownProvider),
        }
    }

    /// A sealed verifier for a leg, if it uses one.
    fn fresh_verifier(
        &self,
        connector: &dyn Connector,
        state: &TokenHash,
        context: Option<&Value>,
    ) -> Result<Option<String>, ConnectingError> {
        if !connector.uses_pkce(context) {
            return Ok(None);
        }
        let row = hex::encode(state);
        Ok(Some(self.deps.vault.seal(verifier_place(&row), nonce::generate().expose())?))
    }

    fn open_verifier(&self, flow: &OAuthFlow) -> Result<Option<Secret>, ConnectingError> {
        let row = hex::encode(flow.state_hash);
        let sealed = flow.pkce_verifier_sealed.as_ref();
        Ok(sealed.map(|sealed| self.deps.vault.open(verifier_place(&row), sealed)).transpose()?)
    }

    /// The provider's page for a leg.
    fn leg_url(&self, connector: &dyn Connector, flow: &OAuthFlow, state: &str) -> Result<Url, ConnectingError> {
        let challenge = self.open_verifier(flow)?.as_ref().map(nonce::pkce_challenge);
        let redirect_uri = self.deps.public_url.callback(flow.provider);
        let leg = Leg {
            state,
            redirect_uri: redirect_uri.as_str(),
            pkce_challenge: challenge.as_deref(),
            context: flow.context.as_ref(),
        };
        Ok(connector.authorize_url(&leg)?)
    }
}

/// Where the PKCE verifier of a leg is sealed; `row` is its state's hash in hex.
fn verifier_place(row: &str) -> SealedAt<'_> {
    SealedAt { table: TABLE, row, column: "pkce_verifier" }
}

/// The text of a value that was made as text.
fn text(value: &Secret) -> &str {
    value.expose_str().unwrap_or_default()
}

/// The hash a state is known by; what cannot be one hashes like a state that nobody has.
fn hash_state(state: Option<&str>) -> TokenHash {
    nonce::hash(state.filter(|state| state.len() <= MAX_STATE_CHARS).unwrap_or_default())
}

fn state_of(flow: OAuthFlow, now: EpochMs) -> FlowState {
    // While a state that was taken is worked on, or its second leg is under way, the flow lives on.
    let valid_until = match (flow.finished_at, flow.taken_at) {
        (None, Some(taken_at)) => flow.expires_at.max(taken_at.plus(STATE_LIFE)),
        _ => flow.expires_at,
    };
    if now >= valid_until {
        return FlowState::Expired;
    }
    match (flow.status, flow.installation) {
        (FlowStatus::Pending, _) => FlowState::Pending { result: flow.result },
        (FlowStatus::Completed, Some(installation)) => {
            FlowState::Completed { provider: flow.provider, installation, result: flow.result }
        }
        (FlowStatus::Completed | FlowStatus::Failed, _) => FlowState::Failed {
            provider: flow.provider,
            error: flow.error.unwrap_or_else(|| "internal_error".to_owned()),
        },
    }
}
