//! What may happen to an installation's rows: pure edits of its record, and the route table they amount to.
//!
//! Every function here runs inside the store's transaction ([`crate::store::Store::change_installation`]) on rows read
//! under its lock, so that two nodes cannot undo each other's edits. No clock, no I/O; ids come in as a source.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::InstallationError;
use crate::{
    actors::directory::{IntegrationPatch, LinkResource, SubscribeWorkspace, Subscribed},
    model::{
        clock::{EpochMs, Ids},
        destination::DestinationScope,
        ids::{DestinationId, InstallationId, IntegrationId, ResourceId, WorkspaceId},
        installation::{Installation, InstallationStatus},
        integration::{Integration, IntegrationStatus},
        log_entry::{Actor, LogEntry},
        provider::ProviderResourceId,
        resource::{Resource, ResourceStatus},
        routes::{IntegrationRoute, ResourceRoute, RouteTable},
    },
    providers::{Provider, ResourceFacts},
    store::InstallationRecord,
};

/// Who edits, when, and what new rows need.
pub struct Edit<'a> {
    /// The present.
    pub now: EpochMs,
    /// Where new ids come from.
    pub ids: &'a Ids,
    /// Who acts.
    pub actor: &'a Actor,
    /// The installation's provider.
    pub provider: &'a dyn Provider,
    /// Whether a backfill service has to hear of endings.
    pub tells_backfill: bool,
}

impl Edit<'_> {
    /// A log entry about this record.
    pub fn entry(&self, record: &InstallationRecord, action: &str, subject: Option<String>) -> LogEntry {
        LogEntry {
            org: Some(record.installation.org.clone()),
            installation: Some(record.installation.id.clone()),
            subject,
            ..LogEntry::new(self.ids.log(), action, self.actor.clone(), self.now)
        }
    }
}

