//! GitHub Apps: webhooks of repositories and of the App's installations.
//!
//! **Owns** what is GitHub's alone: its signature, event names, payload members and control events. **Invariants**: as
//! for every provider, functions of (headers, bytes). Protocol source: GitHub's "Webhook events and payloads" and
//! "Validating webhook deliveries". Two quirks worth knowing: a merge is `pull_request.closed` with `merged`, and a
//! webhook may be configured to arrive as a form, whose raw bytes are what is signed.

mod account;
mod api;
mod connect;
mod delivery_log;
mod endpoints;
mod flow;
mod repositories;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Category, ControlChange, Digest, EventSpec, ExtractError, Inbound, Provider, RemovalReason, ResourceFacts,
    ResourceSelector, SeedAccount, SignatureScheme,
    catalogue::find_key,
    delivery_id::header_text,
    facts::{self, facts},
    form,
    partial::{Json, distinct},
};
use crate::model::{
    clock::EpochMs,
    event::EventKey,
    provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug, ProviderSpec, SettingSpec},
    webhook::Headers,
};

/// GitHub.
pub(super) struct GitHub;

impl GitHub {
    const SLUG: ProviderSlug = ProviderSlug("github");

    const SCHEME: SignatureScheme = SignatureScheme {
        header: "x-hub-signature-256",
        prefix: "sha256=",
        digest: Digest::Sha256,
        signed_timestamp: None,
    };

    /// GitHub drops larger payloads itself.
    const MAX_BODY_BYTES: usize = 25 * 1024 * 1024;

    #[rustfmt::skip]
    pub(super) const SPEC: ProviderSpec = ProviderSpec {
        slug: Self::SLUG,
        settings: &[
            SettingSpec { name: "app_slug", doc: "The App's name in URLs (github.com/apps/NAME)", secret: false, default: None },
            SettingSpec { name: "app_id", doc: "The App's numeric id", secret: false, default: None },
            SettingSpec { name: "client_id", doc: "The App's client id", secret: false, default: None },
            SettingSpec { name: "client_secret", doc: "The App's client secret", secret: true, default: None },
            SettingSpec { name: "private_key", doc: "The App's private key: PEM, PEM with \\n for line ends, or base64 of PEM", secret: true, default: None },
            SettingSpec { name: "web_url", doc: "Base of the pages people visit; change it for GitHub Enterprise Server", secret: false, default: Some("https://github.com") },
            SettingSpec { name: "api_url", doc: "Base of the REST API; https://HOST/api/v3 for GitHub Enterprise Server", secret: false, default: Some("https://api.github.com") },
        ],
        client_secret_signs: false,
    };
}

