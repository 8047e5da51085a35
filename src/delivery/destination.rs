//! What an owner may ask of a destination: its URL and the headers sent along.
//!
//! **Owns** the checks made when a destination is saved; `client` repeats the address check at every dial, because a
//! name may resolve to something else by then. **Invariants**: an accepted URL is http or https and free of
//! credentials; an accepted header cannot change how the request is framed, whom it is for or what it is signed as.
//! **Must not know** how a request is sent.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use url::{Host, Position, Url};
use zeroize::Zeroizing;

use super::address;
use crate::model::error_kind::ErrorKind;

/// Longest URL, bytes.
const MAX_URL_BYTES: usize = 2048;
/// Most headers a destination can ask for.
const MAX_HEADERS: usize = 32;
/// Longest header value, bytes.
const MAX_HEADER_VALUE_BYTES: usize = 4096;

/// Names no destination can set: they frame the request, belong to the hop, or are ours.
const RESERVED_HEADERS: [&str; 19] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-correlation-id",
    "x-request-id",
];
const RESERVED_PREFIXES: [&str; 2] = ["proxy-", "webhook-"];

/// Why a destination is not accepted. The header's value is never in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationRefused {
    /// Not an absolute http or https URL with a host, or longer than 2048 bytes.
    #[error("the URL must be an absolute http or https URL of at most {MAX_URL_BYTES} bytes")]
    InvalidUrl,
    /// `user:password@` in the URL: it would end up in logs and lists.
    #[error("the URL must not contain a user name or password; use a header")]
    Credentials,
    /// A fragment is never sent.
    #[error("the URL must not have a fragment")]
    Fragment,
    /// The host is an address that is not dialled.
    #[error("the URL's address is private, local or reserved")]
    Address,
    /// Too many headers.
    #[error("at most {MAX_HEADERS} headers can be set")]
    TooManyHeaders,
    /// A header that cannot be set, or whose name or value is malformed.
    #[error("the header {name:?} {why}")]
    Header {
        /// Its name as given, shortened.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl DestinationRefused {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidUrl | Self::Credentials | Self::Fragment => "invalid_destination_url",
            Self::Address => "destination_address_refused",
            Self::TooManyHeaders | Self::Header { .. } => "invalid_destination_headers",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::BadRequest
    }
}

/// Checks a destination's URL. A name is not resolved here: that is done, and checked, at every dial.
///
/// # Errors
/// [`DestinationRefused`] says what is wrong.
pub fn validate_url(text: &str, allow_private_networks: bool) -> Result<Url, DestinationRefused> {
    if text.len() > MAX_URL_BYTES {
        return Err(DestinationRefused::InvalidUrl);
    }
    let url = Url::parse(text).map_err(|_| DestinationRefused::InvalidUrl)?;
    // The bound is on what is stored and read again, which escapes may have made longer.
    if url.as_str().len() > MAX_URL_BYTES || !matches!(url.scheme(), "http" | "https") || url.port() == Some(0) {
        return Err(DestinationRefused::InvalidUrl);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(DestinationRefused::Credentials);
    }
    if url.fragment().is_some() {
        return Err(DestinationRefused::Fragment);
    }
    match literal_address(&url) {
        Some(address) if !address::is_allowed(address, allow_private_networks) => Err(DestinationRefused::Address),
        _ => Ok(url),
    }
}

/// An accepted URL as it is kept and shown: canonical, but without the slash for a path if its owner wrote none. Read again
/// it is the same URL.
pub fn as_written(text: &str, url: &Url) -> String {
    let (authority, rest) = (&url[..Position::BeforePath], &url[Position::BeforePath..]);
    let without_path = rest.strip_prefix('/').map(|rest| format!("{authority}{rest}"));
    without_path.filter(|written| written == text).unwrap_or_else(|| url.to_string())
}

/// The address a URL names directly, without a name to resolve. The parser has already turned the many spellings of an
/// IPv4 address (`0x7f.1`, `2130706433`) into one.
pub fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(v4) => Some(v4.into()),
        Host::Ipv6(v6) => Some(v6.into()),
        Host::Domain(_) => None,
    }
}

/// Headers that were checked. Values may be credentials: they are wiped when dropped and never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ExtraHeaders(Vec<(String, Zeroizing<String>)>);

impl ExtraHeaders {
    /// Names in lower case, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for ExtraHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Checks the headers a destination asks for.
///
/// # Errors
/// [`DestinationRefused`] names the offending header.
pub fn validate_headers(headers: &BTreeMap<String, String>) -> Result<ExtraHeaders, DestinationRefused> {
    if headers.len() > MAX_HEADERS {
        return Err(DestinationRefused::TooManyHeaders);
    }
    let mut checked: Vec<(String, Zeroizing<String>)> = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let twice = checked.iter().any(|(earlier, _)| *earlier == lower);
        if let Some(why) = fault_of_name(&lower, twice).or_else(|| fault_of_value(value)) {
            return Err(DestinationRefused::Header { name: name.chars().take(64).collect(), why });
        }
        checked.push((lower, Zeroizing::new(value.clone())));
    }
    Ok(ExtraHeaders(checked))
}

