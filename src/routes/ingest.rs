//! The service path: a trusted writer posts `{connectionId, orgId, deliveryId, eventType, payload, receivedAt}` with a
//! service key. From here on it goes the way of every webhook, without signature and resolution.
//!
//! **Invariants**: `payload` is forwarded byte for byte and never parsed beyond finding its end; every missing or wrongly
//! typed field is named at once. **Must not know** how keys are checked.

use std::collections::HashMap;

use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, value::RawValue};

use super::{auth::is_org_id, error_codes as codes, problem::Problem, request_body::as_text};
use crate::{
    actors::webhook_router::TrustedWebhook,
    model::{
        clock::EpochMs,
        ids::{InstallationId, OrgId},
        provider::{ProviderDeliveryId, ProviderSlug},
    },
};

const FIELDS: [&str; 6] = ["connectionId", "orgId", "deliveryId", "eventType", "payload", "receivedAt"];

/// `receivedAt` below this is in seconds.
const FIRST_MILLISECONDS: f64 = 1e12;
/// `receivedAt` beyond this (the end of the year 9999) is no time.
const LAST_MILLISECONDS: f64 = 253_402_300_799_999.0;

/// Reads the body and headers of the service path.
///
/// # Errors
/// `invalid_json`, or `missing_required_fields` with `fields`; `forbidden` if `X-Org-Id` names another org than the
/// body.
pub fn read_trusted(
    provider: ProviderSlug,
    headers: &HeaderMap,
    body: &Bytes,
    correlation_id: String,
) -> Result<TrustedWebhook, Problem> {
    let members = match serde_json::from_slice::<HashMap<String, &RawValue>>(body) {
        Ok(members) => members,
        // JSON, but not an object: everything is missing.
        Err(_) if serde_json::from_slice::<&RawValue>(body).is_ok() => HashMap::new(),
        Err(_) => return Err(Problem::new(&codes::INVALID_JSON)),
    };
    let value = |name: &str| -> Option<Value> { serde_json::from_str(members.get(name)?.get()).ok() };
    let connection = value("connectionId").as_ref().and_then(as_text);
    let org = value("orgId").as_ref().and_then(as_text);
    let delivery_id = value("deliveryId").as_ref().and_then(as_text);
    let event_type = value("eventType").as_ref().and_then(as_text);
    let payload = members.get("payload").map(|raw| raw.get()).filter(|raw| raw.starts_with('{'));
    let received_at = value("receivedAt").as_ref().and_then(as_time);

    let (Some(connection), Some(org), Some(delivery_id), Some(event_type), Some(payload), Some(received_at)) =
        (&connection, &org, &delivery_id, &event_type, payload, received_at)
    else {
        let found = [
            connection.is_some(),
            org.is_some(),
            delivery_id.is_some(),
            event_type.is_some(),
            payload.is_some(),
            received_at.is_some(),
        ];
        let missing: Vec<Value> =
            FIELDS.iter().zip(found).filter(|(_, found)| !found).map(|(name, _)| Value::from(*name)).collect();
        return Err(Problem::new(&codes::MISSING_REQUIRED_FIELDS).member("fields", missing));
    };
    if let Some(named) = headers.get("x-org-id") {
        match named.to_str() {
            Ok(named) if named == org => {}
            Ok(named) if is_org_id(named) => return Err(Problem::new(&codes::FORBIDDEN)),
            _ => return Err(Problem::new(&codes::INVALID_ORG_ID)),
        }
    }
    Ok(TrustedWebhook {
        provider,
        installation: InstallationId::from_raw(connection.as_str()),
        org: OrgId::from_raw(org.as_str()),
        delivery_id: ProviderDeliveryId::new(delivery_id.as_str()),
        event_type: event_type.clone(),
        payload: body.slice_ref(payload.as_bytes()),
        received_at,
        hold: headers.get("x-backfill-hold").is_some_and(|hold| hold.as_bytes().eq_ignore_ascii_case(b"true")),
        correlation_id,
    })
}

/// A finite number: seconds or milliseconds since the epoch.
#[expect(clippy::cast_possible_truncation, reason = "checked against the last millisecond first")]
fn as_time(value: &Value) -> Option<EpochMs> {
    let number = value.as_f64().filter(|number| number.is_finite())?;
    let millis = if number < FIRST_MILLISECONDS { number * 1000.0 } else { number };
    (millis.abs() <= LAST_MILLISECONDS).then_some(EpochMs(millis as i64))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};
    use serde_json::json;

    use super::*;

    const GITHUB: ProviderSlug = ProviderSlug("github");

    fn read(body: &str, headers: &[(&'static str, &'static str)]) -> Result<TrustedWebhook, Problem> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        read_trusted(GITHUB, &headers, &Bytes::copy_from_slice(body.as_bytes()), "c-1".into())
    }

    fn body(payload: &str, received_at: &str) -> String {
        format!(
            r#"{{"connectionId":"in_1","orgId":"org_1","deliveryId":"d-1","eventType":"push","payload":{payload},"receivedAt":{received_at}}}"#
        )
    }

    #[test]
    fn the_payload_is_kept_byte_for_byte_even_where_parsers_would_refuse_it() {
        let payload = r#"{ "n" : 1e400,"s":"\ud800", "n":2 }"#;
        let webhook = read(&body(payload, "1771980000000"), &[]).expect("trusted");
        assert_eq!(&webhook.payload[..], payload.as_bytes());
        assert_eq!(webhook.received_at, EpochMs(1_771_980_000_000));
        assert!(!webhook.hold);
    }

    #[test]
    fn small_times_are_seconds() {
        for (text, millis) in [("1771980000", 1_771_980_000_000), ("1771980000.5", 1_771_980_000_500), ("0", 0)] {
            assert_eq!(read(&body("{}", text), &[]).expect("trusted").received_at, EpochMs(millis), "{text}");
        }
    }

    #[test]
    fn every_missing_or_wrongly_typed_field_is_named() {
        let fields = |text: &str| read(text, &[]).expect_err("refused").to_json("")["fields"].clone();
        assert_eq!(fields("{}"), json!(FIELDS));
        assert_eq!(fields("[]"), json!(FIELDS));
        assert_eq!(fields(&body("[]", "\"now\"")), json!(["payload", "receivedAt"]));
        assert_eq!(fields(&body("null", "1e999")), json!(["payload", "receivedAt"]));
        assert_eq!(
            fields(
                r#"{"connectionId":7,"orgId":"","deliveryId":null,"eventType":"a\u0000","payload":{},"receivedAt":1}"#
            ),
            json!(["connectionId", "orgId", "deliveryId", "eventType"])
        );
    }

    #[test]
    fn malformed_json_is_told_from_missing_fields() {
        for text in ["", "{", "nonsense", "{\"a\":1} x"] {
            assert_eq!(read(text, &[]).expect_err("refused").code(), &codes::INVALID_JSON, "{text}");
        }
    }

    #[test]
    fn the_hold_and_the_org_are_read_from_the_headers() {
        assert!(read(&body("{}", "1"), &[("x-backfill-hold", "true"), ("x-org-id", "org_1")]).expect("trusted").hold);
        assert!(!read(&body("{}", "1"), &[("x-backfill-hold", "no")]).expect("trusted").hold);
        assert_eq!(read(&body("{}", "1"), &[("x-org-id", "org_2")]).expect_err("foreign").code(), &codes::FORBIDDEN);
    }
}
