//! Extracting: whatever is signed is read or refused; what is read fits its columns, is no larger than what was sent,
//! and is what destinations will get.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use signalbox::{
    delivery::payload::json_of,
    model::webhook::Headers,
    providers::{ControlChange, ExtractError, Inbound, ResourceSelector},
};

use super::webhook::{headers_of, parse, provider};

/// The longest text any column is asked to hold, bytes.
const LONGEST_TEXT: usize = 511;

pub fn github(data: &[u8]) {
    webhook("github", data);
}

pub fn vercel(data: &[u8]) {
    webhook("vercel", data);
}

pub fn linear(data: &[u8]) {
    webhook("linear", data);
}

pub fn sentry(data: &[u8]) {
    webhook("sentry", data);
}

fn webhook(slug: &str, data: &[u8]) {
    let (pairs, body) = parse(data);
    let headers = headers_of(&pairs);
    if let Ok(inbound) = provider(slug).extract(&headers, &body) {
        expect_sane(&inbound, &headers, &body);
        // The content type is not signed: it must not make another event of a body that is one already, a JSON object.
        if serde_json::from_slice::<HashMap<String, &RawValue>>(&body).is_ok() {
            assert_eq!(inbound.payload, body, "a part of the body is taken for the event");
        }
        // The service path reads the same payload, or another event of it, and no worse.
        let again = provider(slug).extract_trusted(&inbound.wire_type, &inbound.delivery_id, &inbound.payload);
        let again = again.unwrap_or_else(|error| panic!("read, and not read again: {error}"));
        assert_eq!(again.payload, inbound.payload);
        assert_eq!(again.installation, inbound.installation, "another account by the service path");
        expect_sane(&again, &Headers::new(), &inbound.payload);
    }
}

/// A form of GitHub's, against the URL standard's decoder.
pub fn form(body: &[u8]) {
    let body = Bytes::copy_from_slice(body);
    let headers: Headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("x-github-event", "push"),
        ("x-github-delivery", "5f2c"),
    ]
    .into_iter()
    .collect();
    if body.trim_ascii_start().starts_with(b"{") {
        // JSON under a wrong name: the target `extract_github` has it.
        return;
    }
    let standard = form_urlencoded::parse(&body).find(|(name, _)| name == "payload").map(|(_, value)| value);
    match (provider("github").extract(&headers, &body), standard) {
        (Ok(inbound), Some(standard)) => {
            assert_eq!(inbound.payload, standard.as_bytes(), "decoded otherwise than the standard says");
            expect_sane(&inbound, &headers, &body);
        }
        (Ok(_), None) => panic!("a payload where the standard finds none"),
        // The standard puts U+FFFD for what is not UTF-8; we refuse it.
        (Err(_), Some(standard)) if standard.contains('\u{fffd}') => {}
        (Err(error), Some(standard)) => {
            let is_object = serde_json::from_str::<&RawValue>(&standard).is_ok_and(|raw| raw.get().starts_with('{'));
            assert!(!is_object, "an object, and refused: {error}");
        }
        (Err(error), None) => assert!(matches!(error, ExtractError::InvalidPayload(_)), "{error}"),
    }
}

fn expect_sane(inbound: &Inbound, headers: &Headers, body: &[u8]) {
    expect_text(inbound.delivery_id.as_str());
    // A body may name no type: it is kept, and nobody gets it.
    assert!(inbound.wire_type.len() <= LONGEST_TEXT && !inbound.wire_type.contains('\0'));
    let payload: &RawValue = serde_json::from_slice(&inbound.payload).expect("the payload is JSON: it is spliced");
    assert!(payload.get().starts_with('{'), "the payload is no object");
    // Whatever is sent later is made of the stored bytes and the stored content type.
    let sent = json_of(headers.get("content-type"), body);
    assert!(*sent == *inbound.payload, "another payload is sent than was read");

    let mut bytes = 0;
    let mut count = |text: &str| {
        expect_text(text);
        bytes += text.len();
    };
    match &inbound.resources {
        ResourceSelector::All => {}
        ResourceSelector::Ids(ids) => ids.iter().for_each(|id| count(id.as_str())),
        ResourceSelector::Slugs(slugs) => slugs.iter().for_each(|slug| count(slug)),
    }
    inbound.installation.iter().chain(&inbound.alternate_installations).for_each(|id| count(id.as_str()));
    inbound.key.iter().chain(&inbound.also_keys).for_each(|key| count(key.as_str()));
    for change in &inbound.control {
        bytes += match change {
            ControlChange::InstallationConfirmed { metadata, .. } => size_of_map(metadata),
            ControlChange::ResourceChanged { attrs, .. } => size_of_map(attrs),
            ControlChange::ResourcesRemoved { ids, .. } | ControlChange::ResourcesAdded { ids } => {
                ids.iter().map(|id| id.as_str().len()).sum()
            }
            _ => 0,
        };
    }
    assert!(bytes <= 4 * body.len() + 4096, "{bytes} bytes were read out of {}", body.len());
}

fn size_of_map(map: &serde_json::Map<String, serde_json::Value>) -> usize {
    serde_json::to_vec(map).expect("serialisable").len()
}

fn expect_text(text: &str) {
    assert!(!text.is_empty() && text.len() <= LONGEST_TEXT && !text.contains('\0'), "{text:?} fits no column");
}
