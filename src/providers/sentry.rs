//! Sentry public integrations: webhooks of issues, errors, alerts and of the integration's installations.
//!
//! **Owns** what is Sentry's alone. **Invariants**: as for every provider, functions of (headers, bytes). Protocol
//! source: Sentry's "Integration Platform: Webhooks" and its server's source. Quirks worth knowing: nothing in a
//! request survives a retry (`Request-ID` names an attempt), so the delivery id is made of the body; a project is an
//! integer here, text there, and a slug in metric alerts and comments; a metric alert has one key whatever its action,
//! and its severity's narrower key besides, so that a filter may name either.

mod connect;
mod installation;
mod projects;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Category, ControlChange, Digest, EventSpec, ExtractError, Inbound, Provider, ResourceFacts, ResourceSelector,
    SeedAccount, SignatureScheme,
    catalogue::find_key,
    delivery_id::{content_id, header_text},
    facts::{self, facts},
    partial::Json,
};
use crate::model::{
    event::EventKey,
    provider::{ExternalId, ProviderDeliveryId, ProviderSlug, ProviderSpec, SettingSpec},
    webhook::Headers,
};

/// Sentry.
pub(super) struct Sentry;

impl Sentry {
    const SLUG: ProviderSlug = ProviderSlug("sentry");

    const SCHEME: SignatureScheme =
        SignatureScheme { header: "sentry-hook-signature", prefix: "", digest: Digest::Sha256, signed_timestamp: None };

    /// Sentry publishes no limit; its events carry stack traces.
    const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;

    #[rustfmt::skip]
    pub(super) const SPEC: ProviderSpec = ProviderSpec {
        slug: Self::SLUG,
        settings: &[
            SettingSpec { name: "app_slug", doc: "The integration's name in URLs (sentry.io/sentry-apps/NAME)", secret: false, default: None },
            SettingSpec { name: "client_id", doc: "The integration's client id", secret: false, default: None },
            SettingSpec { name: "client_secret", doc: "The integration's client secret; it also signs webhooks", secret: true, default: None },
            SettingSpec { name: "web_url", doc: "Base of the pages people visit; change it for a self-hosted Sentry", secret: false, default: Some("https://sentry.io") },
            SettingSpec { name: "api_url", doc: "Base of the REST API, without /api/0; change it for a self-hosted Sentry", secret: false, default: Some("https://sentry.io") },
        ],
        client_secret_signs: true,
    };
}

#[rustfmt::skip]
const EVENTS: &[EventSpec] = &[
    EventSpec::seed("sentry:issue.created", "Issue Created", "A new kind of error was seen.", "issue", 55),
    EventSpec::seed("sentry:issue.resolved", "Issue Resolved", "An issue was resolved.", "issue", 50),
    EventSpec::seed("sentry:issue.assigned", "Issue Assigned", "An issue was assigned to somebody.", "issue", 30),
    EventSpec::seed("sentry:issue.ignored", "Issue Ignored", "An issue was ignored or archived.", "issue", 25),
    EventSpec::further("sentry:issue.unresolved", "Issue Unresolved", "A resolved or ignored issue is open again.", "issue", 45),
    EventSpec::seed("sentry:error", "Error", "An error was recorded.", "error", 45),
    EventSpec::seed("sentry:event-alert", "Alert Triggered", "An alert rule on issues was triggered.", "event_alert", 65),
    EventSpec::seed("sentry:metric-alert", "Metric Alert", "A metric alert changed its state.", "metric_alert", 70),
    EventSpec::further("sentry:metric-alert.critical", "Metric Alert Critical", "A metric crossed its critical threshold.", "metric_alert", 75).alias_of("sentry:metric-alert"),
    EventSpec::further("sentry:metric-alert.warning", "Metric Alert Warning", "A metric crossed its warning threshold.", "metric_alert", 60).alias_of("sentry:metric-alert"),
    EventSpec::further("sentry:metric-alert.resolved", "Metric Alert Resolved", "A metric is within its thresholds again.", "metric_alert", 40).alias_of("sentry:metric-alert"),
    EventSpec::further("sentry:comment.created", "Comment Added", "Somebody commented on an issue.", "comment", 25),
    EventSpec::further("sentry:comment.updated", "Comment Updated", "A comment on an issue was edited.", "comment", 20),
    EventSpec::further("sentry:comment.deleted", "Comment Deleted", "A comment on an issue was deleted.", "comment", 20),
    EventSpec::further("sentry:activity-alert.triggered", "Activity Alert", "An alert on an issue's activity was triggered.", "activity_alert", 55),
];

