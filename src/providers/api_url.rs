//! A configured base URL and what lies below it.
//!
//! **Invariants**: whatever a segment holds, it stays one segment below the base: `/`, `?`, `#` and `%` are encoded, and
//! a segment that a URL would resolve away (`.`, `..`, nothing) is refused. **Must not know** any provider.

use url::Url;

/// A base such as `https://api.github.com` or `https://host/api/v3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiUrl(Url);

/// A segment that would not stay one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a part of the path cannot be sent")]
pub struct BadSegment;

impl ApiUrl {
    /// Reads a base; `None` if it is no http(s) URL with a host, or carries a query, a fragment or credentials.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text.trim()).ok()?;
        let is_plain = url.query().is_none() && url.fragment().is_none();
        let is_open = url.username().is_empty() && url.password().is_none();
        (matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain && is_open).then_some(Self(url))
    }

    /// The base itself.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The URL of a path of ours (`/user/installations`, a trailing slash is kept) below the base.
    pub fn at(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{}", path.trim_start_matches('/')));
        url
    }

    /// The URL of these segments below the base, each of them encoded.
    ///
    /// # Errors
    /// [`BadSegment`] if one is empty, `.` or `..`.
    pub fn below<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Result<Url, BadSegment> {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            path.push_str(&encode_segment(segment)?);
        }
        Ok(self.at(&path))
    }

    /// Whether a URL is on the same scheme, host and port: the only place where a token of ours may be sent.
    pub fn is_same_host(&self, other: &Url) -> bool {
        self.0.origin() == other.origin() && other.username().is_empty() && other.password().is_none()
    }
}

/// A path segment, percent-encoded: everything but letters, digits, `-`, `.`, `_` and `~`.
///
/// # Errors
/// [`BadSegment`] if it is empty, `.` or `..`.
pub fn encode_segment(segment: &str) -> Result<String, BadSegment> {
    if segment.is_empty() || segment == "." || segment == ".." {
        return Err(BadSegment);
    }
    let mut encoded = String::with_capacity(segment.len());
    for &byte in segment.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            encoded.push('%');
            encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
            encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> ApiUrl {
        ApiUrl::parse(text).expect("a base")
    }

    #[test]
    fn a_path_is_appended_to_the_base_and_keeps_its_trailing_slash() {
        assert_eq!(base("https://api.github.com").at("/user").as_str(), "https://api.github.com/user");
        assert_eq!(base("https://host/api/v3/").at("user").as_str(), "https://host/api/v3/user");
        assert_eq!(base("http://127.0.0.1:9").at("/api/0/projects/").as_str(), "http://127.0.0.1:9/api/0/projects/");
    }

    #[test]
    fn a_segment_stays_one_segment() {
        let url = base("https://host/api/v3").below(["repos", "a/b", "x?y#z", "50%", "ü ", "…"]).expect("sendable");
        assert_eq!(url.as_str(), "https://host/api/v3/repos/a%2Fb/x%3Fy%23z/50%25/%C3%BC%20/%E2%80%A6");
        let url = base("https://host").below(["repos", "..%2f..", "%2e%2e"]).expect("sendable");
        assert_eq!(url.as_str(), "https://host/repos/..%252f../%252e%252e");
        for hostile in ["", ".", ".."] {
            assert_eq!(base("https://host").below(["repos", hostile]), Err(BadSegment), "{hostile:?}");
        }
    }

    #[test]
    fn only_a_plain_http_url_is_a_base() {
        for wrong in ["", "github.com", "ftp://host", "https://user:pass@host", "https://host/?a=b", "file:///etc"] {
            assert_eq!(ApiUrl::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn another_port_scheme_or_name_is_another_host() {
        let base = base("https://api.github.com/v3");
        let same = |text| base.is_same_host(&Url::parse(text).expect("a URL"));
        assert!(same("https://api.github.com/x") && same("https://api.github.com:443/x"));
        assert!(!same("http://api.github.com/x") && !same("https://api.github.com:8443/x"));
        assert!(!same("https://api.github.com.evil.example/") && !same("https://me@api.github.com/"));
    }
}
