//! Query strings: paging, filters, times.
//!
//! **Invariants**: `limit` is 1..=100 whatever is asked for, and what cannot be read there is the default; a filter that
//! cannot be read is refused rather than ignored. **Must not know** any single list.

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use futures_util::future::{Ready, ready};
use serde_json::{Value, json};

use super::{error_codes as codes, problem::Problem};
use crate::{
    model::clock::EpochMs,
    store::{Found, Page, PageRequest},
};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 100;

/// A request's query string, decoded.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string.
    pub fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter; an empty one is as good as none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Every parameter with its value, in their order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The first value of a parameter, the empty one too.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Which page is wanted of a list whose ids begin with `prefix`.
    ///
    /// # Errors
    /// `invalid_parameter` for a cursor that is none of this list: an empty page would look like the end of the list.
    pub fn page(&self, prefix: &str) -> Result<PageRequest<'_>, Problem> {
        let is_id = |text: &str| {
            text.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        };
        match self.get("cursor") {
            Some(cursor) if !is_id(cursor) => {
                Err(Problem::new(&codes::INVALID_PARAMETER).member("parameter", "cursor"))
            }
            cursor => Ok(PageRequest { limit: self.limit(), cursor }),
        }
    }

    /// Which page is wanted of a list whose cursors are names of the caller's own: whoever calls has read them.
    pub fn page_after_name(&self) -> PageRequest<'_> {
        PageRequest { limit: self.limit(), cursor: self.get("cursor") }
    }

    /// How many are wanted.
    pub fn limit(&self) -> u32 {
        self.integer("limit")
            .map_or(DEFAULT_LIMIT, |limit| u32::try_from(limit.clamp(1, i64::from(MAX_LIMIT))).unwrap_or(DEFAULT_LIMIT))
    }

    /// How many are to be passed over.
    pub fn offset(&self) -> u32 {
        self.integer("offset").map_or(0, |offset| u32::try_from(offset.max(0)).unwrap_or(u32::MAX >> 1))
    }

    /// An integer, if it is one; the largest there is if it has too many digits.
    fn integer(&self, name: &str) -> Option<i64> {
        let text = self.get(name)?.trim();
        text.parse().ok().or_else(|| text.bytes().all(|byte| byte.is_ascii_digit()).then_some(i64::MAX))
    }

    /// A time in RFC 3339.
    ///
    /// # Errors
    /// `invalid_parameter` if it is not one.
    pub fn time(&self, name: &str) -> Result<Option<EpochMs>, Problem> {
        // A `+` of the zone offset that was not encoded arrives as a space.
        self.read(name, |text| EpochMs::parse_rfc3339(&text.replace(' ', "+")))
    }

    /// A boolean.
    ///
    /// # Errors
    /// `invalid_parameter` if it is not one.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        self.read(name, |text| match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    /// A parameter in whatever shape `read` accepts.
    ///
    /// # Errors
    /// `invalid_parameter` if it does not.
    pub fn read<T>(&self, name: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        match self.get(name).map(read) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value)),
            Some(None) => Err(Problem::new(&codes::INVALID_PARAMETER).member("parameter", name)),
        }
    }
}

impl FromRequest for Query {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self::parse(request.query_string())))
    }
}

/// A page as lists answer it.
pub fn page_json<T>(page: &Page<T>, item: impl FnMut(&T) -> Value) -> Value {
    json!({"items": page.items.iter().map(item).collect::<Vec<_>>(), "nextCursor": page.next_cursor})
}

/// What a search found, as lists answer it; how far was searched is there only where that was not everything.
pub fn found_json<T>(found: &Found<T>, item: impl FnMut(&T) -> Value) -> Value {
    let mut shown = json!({"items": found.items.iter().map(item).collect::<Vec<_>>(), "nextCursor": found.next_cursor});
    if let Some(at) = found.searched_back_to {
        shown["searchedBackTo"] = json!(at.to_rfc3339());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_clamped_and_garbage_is_the_default() {
        for (query, limit) in [
            ("", 50),
            ("limit=", 50),
            ("limit=abc", 50),
            ("limit=1e3", 50),
            ("limit=0", 1),
            ("limit=-3", 1),
            ("limit=7", 7),
            ("limit=101", 100),
            ("limit=99999999999999999999999", 100),
        ] {
            assert_eq!(Query::parse(query).limit(), limit, "{query}");
        }
        assert_eq!(Query::parse("offset=-1").offset(), 0);
        assert_eq!(Query::parse("offset=x").offset(), 0);
        assert_eq!(Query::parse("offset=120").offset(), 120);
    }

    #[test]
    fn a_cursor_of_another_list_is_refused_and_an_empty_one_is_the_first_page() {
        let page = |query| Query::parse(query).page("evt_").map(|page| page.cursor.map(str::to_owned));
        assert_eq!(page("cursor=evt_01a2").expect("fine").as_deref(), Some("evt_01a2"));
        assert_eq!(page("cursor=").expect("fine"), None);
        for bad in ["cursor=log_01a2", "cursor=%27%3B--", "cursor=evt_%C3%A9"] {
            assert_eq!(page(bad).expect_err("refused").to_json("")["parameter"], "cursor", "{bad}");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused_by_name() {
        let query = Query::parse("since=yesterday&held=maybe&until=2026-02-25T01:40:00%2B01:00");
        for name in ["since", "held"] {
            let problem = match name {
                "since" => query.time(name).map(|_| ()),
                _ => query.flag(name).map(|_| ()),
            }
            .expect_err("unreadable");
            assert_eq!(problem.to_json("")["parameter"], name);
        }
        assert_eq!(query.time("until").expect("a time"), Some(EpochMs(1_771_980_000_000)));
    }
}
