//! The gateway as `listen` sees it: an org's stream of events, and what an event's deliveries carry.
//!
//! **Invariants**: the key goes to the gateway's own origin and nowhere else, redirects are not followed; a failure says
//! whether it passes by itself or somebody has to do something.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use reqwest::{
    Client, ClientBuilder, Response,
    header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LOCATION, USER_AGENT},
    redirect::Policy,
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;
use url::Url;

use super::sse::{Frame, Frames};
use crate::model::{
    clock::{Clock as _, EpochMs, SystemClock},
    event::EventKey,
    ids::{DeliveryId, EventId, InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
    provider::ProviderDeliveryId,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time of a read, its answer included; payloads may be large.
const READ_TIME: Duration = Duration::from_mins(1);
/// A stream that is silent for so long is dead: the gateway says every 15 seconds that it lives.
const SILENCE: Duration = Duration::from_secs(45);

/// Why the gateway cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum GatewayError {
    /// It passes by itself.
    #[error("{0}")]
    Passing(String),
    /// Somebody has to do something.
    #[error("{0}")]
    Final(String),
}

/// An event as the stream and `GET /events/{id}` show it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventShown {
    pub id: EventId,
    pub provider: String,
    /// The provider's id of the webhook.
    pub delivery_id: ProviderDeliveryId,
    pub event_type: String,
    pub event_key: Option<EventKey>,
    pub connection_id: Option<InstallationId>,
    pub org_id: Option<OrgId>,
    pub outcome: String,
    pub reason: Option<String>,
    pub received_at: String,
    pub correlation_id: String,
    /// Absent in the stream.
    #[serde(default)]
    pub deliveries: Vec<DeliveryShown>,
}

/// A delivery of an event.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeliveryShown {
    pub id: DeliveryId,
    pub integration_id: IntegrationId,
    pub workspace_id: WorkspaceId,
    pub resource_id: ResourceId,
    pub status: String,
}

/// A payload's bytes and what they are.
#[derive(Debug)]
pub(super) struct Payload {
    pub content_type: Option<String>,
    pub bytes: Bytes,
}

/// A caller of one gateway.
pub(super) struct Gateway {
    http: Client,
    base: Url,
    headers: HeaderMap,
}

impl Gateway {
    /// A caller with this key, for this org if one is named.
    pub fn new(base: Url, key: &str, org: Option<&str>) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        let mut key = HeaderValue::from_str(key).ok().context("the API key cannot be a header's value")?;
        key.set_sensitive(true);
        headers.insert("x-api-key", key);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("Signalbox/", env!("CARGO_PKG_VERSION"))));
        if let Some(org) = org {
            headers.insert("x-org-id", HeaderValue::from_str(org).context("--org is no org's id")?);
        }
        let http = builder(&base)
            .build()
            // A machine without root certificates still reaches gateways over http.
            .or_else(|_| builder(&base).tls_certs_only([]).build())
            .context("the HTTP client cannot be set up")?;
        Ok(Self { http, base, headers })
    }

    /// The gateway's address, as it was given.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Follows the stream: after this event, or from now on.
    pub async fn follow(&self, after: Option<EventId>) -> Result<Following, GatewayError> {
        let mut request = self.http.get(self.at("/events/stream")?).headers(self.headers.clone());
        request = request.header(ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("last-event-id", after.as_str());
        }
        let answer = timeout(SILENCE, request.send()).await.map_err(|_| passing("it does not answer"))?;
        let response = self.accepted(answer).await?;
        let is_stream = (response.headers().get(CONTENT_TYPE).and_then(|text| text.to_str().ok()))
            .is_some_and(|text| text.starts_with("text/event-stream"));
        if !is_stream {
            return Err(GatewayError::Final(format!("{} is not a Signalbox gateway", self.base)));
        }
        let since = date_of(&response).unwrap_or_else(|| SystemClock.now());
        Ok(Following { response, frames: Frames::default(), since })
    }

    /// An event with its deliveries; `None` if it is gone.
    pub async fn event(&self, id: &EventId) -> Result<Option<EventShown>, GatewayError> {
        let Some(response) = self.read(&format!("/events/{id}")).await? else { return Ok(None) };
        let body = response.bytes().await.map_err(|error| passing(&said(&error)))?;
        read_json(&body).map(Some)
    }

    /// An event's bytes as they came; `None` if they are gone.
    pub async fn payload(&self, id: &EventId) -> Result<Option<Payload>, GatewayError> {
        let Some(response) = self.read(&format!("/events/{id}/payload")).await? else { return Ok(None) };
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|text| text.to_str().ok()).map(str::to_owned);
        let bytes = response.bytes().await.map_err(|error| passing(&said(&error)))?;
        Ok(Some(Payload { content_type, bytes }))
    }

    async fn read(&self, path: &str) -> Result<Option<Response>, GatewayError> {
        let request = self.http.get(self.at(path)?).headers(self.headers.clone()).timeout(READ_TIME);
        let answer = request.send().await;
        if matches!(&answer, Ok(response) if response.status().as_u16() == 404) {
            return Ok(None);
        }
        self.accepted(answer).await.map(Some)
    }

    /// A path below the gateway's own.
    fn at(&self, path: &str) -> Result<Url, GatewayError> {
        let base = self.base.as_str().trim_end_matches('/');
        format!("{base}{path}").parse().map_err(|_| GatewayError::Final(format!("{} is no base of URLs", self.base)))
    }

    /// The answer if it is a success, else what its failure means.
    async fn accepted(&self, answer: reqwest::Result<Response>) -> Result<Response, GatewayError> {
        let response = answer.map_err(|error| passing(&said(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("another address");
            return Err(GatewayError::Final(format!("{} sends on to {to}: give the address it has now", self.base)));
        }
        let status = status.as_u16();
        if status >= 500 || matches!(status, 408 | 425 | 429) {
            return Err(passing(&format!("it answers {status}")));
        }
        let problem = response.bytes().await.unwrap_or_default();
        let problem: ProblemShown = serde_json::from_slice(&problem).unwrap_or_default();
        Err(GatewayError::Final(meaning_of(status, &problem)))
    }
}

/// What of a problem document is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProblemShown {
    error: String,
    title: String,
}

