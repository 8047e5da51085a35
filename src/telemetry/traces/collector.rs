//! The way to the collector: one POST of a batch of spans over HTTP or HTTPS.
//!
//! **Invariants**: every POST ends in time; certificates are checked against the machine's; the endpoint's URL, which may
//! hold a token in its path or query, is not repeated in errors. **Must not know** what is posted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Uri,
    header::{CONTENT_TYPE, USER_AGENT},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt as _;
use url::Url;

/// The longest time of one POST.
const POST_TIME: Duration = Duration::from_secs(5);
/// How long an unused connection is kept.
const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(30);
/// How much of an answer is read, bytes: only so that its connection can be used again.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// Where traces are posted, below the endpoint (OTLP 1.x, "OTLP/HTTP Request").
const TRACES_PATH: &str = "/v1/traces";

/// The way to the collector could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum CollectorUnavailable {
    /// No certificates, or none that can be read.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The endpoint is not a URL that can be requested.
    #[error("the endpoint cannot be requested: {0}")]
    Endpoint(#[from] hyper::http::uri::InvalidUri),
}

/// Why spans did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    /// It answered, and not with success.
    #[error("the collector answered {0}")]
    Status(u16),
    /// No connection, or it broke.
    #[error("the collector cannot be reached")]
    Connection,
    /// No answer in time.
    #[error("the collector does not answer")]
    TimedOut,
}

impl PostError {
    /// Whether the same spans may be welcome later (OTLP 1.x, "Retryable Response Codes").
    pub fn passes(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 429 | 502 | 503 | 504),
            Self::Connection | Self::TimedOut => true,
        }
    }
}

/// The collector's client.
pub(super) struct Collector {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    traces: Uri,
}

impl Collector {
    pub fn new(endpoint: &Url) -> Result<Self, CollectorUnavailable> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let tls = if endpoint.scheme() == "https" {
            tls.with_platform_verifier()?.with_no_client_auth()
        } else {
            // Not used, and must not fail on a machine without certificates.
            tls.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
        };
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION_TIME)
            .build(connector);
        Ok(Self { http, traces: traces_url(endpoint).as_str().parse()? })
    }

    pub async fn post(&self, body: Bytes) -> Result<(), PostError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.traces.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
        let agent = concat!("Signalbox/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, hyper::header::HeaderValue::from_static(agent));
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|_error| PostError::Connection)?;
            let status = answer.status();
            // The status decides, however its body goes.
            drop(Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await);
            if status.is_success() { Ok(()) } else { Err(PostError::Status(status.as_u16())) }
        };
        tokio::time::timeout(POST_TIME, exchange).await.unwrap_or(Err(PostError::TimedOut))
    }
}

/// The endpoint is a base, as in `OTEL_EXPORTER_OTLP_ENDPOINT`; one that names the whole path is taken at its word.
fn traces_url(endpoint: &Url) -> Url {
    let mut url = endpoint.clone();
    let base = url.path().trim_end_matches('/');
    if !base.ends_with(TRACES_PATH) {
        let path = format!("{base}{TRACES_PATH}");
        url.set_path(&path);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_a_base_to_which_the_path_is_appended_once() {
        for (endpoint, expected) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces"),
            ("https://otlp.example.com/tenant/", "https://otlp.example.com/tenant/v1/traces"),
            ("http://localhost:4318/v1/traces", "http://localhost:4318/v1/traces"),
            ("https://otlp.example.com/?token=t", "https://otlp.example.com/v1/traces?token=t"),
        ] {
            assert_eq!(traces_url(&endpoint.parse().expect("a URL")).as_str(), expected);
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert!(PostError::Connection.passes() && PostError::TimedOut.passes() && PostError::Status(503).passes());
        assert!(!PostError::Status(400).passes() && !PostError::Status(404).passes());
    }
}
