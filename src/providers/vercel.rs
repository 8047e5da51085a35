//! Vercel integrations: webhooks of deployments, projects and of the integration's configurations.
//!
//! **Owns** what is Vercel's alone. **Invariants**: as for every provider, functions of (headers, bytes). Protocol
//! source: Vercel's "Webhooks API Reference". Quirks worth knowing: the MAC is HMAC-SHA1 with the integration's client
//! secret; the delivery id is the body's `id` (`x-vercel-id` names an attempt, and our own hosting may add it); an
//! account is a team or a person; hooks made long ago still send dashed type names and flat ids.

mod connect;
mod projects;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Category, ControlChange, Digest, EventSpec, ExtractError, Inbound, Provider, RemovalReason, ResourceFacts,
    ResourceSelector, SeedAccount, SignatureScheme,
    catalogue::find_key,
    delivery_id::content_id,
    facts::{self, facts},
    partial::{Json, distinct},
};
use crate::model::{
    event::EventKey,
    provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug, ProviderSpec, SettingSpec},
    webhook::Headers,
};

/// Vercel.
pub(super) struct Vercel;

impl Vercel {
    const SLUG: ProviderSlug = ProviderSlug("vercel");

    const SCHEME: SignatureScheme =
        SignatureScheme { header: "x-vercel-signature", prefix: "", digest: Digest::Sha1, signed_timestamp: None };

    /// Vercel publishes no limit; its bodies are a few kilobytes.
    const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;

    #[rustfmt::skip]
    pub(super) const SPEC: ProviderSpec = ProviderSpec {
        slug: Self::SLUG,
        settings: &[
            SettingSpec { name: "integration_slug", doc: "The integration's name in URLs (vercel.com/integrations/NAME)", secret: false, default: None },
            SettingSpec { name: "client_id", doc: "The integration's client id", secret: false, default: None },
            SettingSpec { name: "client_secret", doc: "The integration's client secret; it also signs webhooks", secret: true, default: None },
            SettingSpec { name: "web_url", doc: "Base of the pages people visit", secret: false, default: Some("https://vercel.com") },
            SettingSpec { name: "api_url", doc: "Base of the REST API", secret: false, default: Some("https://api.vercel.com") },
            SettingSpec { name: "follow_next", doc: "Whether a browser that has connected goes on to the page Vercel names, instead of ours", secret: false, default: Some("true") },
        ],
        client_secret_signs: true,
    };
}

#[rustfmt::skip]
const EVENTS: &[EventSpec] = &[
    EventSpec::seed("vercel:deployment.created", "Deployment Started", "A deployment was created and its build begins.", "deployment.created", 30),
    EventSpec::seed("vercel:deployment.succeeded", "Deployment Succeeded", "A deployment was built and has its addresses.", "deployment.succeeded", 40),
    EventSpec::seed("vercel:deployment.ready", "Deployment Ready", "A deployment is built and waits for the checks registered for it.", "deployment.ready", 40),
    EventSpec::seed("vercel:deployment.error", "Deployment Failed", "A deployment failed.", "deployment.error", 70),
    EventSpec::seed("vercel:deployment.canceled", "Deployment Canceled", "A deployment was canceled.", "deployment.canceled", 65),
    EventSpec::seed("vercel:deployment.check-rerequested", "Deployment Check Re-requested", "Somebody asked for a failed check to run again.", "deployment.check-rerequested", 25).not_default(),
    EventSpec::further("vercel:deployment.promoted", "Deployment Promoted", "A deployment was promoted to production.", "deployment.promoted", 55),
    EventSpec::further("vercel:deployment.rollback", "Deployment Rolled Back", "Production went back to an earlier deployment.", "deployment.rollback", 60),
    EventSpec::further("vercel:deployment.blocked", "Deployment Blocked", "A deployment was kept from being built.", "deployment.blocked", 50),
    EventSpec::further("vercel:deployment.cleanup", "Deployment Cleaned Up", "A deployment was removed by the retention policy.", "deployment.cleanup", 10),
    EventSpec::further("vercel:deployment.checks-succeeded", "Checks Succeeded", "Every check of a deployment succeeded.", "deployment.checks", 25),
    EventSpec::further("vercel:deployment.checks-failed", "Checks Failed", "A check of a deployment failed.", "deployment.checks", 55),
    EventSpec::further("vercel:project.created", "Project Created", "A project was created.", "project", 35),
    EventSpec::further("vercel:project.removed", "Project Removed", "A project was deleted.", "project", 50),
    EventSpec::further("vercel:project.renamed", "Project Renamed", "A project has a new name.", "project", 25),
    EventSpec::further("vercel:project-domain.created", "Domain Added", "A domain was added to a project.", "project.domain", 20),
    EventSpec::further("vercel:project-domain.updated", "Domain Updated", "A project's domain was changed.", "project.domain", 20),
    EventSpec::further("vercel:project-domain.deleted", "Domain Removed", "A domain was removed from a project.", "project.domain", 20),
    EventSpec::further("vercel:project-domain.moved", "Domain Moved", "A domain moved to another project.", "project.domain", 20),
    EventSpec::further("vercel:project-domain.verified", "Domain Verified", "A project's domain was verified.", "project.domain", 20),
    EventSpec::further("vercel:project-domain.unverified", "Domain Unverified", "A project's domain is no longer verified.", "project.domain", 20),
    EventSpec::further("vercel:rolling-release.started", "Rolling Release Started", "A rolling release began.", "project.rolling-release", 30),
    EventSpec::further("vercel:rolling-release.approved", "Rolling Release Approved", "A stage of a rolling release was approved.", "project.rolling-release", 35),
    EventSpec::further("vercel:rolling-release.completed", "Rolling Release Completed", "A rolling release reached everybody.", "project.rolling-release", 45),
    EventSpec::further("vercel:rolling-release.aborted", "Rolling Release Aborted", "A rolling release was aborted.", "project.rolling-release", 55),
    EventSpec::further("vercel:alert.triggered", "Alert Triggered", "An alert was triggered.", "alerts", 65),
];

