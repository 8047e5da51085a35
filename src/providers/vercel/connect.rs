//! Vercel's asking half: connecting, the life of its token, ending the grant.
//!
//! **Owns** what is Vercel's alone about its API. **Invariants**: the installation is the one the token answer names, and
//! a callback that names another is refused; every call about a team names the team; a token neither expires nor is
//! refreshed, so it is asked for at the provider whether the configuration still lives. Protocol source: Vercel's
//! integration and REST reference. Quirk worth knowing: there is no call to revoke a token; deleting the configuration is
//! the uninstall. **Must not know** the store, actors or routes.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::Vercel;
use crate::{
    model::{clock::EpochMs, installation::InstallationStatus, provider::ExternalId, secret::Secret},
    providers::{
        Connector, ConnectorError, ConnectorSettingError, ConnectorSettings, HttpClient, answers,
        api_url::{ApiUrl, encode_segment},
        connector::{
            Account, Callback, Completion, Connected, EndOf, Ended, FreshToken, Grant, HeldToken, Leg, ProxyAnswer,
            ProxyCall, ProxyEndpoint, ResourcePage,
        },
        facts::{self, facts},
        http::{Call, Reply},
        oauth::{callback_code, filled},
        proxy,
    },
};

/// Where the pages are that Vercel sends a browser to.
const VERCEL: &str = "https://vercel.com";
/// Why Vercel refuses every call of a configuration that its account has disabled.
const DISABLED: &str = "integration_configuration_disabled";

/// When a used-up rate limit is fresh again, epoch seconds.
const RESET_HEADER: &str = "x-ratelimit-reset";

impl Vercel {
    /// Its connector.
    pub(in crate::providers) fn connect(
        settings: &ConnectorSettings,
        http: &HttpClient,
    ) -> Result<Arc<dyn Connector>, ConnectorSettingError> {
        let mistake = |setting, problem| ConnectorSettingError::new(Self::SLUG, setting, problem);
        let web_url = settings.url(Self::SLUG, "web_url")?;
        let install_page = web_url
            .below(["integrations", settings.text(Self::SLUG, "integration_slug")?, "new"])
            .map_err(|_| mistake("integration_slug", "cannot be part of a URL"))?;
        let follows_next = match settings.texts.get("follow_next").map(String::as_str) {
            None | Some("true") => true,
            Some("false") => false,
            Some(_) => return Err(mistake("follow_next", "must be true or false")),
        };
        Ok(Arc::new(VercelConnector {
            http: http.clone(),
            install_page,
            web_url,
            api_url: settings.url(Self::SLUG, "api_url")?,
            client_id: settings.text(Self::SLUG, "client_id")?.to_owned(),
            client_secret: settings.secret(Self::SLUG, "client_secret")?.clone(),
            follows_next,
        }))
    }
}

/// Vercel's API, asked by us.
pub(super) struct VercelConnector {
    pub(super) http: HttpClient,
    install_page: Url,
    web_url: ApiUrl,
    pub(super) api_url: ApiUrl,
    client_id: String,
    client_secret: Secret,
    follows_next: bool,
}

/// The answer of the token endpoint.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    token_type: Option<String>,
    installation_id: String,
    user_id: Option<String>,
    team_id: Option<String>,
}

/// What of a configuration concerns us.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    user_id: Option<String>,
    project_selection: Option<String>,
    scopes: Option<Vec<String>>,
    disabled_at: Option<Value>,
    disabled_reason: Option<String>,
    deleted_at: Option<Value>,
}

#[derive(Deserialize)]
struct Team {
    slug: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct User {
    username: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct UserAnswer {
    user: User,
}

/// Whose account it is, and under what name.
#[derive(Default)]
struct Owner {
    login: Option<String>,
    name: Option<String>,
}

impl VercelConnector {
    /// A call about an account.
    pub(super) fn about(&self, method: &str, path: &str, account: &ExternalId, query: &[(&str, &str)]) -> Call {
        let mut url = self.api_url.at(path);
        let team = team_of(account);
        if team.is_some() || !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query).extend_pairs(team.map(|team| ("teamId", team)));
        }
        Call::new(method, url)
    }

    fn configuration_call(
        &self,
        method: &str,
        account: &ExternalId,
        configuration: &ExternalId,
    ) -> Result<Call, ConnectorError> {
        let id = encode_segment(configuration.as_str()).map_err(|_| ConnectorError::Malformed("a configuration id"))?;
        Ok(self.about(method, &format!("/v1/integrations/configuration/{id}"), account, &[]))
    }

