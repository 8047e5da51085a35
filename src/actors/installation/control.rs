//! Control events: what providers say about installations and resources, applied to the rows. Any order, any number
//! of times: a change older than what is known, or already made, does nothing.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{
    state::{Edit, facts_of, merge, note_time, remove_resources, set_integrations},
    teardown,
};
use crate::{
    actors::tokens::GrantVerdict,
    model::{
        clock::EpochMs,
        ids::ResourceId,
        installation::{Installation, InstallationStatus},
        integration::IntegrationStatus,
        provider::ProviderResourceId,
        resource::{Resource, ResourceStatus},
    },
    providers::{ControlChange, RemovalReason},
    store::InstallationRecord,
};

/// In an installation's metadata: its person lost access while it was suspended, or before.
const ACCESS_LOST: &str = "accessLost";
/// In an installation's metadata: it has not been active since it was connected, and nobody was told of it.
const UNTOLD: &str = "untold";
/// Why an installation, and what lives from it, is suspended.
pub(super) const PROVIDER_SUSPENDED: &str = "provider_suspended";
/// Why a connection has to be made anew: its provider does not accept its token.
const TOKEN_REJECTED: &str = "token_rejected";
/// In a resource's attributes: when the provider last said whether the grant reaches it, epoch milliseconds.
const REACH_AT: &str = "reachAt";
/// In an installation's metadata: when it was granted, epoch milliseconds, where late news of a former grant of the account
/// looks as if it were of this one.
const GRANTED_AT: &str = "grantedAt";
/// In an installation's metadata: the provider's id of the person who connected it.
const PROVIDER_USER: &str = "providerUserId";

/// Applies the changes of one control event; `at` is the provider's own time of it.
pub fn apply(record: &mut InstallationRecord, changes: &[ControlChange], at: Option<EpochMs>, edit: &Edit<'_>) {
    for change in changes {
        apply_one(record, change, at, edit);
    }
}

/// Whether something that happened at `at` is older than what was last applied.
pub fn is_stale(at: Option<EpochMs>, known: Option<EpochMs>) -> bool {
    matches!((at, known), (Some(at), Some(known)) if at < known)
}

fn apply_one(record: &mut InstallationRecord, change: &ControlChange, at: Option<EpochMs>, edit: &Edit<'_>) {
    match change {
        // What leaves the grant's reach is told at the grant's time. A resource's `control_at` is another clock (at GitHub,
        // when the repository was last updated), and says nothing about it.
        ControlChange::ResourcesRemoved { ids, reason: reason @ RemovalReason::AccessLost } => {
            let granted_at = granted_at(&record.installation);
            let is_newest = |r: &Resource| !is_stale(at, granted_at.max(reach_at(r)));
            let lost = active_resources(record, ids, is_newest);
            remove_resources(record, &lost, reason.as_str(), IntegrationStatus::Removed, edit);
            note_reach(record, ids, at);
        }
        ControlChange::ResourcesRemoved { ids, reason } => {
            let status =
                if *reason == RemovalReason::Deleted { IntegrationStatus::Deleted } else { IntegrationStatus::Removed };
            let gone = active_resources(record, ids, |r| !is_stale(at, r.control_at));
            remove_resources(record, &gone, reason.as_str(), status, edit);
            note_time(record, &gone, at);
        }
        ControlChange::ResourcesAdded { ids } => {
            for id in ids {
                let mut entry = edit.entry(record, "resource.in_reach", Some(id.to_string()));
                entry.reason = Some("granted".into());
                record.log.push(entry);
            }
            note_reach(record, ids, at);
        }
        ControlChange::ResourceChanged { id, name, slug, attrs } => {
            let facts = NewFacts { id: id.clone(), name: name.clone(), slug: slug.clone(), attrs: attrs.clone() };
            change_resources(record, &[facts], at, edit);
        }
        ControlChange::InstallationNeedsReauth { person } if !is_connected_by(record, person) => {}
        _ if is_stale(at, known_before(&record.installation, change)) => {}
        installation_change => {
            change_installation(record, installation_change, edit);
            record.installation.control_at = record.installation.control_at.max(at);
        }
    }
}

/// What a change of the installation has to be newer than. An end is that of what was granted before it, whatever else
/// was told since.
fn known_before(installation: &Installation, change: &ControlChange) -> Option<EpochMs> {
    match change {
        ControlChange::InstallationRevoked => granted_at(installation),
        _ => installation.control_at,
    }
}

/// When it was granted, as far as that tells its news from a former grant's.
fn granted_at(installation: &Installation) -> Option<EpochMs> {
    installation.metadata.get(GRANTED_AT).and_then(Value::as_i64).map(EpochMs)
}

/// Notes that it is granted anew: what was told of it until then is of a former grant. `None` where that can be seen
/// without its time.
pub fn note_grant(installation: &mut Installation, at: Option<EpochMs>) {
    installation.metadata.remove(GRANTED_AT);
    if let Some(at) = at {
        installation.metadata.insert(GRANTED_AT.to_owned(), at.0.into());
        installation.control_at = installation.control_at.max(Some(at));
    }
}