#[rustfmt::skip]
const CATEGORIES: &[Category] = &[
    Category::new("deployment.created", "Deployment Started", "Deployments whose build begins."),
    Category::new("deployment.succeeded", "Deployment Succeeded", "Deployments that are built and reachable."),
    Category::new("deployment.ready", "Deployment Ready", "Deployments that wait for registered checks."),
    Category::new("deployment.error", "Deployment Failed", "Deployments that failed."),
    Category::new("deployment.canceled", "Deployment Canceled", "Deployments that were canceled."),
    Category::new("deployment.check-rerequested", "Check Re-requested", "Checks asked to run again."),
    Category::new("deployment.promoted", "Deployment Promoted", "Deployments promoted to production."),
    Category::new("deployment.rollback", "Deployment Rolled Back", "Production going back to an earlier deployment."),
    Category::new("deployment.blocked", "Deployment Blocked", "Deployments kept from being built."),
    Category::new("deployment.cleanup", "Deployment Cleaned Up", "Deployments removed by the retention policy."),
    Category::new("deployment.checks", "Deployment Checks", "How the checks of deployments ended."),
    Category::new("project", "Projects", "Projects created, removed or renamed."),
    Category::new("project.domain", "Project Domains", "Domains of projects."),
    Category::new("project.rolling-release", "Rolling Releases", "The stages of rolling releases."),
    Category::new("alerts", "Alerts", "Alerts that were triggered."),
];

impl Provider for Vercel {
    fn slug(&self) -> ProviderSlug {
        Self::SLUG
    }

    fn name(&self) -> &'static str {
        "Vercel"
    }

    fn resource_label(&self) -> &'static str {
        "project"
    }

    fn events(&self) -> &'static [EventSpec] {
        EVENTS
    }

    fn categories(&self) -> &'static [Category] {
        CATEGORIES
    }

    fn scheme(&self) -> &SignatureScheme {
        &Self::SCHEME
    }

    fn default_max_body_bytes(&self) -> usize {
        Self::MAX_BODY_BYTES
    }

    fn delivery_id_is_unsigned(&self) -> bool {
        false
    }

    fn extract(&self, _headers: &Headers, body: &Bytes) -> Result<Inbound, ExtractError> {
        let hook = Hook::read(body)?;
        let delivery_id = hook.id.id().map_or_else(|| content_id(Self::SLUG, None, body), ProviderDeliveryId::new);
        let wire_type = hook.kind.text().unwrap_or_default();
        Ok(understand(wire_type, delivery_id, &hook, body.clone()))
    }

    fn extract_trusted(
        &self,
        wire_type: &str,
        delivery_id: &ProviderDeliveryId,
        payload: &Bytes,
    ) -> Result<Inbound, ExtractError> {
        let hook = Hook::read(payload)?;
        Ok(understand(wire_type.to_owned(), delivery_id.clone(), &hook, payload.clone()))
    }

    fn source_config(&self, of: &ResourceFacts<'_>) -> Map<String, Value> {
        let is_team = of.external_id.as_str().starts_with("team_");
        facts([
            ("version", Some(1.into())),
            ("sourceType", facts::text(Some(Self::SLUG.as_str()))),
            ("type", facts::text(Some("project"))),
            ("projectId", facts::text(Some(of.provider_resource_id.as_str()))),
            ("projectName", facts::text(Some(of.name.unwrap_or(of.provider_resource_id.as_str())))),
            ("teamId", facts::text(is_team.then_some(of.external_id.as_str()))),
            ("teamSlug", facts::text(of.account_login.filter(|_| is_team))),
            ("configurationId", facts::text(of.alternate_external_id.map(ExternalId::as_str))),
        ])
    }

    fn account_of_seed(&self, external_id: &str, account_info: &Value) -> SeedAccount {
        let account = SeedAccount::fact(account_info, &["/raw/team_id", "/teamId", "/raw/user_id"]);
        // The seed put the team into `configurationId`; only an `icfg_` is one.
        let configuration = SeedAccount::fact(account_info, &["/raw/installation_id", "/configurationId"])
            .or_else(|| Some(external_id.to_owned()))
            .filter(|id| id.starts_with("icfg_"));
        let is_certain = account.is_some() || external_id.starts_with("team_");
        SeedAccount {
            external_id: ExternalId::new(account.unwrap_or_else(|| external_id.to_owned())),
            alternate_external_id: configuration.map(ExternalId::new),
            login: SeedAccount::fact(account_info, &["/teamSlug"]),
            is_certain,
        }
    }
}

