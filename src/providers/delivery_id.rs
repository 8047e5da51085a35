//! Provider delivery ids: the provider's own, or one made of the webhook itself.
//!
//! **Invariants**: never random and never of the time, so that a retry has the id of the first attempt; an id fits a
//! column and an index. **Must not know** any provider.

use super::partial::is_short_text;
use crate::{
    crypto::hmac::sha256_hex_of_parts,
    model::{
        provider::{ProviderDeliveryId, ProviderSlug},
        webhook::Headers,
    },
};

/// The value of a header that is present exactly once and is short printable text. `name` is in lower case.
pub(super) fn header_text<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers.get(name).filter(|value| is_short_text(value))
}

/// The id of a webhook whose provider sends none that survives a retry: the digest of (provider, event header, raw
/// body), 64 hex digits.
pub(super) fn content_id(provider: ProviderSlug, event_header: Option<&str>, body: &[u8]) -> ProviderDeliveryId {
    let parts = [provider.as_str().as_bytes(), event_header.unwrap_or_default().as_bytes(), body];
    ProviderDeliveryId::new(sha256_hex_of_parts(&parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_id_depends_on_provider_event_and_body_and_on_nothing_else() {
        let acme = ProviderSlug("acme");
        let id = content_id(acme, Some("issue"), b"{}");
        assert_eq!(id, content_id(acme, Some("issue"), b"{}"));
        assert_eq!(id.as_str().len(), 64);
        for other in [
            content_id(ProviderSlug("acm"), Some("eissue"), b"{}"),
            content_id(acme, Some("error"), b"{}"),
            content_id(acme, Some("issue{"), b"}"),
            content_id(acme, None, b"{}"),
            content_id(acme, Some("issue"), b"{ }"),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn a_header_that_is_repeated_empty_long_or_unprintable_is_not_there() {
        let long = "x".repeat(300);
        for value in ["", "a\u{0}b", "a\nb", &long] {
            assert_eq!(header_text(&[("h", value)].into_iter().collect(), "h"), None);
        }
        assert_eq!(header_text(&[("h", "a"), ("h", "a")].into_iter().collect(), "h"), None);
        assert_eq!(header_text(&[("H", "a")].into_iter().collect(), "h"), Some("a"));
    }
}
