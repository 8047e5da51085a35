//! The directory: finds the supervisor of an installation, starts it on demand, starts it anew after a panic, forgets it
//! when idle. Every edit of an installation's rows goes through here.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use actix::Arbiter;
use dashmap::DashMap;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    actors::{
        AskError,
        backfill::BackfillHook,
        dispatcher::DispatcherHandle,
        installation::{
            InstallationError, InstallationHandle, SupervisorDeps, control,
            state::{self, Edit},
        },
        last_seen::LastSeen,
        runtime::isolate,
    },
    cache::RouteCache,
    delivery::plan::MatchedBy,
    model::{
        clock::{Clock, EpochMs, Ids},
        ids::{DestinationId, InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        installation::Installation,
        integration::{Integration, IntegrationStatus},
        log_entry::Actor,
        provider::{ExternalId, ProviderResourceId, ProviderSlug},
        resource::Resource,
        routes::RouteTable,
    },
    providers::{ControlChange, Registry},
    store::{InstallationRecord, SharedStore, StoreError, ToReaddress},
    telemetry::metrics::Metrics,
    vault::Vault,
};

/// Finds (and starts) the supervisor of an installation.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

struct Shared {
    supervisors: DashMap<InstallationId, InstallationHandle>,
    arbiter: Arbiter,
    deps: Arc<SupervisorDeps>,
    dispatcher: DispatcherHandle,
    seen: LastSeen,
    config_files: Arc<[String]>,
    background: Semaphore,
}

/// Things done at the same time beside what anybody waits for.
const IN_BACKGROUND: usize = 4;

/// What the directory needs of the other rooms.
pub struct DirectoryDeps {
    /// The rows.
    pub store: SharedStore,
    /// Where supervisors publish.
    pub routes: RouteCache,
    /// The providers.
    pub registry: Arc<Registry>,
    /// Told when destinations change.
    pub dispatcher: DispatcherHandle,
    /// The configured default destination, if there is one.
    pub fallback_destination: Option<DestinationId>,
    /// Where a repository's config file is looked for.
    pub config_files: Vec<String>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Ids,
    /// Opens and seals tokens.
    pub vault: Arc<Vault>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// This node's name in claims and leases.
    pub node: String,
    /// The backfill service, where one is configured.
    pub backfill: Option<BackfillHook>,
    /// Ends the process right after the commit of this step (`teardown.close_gate`); for tests.
    pub crash_after: Option<String>,
    /// Told about every installation that was connected or gained a link: late binding listens.
    pub linked: mpsc::UnboundedSender<InstallationId>,
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
    /// A directory without a supervisor yet. Needs a running actix system.
    pub fn start(deps: DirectoryDeps) -> Self {
        Self {
            shared: Arc::new(Shared {
                supervisors: DashMap::new(),
                arbiter: Arbiter::new(),
                deps: Arc::new(SupervisorDeps {
                    store: deps.store,
                    routes: deps.routes,
                    fallback_destination: deps.fallback_destination,
                    registry: deps.registry,
                    vault: deps.vault,
                    metrics: deps.metrics,
                    clock: deps.clock,
                    ids: deps.ids,
                    node: deps.node,
                    backfill: deps.backfill,
                    linked: deps.linked,
                    crash_after: deps.crash_after,
                }),
                dispatcher: deps.dispatcher,
                seen: LastSeen::default(),
                config_files: deps.config_files.into(),
                background: Semaphore::new(IN_BACKGROUND),
            }),
        }
    }

    /// What supervisors have of the other rooms.
    pub(super) fn deps(&self) -> &SupervisorDeps {
        &self.shared.deps
    }

    pub(super) fn store(&self) -> &SharedStore {
        &self.shared.deps.store
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.shared.deps.registry
    }

    pub(super) fn now(&self) -> EpochMs {
        self.shared.deps.clock.now()
    }

    pub(super) fn config_candidates(&self) -> Arc<[String]> {
        Arc::clone(&self.shared.config_files)
    }

