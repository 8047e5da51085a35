//! Linear OAuth applications: webhooks of a workspace's issues, projects and of the application's grant.
//!
//! **Owns** what is Linear's alone. **Invariants**: as for every provider, functions of (headers, bytes). Protocol
//! source: Linear's "Webhooks" developer pages and its SDK's webhook client. Quirks worth knowing: the time of the
//! attempt is signed (`webhookTimestamp`); where an entity names its team differs from type to type, and many name
//! none; an issue that moved between teams concerns both; Linear accepts nothing but 200.

mod connect;
mod graphql;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Category, ControlChange, Digest, EventSpec, ExtractError, Inbound, Provider, RemovalReason, ResourceFacts,
    ResourceSelector, SeedAccount, SignatureScheme,
    catalogue::find_key,
    delivery_id::{content_id, header_text},
    digest_of,
    facts::{self, facts},
    partial::{Json, distinct},
};
use crate::model::{
    clock::EpochMs,
    event::EventKey,
    provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug, ProviderSpec, SettingSpec},
    webhook::Headers,
};

/// Linear.
pub(super) struct Linear;

impl Linear {
    const SLUG: ProviderSlug = ProviderSlug("linear");

    const SCHEME: SignatureScheme = SignatureScheme {
        header: "linear-signature",
        prefix: "",
        digest: Digest::Sha256,
        signed_timestamp: Some(signed_timestamp),
    };

    /// Linear publishes no limit; its bodies are a few kilobytes.
    const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;

    #[rustfmt::skip]
    pub(super) const SPEC: ProviderSpec = ProviderSpec {
        slug: Self::SLUG,
        settings: &[
            SettingSpec { name: "client_id", doc: "The OAuth application's client id", secret: false, default: None },
            SettingSpec { name: "client_secret", doc: "The OAuth application's client secret", secret: true, default: None },
            SettingSpec { name: "web_url", doc: "Base of the pages people visit", secret: false, default: Some("https://linear.app") },
            SettingSpec { name: "api_url", doc: "Base of the token and GraphQL endpoints", secret: false, default: Some("https://api.linear.app") },
            SettingSpec { name: "scopes", doc: "Scopes to ask for, separated by commas", secret: false, default: Some("read") },
            SettingSpec { name: "actor", doc: "On whose behalf: user (Linear's default) or app", secret: false, default: None },
        ],
        client_secret_signs: false,
    };
}

