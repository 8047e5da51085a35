//! Small texts that say when: times in payloads and queries, `Retry-After`, rate limit headers; and what follows from
//! them. Rules out of a row's JSON.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use signalbox::{
    delivery::schedule::{Decision, decide},
    model::{
        clock::EpochMs,
        delivery::AttemptResult,
        event::EventKey,
        integration::SyncRules,
        provider::{ExternalId, ProviderResourceId},
    },
    providers::{Registry, ResourceFacts, http::Reply},
};

use super::webhook::provider;

/// A line of text, then JSON.
pub fn run(data: &[u8]) {
    let (line, rest) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let text = String::from_utf8_lossy(line);
    time(&text);
    answer(&text, rest);
    if let Ok(Value::Object(map)) = serde_json::from_slice(rest) {
        rules(&text, &map);
    }
}

fn time(text: &str) {
    if let Some(time) = EpochMs::parse_rfc3339(text) {
        let shown = time.to_rfc3339();
        assert_eq!(EpochMs::parse_rfc3339(&shown), Some(time), "{shown} is another time");
    }
    if let Ok(millis) = text.trim().parse::<i64>() {
        let time = EpochMs(millis);
        assert!(!time.to_rfc3339().is_empty());
        let later = time.plus(Duration::MAX);
        assert!(later >= time && time.minus(Duration::MAX) <= time && later.since(time) <= Duration::MAX);
    }
}

fn answer(text: &str, rest: &[u8]) {
    let status = rest.get(1).map_or(200, |byte| u16::from(*byte) * 2 + 100);
    let headers = [("retry-after", text), ("x-ratelimit-reset", text)];
    let reply = Reply {
        status,
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        body: Bytes::copy_from_slice(rest),
    };
    let retry_after = reply.retry_after();
    drop(reply.unavailable());
    for now in [EpochMs(i64::MIN), EpochMs(0), EpochMs(1_786_701_234_567), EpochMs(i64::MAX)] {
        if let Some(wait) = reply.wait_until_reset("x-ratelimit-reset", now) {
            assert!(now.plus(wait) >= now, "a wait into the past");
        }
        let result = AttemptResult::Answered { status, retry_after_s: retry_after.map(|wait| wait.as_secs()) };
        // The longest wait that configuration allows.
        let schedule = [Duration::ZERO, Duration::from_secs(5), Duration::from_secs(u64::from(u32::MAX))];
        for (attempt, scheduled) in schedule.iter().enumerate() {
            let attempts = u32::try_from(attempt).expect("three");
            if let Decision::RetryAt { at, .. } = decide(attempts, &result, false, &schedule, now, 0.999_999) {
                assert!(at >= now && at <= now.plus(*scheduled * 2), "a wait of more than twice the scheduled one");
            }
        }
    }
    drop(reply.json::<Map<String, Value>>("an object"));
}

fn rules(text: &str, map: &Map<String, Value>) {
    let rules = SyncRules::from_source_config(map);
    let key = EventKey::new(text);
    if !rules.events.iter().any(|allowed| allowed == text) {
        assert!(!rules.allows(&key, &[], text), "allowed without being named");
    }
    let facts = Value::Object(map.clone());
    let (external_id, resource) = (ExternalId::new(text), ProviderResourceId::new(text));
    for slug in ["github", "vercel", "linear", "sentry"] {
        let provider = provider(slug);
        drop(provider.account_of_seed(text, &facts));
        let made = provider.source_config(&ResourceFacts {
            external_id: &external_id,
            alternate_external_id: None,
            account_login: Some(text),
            provider_resource_id: &resource,
            slug: Some(text),
            name: None,
            attrs: map,
        });
        assert_eq!(made["sourceType"], slug);
        let wanted = [text.to_owned(), rules.events.first().cloned().unwrap_or_default()];
        match Registry::expand_event_keys(provider, &wanted) {
            Ok(expanded) => assert!(expanded.iter().all(|key| provider.events().iter().any(|spec| spec.key == key))),
            Err(unknown) => assert!(unknown.iter().all(|key| wanted.contains(key)) && !unknown.is_empty()),
        }
    }
}