    /// Reads the configuration: the word on whether the grant lives. A 403 or 404 here says that it was removed.
    async fn read_configuration(
        &self,
        account: &ExternalId,
        configuration: &ExternalId,
        access: &Secret,
        now: EpochMs,
    ) -> Result<Configuration, ConnectorError> {
        let call = self.configuration_call("GET", account, configuration)?.bearer(access);
        let reply = answers::ask(&self.http, call).await?;
        if !reply.is_success() {
            return Err(match refusal(&reply, now) {
                ConnectorError::NotAccessible => ConnectorError::Gone,
                other => other,
            });
        }
        let read: Configuration = reply.json("a configuration")?;
        if is_set(read.deleted_at.as_ref()) { Err(ConnectorError::Gone) } else { Ok(read) }
    }

    /// The account's name; a token may not be allowed to read it.
    async fn read_owner(&self, account: &ExternalId, access: &Secret, now: EpochMs) -> Result<Owner, ConnectorError> {
        let Some(team) = team_of(account) else {
            let reply = self.get("/v2/user", account, access, now).await?;
            let UserAnswer { user } = reply.json("a user")?;
            return Ok(Owner { login: user.username, name: user.name });
        };
        let id = encode_segment(team).map_err(|_| ConnectorError::Malformed("a team id"))?;
        let reply = self.get(&format!("/v2/teams/{id}"), account, access, now).await?;
        let team: Team = reply.json("a team")?;
        Ok(Owner { login: team.slug, name: team.name })
    }

    async fn get(
        &self,
        path: &str,
        account: &ExternalId,
        access: &Secret,
        now: EpochMs,
    ) -> Result<Reply, ConnectorError> {
        let reply = answers::ask(&self.http, self.about("GET", path, account, &[]).bearer(access)).await?;
        if reply.is_success() { Ok(reply) } else { Err(refusal(&reply, now)) }
    }

    /// What is told about an account beside its life: best effort.
    async fn describe(
        &self,
        of: &Described<'_>,
        configuration: Option<&Configuration>,
        access: &Secret,
        now: EpochMs,
    ) -> Account {
        let owner = self.read_owner(of.account, access, now).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the account's name cannot be read");
            Owner::default()
        });
        let read = configuration;
        let person = of.person.or_else(|| read.and_then(|read| read.user_id.as_deref()));
        let selection = read.and_then(|read| read.project_selection.clone());
        let scopes = read.and_then(|read| read.scopes.clone()).unwrap_or_default();
        let metadata = facts([
            ("providerUserId", facts::text(person)),
            ("accountName", facts::text(owner.name)),
            ("projectSelection", facts::text(selection.clone())),
            ("scopes", facts::list(scopes.clone())),
            ("disabledReason", facts::text(read.and_then(|read| read.disabled_reason.clone()))),
        ]);
        let team = team_of(of.account);
        let info = facts([
            ("version", Some(1.into())),
            ("sourceType", facts::text(Some(Vercel::SLUG.as_str()))),
            ("userId", facts::text(person)),
            ("teamId", facts::text(team)),
            ("teamSlug", facts::text(owner.login.clone().filter(|_| team.is_some()))),
            ("configurationId", facts::text(of.configuration.map(ExternalId::as_str))),
            ("projectSelection", facts::text(selection)),
            ("scopes", facts::list(scopes)),
            (
                "raw",
                Some(json!({"token_type": of.token_type, "installation_id": of.configuration.map(ExternalId::as_str),
                    "user_id": person, "team_id": team})),
            ),
        ]);
        Account {
            login: owner.login,
            metadata,
            info: Value::Object(info),
            suspended: configuration.is_some_and(Configuration::is_disabled),
        }
    }

    /// The page Vercel wants the browser on next, if we follow and it is a page of Vercel's, or of what stands in for it.
    fn page_to_follow(&self, callback: &Callback<'_>) -> Option<Url> {
        let next = filled(callback.parameters, "next").filter(|_| self.follows_next)?;
        let places = [ApiUrl::parse(VERCEL), Some(self.web_url.clone())];
        let is_vercels = |next: &Url| places.iter().flatten().any(|place| place.is_same_host(next));
        let next = Url::parse(next).ok().filter(is_vercels);
        if next.is_none() {
            tracing::warn!("a callback named a next page that is not the provider's; it is not followed");
        }
        next
    }
}

/// Of what an [`Account`] is made, beside what is read for it.
struct Described<'a> {
    account: &'a ExternalId,
    configuration: Option<&'a ExternalId>,
    person: Option<&'a str>,
    token_type: Option<&'a str>,
}

