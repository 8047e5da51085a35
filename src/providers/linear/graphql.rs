//! Linear's GraphQL API: one query, its errors in our words, and the teams of a workspace.
//!
//! **Invariants**: an answer with `errors` is an error, whatever its status; a page lists a team once; a list ends,
//! whatever the provider says. Protocol source: Linear's GraphQL developer pages. Quirks worth knowing: errors come with
//! 200 or 400; a used-up rate limit is a 400 with the code `RATELIMITED`, and its reset headers are milliseconds.

use std::{collections::HashSet, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use super::connect::LinearConnector;
use crate::{
    model::{clock::EpochMs, provider::ProviderResourceId, secret::Secret},
    providers::{
        ConnectorError,
        answers::{self, PageCursor},
        connector::{ProxyEndpoint, ResourcePage, VisibleResource},
        facts::{self, facts},
        http::{Call, Reply},
    },
};

/// What the proxy may ask: anything the token may. GraphQL has one address, so the grant's scopes (setting `scopes`,
/// `read` unless changed) are the list of what is allowed.
#[rustfmt::skip]
pub(super) const PROXY_ENDPOINTS: &[ProxyEndpoint] = &[
    ProxyEndpoint { id: "graphql", method: "POST", path: "/graphql", description: "A GraphQL query; body: {\"query\", \"variables\"?}. It can do whatever the token's scopes allow." },
];

/// The teams, as many in a page as Linear gives.
const TEAMS: &str = "query Teams($after: String) { teams(first: 250, after: $after) { nodes { id key name private } \
                     pageInfo { hasNextPage endCursor } } }";

/// When a used-up rate limit is fresh again, epoch milliseconds.
const RESET_HEADERS: [&str; 2] = ["x-ratelimit-requests-reset", "x-ratelimit-complexity-reset"];
/// Which of them counts: the one whose remainder is used up.
const REMAINING_HEADERS: [&str; 2] = ["x-ratelimit-requests-remaining", "x-ratelimit-complexity-remaining"];

#[derive(Deserialize)]
struct Answer {
    data: Option<Value>,
    errors: Option<Vec<Fault>>,
}

/// One of `errors`. Its message goes nowhere.
#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    extensions: Value,
}

#[derive(Deserialize)]
struct TeamsAnswer {
    teams: Teams,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Teams {
    nodes: Vec<Team>,
    page_info: Option<PageInfo>,
}

#[derive(Deserialize)]
struct Team {
    id: String,
    key: Option<String>,
    name: Option<String>,
    private: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
    end_cursor: Option<String>,
}

/// What a fault means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    RateLimited,
    DeadToken,
    Forbidden,
    Theirs,
    Other,
}

impl Fault {
    fn meaning(&self) -> Meaning {
        // `code` and `type` say the same in two spellings, and neither is always there.
        let spelled = |name: &str| {
            self.extensions[name].as_str().unwrap_or_default().to_ascii_lowercase().replace(['_', ' ', '-'], "")
        };
        let words = [spelled("code"), spelled("type")];
        let is = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
        if is(&["ratelimited", "usagelimitexceeded"]) {
            Meaning::RateLimited
        } else if is(&["authenticationerror", "unauthenticated"]) {
            Meaning::DeadToken
        } else if is(&["forbidden", "featurenotaccessible", "entitynotfound"]) {
            Meaning::Forbidden
        } else if is(&["internalerror", "internalservererror", "locktimeout", "bootstraperror", "networkerror"]) {
            Meaning::Theirs
        } else {
            Meaning::Other
        }
    }
}

/// Whether what the proxy was answered says that the token is dead.
pub(super) fn tells_dead_token(data: &Value) -> bool {
    let Some(errors) = data["errors"].as_array() else { return false };
    let fault = |error: &Value| Fault { extensions: error["extensions"].clone() };
    errors.iter().any(|error| fault(error).meaning() == Meaning::DeadToken)
}

impl LinearConnector {
    /// Makes a query and gives its `data`.
    pub(super) async fn query(
        &self,
        query: &str,
        variables: Value,
        access: &Secret,
        now: EpochMs,
    ) -> Result<Value, ConnectorError> {
        let call = Call::new("POST", self.api_url.at("/graphql"))
            .bearer(access)
            .json(&json!({"query": query, "variables": variables}));
        let reply = answers::ask(&self.http, call).await?;
        if reply.status == 401 {
            return Err(ConnectorError::Unauthorized);
        }
        if let Some(error) = answers::unavailable(&reply, || until_reset(&reply, now)) {
            return Err(error);
        }
        let answer: Option<Answer> = serde_json::from_slice(&reply.body).ok();
        let meanings: Vec<Meaning> =
            answer.iter().flat_map(|answer| answer.errors.iter().flatten()).map(Fault::meaning).collect();
        // What is certain comes first: a dead token makes every other fault moot.
        if meanings.contains(&Meaning::DeadToken) {
            return Err(ConnectorError::Unauthorized);
        }
        if meanings.contains(&Meaning::RateLimited) {
            return Err(rate_limited(&reply, now));
        }
        if meanings.contains(&Meaning::Theirs) {
            return Err(ConnectorError::unavailable("answered an internal error"));
        }
        if meanings.contains(&Meaning::Forbidden) || reply.status == 403 || reply.status == 404 {
            return Err(ConnectorError::NotAccessible);
        }
        if !meanings.is_empty() || !reply.is_success() {
            return Err(ConnectorError::Malformed("an answer to a query"));
        }
        answer.and_then(|answer| answer.data).ok_or(ConnectorError::Malformed("an answer to a query"))
    }