#[rustfmt::skip]
const EVENTS: &[EventSpec] = &[
    EventSpec::seed("github:push", "Push", "Commits or a tag were pushed, or a branch was deleted by a push.", "push", 30),
    EventSpec::seed("github:pull-request.opened", "PR Opened", "A pull request was opened.", "pull_request", 50),
    EventSpec::seed("github:pull-request.closed", "PR Closed", "A pull request was closed without being merged.", "pull_request", 45),
    EventSpec::seed("github:pull-request.merged", "PR Merged", "A pull request was merged.", "pull_request", 60),
    EventSpec::seed("github:pull-request.reopened", "PR Reopened", "A closed pull request was opened again.", "pull_request", 40),
    EventSpec::seed("github:pull-request.ready-for-review", "Ready for Review", "A draft pull request became ready for review.", "pull_request", 45),
    EventSpec::further("github:pull-request.synchronize", "PR Updated", "Commits were pushed to a pull request.", "pull_request", 20),
    EventSpec::further("github:pull-request.converted-to-draft", "PR Converted to Draft", "A pull request became a draft.", "pull_request", 20),
    EventSpec::further("github:pull-request.review-requested", "Review Requested", "Somebody was asked to review a pull request.", "pull_request", 25),
    EventSpec::seed("github:issue.opened", "Issue Opened", "An issue was opened.", "issues", 45),
    EventSpec::seed("github:issue.closed", "Issue Closed", "An issue was closed.", "issues", 40),
    EventSpec::seed("github:issue.reopened", "Issue Reopened", "A closed issue was opened again.", "issues", 40),
    EventSpec::further("github:issue.assigned", "Issue Assigned", "Somebody was assigned to an issue.", "issues", 25),
    EventSpec::further("github:issue.labeled", "Issue Labeled", "A label was put on an issue.", "issues", 15),
    EventSpec::further("github:issue.transferred", "Issue Transferred", "An issue moved to another repository.", "issues", 30),
    EventSpec::further("github:issue.deleted", "Issue Deleted", "An issue was deleted.", "issues", 35),
    EventSpec::seed("github:release.published", "Release Published", "A release was published.", "release", 75),
    EventSpec::seed("github:release.created", "Release Created", "A release was created, as a draft or at once.", "release", 70),
    EventSpec::further("github:release.released", "Release Released", "A release, not a pre-release, became public.", "release", 60),
    EventSpec::further("github:release.prereleased", "Pre-release Published", "A pre-release became public.", "release", 50),
    EventSpec::further("github:release.edited", "Release Edited", "A release's title or notes changed.", "release", 25),
    EventSpec::further("github:release.deleted", "Release Deleted", "A release was deleted.", "release", 35),
    EventSpec::seed("github:discussion.created", "Discussion Created", "A discussion was started.", "discussion", 35),
    EventSpec::seed("github:discussion.answered", "Discussion Answered", "An answer was chosen in a discussion.", "discussion", 40),
    EventSpec::further("github:discussion.closed", "Discussion Closed", "A discussion was closed.", "discussion", 30),
    EventSpec::further("github:discussion.reopened", "Discussion Reopened", "A closed discussion was opened again.", "discussion", 30),
    EventSpec::further("github:discussion.unanswered", "Discussion Unanswered", "A discussion's chosen answer was withdrawn.", "discussion", 25),
    EventSpec::further("github:discussion-comment.created", "Discussion Comment", "Somebody commented on a discussion.", "discussion", 20),
    EventSpec::further("github:issue-comment.created", "Comment Added", "Somebody commented on an issue or pull request.", "issue_comment", 25),
    EventSpec::further("github:issue-comment.edited", "Comment Edited", "A comment on an issue or pull request was edited.", "issue_comment", 20),
    EventSpec::further("github:issue-comment.deleted", "Comment Deleted", "A comment on an issue or pull request was deleted.", "issue_comment", 20),
    EventSpec::further("github:pull-request-review.submitted", "Review Submitted", "A review of a pull request was submitted.", "pull_request_review", 35),
    EventSpec::further("github:pull-request-review.dismissed", "Review Dismissed", "A review of a pull request was dismissed.", "pull_request_review", 20),
    EventSpec::further("github:workflow-run.completed", "Workflow Run Completed", "A run of a workflow ended, well or not.", "workflow_run", 30),
    EventSpec::further("github:check-suite.completed", "Check Suite Completed", "Every check of a commit ended, well or not.", "check_suite", 25),
    EventSpec::further("github:deployment-status.created", "Deployment Status", "A deployment reported a status.", "deployment_status", 35),
    EventSpec::further("github:branch.created", "Branch Created", "A branch was created.", "ref", 15),
    EventSpec::further("github:branch.deleted", "Branch Deleted", "A branch was deleted.", "ref", 15),
    EventSpec::further("github:repository.renamed", "Repository Renamed", "A repository has a new name.", "repository", 40),
    EventSpec::further("github:repository.transferred", "Repository Transferred", "A repository has a new owner.", "repository", 55),
    EventSpec::further("github:repository.archived", "Repository Archived", "A repository became read-only.", "repository", 50),
    EventSpec::further("github:repository.unarchived", "Repository Unarchived", "An archived repository can be written to again.", "repository", 45),
    EventSpec::further("github:repository.deleted", "Repository Deleted", "A repository was deleted.", "repository", 60),
    EventSpec::further("github:repository.privatized", "Repository Made Private", "A public repository became private.", "repository", 50),
    EventSpec::further("github:repository.publicized", "Repository Made Public", "A private repository became public.", "repository", 60),
];