    /// Does something beside what anybody waits for, a few at a time. What is left of it when the process stops is lost.
    pub(super) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        let started = self.shared.arbiter.spawn(async move {
            let Ok(_turn) = shared.background.acquire().await else { return };
            if isolate(work).await.is_err() {
                tracing::error!("something in the background panicked");
            }
        });
        if !started {
            tracing::debug!("the directory has stopped; nothing more is done in the background");
        }
    }

    /// The supervisor of an installation, alive: one that died of a panic is replaced.
    pub fn locate(&self, id: &InstallationId) -> InstallationHandle {
        if let Some(alive) = self.shared.supervisors.get(id).filter(|handle| handle.is_alive()) {
            return alive.clone();
        }
        let mut entry = self.shared.supervisors.entry(id.clone()).or_insert_with(|| self.start_supervisor(id));
        if !entry.is_alive() {
            *entry = self.start_supervisor(id);
        }
        entry.clone()
    }

    fn start_supervisor(&self, id: &InstallationId) -> InstallationHandle {
        InstallationHandle::start(id.clone(), Arc::clone(&self.shared.deps), &self.shared.arbiter.handle())
    }

    /// Forgets supervisors that stopped for idleness.
    pub fn forget_the_stopped(&self) {
        self.shared.supervisors.retain(|_, handle| handle.is_alive());
    }

    /// The route table of an installation by our id; `None` if there is no such installation.
    pub async fn routes_by_id(
        &self,
        id: &InstallationId,
    ) -> Result<Option<Arc<RouteTable>>, AskError<InstallationError>> {
        if let Some(table) = self.shared.deps.routes.get_by_id(id) {
            return Ok(Some(table));
        }
        match self.locate(id).routes().await {
            Ok(table) => Ok(Some(table)),
            Err(AskError::Reply(InstallationError::NotFound)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The route table of the installation that an event names: by its account, else by one of its alternate ids, else (when
    /// it names no account) by a resource that exactly one routing installation has linked.
    pub async fn find_routes(
        &self,
        provider: ProviderSlug,
        external_id: Option<&ExternalId>,
        alternates: &[ExternalId],
        resources: &[ProviderResourceId],
    ) -> Result<Option<(Arc<RouteTable>, MatchedBy)>, AskError<InstallationError>> {
        let named = external_id.into_iter().map(|id| (id, MatchedBy::ExternalId));
        for (account, matched_by) in named.chain(alternates.iter().map(|id| (id, MatchedBy::AlternateExternalId))) {
            if let Some(table) = self.shared.deps.routes.get(provider, account) {
                return Ok(Some((table, matched_by)));
            }
            let row = self.store().find_live_installation(provider, account).await.map_err(store_error)?;
            if let Some(row) = row
                && let Some(table) = self.routes_by_id(&row.id).await?
            {
                return Ok(Some((table, matched_by)));
            }
        }
        if external_id.is_none() && alternates.is_empty() {
            for resource in resources {
                let owners =
                    self.store().find_installations_by_resource(provider, resource).await.map_err(store_error)?;
                if let Some(owner) = sole_owner(owners)
                    && let Some(table) = self.routes_by_id(&owner.id).await?
                {
                    return Ok(Some((table, MatchedBy::Resource)));
                }
            }
        }
        Ok(None)
    }

    /// Links a resource: routable when this answers.
    pub async fn link_resource(
        &self,
        id: &InstallationId,
        resource: LinkResource,
        actor: Actor,
    ) -> Result<Resource, AskError<InstallationError>> {
        let linked = self.edit(id, actor, move |record, edit| state::link_resource(record, &resource, edit)).await?;
        self.announce_link(id);
        self.detect_configs(id, vec![(linked.id.clone(), linked.provider_resource_id.clone())]);
        Ok(linked)
    }

    /// Unlinks a resource; its integrations are removed with it.
    pub async fn unlink_resource(
        &self,
        id: &InstallationId,
        resource: &ResourceId,
        actor: Actor,
    ) -> Result<(), AskError<InstallationError>> {
        let resource = resource.clone();
        self.edit(id, actor, move |record, edit| state::unlink_resource(record, &resource, edit)).await
    }

    /// Subscribes a workspace to resources.
    pub async fn subscribe(
        &self,
        id: &InstallationId,
        request: SubscribeWorkspace,
        actor: Actor,
    ) -> Result<Subscribed, AskError<InstallationError>> {
        let done = self.edit(id, actor, move |record, edit| state::subscribe(record, &request, edit)).await?;
        if done.created + done.reactivated > 0 {
            self.announce_link(id);
        }
        let resources = done.integrations.iter().map(|(_, row)| (row.id.clone(), row.provider_resource_id.clone()));
        self.detect_configs(id, resources.collect());
        Ok(done)
    }

    /// Changes an integration; effective on the next webhook.
    pub async fn patch_integration(
        &self,
        id: &InstallationId,
        integration: &IntegrationId,
        patch: IntegrationPatch,
        actor: Actor,
    ) -> Result<Integration, AskError<InstallationError>> {
        let integration = integration.clone();
        self.edit(id, actor, move |record, edit| state::patch_integration(record, &integration, &patch, edit)).await
    }

    /// Ends an integration.
    pub async fn end_integration(
        &self,
        id: &InstallationId,
        integration: &IntegrationId,
        status: IntegrationStatus,
        actor: Actor,
    ) -> Result<Integration, AskError<InstallationError>> {
        let integration = integration.clone();
        self.edit(id, actor, move |record, edit| state::end_integration(record, &integration, status, edit)).await
    }

    /// Applies what a control event says, and looks at the provider for what follows from it.
    pub async fn apply_control(
        &self,
        id: &InstallationId,
        changes: Vec<ControlChange>,
        at: Option<EpochMs>,
        provider: ProviderSlug,
    ) -> Result<(), AskError<InstallationError>> {
        let aftermath = self
            .edit(id, Actor::provider(provider), move |record, edit| {
                let before = (record.installation.clone(), record.resources.clone());
                control::apply(record, &changes, at, edit);
                Ok(Aftermath::of(&before, record))
            })
            .await?;
        self.detect_configs(id, aftermath.branches_moved);
        if aftermath.list_changed {
            self.look_in_background(id);
        }
        Ok(())
    }

    /// Lets the installation's supervisor make a decision about its rows.
    pub(super) async fn edit<T: Send + 'static>(
        &self,
        id: &InstallationId,
        actor: Actor,
        decide: impl FnOnce(&mut InstallationRecord, &Edit<'_>) -> Result<T, InstallationError> + Send + 'static,
    ) -> Result<T, AskError<InstallationError>> {
        self.locate(id).edit(self.shared.deps.decision(actor, decide)).await
    }

    /// Tells whoever waits for connections and links of this installation. Of a connection that an edit begins or revives
    /// its supervisor tells.
    pub(super) fn announce_link(&self, id: &InstallationId) {
        self.shared.deps.announce_link(id);
    }

    /// Where deliveries go that no destination of their org serves; absent if none is configured.
    pub fn fallback_destination(&self) -> Option<&DestinationId> {
        self.shared.deps.fallback_destination.as_ref()
    }

    /// Destinations of this org changed: its deliveries are readdressed, routes and dispatcher told.
    pub async fn destinations_changed(&self, org: &OrgId, now: EpochMs) -> Result<(), AskError<InstallationError>> {
        self.refresh_org(org).await;
        let fallback = self.fallback_destination();
        self.store().readdress_deliveries(ToReaddress::OfOrg(org), fallback, now).await.map_err(store_error)?;
        self.shared.dispatcher.nudge(None);
        Ok(())
    }

    /// Makes this node forget what it knew of an org's destinations.
    pub async fn refresh_org(&self, org: &OrgId) {
        self.shared.dispatcher.forget_destinations(Some(org));
        for handle in self.live_supervisors() {
            if let Err(error) = handle.reload(Some(org.clone())).await {
                tracing::warn!(org.id = %org, %error, "a supervisor did not reload");
            }
        }
    }

    /// Makes this node read an installation's rows again if it holds them.
    pub async fn refresh_installation(&self, id: &InstallationId) {
        self.shared.deps.routes.forget(id);
        let live = self.shared.supervisors.get(id).map(|handle| handle.clone());
        if let Some(handle) = live.filter(InstallationHandle::is_alive)
            && let Err(error) = handle.reload(None).await
        {
            tracing::warn!(installation.id = %id, %error, "a supervisor did not reload");
        }
    }

    /// Makes this node forget everything it holds of rows: anything may have changed. They are read again when they are
    /// asked for, not a hundred thousand at once.
    pub async fn forget_everything(&self) {
        self.shared.deps.routes.clear();
        self.shared.dispatcher.forget_destinations(None);
        for handle in self.live_supervisors() {
            if let Err(error) = handle.forget_rows().await {
                tracing::warn!(%error, "a supervisor did not forget");
            }
        }
    }

    fn live_supervisors(&self) -> Vec<InstallationHandle> {
        self.shared.supervisors.iter().map(|entry| entry.value().clone()).filter(InstallationHandle::is_alive).collect()
    }

    /// Drops and rebuilds every published route; answers how many installations route.
    pub async fn rebuild_routes(&self) -> Result<usize, AskError<InstallationError>> {
        self.forget_everything().await;
        let routing = self.store().list_routing_installations().await.map_err(store_error)?;
        for id in &routing {
            self.routes_by_id(id).await?;
        }
        Ok(routing.len())
    }

    /// Notes that events came, for `lastEventAt`.
    pub fn note_seen<'i>(
        &self,
        installation: &InstallationId,
        integrations: impl Iterator<Item = &'i IntegrationId>,
        at: EpochMs,
    ) {
        self.shared.seen.installations.note(installation, at);
        for integration in integrations {
            self.shared.seen.integrations.note(integration, at);
        }
    }

    /// When an installation last had an event: what its row says, or what this node knows better.
    pub fn last_event_of_installation(&self, installation: &Installation) -> Option<EpochMs> {
        installation.last_event_at.max(self.shared.seen.installations.find(&installation.id))
    }

    /// When an integration last had an event, likewise.
    pub fn last_event_of_integration(&self, integration: &Integration) -> Option<EpochMs> {
        integration.last_event_at.max(self.shared.seen.integrations.find(&integration.id))
    }

    /// Writes what was noted since the last time.
    pub async fn flush_seen(&self) -> Result<(), StoreError> {
        let seen = &self.shared.seen;
        let (installations, integrations) = (seen.installations.unwritten(), seen.integrations.unwritten());
        if installations.is_empty() && integrations.is_empty() {
            return Ok(());
        }
        self.store().touch_last_event(installations.clone(), integrations.clone()).await?;
        seen.installations.written(&installations);
        seen.integrations.written(&integrations);
        Ok(())
    }

    /// A copy of every live supervisor's state, without secrets.
    pub async fn snapshots(&self) -> Vec<Value> {
        let mut snapshots = Vec::new();
        for handle in self.live_supervisors() {
            match handle.snapshot().await {
                Ok(snapshot) => match serde_json::to_value(snapshot) {
                    Ok(value) => snapshots.push(value),
                    Err(error) => tracing::warn!(%error, "a snapshot is not JSON"),
                },
                Err(error) => tracing::debug!(%error, "a supervisor gave no snapshot"),
            }
        }
        snapshots
    }

    /// Lets every supervisor finish and stop, within `limit`.
    pub async fn drain(&self, limit: Duration) {
        let drained = async {
            for handle in self.live_supervisors() {
                if let Err(error) = handle.drain().await {
                    tracing::warn!(%error, "a supervisor did not stop in order");
                }
            }
            if let Err(error) = self.flush_seen().await {
                tracing::warn!(%error, "the last event times were not written");
            }
        };
        if tokio::time::timeout(limit, drained).await.is_err() {
            tracing::warn!("supervisors were still busy at the deadline");
        }
        self.shared.arbiter.stop();
    }
}

/// What a control event leaves to be looked at, at the provider.
struct Aftermath {
    /// Repositories with another default branch: their config file may be another one.
    branches_moved: Vec<(ResourceId, ProviderResourceId)>,
    /// Whether the provider lists something else now: the grant covers other resources, or the account has another name,
    /// which is part of theirs.
    list_changed: bool,
}

impl Aftermath {
    fn of((installation, resources): &(Installation, Vec<Resource>), record: &InstallationRecord) -> Self {
        let branches = resources.iter().filter_map(|row| Some((&row.id, row.attrs.get("defaultBranch")?)));
        let branches: HashMap<_, _> = branches.collect();
        let moved = |row: &&Resource| {
            branches.get(&row.id).is_some_and(|before| row.attrs.get("defaultBranch") != Some(*before))
        };
        let selection =
            |of: &Installation| ["repositorySelection", "projectSelection"].map(|name| of.metadata.get(name).cloned());
        let now = &record.installation;
        let is_renamed = installation.account_login.is_some() && installation.account_login != now.account_login;
        Self {
            branches_moved: record
                .resources
                .iter()
                .filter(moved)
                .map(|row| (row.id.clone(), row.provider_resource_id.clone()))
                .collect(),
            list_changed: now.status.routes() && (is_renamed || selection(installation) != selection(now)),
        }
    }
}

/// The installation that an event may be routed within by its resource alone: the only one that has it. Where two have
/// it nobody gets it, so that linking a foreign id gains nothing.
pub(super) fn sole_owner<T>(owners: Vec<T>) -> Option<T> {
    let mut owners = owners.into_iter();
    match (owners.next(), owners.next()) {
        (Some(owner), None) => Some(owner),
        _ => None,
    }
}

fn store_error(error: StoreError) -> AskError<InstallationError> {
    AskError::Reply(InstallationError::Store(error))
}
