//! Calls to GitHub's REST API: who speaks (the App or an installation), what goes with every call, how its refusals read.
//!
//! **Invariants**: a token goes to the configured host only; a call that changes nothing is repeated once if its answer
//! is lost or a 5xx, any other never. Protocol source: GitHub's "Authenticating as a GitHub App" and "Rate limits for
//! the REST API".

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use url::Url;

use crate::{
    crypto::jwt::JwtKey,
    model::{clock::EpochMs, secret::Secret},
    providers::{
        ConnectorError, HttpClient,
        api_url::ApiUrl,
        http::{Call, Reply},
    },
};

/// What GitHub takes for its JSON.
const MEDIA_TYPE: &str = "application/vnd.github+json";
/// The answer as the bytes of a file.
pub(super) const RAW_MEDIA_TYPE: &str = "application/vnd.github.raw+json";
const API_VERSION: &str = "2022-11-28";
/// How far the JWT's begin is set back, for clocks that differ.
const JWT_DRIFT: Duration = Duration::from_mins(1);
/// How long a JWT lives; GitHub admits ten minutes.
const JWT_LIFE: Duration = Duration::from_mins(9);
/// As many redirects of one host as a renamed and moved repository can need.
const MAX_REDIRECTS: usize = 3;

/// The API, and the App that speaks to it.
#[derive(Debug)]
pub(super) struct Api {
    /// What carries the calls.
    pub http: HttpClient,
    /// Below which all of it lies.
    pub base: ApiUrl,
    /// The App's client id, else its numeric id.
    pub issuer: String,
    /// The App's key.
    pub key: JwtKey,
}

/// Who speaks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Speaker<'a> {
    /// The App, at this time.
    App(EpochMs),
    /// Whoever the token was given to, at this time.
    Holder(&'a Secret, EpochMs),
}

impl Speaker<'_> {
    fn now(self) -> EpochMs {
        match self {
            Self::App(now) | Self::Holder(_, now) => now,
        }
    }
}

#[derive(Serialize)]
struct AppClaims<'a> {
    iat: i64,
    exp: i64,
    iss: &'a str,
}

impl Api {
    /// The App's word that it is the App, for the next minutes.
    ///
    /// # Errors
    /// [`ConnectorError::Unavailable`] if it cannot be signed.
    pub fn app_jwt(&self, now: EpochMs) -> Result<Secret, ConnectorError> {
        let seconds = |time: EpochMs| time.0.div_euclid(1000);
        let claims =
            AppClaims { iat: seconds(now.minus(JWT_DRIFT)), exp: seconds(now.plus(JWT_LIFE)), iss: &self.issuer };
        self.key.sign(&claims).map_err(|error| ConnectorError::unavailable(error.to_string()))
    }

    /// Reads something; asks once more if that may help, and follows GitHub to where it moved on the same host.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&self, url: Url, speaker: Speaker<'_>) -> Result<Reply, ConnectorError> {
        self.get_as(url, speaker, MEDIA_TYPE, None).await
    }

    /// Reads something in another media type, and not more than so many bytes of it.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get_as(
        &self,
        mut url: Url,
        speaker: Speaker<'_>,
        media_type: &'static str,
        max_bytes: Option<usize>,
    ) -> Result<Reply, ConnectorError> {
        let mut redirects = 0;
        loop {
            let call = || {
                let call = Self::with_usual_headers(Call::new("GET", url.clone())).header("accept", media_type);
                max_bytes.into_iter().fold(call, Call::at_most)
            };
            let reply = match self.send(call(), speaker).await {
                // A 429 says when to come back; everything else may have been a hiccup.
                Err(ConnectorError::AnswerLost | ConnectorError::Unavailable { retry_after: None, .. }) => {
                    self.send(call(), speaker).await.map_err(nothing_changed)?
                }
                outcome => outcome?,
            };
            if !matches!(reply.status, 301 | 302 | 307 | 308) {
                return Ok(reply);
            }
            let target = reply.header("location").and_then(|location| url.join(location).ok());
            match target.filter(|target| self.base.is_same_host(target)) {
                Some(target) if redirects < MAX_REDIRECTS => url = target,
                _ => return Err(ConnectorError::Malformed("a redirect that is not followed")),
            }
            redirects += 1;
        }
    }

    /// Makes one call.
    ///
    /// # Errors
    /// [`ConnectorError::Unavailable`] when rate limited, on 5xx, and on 401 to the App; [`ConnectorError::Unauthorized`]
    /// on 401 to a token; every other answer is a [`Reply`].
    pub async fn send(&self, call: Call, speaker: Speaker<'_>) -> Result<Reply, ConnectorError> {
        let call = match speaker {
            Speaker::App(now) => call.bearer(&self.app_jwt(now)?),
            Speaker::Holder(token, _) => call.bearer(token),
        };
        let reply = self.http.send(call).await?;
        if let Some(error) = rate_limited(&reply, speaker.now()).or_else(|| reply.unavailable()) {
            return Err(error);
        }
        match (reply.status, speaker) {
            (401, Speaker::App(_)) => Err(ConnectorError::unavailable("the App's JWT was not accepted")),
            (401, Speaker::Holder(..)) => Err(ConnectorError::Unauthorized),
            _ => Ok(reply),
        }
    }

    /// Makes a call that changes something, once.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn change(&self, method: &str, url: Url, speaker: Speaker<'_>) -> Result<Reply, ConnectorError> {
        self.send(Self::with_usual_headers(Call::new(method, url)), speaker).await
    }

    /// A call with what GitHub wants to see on each.
    pub fn with_usual_headers(call: Call) -> Call {
        call.header("accept", MEDIA_TYPE).header("x-github-api-version", API_VERSION)
    }
}

