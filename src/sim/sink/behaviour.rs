//! What a path does to whoever posts to it.

use std::time::Duration;

/// One way to treat a request. They nest: a failure can be slow, and can stop after a few tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// A proper answer.
    Answer {
        /// Its status.
        status: u16,
        /// Its headers beside `content-length`.
        headers: Vec<(String, String)>,
        /// Its body.
        body: String,
    },
    /// Waits, then does the other thing.
    After(Duration, Box<Behaviour>),
    /// Reads the request and never answers.
    Hang,
    /// Reads the request and resets the connection.
    Reset,
    /// A 200 whose body is this many bytes.
    Flood(u64),
    /// A 200 whose body comes a byte at a time, this far apart, for as long as anybody listens.
    Drip(Duration),
    /// Instead of HTTP, this.
    Garbage(String),
    /// The head of an answer a byte at a time, this far apart, and never its end.
    DripHead(Duration),
    /// The first `times` tries of every delivery (by `webhook-id`) get this; later ones 200.
    FailFirst {
        /// How many tries fail.
        times: u32,
        /// How.
        with: Box<Behaviour>,
    },
    /// The path's requests get these in turn; after the last, the last again.
    InTurn(Vec<Behaviour>),
}

impl Behaviour {
    /// An empty 200.
    pub fn ok() -> Self {
        Self::status_only(200)
    }

    /// An empty answer of that status.
    pub fn status_only(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: String::new() }
    }

    /// An empty answer with one header.
    pub fn with_header(status: u16, name: &str, value: &str) -> Self {
        Self::Answer { status, headers: vec![(name.to_owned(), value.to_owned())], body: String::new() }
    }

    /// 429 or 503 with `Retry-After` in seconds.
    pub fn retry_after(status: u16, seconds: u64) -> Self {
        Self::with_header(status, "retry-after", &seconds.to_string())
    }

    /// 302 to that URL.
    pub fn redirect(to: &str) -> Self {
        Self::with_header(302, "location", to)
    }

    /// Whether it has to know how many tries a delivery had: only then are they remembered.
    pub(super) fn counts_tries(&self) -> bool {
        match self {
            Self::FailFirst { .. } => true,
            Self::InTurn(turns) => turns.iter().any(Self::counts_tries),
            Self::After(_, then) => then.counts_tries(),
            _ => false,
        }
    }

    /// What to do with the request that is number `tries` of its delivery and number `requests` of its path, both
    /// from 0: this, with the counting ones decided.
    pub(super) fn resolve(&self, tries: u32, requests: u32) -> Self {
        match self {
            Self::FailFirst { times, with } if tries < *times => with.resolve(tries, requests),
            Self::FailFirst { .. } => Self::ok(),
            Self::InTurn(turns) => {
                let at = usize::try_from(requests).unwrap_or(usize::MAX).min(turns.len().saturating_sub(1));
                turns.get(at).map_or_else(Self::ok, |turn| turn.resolve(tries, requests))
            }
            Self::After(wait, then) => Self::After(*wait, Box::new(then.resolve(tries, requests))),
            other => other.clone(),
        }
    }

    /// The status of a decided behaviour; `None` when there is no proper answer.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            Self::After(_, then) => then.status(),
            Self::Flood(_) | Self::Drip(_) => Some(200),
            Self::Hang
            | Self::Reset
            | Self::Garbage(_)
            | Self::DripHead(_)
            | Self::FailFirst { .. }
            | Self::InTurn(_) => None,
        }
    }
}
