//! `/console/integrations/{id}`: which events of a resource a workspace gets, and where they go.

use actix_web::web;
use askama::Template;
use serde_json::json;

use super::{
    layout::{Layout, Section, segment},
    render, ui,
    visitor::Visitor,
    workspace::{is_live, name_of, scope},
};
use crate::{
    model::{
        clock::EpochMs,
        destination::{Destination, DestinationScope},
        event::EventKey,
        ids::{InstallationId, IntegrationId},
        integration::{Integration, IntegrationStatus, SyncRules},
        provider::ProviderResourceId,
    },
    providers::{Category, EventSpec, Registry},
    routes::{Answer, Gateway, Problem, Query, error_codes as codes},
};

#[derive(Template)]
#[template(path = "integration.html")]
#[expect(clippy::struct_excessive_bools, reason = "each is a question that the template asks")]
struct IntegrationPage {
    layout: Layout,
    id: IntegrationId,
    name: String,
    workspace: String,
    workspace_path: String,
    provider: &'static str,
    /// What its resources are called.
    label: String,
    provider_resource: ProviderResourceId,
    connection: InstallationId,
    account: String,
    status: IntegrationStatus,
    reason: Option<String>,
    is_live: bool,
    is_paused: bool,
    /// Whether the visitor may choose events.
    is_editable: bool,
    last_event_at: Option<EpochMs>,
    created_at: EpochMs,
    /// Its own destination.
    own: Option<Destination>,
    own_url: String,
    own_has_headers: bool,
    /// Where its deliveries go without one; `None` is nowhere.
    inherited: Option<Inherited>,
    /// What the deletion of its own does.
    consequence: String,
    /// Where the API has its own.
    api: String,
    categories: Vec<CategoryShown>,
    wanted: usize,
    known: usize,
    /// The body that chooses the usual events.
    defaults: String,
    default_count: usize,
}

/// A destination that is not the integration's own.
struct Inherited {
    url: Option<String>,
    whose: &'static str,
}

/// A category and its events.
struct CategoryShown {
    label: &'static str,
    description: &'static str,
    /// What a search finds it by.
    words: String,
    events: Vec<EventShown>,
}

/// An event that can be chosen.
struct EventShown {
    key: &'static str,
    label: &'static str,
    description: &'static str,
    is_wanted: bool,
}

/// `GET /console/integrations/{id}`: an integration.
pub async fn show(visitor: Visitor, id: web::Path<String>, _query: Query, gateway: web::Data<Gateway>) -> Answer {
    let not_found = || Problem::new(&codes::NOT_FOUND);
    let found = gateway.store.find_integration(&IntegrationId::from_raw(id.into_inner())).await?;
    let integration = found.filter(|found| visitor.caller.sees(Some(&found.org))).ok_or_else(not_found)?;
    let record = gateway.store.load_installation(&integration.installation).await?.ok_or_else(not_found)?;
    let resource = record.resources.iter().find(|row| row.id == integration.resource).ok_or_else(not_found)?;
    let provider = gateway.registry.find(integration.provider.as_str()).ok_or_else(not_found)?;
    let own = scope(&integration.org, DestinationScope::Integration, integration.id.as_str());
    let own = gateway.destinations.find(&own).await?;
    let inherited = inherited(&gateway, &integration).await?;
    let rules = integration.rules();
    let defaults = Registry::default_event_keys(provider.as_ref());
    let name = name_of(resource).to_owned();
    let is_live = is_live(&integration);
    let layout = visitor.layout(Section::Workspaces, &name);
    render(&IntegrationPage {
        workspace: integration.workspace.to_string(),
        workspace_path: format!(
            "/console/workspaces/{}{}",
            segment(integration.workspace.as_str()),
            layout.within(&integration.org)
        ),
        provider: provider.name(),
        label: capitalised(provider.resource_label()),
        provider_resource: resource.provider_resource_id.clone(),
        connection: integration.installation.clone(),
        account: record.installation.account().to_owned(),
        status: integration.status,
        reason: integration.status_reason.clone().filter(|_| !is_live),
        is_live,
        is_paused: integration.is_paused(),
        is_editable: is_live && layout.can_write,
        last_event_at: integration.last_event_at,
        created_at: integration.created_at,
        own_url: own.as_ref().map(|view| view.destination.url.clone()).unwrap_or_default(),
        own_has_headers: own.as_ref().is_some_and(|view| !view.header_names.is_empty()),
        own: own.map(|view| view.destination),
        consequence: match &inherited {
            None => "Its deliveries wait until there is a destination again.".to_owned(),
            Some(Inherited { url: None, whose }) => format!("Its deliveries go to {whose}."),
            Some(Inherited { url: Some(url), whose }) => format!("Its deliveries go to {url} ({whose})."),
        },
        inherited,
        api: format!("/integrations/{}/destination", integration.id),
        categories: categories(provider.categories(), provider.events(), &rules),
        wanted: provider.events().iter().filter(|spec| is_wanted(&rules, spec)).count(),
        known: provider.events().len(),
        default_count: defaults.len(),
        defaults: json!({"events": defaults}).to_string(),
        id: integration.id,
        name,
        layout,
    })
}

