//! The webhook router's handle.

use bytes::Bytes;
use serde_json::Value;

use crate::{
    actors::AskError,
    model::{
        clock::EpochMs,
        error_kind::ErrorKind,
        event::EventOutcome,
        ids::{DeliveryId, EventId, InstallationId, IntegrationId, OrgId, QuarantineId},
        log_entry::Actor,
        provider::{ProviderDeliveryId, ProviderSlug},
        webhook::ReceivedWebhook,
    },
    providers::{ExtractError, VerifyError},
    store::StoreError,
};

/// What other rooms hold of a router.
#[derive(Clone)]
pub struct RouterHandle {}

/// Replays, reroutes and releases of stored events; shared by every worker.
#[derive(Clone)]
pub struct MendingHandle {}

/// What the provider is told.
#[derive(Debug, Clone)]
pub enum Receipt {
    /// Committed.
    Accepted {
        /// The provider's id of it.
        delivery_id: ProviderDeliveryId,
        /// Ours.
        event: EventId,
        /// What became of it.
        outcome: EventOutcome,
        /// Whether it waits for its release.
        held: bool,
    },
    /// Committed before.
    Duplicate {
        /// The provider's id of it.
        delivery_id: ProviderDeliveryId,
        /// The event stored then.
        event: EventId,
    },
    /// Its handling failed three times: kept in quarantine, to be released by an operator.
    SetAside {
        /// Where it is kept.
        quarantine: QuarantineId,
    },
}

/// A webhook of the service path: trusted, not signed.
#[derive(Debug, Clone)]
pub struct TrustedWebhook {
    /// At which provider.
    pub provider: ProviderSlug,
    /// The installation.
    pub installation: InstallationId,
    /// The org the writer acts for; must be the installation's.
    pub org: OrgId,
    /// The provider's id of it.
    pub delivery_id: ProviderDeliveryId,
    /// The provider's name of it.
    pub event_type: String,
    /// The JSON text of the payload, as sent.
    pub payload: Bytes,
    /// When the provider sent it.
    pub received_at: EpochMs,
    /// Whether it waits for its release.
    pub hold: bool,
    /// For logs, answers and the destination.
    pub correlation_id: String,
}

/// Why a webhook was not stored.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Not genuine.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Genuine but not understood.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// The service path named no installation we have.
    #[error("no such connection")]
    UnknownInstallation,
    /// The service path named an installation of another org.
    #[error("the connection belongs to another organisation")]
    ForeignInstallation,
    /// The store could not commit in time; nothing was promised.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its handling panicked; it is kept in quarantine.
    #[error("its handling failed")]
    Panicked,
}

impl RouteError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Verify(error) => error.code(),
            Self::Extract(error) => error.code(),
            Self::UnknownInstallation => "not_found",
            Self::ForeignInstallation => "forbidden",
            Self::Store(error) => error.code(),
            Self::Panicked => "internal_error",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Verify(error) => error.kind(),
            Self::Extract(error) => error.kind(),
            Self::UnknownInstallation => ErrorKind::NotFound,
            Self::ForeignInstallation => ErrorKind::Forbidden,
            Self::Store(error) => error.kind(),
            Self::Panicked => ErrorKind::Internal,
        }
    }
}

impl RouterHandle {
    /// Routes a provider's webhook: answers after the commit.
    pub async fn route(&self, _webhook: ReceivedWebhook) -> Result<Receipt, AskError<RouteError>> {
        todo!()
    }

    /// Routes a trusted writer's webhook.
    pub async fn route_trusted(&self, _webhook: TrustedWebhook) -> Result<Receipt, AskError<RouteError>> {
        todo!()
    }
}

/// What replaying an event did.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The new deliveries.
    pub deliveries: Vec<(DeliveryId, IntegrationId)>,
}

/// What rerouting did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rerouted {
    /// Events looked at.
    pub considered: u64,
    /// Events that have deliveries now.
    pub routed: u64,
    /// Events that now match an integration that does not want them.
    pub filtered: u64,
}

/// What checking the quarantine again did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reverified {
    /// Webhooks looked at.
    pub considered: u64,
    /// Those that verify now and are events.
    pub accepted: u64,
    /// Those that verify now and were events already.
    pub duplicates: u64,
    /// Those that still do not.
    pub rejected: u64,
}

/// What `POST /admin/replay/catchup` did.
#[derive(Debug, Clone, Default)]
pub struct CaughtUp {
    /// The events replayed, with the provider's ids.
    pub replayed: Vec<(EventId, ProviderDeliveryId)>,
    /// How many are left.
    pub remaining: u64,
}

/// `POST /admin/replay/catchup`.
#[derive(Debug, Clone)]
pub struct CatchUp {
    /// Whose events.
    pub installation: InstallationId,
    /// How many in this call.
    pub batch_size: u32,
    /// Received at or after.
    pub since: Option<EpochMs>,
    /// Received before.
    pub until: Option<EpochMs>,
}

impl MendingHandle {
    /// New deliveries of an event: to `only`, or to every integration that matches it now. `None` if there is no such
    /// event.
    pub async fn replay_event(
        &self,
        _event: &EventId,
        _only: Option<&[IntegrationId]>,
        _actor: &Actor,
    ) -> Result<Option<Replayed>, StoreError> {
        todo!()
    }

    /// Routes an installation's unrouted events received at or after `since`.
    pub async fn reroute(
        &self,
        _id: &InstallationId,
        _since: Option<EpochMs>,
        _actor: &Actor,
    ) -> Result<Rerouted, StoreError> {
        todo!()
    }

    /// Lets an installation's held events go, oldest first; answers how many.
    pub async fn release_held(&self, _id: &InstallationId, _actor: &Actor) -> Result<u64, StoreError> {
        todo!()
    }

    /// Tries every dead delivery again whose event has this provider delivery id.
    pub async fn replay_dead(
        &self,
        _org: Option<&OrgId>,
        _provider: &str,
        _delivery_id: &ProviderDeliveryId,
        _actor: &Actor,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        todo!()
    }

    /// Replays what an installation's integrations missed: dead deliveries, and unrouted events that route now.
    pub async fn catch_up(&self, _request: CatchUp, _actor: &Actor) -> Result<CaughtUp, StoreError> {
        todo!()
    }

    /// Checks quarantined webhooks again; those that verify enter at the step "extract".
    pub async fn reverify(&self, _provider: Option<&str>, _actor: &Actor) -> Result<Reverified, StoreError> {
        todo!()
    }

    /// A copy of the routers' state for people.
    pub async fn snapshot(&self) -> Value {
        todo!()
    }
}
