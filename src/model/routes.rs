//! The route table of an installation: what a router needs to know to fan an event out, and nothing more.

use std::collections::HashMap;

use super::{
    ids::{DestinationId, InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
    installation::InstallationStatus,
    integration::{IntegrationStatus, SyncRules},
    provider::{ExternalId, ProviderResourceId, ProviderSlug},
    resource::ResourceStatus,
};

/// A snapshot of an installation, published by its supervisor and read by every router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTable {
    /// Our id.
    pub installation: InstallationId,
    /// At which provider.
    pub provider: ProviderSlug,
    /// Its id there.
    pub external_id: ExternalId,
    /// The second id some payloads name.
    pub alternate_external_id: Option<ExternalId>,
    /// Whose it is.
    pub org: OrgId,
    /// Its state.
    pub status: InstallationStatus,
    /// Its resources by their id at the provider, removed ones included.
    pub resources: HashMap<ProviderResourceId, ResourceRoute>,
    /// The ids of its linked resources by slug.
    pub slugs: HashMap<String, ProviderResourceId>,
}

/// A resource and who subscribes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRoute {
    /// Our id.
    pub id: ResourceId,
    /// Its id at the provider.
    pub provider_resource_id: ProviderResourceId,
    /// Its state.
    pub status: ResourceStatus,
    /// Every integration that ever subscribed, oldest first.
    pub integrations: Vec<IntegrationRoute>,
}

/// An integration as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrationRoute {
    /// Our id.
    pub id: IntegrationId,
    /// Whose.
    pub workspace: WorkspaceId,
    /// Its state.
    pub status: IntegrationStatus,
    /// What it wants.
    pub rules: SyncRules,
    /// Where its envelopes go; `None` while no destination exists.
    pub destination: Option<DestinationId>,
}