/// An edit that is made only if the installation is still as it was `seen`, and answers whether it was.
pub fn if_as_seen<F>(
    seen: &Installation,
    edit_record: F,
) -> impl FnOnce(&mut InstallationRecord, &Edit<'_>) -> Result<bool, InstallationError> + use<F>
where
    F: FnOnce(&mut InstallationRecord, &Edit<'_>),
{
    let seen_at = seen.updated_at;
    move |record, edit| {
        let is_as_seen = record.installation.updated_at == seen_at;
        if is_as_seen {
            edit_record(record, edit);
        }
        Ok(is_as_seen)
    }
}

/// Links a resource, or revives the row of one that was removed.
pub fn link_resource(
    record: &mut InstallationRecord,
    request: &LinkResource,
    edit: &Edit<'_>,
) -> Result<Resource, InstallationError> {
    accepts_links(record)?;
    if let Some(linked) = find_linked(record, &request.provider_resource_id) {
        return Err(InstallationError::ResourceAlreadyLinked(linked.id.clone()));
    }
    Ok(activate_resource(record, request, edit))
}

fn accepts_links(record: &InstallationRecord) -> Result<(), InstallationError> {
    match record.installation.status {
        InstallationStatus::Active | InstallationStatus::NeedsReauth => Ok(()),
        status => Err(InstallationError::NotActive(status)),
    }
}

fn activate_resource(record: &mut InstallationRecord, request: &LinkResource, edit: &Edit<'_>) -> Resource {
    let existing = record.resources.iter_mut().find(|r| r.provider_resource_id == request.provider_resource_id);
    let resource = if let Some(resource) = existing {
        resource.status = ResourceStatus::Active;
        resource.status_reason = None;
        resource.updated_at = edit.now;
        if request.name.is_some() {
            resource.name.clone_from(&request.name);
        }
        if request.slug.is_some() {
            resource.slug.clone_from(&request.slug);
        }
        merge(&mut resource.attrs, &request.attrs);
        resource.clone()
    } else {
        let resource = Resource {
            id: edit.ids.resource(),
            installation: record.installation.id.clone(),
            provider_resource_id: request.provider_resource_id.clone(),
            kind: edit.provider.resource_label().to_owned(),
            slug: request.slug.clone(),
            name: request.name.clone(),
            attrs: request.attrs.clone(),
            status: ResourceStatus::Active,
            status_reason: None,
            control_at: None,
            created_at: edit.now,
            updated_at: edit.now,
        };
        record.resources.push(resource.clone());
        resource
    };
    let mut entry = edit.entry(record, "resource.linked", Some(resource.id.to_string()));
    entry.to_state = Some(ResourceStatus::Active.to_string());
    record.log.push(entry);
    resource
}

/// Unlinks a resource and ends the integrations that lived from it.
pub fn unlink_resource(
    record: &mut InstallationRecord,
    id: &ResourceId,
    edit: &Edit<'_>,
) -> Result<(), InstallationError> {
    let resource = record.resources.iter().find(|r| r.id == *id).ok_or(InstallationError::NotFound)?;
    if resource.status == ResourceStatus::Removed {
        return Err(InstallationError::AlreadyRemoved);
    }
    remove_resources(record, &HashSet::from([id.clone()]), "unlinked", IntegrationStatus::Removed, edit);
    Ok(())
}

/// Where the subscriptions of a resource go that moved to another account.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// The connection that the resource is linked at now.
    pub installation: InstallationId,
    /// Its row there.
    pub resource: ResourceId,
    /// Who has subscribed to it there, now or before: theirs is that subscription.
    pub workspaces: HashSet<WorkspaceId>,
}

/// Links a resource that moved here from another account at `at`, unless it is linked.
pub fn receive_resource(
    record: &mut InstallationRecord,
    request: &LinkResource,
    at: Option<EpochMs>,
    edit: &Edit<'_>,
) -> Result<Receiver, InstallationError> {
    accepts_links(record)?;
    let resource = match find_linked(record, &request.provider_resource_id) {
        Some(linked) => linked.id.clone(),
        None => activate_resource(record, request, edit).id,
    };
    note_time(record, &HashSet::from([resource.clone()]), at);
    let subscribed = record.integrations.iter().filter(|i| i.resource == resource).map(|i| i.workspace.clone());
    Ok(Receiver { installation: record.installation.id.clone(), workspaces: subscribed.collect(), resource })
}

/// Gives the living integrations of a resource away: with the commit they are the receiver's.
pub fn give_away(record: &mut InstallationRecord, id: &ResourceId, to: &Receiver, edit: &Edit<'_>) {
    let mut integrations = std::mem::take(&mut record.integrations);
    let moves = |i: &&mut Integration| i.resource == *id && lives(i.status) && !to.workspaces.contains(&i.workspace);
    for integration in integrations.iter_mut().filter(moves) {
        let mut entry = edit.entry(record, "integration.moved", Some(integration.id.to_string()));
        entry.from_state = Some(integration.installation.to_string());
        entry.to_state = Some(to.installation.to_string());
        record.log.push(entry);
        integration.installation = to.installation.clone();
        integration.resource = to.resource.clone();
        integration.updated_at = edit.now;
    }
    record.integrations = integrations;
}

/// Makes the integrations of a resource that were given to this installation say so.
pub fn settle_received(record: &mut InstallationRecord, id: &ResourceId, edit: &Edit<'_>) {
    let Some(resource) = record.resources.iter().find(|r| r.id == *id) else { return };
    let facts = edit.provider.source_config(&facts_of(record, resource));
    for integration in record.integrations.iter_mut().filter(|i| i.resource == *id) {
        merge(&mut integration.source_config, &facts);
    }
}

/// The active row of a resource.
pub fn find_linked<'r>(record: &'r InstallationRecord, id: &ProviderResourceId) -> Option<&'r Resource> {
    record.resources.iter().find(|r| r.provider_resource_id == *id && r.status == ResourceStatus::Active)
}

/// Notes the provider's time of what it said of these resources: what is older is old news from now on.
pub(super) fn note_time(record: &mut InstallationRecord, ids: &HashSet<ResourceId>, at: Option<EpochMs>) {
    for resource in record.resources.iter_mut().filter(|r| ids.contains(&r.id)) {
        resource.control_at = resource.control_at.max(at);
    }
}

/// Takes active resources out of routing, with the integrations that are not ended yet.
pub(super) fn remove_resources(
    record: &mut InstallationRecord,
    ids: &HashSet<ResourceId>,
    reason: &str,
    integrations_become: IntegrationStatus,
    edit: &Edit<'_>,
) {
    let lives_from_them = |i: &Integration| ids.contains(&i.resource) && lives(i.status);
    set_integrations(record, lives_from_them, integrations_become, Some(reason), edit);
    let mut resources = std::mem::take(&mut record.resources);
    for resource in resources.iter_mut().filter(|r| ids.contains(&r.id)) {
        let mut entry = edit.entry(record, "resource.removed", Some(resource.id.to_string()));
        entry.from_state = Some(ResourceStatus::Active.to_string());
        entry.to_state = Some(ResourceStatus::Removed.to_string());
        entry.reason = Some(reason.to_owned());
        record.log.push(entry);
        resource.status = ResourceStatus::Removed;
        resource.status_reason = Some(reason.to_owned());
        resource.updated_at = edit.now;
    }
    record.resources = resources;
}

