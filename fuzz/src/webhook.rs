//! A webhook as a text file: lines of `name: value`, an empty line, the body. Seeds and findings can be read and written
//! by hand.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use signalbox::{
    model::webhook::Headers,
    providers::{Provider, Registry},
};

/// The built-in provider of that slug.
pub fn provider(slug: &str) -> &'static dyn Provider {
    static PROVIDERS: OnceLock<Vec<Arc<dyn Provider>>> = OnceLock::new();
    let providers = PROVIDERS.get_or_init(|| Registry::built_in().iter().map(|listed| (listed.make)()).collect());
    providers.iter().find(|provider| provider.slug().as_str() == slug).expect("built in").as_ref()
}

/// Header lines and body; without an empty line everything is header.
pub fn parse(data: &[u8]) -> (Vec<(String, &[u8])>, Bytes) {
    let mut headers = Vec::new();
    let mut rest = data;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let (line, after) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
        if line.is_empty() {
            return (headers, Bytes::copy_from_slice(after));
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        headers.push((String::from_utf8_lossy(&line[..colon]).into_owned(), value.trim_ascii()));
        rest = after;
    }
}

/// The same as the gateway keeps them.
pub fn headers_of(pairs: &[(String, &[u8])]) -> Headers {
    pairs.iter().map(|(name, value)| (name, value)).collect()
}