impl<'a> Described<'a> {
    fn of(grant: &'a Grant) -> Self {
        Self {
            account: &grant.external_id,
            configuration: grant.alternate_external_id.as_ref(),
            person: grant.metadata.get("providerUserId").and_then(Value::as_str),
            token_type: Some("Bearer"),
        }
    }
}

impl Configuration {
    fn is_disabled(&self) -> bool {
        is_set(self.disabled_at.as_ref())
    }
}

/// Whether a time is there: absent, `null` and 0 are not.
fn is_set(time: Option<&Value>) -> bool {
    time.is_some_and(|time| !time.is_null() && time.as_u64() != Some(0))
}

/// The team behind an account; `None` for a person's own.
pub(super) fn team_of(account: &ExternalId) -> Option<&str> {
    Some(account.as_str()).filter(|id| id.starts_with("team_"))
}

#[async_trait]
impl Connector for VercelConnector {
    fn uses_pkce(&self, _context: Option<&Value>) -> bool {
        false
    }

    fn authorize_url(&self, leg: &Leg<'_>) -> Result<Url, ConnectorError> {
        let mut url = self.install_page.clone();
        url.query_pairs_mut().append_pair("state", leg.state);
        Ok(url)
    }

    async fn complete(&self, callback: &Callback<'_>) -> Result<Completion, ConnectorError> {
        let code = callback_code(callback)?;
        let fields = [
            ("client_id", self.client_id.as_str()),
            ("client_secret", self.client_secret.expose_str().unwrap_or_default()),
            ("code", code),
            ("redirect_uri", callback.redirect_uri),
        ];
        let call = Call::new("POST", self.api_url.at("/v2/oauth/access_token")).form(&fields);
        let reply = self.http.send(call).await?;
        if !reply.is_success() {
            return Err(exchange_refusal(&reply, callback.now));
        }
        let answer: TokenAnswer = reply.json("the answer to a code")?;
        let access = Secret::new(answer.access_token).ok_or(ConnectorError::Malformed("an empty access token"))?;
        if answer.installation_id.is_empty() {
            return Err(ConnectorError::Malformed("an empty installation id"));
        }
        // The browser's word is only ever compared: a code of one installation beside the id of another is a trick.
        if filled(callback.parameters, "configurationId").is_some_and(|claimed| claimed != answer.installation_id) {
            return Err(ConnectorError::Refused("installation_not_verified"));
        }
        let given = |id: Option<String>| id.filter(|id| !id.is_empty());
        let person = given(answer.user_id);
        let account = given(answer.team_id).or_else(|| person.clone());
        let external_id = ExternalId::new(account.ok_or(ConnectorError::Malformed("a token answer without account"))?);
        let configuration_id = ExternalId::new(answer.installation_id);
        let described = Described {
            account: &external_id,
            configuration: Some(&configuration_id),
            person: person.as_deref(),
            token_type: answer.token_type.as_deref(),
        };
        // The token answer proves the grant; what else can be read may be read later.
        let read = self.read_configuration(&external_id, &configuration_id, &access, callback.now).await;
        if let Err(error) = &read {
            tracing::debug!(%error, "the configuration cannot be read yet");
        }
        let account = self.describe(&described, read.ok().as_ref(), &access, callback.now).await;
        Ok(Completion::Connected(Box::new(Connected {
            external_id: external_id.clone(),
            alternate_external_id: Some(configuration_id.clone()),
            account,
            status: InstallationStatus::Active,
            token: Some(FreshToken {
                access,
                refresh: None,
                token_type: answer.token_type,
                scope: None,
                expires_at: None,
                refresh_expires_at: None,
            }),
            setup_action: None,
            is_update: false,
            follow: self.page_to_follow(callback),
        })))
    }

    async fn renew_token(&self, grant: &Grant, held: Option<&HeldToken>) -> Result<FreshToken, ConnectorError> {
        let held = held.ok_or(ConnectorError::Rejected)?;
        match self.confirm(grant, &held.access).await {
            Ok(()) => Ok(FreshToken {
                access: held.access.clone(),
                refresh: None,
                token_type: Some("Bearer".into()),
                scope: None,
                expires_at: None,
                refresh_expires_at: None,
            }),
            // Nothing brings such a token back to life.
            Err(ConnectorError::Unauthorized) => Err(ConnectorError::Rejected),
            Err(error) => Err(error),
        }
    }

