//! The installation supervisor: one actor per installation, the only one on this node that edits its installation's rows.
//!
//! **Owns** the newest route table of its installation and its publishing, its opened token, and its ending. **Invariants**: edits happen one
//! at a time, each a decision from `state.rs` inside one store transaction; what routers read is published before the
//! editor gets its answer, so the very next webhook sees it; nobody outside this folder holds an `Addr`. One search for a
//! token at a time, shared by all who ask, and one runner of the teardown. **Must not know** HTTP, SQL or a provider's
//! payloads.

mod actor;
pub(crate) mod binding;
pub(crate) mod confirmation;
pub(crate) mod control;
mod health;
mod messages;
mod renewal;
pub(crate) mod resumption;
pub(crate) mod state;
pub(crate) mod teardown;
mod teardown_run;
#[cfg(test)]
mod tests;
mod token_search;
mod token_slot;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, ArbiterHandle, Context};
use serde::Serialize;
use tokio::sync::mpsc;

pub use self::health::{ProviderState, installation_health};
pub use self::teardown::DISCONNECTED;
pub(crate) use self::token_slot::LONGEST_MARGIN;
use self::{
    actor::InstallationSupervisor,
    messages::{
        Decide, Drain, EditRecord, ForgetRows, GetRoutes, GetSnapshot, GetToken, NoteProvider, Reload, ResumeTeardown,
    },
    state::Edit,
};
use super::{
    AskError,
    backfill::BackfillHook,
    runtime::ask,
    tokens::{AccessToken, TokenError},
};
use crate::{
    cache::RouteCache,
    model::{
        clock::{Clock, EpochMs, Ids},
        error_kind::ErrorKind,
        ids::{DestinationId, InstallationId, OrgId, ResourceId},
        installation::InstallationStatus,
        log_entry::Actor as ActingFor,
        provider::ProviderSlug,
        routes::RouteTable,
    },
    providers::{Provider, Registry},
    store::{InstallationRecord, SharedStore, StoreError},
    telemetry::metrics::Metrics,
    vault::Vault,
};

/// The longest an asker waits.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// The longest an answer of the provider's waits until the connection's health tells of it.
const NOTE_LIMIT: Duration = Duration::from_secs(1);
/// The longest somebody waits for a token: another node's renewal, then one of our own.
const TOKEN_LIMIT: Duration = Duration::from_secs(45);

/// Why a supervisor refused.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// No such installation, resource or integration.
    #[error("not found")]
    NotFound,
    /// The installation does not accept links in this state.
    #[error("the connection is {0}")]
    NotActive(InstallationStatus),
    /// The external id belongs to another org's live installation.
    #[error("another organisation has connected this installation")]
    AlreadyBound,
    /// The resource is linked.
    #[error("the resource is linked already")]
    ResourceAlreadyLinked(ResourceId),
    /// The resource was unlinked before.
    #[error("the resource was removed already")]
    AlreadyRemoved,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The edit panicked; nothing was kept.
    #[error("the edit failed")]
    Crashed,
}

impl InstallationError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::NotActive(_) => "installation_not_active",
            Self::AlreadyBound => "installation_already_bound",
            Self::ResourceAlreadyLinked(_) => "resource_already_linked",
            Self::AlreadyRemoved => "already_removed",
            Self::Store(error) => error.code(),
            Self::Crashed => "internal_error",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::NotActive(_) | Self::AlreadyRemoved => ErrorKind::BadRequest,
            Self::AlreadyBound | Self::ResourceAlreadyLinked(_) => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
            Self::Crashed => ErrorKind::Internal,
        }
    }
}

/// What supervisors need of the other rooms: one for all of them, because there can be a hundred thousand.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct SupervisorDeps {
    pub store: SharedStore,
    pub routes: RouteCache,
    pub fallback_destination: Option<DestinationId>,
    pub registry: Arc<Registry>,
    pub vault: Arc<Vault>,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    pub ids: Ids,
    /// This node's name in claims and leases.
    pub node: String,
    pub backfill: Option<BackfillHook>,
    /// Told about every installation that was connected or gained a link.
    pub linked: mpsc::UnboundedSender<InstallationId>,
    /// Ends the process after the commit of this step (`<work>.<step>`); for tests.
    pub crash_after: Option<String>,
}

impl SupervisorDeps {
    /// For tests: the end of the process at a chosen place.
    pub fn crash_after(&self, work: &str, step: &str) {
        let chosen = self.crash_after.as_deref().and_then(|chosen| chosen.split_once('.'));
        if chosen == Some((work, step)) {
            std::process::abort();
        }
    }

    /// Tells whoever waits for connections and links (late binding, the backfill service) of this installation.
    pub fn announce_link(&self, id: &InstallationId) {
        if self.linked.send(id.clone()).is_err() {
            tracing::debug!(installation.id = %id, "nobody listens for links any more");
        }
    }

