//! Linear's pages and API as an OAuth application sees them (linear.app/developers).
//!
//! **Owns** the workspaces, teams and grants of an invented Linear. **Invariants.** Every refresh gives a new pair; the
//! old refresh token is dead unless the grace knob says otherwise. **Must not know** how the gateway asks.
//!
//! Acts: `uninstall`, `revoke_authorization` (`{"person"}`), `add_team` and `remove_team` (`{"index"}`),
//! `rename_team` (`{"index", "name"}`, which tells nobody).

mod oauth;
mod schema;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::oauth::{Code, Grant};
use super::{OAUTH_CLIENT, PROVIDER};
use crate::{
    model::clock::EpochMs,
    sim::{
        Dice, Draft, Facts, SimulatedProvider,
        world::{
            Limit,
            call::{Answer, Call, Surface},
            site::{Manners, Scene, Site},
        },
    },
};

pub(super) const CLIENT_ID: &str = "simulated-linear-client";
pub(super) const CLIENT_SECRET: &str = "sim-linear-client-secret-0001";

/// What can be set about Linear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "knobs are independent of each other")]
pub struct Knobs {
    /// How many teams a new workspace has.
    pub teams: u32,
    /// How long an access token lives, seconds.
    pub token_lifetime_s: u64,
    /// How long a code lives, seconds.
    pub code_lifetime_s: u64,
    /// How long the refresh token just rotated away still answers the same pair, seconds: 0 or 1800.
    pub refresh_grace_s: u64,
    /// Whether an access token outlives the rotation of its refresh token.
    pub old_access_survives: bool,
    /// `scope` is an array, as for apps made before December 2023.
    pub scope_as_array: bool,
    /// `OAuthApp` `revoked` is sent after `/oauth/revoke` too.
    pub tell_of_own_revocation: bool,
    /// Errors of GraphQL come with 400; otherwise with 200. Both occur.
    pub graphql_errors_are_400: bool,
    /// How many GraphQL calls are left; without a limit if absent, as it is when the limit is lifted.
    pub requests_remaining: Option<u32>,
    /// How many points of complexity are left, of which a call costs 100; the same.
    pub complexity_remaining: Option<u32>,
    /// When either limit is lifted, seconds from the first call under it.
    pub rate_reset_s: u64,
    /// Calls over a limit are answered 429; otherwise 400. Both may occur.
    pub over_limit_is_429: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            teams: 3,
            token_lifetime_s: 86_399,
            code_lifetime_s: 600,
            refresh_grace_s: 0,
            old_access_survives: false,
            scope_as_array: false,
            tell_of_own_revocation: false,
            graphql_errors_are_400: true,
            requests_remaining: None,
            complexity_remaining: None,
            rate_reset_s: 3600,
            over_limit_is_429: false,
        }
    }
}

/// A team.
#[derive(Debug, Clone)]
pub struct Team {
    /// Its id.
    pub id: String,
    /// Its key.
    pub key: String,
    /// Its name.
    pub name: String,
    /// Whether the app may see it.
    pub granted: bool,
}

/// An invented Linear.
#[derive(Debug)]
pub struct Linear {
    /// What can be set.
    pub knobs: Knobs,
    teams: BTreeMap<u32, Vec<Team>>,
    codes: HashMap<String, Code>,
    grants: Vec<Grant>,
    webhooks: Vec<Value>,
    requests_limit: Limit,
    complexity_limit: Limit,
}

impl Site for Linear {
    type Knobs = Knobs;
    const PROVIDER: &'static SimulatedProvider = &PROVIDER;
    const API_BASE: &'static str = "/api";
    const MANNERS: Manners = Manners {
        timeout_ms: 5000,
        retries_ms: &[60_000, 3_600_000, 21_600_000],
        only_200: true,
        refusal_is_final: false,
    };

    fn new() -> Self {
        Self {
            knobs: Knobs::default(),
            teams: BTreeMap::new(),
            codes: HashMap::new(),
            grants: Vec::new(),
            webhooks: Vec::new(),
            requests_limit: Limit::default(),
            complexity_limit: Limit::default(),
        }
    }

    fn knobs(&mut self) -> &mut Knobs {
        &mut self.knobs
    }