#[rustfmt::skip]
const EVENTS: &[EventSpec] = &[
    EventSpec::seed("linear:issue.created", "Issue Created", "An issue was created.", "Issue", 50),
    EventSpec::seed("linear:issue.updated", "Issue Updated", "An issue was changed or moved.", "Issue", 35),
    EventSpec::seed("linear:issue.deleted", "Issue Deleted", "An issue was deleted.", "Issue", 40),
    EventSpec::seed("linear:comment.created", "Comment Added", "Somebody commented.", "Comment", 25),
    EventSpec::seed("linear:comment.updated", "Comment Updated", "A comment was edited.", "Comment", 20),
    EventSpec::seed("linear:comment.deleted", "Comment Deleted", "A comment was deleted.", "Comment", 20),
    EventSpec::seed("linear:project.created", "Project Created", "A project was created.", "Project", 45),
    EventSpec::seed("linear:project.updated", "Project Updated", "A project was changed.", "Project", 35),
    EventSpec::seed("linear:project.deleted", "Project Deleted", "A project was deleted.", "Project", 40),
    EventSpec::seed("linear:cycle.created", "Cycle Created", "A cycle was created.", "Cycle", 40),
    EventSpec::seed("linear:cycle.updated", "Cycle Updated", "A cycle was changed or completed.", "Cycle", 30),
    EventSpec::seed("linear:cycle.deleted", "Cycle Deleted", "A cycle was deleted.", "Cycle", 35),
    EventSpec::seed("linear:project-update.created", "Project Update Posted", "A project update was posted.", "ProjectUpdate", 45),
    EventSpec::seed("linear:project-update.updated", "Project Update Edited", "A project update was edited.", "ProjectUpdate", 30),
    EventSpec::seed("linear:project-update.deleted", "Project Update Deleted", "A project update was deleted.", "ProjectUpdate", 25),
    EventSpec::further("linear:issue-label.created", "Label Created", "A label was created.", "IssueLabel", 15),
    EventSpec::further("linear:issue-label.updated", "Label Updated", "A label was changed.", "IssueLabel", 10),
    EventSpec::further("linear:issue-label.deleted", "Label Deleted", "A label was deleted.", "IssueLabel", 15),
    EventSpec::further("linear:issue-sla.set", "SLA Set", "An issue was given a deadline of service.", "IssueSLA", 20),
    EventSpec::further("linear:issue-sla.high-risk", "SLA at Risk", "An issue's deadline of service is near.", "IssueSLA", 50),
    EventSpec::further("linear:issue-sla.breached", "SLA Breached", "An issue's deadline of service has passed.", "IssueSLA", 65),
    EventSpec::further("linear:document.created", "Document Created", "A document was created.", "Document", 30),
    EventSpec::further("linear:document.updated", "Document Updated", "A document was changed.", "Document", 25),
    EventSpec::further("linear:document.deleted", "Document Deleted", "A document was deleted.", "Document", 30),
    EventSpec::further("linear:initiative.created", "Initiative Created", "An initiative was created.", "Initiative", 45),
    EventSpec::further("linear:initiative.updated", "Initiative Updated", "An initiative was changed.", "Initiative", 35),
    EventSpec::further("linear:initiative.deleted", "Initiative Deleted", "An initiative was deleted.", "Initiative", 40),
    EventSpec::further("linear:initiative-update.created", "Initiative Update Posted", "An initiative update was posted.", "InitiativeUpdate", 45),
    EventSpec::further("linear:initiative-update.updated", "Initiative Update Edited", "An initiative update was edited.", "InitiativeUpdate", 30),
    EventSpec::further("linear:initiative-update.deleted", "Initiative Update Deleted", "An initiative update was deleted.", "InitiativeUpdate", 25),
    EventSpec::further("linear:customer.created", "Customer Created", "A customer was created.", "Customer", 40),
    EventSpec::further("linear:customer.updated", "Customer Updated", "A customer was changed.", "Customer", 30),
    EventSpec::further("linear:customer.deleted", "Customer Deleted", "A customer was deleted.", "Customer", 35),
    EventSpec::further("linear:customer-need.created", "Customer Request Created", "A customer's request was recorded.", "CustomerNeed", 40),
    EventSpec::further("linear:customer-need.updated", "Customer Request Updated", "A customer's request was changed.", "CustomerNeed", 30),
    EventSpec::further("linear:customer-need.deleted", "Customer Request Deleted", "A customer's request was deleted.", "CustomerNeed", 30),
    EventSpec::further("linear:reaction.created", "Reaction Added", "Somebody reacted with an emoji.", "Reaction", 10),
    EventSpec::further("linear:attachment.created", "Attachment Added", "Something was attached to an issue.", "Attachment", 15),
    EventSpec::further("linear:release.created", "Release Created", "A release was created.", "Release", 50),
    EventSpec::further("linear:release.updated", "Release Updated", "A release was changed.", "Release", 50),
    EventSpec::further("linear:release.deleted", "Release Deleted", "A release was deleted.", "Release", 50),
];

#[rustfmt::skip]
const CATEGORIES: &[Category] = &[
    Category::new("Issue", "Issues", "Issues created, changed or deleted."),
    Category::new("Comment", "Comments", "Comments on issues, documents and updates."),
    Category::new("Project", "Projects", "Projects created, changed or deleted."),
    Category::new("Cycle", "Cycles", "Cycles created, changed or deleted."),
    Category::new("ProjectUpdate", "Project Updates", "Updates posted on projects."),
    Category::new("IssueLabel", "Labels", "Labels created, changed or deleted."),
    Category::new("IssueSLA", "SLAs", "Deadlines of service of issues."),
    Category::new("Document", "Documents", "Documents created, changed or deleted."),
    Category::new("Initiative", "Initiatives", "Initiatives created, changed or deleted."),
    Category::new("InitiativeUpdate", "Initiative Updates", "Updates posted on initiatives."),
    Category::new("Customer", "Customers", "Customers created, changed or deleted."),
    Category::new("CustomerNeed", "Customer Requests", "Requests of customers."),
    Category::new("Reaction", "Reactions", "Emoji reactions."),
    Category::new("Attachment", "Attachments", "Things attached to issues."),
    Category::new("Release", "Releases", "Releases created, changed or deleted."),
];

