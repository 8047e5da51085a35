//! Bytes nobody chose: whatever arrives is read or refused, never a panic, and reading it again gives the same.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use signalbox::{
    model::{event::EventKey, ids, provider::ProviderDeliveryId, webhook::Headers},
    providers::{Provider, ResourceSelector},
};

use crate::{
    fixture::{list_fixtures, render, secret, sign, verify_at_once},
    providers,
};

/// The longest text that any column is asked to hold, bytes.
const LONGEST_TEXT: usize = 511;

/// Names that somebody reads, in any case, and names that nobody does.
fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "X-GitHub-Event",
            "x-github-delivery",
            "X-Hub-Signature-256",
            "X-HUB-SIGNATURE",
            "x-vercel-signature",
            "Linear-Event",
            "linear-delivery",
            "Linear-Signature",
            "Linear-Timestamp",
            "Sentry-Hook-Resource",
            "sentry-hook-signature",
            "Sentry-Hook-Timestamp",
            "Request-ID",
            "Content-Type",
        ])
        .prop_map(str::to_owned),
        "[A-Za-z0-9-]{1,30}",
    ]
}

/// Values of any bytes, and some that mean something.
fn header_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..300),
        prop::sample::select(vec![
            "push",
            "installation",
            "repository",
            "Issue",
            "issue",
            "metric_alert",
            "application/x-www-form-urlencoded",
            "application/x-www-form-urlencoded; charset=\u{fc}",
            "sha256=",
        ])
        .prop_map(|value| value.as_bytes().to_vec()),
    ]
}

/// Repeated, contradicting, of any bytes.
fn headers() -> impl Strategy<Value = Headers> {
    vec((header_name(), header_value()), 0..12).prop_map(|headers| headers.into_iter().collect())
}

/// A genuine body with some bytes changed, cut out or put in.
fn mutilated() -> impl Strategy<Value = Bytes> {
    let bodies: Vec<Bytes> = providers()
        .iter()
        .flat_map(|provider| list_fixtures(provider.slug().as_str()))
        .map(|fixture| fixture.body)
        .filter(|body| !body.is_empty())
        .collect();
    let edit = (any::<prop::sample::Index>(), 0..3_u8, any::<u8>());
    (prop::sample::select(bodies), vec(edit, 0..8)).prop_map(|(body, edits)| {
        let mut body = body.to_vec();
        for (at, how, byte) in edits {
            if body.is_empty() {
                break;
            }
            let at = at.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => drop(body.remove(at)),
            }
        }
        body.into()
    })
}

fn body() -> impl Strategy<Value = Bytes> {
    prop_oneof![vec(any::<u8>(), 0..400).prop_map(Bytes::from), mutilated()]
}

/// Reads a webhook twice; what is read fits the columns it is stored in.
fn expect_sane(provider: &dyn Provider, headers: &Headers, body: &Bytes) -> Result<(), TestCaseError> {
    let reading = provider.extract(headers, body);
    prop_assert_eq!(render(&reading), render(&provider.extract(headers, body)), "the same input, another answer");
    let Ok(inbound) = reading else { return Ok(()) };
    prop_assert!(!inbound.delivery_id.as_str().is_empty() && inbound.delivery_id.as_str().len() <= LONGEST_TEXT);
    prop_assert!(inbound.wire_type.len() <= LONGEST_TEXT && !inbound.wire_type.contains('\0'));
    prop_assert!(std::str::from_utf8(&inbound.payload).is_ok(), "the payload is no text");
    prop_assert!(inbound.payload.trim_ascii_start().starts_with(b"{"), "the payload is no object");
    let ids: Vec<String> = match &inbound.resources {
        ResourceSelector::All => Vec::new(),
        ResourceSelector::Ids(ids) => ids.iter().map(ToString::to_string).collect(),
        ResourceSelector::Slugs(slugs) => slugs.iter().map(ToString::to_string).collect(),
    };
    for id in ids.into_iter().chain(inbound.installation.map(|id| id.to_string())) {
        prop_assert!(!id.is_empty() && id.len() <= LONGEST_TEXT && !id.contains('\0'), "{id:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_headers_and_any_body_are_refused_unless_signed_and_read_or_refused_if_they_are(
        headers in headers(), body in body()
    ) {
        for provider in providers() {
            prop_assert!(verify_at_once(&*provider, headers.clone(), body.clone(), &[secret()]).is_err());
            expect_sane(&*provider, &headers, &body)?;
            let scheme = provider.scheme().header;
            let unsigned: Headers = headers.iter().filter(|(name, _)| *name != scheme).collect();
            let signed = sign(&*provider, &unsigned, &body);
            match verify_at_once(&*provider, signed, body.clone(), &[secret()]) {
                Ok(verified) => expect_sane(&*provider, &verified.webhook().headers, &verified.webhook().body)?,
                Err(error) => prop_assert_eq!(error.code(), "stale_timestamp"),
            }
        }
    }

    #[test]
    fn headers_keep_every_value_and_give_only_what_is_there_once(
        pairs in vec((header_name(), header_value()), 0..12), asked in header_name()
    ) {
        let headers: Headers = pairs.iter().cloned().collect();
        let asked = asked.to_lowercase();
        let given: Vec<&[u8]> =
            pairs.iter().filter(|(name, _)| name.to_lowercase() == asked).map(|(_, value)| &value[..]).collect();
        prop_assert_eq!(headers.all(&asked).collect::<Vec<_>>(), given.clone());
        let once = (given.len() == 1).then(|| std::str::from_utf8(given[0]).ok()).flatten();
        prop_assert_eq!(headers.get(&asked), once);
        prop_assert_eq!(headers.iter().count(), pairs.len());
    }

    #[test]
    fn an_envelope_of_any_names_is_json_that_holds_them_and_the_payload_byte_for_byte(
        names in vec(".{0,40}", 8), payload in prop_oneof![Just("{}".to_owned()), r#"\{ "a" : "[^"\\\x00-\x1f]{0,40}" \}"#],
        received_at in any::<i64>()
    ) {
        let envelope = signalbox::model::envelope::Envelope {
            event_id: ids::EventId::from_raw(&*names[0]),
            delivery_id: ProviderDeliveryId::new(&*names[1]),
            connection_id: Some(ids::InstallationId::from_raw(&*names[2])),
            org_id: ids::OrgId::from_raw(&*names[3]),
            provider: "github".to_owned(),
            event_type: names[4].clone(),
            event_key: Some(EventKey::new(&*names[5])),
            workspace_id: ids::WorkspaceId::from_raw(&*names[6]),
            integration_id: ids::IntegrationId::from_raw(&*names[7]),
            resource_id: ids::ResourceId::from_raw("res_1"),
            received_at: signalbox::model::clock::EpochMs(received_at),
        };
        let body = envelope.to_body(payload.as_bytes()).expect("serialisable");
        let read: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let members = ["eventId", "deliveryId", "connectionId", "orgId", "eventType", "eventKey", "workspaceId", "integrationId"];
        for (member, name) in members.iter().zip(&names) {
            prop_assert_eq!(read[*member].as_str(), Some(name.as_str()));
        }
        prop_assert_eq!(read["receivedAt"].as_i64(), Some(received_at));
        let end = format!(",\"payload\":{}}}", payload);
        prop_assert!(body.ends_with(end.as_bytes()));
    }
}
