//! Providers: registry × fixtures. A provider that is registered is tested here without being named here; the suite
//! fails until it has a fixture for every key of its catalogue.

mod fixture;
mod github_connector;
mod hostile;
mod linear_connector;
mod scripted;
mod sentry_connector;
mod simulated;
mod vercel_connector;

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use signalbox::{
    model::{
        clock::EpochMs,
        provider::{ExternalId, ProviderDeliveryId, ProviderResourceId},
        secret::Secret,
        webhook::Headers,
    },
    providers::{Provider, Registry, ResourceFacts, VerifyError},
};

use self::fixture::{Fixture, RECEIVED_AT, list_fixtures, render, secret, sign, verify_at_once};

fn providers() -> Vec<Arc<dyn Provider>> {
    Registry::built_in().iter().map(|registered| (registered.make)()).collect()
}

fn find_provider(slug: &str) -> Arc<dyn Provider> {
    providers().into_iter().find(|provider| provider.slug().as_str() == slug).expect("registered")
}

fn for_each_fixture(check: impl Fn(&dyn Provider, &Fixture)) {
    for provider in providers() {
        for fixture in list_fixtures(provider.slug().as_str()) {
            check(&*provider, &fixture);
        }
    }
}

#[test]
fn every_fixture_is_verified_and_understood_as_expected() {
    for_each_fixture(|provider, fixture| {
        let older = Secret::new("an older secret").expect("not empty");
        let headers = sign(provider, &fixture.headers, &fixture.body);
        let verified = verify_at_once(provider, headers, fixture.body.clone(), &[older, secret()])
            .unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
        assert_eq!(verified.secret_index(), 1, "{}", fixture.name);
        let webhook = verified.webhook();
        assert_eq!(webhook.body, fixture.body, "{}", fixture.name);
        let reading = provider.extract(&webhook.headers, &webhook.body);
        assert_eq!(render(&reading), fixture.expect, "{}", fixture.name);
    });
}

#[test]
fn nothing_but_the_body_and_the_headers_that_a_provider_says_it_reads_decides_what_a_webhook_is() {
    for_each_fixture(|provider, fixture| {
        let read: Headers = fixture.headers.iter().filter(|(name, _)| provider.read_headers().contains(name)).collect();
        assert_eq!(render(&provider.extract(&read, &fixture.body)), fixture.expect, "{}", fixture.name);
    });
}

#[test]
fn what_tells_of_a_grant_is_control_even_if_it_changes_nothing() {
    const CHANGE_NOTHING: [&str; 3] = [
        "github/app-authorization-revoked",
        "linear/oauth-authorization-still-active",
        "sentry/installation-created-pending",
    ];
    for_each_fixture(|provider, fixture| {
        let Ok(inbound) = provider.extract(&fixture.headers, &fixture.body) else { return };
        let tells = !inbound.control.is_empty() || CHANGE_NOTHING.contains(&fixture.name.as_str());
        assert_eq!(inbound.is_control(), tells, "{}", fixture.name);
    });
}

#[test]
fn every_catalogue_key_has_a_fixture_that_produces_it() {
    for provider in providers() {
        let mut produced = BTreeSet::new();
        for fixture in list_fixtures(provider.slug().as_str()) {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            produced.extend(text(&fixture.expect["key"]));
            produced.extend(fixture.expect["alsoKeys"].as_array().into_iter().flatten().filter_map(text));
        }
        let listed: BTreeSet<_> = provider.events().iter().map(|spec| spec.key.to_owned()).collect();
        assert_eq!(produced, listed, "{}: fixtures and catalogue differ", provider.slug());
    }
}

#[test]
fn every_folder_of_fixtures_belongs_to_a_registered_provider() {
    let folders = fs::read_dir(fixture::root()).expect("fixtures");
    let folders: BTreeSet<_> =
        folders.map(|folder| folder.expect("readable").file_name().into_string().expect("a slug")).collect();
    let slugs: BTreeSet<_> = providers().iter().map(|provider| provider.slug().to_string()).collect();
    assert_eq!(folders, slugs);
}

#[test]
fn one_flipped_bit_in_the_body_is_rejected() {
    for_each_fixture(|provider, fixture| {
        let headers = sign(provider, &fixture.headers, &fixture.body);
        for eighth in 0..8 {
            let Some(at) = (!fixture.body.is_empty()).then(|| fixture.body.len() * eighth / 8) else { continue };
            let mut flipped = fixture.body.to_vec();
            flipped[at] ^= 1 << eighth;
            let verdict = verify_at_once(provider, headers.clone(), flipped.into(), &[secret()]);
            assert_eq!(verdict.err(), Some(VerifyError::SignatureMismatch), "{} at {at}", fixture.name);
        }
    });
}

