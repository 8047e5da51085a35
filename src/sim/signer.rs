//! Signs requests as the providers do, and lets tests sign anything at all.
//!
//! **Invariants.** The signature covers exactly the bytes that are sent; for a form, the form's.

use bytes::Bytes;

use crate::crypto::hmac::{hmac_sha1, hmac_sha256};

/// A request ready to be posted to `/webhooks/{provider}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRequest {
    /// Header names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

impl SignedRequest {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// The same request with one header set to another value, added or (with `None`) removed.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.headers.retain(|(key, _)| *key != name);
        self.headers.extend(value.map(|value| (name, value.to_owned())));
        self
    }
}

/// How the JSON of an event is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As the body.
    Json,
    /// As the `payload` field of a form: GitHub's other content type.
    Form,
}

/// How a provider signs: lower-case hex of a MAC over the raw body in one header.
#[derive(Debug, Clone, Copy)]
pub struct Signing {
    /// The header, in lower case.
    pub header: &'static str,
    /// What stands before the digits.
    pub prefix: &'static str,
    /// Whether it is HMAC-SHA1; else HMAC-SHA256.
    pub sha1: bool,
    /// The JSON content type, as this provider writes it.
    pub json_content_type: &'static str,
}

impl Signing {
    /// The signature header's value for `body`.
    pub fn signature(&self, body: &[u8], secret: &[u8]) -> String {
        let digits =
            if self.sha1 { hex::encode(hmac_sha1(secret, &[body])) } else { hex::encode(hmac_sha256(secret, &[body])) };
        format!("{}{digits}", self.prefix)
    }

    /// Signs a body of any kind: the JSON of an event, or whatever a test wants the gateway to choke on.
    pub fn sign(
        &self,
        mut headers: Vec<(&'static str, String)>,
        json: impl Into<Vec<u8>>,
        secret: &[u8],
        encoding: Encoding,
    ) -> SignedRequest {
        let json = json.into();
        let (content_type, body) = match encoding {
            Encoding::Json => (self.json_content_type, json),
            Encoding::Form => {
                let form: String = ["payload="].into_iter().chain(form_urlencoded::byte_serialize(&json)).collect();
                ("application/x-www-form-urlencoded", form.into_bytes())
            }
        };
        headers.push(("content-type", content_type.to_owned()));
        headers.push((self.header, self.signature(&body, secret)));
        SignedRequest { headers, body: body.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{github, vercel};

    #[test]
    fn github_signatures_match_the_vector_of_its_documentation() {
        let signature = github::PROVIDER.signing.signature(b"Hello, World!", b"It's a Secret to Everybody");
        assert_eq!(signature, "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
    }

    #[test]
    fn vercel_signatures_are_hmac_sha1_in_plain_hex() {
        // RFC 2202, test case 2.
        let signature = vercel::PROVIDER.signing.signature(b"what do ya want for nothing?", b"Jefe");
        assert_eq!(signature, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
    }

    #[test]
    fn a_form_is_signed_as_the_form_that_is_sent_and_decodes_to_the_json() {
        let json = br#"{"title":"50% & more = \u00e9"}"#;
        let signing = &github::PROVIDER.signing;
        let request = signing.sign(Vec::new(), json.as_slice(), b"secret", Encoding::Form);
        assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert_eq!(request.header("x-hub-signature-256"), Some(signing.signature(&request.body, b"secret").as_str()));
        let fields: Vec<_> = form_urlencoded::parse(&request.body).collect();
        assert_eq!(fields, [("payload".into(), String::from_utf8_lossy(json))]);
    }
}
