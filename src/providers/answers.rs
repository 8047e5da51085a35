//! What asking halves share: judging an answer, and cursors.
//!
//! **Owns** the rules that hold for every provider's API. **Invariants**: an answer is judged by its status alone unless
//! the provider's own file knows better; a read whose answer is lost changed nothing, so it is
//! [`ConnectorError::Unavailable`]; a rotation whose answer is lost or unreadable is [`ConnectorError::AnswerLost`].
//! **Must not know** any provider.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    connector::ConnectorError,
    http::{Call, HttpClient, HttpError, Reply},
};
use crate::model::clock::EpochMs;

/// Pages after which a list that does not end is taken to be over.
const MAX_PAGES: u32 = 200;

/// A cursor that no former page gave.
const NO_CURSOR: ConnectorError = ConnectorError::Refused("invalid_parameter");

/// Makes a call that changes nothing, or that can be repeated: a lost answer is as good as none.
pub(super) async fn ask(http: &HttpClient, call: Call) -> Result<Reply, ConnectorError> {
    http.send(call).await.map_err(|error| match error {
        HttpError::AnswerLost(why) => ConnectorError::unavailable(why),
        other => other.into(),
    })
}

/// Makes a call that rotates tokens, and judges nothing but whether its answer came.
pub(super) async fn rotate(http: &HttpClient, call: Call) -> Result<Reply, ConnectorError> {
    http.send(call).await.map_err(|error| match error {
        HttpError::AnswerTooLarge => ConnectorError::AnswerLost,
        other => other.into(),
    })
}

/// The answer of a successful rotation. One that cannot be read is lost: the provider has rotated all the same.
pub(super) fn rotated<T: DeserializeOwned>(reply: &Reply) -> Result<T, ConnectorError> {
    reply.json("a token answer").map_err(|_| ConnectorError::AnswerLost)
}

/// What an answer that is not a success says, by its status alone.
pub(super) fn refusal(reply: &Reply, reset_header: &str, now: EpochMs) -> ConnectorError {
    if let Some(error) = unavailable(reply, || reply.wait_until_reset(reset_header, now)) {
        return error;
    }
    match reply.status {
        401 => ConnectorError::Unauthorized,
        403 | 404 => ConnectorError::NotAccessible,
        _ => ConnectorError::Malformed("an answer of this status"),
    }
}

/// The error of a 429 or 5xx; of a 429 without `Retry-After`, what another header tells.
pub(super) fn unavailable(reply: &Reply, until_reset: impl FnOnce() -> Option<Duration>) -> Option<ConnectorError> {
    match reply.unavailable()? {
        ConnectorError::Unavailable { why, retry_after: None } if reply.status == 429 => {
            Some(ConnectorError::Unavailable { why, retry_after: until_reset() })
        }
        error => Some(error),
    }
}

/// An id as text: some providers send one id as a number here and as text there.
pub(super) fn id_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Where a list goes on: the provider's own token, and how many pages came before it.
pub(super) struct PageCursor {
    page: u32,
    /// The provider's token; `None` for the first page.
    pub(super) token: Option<String>,
}

impl PageCursor {
    /// Reads a former [`PageCursor::after`].
    ///
    /// # Errors
    /// [`ConnectorError::Refused`] of what is none: the provider is not asked with it.
    pub(super) fn read(cursor: Option<&str>) -> Result<Self, ConnectorError> {
        let Some(cursor) = cursor else { return Ok(Self { page: 0, token: None }) };
        let numbered = cursor.split_once('.').and_then(|(page, token)| Some((page.parse().ok()?, token)));
        match numbered.filter(|(page, token)| *page > 0 && !token.is_empty()) {
            Some((page, token)) => Ok(Self { page, token: Some(token.to_owned()) }),
            None => Err(NO_CURSOR),
        }
    }

    /// What an error about the page means. Only its token tells the request from that of the first page, so that it is the
    /// token which a provider that answers, and gives no other reason, does not take.
    pub(super) fn judge(&self, error: ConnectorError) -> ConnectorError {
        match error {
            ConnectorError::Malformed(_) if self.token.is_some() => NO_CURSOR,
            error => error,
        }
    }

    /// The cursor of the next page; `None` at the end, and where the provider would go round in circles.
    pub(super) fn after(&self, next: Option<String>) -> Option<String> {
        let next = next.filter(|next| self.token.as_ref() != Some(next))?;
        let page = self.page.saturating_add(1);
        if page >= MAX_PAGES {
            tracing::warn!(pages = page, "a provider's list does not end; the rest is left out");
            return None;
        }
        Some(format!("{page}.{next}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&str, &str)]) -> Reply {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Reply { status, headers, body: bytes::Bytes::new() }
    }

    #[test]
    fn a_list_ends_when_the_provider_says_so_or_repeats_itself_or_never_ends() {
        let read = |cursor: Option<&str>| PageCursor::read(cursor).expect("a cursor of ours");
        let first = read(None);
        let second = first.after(Some("0:100:0".into())).expect("goes on");
        let cursor = read(Some(&second));
        assert_eq!(cursor.token.as_deref(), Some("0:100:0"));
        assert_eq!(cursor.after(None), None);
        assert_eq!(cursor.after(Some("0:100:0".into())), None);
        let mut cursor = cursor.after(Some("x".into()));
        let mut pages = 2;
        while let Some(next) = cursor {
            pages += 1;
            cursor = read(Some(&next)).after(Some(format!("token-{pages}")));
        }
        assert_eq!(pages, MAX_PAGES);
    }

    #[test]
    fn a_cursor_that_no_page_gave_is_refused_and_so_is_one_that_the_provider_does_not_take() {
        for foreign in ["foreign", "0.x", "-1.x", "1.", ".x", "x.y"] {
            assert_eq!(PageCursor::read(Some(foreign)).err(), Some(NO_CURSOR), "{foreign}");
        }
        let (first, second) = (PageCursor::read(None).expect("none"), PageCursor::read(Some("1.x")).expect("ours"));
        let not_taken = || refusal(&reply(400, &[]), "x-reset", EpochMs(0));
        assert_eq!(second.judge(not_taken()), NO_CURSOR);
        assert_eq!(first.judge(not_taken()), not_taken());
        assert_eq!(second.judge(ConnectorError::Unauthorized), ConnectorError::Unauthorized);
    }

    #[test]
    fn only_explicit_answers_are_verdicts() {
        let now = EpochMs(1_000_000);
        let judge = |status, headers: &[(&str, &str)]| refusal(&reply(status, headers), "x-reset", now);
        assert_eq!(judge(401, &[]), ConnectorError::Unauthorized);
        assert_eq!(judge(404, &[]), ConnectorError::NotAccessible);
        assert_eq!(judge(503, &[]), ConnectorError::unavailable("answered 503"));
        for kind in ["text/html", "Text/HTML; charset=utf-8"] {
            let page = judge(404, &[("content-type", kind)]);
            assert!(matches!(page, ConnectorError::Unavailable { .. }), "a wrong URL, not a word of the API's: {page}");
        }
        assert_eq!(judge(404, &[("content-type", "application/json")]), ConnectorError::NotAccessible);
        let limited = |headers: &[(&str, &str)]| match judge(429, headers) {
            ConnectorError::Unavailable { retry_after, .. } => retry_after.map(|wait| wait.as_secs()),
            other => panic!("{other}"),
        };
        assert_eq!(limited(&[("retry-after", "7"), ("x-reset", "1060")]), Some(7));
        assert_eq!(limited(&[("x-reset", "1060")]), Some(60));
        assert_eq!(limited(&[]), None);
    }
}
