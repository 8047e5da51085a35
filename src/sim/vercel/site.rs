//! Vercel's pages and API as an integration sees them (vercel.com/docs/rest-api).
//!
//! **Owns** the configurations and projects of an invented Vercel. **Invariants.** A team's token without `teamId`, and
//! any token of a removed or disabled configuration, is refused with 403. **Must not know** how the gateway asks.
//!
//! Acts: `uninstall`, `disable`, `enable`, `add_projects` and `remove_projects` (`{"projects": [index…]}`),
//! `rename_project` (`{"index", "name"}`), `remove_project` (`{"index"}`), `transfer` (`{"to": account}`).

mod acts;
mod api;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{PROVIDER, SECRET, TRACE_HEADER, trace};
use crate::{
    model::clock::EpochMs,
    sim::{
        Dice, Draft, Facts, SimulatedProvider,
        world::{
            Limit,
            call::{Answer, Call, Credentials, Surface, with_query},
            site::{Manners, Scene, Site},
            visit::{Choice, Visit},
        },
    },
};

const SLUG: &str = "signalbox-sim";
const CLIENT_ID: &str = "oac_simulated0001";
/// Personal accounts are numbered from here, by their person.
const PERSONAL: u32 = 1_000_000;

/// What can be set about Vercel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Knobs {
    /// How many projects a new account has.
    pub projects: u32,
    /// `all` or `selected`, of new configurations.
    pub project_selection: String,
    /// Page tokens are text; otherwise numbers. Both occur.
    pub text_cursors: bool,
    /// Connecting an account again makes a new configuration; otherwise it keeps its own.
    pub new_configuration_on_reconnect: bool,
    /// The callback's `next`; a page of this Vercel if absent, none if empty.
    pub next: Option<String>,
    /// How long a code lives, seconds.
    pub code_lifetime_s: u64,
    /// The token answer names another configuration than the callback: a spoof.
    pub token_names_configuration: Option<String>,
    /// How many API calls are left; without a limit if absent, as it is when the limit is lifted.
    pub rate_remaining: Option<u32>,
    /// When the limit is lifted, seconds from the first call under it.
    pub rate_reset_s: u64,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            projects: 3,
            project_selection: "selected".to_owned(),
            text_cursors: false,
            new_configuration_on_reconnect: false,
            next: None,
            code_lifetime_s: 1800,
            token_names_configuration: None,
            rate_remaining: None,
            rate_reset_s: 60,
        }
    }
}

/// A project.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether the integration may see it where the selection is `selected`.
    pub granted: bool,
}

#[derive(Debug, Clone)]
struct Configuration {
    id: String,
    account: u32,
    person: u32,
    selection: String,
    created_at: EpochMs,
    disabled_at: Option<EpochMs>,
}

#[derive(Debug)]
struct Code {
    configuration: String,
    at: EpochMs,
}

/// An invented Vercel.
#[derive(Debug)]
pub struct Vercel {
    /// What can be set.
    pub knobs: Knobs,
    configurations: BTreeMap<String, Configuration>,
    projects: BTreeMap<u32, Vec<Project>>,
    codes: HashMap<String, Code>,
    /// Token to configuration.
    tokens: HashMap<String, String>,
    configurations_so_far: BTreeMap<u32, u32>,
    limit: Limit,
}

impl Site for Vercel {
    type Knobs = Knobs;
    const PROVIDER: &'static SimulatedProvider = &PROVIDER;
    const API_BASE: &'static str = "/rest";
    const MANNERS: Manners = Manners {
        timeout_ms: 30_000,
        retries_ms: &[60_000, 300_000, 3_600_000, 43_200_000],
        only_200: false,
        refusal_is_final: false,
    };

    fn new() -> Self {
        Self {
            knobs: Knobs::default(),
            configurations: BTreeMap::new(),
            projects: BTreeMap::new(),
            codes: HashMap::new(),
            tokens: HashMap::new(),
            configurations_so_far: BTreeMap::new(),
            limit: Limit::default(),
        }
    }