#[rustfmt::skip]
const CATEGORIES: &[Category] = &[
    Category::new("push", "Push", "Sync files and record pushes."),
    Category::new("pull_request", "Pull Requests", "Pull requests opened, closed, merged, reopened or ready for review."),
    Category::new("issues", "Issues", "Issues opened, closed or reopened."),
    Category::new("release", "Releases", "Releases created or published."),
    Category::new("discussion", "Discussions", "Discussions started or answered."),
    Category::new("issue_comment", "Comments", "Comments on issues and pull requests."),
    Category::new("pull_request_review", "Reviews", "Reviews of pull requests."),
    Category::new("workflow_run", "Workflow Runs", "Runs of workflows that ended."),
    Category::new("check_suite", "Check Suites", "Checks of commits that ended."),
    Category::new("deployment_status", "Deployment Statuses", "What deployments report."),
    Category::new("ref", "Branches", "Branches created or deleted."),
    Category::new("repository", "Repository Changes", "Repositories renamed, transferred, archived, deleted or made public or private."),
];

impl Provider for GitHub {
    fn slug(&self) -> ProviderSlug {
        Self::SLUG
    }

    fn name(&self) -> &'static str {
        "GitHub"
    }

    fn resource_label(&self) -> &'static str {
        "repository"
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
        &["x-github-event", "x-github-delivery", "content-type"]
    }

    fn delivery_id_header(&self) -> Option<&'static str> {
        Some("x-github-delivery")
    }

    fn extract(&self, headers: &Headers, body: &Bytes) -> Result<Inbound, ExtractError> {
        let payload = if form::is_form(headers, body) {
            let field = form::find_field(body, b"payload");
            Bytes::from(field.ok_or_else(|| ExtractError::InvalidPayload("the form has no payload field".into()))?)
        } else {
            body.clone()
        };
        // What cannot be read is said first.
        let missing =
            |header| Payload::read(&payload, None).map_or_else(|error| error, |_| ExtractError::MissingHeader(header));
        let event = header_text(headers, "x-github-event").ok_or_else(|| missing("X-GitHub-Event"))?;
        let id = header_text(headers, "x-github-delivery").ok_or_else(|| missing("X-GitHub-Delivery"))?;
        understand(event, None, ProviderDeliveryId::new(id), payload)
    }

    fn extract_trusted(
        &self,
        wire_type: &str,
        delivery_id: &ProviderDeliveryId,
        payload: &Bytes,
    ) -> Result<Inbound, ExtractError> {
        let (event, action) =
            wire_type.split_once('.').map_or((wire_type, None), |(event, action)| (event, Some(action)));
        let inbound = understand(event, action, delivery_id.clone(), payload.clone())?;
        Ok(Inbound { wire_type: wire_type.to_owned(), ..inbound })
    }

    /// The seed's shape has no optional members: what is not known yet is assumed (private, not archived, `main`) and
    /// put right by the next control event.
    fn source_config(&self, of: &ResourceFacts<'_>) -> Map<String, Value> {
        let attr = |name: &str| of.attrs.get(name).filter(|value| !value.is_null()).cloned();
        // The name may be a short one that somebody gave; what GitHub calls it in full is a fact beside it then.
        let listed = of.attrs.get("fullName").and_then(Value::as_str);
        let named = of.name.filter(|name| name.contains('/')).or(listed).or(of.name);
        let full_name = named.unwrap_or(of.provider_resource_id.as_str());
        facts([
            ("version", Some(1.into())),
            ("sourceType", facts::text(Some(Self::SLUG.as_str()))),
            ("type", facts::text(Some("repository"))),
            ("installationId", facts::text(Some(of.external_id.as_str()))),
            ("repoId", facts::text(Some(of.provider_resource_id.as_str()))),
            ("repoName", facts::text(full_name.rsplit('/').next())),
            ("repoFullName", facts::text(Some(full_name))),
            ("defaultBranch", attr("defaultBranch").or_else(|| facts::text(Some("main")))),
            ("isPrivate", attr("isPrivate").or(Some(true.into()))),
            ("isArchived", attr("isArchived").or(Some(false.into()))),
        ])
    }

    fn account_of_seed(&self, external_id: &str, account_info: &Value) -> SeedAccount {
        // The seed wrote "unknown" where it had not asked.
        let login =
            SeedAccount::fact(account_info, &["/installations/0/accountLogin"]).filter(|login| login != "unknown");
        SeedAccount {
            external_id: ExternalId::new(external_id),
            alternate_external_id: None,
            login,
            is_certain: external_id.bytes().all(|byte| byte.is_ascii_digit()),
        }
    }
}

