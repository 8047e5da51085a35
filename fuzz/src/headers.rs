//! Headers: those that arrive are kept as they are, those that an owner asks for cannot reframe a request.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use signalbox::{
    delivery::{destination::validate_headers, sign::SigningSecret},
    model::{secret::Secret, webhook::Headers},
};

use super::webhook::{headers_of, parse, provider};

const FRAMING: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "connection", "content-type", "te", "trailer", "upgrade"];

/// Lines of `name: value`, an empty line, a body.
pub fn run(data: &[u8]) {
    let (pairs, body) = parse(data);
    let headers = headers_of(&pairs);
    expect_kept(&pairs, &headers);
    for slug in ["github", "vercel", "linear", "sentry"] {
        let secret = Secret::new("never the signer of this").expect("not empty");
        let verdict = provider(slug).scheme().verify(&headers, &body, &[secret]);
        assert!(verdict.is_err(), "nobody signed it");
    }
    expect_harmless(&pairs);
    for (_, value) in &pairs {
        let Ok(secret) = SigningSecret::parse(&String::from_utf8_lossy(value)) else { continue };
        let text = secret.to_text();
        assert_eq!(SigningSecret::parse(&text).as_ref(), Ok(&secret), "a secret is not what it says it is");
    }
}

fn expect_kept(pairs: &[(String, &[u8])], headers: &Headers) {
    assert_eq!(headers.iter().count(), pairs.len());
    for (name, _) in pairs.iter().take(32) {
        let lower = name.to_ascii_lowercase();
        let given = pairs.iter().filter(|(other, _)| other.to_ascii_lowercase() == lower).map(|(_, value)| *value);
        assert!(headers.all(&lower).eq(given.clone()), "a value is lost or out of order");
        let mut given = given;
        let once = match (given.next(), given.next()) {
            (Some(value), None) => std::str::from_utf8(value).ok(),
            _ => None,
        };
        assert_eq!(headers.get(&lower), once);
    }
}

/// What the owner of a destination asks for is refused, or can be sent, and is none of ours.
fn expect_harmless(pairs: &[(String, &[u8])]) {
    let wanted: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect();
    let Ok(accepted) = validate_headers(&wanted) else { return };
    assert_eq!(accepted.iter().count(), wanted.len());
    for (name, value) in accepted.iter() {
        let sendable = HeaderName::from_bytes(name.as_bytes()).expect("an accepted name can be sent");
        assert_eq!(sendable.as_str(), name);
        HeaderValue::from_str(value).expect("an accepted value can be sent");
        assert!(!FRAMING.contains(&name) && !name.starts_with("webhook-"), "{name} is not for an owner to set");
    }
}