    async fn read_account(&self, grant: &Grant, access: &Secret) -> Result<Account, ConnectorError> {
        let described = Described::of(grant);
        let Some(configuration_id) = described.configuration else {
            self.confirm(grant, access).await?;
            return Ok(self.describe(&described, None, access, grant.now).await);
        };
        let read = self.read_configuration(described.account, configuration_id, access, grant.now).await?;
        Ok(self.describe(&described, Some(&read), access, grant.now).await)
    }

    /// An account may have had one configuration after the other.
    fn end_of(&self, grant: &Grant) -> EndOf {
        EndOf::Installation(grant.alternate_external_id.as_ref().unwrap_or(&grant.external_id).clone())
    }

    async fn end_grant(&self, grant: &Grant, held: Option<&HeldToken>) -> Result<Ended, ConnectorError> {
        let Some(held) = held else { return Ok(Ended::NotPossible("no_token")) };
        let Some(configuration) = &grant.alternate_external_id else {
            return Ok(Ended::NotPossible("unknown_configuration"));
        };
        let call = self.configuration_call("DELETE", &grant.external_id, configuration)?.bearer(&held.access);
        let reply = answers::ask(&self.http, call).await?;
        if reply.is_success() {
            return Ok(Ended::Revoked);
        }
        match refusal(&reply, grant.now) {
            ConnectorError::NotAccessible => Ok(Ended::AlreadyGone),
            // A paused configuration answers to nothing; people have to remove it there.
            ConnectorError::Suspended => Ok(Ended::NotPossible("configuration_disabled")),
            // The token dies with the configuration, but not only with it.
            ConnectorError::Unauthorized => Ok(Ended::NotPossible("token_not_accepted")),
            error => Err(error),
        }
    }

    async fn list_resources(
        &self,
        grant: &Grant,
        access: &Secret,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, ConnectorError> {
        match self.list_projects(grant, access, cursor).await {
            // Vercel answers 403 to a token of a removed configuration too: the configuration itself tells.
            Err(ConnectorError::NotAccessible) => {
                self.confirm(grant, access).await?;
                Err(ConnectorError::NotAccessible)
            }
            listed => listed,
        }
    }

    fn proxy_endpoints(&self) -> &'static [ProxyEndpoint] {
        super::projects::PROXY_ENDPOINTS
    }

    async fn call(&self, grant: &Grant, access: &Secret, call: &ProxyCall) -> Result<ProxyAnswer, ConnectorError> {
        // Whose data it is about is not the caller's to say.
        let mut call = call.clone();
        call.query.retain(|(name, _)| name != "teamId" && name != "slug");
        call.query.extend(team_of(&grant.external_id).map(|team| ("teamId".to_owned(), team.to_owned())));
        proxy::call(&self.http, &self.api_url, &call, |request| request.bearer(access)).await
    }
}

impl VercelConnector {
    /// Whether the grant lives. Of an adopted installation nobody may know the configuration: then the account answers.
    async fn confirm(&self, grant: &Grant, access: &Secret) -> Result<(), ConnectorError> {
        let Some(configuration) = &grant.alternate_external_id else {
            return self.read_owner(&grant.external_id, access, grant.now).await.map(drop);
        };
        let read = self.read_configuration(&grant.external_id, configuration, access, grant.now).await?;
        if read.is_disabled() { Err(ConnectorError::Suspended) } else { Ok(()) }
    }
}

/// What an answer that is not a success says. Every call with the token of a disabled configuration is a 403 with a code of
/// its own: the grant is paused, not gone.
pub(super) fn refusal(reply: &Reply, now: EpochMs) -> ConnectorError {
    let is_disabled = || reply.json::<Value>("a refusal").is_ok_and(|told| told["error"]["code"] == DISABLED);
    if reply.status == 403 && is_disabled() {
        return ConnectorError::Suspended;
    }
    answers::refusal(reply, RESET_HEADER, now)
}

/// Why a code was not exchanged, in our words.
fn exchange_refusal(reply: &Reply, now: EpochMs) -> ConnectorError {
    #[derive(Deserialize)]
    struct Refusal {
        error: Value,
    }
    if let Some(error) = answers::unavailable(reply, || reply.wait_until_reset(RESET_HEADER, now)) {
        return error;
    }
    let told = reply.json::<Refusal>("a refusal").ok().map(|refusal| refusal.error);
    let is_code = told.is_some_and(|error| error == "invalid_grant" || error["code"] == "invalid_grant");
    if is_code {
        return ConnectorError::Refused("invalid_code");
    }
    tracing::warn!(status = reply.status, "the provider refused to exchange a code");
    ConnectorError::Refused("provider_error")
}