/// The members of a payload that anything here reads, unread.
struct Payload<'a> {
    action: Option<String>,
    installation: Json<'a>,
    repository: Json<'a>,
    changes: Json<'a>,
    pull_request: Json<'a>,
    ref_type: Json<'a>,
    account: Json<'a>,
    repository_selection: Json<'a>,
    repositories: Json<'a>,
    repositories_added: Json<'a>,
    repositories_removed: Json<'a>,
}

impl<'a> Payload<'a> {
    #[rustfmt::skip]
    fn read(body: &'a [u8], named_action: Option<&str>) -> Result<Self, ExtractError> {
        let names = [
            "action", "installation", "repository", "changes", "pull_request", "ref_type", "account",
            "repository_selection", "repositories", "repositories_added", "repositories_removed",
        ];
        let members = Json::body_members(body, names)?;
        let [action, installation, repository, changes, pull_request, ref_type, account, rest @ ..] = members;
        let [repository_selection, repositories, repositories_added, repositories_removed] = rest;
        Ok(Self {
            action: action.text().or_else(|| named_action.map(str::to_owned)),
            installation,
            repository,
            changes,
            pull_request,
            ref_type,
            account,
            repository_selection,
            repositories,
            repositories_added,
            repositories_removed,
        })
    }
}

fn understand(
    event: &str,
    named_action: Option<&str>,
    delivery_id: ProviderDeliveryId,
    body: Bytes,
) -> Result<Inbound, ExtractError> {
    let payload = Payload::read(&body, named_action)?;
    let key = find_event_key(event, &payload);
    let installation = payload.installation.member("id").id().map(ExternalId::new);
    let resources = select_resources(event, &payload);
    let is_believed = is_what_it_claims(event, &payload, &body);
    let control = if is_believed { control_changes(event, &payload) } else { Vec::new() };
    // An installation's id never returns: its end is the end, however long ago the installation was last changed.
    let is_dated = !control.is_empty() && !control.contains(&ControlChange::InstallationRevoked);
    let control_at = if is_dated { control_time(event, &payload) } else { None };
    Ok(Inbound {
        delivery_id,
        identity: None,
        wire_type: event.to_owned(),
        key,
        also_keys: Vec::new(),
        installation,
        alternate_installations: Vec::new(),
        resources,
        is_of_the_grant: is_believed && EVENTS_OF_A_GRANT.contains(&event),
        control,
        control_at,
        ping: event == "ping",
        payload: body,
    })
}

