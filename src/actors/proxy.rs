//! The proxy: allow-listed calls of a provider's API with an installation's token.
//!
//! **Invariants**: only an endpoint of the connector's own list is called, below its own base; a path parameter is one
//! segment; a call has its time; cookies and hop-by-hop headers end here. **Must not know** any endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::FutureExt;
use serde_json::Value;

use super::{AskError, directory::Directory, provider_calls::ProviderCallError};
use crate::{
    model::{ids::InstallationId, provider::ProviderSlug},
    providers::connector::{ProxyAnswer, ProxyCall, ProxyEndpoint},
};

/// How long a call may take in all, a renewed token included.
const TIME: Duration = Duration::from_secs(30);
/// The largest answer passed on, bytes of JSON.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Headers between two neighbours on the way (RFC 9110, 7.6.1), and cookies, which are the provider's with us.
const STRIPPED: [&str; 12] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "set-cookie",
    "set-cookie2",
];

/// What a caller of the proxy asks for.
#[derive(Debug, Clone, Default)]
pub struct ProxyRequest {
    /// Which endpoint.
    pub endpoint_id: String,
    /// Its path parameters.
    pub path_parameters: BTreeMap<String, String>,
    /// The query.
    pub query: Vec<(String, String)>,
    /// A JSON body.
    pub body: Option<Value>,
}

/// Why a request to the proxy was not made, or gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The provider could not be asked.
    #[error(transparent)]
    Call(#[from] ProviderCallError),
    /// No such endpoint.
    #[error("there is no such endpoint")]
    UnknownEndpoint,
    /// The path has parameters that were not given.
    #[error("path parameters are missing")]
    MissingParameters(Vec<String>),
    /// Parameters were given that the path does not have.
    #[error("path parameters are unknown")]
    UnknownParameters(Vec<String>),
    /// A parameter would not stay within its segment.
    #[error("path parameters cannot be a segment")]
    UnusableParameters(Vec<String>),
}

impl Directory {
    /// The endpoints that the proxy may call at a provider.
    pub fn proxy_endpoints(&self, provider: ProviderSlug) -> Result<&'static [ProxyEndpoint], ProviderCallError> {
        Ok(self.connector_of(provider)?.proxy_endpoints())
    }

    /// Makes one call with an installation's token.
    pub async fn execute_proxy(
        &self,
        id: &InstallationId,
        provider: ProviderSlug,
        request: ProxyRequest,
    ) -> Result<ProxyAnswer, AskError<ProxyError>> {
        let endpoints = self.proxy_endpoints(provider).map_err(|error| AskError::Reply(error.into()))?;
        let call = plan(endpoints, request).map_err(AskError::Reply)?;
        let asked = self.ask_provider(id, move |connector, grant, token| {
            let call = call.clone();
            async move { connector.call(&grant, &token.access, &call).await }.boxed()
        });
        let mut answer = match tokio::time::timeout(TIME, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(AskError::Reply(error))) => return Err(AskError::Reply(error.into())),
            Ok(Err(AskError::Busy)) => return Err(AskError::Busy),
            Ok(Err(AskError::Gone)) => return Err(AskError::Gone),
            Ok(Err(AskError::TimedOut)) => return Err(AskError::TimedOut),
            Err(_elapsed) => return Err(unavailable("no answer within the time limit")),
        };
        if answer.data.to_string().len() > MAX_ANSWER_BYTES {
            return Err(unavailable("the answer is too large"));
        }
        strip(&mut answer.headers);
        Ok(answer)
    }
}

fn unavailable(why: &str) -> AskError<ProxyError> {
    AskError::Reply(ProviderCallError::ProviderUnavailable(why.to_owned()).into())
}

/// The call that a request amounts to.
fn plan(endpoints: &'static [ProxyEndpoint], request: ProxyRequest) -> Result<ProxyCall, ProxyError> {
    let endpoint =
        endpoints.iter().find(|endpoint| endpoint.id == request.endpoint_id).ok_or(ProxyError::UnknownEndpoint)?;
    let expected = parameters_of(endpoint.path);
    let given = &request.path_parameters;
    let missing: Vec<_> =
        expected.iter().filter(|name| !given.contains_key(**name)).map(|name| (*name).to_owned()).collect();
    if !missing.is_empty() {
        return Err(ProxyError::MissingParameters(missing));
    }
    let unknown: Vec<_> = given.keys().filter(|name| !expected.contains(name.as_str())).cloned().collect();
    if !unknown.is_empty() {
        return Err(ProxyError::UnknownParameters(unknown));
    }
    // Encoding does not help against these: a URL with them is another URL.
    let unusable: Vec<_> = given
        .iter()
        .filter(|(_, value)| value.is_empty() || matches!(value.as_str(), "." | ".."))
        .map(|(name, _)| name.clone())
        .collect();
    if !unusable.is_empty() {
        return Err(ProxyError::UnusableParameters(unusable));
    }
    Ok(ProxyCall { endpoint, path_parameters: request.path_parameters, query: request.query, body: request.body })
}

/// The `{names}` in a path.
fn parameters_of(path: &str) -> BTreeSet<&str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name).collect()
}

fn strip(headers: &mut BTreeMap<String, String>) {
    let named: BTreeSet<String> = headers
        .get("connection")
        .map(|names| names.split(',').map(|name| name.trim().to_ascii_lowercase()).collect())
        .unwrap_or_default();
    headers.retain(|name, _| {
        let name = name.to_ascii_lowercase();
        !STRIPPED.contains(&name.as_str()) && !named.contains(&name)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    static ENDPOINTS: &[ProxyEndpoint] = &[
        ProxyEndpoint { id: "repository.read", method: "GET", path: "/repos/{owner}/{repo}", description: "Reads." },
        ProxyEndpoint { id: "account.read", method: "GET", path: "/account", description: "Reads." },
    ];

    fn request(endpoint: &str, parameters: &[(&str, &str)]) -> ProxyRequest {
        ProxyRequest {
            endpoint_id: endpoint.into(),
            path_parameters: parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..ProxyRequest::default()
        }
    }

    #[test]
    fn only_listed_endpoints_with_exactly_their_parameters_are_called() {
        let refused = |endpoint: &str, parameters: &[(&str, &str)]| {
            plan(ENDPOINTS, request(endpoint, parameters)).expect_err("refused").to_string()
        };
        assert_eq!(refused("anything", &[]), "there is no such endpoint");
        assert_eq!(refused("repository.read", &[("owner", "o")]), "path parameters are missing");
        assert_eq!(refused("account.read", &[("owner", "o")]), "path parameters are unknown");
        for bad in ["..", ".", ""] {
            let refused = refused("repository.read", &[("owner", bad), ("repo", "r")]);
            assert_eq!(refused, "path parameters cannot be a segment");
        }
        let call = plan(ENDPOINTS, request("repository.read", &[("owner", "a/b"), ("repo", "r")])).expect("fine");
        assert_eq!(call.endpoint.id, "repository.read");
    }

    #[test]
    fn cookies_and_headers_of_the_hop_end_here() {
        let names = ["content-type", "set-cookie", "connection", "x-hop", "transfer-encoding", "etag"];
        let mut headers: BTreeMap<_, _> = names.iter().map(|name| ((*name).to_owned(), "x-hop".to_owned())).collect();
        strip(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["content-type", "etag"]);
    }
}