/// The active resources among `ids` for which the change is no old news.
fn active_resources(
    record: &InstallationRecord,
    ids: &[ProviderResourceId],
    is_news: impl Fn(&Resource) -> bool,
) -> HashSet<ResourceId> {
    let ids: HashSet<_> = ids.iter().collect();
    record
        .resources
        .iter()
        .filter(|r| ids.contains(&r.provider_resource_id))
        .filter(|r| r.status == ResourceStatus::Active && is_news(r))
        .map(|r| r.id.clone())
        .collect()
}

/// When the provider last said whether the grant reaches the resource.
fn reach_at(resource: &Resource) -> Option<EpochMs> {
    resource.attrs.get(REACH_AT).and_then(Value::as_i64).map(EpochMs)
}

/// Notes that it said so of these, linked or not any more.
fn note_reach(record: &mut InstallationRecord, ids: &[ProviderResourceId], at: Option<EpochMs>) {
    let Some(at) = at else { return };
    let ids: HashSet<_> = ids.iter().collect();
    for resource in record.resources.iter_mut().filter(|r| ids.contains(&r.provider_resource_id)) {
        if !is_stale(Some(at), reach_at(resource)) {
            resource.attrs.insert(REACH_AT.to_owned(), at.0.into());
        }
    }
}

/// What a provider says of a resource now. What is `None`, or no member of `attrs`, stays as it was.
pub struct NewFacts {
    /// Which resource.
    pub id: ProviderResourceId,
    /// Its name.
    pub name: Option<String>,
    /// Its slug.
    pub slug: Option<String>,
    /// Facts to merge into its attributes.
    pub attrs: Map<String, Value>,
}

/// Writes new facts of linked resources, each named once, and carries them into the `source_config` of their integrations.
/// One look at each row, however many have changed: a listing tells of thousands at once.
pub fn change_resources(record: &mut InstallationRecord, news: &[NewFacts], at: Option<EpochMs>, edit: &Edit<'_>) {
    let news: HashMap<_, _> = news.iter().map(|facts| (&facts.id, facts)).collect();
    let mut source_configs = HashMap::new();
    let mut resources = std::mem::take(&mut record.resources);
    let is_current = |r: &&mut Resource| r.status == ResourceStatus::Active && !is_stale(at, r.control_at);
    for resource in resources.iter_mut().filter(is_current) {
        let Some(facts) = news.get(&resource.provider_resource_id) else { continue };
        resource.control_at = resource.control_at.max(at);
        let before = resource.clone();
        if facts.name.is_some() {
            resource.name.clone_from(&facts.name);
        }
        if facts.slug.is_some() {
            resource.slug.clone_from(&facts.slug);
        }
        merge(&mut resource.attrs, &facts.attrs);
        if *resource == before {
            continue;
        }
        resource.updated_at = edit.now;
        source_configs.insert(resource.id.clone(), edit.provider.source_config(&facts_of(record, resource)));
        let entry = edit.entry(record, "resource.changed", Some(resource.id.to_string()));
        record.log.push(entry);
    }
    record.resources = resources;
    for integration in &mut record.integrations {
        if let Some(source_config) = source_configs.get(&integration.resource) {
            merge(&mut integration.source_config, source_config);
            integration.updated_at = edit.now;
        }
    }
}

fn change_installation(record: &mut InstallationRecord, change: &ControlChange, edit: &Edit<'_>) {
    if record.installation.status == InstallationStatus::Revoked {
        return;
    }
    match change {
        ControlChange::InstallationConfirmed { account_login, metadata } => {
            if account_login.is_some() {
                record.installation.account_login.clone_from(account_login);
            }
            merge(&mut record.installation.metadata, metadata);
            record.installation.updated_at = edit.now;
            if record.installation.status == InstallationStatus::Pending {
                set_status(record, InstallationStatus::Active, Some("confirmed"), edit);
            }
        }
        ControlChange::InstallationRevoked => {
            teardown::begin(record, teardown::PROVIDER_REVOKED, edit);
        }
        ControlChange::InstallationSuspended => suspend(record, edit),
        ControlChange::InstallationResumed => {
            if record.installation.status == InstallationStatus::Suspended {
                // A dead token does not come alive because the provider lets the installation go on.
                let access_lost = record.installation.metadata.remove(ACCESS_LOST).is_some();
                let status = if access_lost { InstallationStatus::NeedsReauth } else { InstallationStatus::Active };
                set_status(record, status, Some("provider_resumed"), edit);
                move_integrations(record, IntegrationStatus::Suspended, IntegrationStatus::Active, edit);
            }
        }
        ControlChange::InstallationNeedsReauth { .. } => lose_access(record, "access_lost", edit),
        ControlChange::InstallationMoved { to } => {
            if record.installation.external_id != *to {
                let mut entry = edit.entry(record, "installation.moved", None);
                entry.from_state = Some(record.installation.external_id.to_string());
                entry.to_state = Some(to.to_string());
                record.log.push(entry);
                record.installation.external_id = to.clone();
                record.installation.updated_at = edit.now;
            }
        }
        ControlChange::ResourcesRemoved { .. }
        | ControlChange::ResourcesAdded { .. }
        | ControlChange::ResourceChanged { .. } => {}
    }
}