#[test]
fn an_unsigned_and_a_twice_signed_webhook_are_refused() {
    for_each_fixture(|provider, fixture| {
        let verdict = |headers: Headers, secrets: &[Secret]| {
            verify_at_once(provider, headers, fixture.body.clone(), secrets).err()
        };
        assert_eq!(verdict(fixture.headers.clone(), &[secret()]), Some(VerifyError::SignatureMissing));
        let once = sign(provider, &fixture.headers, &fixture.body);
        assert_eq!(verdict(once.clone(), &[]), Some(VerifyError::NoSecret));
        let twice = sign(provider, &once, &fixture.body);
        assert_eq!(verdict(twice, &[secret()]), Some(VerifyError::SignatureMalformed));
    });
}

#[test]
fn the_signature_of_one_provider_is_worth_nothing_at_another() {
    let body = Bytes::from_static(b"{}");
    for signer in providers() {
        for other in providers().iter().filter(|other| other.slug() != signer.slug()) {
            let headers = sign(&*signer, &Headers::new(), &body);
            let verdict = verify_at_once(&**other, headers, body.clone(), &[secret()]);
            assert_eq!(verdict.err(), Some(VerifyError::SignatureMissing));
        }
    }
}

#[test]
fn header_names_are_understood_in_any_case() {
    for_each_fixture(|provider, fixture| {
        let signed = sign(provider, &fixture.headers, &fixture.body);
        for recase in [str::to_ascii_uppercase, str::to_ascii_lowercase] {
            let headers: Headers = signed.iter().map(|(name, value)| (recase(name), value)).collect();
            let verified = verify_at_once(provider, headers, fixture.body.clone(), &[secret()]);
            let verified = verified.unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
            let reading = provider.extract(&verified.webhook().headers, &fixture.body);
            assert_eq!(render(&reading), fixture.expect, "{}", fixture.name);
        }
    });
}

#[test]
fn a_truncated_body_is_refused_and_panics_nothing() {
    for_each_fixture(|provider, fixture| {
        let whole = fixture.body.trim_ascii_end().len();
        let is_json = fixture.expect.get("error").is_none() && fixture.name != "github/form-encoded";
        for part in 0..64 {
            let cut = fixture.body.slice(..whole * part / 64);
            let reading = provider.extract(&fixture.headers, &cut);
            assert!(reading.is_err() || !is_json, "{} cut at {}", fixture.name, cut.len());
        }
    });
}

#[test]
fn the_same_webhook_has_the_same_delivery_id_whatever_names_the_attempt() {
    for_each_fixture(|provider, fixture| {
        let attempt_headers = ["request-id", "sentry-hook-timestamp", "linear-timestamp", "x-vercel-id", "user-agent"];
        let retried: Headers = fixture
            .headers
            .iter()
            .map(|(name, value)| {
                let value = if attempt_headers.contains(&name) { b"another attempt" } else { value };
                (name, value)
            })
            .collect();
        assert_eq!(render(&provider.extract(&retried, &fixture.body)), fixture.expect, "{}", fixture.name);
    });
}

#[test]
fn the_service_path_reads_a_payload_as_the_provider_path_does() {
    for_each_fixture(|provider, fixture| {
        let Ok(signed) = provider.extract(&fixture.headers, &fixture.body) else { return };
        let trusted = provider.extract_trusted(&signed.wire_type, &signed.delivery_id, &signed.payload);
        assert_eq!(render(&trusted), fixture.expect, "{}", fixture.name);
        assert_eq!(trusted.expect("understood").payload, signed.payload, "{}", fixture.name);
    });
}

#[test]
fn the_service_path_accepts_an_action_in_the_wire_type() {
    let id = ProviderDeliveryId::new("backfill-1");
    for (slug, wire_type, key) in [
        ("github", "pull_request.opened", "github:pull-request.opened"),
        ("github", "push", "github:push"),
        ("vercel", "deployment.error", "vercel:deployment.error"),
        ("linear", "ProjectUpdate:create", "linear:project-update.created"),
        ("sentry", "issue.archived", "sentry:issue.ignored"),
        ("sentry", "error", "sentry:error"),
    ] {
        let inbound = find_provider(slug).extract_trusted(wire_type, &id, &Bytes::from_static(b"{}"));
        let inbound = inbound.expect("understood");
        assert_eq!(inbound.key.expect("a key").as_str(), key);
        assert_eq!((inbound.wire_type.as_str(), &inbound.delivery_id), (wire_type, &id));
    }
    let refused = find_provider("github").extract_trusted("push", &id, &Bytes::from_static(b"[]"));
    assert_eq!(refused.err().map(|error| error.code()), Some("invalid_payload"));
}

