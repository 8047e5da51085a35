//! Lightfast's rows as ours. Pure: what is here already is not known here.
//!
//! The schemas it reads, oldest first: with `lightfast_user_sources` and the columns `user_source_id` and
//! `gateway_installation_id`; with ids of resources within `source_config`; with the column `provider_resource_id`.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{
    fields::{first_text, id, mapped_id, object, text, time},
    report::Report,
};
use crate::{
    crypto::lightfast::LightfastKey,
    model::{
        clock::EpochMs,
        ids::{InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        installation::{Installation, InstallationStatus},
        integration::{Integration, IntegrationStatus},
        provider::{ExternalId, ProviderResourceId, ProviderSlug},
        resource::{Resource, ResourceStatus},
    },
    store::lightfast::{ForeignRow, LightfastRows},
};

pub(super) const INSTALLATIONS: &str = "lightfast_gw_installations";
pub(super) const TOKENS: &str = "lightfast_gw_tokens";
pub(super) const RESOURCES: &str = "lightfast_gw_resources";
pub(super) const INTEGRATIONS: &str = "lightfast_workspace_integrations";
pub(super) const USER_SOURCES: &str = "lightfast_user_sources";

/// What is to be known of a provider.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownProvider {
    pub(super) slug: ProviderSlug,
    /// The `kind` of its resources.
    pub(super) resource_kind: &'static str,
    /// Whether its tokens are kept, or minted on demand.
    pub(super) keeps_tokens: bool,
}

/// One installation with everything that comes with it, each row with its id at its origin.
pub(super) struct InstallationPlan {
    pub(super) origin: String,
    pub(super) installation: Installation,
    pub(super) token: Option<(String, OpenToken)>,
    /// `None` for one that no row had, but an integration names.
    pub(super) resources: Vec<(Option<String>, Resource)>,
    pub(super) integrations: Vec<(String, Integration)>,
}

/// A token, opened. Has no `Debug`.
pub(super) struct OpenToken {
    pub(super) access: Zeroizing<Vec<u8>>,
    pub(super) refresh: Option<Zeroizing<Vec<u8>>>,
    pub(super) token_type: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) expires_at: Option<EpochMs>,
    pub(super) created_at: EpochMs,
    pub(super) updated_at: EpochMs,
}

/// Converts every row; those that cannot be are in the report.
pub(super) fn convert(
    rows: &LightfastRows,
    known: &[KnownProvider],
    key: &LightfastKey,
) -> (Vec<InstallationPlan>, Report) {
    let mut converter = Converter { known, report: Report::default(), plans: Vec::new(), by_origin: HashMap::new() };
    for (table, rows) in [
        (INSTALLATIONS, &rows.installations),
        (TOKENS, &rows.tokens),
        (RESOURCES, &rows.resources),
        (INTEGRATIONS, &rows.integrations),
        (USER_SOURCES, &rows.user_sources),
    ] {
        converter.report.table(table).read = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    }
    converter.report.missing.clone_from(&rows.missing);
    rows.installations.iter().for_each(|row| converter.installation(row));
    converter.tokens(&rows.tokens, key);
    rows.resources.iter().for_each(|row| converter.resource(row));
    converter.integrations(&rows.integrations);
    for row in &rows.user_sources {
        let reason = "it belongs to a person, not to an org: that person's org connects again";
        converter.report.refuse(USER_SOURCES, &id(row), reason);
    }
    (converter.plans, converter.report)
}

struct Converter<'a> {
    known: &'a [KnownProvider],
    report: Report,
    plans: Vec<InstallationPlan>,
    /// Where the plan of an installation is.
    by_origin: HashMap<String, usize>,
}

