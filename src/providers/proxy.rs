//! What the proxies of all providers share: from an allow-listed call to a request, from an answer to what may be shown.
//!
//! **Invariants** (`promises.md` S10): only the configured host is called; the path is the endpoint's own, its
//! parameters encoded as one segment each; of the answer's headers, cookies and those that concern one connection only
//! are left out. **Must not know** any provider.

use std::collections::BTreeMap;

use serde_json::Value;
use url::Url;

use super::{
    api_url::{ApiUrl, encode_segment},
    connector::{ConnectorError, ProxyAnswer, ProxyCall},
    http::{Call, HttpClient, Reply},
};

/// Headers about one connection (RFC 9110 7.6.1), about bytes we do not pass on as they are, or with secrets.
const DROPPED_HEADERS: [&str; 17] = [
    "connection",
    "content-encoding",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "authorization",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// The request of a call, without the headers that are a provider's own (its token, above all).
///
/// # Errors
/// [`ConnectorError::Refused`]: `missing_path_parameter`, `invalid_path_parameter`.
pub(super) fn to_request(base: &ApiUrl, call: &ProxyCall) -> Result<Call, ConnectorError> {
    let mut url = fill_path(base, call.endpoint.path, &call.path_parameters)?;
    if !call.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&call.query);
    }
    let request = Call::new(call.endpoint.method, url);
    Ok(match &call.body {
        Some(body) if call.endpoint.method != "GET" => request.json(body),
        _ => request,
    })
}

fn fill_path(base: &ApiUrl, template: &str, given: &BTreeMap<String, String>) -> Result<Url, ConnectorError> {
    let mut path = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or(ConnectorError::Malformed("an endpoint's path"))?;
        let value = given.get(name).ok_or(ConnectorError::Refused("missing_path_parameter"))?;
        path.push_str(before);
        path.push_str(&encode_segment(value).map_err(|_| ConnectorError::Refused("invalid_path_parameter"))?);
        rest = after;
    }
    path.push_str(rest);
    Ok(base.at(&path))
}

/// What of a reply the caller of the proxy may see.
pub(super) fn to_answer(reply: &Reply) -> ProxyAnswer {
    let data = serde_json::from_slice(&reply.body).unwrap_or_else(|_| match &*reply.body {
        [] => Value::Null,
        body => Value::String(String::from_utf8_lossy(body).into_owned()),
    });
    let named_by_connection: Vec<String> = reply
        .header("connection")
        .map(|names| names.split(',').map(|name| name.trim().to_ascii_lowercase()).collect())
        .unwrap_or_default();
    let headers = reply
        .headers
        .iter()
        .filter(|(name, _)| !DROPPED_HEADERS.contains(&name.as_str()) && !named_by_connection.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    ProxyAnswer { status: reply.status, data, headers }
}

/// Makes a call: `prepare` puts the provider's own headers on the request.
///
/// # Errors
/// Those of [`to_request`]; [`ConnectorError::Unauthorized`] on 401; every other status is an answer.
pub(super) async fn call(
    http: &HttpClient,
    base: &ApiUrl,
    call: &ProxyCall,
    prepare: impl FnOnce(Call) -> Call + Send,
) -> Result<ProxyAnswer, ConnectorError> {
    let request = prepare(to_request(base, call)?);
    let reply = http.send(request).await?;
    if reply.status == 401 { Err(ConnectorError::Unauthorized) } else { Ok(to_answer(&reply)) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::providers::connector::ProxyEndpoint;

    static CONTENTS: ProxyEndpoint = ProxyEndpoint {
        id: "repos.contents",
        method: "GET",
        path: "/repos/{owner}/{repo}/contents/{path}",
        description: "",
    };

    fn filled(pairs: &[(&str, &str)]) -> Result<String, ConnectorError> {
        let base = ApiUrl::parse("https://api.example/v3").expect("a base");
        let given = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        fill_path(&base, CONTENTS.path, &given).map(String::from)
    }

    #[test]
    fn path_parameters_are_one_segment_each_whatever_they_hold() {
        assert_eq!(
            filled(&[("owner", "harborworks"), ("repo", "a/../../admin?x=1#y"), ("path", "src/main.rs")]),
            Ok("https://api.example/v3/repos/harborworks/a%2F..%2F..%2Fadmin%3Fx%3D1%23y/contents/src%2Fmain.rs"
                .into())
        );
        for hostile in ["..", ".", ""] {
            assert_eq!(
                filled(&[("owner", hostile), ("repo", "r"), ("path", "p")]),
                Err(ConnectorError::Refused("invalid_path_parameter"))
            );
        }
        assert_eq!(filled(&[("owner", "o"), ("repo", "r")]), Err(ConnectorError::Refused("missing_path_parameter")));
    }

    #[test]
    fn cookies_and_headers_of_one_connection_are_left_out_of_the_answer() {
        let headers = [
            ("content-type", "application/json"),
            ("set-cookie", "session=1"),
            ("connection", "close, X-Internal-Hop"),
            ("x-internal-hop", "7"),
            ("transfer-encoding", "chunked"),
            ("x-ratelimit-remaining", "4999"),
        ];
        let reply = Reply {
            status: 404,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: Bytes::from_static(b"{\"message\":\"Not Found\"}"),
        };
        let answer = to_answer(&reply);
        assert_eq!((answer.status, &answer.data["message"]), (404, &Value::from("Not Found")));
        assert_eq!(answer.headers.keys().collect::<Vec<_>>(), ["content-type", "x-ratelimit-remaining"]);
        let text = Reply { body: Bytes::from_static(b"not json"), ..reply.clone() };
        assert_eq!(to_answer(&text).data, "not json");
        assert_eq!(to_answer(&Reply { body: Bytes::new(), ..reply }).data, Value::Null);
    }
}
