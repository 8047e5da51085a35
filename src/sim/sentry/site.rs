//! Sentry's pages and API as a public integration sees them (docs.sentry.io, and the
//! server's source where the documentation is silent).
//!
//! **Owns** the installations, tokens and projects of an invented Sentry. **Invariants.** API paths end with a slash: a
//! call without one is redirected, and its body is lost. A refresh ends the old pair at once. **Must not know** how the
//! gateway asks.
//!
//! Acts: `uninstall`, `rename_organization` (`{"slug"}`), `rename_project` (`{"index", "slug"}`).

mod api;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{PROVIDER, SECRET};
use crate::{
    model::clock::EpochMs,
    sim::{
        Dice, Draft, Facts, SimulatedProvider,
        world::{
            Limit,
            call::{Answer, Call, Surface, with_query},
            site::{Manners, Scene, Site},
            visit::Choice,
        },
    },
};

const SLUG: &str = "signalbox-sim";
const CLIENT_ID: &str = "simulated-sentry-client";

/// What can be set about Sentry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Knobs {
    /// How many projects a new organisation has.
    pub projects: u32,
    /// How long an access token lives, seconds.
    pub token_lifetime_s: u64,
    /// How long a code lives, seconds.
    pub code_lifetime_s: u64,
    /// "Verify Installation": an installation is pending until it is confirmed.
    pub verify_install: bool,
    /// Whether pending installations get webhooks about more than themselves.
    pub pending_gets_webhooks: bool,
    /// Whether the token's scopes allow uninstalling.
    pub may_uninstall: bool,
    /// How many API calls are left; without a limit if absent, as it is when the limit is lifted.
    pub rate_remaining: Option<u32>,
    /// When the limit is lifted, seconds from the first call under it.
    pub rate_reset_s: u64,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            projects: 3,
            token_lifetime_s: 28_800,
            code_lifetime_s: 600,
            verify_install: true,
            pending_gets_webhooks: false,
            may_uninstall: true,
            rate_remaining: None,
            rate_reset_s: 1,
        }
    }
}

/// A project.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its id.
    pub id: String,
    /// Its slug.
    pub slug: String,
}

#[derive(Debug, Clone)]
struct Organization {
    slug: String,
    installations_so_far: u32,
    projects: Vec<Project>,
}

#[derive(Debug, Clone)]
struct Installation {
    uuid: String,
    account: u32,
    code: Option<(String, EpochMs)>,
    is_pending: bool,
}

#[derive(Debug, Clone)]
struct Token {
    installation: String,
    refresh: String,
    expires_at: EpochMs,
}

/// An invented Sentry.
#[derive(Debug)]
pub struct Sentry {
    /// What can be set.
    pub knobs: Knobs,
    organizations: BTreeMap<u32, Organization>,
    installations: BTreeMap<String, Installation>,
    tokens: HashMap<String, Token>,
    limit: Limit,
}

impl Site for Sentry {
    type Knobs = Knobs;
    const PROVIDER: &'static SimulatedProvider = &PROVIDER;
    const API_BASE: &'static str = "";
    const MANNERS: Manners =
        Manners { timeout_ms: 1000, retries_ms: &[300_000, 300_000, 300_000], only_200: false, refusal_is_final: true };

    fn new() -> Self {
        Self {
            knobs: Knobs::default(),
            organizations: BTreeMap::new(),
            installations: BTreeMap::new(),
            tokens: HashMap::new(),
            limit: Limit::default(),
        }
    }

    fn knobs(&mut self) -> &mut Knobs {
        &mut self.knobs
    }

    fn answer(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        if !call.path.ends_with('/') {
            let query: Vec<_> = call.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            return Answer::empty(301).with("location", with_query(&format!("{}{}/", call.base, call.path), query));
        }
        match (call.surface, call.method.as_str(), call.route().as_slice()) {
            (Surface::Api, ..) => self.api(call, scene),
            (Surface::Web, "GET", ["sentry-apps", SLUG, "external-install", ""]) => self.installation_page(call, scene),
            (Surface::Web, ..) => {
                Answer::page(404, "Page Not Found", "<p>The page you are looking for was not found.</p>")
            }
        }
    }

    fn act(&mut self, act: &str, account: u32, details: &Value, scene: &mut Scene<'_>) -> Result<Value, String> {
        let uuid =
            self.installation_id(account).ok_or_else(|| format!("nothing is installed in organisation {account}"))?;
        match act {
            "uninstall" => self.uninstall(&uuid, scene),
            "rename_organization" => {
                details["slug"].as_str().ok_or("`slug` is missing")?.clone_into(&mut self.organization(account).slug);
            }
            "rename_project" => {
                let index = usize::try_from(details["index"].as_u64().unwrap_or(0)).unwrap_or(0);
                let slug = details["slug"].as_str().ok_or("`slug` is missing")?;
                let project = self.projects(account).get_mut(index).ok_or("there is no such project")?;
                slug.clone_into(&mut project.slug);
            }
            _ => return Err(format!("nobody does `{act}` at Sentry")),
        }
        Ok(json!({"installationId": uuid}))
    }