impl Provider for Linear {
    fn slug(&self) -> ProviderSlug {
        Self::SLUG
    }

    fn name(&self) -> &'static str {
        "Linear"
    }

    fn resource_label(&self) -> &'static str {
        "team"
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
        true
    }

    fn read_headers(&self) -> &'static [&'static str] {
        &["linear-event", "linear-delivery"]
    }

    fn delivery_id_header(&self) -> Option<&'static str> {
        Some("linear-delivery")
    }

    fn extract(&self, headers: &Headers, body: &Bytes) -> Result<Inbound, ExtractError> {
        let hook = Hook::read(body)?;
        let event = header_text(headers, "linear-event");
        let delivery_id = header_text(headers, "linear-delivery")
            .map_or_else(|| content_id(Self::SLUG, event, body), ProviderDeliveryId::new);
        // The header says the same as the body, but is not signed: it only fills a gap.
        let kind = hook.kind.text().or_else(|| event.map(str::to_owned)).unwrap_or_default();
        Ok(understand(&kind, hook.action.text().as_deref(), delivery_id, &hook, body.clone()))
    }

    fn extract_trusted(
        &self,
        wire_type: &str,
        delivery_id: &ProviderDeliveryId,
        payload: &Bytes,
    ) -> Result<Inbound, ExtractError> {
        let hook = Hook::read(payload)?;
        let (kind, action) = wire_type.split_once(':').map_or((wire_type, None), |(kind, action)| (kind, Some(action)));
        let action = action.map(str::to_owned).or_else(|| hook.action.text());
        Ok(understand(kind, action.as_deref(), delivery_id.clone(), &hook, payload.clone()))
    }

    fn source_config(&self, of: &ResourceFacts<'_>) -> Map<String, Value> {
        facts([
            ("version", Some(1.into())),
            ("sourceType", facts::text(Some(Self::SLUG.as_str()))),
            ("type", facts::text(Some("team"))),
            ("teamId", facts::text(Some(of.provider_resource_id.as_str()))),
            ("teamKey", facts::text(of.slug)),
            ("teamName", facts::text(Some(of.name.or(of.slug).unwrap_or(of.provider_resource_id.as_str())))),
        ])
    }

    fn account_of_seed(&self, external_id: &str, account_info: &Value) -> SeedAccount {
        let organization = SeedAccount::fact(account_info, &["/organization/id", "/raw/organization/id"]);
        let is_certain = organization.is_some();
        SeedAccount {
            external_id: ExternalId::new(organization.unwrap_or_else(|| external_id.to_owned())),
            alternate_external_id: None,
            login: SeedAccount::fact(account_info, &["/organization/urlKey", "/organization/name"]),
            is_certain,
        }
    }
}

/// When this attempt was sent. Linear writes a number; the same digits as text, or a date, say it as well. What nobody can
/// read is no reason to refuse what Linear signed, and the header of that name is not signed.
fn signed_timestamp(body: &[u8]) -> Option<EpochMs> {
    let [timestamp] = Json::body_members(body, ["webhookTimestamp"]).ok()?;
    let digits = || timestamp.text()?.parse().ok().map(EpochMs);
    timestamp.epoch_millis().or_else(digits).or_else(|| timestamp.rfc3339())
}

/// What a retry has too, if it comes under another delivery id and with another time of the attempt (Linear does not say
/// that it does not); `None` of what is not about one entity, for want of which two events could be taken for one.
fn identity(hook: &Hook<'_>) -> Option<[u8; 16]> {
    let members = [hook.webhook_id, hook.kind, hook.action, hook.data.member("id"), hook.created_at];
    let members: Option<Vec<String>> = members.into_iter().map(Json::id).collect();
    // No member holds a line break.
    members.map(|members| digest_of(members.join("\n").as_bytes()))
}

/// The members of a webhook that anything here reads, unread.
struct Hook<'a> {
    webhook_id: Json<'a>,
    kind: Json<'a>,
    action: Json<'a>,
    organization_id: Json<'a>,
    created_at: Json<'a>,
    data: Json<'a>,
    updated_from: Json<'a>,
    issue_data: Json<'a>,
    active_tokens: Json<'a>,
    user_id: Json<'a>,
    added_teams: Json<'a>,
    removed_teams: Json<'a>,
}