/// Our key: the event's and the action's names in kebab-case, with the few exceptions of GitHub's naming.
fn find_event_key(event: &str, payload: &Payload<'_>) -> Option<EventKey> {
    let action = payload.action.as_deref();
    let is_branch = || payload.ref_type.text().as_deref() == Some("branch");
    let (entity, action) = match (event, action) {
        ("push", _) => return find_key(EVENTS, "github:push"),
        ("create", _) if is_branch() => ("branch", "created"),
        ("delete", _) if is_branch() => ("branch", "deleted"),
        ("pull_request", Some("closed")) if payload.pull_request.member("merged").boolean() == Some(true) => {
            ("pull_request", "merged")
        }
        ("issues", Some(action)) => ("issue", action),
        (event, Some(action)) => (event, action),
        (_, None) => return None,
    };
    find_key(EVENTS, &format!("github:{entity}.{action}").replace('_', "-"))
}

/// The repository; for a transferred issue also the one it moved to. Events about an installation concern no single
/// resource, however many repositories they list.
fn select_resources(event: &str, payload: &Payload<'_>) -> ResourceSelector {
    if event.starts_with("installation") {
        return ResourceSelector::All;
    }
    let moved_to = match (event, payload.action.as_deref()) {
        ("issues", Some("transferred")) => payload.changes.member("new_repository").member("id").id(),
        _ => None,
    };
    ResourceSelector::of_ids(distinct(payload.repository.member("id").id().into_iter().chain(moved_to)))
}

/// The members of `repository` events. Those of every other event with `action` and `repository` have one more: its
/// subject.
const MEMBERS_OF_REPOSITORY: [&str; 7] =
    ["action", "changes", "repository", "organization", "enterprise", "installation", "sender"];

/// The members of events about a grant. Those of every other event that names an installation have one more: its subject.
const MEMBERS_OF_INSTALLATION: [&str; 10] = [
    "action",
    "installation",
    "repositories",
    "repositories_added",
    "repositories_removed",
    "repository_selection",
    "requester",
    "organization",
    "enterprise",
    "sender",
];

/// The events that are never anything but control events.
const EVENTS_OF_A_GRANT: [&str; 4] =
    ["installation", "installation_repositories", "installation_target", "github_app_authorization"];

/// Whether a control event's body is of that event. The event's name comes in a header that the signature does not
/// cover: without this check the body of any deleted thing, sent again under the name `installation`, would end the
/// grant. Only events about the grant itself carry the full installation, or an account beside it, or nothing else but
/// the grant; all others name it by its id alone, beside their subject.
fn is_what_it_claims(event: &str, payload: &Payload<'_>, body: &[u8]) -> bool {
    match event {
        "installation" | "installation_repositories" => {
            payload.installation.member("account").is_present() || Json::body_has_only(body, &MEMBERS_OF_INSTALLATION)
        }
        "installation_target" => payload.account.is_present(),
        "repository" => Json::body_has_only(body, &MEMBERS_OF_REPOSITORY),
        _ => true,
    }
}

fn control_changes(event: &str, payload: &Payload<'_>) -> Vec<ControlChange> {
    match (event, payload.action.as_deref()) {
        ("installation", Some("created")) => {
            with_resources(installation_confirmed(payload), repository_ids(payload.repositories), Vec::new())
        }
        ("installation", Some("deleted")) => vec![ControlChange::InstallationRevoked],
        ("installation", Some("suspend")) => vec![ControlChange::InstallationSuspended],
        ("installation", Some("unsuspend")) => vec![ControlChange::InstallationResumed],
        ("installation_repositories", Some("added" | "removed")) => with_resources(
            installation_confirmed(payload),
            repository_ids(payload.repositories_added),
            repository_ids(payload.repositories_removed),
        ),
        ("installation", Some("new_permissions_accepted")) | ("installation_target", Some("renamed")) => {
            vec![installation_confirmed(payload)]
        }
        ("repository", Some(action)) => repository_changes(action, payload),
        _ => Vec::new(),
    }
}

fn with_resources(
    confirmed: ControlChange,
    added: Vec<ProviderResourceId>,
    removed: Vec<ProviderResourceId>,
) -> Vec<ControlChange> {
    let mut changes = vec![confirmed];
    if !added.is_empty() {
        changes.push(ControlChange::ResourcesAdded { ids: added });
    }
    if !removed.is_empty() {
        changes.push(ControlChange::ResourcesRemoved { ids: removed, reason: RemovalReason::AccessLost });
    }
    changes
}