    fn facts(&self, account: u32, facts: Facts) -> Facts {
        let organization = self.organizations.get(&account);
        let project = organization.and_then(|organization| organization.projects.first());
        Facts {
            external_id: self.installation_id(account).unwrap_or(facts.external_id),
            account: organization.map_or(facts.account, |organization| organization.slug.clone()),
            resource_slug: project.map_or(facts.resource_slug, |project| project.slug.clone()),
            ..facts
        }
    }

    fn restamp(draft: &mut Draft, now: EpochMs, dice: &mut Dice) {
        for (name, value) in &mut draft.headers {
            match *name {
                "request-id" => *value = dice.hex(32),
                "sentry-hook-timestamp" => *value = (now.0 / 1000).to_string(),
                _ => {}
            }
        }
    }

    fn sends(&self, kind: &str, facts: &Facts) -> bool {
        let is_pending = self.installations.get(&facts.external_id).is_some_and(|found| found.is_pending);
        !is_pending || self.knobs.pending_gets_webhooks || kind.starts_with("sentry:installation.")
    }
}

impl Sentry {
    /// The uuid of an organisation's installation.
    pub fn installation_id(&self, account: u32) -> Option<String> {
        self.installations.values().find(|found| found.account == account).map(|found| found.uuid.clone())
    }

    /// Whether an organisation's installation waits for its confirmation.
    pub fn is_pending(&self, account: u32) -> bool {
        self.installations.values().any(|found| found.account == account && found.is_pending)
    }

    fn organization(&mut self, account: u32) -> &mut Organization {
        let count = self.knobs.projects;
        self.organizations.entry(account).or_insert_with(|| {
            let facts = PROVIDER.facts(account, 0, EpochMs(0));
            let project = |index: u32| {
                if index == 0 {
                    return Project { id: facts.resource_id.clone(), slug: facts.resource_slug.clone() };
                }
                let id = 4_507_900_000_000_000 + u64::from(account) * 10_000 + u64::from(index);
                Project { id: id.to_string(), slug: format!("harbor-{index:03}") }
            };
            let projects = (0..count).map(project).collect();
            Organization { slug: facts.account.clone(), installations_so_far: 0, projects }
        })
    }

    /// The projects of an organisation, to look at and to change; index 0 is the one that facts name.
    pub fn projects(&mut self, account: u32) -> &mut Vec<Project> {
        &mut self.organization(account).projects
    }

    /// Installs without a visit; answers the uuid.
    pub fn install(&mut self, account: u32) -> String {
        if let Some(uuid) = self.installation_id(account) {
            return uuid;
        }
        let is_pending = self.knobs.verify_install;
        let first = PROVIDER.facts(account, 0, EpochMs(0)).external_id;
        let organization = self.organization(account);
        let uuid = format!(
            "{:08x}{}",
            0x3e1d_5b7a_u32 + organization.installations_so_far,
            first.get(8..).unwrap_or_default()
        );
        organization.installations_so_far += 1;
        self.installations.insert(uuid.clone(), Installation { uuid: uuid.clone(), account, code: None, is_pending });
        uuid
    }

    fn uninstall(&mut self, uuid: &str, scene: &mut Scene<'_>) {
        let Some(account) = self.installations.get(uuid).map(|found| found.account) else { return };
        let seed = scene.dice.bits();
        let facts = self.facts(account, PROVIDER.facts(account, seed, scene.now));
        let edit = json!({"data": {"installation": {"code": null}}});
        self.installations.remove(uuid);
        self.tokens.retain(|_, token| token.installation != uuid);
        scene.tell("sentry:installation.deleted", facts, edit);
    }

    fn installation_page(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let offers = [Choice::Approve, Choice::Close];
        let visit = match scene.ambient.visit.on(call, "Install Signalbox (simulated Sentry)", &offers) {
            Ok(visit) => visit,
            Err(page) => return page,
        };
        let landing = match scene.landing() {
            Ok(landing) => landing,
            Err(page) => return page,
        };
        // Closing goes back to where one came from: nothing returns to us.
        if visit.choice != Choice::Approve {
            return Answer::page(200, "Window closed", "<p>Nothing was installed.</p>");
        }
        if self.installation_id(visit.account).is_some() {
            return Answer::refusal("Already installed", "This integration is already installed in this organization.");
        }
        let uuid = self.install(visit.account);
        let code = scene.dice.hex(64);
        scene.note_issued(&code);
        if let Some(installation) = self.installations.get_mut(&uuid) {
            installation.code = Some((code.clone(), scene.now));
        }
        let seed = scene.dice.bits();
        let facts = self.facts(visit.account, PROVIDER.facts(visit.account, seed, scene.now));
        let status = if self.knobs.verify_install { "pending" } else { "installed" };
        let slug = self.organization(visit.account).slug.clone();
        scene.tell_first(
            "sentry:installation.created",
            facts,
            json!({"data": {"installation": {"code": code, "status": status, "organization": {"slug": slug}}}}),
        );
        let shown = visit.report_id.as_deref().unwrap_or(uuid.as_str());
        let mut query = vec![("code", code.as_str()), ("installationId", shown), ("orgSlug", slug.as_str())];
        query.extend(call.parameter("state").filter(|_| !visit.forget_state).map(|state| ("state", state)));
        Answer::redirect(&with_query(&landing, query))
    }
}

#[cfg(test)]
mod tests;