#[rustfmt::skip]
const CATEGORIES: &[Category] = &[
    Category::new("issue", "Issues", "Issues created, resolved, assigned or ignored."),
    Category::new("error", "Errors", "Every single error."),
    Category::new("event_alert", "Event Alerts", "Alert rules on issues that were triggered."),
    Category::new("metric_alert", "Metric Alerts", "Metric alerts that changed their state."),
    Category::new("comment", "Comments", "Comments on issues."),
    Category::new("activity_alert", "Activity Alerts", "Alerts on the activity of issues."),
];

impl Provider for Sentry {
    fn slug(&self) -> ProviderSlug {
        Self::SLUG
    }

    fn name(&self) -> &'static str {
        "Sentry"
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

    /// The id is made of the body, which is signed, and of the resource header, which is not.
    fn delivery_id_is_unsigned(&self) -> bool {
        true
    }

    fn read_headers(&self) -> &'static [&'static str] {
        &["sentry-hook-resource"]
    }

    fn extract(&self, headers: &Headers, body: &Bytes) -> Result<Inbound, ExtractError> {
        let Some(resource) = header_text(headers, "sentry-hook-resource") else {
            // What cannot be read is said first.
            Json::body_members(body, ["action"])?;
            return Err(ExtractError::MissingHeader("Sentry-Hook-Resource"));
        };
        understand(resource, None, content_id(Self::SLUG, Some(resource), body), body.clone())
    }

    fn extract_trusted(
        &self,
        wire_type: &str,
        delivery_id: &ProviderDeliveryId,
        payload: &Bytes,
    ) -> Result<Inbound, ExtractError> {
        let (resource, action) =
            wire_type.split_once('.').map_or((wire_type, None), |(resource, action)| (resource, Some(action)));
        let inbound = understand(resource, action, delivery_id.clone(), payload.clone())?;
        Ok(Inbound { wire_type: wire_type.to_owned(), ..inbound })
    }

    fn source_config(&self, of: &ResourceFacts<'_>) -> Map<String, Value> {
        facts([
            ("version", Some(1.into())),
            ("sourceType", facts::text(Some(Self::SLUG.as_str()))),
            ("type", facts::text(Some("project"))),
            ("organizationSlug", facts::text(of.account_login)),
            ("projectSlug", facts::text(of.slug.or(of.name))),
            ("projectId", facts::text(Some(of.provider_resource_id.as_str()))),
        ])
    }

    fn account_of_seed(&self, external_id: &str, account_info: &Value) -> SeedAccount {
        let installation = SeedAccount::fact(account_info, &["/installationId", "/raw/installationId"]);
        let is_certain = installation.is_some() || uuid::Uuid::try_parse(external_id).is_ok();
        SeedAccount {
            external_id: ExternalId::new(installation.unwrap_or_else(|| external_id.to_owned())),
            alternate_external_id: None,
            login: SeedAccount::fact(account_info, &["/organizationSlug"]),
            is_certain,
        }
    }
}

