//! From the rows of Lightfast to ours: pure. Ids stay what they are, because other systems keep them.
//!
//! **Invariants**: the same rows give the same plan; whatever is left out or doubtful is in the report with its reason;
//! `sync.events` and the rest of a `source_config` are carried over untouched, category keys included.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use serde_json::{Map, Value};

use super::report::Report;
use crate::{
    model::{
        clock::EpochMs,
        ids::{InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        installation::{Installation, InstallationStatus},
        integration::{Integration, IntegrationStatus},
        provider::ProviderResourceId,
        resource::{Resource, ResourceStatus},
    },
    providers::Registry,
    store::lightfast::{LightfastRow, LightfastRows},
};

pub(super) const INSTALLATIONS: &str = "installations";
pub(super) const TOKENS: &str = "tokens";
pub(super) const RESOURCES: &str = "resources";
pub(super) const INTEGRATIONS: &str = "integrations";

pub(super) const INSTALLATION_TABLE: &str = "lightfast_gw_installations";
pub(super) const TOKEN_TABLE: &str = "lightfast_gw_tokens";
pub(super) const RESOURCE_TABLE: &str = "lightfast_gw_resources";
pub(super) const INTEGRATION_TABLE: &str = "lightfast_workspace_integrations";

/// Where a `source_config` names its resource, in each age of it; the project before the team it belongs to.
const RESOURCE_IDS: [&str; 4] = ["repoId", "repositoryId", "projectId", "teamId"];
/// Where it names what people call the resource.
const RESOURCE_NAMES: [&str; 4] = ["repoFullName", "projectName", "projectSlug", "teamName"];

/// A connection with everything that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Imported {
    pub installation: Installation,
    pub token: Option<ImportedToken>,
    pub resources: Vec<Resource>,
    pub integrations: Vec<Integration>,
}

impl Imported {
    /// Whether a resource has no row there: one of its subscriptions alone says that there is one.
    pub(super) fn is_made_up(&self, resource: &Resource) -> bool {
        self.integrations.iter().any(|integration| resource.id.as_str() == id_of_made_up(integration.id.as_str()))
    }
}

fn id_of_made_up(integration: &str) -> String {
    format!("res_of_{integration}")
}

/// Why a row is left out whose connection is.
pub(super) fn connection_left_out(id: impl fmt::Display) -> String {
    format!("its connection {id} is not carried over")
}

/// A token's row, its secrets still encrypted as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImportedToken {
    /// The row's id there.
    pub row: String,
    pub access: String,
    pub refresh: Option<String>,
    pub token_type: Option<String>,
    pub scope: Option<String>,
    pub expires_at: Option<EpochMs>,
    pub issued_at: EpochMs,
}

/// Converts everything. `now` stands in for times that a row lacks.
pub(super) fn convert(rows: &LightfastRows, registry: &Registry, now: EpochMs, report: &mut Report) -> Vec<Imported> {
    let mut plan = Vec::new();
    let mut owners = Owners::default();
    let mut live = HashSet::new();
    for row in rows.installations.iter().map(Columns) {
        report.of(INSTALLATIONS).found += 1;
        let Some(imported) = installation(row, registry, now, report) else { continue };
        let account = (imported.installation.provider, imported.installation.external_id.clone());
        if imported.installation.status != InstallationStatus::Revoked && !live.insert(account) {
            report.leave_out(
                INSTALLATION_TABLE,
                &row.id(),
                "installation_already_bound",
                "another connection of the same account is alive; only the oldest is carried over",
            );
            continue;
        }
        owners.by_id.insert(row.id(), plan.len());
        if imported.installation.status != InstallationStatus::Revoked {
            let Installation { provider, external_id, alternate_external_id, .. } = &imported.installation;
            for account in std::iter::once(external_id).chain(alternate_external_id) {
                owners.by_account.insert((provider.to_string(), account.to_string()), plan.len());
            }
        }
        plan.push(imported);
    }
    for row in rows.tokens.iter().map(Columns) {
        report.of(TOKENS).found += 1;
        let Some(owner) = owner(row, &owners, TOKEN_TABLE, report) else { continue };
        token(row, &mut plan[owner], now, report);
    }
    for row in rows.resources.iter().map(Columns) {
        report.of(RESOURCES).found += 1;
        let Some(owner) = owner(row, &owners, RESOURCE_TABLE, report) else { continue };
        resource(row, &mut plan[owner], registry, now, report);
    }
    for row in rows.integrations.iter().map(Columns) {
        report.of(INTEGRATIONS).found += 1;
        let Some(owner) = owner(row, &owners, INTEGRATION_TABLE, report) else { continue };
        integration(row, &mut plan[owner], registry, now, report);
    }
    plan
}