/// An answer that was lost of a call that changes nothing.
pub(super) fn nothing_changed(error: ConnectorError) -> ConnectorError {
    match error {
        ConnectorError::AnswerLost => ConnectorError::unavailable("no answer"),
        other => other,
    }
}

/// The primary limit answers 403 or 429 with nothing remaining, the secondary one 403 or 429 with `retry-after`.
fn rate_limited(reply: &Reply, now: EpochMs) -> Option<ConnectorError> {
    let is_used_up = reply.header("x-ratelimit-remaining").is_some_and(|left| left.trim() == "0");
    let is_limited =
        reply.status == 429 || reply.status == 403 && (is_used_up || reply.header("retry-after").is_some());
    is_limited.then(|| ConnectorError::Unavailable {
        why: "rate limited".into(),
        retry_after: reply.retry_after().or_else(|| wait_of(reply, now)).or(Some(Duration::from_mins(1))),
    })
}

/// How long until calls are allowed again, if this answer used up the last one.
pub(super) fn wait_of(reply: &Reply, now: EpochMs) -> Option<Duration> {
    let is_used_up = reply.header("x-ratelimit-remaining").is_some_and(|left| left.trim() == "0");
    is_used_up.then(|| reply.wait_until_reset("x-ratelimit-reset", now)).flatten()
}

/// A parameter of the page that the `Link` header calls the next.
pub(super) fn next_page_parameter(reply: &Reply, name: &str) -> Option<String> {
    let mut rest = reply.header("link")?;
    // `<url>; rel="next", <url>; rel="last"`: a URL may hold commas, so the brackets lead.
    while let Some((_, after)) = rest.split_once('<') {
        let (url, after) = after.split_once('>')?;
        let attributes = after.split('<').next().unwrap_or_default();
        if attributes.split([';', ',']).any(|attribute| attribute.trim().replace('"', "") == "rel=next") {
            // It may be relative to where we asked; only its query matters.
            let query = url.split_once('?')?.1;
            return form_urlencoded::parse(query.as_bytes())
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned());
        }
        rest = after;
    }
    None
}

/// An id: a number at GitHub, text with us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(number) => Ok(Self(number.to_string())),
            Value::String(text) if !text.is_empty() => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("not an id")),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reply(status: u16, headers: &[(&str, &str)]) -> Reply {
        Reply {
            status,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn the_next_page_is_read_from_the_link_header_whatever_stands_around_it() {
        let next = |link| next_page_parameter(&reply(200, &[("link", link)]), "cursor");
        let usual = r#"<https://api.github.com/x?per_page=100&cursor=v1_17%2C2>; rel="next", <https://h/x?cursor=z>; rel="last""#;
        assert_eq!(next(usual).as_deref(), Some("v1_17,2"));
        assert_eq!(next(r#"<https://h/a,b?cursor=p>; rel="prev", <?cursor=n>; rel=next"#).as_deref(), Some("n"));
        assert_eq!(next(r#"<https://h/x?cursor=p>; rel="prev""#), None);
        assert_eq!(next("nonsense <"), None);
        assert_eq!(next_page_parameter(&reply(200, &[]), "cursor"), None);
    }

    #[test]
    fn both_kinds_of_rate_limit_are_told_from_a_refusal() {
        let now = EpochMs(1_000_000);
        let wait = |status, headers: &[(&str, &str)]| match rate_limited(&reply(status, headers), now) {
            Some(ConnectorError::Unavailable { retry_after, .. }) => retry_after,
            _ => None,
        };
        let used_up = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1090")];
        assert_eq!(wait(403, &used_up), Some(Duration::from_secs(90)));
        assert_eq!(wait(429, &used_up), Some(Duration::from_secs(90)));
        assert_eq!(wait(403, &[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(wait(403, &[("x-ratelimit-remaining", "4999")]), None);
        assert_eq!(wait(200, &used_up), None);
    }
}
