//! The store's operations for people who look: lists across an org, searches, counts, activity.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{ApiKey, Page, PageRequest, Quarantined, StoreResult};
use crate::model::{
    activity::Activity,
    clock::EpochMs,
    delivery::{Attempt, Delivery, DeliveryStatus},
    destination::Destination,
    event::Event,
    ids::{DeliveryId, DestinationId, EventId, InstallationId, IntegrationId, OrgId, QuarantineId, WorkspaceId},
};

/// What a search found, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where to go on; `None` when everything was looked at.
    pub next_cursor: Option<String>,
    /// Set when the search stopped before it had a page, because it had looked at as much as one search may: nothing
    /// older than this was looked at yet.
    pub searched_back_to: Option<EpochMs>,
}

/// How many there are, as far as it was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundedCount {
    /// Those that were counted.
    pub count: u64,
    /// Whether there may be more.
    pub more: bool,
}

/// An org, by what there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgSummary {
    /// Its id.
    pub org: OrgId,
    /// Its installations by status word.
    pub installations: BTreeMap<String, u64>,
    /// Its destinations, of any scope.
    pub destinations: u64,
}

/// A workspace, by what there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceSummary {
    /// Its id.
    pub workspace: WorkspaceId,
    /// Its integrations by provider, then by status word; one that is active and has `autoSync: false` counts as paused.
    pub integrations: BTreeMap<String, BTreeMap<String, u64>>,
    /// Its own destination.
    pub destination: Option<DestinationId>,
}

/// Which deliveries are searched for.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Only this org's; `None` is every org.
    pub org: Option<OrgId>,
    /// Only in this state.
    pub status: Option<DeliveryStatus>,
    /// Only to integrations of this provider.
    pub provider: Option<String>,
    /// Only to integrations of this installation.
    pub installation: Option<InstallationId>,
    /// Only to this workspace.
    pub workspace: Option<WorkspaceId>,
    /// Only to this integration.
    pub integration: Option<IntegrationId>,
    /// Only to this destination.
    pub destination: Option<DestinationId>,
    /// Only of this event.
    pub event: Option<EventId>,
    /// Made at or after.
    pub since: Option<EpochMs>,
    /// Made before.
    pub until: Option<EpochMs>,
}

/// What people look at. Part of [`super::Store`]. Whatever is asked for, an operation reads a bounded number of rows.
#[async_trait]
pub trait OverviewStore: Send + Sync + 'static {
    /// Orgs that have an installation, a destination or a live key, by id; only those whose id begins with `prefix`,
    /// where one is given. The cursor is an org's id.
    async fn list_orgs(&self, prefix: &str, page: PageRequest<'_>) -> StoreResult<Page<OrgSummary>>;

    /// One org's summary, whether there is anything of it or not.
    async fn summarize_org(&self, org: &OrgId) -> StoreResult<OrgSummary>;

    /// Workspaces that have an integration or a destination, by id. The cursor is a workspace's id.
    async fn list_workspaces(&self, org: &OrgId, page: PageRequest<'_>) -> StoreResult<Page<WorkspaceSummary>>;

    /// A page of an org's destinations, oldest first.
    async fn list_destinations_page(&self, org: &OrgId, page: PageRequest<'_>) -> StoreResult<Page<Destination>>;

    /// A page of the destinations of an org, or of all, that nothing is sent to any more, oldest first.
    async fn list_disabled_destinations(
        &self,
        org: Option<&OrgId>,
        page: PageRequest<'_>,
    ) -> StoreResult<Page<Destination>>;

    /// Deliveries with their events, newest first.
    async fn search_deliveries(
        &self,
        filter: &DeliveryFilter,
        page: PageRequest<'_>,
    ) -> StoreResult<Found<(Delivery, Event)>>;

    /// How many there are, counted up to `limit`.
    async fn count_deliveries(&self, filter: &DeliveryFilter, limit: u32) -> StoreResult<BoundedCount>;

    /// A delivery's attempts, oldest first.
    async fn list_attempts(&self, delivery: &DeliveryId) -> StoreResult<Vec<Attempt>>;

    /// A page of keys, newest first, revoked ones included; of one org, or all.
    async fn list_keys_page(&self, org: Option<&OrgId>, page: PageRequest<'_>) -> StoreResult<Page<ApiKey>>;

    /// One quarantined webhook with its body.
    async fn find_quarantined(&self, id: &QuarantineId) -> StoreResult<Option<Quarantined>>;

    /// Adds to what is counted. The buckets are minutes, each named once.
    async fn add_activity(&self, counted: &[Activity]) -> StoreResult<()>;

    /// What was counted of an org (`None`: of everybody together) from `since` on, before `until`, in buckets of that
    /// many minutes; only those in which anything was.
    async fn list_activity(
        &self,
        org: Option<&OrgId>,
        since: EpochMs,
        until: EpochMs,
        minutes: u32,
    ) -> StoreResult<Vec<Activity>>;
}
