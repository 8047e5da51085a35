//! A small HTTP/1.1 client that keeps one connection open: what a provider, an operator's script or a load generator
//! uses to talk to the gateway.
//!
//! **Invariants.** One request at a time; a broken connection is reported for the request it broke and replaced for
//! the next one. Nothing is resent by itself: whether a lost request counted is the caller's question to ask.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::SignedRequest;
use crate::model::webhook::Headers;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection could not be made.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// The method, path or a header cannot be sent.
    #[error("the request cannot be built: {0}")]
    Request(#[from] hyper::http::Error),
    /// The connection broke before the answer was complete.
    #[error("no answer: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer took longer than the client's limit.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `Null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A client of one address.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    limit: Duration,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of `address`; connects with the first request. An answer may take up to 30 s.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, limit: Duration::from_secs(30), connection: None }
    }

    /// The same with another time limit per request.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends a request and reads the whole answer. `path` includes the query.
    ///
    /// # Errors
    /// [`ClientError`]: then nothing is known of what the other side did with it.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let mut request =
            Request::builder().method(Method::from_bytes(method.as_bytes()).map_err(hyper::http::Error::from)?);
        request = request.uri(path).header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let limit = self.limit;
        let answer = tokio::time::timeout(limit, self.exchange(request)).await;
        // A connection is worth keeping only after a complete answer.
        if !matches!(answer, Ok(Ok(_))) {
            self.connection = None;
        }
        answer.unwrap_or(Err(ClientError::TimedOut(limit)))
    }

    /// Posts a signed webhook as its provider would.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post_webhook(&mut self, provider: &str, webhook: &SignedRequest) -> Result<Answer, ClientError> {
        let headers: Vec<(&str, &str)> = webhook.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.send("POST", &format!("/webhooks/{provider}"), &headers, webhook.body.clone()).await
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
        let kept = match self.connection.take() {
            Some(mut open) => open.ready().await.is_ok().then_some(open),
            None => None,
        };
        let mut connection = match kept {
            Some(open) => open,
            None => self.connect().await?,
        };
        let response = connection.send_request(request).await?;
        let (head, body) = response.into_parts();
        let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let answer = Answer { status: head.status.as_u16(), headers, body: body.collect().await?.to_bytes() };
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let refused = |error| ClientError::Connect(self.address, error);
        let stream = TcpStream::connect(self.address).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Its end is seen by the sender, which reports it with the request it concerns.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a simulator's connection ended");
            }
        });
        Ok(sender)
    }
}