fn fault_of_name(lower: &str, twice: bool) -> Option<&'static str> {
    // RFC 9110 section 5.6.2: a field name is a token.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if lower.is_empty() || lower.len() > 128 || !lower.bytes().all(is_token) {
        return Some("is not a header name");
    }
    if RESERVED_HEADERS.contains(&lower) || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) {
        return Some("is set by Signalbox or by the connection");
    }
    twice.then_some("is given twice")
}

fn fault_of_value(value: &str) -> Option<&'static str> {
    if value.len() > MAX_HEADER_VALUE_BYTES {
        return Some("has too long a value");
    }
    let is_sendable = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    (!value.bytes().all(is_sendable)).then_some("has a value with line breaks, control or non-ASCII characters")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_urls_are_accepted() {
        for text in
            ["https://example.com/hook?a=b", "http://example.com:8080", "https://1.1.1.1/", "http://localhost:1/"]
        {
            assert!(validate_url(text, false).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_url_is_kept_as_its_owner_wrote_it_only_if_it_lacks_a_path() {
        for (text, kept) in [
            ("http://host:9", "http://host:9"),
            ("https://example.com?a=b", "https://example.com?a=b"),
            ("http://host:9/", "http://host:9/"),
            ("http://host/in", "http://host/in"),
            ("HTTP://Host:80", "http://host/"),
            (" http://host ", "http://host/"),
            ("http://host/a/../in", "http://host/in"),
            ("http://hostin", "http://hostin"),
        ] {
            let url = validate_url(text, true).expect(text);
            assert_eq!(as_written(text, &url), kept, "{text}");
            assert_eq!(Url::parse(kept), Ok(url), "{text}");
        }
    }

    #[test]
    fn other_schemes_and_malformed_urls_are_refused() {
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES));
        let long_once_escaped = format!("https://example.com/{}", "é".repeat(MAX_URL_BYTES / 4));
        assert!(long_once_escaped.len() < MAX_URL_BYTES);
        for text in [
            "",
            "example.com",
            "/hook",
            "ftp://example.com",
            "file:///etc/passwd",
            "http://",
            "http://a b/",
            "http://[::1",
            "http://example.com:0/",
            "http://example.com:99999/",
            &long,
            &long_once_escaped,
        ] {
            assert_eq!(validate_url(text, true), Err(DestinationRefused::InvalidUrl), "{text}");
        }
    }

    #[test]
    fn credentials_and_fragments_are_refused() {
        for text in ["https://user:pw@example.com/", "https://user@example.com/", "https://:pw@example.com/"] {
            assert_eq!(validate_url(text, false), Err(DestinationRefused::Credentials), "{text}");
        }
        assert_eq!(validate_url("https://example.com/#top", false), Err(DestinationRefused::Fragment));
    }

    #[test]
    fn addresses_in_any_spelling_are_refused_where_private_networks_are() {
        for text in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://10.1.2.3:8080/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
        ] {
            assert_eq!(validate_url(text, false), Err(DestinationRefused::Address), "{text}");
            assert!(validate_url(text, true).is_ok(), "{text}");
        }
        for text in ["http://169.254.169.254/latest/meta-data", "http://0.0.0.0/", "http://[64:ff9b::7f00:1]/"] {
            assert_eq!(validate_url(text, true), Err(DestinationRefused::Address), "{text}");
        }
    }

    fn refuse(name: &str, value: &str) -> Option<DestinationRefused> {
        validate_headers(&BTreeMap::from([(name.to_owned(), value.to_owned())])).err()
    }

    #[test]
    fn headers_that_frame_or_sign_the_request_are_refused() {
        for name in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "connection",
            "webhook-id",
            "Webhook-Signature",
            "Content-Type",
            "proxy-authorization",
            "te",
            "User-Agent",
            "X-Correlation-Id",
            "",
            "a b",
            "a:b",
            "a\r\nb",
            "ä",
        ] {
            assert!(refuse(name, "x").is_some(), "{name:?}");
        }
    }

    #[test]
    fn values_with_line_breaks_are_refused_and_not_repeated_in_the_error() {
        for value in ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b", "\u{7f}", "ümlaut"] {
            let refused = refuse("x-token", value).expect("refused");
            assert!(!refused.to_string().contains(value), "{value:?}");
            assert_eq!(refused.code(), "invalid_destination_headers");
        }
    }

    #[test]
    fn one_name_in_two_spellings_is_refused() {
        let headers = BTreeMap::from([("X-Token".to_owned(), "a".to_owned()), ("x-token".to_owned(), "b".to_owned())]);
        assert!(validate_headers(&headers).is_err());
    }

    #[test]
    fn accepted_headers_are_not_printed() {
        let headers = BTreeMap::from([("Authorization".to_owned(), "Bearer s3cret".to_owned())]);
        let checked = validate_headers(&headers).expect("accepted");
        assert_eq!(format!("{checked:?}"), r#"{"authorization"}"#);
        assert_eq!(checked.iter().collect::<Vec<_>>(), [("authorization", "Bearer s3cret")]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_checks_panic(url: String, name: String, value: String) {
            let accepted = validate_url(&url, false);
            prop_assert!(accepted.is_err() || url.trim().to_ascii_lowercase().starts_with("http"));
            if refuse(&name, &value).is_none() {
                prop_assert!(!value.contains(['\r', '\n']) && !name.is_empty());
            }
        }
    }
}