/// Whether a connection begins with a change of an installation that was in the state `before`, if it was there: whoever
/// waits for connections is told once, when it is active for the first time since it was connected.
pub fn begins(before: Option<InstallationStatus>, installation: &mut Installation) -> bool {
    let is_new =
        before.is_none_or(|before| matches!(before, InstallationStatus::Pending | InstallationStatus::Revoked));
    match installation.status {
        InstallationStatus::Active => installation.metadata.remove(UNTOLD).is_some() || is_new,
        InstallationStatus::Revoked => false,
        InstallationStatus::Pending | InstallationStatus::NeedsReauth | InstallationStatus::Suspended => {
            if is_new {
                installation.metadata.insert(UNTOLD.into(), true.into());
            }
            false
        }
    }
}

/// Whether it routes, and has been active since it was connected.
pub(super) fn is_in_use(installation: &Installation) -> bool {
    installation.status.routes() && !installation.metadata.contains_key(UNTOLD)
}

/// What the provider said about the grant while it was used is as good as a control event.
pub fn judge(record: &mut InstallationRecord, verdict: GrantVerdict, edit: &Edit<'_>) {
    if record.installation.status == InstallationStatus::Revoked {
        return;
    }
    match verdict {
        // It died before it was of any use.
        GrantVerdict::Dead if record.installation.status == InstallationStatus::Pending => {
            set_status(record, InstallationStatus::NeedsReauth, Some(TOKEN_REJECTED), edit);
        }
        GrantVerdict::Dead => lose_access(record, TOKEN_REJECTED, edit),
        GrantVerdict::Suspended => suspend(record, edit),
        GrantVerdict::Gone => {
            teardown::begin(record, teardown::PROVIDER_REVOKED, edit);
        }
    }
}

fn suspend(record: &mut InstallationRecord, edit: &Edit<'_>) {
    if record.installation.status == InstallationStatus::NeedsReauth {
        record.installation.metadata.insert(ACCESS_LOST.into(), true.into());
    }
    set_status(record, InstallationStatus::Suspended, Some(PROVIDER_SUSPENDED), edit);
    move_integrations(record, IntegrationStatus::Active, IntegrationStatus::Suspended, edit);
}

fn lose_access(record: &mut InstallationRecord, reason: &str, edit: &Edit<'_>) {
    match record.installation.status {
        InstallationStatus::Active => set_status(record, InstallationStatus::NeedsReauth, Some(reason), edit),
        InstallationStatus::Suspended => {
            record.installation.metadata.insert(ACCESS_LOST.into(), true.into());
        }
        _ => {}
    }
}

/// Whether the connection lives from this person's grant, as far as is known. Other people of the account come and go
/// without harm to it, so that a stranger, or anybody while it is not known who connected, changes nothing: if it was
/// the one after all, the token's next use tells.
fn is_connected_by(record: &InstallationRecord, person: &str) -> bool {
    record.installation.connected_by == person
        || record.installation.metadata.get(PROVIDER_USER).and_then(serde_json::Value::as_str) == Some(person)
}

/// Moves the installation to a status and logs it.
pub(super) fn set_status(
    record: &mut InstallationRecord,
    status: InstallationStatus,
    reason: Option<&str>,
    edit: &Edit<'_>,
) {
    let from = record.installation.status;
    if from == status {
        return;
    }
    record.installation.status = status;
    record.installation.status_reason = reason.map(str::to_owned);
    record.installation.updated_at = edit.now;
    let mut entry = edit.entry(record, &format!("installation.{status}"), None);
    entry.from_state = Some(from.to_string());
    entry.to_state = Some(status.to_string());
    entry.reason = reason.map(str::to_owned);
    record.log.push(entry);
}

/// Puts the installation into the state that a fresh grant gives it; whatever was lost before is not lost any more. The
/// caller logs it.
pub(super) fn settle(record: &mut InstallationRecord, status: InstallationStatus, reason: Option<&str>) {
    record.installation.status = status;
    record.installation.status_reason = reason.map(str::to_owned);
    record.installation.metadata.remove(ACCESS_LOST);
}

pub(super) fn move_integrations(
    record: &mut InstallationRecord,
    from: IntegrationStatus,
    to: IntegrationStatus,
    edit: &Edit<'_>,
) {
    let reason = (to == IntegrationStatus::Suspended).then_some(PROVIDER_SUSPENDED);
    set_integrations(record, |i| i.status == from, to, reason, edit);
}