    /// One page of the workspace's teams that the grant reaches.
    pub(super) async fn list_teams(
        &self,
        access: &Secret,
        cursor: Option<&str>,
        now: EpochMs,
    ) -> Result<ResourcePage, ConnectorError> {
        let cursor = PageCursor::read(cursor)?;
        let data = self.query(TEAMS, json!({"after": cursor.token}), access, now).await;
        let data = data.map_err(|error| cursor.judge(error))?;
        let TeamsAnswer { teams } = serde_json::from_value(data).map_err(|_| ConnectorError::Malformed("the teams"))?;
        let mut seen = HashSet::new();
        let items = teams.nodes.into_iter().filter(|team| seen.insert(team.id.clone())).map(visible).collect();
        let next = teams.page_info.filter(|page| page.has_next_page).and_then(|page| page.end_cursor);
        let next_cursor = cursor.after(next.filter(|next| !next.is_empty()));
        Ok(ResourcePage { items, next_cursor, total: None })
    }
}

fn visible(team: Team) -> VisibleResource {
    let name = team.name.or_else(|| team.key.clone()).unwrap_or_else(|| team.id.clone());
    VisibleResource {
        id: ProviderResourceId::new(team.id),
        full_name: None,
        private: team.private,
        archived: None,
        default_branch: None,
        attrs: facts([
            ("teamKey", facts::text(team.key.clone())),
            ("teamName", facts::text(Some(name.clone()))),
            ("isPrivate", team.private.map(Value::from)),
        ]),
        slug: team.key,
        name,
    }
}

/// Whether an answer of any endpoint says that the rate limit is used up.
pub(super) fn is_rate_limited(reply: &Reply) -> bool {
    let faults = || serde_json::from_slice::<Answer>(&reply.body).ok().and_then(|answer| answer.errors);
    let is_told = || faults().is_some_and(|faults| faults.iter().any(|fault| fault.meaning() == Meaning::RateLimited));
    reply.status == 429 || reply.status == 400 && is_told()
}

/// The error of a used-up rate limit.
pub(super) fn rate_limited(reply: &Reply, now: EpochMs) -> ConnectorError {
    let retry_after = reply.retry_after().or_else(|| until_reset(reply, now));
    ConnectorError::Unavailable { why: "rate limited".into(), retry_after }
}

/// How long until the rate limit that is used up is fresh again.
fn until_reset(reply: &Reply, now: EpochMs) -> Option<Duration> {
    let number = |header: &str| reply.header(header)?.trim().parse::<i64>().ok();
    let wait = |header: &str| Some(EpochMs(number(header)?).since(now)).filter(|wait| !wait.is_zero());
    let used_up = REMAINING_HEADERS.iter().zip(RESET_HEADERS).filter(|(remaining, _)| number(remaining) == Some(0));
    used_up.filter_map(|(_, reset)| wait(reset)).max().or_else(|| RESET_HEADERS.into_iter().find_map(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_means_the_same_in_either_spelling() {
        let meaning = |extensions: Value| Fault { extensions }.meaning();
        assert_eq!(meaning(json!({"code": "RATELIMITED"})), Meaning::RateLimited);
        assert_eq!(meaning(json!({"type": "Ratelimited"})), Meaning::RateLimited);
        assert_eq!(meaning(json!({"code": "AUTHENTICATION_ERROR"})), Meaning::DeadToken);
        assert_eq!(meaning(json!({"type": "authentication error"})), Meaning::DeadToken);
        assert_eq!(meaning(json!({"type": "forbidden", "code": 7})), Meaning::Forbidden);
        assert_eq!(meaning(json!({"code": "INPUT_ERROR"})), Meaning::Other);
        assert_eq!(meaning(Value::Null), Meaning::Other);
    }

    #[test]
    fn the_wait_is_that_of_the_limit_that_is_used_up() {
        let headers = [
            ("x-ratelimit-requests-remaining", "12"),
            ("x-ratelimit-requests-reset", "99000"),
            ("x-ratelimit-complexity-remaining", "0"),
            ("x-ratelimit-complexity-reset", "31000"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let reply = Reply { status: 400, headers: headers.into(), body: bytes::Bytes::new() };
        assert_eq!(until_reset(&reply, EpochMs(1_000)), Some(Duration::from_secs(30)));
        assert_eq!(until_reset(&reply, EpochMs(200_000)), None);
    }
}