impl<'a> Hook<'a> {
    #[rustfmt::skip]
    fn read(body: &'a [u8]) -> Result<Self, ExtractError> {
        let [webhook_id, kind, action, organization_id, created_at, data, updated_from, issue_data, active_tokens, user_id, added_teams, removed_teams] =
            Json::body_members(body, ["webhookId", "type", "action", "organizationId", "createdAt", "data", "updatedFrom", "issueData",
                "activeTokensForUser", "userId", "addedTeamIds", "removedTeamIds"])?;
        Ok(Self { webhook_id, kind, action, organization_id, created_at, data, updated_from, issue_data, active_tokens, user_id, added_teams, removed_teams })
    }
}

fn understand(
    kind: &str,
    action: Option<&str>,
    delivery_id: ProviderDeliveryId,
    hook: &Hook<'_>,
    body: Bytes,
) -> Inbound {
    let control = control_changes(kind, action, hook);
    Inbound {
        delivery_id,
        identity: identity(hook),
        wire_type: action.map_or_else(|| kind.to_owned(), |action| format!("{kind}:{action}")),
        key: find_event_key(kind, action),
        also_keys: Vec::new(),
        installation: hook.organization_id.id().map(ExternalId::new),
        alternate_installations: Vec::new(),
        resources: ResourceSelector::of_ids(team_ids(kind, hook)),
        control_at: if control.is_empty() { None } else { hook.created_at.rfc3339() },
        is_of_the_grant: ["OAuthApp", "OAuthAuthorization", "PermissionChange"].contains(&kind),
        control,
        ping: false,
        payload: body,
    }
}

/// Our key: the type and the action in kebab-case, the action as a past participle.
fn find_event_key(kind: &str, action: Option<&str>) -> Option<EventKey> {
    let entity = if kind == "IssueSLA" { "issue-sla".to_owned() } else { kebab_case(kind) };
    let action = match action? {
        "create" => "created",
        "update" => "updated",
        "remove" => "deleted",
        "highRisk" => "high-risk",
        action @ ("set" | "breached") => action,
        _ => return None,
    };
    find_key(EVENTS, &format!("linear:{entity}.{action}"))
}

fn kebab_case(camel: &str) -> String {
    let mut kebab = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

/// The teams an event concerns; none for what belongs to the whole workspace.
fn team_ids(kind: &str, hook: &Hook<'_>) -> Vec<String> {
    match kind {
        // A move between teams concerns the one it left as well.
        "Issue" => distinct(team_of(hook.data).into_iter().chain(hook.updated_from.member("teamId").id())),
        "IssueSLA" => team_of(hook.issue_data).into_iter().collect(),
        "Cycle" | "IssueLabel" => team_of(hook.data).into_iter().collect(),
        "Comment" | "Attachment" | "Reaction" => team_of(hook.data.member("issue")).into_iter().collect(),
        "Project" => hook.data.member("teamIds").ids(),
        _ => Vec::new(),
    }
}

fn team_of(entity: Json<'_>) -> Option<String> {
    let [team_id, team] = entity.members(["teamId", "team"]);
    team_id.id().or_else(|| team.member("id").id())
}

fn control_changes(kind: &str, action: Option<&str>, hook: &Hook<'_>) -> Vec<ControlChange> {
    let resource_ids = |ids: Json<'_>| ids.ids().into_iter().map(ProviderResourceId::new).collect::<Vec<_>>();
    match (kind, action) {
        ("OAuthApp", Some("revoked")) => vec![ControlChange::InstallationRevoked],
        ("OAuthAuthorization", _) if hook.active_tokens.integer() == Some(0) => {
            hook.user_id.id().map(|person| ControlChange::InstallationNeedsReauth { person }).into_iter().collect()
        }
        ("PermissionChange", _) => {
            let [added, removed] = hook.data.members(["addedTeamIds", "removedTeamIds"]);
            let either = |flat: Json<'_>, nested| resource_ids(if flat.is_present() { flat } else { nested });
            let (added, removed) = (either(hook.added_teams, added), either(hook.removed_teams, removed));
            let mut changes = Vec::new();
            if !added.is_empty() {
                changes.push(ControlChange::ResourcesAdded { ids: added });
            }
            if !removed.is_empty() {
                changes.push(ControlChange::ResourcesRemoved { ids: removed, reason: RemovalReason::AccessLost });
            }
            changes
        }
        _ => Vec::new(),
    }
}