impl Converter<'_> {
    fn find_provider(&self, slug: &str) -> Option<KnownProvider> {
        self.known.iter().copied().find(|known| known.slug.as_str() == slug)
    }

    fn installation(&mut self, row: &ForeignRow) {
        let origin = id(row);
        match self.read_installation(row, &origin) {
            Ok(installation) => {
                if text(row, "webhook_secret").is_some() {
                    let remark = "it has a webhook secret of its own: put it into the provider's webhook_secrets";
                    self.report.remark(INSTALLATIONS, &origin, remark);
                }
                self.by_origin.insert(origin.clone(), self.plans.len());
                let (token, resources, integrations) = (None, Vec::new(), Vec::new());
                self.plans.push(InstallationPlan { origin, installation, token, resources, integrations });
            }
            Err(reason) => self.report.refuse(INSTALLATIONS, &origin, reason),
        }
    }

    fn read_installation(&self, row: &ForeignRow, origin: &str) -> Result<Installation, String> {
        let slug = text(row, "provider").ok_or("it has no provider")?;
        let provider = self.find_provider(&slug).ok_or_else(|| format!("the provider {slug} is not known here"))?;
        let external_id = text(row, "external_id").ok_or("it has no external_id")?;
        let org = text(row, "org_id").ok_or("it has no org_id")?;
        let is_plain = org.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if org.len() > 191 || !is_plain {
            return Err("its org_id is none that requests could name".to_owned());
        }
        let word = text(row, "status").unwrap_or_else(|| "active".to_owned());
        // `error` said that its token had failed.
        let status =
            if word == "error" { Some(InstallationStatus::NeedsReauth) } else { InstallationStatus::parse(&word) };
        let status = status.ok_or_else(|| format!("its status {word} is not known here"))?;
        let created_at = time(row, "created_at").unwrap_or(EpochMs(0));
        let info = object(row, "provider_account_info");
        let mut metadata = object(row, "metadata").unwrap_or_default();
        metadata.insert("lightfastId".to_owned(), json!(origin));
        let login = first_text(row, &["account_login", "account_name"]);
        Ok(Installation {
            id: InstallationId::from_raw(mapped_id(InstallationId::PREFIX, INSTALLATIONS, origin, created_at)),
            provider: provider.slug,
            alternate_external_id: info
                .as_ref()
                .and_then(configuration_of)
                .filter(|id| *id != external_id)
                .map(ExternalId::new),
            external_id: ExternalId::new(external_id),
            account_login: login,
            org: OrgId::from_raw(org),
            connected_by: text(row, "connected_by").unwrap_or_else(|| "lightfast".to_owned()),
            status,
            status_reason: (status != InstallationStatus::Active).then(|| "imported".to_owned()),
            metadata,
            provider_account_info: info.map(Value::Object),
            control_at: None,
            last_event_at: None,
            created_at,
            updated_at: time(row, "updated_at").unwrap_or(created_at),
        })
    }

    /// One token each, the newest.
    fn tokens(&mut self, rows: &[ForeignRow], key: &LightfastKey) {
        let mut rows: Vec<&ForeignRow> = rows.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(time(row, "updated_at").or_else(|| time(row, "created_at"))));
        for row in rows {
            let origin = id(row);
            if let Err(reason) = self.token(row, &origin, key) {
                self.report.refuse(TOKENS, &origin, reason);
            }
        }
    }

    fn token(&mut self, row: &ForeignRow, origin: &str, key: &LightfastKey) -> Result<(), String> {
        let at = self.plan_of(row)?;
        let keeps =
            self.find_provider(self.plans[at].installation.provider.as_str()).is_some_and(|known| known.keeps_tokens);
        let plan = &mut self.plans[at];
        if plan.token.is_some() {
            return Err("its installation has a newer one".to_owned());
        }
        if plan.installation.status == InstallationStatus::Revoked {
            return Err("its installation has ended".to_owned());
        }
        if !keeps {
            return Err("tokens of this provider are minted when they are needed, and not kept".to_owned());
        }
        let open = |column: &str| -> Result<Option<Zeroizing<Vec<u8>>>, String> {
            let Some(sealed) = text(row, column) else { return Ok(None) };
            let opened = key.open(&sealed).map_err(|error| format!("{column}: {error}"))?;
            Ok(Some(opened).filter(|opened| !opened.is_empty()))
        };
        let access = open("access_token")?.ok_or("it has no access token")?;
        let refresh = open("refresh_token")?;
        let created_at = time(row, "created_at").unwrap_or(plan.installation.created_at);
        plan.token = Some((
            origin.to_owned(),
            OpenToken {
                access,
                refresh,
                token_type: text(row, "token_type"),
                scope: first_text(row, &["scope", "scopes"]),
                expires_at: first_time(row, &["expires_at", "token_expires_at"]),
                created_at,
                updated_at: time(row, "updated_at").unwrap_or(created_at),
            },
        ));
        Ok(())
    }

    fn plan_of(&self, row: &ForeignRow) -> Result<usize, String> {
        let installation = text(row, "installation_id").ok_or("it has no installation_id")?;
        let at = self.by_origin.get(&installation).copied();
        at.ok_or_else(|| format!("its installation {installation} is not there, or could not be carried over"))
    }

    fn resource(&mut self, row: &ForeignRow) {
        let origin = id(row);
        match self.read_resource(row, &origin) {
            Ok((at, resource)) => self.plans[at].resources.push((Some(origin), resource)),
            Err(reason) => self.report.refuse(RESOURCES, &origin, reason),
        }
    }

    fn read_resource(&self, row: &ForeignRow, origin: &str) -> Result<(usize, Resource), String> {
        let at = self.plan_of(row)?;
        let at_provider = text(row, "provider_resource_id").ok_or("it has no provider_resource_id")?;
        if self.plans[at].resources.iter().any(|(_, other)| other.provider_resource_id.as_str() == at_provider) {
            return Err("its installation has this resource already".to_owned());
        }
        let word = text(row, "status").unwrap_or_else(|| "active".to_owned());
        let status = ResourceStatus::parse(&word).ok_or_else(|| format!("its status {word} is not known here"))?;
        let created_at = time(row, "created_at").unwrap_or(self.plans[at].installation.created_at);
        let mut resource = self.new_resource(at, origin, at_provider, created_at);
        resource.status = status;
        resource.status_reason = (status != ResourceStatus::Active).then(|| "imported".to_owned());
        resource.name = text(row, "resource_name");
        resource.updated_at = time(row, "updated_at").unwrap_or(created_at);
        Ok((at, resource))
    }

    fn new_resource(&self, at: usize, origin: &str, at_provider: String, created_at: EpochMs) -> Resource {
        let installation = &self.plans[at].installation;
        let kind = self.find_provider(installation.provider.as_str()).map_or("resource", |known| known.resource_kind);
        Resource {
            id: ResourceId::from_raw(mapped_id(ResourceId::PREFIX, RESOURCES, origin, created_at)),
            installation: installation.id.clone(),
            provider_resource_id: ProviderResourceId::new(at_provider),
            kind: kind.to_owned(),
            slug: None,
            name: None,
            attrs: Map::new(),
            status: ResourceStatus::Active,
            status_reason: None,
            control_at: None,
            created_at,
            updated_at: created_at,
        }
    }

    /// A workspace has one integration of a resource: of several, an active one comes first.
    fn integrations(&mut self, rows: &[ForeignRow]) {
        let mut rows: Vec<&ForeignRow> = rows.iter().collect();
        rows.sort_by_key(|row| read_status(row).ok().is_none_or(|(status, _)| status != IntegrationStatus::Active));
        let mut taken: HashSet<(String, ResourceId)> = HashSet::new();
        for row in rows {
            let origin = id(row);
            if let Err(reason) = self.integration(row, &origin, &mut taken) {
                self.report.refuse(INTEGRATIONS, &origin, reason);
            }
        }
    }

    fn integration(
        &mut self,
        row: &ForeignRow,
        origin: &str,
        taken: &mut HashSet<(String, ResourceId)>,
    ) -> Result<(), String> {
        let config = read_source_config(row);
        let at = self.installation_of(row, &config)?;
        let named = first_text(row, &["provider"]).or_else(|| first_text(&config, &["provider", "sourceType"]));
        let provider = self.plans[at].installation.provider;
        if let Some(named) = named.filter(|named| named != provider.as_str()) {
            return Err(format!("it is of {named}, its installation of {provider}"));
        }
        let workspace = text(row, "workspace_id").ok_or("it has no workspace_id")?;
        let at_provider = text(row, "provider_resource_id")
            .or_else(|| first_text(&config, &["repoId", "projectId", "teamId"]))
            .ok_or("it names no resource")?;
        let (status, status_reason) = read_status(row)?;
        let created_at = first_time(row, &["created_at", "connected_at"]);
        let created_at = created_at.unwrap_or(self.plans[at].installation.created_at);
        let of_plan = |(_, other): &(Option<String>, Resource)| other.provider_resource_id.as_str() == at_provider;
        let found = self.plans[at].resources.iter().position(of_plan);
        let resource = if let Some(found) = found {
            found
        } else {
            // Older schemas knew the resource from here alone.
            let made =
                self.new_resource(at, &format!("{}\n{at_provider}", self.plans[at].origin), at_provider, created_at);
            self.plans[at].resources.push((None, made));
            self.plans[at].resources.len() - 1
        };
        let plan = &mut self.plans[at];
        let resource = &mut plan.resources[resource].1;
        if !taken.insert((workspace.clone(), resource.id.clone())) {
            return Err("its workspace has another integration of this resource".to_owned());
        }
        complete_resource(resource, &config);
        let installation = &mut plan.installation;
        if installation.alternate_external_id.is_none() {
            let configuration = configuration_of(&config).filter(|id| id != installation.external_id.as_str());
            installation.alternate_external_id = configuration.map(ExternalId::new);
        }
        let integration = Integration {
            id: IntegrationId::from_raw(mapped_id(IntegrationId::PREFIX, INTEGRATIONS, origin, created_at)),
            org: installation.org.clone(),
            workspace: WorkspaceId::from_raw(workspace),
            provider,
            installation: installation.id.clone(),
            resource: resource.id.clone(),
            source_config: config,
            status,
            status_reason,
            last_event_at: None,
            created_at,
            updated_at: time(row, "updated_at").unwrap_or(created_at),
        };
        plan.integrations.push((origin.to_owned(), integration));
        Ok(())
    }

    /// Through its column, or through what older schemas had in its place.
    fn installation_of(&self, row: &ForeignRow, config: &Map<String, Value>) -> Result<usize, String> {
        let by_id = first_text(row, &["installation_id", "gateway_installation_id"]);
        if let Some(origin) = by_id {
            let at = self.by_origin.get(&origin).copied();
            return at.ok_or_else(|| format!("its installation {origin} is not there, or could not be carried over"));
        }
        let slug = first_text(row, &["provider"]).or_else(|| first_text(config, &["provider", "sourceType"]));
        // A workspace's org is not in these tables: only an account that one installation alone has names its owner.
        let mut accounts = BTreeMap::new();
        for name in ["installationId", "configurationId", "teamId"] {
            let Some(account) = text(config, name) else { continue };
            let of_account = self.plans.iter().enumerate().filter(|(_, plan)| {
                let installation = &plan.installation;
                let is_account = installation.external_id.as_str() == account
                    || installation.alternate_external_id.as_ref().is_some_and(|id| id.as_str() == account);
                is_account && slug.as_deref() == Some(installation.provider.as_str())
            });
            accounts.extend(of_account.map(|(at, plan)| (at, plan.origin.as_str())));
        }
        match accounts.into_keys().collect::<Vec<usize>>().as_slice() {
            [only] => Ok(*only),
            [] => Err(match text(row, "user_source_id") {
                Some(source) => format!("it belongs to {source}, a person's source, which no org owns"),
                None => "it has no installation_id".to_owned(),
            }),
            _ => Err("it has no installation_id, and several installations have its account".to_owned()),
        }
    }
}