/// A refusal in words that say what to do.
fn meaning_of(status: u16, problem: &ProblemShown) -> String {
    match problem.error.as_str() {
        "unauthorized" => "the gateway does not accept the API key: it is wrong or revoked. \
                           `signalbox keys create --name listen --scope read --org ORG` makes one"
            .to_owned(),
        "missing_org_id" => "the API key is a service key, for any org: say which with --org".to_owned(),
        "invalid_org_id" => "--org is no org's id".to_owned(),
        "forbidden" => "the API key is bound to another org than --org says".to_owned(),
        "" => format!("{status} is no answer of a Signalbox gateway: is the address right?"),
        code => format!("the gateway refuses: {} ({status} {code})", problem.title),
    }
}

fn builder(base: &Url) -> ClientBuilder {
    let builder = Client::builder().redirect(Policy::none()).referer(false).connect_timeout(CONNECT_TIMEOUT);
    let is_here = match base.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    // A gateway elsewhere may be behind the proxy that the environment names; one on this machine is not.
    if is_here { builder.no_proxy() } else { builder }
}

fn passing(why: &str) -> GatewayError {
    GatewayError::Passing(why.to_owned())
}

/// An error of the HTTP library without the URL, which we say ourselves.
fn said(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "it does not answer".to_owned()
    } else if error.is_connect() {
        "it cannot be reached".to_owned()
    } else {
        "the connection broke".to_owned()
    }
}

fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, GatewayError> {
    serde_json::from_slice(bytes)
        .map_err(|error| GatewayError::Final(format!("the gateway is of another version: {error}")))
}

/// The gateway's clock.
fn date_of(response: &Response) -> Option<EpochMs> {
    let text = response.headers().get(DATE)?.to_str().ok()?;
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(EpochMs(at.as_millisecond()))
}

/// A stream being followed.
pub(super) struct Following {
    response: Response,
    frames: Frames,
    /// The gateway's time when it began.
    pub since: EpochMs,
}

impl Following {
    /// The next events; none of them if the stream only said that it lives.
    pub async fn next(&mut self) -> Result<Vec<EventShown>, GatewayError> {
        let chunk = timeout(SILENCE, self.response.chunk()).await.map_err(|_| passing("its stream fell silent"))?;
        let chunk = chunk.map_err(|_| passing("its stream broke"))?.ok_or_else(|| passing("its stream ended"))?;
        let frames = self.frames.push(&chunk).map_err(|error| GatewayError::Final(error.to_string()))?;
        frames.iter().map(|Frame { data, .. }| read_json(data.as_bytes())).collect()
    }
}
