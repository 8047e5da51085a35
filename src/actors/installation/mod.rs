//! The installation supervisor: one actor per installation, the only writer of its installation's rows on this node.
//!
//! **Owns** the newest route table of its installation and its publishing. **Invariants**: edits happen one
//! at a time, each a decision from `state.rs` inside one store transaction; what routers read is published before the
//! editor gets its answer, so the very next webhook sees it; nobody outside this folder holds an `Addr`. Tokens will live
//! here too (they come with the connections). **Must not know** HTTP, SQL or a provider's payloads.

mod actor;
pub(crate) mod control;
mod health;
mod messages;
pub(crate) mod state;
pub(crate) mod teardown;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, ArbiterHandle, Context};
use serde::Serialize;

pub use self::health::{ProviderState, connection_health};
use self::{
    actor::InstallationSupervisor,
    messages::{Decide, Drain, EditRecord, GetRoutes, GetSnapshot, Reload},
};
use super::{AskError, runtime::ask};
use crate::{
    cache::RouteCache,
    model::{
        error_kind::ErrorKind,
        ids::{DestinationId, InstallationId, OrgId, ResourceId},
        installation::InstallationStatus,
        provider::ProviderSlug,
        routes::RouteTable,
    },
    store::{SharedStore, StoreError},
};

/// The longest an asker waits.
const ASK_LIMIT: Duration = Duration::from_secs(10);

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

/// What a supervisor needs of the other rooms.
#[derive(Clone)]
pub(crate) struct SupervisorDeps {
    pub store: SharedStore,
    pub routes: RouteCache,
    pub fallback_destination: Option<DestinationId>,
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
    pub(crate) fn start(id: InstallationId, deps: SupervisorDeps, on: &ArbiterHandle) -> Self {
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

    /// Reads the rows again and publishes them.
    pub(crate) async fn reload(&self, only_of: Option<OrgId>) -> Result<(), AskError<InstallationError>> {
        ask(&self.address, Reload { only_of }, ASK_LIMIT).await
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