/// Which installation of the plan is which, by its id there and, for those that are alive, by provider and account.
#[derive(Default)]
struct Owners {
    by_id: HashMap<String, usize>,
    by_account: HashMap<(String, String), usize>,
}

/// The installation a row belongs to. Rows of the age of `lightfast_user_sources` may name it in a second column, or
/// only their account at the provider.
fn owner(row: Columns<'_>, owners: &Owners, table: &'static str, report: &mut Report) -> Option<usize> {
    let named = row.text("installation_id").or_else(|| row.text("gateway_installation_id"));
    if named.is_none()
        && let Some(position) = owner_by_account(row, owners)
    {
        return Some(position);
    }
    match named {
        None if row.text("user_source_id").is_some() => report.leave_out(
            table,
            &row.id(),
            "legacy_source",
            "it hangs on lightfast_user_sources alone; connect the account again and subscribe anew",
        ),
        None => report.leave_out(table, &row.id(), "no_installation", "it names no connection"),
        Some(id) => {
            if let Some(position) = owners.by_id.get(&id) {
                return Some(*position);
            }
            report.leave_out(table, &row.id(), "installation_left_out", connection_left_out(&id));
        }
    }
    None
}

fn owner_by_account(row: Columns<'_>, owners: &Owners) -> Option<usize> {
    let config = row.object("source_config")?;
    let config = Columns(&config);
    let provider = row.text("provider").or_else(|| config.text("sourceType")).or_else(|| config.text("provider"))?;
    ["installationId", "configurationId", "teamId"].iter().find_map(|name| {
        let account = config.text(name)?;
        owners.by_account.get(&(provider.clone(), account)).copied()
    })
}

fn installation(row: Columns<'_>, registry: &Registry, now: EpochMs, report: &mut Report) -> Option<Imported> {
    let id = row.id();
    let mut refuse = |code, why: String| report.leave_out(INSTALLATION_TABLE, &id, code, why);
    if !is_plain(&id) {
        refuse("unusable_id", "its id is not 1 to 191 letters, digits, `-` and `_`".into());
        return None;
    }
    let Some(provider) = row.text("provider").and_then(|slug| registry.find(&slug).cloned()) else {
        refuse("unknown_provider", "its provider is not one of ours".into());
        return None;
    };
    let Some(org) = row.text("org_id").filter(|org| is_plain(org)) else {
        refuse("invalid_org_id", "its org id is missing or is not 1 to 191 letters, digits, `-` and `_`".into());
        return None;
    };
    let Some(external_id) = row.text("external_id") else {
        refuse("no_external_id", "it has no external id".into());
        return None;
    };
    let word = row.text("status").unwrap_or_else(|| "active".into());
    // `error` was Lightfast's word for a connection that people had to look after.
    let status = if word == "error" { Some(InstallationStatus::NeedsReauth) } else { InstallationStatus::parse(&word) };
    let Some(status) = status else {
        refuse("unknown_status", format!("its status {word:?} is not known"));
        return None;
    };
    let account_info = row.object("provider_account_info").map(Value::Object);
    let account = provider.account_of_seed(&external_id, account_info.as_ref().unwrap_or(&Value::Null));
    if !account.is_certain {
        report.doubt(
            INSTALLATION_TABLE,
            &id,
            "uncertain_account",
            "the account's id at the provider cannot be told for sure; if its events stay unrouted, connect it again",
        );
    }
    Some(Imported {
        installation: Installation {
            id: InstallationId::from_raw(id),
            provider: provider.slug(),
            external_id: account.external_id,
            alternate_external_id: account.alternate_external_id,
            account_login: row.text("account_login").or(account.login),
            org: OrgId::from_raw(org),
            connected_by: row.text("connected_by").unwrap_or_else(|| "import".into()),
            status,
            status_reason: (status != InstallationStatus::Active).then(|| format!("imported_{word}")),
            metadata: row.object("metadata").unwrap_or_default(),
            provider_account_info: account_info,
            control_at: None,
            last_event_at: None,
            created_at: row.time("created_at").unwrap_or(now),
            updated_at: row.time("updated_at").unwrap_or(now),
        },
        token: None,
        resources: Vec::new(),
        integrations: Vec::new(),
    })
}

