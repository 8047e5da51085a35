//! A call as a simulated provider receives it, and what it answers.
//!
//! **Invariants.** Reading is strict: a body is a form only if it says so. Pages escape everything that came with the
//! call.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::model::webhook::Headers;

/// Which half of a provider a call reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The pages people visit (`web_url`).
    Web,
    /// The API (`api_url`).
    Api,
}

/// How a call authenticated itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// No `Authorization` header.
    #[default]
    None,
    /// `Bearer` (or GitHub's older `token`).
    Bearer(String),
    /// `Basic`, decoded.
    Basic(String, String),
    /// Something else, or more than one header.
    Unreadable,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: String,
    /// Which half.
    pub surface: Surface,
    /// The path below that half's base, as it came.
    pub path: String,
    /// The path's segments, decoded; a trailing slash leaves an empty one.
    pub segments: Vec<String>,
    /// The query's parameters in order.
    pub query: Vec<(String, String)>,
    /// The headers.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
    /// `http://127.0.0.1:port`.
    pub origin: String,
    /// Base of the half the call reached, without a slash at the end.
    pub base: String,
}

impl Call {
    /// The first query parameter of that name, if it is not empty.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// A query parameter that is a number.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.parameter(name)?.parse().ok()
    }

    /// The segments, as patterns match them.
    pub fn route(&self) -> Vec<&str> {
        self.segments.iter().map(String::as_str).collect()
    }

    /// How it authenticated itself.
    pub fn credentials(&self) -> Credentials {
        if self.headers.all("authorization").next().is_none() {
            return Credentials::None;
        }
        let Some((scheme, rest)) = self.headers.get("authorization").and_then(|value| value.split_once(' ')) else {
            return Credentials::Unreadable;
        };
        if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") {
            return Credentials::Bearer(rest.to_owned());
        }
        let basic = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(rest).ok()).flatten();
        match basic.and_then(|bytes| String::from_utf8(bytes).ok()).as_deref().and_then(|pair| pair.split_once(':')) {
            Some((user, password)) => Credentials::Basic(user.to_owned(), password.to_owned()),
            None => Credentials::Unreadable,
        }
    }

    fn content_type(&self) -> &str {
        let declared = self.headers.get("content-type").unwrap_or_default();
        declared.split(';').next().unwrap_or_default().trim()
    }

    /// The body's fields if it is declared to be a form.
    pub fn form(&self) -> Option<BTreeMap<String, String>> {
        self.content_type().eq_ignore_ascii_case("application/x-www-form-urlencoded").then(|| {
            form_urlencoded::parse(&self.body).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
        })
    }

    /// The body's members if it is declared to be JSON and is an object.
    pub fn json(&self) -> Option<Map<String, Value>> {
        if !self.content_type().eq_ignore_ascii_case("application/json") {
            return None;
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(members)) => Some(members),
            _ => None,
        }
    }

    /// The text fields of a body in either form.
    pub fn fields(&self) -> Option<BTreeMap<String, String>> {
        self.form().or_else(|| {
            let members = self.json()?;
            Some(members.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect())
        })
    }
}

/// What a simulated provider answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A JSON answer.
    pub fn json(status: u16, body: &Value) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string().into() }
            .with("content-type", "application/json; charset=utf-8")
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// A redirect of a browser.
    pub fn redirect(to: &str) -> Self {
        Self::empty(302).with("location", to)
    }

    /// A page: a title and body that is HTML already.
    pub fn page(status: u16, title: &str, html: &str) -> Self {
        let title = escape(title);
        let page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
             <style>body{{font:16px/1.5 system-ui;max-width:34rem;margin:4rem auto;padding:0 1rem}}\
             a.choice{{display:block;margin:.5rem 0;padding:.6rem 1rem;border:1px solid;border-radius:.4rem}}</style>\
             <h1>{title}</h1>{html}</html>"
        );
        Self { status, headers: Vec::new(), body: page.into() }.with("content-type", "text/html; charset=utf-8")
    }

    /// A page that says why nothing goes on.
    pub fn refusal(title: &str, why: &str) -> Self {
        Self::page(400, title, &format!("<p>{}</p>", escape(why)))
    }

    /// A form-encoded answer.
    pub fn form(status: u16, members: &Value) -> Self {
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (name, value) in members.as_object().into_iter().flatten() {
            form.append_pair(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        Self { status, headers: Vec::new(), body: form.finish().into() }
            .with("content-type", "application/x-www-form-urlencoded; charset=utf-8")
    }

    /// The usual shape of an OAuth error (RFC 6749 section 5.2).
    pub fn oauth_error(status: u16, error: &str, description: &str) -> Self {
        Self::json(status, &json!({"error": error, "error_description": description}))
    }

    /// One more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// HTML for text.
pub fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            _ => html.push(char),
        }
    }
    html
}

/// A URL with further query parameters.
pub fn with_query<'a>(url: &str, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters);
    let query = query.finish();
    match (query.is_empty(), url.contains('?')) {
        (true, _) => url.to_owned(),
        (false, true) => format!("{url}&{query}"),
        (false, false) => format!("{url}?{query}"),
    }
}