/// Whether the rules let this event through, by its key, a broader one, or its category.
pub(super) fn is_wanted(rules: &SyncRules, spec: &EventSpec) -> bool {
    let aliases: Vec<EventKey> = spec.alias_of.map(EventKey::new).into_iter().collect();
    rules.allows(&EventKey::new(spec.key), &aliases, spec.category)
}

fn categories(categories: &'static [Category], events: &'static [EventSpec], rules: &SyncRules) -> Vec<CategoryShown> {
    let shown = |category: &Category| {
        let mut of_it: Vec<&EventSpec> = events.iter().filter(|spec| spec.category == category.key).collect();
        of_it.sort_by_key(|spec| std::cmp::Reverse(spec.weight));
        let words: Vec<&str> = of_it.iter().flat_map(|spec| [spec.label, spec.key]).collect();
        CategoryShown {
            label: category.label,
            description: category.description,
            words: format!("{} {}", category.label, words.join(" ")),
            events: of_it
                .into_iter()
                .map(|spec| EventShown {
                    key: spec.key,
                    label: spec.label,
                    description: spec.description,
                    is_wanted: is_wanted(rules, spec),
                })
                .collect(),
        }
    };
    categories.iter().map(shown).filter(|category| !category.events.is_empty()).collect()
}

/// Where deliveries go that have no destination of the integration's own.
async fn inherited(gateway: &Gateway, integration: &Integration) -> Result<Option<Inherited>, Problem> {
    for (wider, id, whose) in [
        (DestinationScope::Workspace, integration.workspace.as_str(), "the workspace’s"),
        (DestinationScope::Org, integration.org.as_str(), "the org’s"),
    ] {
        if let Some(view) = gateway.destinations.find(&scope(&integration.org, wider, id)).await? {
            return Ok(Some(Inherited { url: Some(view.destination.url), whose }));
        }
    }
    let whose = "the gateway’s default destination";
    Ok(gateway.config.delivery.url.is_some().then_some(Inherited { url: None, whose }))
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::Registry;

    #[test]
    fn every_event_of_every_provider_can_be_chosen_once() {
        for registered in Registry::built_in() {
            let provider = (registered.make)();
            let rules = SyncRules { events: Registry::default_event_keys(provider.as_ref()), auto_sync: true };
            let shown = categories(provider.categories(), provider.events(), &rules);
            let keys: Vec<_> = shown.iter().flat_map(|category| &category.events).map(|event| event.key).collect();
            assert_eq!(keys.len(), provider.events().len(), "{}", provider.slug());
            let wanted = shown.iter().flat_map(|category| &category.events).filter(|event| event.is_wanted).count();
            assert!(wanted > 0 && wanted < keys.len(), "{}", provider.slug());
        }
    }
}
