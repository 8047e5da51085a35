//! GitHub's pages and API as a GitHub App sees them (docs.github.com/rest/apps).
//!
//! **Owns** the installations, repositories, grants and the delivery log of an invented GitHub. **Invariants.** Accounts
//! are numbered as [`super::PROVIDER`]'s facts are: a webhook about account 1 is about the installation that a visit
//! for account 1 made. Refusals are GitHub's. **Must not know** how the gateway asks.
//!
//! Acts: `approve_request`, `uninstall`, `suspend`, `unsuspend`, `accept_permissions`, `add_repositories` and
//! `remove_repositories` (`{"repositories": [index…]}`), `rename_repository` (`{"index", "name"}`),
//! `archive_repository`, `unarchive_repository`, `delete_repository`, `transfer_repository`
//! (`{"index", "to": account}`), `default_branch` (`{"index", "branch"}`), `rename_account` (`{"login"}`),
//! `revoke_authorization` (`{"person"}`).

mod acts;
mod api;
mod app_jwt;
mod delivery_log;
mod oauth;
mod pages;
mod repositories;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::{
    delivery_log::LogStory,
    repositories::{Entry, Repository},
};
use self::{delivery_log::Logged, oauth::Authorizations};
use super::{APP_ID, PROVIDER};
use crate::{
    model::clock::EpochMs,
    sim::{
        Facts, SignedRequest, SimulatedProvider, to_the_second,
        world::{
            Limit,
            call::{Answer, Call, Surface},
            site::{Manners, Scene, Sent, Site},
        },
    },
};

pub(super) const CLIENT_ID: &str = "Iv23liSimulated00001";
pub(super) const CLIENT_SECRET: &str = "sim-github-client-secret-0001";
pub(super) const APP_SLUG: &str = "signalbox-sim";
/// The App's private key: made for the simulator, guards nothing.
pub const APP_PRIVATE_KEY: &str = include_str!("app_key.pem");

/// What can be set about GitHub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "knobs are independent of each other")]
pub struct Knobs {
    /// "Request user authorization during installation": the callback after an installation brings a `code`.
    pub code_with_install: bool,
    /// `installation.created` arrives before the browser does; otherwise after.
    pub webhook_before_callback: bool,
    /// How many repositories a new account has.
    pub repositories: u32,
    /// `all` or `selected`, of new installations.
    pub repository_selection: String,
    /// How long an installation token lives, seconds.
    pub token_lifetime_s: u64,
    /// How long a user token lives, seconds.
    pub user_token_lifetime_s: u64,
    /// How long a code lives, seconds.
    pub code_lifetime_s: u64,
    /// Whether user tokens expire and come with a refresh token.
    pub expiring_user_tokens: bool,
    /// Installation tokens of the long form with two dots.
    pub stateless_tokens: bool,
    /// How many API calls are left; without a limit if absent, as it is when the limit is lifted.
    pub rate_remaining: Option<u32>,
    /// When the limit is lifted, seconds from the first call under it.
    pub rate_reset_s: u64,
    /// How long the delivery log lags behind, milliseconds.
    pub log_lag_ms: u64,
    /// Redeliveries are answered 422.
    pub refuse_redelivery: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            code_with_install: false,
            webhook_before_callback: true,
            repositories: 3,
            repository_selection: "selected".to_owned(),
            token_lifetime_s: 3600,
            user_token_lifetime_s: 28_800,
            code_lifetime_s: 600,
            expiring_user_tokens: true,
            stateless_tokens: false,
            rate_remaining: None,
            rate_reset_s: 60,
            log_lag_ms: 0,
            refuse_redelivery: false,
        }
    }
}

/// An account with what belongs to it.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub login: String,
    pub personal: bool,
    pub installations_so_far: u64,
    pub repositories: Vec<Repository>,
}

/// The App on an account.
#[derive(Debug, Clone)]
pub(super) struct Installation {
    pub id: u64,
    pub account: u32,
    pub selection: String,
    pub created_at: EpochMs,
    pub updated_at: EpochMs,
    pub suspended_at: Option<EpochMs>,
    /// People who can see it: who installed it and who was made a member.
    pub seen_by: BTreeSet<u32>,
    pub permissions: Value,
}

