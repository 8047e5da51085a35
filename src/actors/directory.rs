//! The directory's handle.

use serde_json::Value;

use crate::{
    actors::{AskError, installation::InstallationError},
    model::{
        clock::EpochMs,
        ids::{InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        installation::Installation,
        integration::{Integration, IntegrationStatus},
        log_entry::Actor,
        provider::{ExternalId, ProviderResourceId, ProviderSlug},
        resource::Resource,
    },
};

/// Finds (and starts) the supervisor of an installation. Every write to an installation's rows goes through here.
#[derive(Clone)]
pub struct Directory {}

/// `POST /admin/connections`.
#[derive(Debug, Clone)]
pub struct AdoptInstallation {
    /// At which provider.
    pub provider: ProviderSlug,
    /// Its id there.
    pub external_id: ExternalId,
    /// A second id some payloads name (Vercel: configuration id).
    pub alternate_external_id: Option<ExternalId>,
    /// For which org.
    pub org: OrgId,
    /// By whom.
    pub connected_by: String,
    /// The account's login.
    pub account_login: Option<String>,
    /// Who asks.
    pub actor: Actor,
}

/// Whether an adopted installation is new.
#[derive(Debug, Clone)]
pub struct Adopted {
    /// Its row.
    pub installation: Installation,
    /// False if the same org had it already.
    pub created: bool,
}

/// One resource to link.
#[derive(Debug, Clone)]
pub struct LinkResource {
    /// Its id at the provider.
    pub provider_resource_id: ProviderResourceId,
    /// Its name, when known.
    pub name: Option<String>,
    /// Its slug, when known.
    pub slug: Option<String>,
    /// Small facts, when known.
    pub attrs: serde_json::Map<String, Value>,
}

/// `POST /workspaces/{ws}/integrations`.
#[derive(Debug, Clone)]
pub struct SubscribeWorkspace {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Its resources; linked as well where they are not.
    pub resources: Vec<LinkResource>,
    /// Event keys, already expanded and checked.
    pub events: Vec<String>,
}

/// What a subscription did.
#[derive(Debug, Clone)]
pub struct Subscribed {
    /// How many integrations are new.
    pub created: u32,
    /// How many ended ones live again.
    pub reactivated: u32,
    /// How many were active already.
    pub skipped: u32,
    /// All of them, in the order asked for.
    pub integrations: Vec<(Integration, Resource)>,
}

/// `PATCH /integrations/{id}`: only what is given changes.
#[derive(Debug, Clone, Default)]
pub struct IntegrationPatch {
    /// Event keys, already expanded and checked.
    pub events: Option<Vec<String>>,
    /// Whether it gets events.
    pub auto_sync: Option<bool>,
}

impl Directory {
    /// Adopts an installation that exists at the provider.
    pub async fn adopt(&self, _request: AdoptInstallation) -> Result<Adopted, AskError<InstallationError>> {
        todo!()
    }

    /// Links a resource: routable when this answers.
    pub async fn link_resource(
        &self,
        _id: &InstallationId,
        _resource: LinkResource,
        _actor: Actor,
    ) -> Result<Resource, AskError<InstallationError>> {
        todo!()
    }

    /// Unlinks a resource; its integrations are removed with it.
    pub async fn unlink_resource(
        &self,
        _id: &InstallationId,
        _resource: &ResourceId,
        _actor: Actor,
    ) -> Result<(), AskError<InstallationError>> {
        todo!()
    }

    /// Subscribes a workspace to resources.
    pub async fn subscribe(
        &self,
        _id: &InstallationId,
        _request: SubscribeWorkspace,
        _actor: Actor,
    ) -> Result<Subscribed, AskError<InstallationError>> {
        todo!()
    }

    /// Changes an integration; effective on the next webhook.
    pub async fn patch_integration(
        &self,
        _id: &InstallationId,
        _integration: &IntegrationId,
        _patch: IntegrationPatch,
        _actor: Actor,
    ) -> Result<Integration, AskError<InstallationError>> {
        todo!()
    }

    /// Ends an integration.
    pub async fn end_integration(
        &self,
        _id: &InstallationId,
        _integration: &IntegrationId,
        _status: IntegrationStatus,
        _actor: Actor,
    ) -> Result<Integration, AskError<InstallationError>> {
        todo!()
    }

    /// Destinations of this org changed: its deliveries are readdressed, routes and dispatcher told.
    pub async fn destinations_changed(&self, _org: &OrgId, _now: EpochMs) -> Result<(), AskError<InstallationError>> {
        todo!()
    }

    /// Drops and rebuilds every published route; answers how many installations route.
    pub async fn rebuild_routes(&self) -> Result<usize, AskError<InstallationError>> {
        todo!()
    }

    /// A copy of every live supervisor's state, without secrets.
    pub async fn snapshots(&self) -> Vec<Value> {
        todo!()
    }
}