/// The members of a webhook that anything here reads, unread. The flat ids are of hooks made long ago.
struct Hook<'a> {
    id: Json<'a>,
    kind: Json<'a>,
    created_at: Json<'a>,
    payload: Json<'a>,
    flat_team: Json<'a>,
    flat_user: Json<'a>,
    flat_project: Json<'a>,
    flat_configuration: Json<'a>,
}

impl<'a> Hook<'a> {
    fn read(body: &'a [u8]) -> Result<Self, ExtractError> {
        let [id, kind, created_at, payload, flat_team, flat_user, flat_project, flat_configuration] =
            Json::body_members(
                body,
                ["id", "type", "createdAt", "payload", "teamId", "userId", "projectId", "configurationId"],
            )?;
        Ok(Self { id, kind, created_at, payload, flat_team, flat_user, flat_project, flat_configuration })
    }
}

fn understand(wire_type: String, delivery_id: ProviderDeliveryId, hook: &Hook<'_>, body: Bytes) -> Inbound {
    let modern = modern_type(&wire_type);
    let accounts = Accounts::read(hook, modern);
    let [project, project_id] = hook.payload.members(["project", "projectId"]);
    let project_id = [project.member("id"), project_id, hook.flat_project].into_iter().find_map(Json::id);
    let is_of_the_grant = modern.starts_with("integration-configuration.");
    let resources = if is_of_the_grant {
        ResourceSelector::All
    } else {
        ResourceSelector::of_ids(project_id.clone().into_iter().collect())
    };
    let control = control_changes(modern, hook, project_id.as_deref());
    Inbound {
        delivery_id,
        identity: None,
        key: find_event_key(modern),
        also_keys: Vec::new(),
        installation: accounts.installation.map(ExternalId::new),
        alternate_installations: accounts.configurations.into_iter().map(ExternalId::new).collect(),
        resources,
        control_at: if control.is_empty() { None } else { hook.created_at.epoch_millis() },
        is_of_the_grant,
        control,
        ping: modern == "test-webhook",
        payload: body,
        wire_type,
    }
}

/// The type's present name: hooks made long ago send the names of that time.
fn modern_type(wire_type: &str) -> &str {
    match wire_type {
        "deployment" => "deployment.created",
        "deployment-ready" => "deployment.succeeded",
        "deployment-prepared" => "deployment.ready",
        "deployment-error" => "deployment.error",
        "deployment-canceled" => "deployment.canceled",
        "deployment-check-rerequested" => "deployment.check-rerequested",
        "project-created" => "project.created",
        "project-removed" => "project.removed",
        "integration-configuration-removed" => "integration-configuration.removed",
        "integration-configuration-permission-updated" => "integration-configuration.permission-upgraded",
        "integration-configuration-scope-change-confirmed" => "integration-configuration.scope-change-confirmed",
        modern => modern,
    }
}

/// Our key: the type itself, but for the types whose entity is written with dots.
fn find_event_key(modern: &str) -> Option<EventKey> {
    let name = match modern {
        "alerts.triggered" => "alert.triggered".to_owned(),
        "deployment.checks.succeeded" => "deployment.checks-succeeded".to_owned(),
        "deployment.checks.failed" => "deployment.checks-failed".to_owned(),
        _ => {
            let shorter = modern.strip_prefix("project.domain.").map(|action| format!("project-domain.{action}"));
            let shorter = shorter
                .or_else(|| modern.strip_prefix("project.rolling-release.").map(|a| format!("rolling-release.{a}")));
            shorter.unwrap_or_else(|| modern.to_owned())
        }
    };
    find_key(EVENTS, &format!("vercel:{name}"))
}