fn first_time(row: &ForeignRow, columns: &[&str]) -> Option<EpochMs> {
    columns.iter().find_map(|column| time(row, column))
}

/// The `icfg_…` that some payloads name instead of the account, in either of the shapes it was kept in.
fn configuration_of(facts: &Map<String, Value>) -> Option<String> {
    let raw = object(facts, "raw").unwrap_or_default();
    let named = [text(facts, "configurationId"), text(&raw, "installation_id")];
    named.into_iter().flatten().find(|id| id.starts_with("icfg_"))
}

/// `source_config` as it is; a schema that had split it has it put together again.
fn read_source_config(row: &ForeignRow) -> Map<String, Value> {
    if let Some(config) = object(row, "source_config") {
        return config;
    }
    let mut config = object(row, "resource_meta").unwrap_or_default();
    if let Some(sync) = object(row, "sync_config") {
        config.insert("sync".to_owned(), Value::Object(sync));
    }
    config
}

/// An integration's status. Older schemas have only a flag; newer ones keep it beside the word.
fn read_status(row: &ForeignRow) -> Result<(IntegrationStatus, Option<String>), String> {
    let word = text(row, "status").unwrap_or_else(|| "active".to_owned());
    let status = IntegrationStatus::parse(&word).ok_or_else(|| format!("its status {word} is not known here"))?;
    let is_active = row.get("is_active").and_then(Value::as_bool).unwrap_or(true);
    let reason = text(row, "status_reason");
    Ok(match status {
        IntegrationStatus::Active if !is_active => {
            (IntegrationStatus::Disconnected, reason.or_else(|| Some("imported".to_owned())))
        }
        IntegrationStatus::Active => (status, reason),
        _ => (status, reason.or_else(|| Some("imported".to_owned()))),
    })
}

/// What the integration knew of its resource and the resource's own row did not.
fn complete_resource(resource: &mut Resource, config: &Map<String, Value>) {
    if resource.name.is_none() {
        resource.name = first_text(config, &["repoFullName", "projectName", "teamName", "repoName"]);
    }
    if resource.slug.is_none() {
        resource.slug = text(config, "projectSlug");
    }
    for name in ["defaultBranch", "isPrivate", "isArchived"] {
        if let Some(value) = config.get(name).filter(|value| !value.is_null()) {
            resource.attrs.entry(name).or_insert_with(|| value.clone());
        }
    }
}

#[cfg(test)]
mod tests;