    fn knobs(&mut self) -> &mut Knobs {
        &mut self.knobs
    }

    fn answer(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        match (call.surface, call.method.as_str(), call.route().as_slice()) {
            (Surface::Web, "GET", ["integrations", SLUG, "new"]) => self.installation_page(call, scene),
            (Surface::Web, "GET", ["dashboard", "integrations", _]) => {
                Answer::page(200, "Installed", "<p>The integration is installed.</p>")
            }
            (Surface::Web, ..) => Answer::page(404, "404", "<p>This page could not be found.</p>"),
            (Surface::Api, "POST", ["v2", "oauth", "access_token"]) => self.exchange(call, scene),
            (Surface::Api, ..) => self.api(call, scene),
        }
    }

    fn act(&mut self, act: &str, account: u32, details: &Value, scene: &mut Scene<'_>) -> Result<Value, String> {
        self.perform(act, account, details, scene)
    }

    fn facts(&self, account: u32, facts: Facts) -> Facts {
        let configuration = self.configuration_of(account);
        let project = self.projects.get(&account).and_then(|projects| projects.first());
        Facts {
            external_id: external_id(account),
            alternate_external_id: configuration.map_or(facts.alternate_external_id, |found| found.id.clone()),
            resource_id: project.map_or(facts.resource_id, |project| project.id.clone()),
            resource_slug: project.map_or(facts.resource_slug, |project| project.name.clone()),
            resource_name: project.map_or(facts.resource_name, |project| project.name.clone()),
            ..facts
        }
    }

    fn restamp(draft: &mut Draft, now: EpochMs, dice: &mut Dice) {
        for (name, value) in &mut draft.headers {
            if *name == TRACE_HEADER {
                *value = trace(now, dice);
            }
        }
    }
}

impl Vercel {
    fn configuration_of(&self, account: u32) -> Option<&Configuration> {
        self.configurations.values().find(|configuration| configuration.account == account)
    }

    /// The id of an account's configuration.
    pub fn configuration_id(&self, account: u32) -> Option<String> {
        self.configuration_of(account).map(|configuration| configuration.id.clone())
    }

    /// The projects of an account, to look at and to change; index 0 is the one that facts name.
    pub fn projects(&mut self, account: u32) -> &mut Vec<Project> {
        let count = self.knobs.projects;
        self.projects.entry(account).or_insert_with(|| {
            let facts = PROVIDER.facts(account, 0, EpochMs(0));
            let name = |index| if index == 0 { facts.resource_name.clone() } else { format!("harbor-{index:03}") };
            let id = |index| if index == 0 { facts.resource_id.clone() } else { format!("prj_{account}x{index:04}") };
            (0..count).map(|index| Project { id: id(index), name: name(index), granted: true }).collect()
        })
    }

    /// Installs the integration without a visit; answers the configuration's id.
    pub fn install(&mut self, account: u32, person: u32, now: EpochMs) -> String {
        if let Some(id) = self.configuration_id(account) {
            if !self.knobs.new_configuration_on_reconnect {
                return id;
            }
            self.remove(&id);
        }
        let so_far = self.configurations_so_far.entry(account).or_insert(0);
        let first = PROVIDER.facts(account, 0, now).alternate_external_id;
        let id = if *so_far == 0 { first } else { format!("{first}r{so_far}") };
        *so_far += 1;
        let configuration = Configuration {
            id: id.clone(),
            account,
            person,
            selection: self.knobs.project_selection.clone(),
            created_at: now,
            disabled_at: None,
        };
        self.configurations.insert(id.clone(), configuration);
        self.projects(account);
        id
    }

    fn remove(&mut self, id: &str) {
        self.configurations.remove(id);
        self.tokens.retain(|_, of| of != id);
        self.codes.retain(|_, code| code.configuration != id);
    }

    fn visible(&mut self, configuration: &Configuration) -> Vec<Project> {
        let all = configuration.selection == "all";
        self.projects(configuration.account).iter().filter(|project| all || project.granted).cloned().collect()
    }