fn repository_ids(repositories: Json<'_>) -> Vec<ProviderResourceId> {
    let ids = repositories.items().into_iter().filter_map(|repository| repository.member("id").id());
    distinct(ids).into_iter().map(ProviderResourceId::new).collect()
}

/// What the full `installation` object says; `installation_target` has the account beside a mere id.
fn installation_confirmed(payload: &Payload<'_>) -> ControlChange {
    let [account, selection, permissions, events, app_id, app_slug] = payload.installation.members([
        "account",
        "repository_selection",
        "permissions",
        "events",
        "app_id",
        "app_slug",
    ]);
    let [login, slug, id, kind] = account.members(["login", "slug", "id", "type"]);
    let [target_login, target_slug] = payload.account.members(["login", "slug"]);
    let permissions: Map<String, Value> = permissions
        .entries()
        .into_iter()
        .filter_map(|(name, level)| Some((name, Value::String(level.text()?))))
        .collect();
    ControlChange::InstallationConfirmed {
        account_login: [target_login, target_slug, login, slug].into_iter().find_map(Json::text),
        metadata: facts([
            ("accountId", facts::text(id.id())),
            ("accountType", facts::text(kind.text())),
            (account::APP_ID, facts::text(app_id.id())),
            ("appSlug", facts::text(app_slug.text())),
            ("repositorySelection", facts::text(payload.repository_selection.text().or_else(|| selection.text()))),
            ("permissions", (!permissions.is_empty()).then_some(Value::Object(permissions))),
            ("events", facts::list(events.ids())),
        ]),
    }
}

/// Every change of a repository carries all of its facts, not only the changed one: whichever of several late events
/// is the newest then brings the whole state.
fn repository_changes(action: &str, payload: &Payload<'_>) -> Vec<ControlChange> {
    let [id, name, full_name, default_branch, private, archived] =
        payload.repository.members(["id", "name", "full_name", "default_branch", "private", "archived"]);
    let Some(id) = id.id().map(ProviderResourceId::new) else { return Vec::new() };
    let (mut is_private, mut is_archived) = (private.boolean(), archived.boolean());
    match action {
        "deleted" => return vec![ControlChange::ResourcesRemoved { ids: vec![id], reason: RemovalReason::Deleted }],
        // It left its owner, and with it the grant through which it was linked.
        "transferred" => {
            return vec![ControlChange::ResourcesRemoved { ids: vec![id], reason: RemovalReason::Transferred }];
        }
        "archived" => is_archived = Some(true),
        "unarchived" => is_archived = Some(false),
        "privatized" => is_private = Some(true),
        "publicized" => is_private = Some(false),
        "renamed" => {}
        "edited" if payload.changes.member("default_branch").is_present() => {}
        _ => return Vec::new(),
    }
    let full_name = full_name.text();
    vec![ControlChange::ResourceChanged {
        id,
        name: full_name.clone(),
        slug: None,
        attrs: facts([
            ("repoName", facts::text(name.text())),
            ("repoFullName", facts::text(full_name)),
            ("defaultBranch", facts::text(default_branch.text())),
            ("isPrivate", is_private.map(Value::Bool)),
            ("isArchived", is_archived.map(Value::Bool)),
        ]),
    }]
}

/// When the thing that changed was last updated. Written as RFC 3339, in some payloads as epoch seconds.
fn control_time(event: &str, payload: &Payload<'_>) -> Option<EpochMs> {
    let changed = if event == "repository" { payload.repository } else { payload.installation };
    let updated_at = changed.member("updated_at");
    updated_at.rfc3339().or_else(|| updated_at.integer().map(|seconds| EpochMs(seconds.saturating_mul(1000))))
}