/// A member's wish that an owner installs the App.
#[derive(Debug, Clone)]
pub(super) struct InstallRequest {
    pub id: u64,
    pub account: u32,
    pub person: u32,
    pub at: EpochMs,
}

#[derive(Debug, Clone)]
pub(super) struct InstallationToken {
    pub installation: u64,
    pub expires_at: EpochMs,
    /// Only these, if it was narrowed.
    pub repositories: Option<BTreeSet<u64>>,
}

/// An invented GitHub.
#[derive(Debug)]
pub struct GitHub {
    /// What can be set.
    pub knobs: Knobs,
    owners: BTreeMap<u32, Owner>,
    installations: BTreeMap<u64, Installation>,
    requests: Vec<InstallRequest>,
    tokens: HashMap<String, InstallationToken>,
    people: Authorizations,
    limit: Limit,
    log: Vec<Logged>,
    hook: Value,
    next_id: u64,
}

impl Site for GitHub {
    type Knobs = Knobs;
    const PROVIDER: &'static SimulatedProvider = &PROVIDER;
    const API_BASE: &'static str = "/api/v3";
    const MANNERS: Manners = Manners { timeout_ms: 10_000, retries_ms: &[], only_200: false, refusal_is_final: false };

    fn new() -> Self {
        Self {
            knobs: Knobs::default(),
            owners: BTreeMap::new(),
            installations: BTreeMap::new(),
            requests: Vec::new(),
            tokens: HashMap::new(),
            people: Authorizations::default(),
            limit: Limit::default(),
            log: Vec::new(),
            hook: json!({"content_type": "json", "insecure_ssl": "0", "secret": "********"}),
            next_id: 4_000_000_001,
        }
    }

    fn knobs(&mut self) -> &mut Knobs {
        &mut self.knobs
    }

    fn answer(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        match call.surface {
            Surface::Web => self.web(call, scene),
            Surface::Api => self.api(call, scene),
        }
    }

    fn act(&mut self, act: &str, account: u32, details: &Value, scene: &mut Scene<'_>) -> Result<Value, String> {
        self.perform(act, account, details, scene)
    }

    fn facts(&self, account: u32, facts: Facts) -> Facts {
        self.facts_about(account, 0, facts)
    }

    fn sent(&mut self, sent: &Sent, request: &SignedRequest, scene: &mut Scene<'_>) {
        self.log_delivery(sent, request, scene);
    }
}

impl GitHub {
    /// The live installation of an account.
    pub(super) fn installation_of(&self, account: u32) -> Option<&Installation> {
        self.installations.values().find(|installation| installation.account == account)
    }

    /// The same facts about a repository of an account as it is now; about the one they name where there is none.
    pub(super) fn facts_about(&self, account: u32, index: usize, facts: Facts) -> Facts {
        let installation = self.installation_of(account);
        let owner = self.owners.get(&account);
        let login = owner.map_or(facts.account, |owner| owner.login.clone());
        // All of one repository: the first of today need not be the first that was invented.
        let (resource_id, name) = owner.and_then(|owner| owner.repositories.get(index)).map_or_else(
            || (facts.resource_id.clone(), facts.resource_name.clone()),
            |repository| (repository.id.to_string(), repository.name.clone()),
        );
        Facts {
            external_id: installation.map_or(facts.external_id, |installation| installation.id.to_string()),
            resource_slug: format!("{login}/{name}"),
            account: login,
            resource_id,
            resource_name: name,
            ..facts
        }
    }

    /// The id of an account's live installation.
    pub fn installation_id(&self, account: u32) -> Option<u64> {
        self.installation_of(account).map(|installation| installation.id)
    }

    /// Lets a person see an account's installation, as a member of the organisation does.
    pub fn add_member(&mut self, account: u32, person: u32) {
        for installation in self.installations.values_mut().filter(|installation| installation.account == account) {
            installation.seen_by.insert(person);
        }
    }