    fn installation_page(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let offers = [Choice::Approve, Choice::Close];
        let visit = match scene.ambient.visit.on(call, "Add Integration (simulated Vercel)", &offers) {
            Ok(visit) => visit,
            Err(page) => return page,
        };
        let landing = match scene.landing() {
            Ok(landing) => landing,
            Err(page) => return page,
        };
        // There is no way to say no that comes back.
        if visit.choice != Choice::Approve {
            return Answer::page(200, "Window closed", "<p>Nothing was installed.</p>");
        }
        let account = account_of(&visit);
        let id = self.install(account, visit.person, scene.now);
        let code = scene.issue("", 24);
        self.codes.insert(code.clone(), Code { configuration: id.clone(), at: scene.now });
        let team = external_id(account);
        let next = self.knobs.next.clone().unwrap_or_else(|| format!("{}/dashboard/integrations/{id}", scene.origin));
        let shown = visit.report_id.as_deref().unwrap_or(id.as_str());
        let source = if visit.forget_state { "marketplace" } else { "external" };
        let mut query = vec![("code", code.as_str()), ("configurationId", shown)];
        if !visit.personal {
            query.push(("teamId", team.as_str()));
        }
        if !next.is_empty() {
            query.push(("next", next.as_str()));
        }
        query.push(("source", visit.report_action.as_deref().unwrap_or(source)));
        query.extend(call.parameter("state").filter(|_| !visit.forget_state).map(|state| ("state", state)));
        Answer::redirect(&with_query(&landing, query))
    }

    /// `POST /v2/oauth/access_token`
    fn exchange(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let Some(fields) = call.form() else {
            return Answer::oauth_error(400, "invalid_request", "The body must be application/x-www-form-urlencoded");
        };
        let field = |name: &str| fields.get(name).map(String::as_str);
        if call.credentials() != Credentials::None {
            return Answer::oauth_error(400, "invalid_request", "Credentials belong in the body");
        }
        if field("client_id") != Some(CLIENT_ID) || field("client_secret") != Some(SECRET) {
            return Answer::oauth_error(401, "invalid_client", "Client authentication failed");
        }
        let Some(code) = field("code").and_then(|code| self.codes.remove(code)) else {
            return Answer::oauth_error(400, "invalid_grant", "The provided authorization code is invalid");
        };
        let age = u64::try_from(scene.now.0 - code.at.0).unwrap_or(0);
        let is_registered = field("redirect_uri").is_some_and(|uri| scene.is_registered(uri));
        if age > self.knobs.code_lifetime_s * 1000 || !is_registered {
            return Answer::oauth_error(
                400,
                "invalid_grant",
                "The authorization code has expired, or redirect_uri differs",
            );
        }
        let Some(configuration) = self.configurations.get(&code.configuration).cloned() else {
            return Answer::oauth_error(400, "invalid_grant", "The provided authorization code is invalid");
        };
        scene.accepted_as = Some("client");
        let token = scene.issue("", 24);
        self.tokens.insert(token.clone(), configuration.id.clone());
        let team = (configuration.account <= PERSONAL).then(|| external_id(configuration.account));
        let named = self.knobs.token_names_configuration.clone().unwrap_or(configuration.id);
        Answer::json(
            200,
            &json!({"token_type": "Bearer", "access_token": token, "installation_id": named,
            "user_id": user_id(configuration.person), "team_id": team}),
        )
    }
}

fn account_of(visit: &Visit) -> u32 {
    if visit.personal { PERSONAL + visit.person } else { visit.account }
}

/// The team, or for a personal account the user.
fn external_id(account: u32) -> String {
    if account > PERSONAL { user_id(account - PERSONAL) } else { PROVIDER.facts(account, 0, EpochMs(0)).external_id }
}

fn user_id(person: u32) -> String {
    format!("u8Xn1cRk3Pq{person}")
}

#[cfg(test)]
mod tests;