    fn answer(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        match (call.surface, call.method.as_str(), call.path.as_str()) {
            (Surface::Web, "GET", "/oauth/authorize") => self.authorization_page(call, scene),
            (Surface::Web, ..) => Answer::page(404, "Not found", "<p>There is nothing here.</p>"),
            (Surface::Api, "POST", "/oauth/token") => self.token(call, scene),
            (Surface::Api, "POST", "/oauth/revoke") => self.revoke(call, scene),
            (Surface::Api, "POST", "/graphql") => self.graphql(call, scene),
            (Surface::Api, ..) => Answer::json(404, &json!({"error": "not_found"})),
        }
    }

    fn act(&mut self, act: &str, account: u32, details: &Value, scene: &mut Scene<'_>) -> Result<Value, String> {
        let index = usize::try_from(details["index"].as_u64().unwrap_or(0)).unwrap_or(0);
        let facts = self.fresh_facts(account, scene);
        match act {
            "uninstall" => {
                self.grants.retain(|grant| grant.workspace != account);
                scene.tell("linear:oauth-app.revoked", facts, Value::Null);
            }
            "revoke_authorization" => {
                let person = details["person"].as_u64().and_then(|person| u32::try_from(person).ok()).unwrap_or(1);
                self.grants.retain(|grant| grant.workspace != account || grant.person != person);
                let edit = json!({"userId": user_id(person), "activeTokensForUser": 0});
                scene.tell("linear:oauth-authorization.revoked", facts, edit);
            }
            "add_team" | "remove_team" => {
                let team = self.teams(account).get_mut(index).ok_or("there is no such team")?;
                team.granted = act == "add_team";
                let facts = Facts { resource_id: team.id.clone(), ..facts };
                let kind = if team.granted {
                    "linear:permission-change.team-added"
                } else {
                    "linear:permission-change.team-removed"
                };
                scene.tell(kind, facts, Value::Null);
            }
            "rename_team" => {
                let name = details["name"].as_str().ok_or("`name` is missing")?;
                let team = self.teams(account).get_mut(index).ok_or("there is no such team")?;
                name.clone_into(&mut team.name);
            }
            _ => return Err(format!("nobody does `{act}` at Linear")),
        }
        Ok(json!({"organizationId": organization_id(account), "oauthClientId": OAUTH_CLIENT}))
    }

    fn facts(&self, account: u32, facts: Facts) -> Facts {
        let team = self.teams.get(&account).and_then(|teams| teams.first());
        Facts {
            resource_slug: team.map_or(facts.resource_slug, |team| team.key.clone()),
            resource_name: team.map_or(facts.resource_name, |team| team.name.clone()),
            ..facts
        }
    }

    fn restamp(draft: &mut Draft, now: EpochMs, _dice: &mut Dice) {
        draft.payload["webhookTimestamp"] = json!(now.0);
        for (name, value) in &mut draft.headers {
            if *name == "linear-timestamp" {
                *value = now.0.to_string();
            }
        }
    }
}

impl Linear {
    /// The teams of a workspace, to look at and to change; index 0 is the one that facts name.
    pub fn teams(&mut self, account: u32) -> &mut Vec<Team> {
        let count = self.knobs.teams;
        self.teams.entry(account).or_insert_with(|| {
            let facts = PROVIDER.facts(account, 0, EpochMs(0));
            let team = |index: u32| {
                if index == 0 {
                    let (id, key) = (facts.resource_id.clone(), facts.resource_slug.clone());
                    return Team { id, key, name: facts.resource_name.clone(), granted: true };
                }
                let id = format!("0c1d2e3f-{index:04x}-4a5b-8c6d-0c1d{account:08x}");
                Team { id, key: format!("T{index}"), name: format!("Team {index}"), granted: true }
            };
            (0..count).map(team).collect()
        })
    }

    /// How many grants live.
    pub fn live_grants(&self) -> usize {
        self.grants.len()
    }

    /// Facts of a new event of a workspace.
    pub(super) fn fresh_facts(&self, account: u32, scene: &mut Scene<'_>) -> Facts {
        let seed = scene.dice.bits();
        self.facts(account, PROVIDER.facts(account, seed, scene.now))
    }
}

/// A workspace's id.
fn organization_id(account: u32) -> String {
    PROVIDER.facts(account, 0, EpochMs(0)).external_id
}

/// A person's id; the first is who acts in events.
fn user_id(person: u32) -> String {
    if person == 1 { super::PERSON.to_owned() } else { format!("7d0f9b0a-2a52-4d77-8d6e-3f5c{person:08x}") }
}

#[cfg(test)]
mod tests;