fn token(row: Columns<'_>, of: &mut Imported, now: EpochMs, report: &mut Report) {
    if of.installation.status == InstallationStatus::Revoked {
        return report.leave_out(TOKEN_TABLE, &row.id(), "connection_ended", "its connection has ended");
    }
    let Some(access) = row.text("access_token") else {
        return report.leave_out(TOKEN_TABLE, &row.id(), "no_access_token", "it has no access token");
    };
    let token = ImportedToken {
        row: row.id(),
        access,
        refresh: row.text("refresh_token"),
        token_type: row.text("token_type"),
        scope: row.text("scope"),
        expires_at: row.time("expires_at"),
        issued_at: row.time("updated_at").or_else(|| row.time("created_at")).unwrap_or(now),
    };
    // A rotation ends the tokens before it: of several rows the newest lives. They come oldest first.
    let (newest, other) = match of.token.take() {
        Some(known) if known.issued_at > token.issued_at => (known, Some(token)),
        known => (token, known),
    };
    of.token = Some(newest);
    if let Some(other) = other {
        report.leave_out(TOKEN_TABLE, &other.row, "second_token", "its connection has a newer row");
    }
}

fn resource(row: Columns<'_>, of: &mut Imported, registry: &Registry, now: EpochMs, report: &mut Report) {
    let id = row.id();
    let Some(provider_resource_id) = row.text("provider_resource_id") else {
        return report.leave_out(RESOURCE_TABLE, &id, "no_resource", "it names no resource of the provider");
    };
    let word = row.text("status").unwrap_or_else(|| "active".into());
    let ended = of.installation.status == InstallationStatus::Revoked;
    let status = if word == "active" && !ended { ResourceStatus::Active } else { ResourceStatus::Removed };
    let made = new_resource(&id, &provider_resource_id, of, registry, now);
    let resource = Resource {
        name: row.text("resource_name"),
        status,
        status_reason: (status == ResourceStatus::Removed).then(|| "imported".to_owned()),
        created_at: row.time("created_at").unwrap_or(now),
        updated_at: row.time("updated_at").unwrap_or(now),
        ..made
    };
    let same = of.resources.iter().position(|known| known.provider_resource_id == resource.provider_resource_id);
    match same {
        None => of.resources.push(resource),
        // Lightfast made a new row for each time a resource was linked; ours has one, the living one.
        Some(position) => {
            let known = &mut of.resources[position];
            let other = if known.status == ResourceStatus::Removed && status == ResourceStatus::Active {
                std::mem::replace(known, resource).id.to_string()
            } else {
                id
            };
            report.leave_out(
                RESOURCE_TABLE,
                &other,
                "second_row",
                "another row of its connection is the same resource",
            );
        }
    }
}

fn new_resource(id: &str, provider_resource_id: &str, of: &Imported, registry: &Registry, now: EpochMs) -> Resource {
    let label = registry.find(of.installation.provider.as_str()).map_or("resource", |found| found.resource_label());
    Resource {
        id: ResourceId::from_raw(id),
        installation: of.installation.id.clone(),
        provider_resource_id: ProviderResourceId::new(provider_resource_id),
        kind: label.to_owned(),
        slug: None,
        name: None,
        attrs: Map::new(),
        status: ResourceStatus::Active,
        status_reason: None,
        control_at: None,
        created_at: now,
        updated_at: now,
    }
}

