//! `/console/connections/{id}`: one connection, what belongs to it, and how it came to be so.

use std::collections::BTreeMap;

use actix_web::web;
use askama::Template;

use super::{
    layout::{Layout, Pager, Section, segment},
    render,
    ui::{self, Markup},
    visitor::Visitor,
};
use crate::{
    model::{
        clock::EpochMs,
        event::EventOutcome,
        ids::{InstallationId, LogId},
        installation::{Installation, InstallationStatus},
        integration::{Integration, IntegrationStatus},
        log_entry::LogEntry,
        resource::{Resource, ResourceStatus},
        teardown::{StepRecord, StepStatus, Teardown, TeardownStatus, TeardownStep},
        words,
    },
    routes::{Answer, ConnectionFacts, Gateway, Problem, Query, error_codes as codes, facts_of},
    store::{EventFilter, PageRequest, UnroutedFilter},
};

/// How far held events are counted.
const HELD_COUNTED: u32 = 1000;

#[derive(Template)]
#[template(path = "connection.html")]
struct ConnectionPage {
    layout: Layout,
    installation: Installation,
    facts: ConnectionFacts,
    provider: &'static str,
    resource_label: String,
    resources_label: String,
    resources: Vec<LinkedResource>,
    workspaces: Vec<String>,
    teardown: Option<Teardown>,
    log: Vec<LogEntry>,
    /// What log entries call by their ids, and where its page is.
    subjects: BTreeMap<String, (String, String)>,
    /// Events that wait to be released.
    held: usize,
    waiting: Option<Waiting>,
    pager: Pager,
    is_live: bool,
    may_end: bool,
}

/// Events wait that came before what they are about was linked.
struct Waiting {
    /// Whether the list of events shows any: those that came before the account was connected are in nobody's list.
    is_listed: bool,
}

/// A linked resource, and who subscribes to it.
struct LinkedResource {
    resource: Resource,
    integrations: Vec<Integration>,
}

/// `GET /console/connections/{id}`: a connection.
pub async fn show(visitor: Visitor, id: web::Path<String>, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let record = gateway.store.load_installation(&InstallationId::from_raw(id.as_str())).await?;
    let record = record
        .filter(|record| visitor.caller.sees(Some(&record.installation.org)))
        .ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    let installation = record.installation;
    let log =
        gateway.store.list_log(Some(&installation.org), Some(&installation.id), query.page(LogId::PREFIX)?).await?;
    let status = installation.status;
    let mut workspaces: Vec<String> = record.integrations.iter().map(|it| it.workspace.to_string()).collect();
    workspaces.sort_unstable();
    workspaces.dedup();
    let linked = record.resources.clone().into_iter().filter(|resource| resource.status == ResourceStatus::Active);
    let subjects = subjects(&record.resources, &record.integrations);
    let resources = linked.map(|resource| {
        let is_current = |it: &&Integration| it.resource == resource.id && !has_ended(it.status);
        LinkedResource { integrations: record.integrations.iter().filter(is_current).cloned().collect(), resource }
    });
    let provider = gateway.registry.find(installation.provider.as_str());
    let resource_label = provider.map_or("resource", |provider| provider.resource_label()).to_lowercase();
    let mut layout = visitor.layout(Section::Connections, installation.account());
    // What is changed here is changed for the org of this connection, whatever the visitor chose to see.
    layout.org = Some(installation.org.to_string());
    let is_live = matches!(status, InstallationStatus::Active | InstallationStatus::NeedsReauth);
    let waiting = UnroutedFilter {
        provider: installation.provider,
        installation: installation.id.clone(),
        external_id: installation.external_id.clone(),
        alternate_external_id: installation.alternate_external_id.clone(),
        since: EpochMs(0),
        after: None,
        limit: 1,
    };
    let waiting = if is_live && !gateway.store.list_unrouted(&waiting).await?.is_empty() {
        Some(Waiting { is_listed: lists_unrouted(&gateway, &visitor, &installation.id).await? })
    } else {
        None
    };
    render(&ConnectionPage {
        held: gateway.store.list_held(&installation.id, HELD_COUNTED).await?.len(),
        waiting,
        subjects,
        facts: facts_of(&gateway, &installation).await?,
        provider: gateway.registry.name_of(installation.provider),
        resources_label: plural(&resource_label),
        resource_label,
        resources: resources.collect(),
        workspaces,
        is_live,
        may_end: status != InstallationStatus::Revoked,
        teardown: record.teardown,
        pager: Pager::of(&query, log.next_cursor.as_deref()),
        log: log.items,
        layout,
        installation,
    })
}

