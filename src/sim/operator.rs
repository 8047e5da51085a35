//! The gateway's caller: a console or an operator's script with a service key, over the public API.
//!
//! **Owns** the few calls that put a gateway to work: connect or adopt an installation, subscribe a workspace, set a
//! destination.
//!
//! **Invariants.** An answer other than the one wanted is an error that shows it.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Facts, SimulatedProvider,
    browser::{Browser, BrowserError, Page},
    client::{Answer, Client, ClientError},
};

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No answer.
    #[error("{call}: {source}")]
    NoAnswer {
        /// Method and path.
        call: String,
        /// What happened instead.
        source: ClientError,
    },
    /// Not the answer wanted.
    #[error("{call} answered {status}: {body}")]
    Refused {
        /// Method and path.
        call: String,
        /// The status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The browser got lost.
    #[error(transparent)]
    Browser(#[from] BrowserError),
    /// The way through the provider did not end in a connection.
    #[error("connecting {provider} ended {status} at {url}")]
    NotConnected {
        /// Which provider.
        provider: &'static str,
        /// What the gateway says of it.
        status: Value,
        /// The last page.
        url: String,
    },
}

/// A connection made in a browser.
#[derive(Debug)]
pub struct Connecting {
    /// The connection's id.
    pub connection: String,
    /// The last page, and how it was reached.
    pub page: Page,
    /// What the gateway says of the flow.
    pub status: Value,
}

/// A caller with a service key, acting for one org.
#[derive(Debug)]
pub struct Operator {
    client: Client,
    service_key: String,
    org: String,
}

impl Operator {
    /// Acts for `org` at the gateway that listens on `address`.
    pub fn new(address: SocketAddr, service_key: &str, org: &str) -> Self {
        Self { client: Client::new(address), service_key: service_key.to_owned(), org: org.to_owned() }
    }

    /// The org it acts for.
    pub fn org(&self) -> &str {
        &self.org
    }

    /// Any call, with the key and the org; the answer whatever it is.
    ///
    /// # Errors
    /// [`OperatorError::NoAnswer`].
    pub async fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, OperatorError> {
        let mut headers = vec![("x-api-key", self.service_key.as_str()), ("x-org-id", self.org.as_str())];
        let body = body.map(Value::to_string);
        headers.extend(body.as_ref().map(|_| ("content-type", "application/json")));
        self.client
            .send(method, path, &headers, body.map(Bytes::from).unwrap_or_default())
            .await
            .map_err(|source| OperatorError::NoAnswer { call: format!("{method} {path}"), source })
    }

    /// Any call that should succeed: the JSON of its 2xx answer.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, OperatorError> {
        let answer = self.call(method, path, body).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.json());
        }
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        Err(OperatorError::Refused { call: format!("{method} {path}"), status: answer.status, body })
    }

    /// A call to an admin route for every org: the JSON of its answer.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn ask_for_all(&mut self, method: &str, path: &str) -> Result<Value, OperatorError> {
        let headers = [("x-api-key", self.service_key.as_str())];
        let call = format!("{method} {path}");
        let answer = self.client.send(method, path, &headers, Bytes::new()).await;
        let answer = answer.map_err(|source| OperatorError::NoAnswer { call: call.clone(), source })?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.json());
        }
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        Err(OperatorError::Refused { call, status: answer.status, body })
    }

    /// Begins to connect: the URL for a person's browser, and the state that names the flow. The way ends on a page of
    /// the gateway's own.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn begin_connecting(&mut self, provider: &SimulatedProvider) -> Result<(String, String), OperatorError> {
        let path = format!("/connections/{}/authorize?redirect_to=inline", provider.slug);
        let begun = self.ask("GET", &path, None).await?;
        Ok((text(&begun, &["/url"]), text(&begun, &["/state"])))
    }

    /// Connects a provider: asks for the URL, sends a browser on its way, looks how it ended.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn connect(
        &mut self,
        provider: &SimulatedProvider,
        browser: &mut Browser,
    ) -> Result<Connecting, OperatorError> {
        let (url, state) = self.begin_connecting(provider).await?;
        let page = browser.visit(&url).await?;
        let status = self.ask("GET", &format!("/connections/oauth/status?state={state}"), None).await?;
        if status["status"] != "completed" {
            let url = page.url.to_string();
            return Err(OperatorError::NotConnected { provider: provider.slug, status, url });
        }
        Ok(Connecting { connection: text(&status, &["/connectionId"]), page, status })
    }

    /// Adopts the installation of `facts`; answers the connection's id.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn adopt(&mut self, provider: &SimulatedProvider, facts: &Facts) -> Result<String, OperatorError> {
        let body = json!({"provider": provider.slug, "externalId": facts.external_id, "orgId": self.org,
            "connectedBy": "operator", "accountLogin": facts.account});
        let connection = self.ask("POST", "/admin/connections", Some(&body)).await?;
        Ok(text(&connection, &["/id", "/connection/id", "/connectionId"]))
    }

    /// Subscribes a workspace to the resource of `facts`, to `events` or the provider's defaults; answers the
    /// integration's id.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn subscribe(
        &mut self,
        workspace: &str,
        connection: &str,
        facts: &Facts,
        events: Option<&[&str]>,
    ) -> Result<String, OperatorError> {
        let mut body = json!({"connectionId": connection, "resources": [{"providerResourceId": facts.resource_id,
            "name": facts.resource_name, "slug": facts.resource_slug}]});
        if let Some(events) = events {
            body["events"] = json!(events);
        }
        let path = format!("/workspaces/{workspace}/integrations");
        let created = self.ask("POST", &path, Some(&body)).await?;
        Ok(text(&created, &["/integrations/0/id"]))
    }

    /// Sends the org's deliveries (or a workspace's, if one is named) to `url`; answers the signing secret, which is
    /// shown only now. Empty if the destination existed already.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn set_destination(&mut self, workspace: Option<&str>, url: &str) -> Result<String, OperatorError> {
        let path = workspace.map_or_else(
            || format!("/orgs/{}/destination", self.org),
            |workspace| format!("/workspaces/{workspace}/destination"),
        );
        let destination = self.ask("PUT", &path, Some(&json!({"url": url}))).await?;
        Ok(text(&destination, &["/secret", "/destination/secret"]))
    }
}

/// The first of these members that is text; empty if none is.
fn text(answer: &Value, pointers: &[&str]) -> String {
    pointers.iter().find_map(|pointer| answer.pointer(pointer)?.as_str()).unwrap_or_default().to_owned()
}