/// Whether an integration of this status may still get events, now or when something resumes.
fn lives(status: IntegrationStatus) -> bool {
    matches!(
        status,
        IntegrationStatus::Active | IntegrationStatus::Paused | IntegrationStatus::Suspended | IntegrationStatus::Error
    )
}

/// Moves the integrations that are meant to a status and logs each. One look at every integration: there may be thousands.
pub(super) fn set_integrations(
    record: &mut InstallationRecord,
    is_meant: impl Fn(&Integration) -> bool,
    status: IntegrationStatus,
    reason: Option<&str>,
    edit: &Edit<'_>,
) {
    let mut integrations = std::mem::take(&mut record.integrations);
    for integration in integrations.iter_mut().filter(|i| i.status != status && is_meant(i)) {
        let mut entry = edit.entry(record, &format!("integration.{status}"), Some(integration.id.to_string()));
        entry.from_state = Some(integration.status.to_string());
        entry.to_state = Some(status.to_string());
        entry.reason = reason.map(str::to_owned);
        record.log.push(entry);
        integration.status = status;
        integration.status_reason = reason.map(str::to_owned);
        integration.updated_at = edit.now;
    }
    record.integrations = integrations;
}

/// Subscribes a workspace to resources, linking those that are not linked.
pub fn subscribe(
    record: &mut InstallationRecord,
    request: &SubscribeWorkspace,
    edit: &Edit<'_>,
) -> Result<Subscribed, InstallationError> {
    accepts_links(record)?;
    let mut done = Subscribed { created: 0, reactivated: 0, skipped: 0, integrations: Vec::new() };
    for wanted in &request.resources {
        let linked = find_linked(record, &wanted.provider_resource_id).cloned();
        let resource = linked.unwrap_or_else(|| activate_resource(record, wanted, edit));
        let existing =
            record.integrations.iter().position(|i| i.workspace == request.workspace && i.resource == resource.id);
        let position = if let Some(position) = existing {
            if record.integrations[position].status == IntegrationStatus::Active {
                done.skipped += 1;
            } else {
                let id = record.integrations[position].id.clone();
                set_events(&mut record.integrations[position].source_config, Some(&request.events), Some(true));
                set_integrations(record, |i| i.id == id, IntegrationStatus::Active, None, edit);
                done.reactivated += 1;
            }
            position
        } else {
            let integration = new_integration(record, request, &resource, edit);
            let mut entry = edit.entry(record, "integration.created", Some(integration.id.to_string()));
            entry.to_state = Some(IntegrationStatus::Active.to_string());
            record.log.push(entry);
            record.integrations.push(integration);
            done.created += 1;
            record.integrations.len() - 1
        };
        done.integrations.push((record.integrations[position].clone(), resource));
    }
    Ok(done)
}

fn new_integration(
    record: &InstallationRecord,
    request: &SubscribeWorkspace,
    resource: &Resource,
    edit: &Edit<'_>,
) -> Integration {
    let mut source_config = edit.provider.source_config(&facts_of(record, resource));
    set_events(&mut source_config, Some(&request.events), Some(true));
    Integration {
        id: edit.ids.integration(),
        org: record.installation.org.clone(),
        workspace: request.workspace.clone(),
        provider: record.installation.provider,
        installation: record.installation.id.clone(),
        resource: resource.id.clone(),
        source_config,
        status: IntegrationStatus::Active,
        status_reason: None,
        last_event_at: None,
        created_at: edit.now,
        updated_at: edit.now,
    }
}

pub(super) fn facts_of<'r>(record: &'r InstallationRecord, resource: &'r Resource) -> ResourceFacts<'r> {
    ResourceFacts {
        external_id: &record.installation.external_id,
        alternate_external_id: record.installation.alternate_external_id.as_ref(),
        account_login: record.installation.account_login.as_deref(),
        provider_resource_id: &resource.provider_resource_id,
        slug: resource.slug.as_deref(),
        name: resource.name.as_deref(),
        attrs: &resource.attrs,
    }
}

/// Writes `sync.events` and `sync.autoSync`, keeping everything else of the `source_config`.
fn set_events(source_config: &mut Map<String, Value>, events: Option<&[String]>, auto_sync: Option<bool>) {
    let sync = source_config.entry("sync").or_insert_with(|| Value::Object(Map::new()));
    if !sync.is_object() {
        *sync = Value::Object(Map::new());
    }
    if let Some(sync) = sync.as_object_mut() {
        if let Some(events) = events {
            sync.insert("events".into(), Value::from(events.to_vec()));
        }
        if let Some(auto_sync) = auto_sync {
            sync.insert("autoSync".into(), Value::Bool(auto_sync));
        }
    }
}