#[test]
fn the_payload_is_the_body_and_of_a_form_its_field_byte_for_byte() {
    for_each_fixture(|provider, fixture| {
        let Ok(inbound) = provider.extract(&fixture.headers, &fixture.body) else { return };
        if fixture.name == "github/form-encoded" {
            let field = form_urlencoded::parse(&fixture.body).find(|(name, _)| name == "payload").expect("a field").1;
            assert_eq!(inbound.payload, field.as_bytes());
        } else {
            assert_eq!(inbound.payload, fixture.body, "{}", fixture.name);
        }
    });
}

#[test]
fn a_signed_timestamp_outside_the_window_is_stale_and_its_ends_are_inside() {
    let linear = find_provider("linear");
    for (offset_ms, expected) in [
        (-60_001, Some(VerifyError::TimestampStale)),
        (-60_000, None),
        (60_000, None),
        (60_001, Some(VerifyError::TimestampStale)),
    ] {
        let body = Bytes::from(format!(r#"{{"webhookTimestamp":{}}}"#, RECEIVED_AT.0 + offset_ms));
        let headers = sign(&*linear, &Headers::new(), &body);
        assert_eq!(verify_at_once(&*linear, headers, body, &[secret()]).err(), expected, "{offset_ms}");
    }
    let stale = Some(VerifyError::TimestampStale);
    for (timestamp, expected) in [
        ("1e400", stale),
        (r#""1786701234567""#, None),
        (r#""1786614834567""#, stale),
        (r#""2026-08-14T09:53:54.567Z""#, None),
        (r#""2026-08-13T09:53:54.567Z""#, stale),
        ("null", None),
        (r#""text""#, None),
        ("{}", None),
    ] {
        let body = Bytes::from(format!(r#"{{"webhookTimestamp":{timestamp}}}"#));
        let headers = sign(&*linear, &Headers::new(), &body);
        assert_eq!(verify_at_once(&*linear, headers, body, &[secret()]).err(), expected, "{timestamp}");
    }
    // A wrong signature is called that, however old it says it is.
    let body = Bytes::from_static(br#"{"webhookTimestamp":1}"#);
    let headers = sign(&*linear, &Headers::new(), b"another body");
    let verdict = verify_at_once(&*linear, headers, body, &[secret()]);
    assert_eq!(verdict.err(), Some(VerifyError::SignatureMismatch));
}

/// Headers that every provider understands.
fn headers_of_every_provider() -> Headers {
    [
        ("X-GitHub-Event", "repository"),
        ("X-GitHub-Delivery", "5f2c0c1a"),
        ("Linear-Event", "Issue"),
        ("Sentry-Hook-Resource", "metric_alert"),
    ]
    .into_iter()
    .collect()
}

#[test]
fn hostile_json_in_every_member_that_is_read_is_accepted() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_objects = format!("{}0{}", "{\"data\":".repeat(100_000), "}".repeat(100_000));
    let long = format!("\"{}\"", "x".repeat(1_000_000));
    let digits = "9".repeat(10_000);
    let members = [
        "action",
        "type",
        "id",
        "payload",
        "data",
        "installation",
        "repository",
        "changes",
        "organizationId",
        "createdAt",
        "updatedFrom",
        "issueData",
        "webhookTimestamp",
        "anything",
    ];
    for provider in providers() {
        for hostile in [r#""\ud800""#, r#""\u0000""#, "1e400", "-0", &digits, &deep, &deep_objects, &long, "null"] {
            for member in members {
                let body = Bytes::from(format!(r#"{{"{member}":{hostile},"{member}":{hostile},"\udfff":1}}"#));
                let inbound = provider.extract(&headers_of_every_provider(), &body).expect("a JSON object");
                assert!(inbound.delivery_id.as_str().len() <= 255 && inbound.wire_type.len() <= 511);
                assert!(inbound.control.is_empty(), "{} {member}", provider.slug());
            }
        }
    }
}

#[test]
fn source_configs_keep_the_shape_the_seed_gave_them() {
    let attrs = json!({ "defaultBranch": "trunk", "isPrivate": false, "isArchived": null });
    let (attrs, no_attrs) = (attrs.as_object().expect("an object"), &Map::new());
    let (id, configuration) = (ProviderResourceId::new("77"), ExternalId::new("icfg_1"));
    let config = |slug: &str, external: &str, login, resource_slug, name, attrs| {
        Value::Object(find_provider(slug).source_config(&ResourceFacts {
            external_id: &ExternalId::new(external),
            alternate_external_id: (slug == "vercel").then_some(&configuration),
            account_login: login,
            provider_resource_id: &id,
            slug: resource_slug,
            name,
            attrs,
        }))
    };
    assert_eq!(
        config("github", "58", Some("harborworks"), None, Some("harborworks/tide-clock"), attrs),
        json!({
            "version": 1, "sourceType": "github", "type": "repository", "installationId": "58", "repoId": "77",
            "repoName": "tide-clock", "repoFullName": "harborworks/tide-clock", "defaultBranch": "trunk",
            "isPrivate": false, "isArchived": false
        })
    );
    assert_eq!(
        config("github", "58", None, None, None, no_attrs),
        json!({
            "version": 1, "sourceType": "github", "type": "repository", "installationId": "58", "repoId": "77",
            "repoName": "77", "repoFullName": "77", "defaultBranch": "main", "isPrivate": true, "isArchived": false
        })
    );
    assert_eq!(
        config("vercel", "team_1", Some("harborworks"), None, Some("tide-clock"), no_attrs),
        json!({
            "version": 1, "sourceType": "vercel", "type": "project", "projectId": "77", "projectName": "tide-clock",
            "teamId": "team_1", "teamSlug": "harborworks", "configurationId": "icfg_1"
        })
    );
    assert_eq!(
        config("vercel", "u8Xn1", Some("mirela"), None, Some("tide-clock"), no_attrs),
        json!({
            "version": 1, "sourceType": "vercel", "type": "project", "projectId": "77", "projectName": "tide-clock",
            "configurationId": "icfg_1"
        })
    );
    assert_eq!(
        config("linear", "a9c0", None, Some("TIDE"), Some("Tides"), no_attrs),
        json!({
            "version": 1, "sourceType": "linear", "type": "team", "teamId": "77", "teamKey": "TIDE", "teamName": "Tides"
        })
    );
    assert_eq!(
        config("sentry", "3e1d", Some("harborworks"), Some("tide-clock"), Some("Tide clock"), no_attrs),
        json!({
            "version": 1, "sourceType": "sentry", "type": "project", "organizationSlug": "harborworks",
            "projectSlug": "tide-clock", "projectId": "77"
        })
    );
}

#[test]
fn each_provider_says_what_the_contract_says_of_it() {
    let said: Vec<_> = providers()
        .iter()
        .map(|provider| {
            (
                provider.slug().as_str(),
                provider.name(),
                provider.resource_label(),
                provider.default_max_body_bytes(),
                provider.delivery_id_is_unsigned(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("github", "GitHub", "repository", 26_214_400, true),
            ("vercel", "Vercel", "project", 10_485_760, false),
            ("linear", "Linear", "team", 10_485_760, true),
            ("sentry", "Sentry", "project", 10_485_760, true),
        ]
    );
}

/// Something between JSON and noise, with the members providers look for.
fn json_like() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        "action",
        "id",
        "installation",
        "repository",
        "data",
        "payload",
        "project",
        "team",
        "user",
        "issue",
        "type",
        "created",
        "deleted",
        "renamed",
        "projects",
        "teamIds",
        "full_name",
        "organizationId",
        "createdAt",
        "uuid",
    ]);
    let leaf = prop_oneof![
        word.clone().prop_map(|word| format!("\"{word}\"")),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("null".to_owned()),
        Just("1e400".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        Just("}".to_owned()),
    ];
    let value = leaf.prop_recursive(4, 32, 6, move |inner| {
        let member = (word.clone(), inner.clone()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    });
    value.prop_map(String::into_bytes)
}

proptest! {
    #[test]
    fn no_bytes_make_any_provider_panic(
        body in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), json_like()],
        header in "[ -~]{0,40}",
        is_form in any::<bool>(),
    ) {
        let body = Bytes::from(body);
        for provider in providers() {
            let mut headers = headers_of_every_provider();
            for event in ["X-GitHub-Event", "Sentry-Hook-Resource"] {
                let named: Headers = [(event, &header), ("X-GitHub-Delivery", &header)].into_iter().collect();
                let _reading = provider.extract(&named, &body);
            }
            if is_form {
                headers.append("Content-Type", *b"application/x-www-form-urlencoded");
            }
            let reading = provider.extract(&headers, &body);
            let is_object = serde_json::from_slice::<Map<String, Value>>(&body).is_ok();
            prop_assert!(reading.is_ok() || !is_object || is_form);
            let trusted = provider.extract_trusted(&header, &ProviderDeliveryId::new("x"), &body);
            prop_assert!(trusted.is_ok() || !is_object);
            // Nothing signed, nothing stale: only Linear signs a time, and only in a member of that name.
            let verdict = provider.scheme().check_timestamp(&body, EpochMs(0), Duration::from_secs(1));
            prop_assert_eq!(verdict, Ok(()));
        }
    }

    #[test]
    fn no_header_makes_a_forged_webhook_verify(
        value in prop_oneof!["[ -~]{0,80}", "sha256=[0-9a-f]{64}", "[0-9a-f]{64}", "[0-9a-f]{40}"],
        body in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        for provider in providers() {
            let headers: Headers = [(provider.scheme().header, &value)].into_iter().collect();
            prop_assert!(verify_at_once(&*provider, headers, body.clone().into(), &[secret()]).is_err());
        }
    }
}
