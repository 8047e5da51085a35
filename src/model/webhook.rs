//! A webhook before it is an event: raw bytes and headers.

use std::sync::Arc;

use bytes::Bytes;

use super::{clock::EpochMs, provider::ProviderSlug};

/// The longest id accepted from a caller, characters.
pub const MAX_ID_CHARS: usize = 128;

/// Whether an id that a caller chose for its request may be echoed, stored and logged: visible ASCII of sane length.
pub fn is_acceptable_id(id: &str) -> bool {
    (1..=MAX_ID_CHARS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A name and its value.
type Header = (Box<str>, Box<[u8]>);

/// Request headers, independent of any HTTP library: names in lower case, order and repetitions kept. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Arc<Vec<Header>>);

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a header; the name is lower-cased.
    pub fn append(&mut self, name: &str, value: impl Into<Box<[u8]>>) {
        Arc::make_mut(&mut self.0).push((name.to_ascii_lowercase().into(), value.into()));
    }

    /// The value of a header that is present exactly once and is text; `None` when absent, repeated or not
    /// UTF-8. `name` is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (Some(value), None) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// Every value of a header. `name` is in lower case.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(key, _)| &**key == name).map(|(_, value)| &**value)
    }

    /// Every header in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        let lower = |(name, value): (N, V)| (name.as_ref().to_ascii_lowercase().into(), value.as_ref().into());
        Self(Arc::new(headers.into_iter().map(lower).collect()))
    }
}

/// One inbound POST whose bytes have all arrived and of which nothing is believed yet.
#[derive(Debug, Clone)]
pub struct ReceivedWebhook {
    /// Named by the path.
    pub provider: ProviderSlug,
    /// As received.
    pub headers: Headers,
    /// As received, within the size limit.
    pub body: Bytes,
    /// When the last byte arrived.
    pub received_at: EpochMs,
    /// For logs, answers and the destination.
    pub correlation_id: String,
}
