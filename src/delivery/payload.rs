//! The body that is sent: the envelope around the payload's own bytes.
//!
//! **Invariants**: the payload is JSON text exactly as the provider sent it; nothing here parses it. A form-encoded
//! webhook's payload is its decoded `payload` field. A body that begins as a JSON object is sent as it is, whatever its
//! content type, which no provider signs: extraction (`providers/form.rs`) read it so too. **Must not know** who receives
//! it.

use std::borrow::Cow;

use crate::{model::envelope::Envelope, store::ClaimedDelivery};

/// What stands in for a form without a `payload` field, so that the envelope stays JSON. Extraction refuses such
/// forms; only a row edited by hand gets here.
const NOTHING: &[u8] = b"null";

/// The JSON text inside a webhook's body.
pub fn json_of<'a>(content_type: Option<&str>, body: &'a [u8]) -> Cow<'a, [u8]> {
    if body.trim_ascii_start().starts_with(b"{") || !content_type.is_some_and(is_form) {
        return Cow::Borrowed(body);
    }
    form_urlencoded::parse(body)
        .find(|(name, _)| name == "payload")
        .map_or(Cow::Borrowed(NOTHING), |(_, value)| Cow::Owned(value.into_owned().into_bytes()))
}

fn is_form(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The body of every attempt of this delivery.
///
/// # Errors
/// Only if the envelope itself cannot be serialised.
pub fn body_of(claimed: &ClaimedDelivery) -> Result<Vec<u8>, serde_json::Error> {
    let (delivery, event) = (&claimed.delivery, &claimed.event);
    let envelope = Envelope {
        event_id: event.id.clone(),
        delivery_id: event.provider_delivery_id.clone(),
        connection_id: event.installation.clone(),
        org_id: delivery.org.clone(),
        provider: event.provider.as_str().to_owned(),
        event_type: event.wire_type.clone(),
        event_key: event.key.clone(),
        workspace_id: delivery.workspace.clone(),
        integration_id: delivery.integration.clone(),
        resource_id: delivery.resource.clone(),
        received_at: event.received_at,
    };
    envelope.to_body(&json_of(claimed.content_type.as_deref(), &claimed.body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_is_left_as_it_is_even_if_no_parser_would_take_it() {
        let body = b"{\"n\":1e400, \"s\":\"\\ud800\"}  ";
        assert_eq!(json_of(Some("application/json"), body).as_ref(), body);
        assert_eq!(json_of(None, body).as_ref(), body);
    }

    #[test]
    fn a_forms_payload_field_is_decoded() {
        let body = b"a=b&payload=%7B%22ref%22%3A%22refs%2Fheads%2Fmain%22%2C%22m%22%3A%22a+b%22%7D&payload=x";
        for content_type in ["application/x-www-form-urlencoded", "Application/X-WWW-Form-Urlencoded; charset=utf-8"] {
            assert_eq!(json_of(Some(content_type), body).as_ref(), br#"{"ref":"refs/heads/main","m":"a b"}"#);
        }
    }

    #[test]
    fn a_json_object_is_sent_as_it_is_whatever_the_content_type_says() {
        for body in [&b"{\"message\":\"&payload=%7B%7D&\"}"[..], b" \r\n\t{}"] {
            assert_eq!(json_of(Some("application/x-www-form-urlencoded"), body).as_ref(), body);
        }
    }

    #[test]
    fn a_form_without_payload_keeps_the_envelope_json() {
        assert_eq!(json_of(Some("application/x-www-form-urlencoded"), b"a=b").as_ref(), b"null");
    }

    proptest! {
        #[test]
        fn any_text_survives_the_form(text: String) {
            let body = form_urlencoded::Serializer::new(String::new()).append_pair("payload", &text).finish();
            let json = json_of(Some("application/x-www-form-urlencoded"), body.as_bytes()).into_owned();
            prop_assert_eq!(json, text.into_bytes());
        }
    }
}