fn understand(
    resource: &str,
    named_action: Option<&str>,
    delivery_id: ProviderDeliveryId,
    body: Bytes,
) -> Result<Inbound, ExtractError> {
    let [action, installation, data] = Json::body_members(&body, ["action", "installation", "data"])?;
    let action = action.text().or_else(|| named_action.map(str::to_owned));
    let action = action.as_deref();
    let (key, also_keys) = find_event_keys(resource, action);
    let named_in_data = || data.member("installation").member("uuid").id();
    let installation = installation.member("uuid").id().or_else(named_in_data);
    let resources = select_projects(resource, data);
    let is_of_the_grant = resource == "installation" && has_only_the_installation(data);
    let control = if is_of_the_grant { control_changes(action, data) } else { Vec::new() };
    Ok(Inbound {
        delivery_id,
        identity: None,
        wire_type: resource.to_owned(),
        key,
        also_keys,
        installation: installation.map(ExternalId::new),
        alternate_installations: Vec::new(),
        resources,
        is_of_the_grant,
        control,
        // Nothing in these bodies says when the installation changed.
        control_at: None,
        ping: false,
        payload: body,
    })
}

/// The key, and the narrower keys beside it.
fn find_event_keys(resource: &str, action: Option<&str>) -> (Option<EventKey>, Vec<EventKey>) {
    let name = match (resource, action) {
        ("error", _) => "error".to_owned(),
        ("event_alert", _) => "event-alert".to_owned(),
        ("metric_alert", action) => {
            let narrower = action.and_then(|action| find_key(EVENTS, &format!("sentry:metric-alert.{action}")));
            return (find_key(EVENTS, "sentry:metric-alert"), narrower.into_iter().collect());
        }
        // The documentation's word for what the server sends as "ignored".
        ("issue", Some("archived")) => "issue.ignored".to_owned(),
        (resource, Some(action)) => format!("{}.{action}", resource.replace('_', "-")),
        (_, None) => return (None, Vec::new()),
    };
    (find_key(EVENTS, &format!("sentry:{name}")), Vec::new())
}

/// The project, by id where the payload has one, else by slug; none for newer resources, whose shape is not published.
fn select_projects(resource: &str, data: Json<'_>) -> ResourceSelector {
    let by_id = |id: Option<String>| ResourceSelector::of_ids(id.into_iter().collect());
    match resource {
        "issue" => {
            let [id, slug] = data.member("issue").member("project").members(["id", "slug"]);
            match id.id() {
                None => ResourceSelector::of_slugs(slug.text().into_iter().collect()),
                id => by_id(id),
            }
        }
        "error" => by_id(data.member("error").member("project").id()),
        "event_alert" => by_id(data.member("event").member("project").id()),
        "metric_alert" => {
            let [projects, rule] = data.member("metric_alert").members(["projects", "alert_rule"]);
            let named = projects.ids();
            ResourceSelector::of_slugs(if named.is_empty() { rule.member("projects").ids() } else { named })
        }
        "comment" => ResourceSelector::of_slugs(data.member("project_slug").text().into_iter().collect()),
        _ => ResourceSelector::All,
    }
}

/// The resource's name comes in a header that the signature does not cover: without this check the body of a deleted
/// comment, sent again under the name `installation`, would end the grant.
fn has_only_the_installation(data: Json<'_>) -> bool {
    data.entries().iter().all(|(name, _)| name == "installation")
}

/// The grant code of `installation.created` is deliberately not read: it is a secret, and metadata is not sealed. One that
/// was created pending confirms nothing: it is Sentry that waits to be told, and sends nothing before.
fn control_changes(action: Option<&str>, data: Json<'_>) -> Vec<ControlChange> {
    match action {
        Some("created") => {
            let [organization, app, status] = data.member("installation").members(["organization", "app", "status"]);
            let [slug, id] = organization.members(["slug", "id"]);
            let status = status.text();
            if status.as_deref() == Some("pending") {
                return Vec::new();
            }
            vec![ControlChange::InstallationConfirmed {
                account_login: slug.text(),
                metadata: facts([
                    ("organizationSlug", facts::text(slug.text())),
                    ("organizationId", facts::text(id.id())),
                    ("appSlug", facts::text(app.member("slug").text())),
                    ("status", facts::text(status)),
                ]),
            }]
        }
        Some("deleted") => vec![ControlChange::InstallationRevoked],
        _ => Vec::new(),
    }
}