/// Whether the list of events finds unrouted ones of the connection, as far as it searches at once.
async fn lists_unrouted(gateway: &Gateway, visitor: &Visitor, installation: &InstallationId) -> Result<bool, Problem> {
    let filter = EventFilter {
        org: visitor.caller.org.clone(),
        installation: Some(installation.clone()),
        outcome: Some(EventOutcome::Unrouted),
        ..EventFilter::default()
    };
    let found = gateway.store.list_events(&filter, PageRequest { limit: 1, cursor: None }).await?;
    Ok(!found.items.is_empty() || found.searched_back_to.is_some())
}

/// More than one of them.
fn plural(word: &str) -> String {
    word.strip_suffix('y').map_or_else(|| format!("{word}s"), |stem| format!("{stem}ies"))
}

/// Whether an integration has ended for good.
fn has_ended(status: IntegrationStatus) -> bool {
    matches!(
        status,
        IntegrationStatus::Disconnected
            | IntegrationStatus::Removed
            | IntegrationStatus::Deleted
            | IntegrationStatus::Revoked
    )
}

/// What a word of a connection's health means, and what to do.
fn explained(health: &str, installation: &Installation) -> &'static str {
    match installation.last_event_at {
        None if health == "ok" => "Nothing is known to be wrong; no event has come yet.",
        _ => words::HEALTH.says(health).unwrap_or_default(),
    }
}

/// What is called by its id in the log: its name, and the path of its page, if it has one.
fn subjects(resources: &[Resource], integrations: &[Integration]) -> BTreeMap<String, (String, String)> {
    let names: BTreeMap<_, _> = resources.iter().map(|resource| (&resource.id, name_of(resource))).collect();
    let of_integrations = integrations.iter().map(|it| {
        let name = format!("{} to {}", names.get(&it.resource).unwrap_or(&"a resource"), it.workspace);
        (it.id.to_string(), (name, format!("/console/integrations/{}", it.id)))
    });
    let of_resources = names.iter().map(|(id, name)| (id.to_string(), ((*name).to_owned(), String::new())));
    of_integrations.chain(of_resources).collect()
}

/// What an entry of the log is about: by its name, or by an id that a search finds.
fn subject_of(id: &str, subjects: &BTreeMap<String, (String, String)>, base: &str) -> Markup {
    match (subjects.get(id), id.split_once('_')) {
        (Some((name, path)), _) if path.is_empty() => ui::named(id, name, ""),
        (Some((name, path)), _) => ui::named(id, name, &format!("{base}{path}")),
        (None, Some(("evt" | "dlv", _))) => ui::named(id, id, &format!("{base}/console/events?search={id}")),
        (None, _) => ui::named(id, id, ""),
    }
}

/// What a step of ending a connection does.
fn step(record: &StepRecord) -> &'static str {
    match record.step {
        TeardownStep::CloseGate => "Stop routing",
        TeardownStep::CancelBackfill => "Cancel the backfill",
        TeardownStep::RevokeToken => "Take the grant back at the provider",
        TeardownStep::DeregisterWebhook => "Deregister the webhook",
        TeardownStep::RemoveResources => "Unlink resources and end subscriptions",
        TeardownStep::DeleteToken => "Delete the token",
    }
}

/// The word of a step's state.
fn step_status(record: &StepRecord) -> &'static str {
    match record.status {
        StepStatus::Pending => "pending",
        StepStatus::Done => "done",
        StepStatus::Skipped => "skipped",
        StepStatus::GaveUp => "gave_up",
    }
}

/// What a resource is called.
fn name_of(resource: &Resource) -> &str {
    resource.name.as_deref().unwrap_or(resource.provider_resource_id.as_str())
}

/// Which words a search for a resource looks at.
fn words_of(resource: &Resource) -> String {
    format!("{} {}", name_of(resource), resource.provider_resource_id)
}

/// How an entry of the log looks: good, bad, or neither.
fn tone(entry: &LogEntry) -> &'static str {
    match entry.to_state.as_deref() {
        Some("active" | "completed" | "granted") => "good",
        Some("needs_reauth" | "suspended" | "pending" | "degraded") => "warn",
        Some("revoked" | "removed" | "failed" | "refused") => "bad",
        _ => "",
    }
}

/// Whether a teardown still runs.
fn is_running(teardown: &Teardown) -> bool {
    teardown.status == TeardownStatus::Running
}
