//! How a GitHub App is installed: the two pages people visit and every way they come back from them.
//!
//! **Invariants**: an `installation_id` of a URL is a claim, believed only once the person's own token lists it; that
//! token is forgotten afterwards. Protocol source: GitHub's "About the setup URL" and "Generating a user access token
//! for a GitHub App".

use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{
    GitHub,
    api::{Api, Id, Speaker, next_page_parameter},
};
use crate::{
    model::{clock::EpochMs, installation::InstallationStatus, provider::ExternalId, secret::Secret},
    providers::{
        ConnectorError,
        api_url::ApiUrl,
        connector::{Callback, Completion, Connected, Leg},
        oauth::{OAuthClient, check_callback, filled},
    },
};

/// What a second leg needs to know of the first, as its context names it.
const CONTEXT_INSTALLATION: &str = "installationId";
const CONTEXT_SETUP_ACTION: &str = "setupAction";

/// What GitHub calls a visit to the settings of an installation that was there.
const UPDATE: &str = "update";

const PAGE_SIZE: usize = 100;
/// Nobody sees more installations of one App than this many pages hold.
const MAX_PAGES: usize = 100;

/// The flow.
#[derive(Debug)]
pub(super) struct Flow {
    /// Below which the pages lie.
    pub web: ApiUrl,
    /// The App's name in URLs.
    pub app_slug: String,
    /// The App as an OAuth client, for the person's own token.
    pub oauth: OAuthClient,
}

#[derive(Debug, Deserialize)]
struct UserInstallations {
    total_count: Option<usize>,
    #[serde(default)]
    installations: Vec<UserInstallation>,
}

#[derive(Debug, Deserialize)]
struct UserInstallation {
    id: Id,
}

impl Flow {
    /// The page of a leg: to install the App, or, with the context of a first leg, to say who one is.
    pub fn authorize_url(&self, leg: &Leg<'_>) -> Result<Url, ConnectorError> {
        if leg.context.is_some() {
            return self.oauth.authorize_url(leg, &[]);
        }
        let mut url = self
            .web
            .below(["apps", &self.app_slug, "installations", "new"])
            .map_err(|_| ConnectorError::Malformed("our own app_slug"))?;
        url.query_pairs_mut().append_pair("state", leg.state);
        Ok(url)
    }

    /// What a callback leads to.
    pub async fn complete(&self, api: &Api, callback: &Callback<'_>) -> Result<Completion, ConnectorError> {
        check_callback(callback)?;
        let claim = Claim::read(callback)?;
        let Some(claim) = claim else { return Ok(Completion::AwaitsApproval { setup_action: "request" }) };
        let Some(code) = filled(callback.parameters, "code") else {
            // The page that says who one is answers with a code or an error.
            return if callback.context.is_some() {
                Err(ConnectorError::Refused("missing_code"))
            } else {
                Ok(Completion::Continue { context: claim.to_context() })
            };
        };
        // Only the second page was told where to return to.
        let redirect_uri = callback.context.map(|_| callback.redirect_uri);
        let person = self.oauth.exchange(code, redirect_uri, callback.pkce_verifier).await?;
        let id = get_own(api, &person.access, &claim.installation, callback.now).await?;
        let installation = match api.read_installation(&id, callback.now).await {
            // The person sees it, the App does not: it is an installation of another App.
            Err(ConnectorError::Gone) => return Err(ConnectorError::Refused("installation_not_verified")),
            outcome => outcome?,
        };
        let status =
            if installation.is_suspended() { InstallationStatus::Suspended } else { InstallationStatus::Active };
        Ok(Completion::Connected(Box::new(Connected {
            external_id: ExternalId::new(installation.id.0.clone()),
            alternate_external_id: None,
            account: installation.to_account(GitHub::SLUG, callback.now),
            status,
            token: None,
            setup_action: claim.setup_action,
            is_update: claim.setup_action == Some(UPDATE),
            follow: None,
        })))
    }
}

/// What a browser claims to have installed.
struct Claim {
    installation: String,
    setup_action: Option<&'static str>,
}

impl Claim {
    /// Reads it from the leg before or from the query; `None` if an owner has to approve first.
    fn read(callback: &Callback<'_>) -> Result<Option<Self>, ConnectorError> {
        let from_context = |name| callback.context.and_then(|context| context.get(name)).and_then(Value::as_str);
        let setup_action = match callback.context {
            Some(_) => from_context(CONTEXT_SETUP_ACTION),
            None => filled(callback.parameters, "setup_action"),
        };
        if callback.context.is_none() && setup_action == Some("request") {
            return Ok(None);
        }
        let installation = match callback.context {
            Some(_) => from_context(CONTEXT_INSTALLATION),
            None => filled(callback.parameters, "installation_id"),
        };
        let installation = installation.ok_or(ConnectorError::Refused("missing_installation_id"))?;
        if installation.len() > 20 || !installation.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ConnectorError::Refused("installation_not_verified"));
        }
        Ok(Some(Self { installation: installation.to_owned(), setup_action: known_setup_action(setup_action) }))
    }

    fn to_context(&self) -> Value {
        json!({ CONTEXT_INSTALLATION: self.installation, CONTEXT_SETUP_ACTION: self.setup_action })
    }
}

fn known_setup_action(word: Option<&str>) -> Option<&'static str> {
    ["install", UPDATE].into_iter().find(|known| Some(*known) == word)
}

/// The claimed installation's id, as the list of those that the person can see has it.
async fn get_own(api: &Api, token: &Secret, claimed: &str, now: EpochMs) -> Result<ExternalId, ConnectorError> {
    let mut seen = 0;
    for page in 1..=MAX_PAGES {
        let mut url = api.base.at("/user/installations");
        url.set_query(Some(&format!("per_page={PAGE_SIZE}&page={page}")));
        let reply = match api.get(url, Speaker::Holder(token, now)).await {
            // A token given a moment ago: whatever this is, it proves nothing.
            Err(ConnectorError::Unauthorized) => return Err(ConnectorError::Refused("installation_not_verified")),
            outcome => outcome?,
        };
        if !reply.is_success() {
            return Err(ConnectorError::Refused("installation_not_verified"));
        }
        let listed: UserInstallations = reply.json("the person's installations")?;
        seen += listed.installations.len();
        if let Some(own) = listed.installations.iter().find(|installation| installation.id.0 == claimed) {
            return Ok(ExternalId::new(own.id.0.clone()));
        }
        let is_counted_further = !listed.installations.is_empty() && listed.total_count.is_some_and(|all| seen < all);
        if next_page_parameter(&reply, "page").is_none() && !is_counted_further {
            break;
        }
    }
    Err(ConnectorError::Refused("installation_not_verified"))
}