/// Configurations that one event is looked up by at the most.
const MAX_CONFIGURATIONS: usize = 64;

/// Whose webhook it is.
struct Accounts {
    /// The team, else the person.
    installation: Option<String>,
    /// The configurations, where they are named: one account may have had several, and so may a project now.
    configurations: Vec<String>,
}

impl Accounts {
    fn read(hook: &Hook<'_>, modern: &str) -> Self {
        let [team, user, team_id, user_id, previous_team, previous_account, rest @ ..] = hook.payload.members([
            "team",
            "user",
            "teamId",
            "userId",
            "previousTeamId",
            "previousAccountId",
            "configuration",
            "installationIds",
            "integrations",
            "installationId",
            "configurationId",
        ]);
        let [configuration, installation_ids, integrations, installation_id, configuration_id] = rest;
        // A transferred configuration is known by the account it had.
        let before = if modern == "integration-configuration.transferred" {
            [previous_team, previous_account].into_iter().find_map(Json::id)
        } else {
            None
        };
        let now = [team.member("id"), team_id, hook.flat_team, user.member("id"), user_id, hook.flat_user];
        let members = integrations.items().into_iter().filter_map(|one| one.member("installationId").id());
        let single = [installation_id, configuration_id, hook.flat_configuration].into_iter().find_map(Json::id);
        let named = [
            configuration.member("id").id().into_iter().collect(),
            installation_ids.ids(),
            distinct(members),
            single.into_iter().collect(),
        ];
        let mut configurations = named.into_iter().find(|ids| !ids.is_empty()).unwrap_or_default();
        configurations.truncate(MAX_CONFIGURATIONS);
        Self { installation: before.or_else(|| now.into_iter().find_map(Json::id)), configurations }
    }
}

fn control_changes(modern: &str, hook: &Hook<'_>, project_id: Option<&str>) -> Vec<ControlChange> {
    let project_ids = || project_id.into_iter().map(ProviderResourceId::new).collect::<Vec<_>>();
    // Deployments are most of what comes, and their payloads most of the bytes.
    if !modern.starts_with("project.") && !modern.starts_with("integration-configuration.") {
        return Vec::new();
    }
    let [configuration, projects, project, name] =
        hook.payload.members(["configuration", "projects", "project", "name"]);
    match modern {
        "integration-configuration.removed" => vec![ControlChange::InstallationRevoked],
        "integration-configuration.permission-upgraded" => {
            let selection = configuration.member("projectSelection").text();
            let mut changes = vec![confirmed(facts([("projectSelection", facts::text(selection))]))];
            let [added, removed] = projects.members(["added", "removed"]).map(resource_ids);
            if !added.is_empty() {
                changes.push(ControlChange::ResourcesAdded { ids: added });
            }
            if !removed.is_empty() {
                changes.push(ControlChange::ResourcesRemoved { ids: removed, reason: RemovalReason::AccessLost });
            }
            changes
        }
        "integration-configuration.scope-change-confirmed" => {
            vec![confirmed(facts([("scopes", facts::list(configuration.member("scopes").ids()))]))]
        }
        "integration-configuration.transferred" => {
            let moved_to = hook.payload.members(["newTeamId", "newAccountId"]).into_iter().find_map(Json::id);
            moved_to.map(|to| ControlChange::InstallationMoved { to: ExternalId::new(to) }).into_iter().collect()
        }
        "project.created" if project_id.is_some() => vec![ControlChange::ResourcesAdded { ids: project_ids() }],
        "project.removed" if project_id.is_some() => {
            vec![ControlChange::ResourcesRemoved { ids: project_ids(), reason: RemovalReason::Deleted }]
        }
        "project.renamed" => {
            let name = [project.member("name"), name].into_iter().find_map(Json::text);
            let attrs = facts([("projectName", facts::text(name.clone()))]);
            let changed =
                |id| ControlChange::ResourceChanged { id, name: name.clone(), slug: None, attrs: attrs.clone() };
            project_ids().into_iter().map(changed).collect()
        }
        _ => Vec::new(),
    }
}

fn confirmed(metadata: Map<String, Value>) -> ControlChange {
    ControlChange::InstallationConfirmed { account_login: None, metadata }
}

fn resource_ids(ids: Json<'_>) -> Vec<ProviderResourceId> {
    ids.ids().into_iter().map(ProviderResourceId::new).collect()
}