    /// Installs the App without a visit: what was there before the gateway.
    pub fn install(&mut self, account: u32, person: u32, now: EpochMs) -> u64 {
        if let Some(installation) = self.installation_of(account) {
            return installation.id;
        }
        let selection = self.knobs.repository_selection.clone();
        let owner = self.owner(account);
        // The first is the one that facts name; GitHub gives a new id to every further one.
        let id = 58_214_000 + u64::from(account) + owner.installations_so_far * 10_000_000;
        owner.installations_so_far += 1;
        let permissions = json!({"metadata": "read", "contents": "read", "issues": "read", "pull_requests": "read",
            "discussions": "read", "members": "read"});
        let installation = Installation {
            id,
            account,
            selection,
            created_at: now,
            updated_at: now,
            suspended_at: None,
            seen_by: BTreeSet::from([person]),
            permissions,
        };
        self.installations.insert(id, installation);
        id
    }

    /// An account, invented when it is first spoken of.
    pub(super) fn owner(&mut self, account: u32) -> &mut Owner {
        let count = self.knobs.repositories;
        self.owners.entry(account).or_insert_with(|| {
            let personal = account > PERSONAL;
            let login = if personal { login_of(account - PERSONAL) } else { format!("harborworks-{account}") };
            let repositories = (0..count).map(|index| Repository::invent(account, index)).collect();
            Owner { login, personal, installations_so_far: 0, repositories }
        })
    }

    /// The repositories of an account, to look at and to change; facts name the one at index 0.
    pub fn repositories(&mut self, account: u32) -> &mut Vec<Repository> {
        &mut self.owner(account).repositories
    }

    /// Puts a file into a repository of an account.
    pub fn write_file(&mut self, account: u32, index: usize, path: &str, content: impl Into<Vec<u8>>) {
        if let Some(repository) = self.owner(account).repositories.get_mut(index) {
            repository.entries.insert(path.to_owned(), Entry::File(content.into()));
        }
    }

    pub(super) fn account_json(&mut self, account: u32) -> Value {
        let owner = self.owner(account);
        let id = account_id(account);
        json!({"id": id, "node_id": format!("O_kgDO{account}"), "login": owner.login,
            "type": if owner.personal { "User" } else { "Organization" },
            "avatar_url": format!("https://avatars.example/u/{id}"), "html_url": format!("https://github.com/{}", owner.login)})
    }

    pub(super) fn installation_json(&mut self, id: u64) -> Value {
        let Some(installation) = self.installations.get(&id).cloned() else { return Value::Null };
        let account = self.account_json(installation.account);
        let suspended_at = installation.suspended_at.map(to_the_second);
        let suspended_by = installation.suspended_at.map(|_| person_json(1));
        json!({"id": id, "account": account, "repository_selection": installation.selection, "app_id": APP_ID,
            "app_slug": APP_SLUG, "client_id": CLIENT_ID, "target_id": account["id"], "target_type": account["type"],
            "permissions": installation.permissions,
            "events": ["discussion", "issues", "pull_request", "push", "release", "repository"],
            "created_at": to_the_second(installation.created_at), "updated_at": to_the_second(installation.updated_at),
            "suspended_at": suspended_at, "suspended_by": suspended_by, "single_file_name": null,
            "html_url": format!("https://github.com/organizations/harborworks-{}/settings/installations/{id}", installation.account)})
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// Personal accounts are numbered from here, by their person.
pub(super) const PERSONAL: u32 = 1_000_000;

/// The account a visit picks.
pub(super) fn account_of(visit: &crate::sim::world::visit::Visit) -> u32 {
    if visit.personal { PERSONAL + visit.person } else { visit.account }
}

/// The owner's id of an account, as its webhooks have it.
pub(super) fn account_id(account: u32) -> u64 {
    if account > PERSONAL { person_id(account - PERSONAL) } else { 99_120_386 + u64::from(account) }
}

/// A person's id.
pub(super) fn person_id(person: u32) -> u64 {
    6_120_457 + u64::from(person)
}

/// A person's login.
pub(super) fn login_of(person: u32) -> String {
    if person == 1 { "mirela-okt".to_owned() } else { format!("person-{person}") }
}

/// A person.
pub(super) fn person_json(person: u32) -> Value {
    let login = login_of(person);
    json!({"id": person_id(person), "login": login, "type": "User", "site_admin": false,
        "avatar_url": format!("https://avatars.example/u/{}", person_id(person)), "html_url": format!("https://github.com/{login}")})
}

#[cfg(test)]
mod tests;