    /// A decision to be made by the supervisor, with what edits need.
    pub fn decision<T>(
        &self,
        actor: ActingFor,
        decide: impl FnOnce(&mut InstallationRecord, &Edit<'_>) -> Result<T, InstallationError> + Send + 'static,
    ) -> Decide<T> {
        let (registry, ids, now) = (self.registry.clone(), self.ids.clone(), self.clock.now());
        let tells_backfill = self.backfill.is_some();
        Box::new(move |record: &mut InstallationRecord| {
            let provider = registry.find(record.installation.provider.as_str()).ok_or(InstallationError::NotFound)?;
            let provider: &dyn Provider = provider.as_ref();
            decide(record, &Edit { now, ids: &ids, actor: &actor, provider, tells_backfill })
        })
    }
}

/// What a supervisor knows of its installation's token, for people.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenSnapshot {
    /// `unknown` until somebody asks, `held`, or `searching`.
    pub state: &'static str,
    /// Which token of its installation the last one given was.
    pub generation: Option<u64>,
    /// When that one ends by itself.
    pub expires_at: Option<EpochMs>,
    /// How many wait for one.
    pub waiting: usize,
}

/// A supervisor's state, for people.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SupervisorSnapshot {
    /// Whose it is.
    pub installation_id: InstallationId,
    /// At which provider, once read.
    pub provider: Option<ProviderSlug>,
    /// Its state, once read.
    pub status: Option<InstallationStatus>,
    /// Resources, removed ones included.
    pub resources: usize,
    /// Integrations, ended ones included.
    pub integrations: usize,
    /// How often it read its rows.
    pub loads: u64,
    /// How often it was asked to write them.
    pub edits: u64,
    /// Its token, without the token.
    pub token: TokenSnapshot,
    /// Whether it is ending the installation right now.
    pub tearing_down: bool,
    /// How long nobody has asked it, milliseconds.
    pub idle_ms: u64,
}

/// What other rooms hold of a supervisor.
#[derive(Clone)]
pub struct InstallationHandle {
    address: Addr<InstallationSupervisor>,
}

impl InstallationHandle {
    /// Starts a supervisor on an arbiter.
    pub(crate) fn start(id: InstallationId, deps: Arc<SupervisorDeps>, on: &ArbiterHandle) -> Self {
        let address =
            InstallationSupervisor::start_in_arbiter(on, move |_ctx: &mut Context<InstallationSupervisor>| {
                InstallationSupervisor::new(id, deps)
            });
        Self { address }
    }

    /// Whether it still answers.
    pub(crate) fn is_alive(&self) -> bool {
        self.address.connected()
    }

    /// The route table, read now if it is not at hand.
    pub async fn routes(&self) -> Result<Arc<RouteTable>, AskError<InstallationError>> {
        ask(&self.address, GetRoutes { asked_at: Instant::now() }, ASK_LIMIT).await
    }

    /// Makes a decision about the installation's rows.
    pub(crate) async fn edit<T: Send + 'static>(&self, decide: Decide<T>) -> Result<T, AskError<InstallationError>> {
        ask(&self.address, EditRecord { decide }, ASK_LIMIT).await
    }

    /// A token that lives; not the one of generation `rejected`.
    pub(crate) async fn token(&self, rejected: Option<u64>) -> Result<AccessToken, AskError<TokenError>> {
        ask(&self.address, GetToken { rejected }, TOKEN_LIMIT).await
    }

    /// Makes it go on with the teardown. One that does not hear it is asked again.
    pub(crate) fn resume_teardown(&self) {
        if let Err(error) = self.address.try_send(ResumeTeardown) {
            tracing::debug!(%error, "a supervisor is busy; its teardown goes on later");
        }
    }

    /// Tells it how the provider's side is. If it does not hear it, the next call tells.
    pub(crate) async fn note_provider(&self, state: ProviderState) {
        if let Err(error) = ask(&self.address, NoteProvider { state }, NOTE_LIMIT).await {
            tracing::debug!(%error, "the provider's health is told later");
        }
    }

    /// Reads the rows again and publishes them.
    pub(crate) async fn reload(&self, only_of: Option<OrgId>) -> Result<(), AskError<InstallationError>> {
        ask(&self.address, Reload { only_of }, ASK_LIMIT).await
    }

    /// Makes it forget what the rows said.
    pub(crate) async fn forget_rows(&self) -> Result<(), AskError<InstallationError>> {
        ask(&self.address, ForgetRows, ASK_LIMIT).await
    }

    /// A copy of its state.
    pub(crate) async fn snapshot(&self) -> Result<SupervisorSnapshot, AskError<InstallationError>> {
        ask(&self.address, GetSnapshot, ASK_LIMIT).await
    }

    /// Finishes what is under way and stops.
    pub(crate) async fn drain(&self) -> Result<(), AskError<InstallationError>> {
        ask(&self.address, Drain, ASK_LIMIT).await
    }
}