fn integration(row: Columns<'_>, of: &mut Imported, registry: &Registry, now: EpochMs, report: &mut Report) {
    let id = row.id();
    let source_config = row.object("source_config").unwrap_or_default();
    let config = Columns(&source_config);
    let named = RESOURCE_IDS.iter().find_map(|name| config.text(name));
    let Some(provider_resource_id) = row.text("provider_resource_id").or(named) else {
        return report.leave_out(INTEGRATION_TABLE, &id, "no_resource", "it names no resource of the provider");
    };
    let Some(workspace) = row.text("workspace_id") else {
        return report.leave_out(INTEGRATION_TABLE, &id, "no_workspace", "it names no workspace");
    };
    let Some((status, status_reason)) = integration_status(row, of.installation.status) else {
        return report.leave_out(INTEGRATION_TABLE, &id, "unknown_status", "its status is not known");
    };
    let linked = of.resources.iter().position(|known| known.provider_resource_id.as_str() == provider_resource_id);
    let position = linked.unwrap_or_else(|| {
        // It was subscribed without a row among the resources: the subscription says that there is one.
        let mut made = new_resource(&id_of_made_up(&id), &provider_resource_id, of, registry, now);
        if status != IntegrationStatus::Active {
            made.status = ResourceStatus::Removed;
            made.status_reason = Some("imported".into());
        }
        of.resources.push(made);
        of.resources.len() - 1
    });
    let resource = &mut of.resources[position];
    if resource.name.is_none() {
        resource.name = RESOURCE_NAMES.iter().find_map(|name| config.text(name));
    }
    if resource.slug.is_none() {
        resource.slug = config.text("projectSlug");
    }
    if status == IntegrationStatus::Active && resource.status == ResourceStatus::Removed {
        report.doubt(
            INTEGRATION_TABLE,
            &id,
            "resource_removed",
            "it is active but its resource is not linked: it gets no events until the resource is linked again",
        );
    }
    let resource = resource.id.clone();
    let workspace = WorkspaceId::from_raw(workspace);
    if of.integrations.iter().any(|known| known.workspace == workspace && known.resource == resource) {
        return report.leave_out(
            INTEGRATION_TABLE,
            &id,
            "second_row",
            "its workspace has another for the same resource",
        );
    }
    let wants = source_config.get("sync").and_then(|sync| sync.get("events")).and_then(Value::as_array);
    if wants.is_none_or(Vec::is_empty) && status == IntegrationStatus::Active {
        report.doubt(
            INTEGRATION_TABLE,
            &id,
            "no_events",
            "its sync.events is empty: it gets nothing until it lists events",
        );
    }
    if let Some(unknown) = unknown_keys(wants, registry, of) {
        report.doubt(
            INTEGRATION_TABLE,
            &id,
            "unknown_event_key",
            format!("its sync.events names {unknown}, unknown here"),
        );
    }
    of.integrations.push(Integration {
        id: IntegrationId::from_raw(id),
        org: of.installation.org.clone(),
        workspace,
        provider: of.installation.provider,
        installation: of.installation.id.clone(),
        resource,
        source_config,
        status,
        status_reason,
        last_event_at: None,
        created_at: row.time("created_at").or_else(|| row.time("connected_at")).unwrap_or(now),
        updated_at: row.time("updated_at").unwrap_or(now),
    });
}

/// The status of an integration: its own word, or the flag of the age before there were words; never livelier than its
/// connection.
fn integration_status(
    row: Columns<'_>,
    installation: InstallationStatus,
) -> Option<(IntegrationStatus, Option<String>)> {
    let own = match row.text("status") {
        Some(word) => IntegrationStatus::parse(&word)?,
        None if row.flag("is_active") == Some(false) => IntegrationStatus::Disconnected,
        None => IntegrationStatus::Active,
    };
    let status = match (own, installation) {
        (IntegrationStatus::Active, InstallationStatus::Revoked) => IntegrationStatus::Revoked,
        (IntegrationStatus::Active, InstallationStatus::Suspended) => IntegrationStatus::Suspended,
        _ => own,
    };
    let reason = row.text("status_reason").or_else(|| (status != IntegrationStatus::Active).then(|| "imported".into()));
    Some((status, reason))
}

/// The keys that are neither events nor categories of the provider.
fn unknown_keys(wants: Option<&Vec<Value>>, registry: &Registry, of: &Imported) -> Option<String> {
    let provider = registry.find(of.installation.provider.as_str())?;
    let is_known = |key: &str| {
        provider.events().iter().any(|spec| spec.key == key)
            || provider.categories().iter().any(|category| category.key == key)
    };
    let keys = wants?.iter().map(|key| key.as_str().map_or_else(|| key.to_string(), str::to_owned));
    let unknown: Vec<String> = keys.filter(|key| !is_known(key)).collect();
    (!unknown.is_empty()).then(|| unknown.join(", "))
}

fn is_plain(id: &str) -> bool {
    (1..=191).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A row, or any object, read leniently.
#[derive(Clone, Copy)]
struct Columns<'a>(&'a LightfastRow);

impl Columns<'_> {
    /// A text or number, as text.
    fn text(self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn id(self) -> String {
        self.text("id").unwrap_or_default()
    }

    fn flag(self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    /// A JSON object; also one that was stored as a text.
    fn object(self, name: &str) -> Option<Map<String, Value>> {
        match self.0.get(name)? {
            Value::Object(object) => Some(object.clone()),
            Value::String(text) => serde_json::from_str(text).ok(),
            _ => None,
        }
    }

    /// A time; a column without a time zone is UTC.
    fn time(self, name: &str) -> Option<EpochMs> {
        let text = self.text(name)?;
        EpochMs::parse_rfc3339(&text).or_else(|| EpochMs::parse_rfc3339(&format!("{text}Z")))
    }
}