/// Changes what an integration wants.
pub fn patch_integration(
    record: &mut InstallationRecord,
    id: &IntegrationId,
    patch: &IntegrationPatch,
    edit: &Edit<'_>,
) -> Result<Integration, InstallationError> {
    let position = record.integrations.iter().position(|i| i.id == *id).ok_or(InstallationError::NotFound)?;
    let integration = &mut record.integrations[position];
    set_events(&mut integration.source_config, patch.events.as_deref(), patch.auto_sync);
    integration.updated_at = edit.now;
    let from = integration.status;
    // Imported ones are paused by their status.
    if patch.auto_sync == Some(true) && from == IntegrationStatus::Paused {
        integration.status = IntegrationStatus::Active;
        integration.status_reason = None;
    }
    let changed = integration.clone();
    let mut entry = edit.entry(record, "integration.changed", Some(id.to_string()));
    if changed.status != from {
        entry.from_state = Some(from.to_string());
        entry.to_state = Some(changed.status.to_string());
    }
    record.log.push(entry);
    Ok(changed)
}

/// Ends an integration (or moves it to another state) on its owner's behalf.
pub fn end_integration(
    record: &mut InstallationRecord,
    id: &IntegrationId,
    status: IntegrationStatus,
    edit: &Edit<'_>,
) -> Result<Integration, InstallationError> {
    let position = record.integrations.iter().position(|i| i.id == *id).ok_or(InstallationError::NotFound)?;
    set_integrations(record, |i| i.id == *id, status, Some(status.as_str()), edit);
    Ok(record.integrations[position].clone())
}

/// Ends every integration that still lives.
pub(super) fn end_integrations(record: &mut InstallationRecord, reason: &str, edit: &Edit<'_>) {
    set_integrations(record, |i| lives(i.status), IntegrationStatus::Revoked, Some(reason), edit);
}

pub(super) fn merge(into: &mut Map<String, Value>, facts: &Map<String, Value>) {
    for (name, value) in facts {
        into.insert(name.clone(), value.clone());
    }
}

/// The linked resources by what events of some providers name them with. What was linked without a slug is known by its
/// name, as in the facts about it; a slug of another goes before.
fn by_slug(resources: &[Resource]) -> HashMap<String, ProviderResourceId> {
    let linked = || resources.iter().filter(|r| r.status == ResourceStatus::Active);
    let named = linked().filter(|r| r.slug.is_none()).filter_map(|r| Some((r.name.clone()?, r)));
    let slugged = linked().filter_map(|r| Some((r.slug.clone()?, r)));
    named.chain(slugged).map(|(slug, r)| (slug, r.provider_resource_id.clone())).collect()
}

/// The table that routers read of this record; `fallback` is the configured default destination.
pub fn route_table(record: &InstallationRecord, fallback: Option<&DestinationId>) -> RouteTable {
    let destinations: HashMap<_, _> =
        record.destinations.iter().map(|d| ((d.scope, d.scope_id.as_str()), &d.id)).collect();
    let destination_of =
        |scope: DestinationScope, scope_id: &str| destinations.get(&(scope, scope_id)).map(|id| (*id).clone());
    let org = &record.installation.org;
    let org_destination = destination_of(DestinationScope::Org, org.as_str()).or_else(|| fallback.cloned());
    let mut by_resource: HashMap<&ResourceId, Vec<IntegrationRoute>> = HashMap::new();
    for integration in &record.integrations {
        by_resource.entry(&integration.resource).or_default().push(IntegrationRoute {
            id: integration.id.clone(),
            workspace: integration.workspace.clone(),
            status: integration.status,
            rules: integration.rules(),
            destination: destination_of(DestinationScope::Integration, integration.id.as_str())
                .or_else(|| destination_of(DestinationScope::Workspace, integration.workspace.as_str()))
                .or_else(|| org_destination.clone()),
        });
    }
    RouteTable {
        installation: record.installation.id.clone(),
        provider: record.installation.provider,
        external_id: record.installation.external_id.clone(),
        alternate_external_id: record.installation.alternate_external_id.clone(),
        org: org.clone(),
        status: record.installation.status,
        slugs: by_slug(&record.resources),
        resources: record
            .resources
            .iter()
            .map(|r| {
                let route = ResourceRoute {
                    id: r.id.clone(),
                    provider_resource_id: r.provider_resource_id.clone(),
                    status: r.status,
                    integrations: by_resource.remove(&r.id).unwrap_or_default(),
                };
                (r.provider_resource_id.clone(), route)
            })
            .collect(),
    }
}
