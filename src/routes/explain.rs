//! `GET /events/{id}/explain`: the whole decision about an event, and what became of each integration it considered.
//!
//! **Invariants**: each considered integration has exactly one reason; for one that was routed it is where its newest
//! delivery stands now, for any other the reason stays and what a replay made later stands beside it. **Must not know** how decisions are made: the stored one is shown.

use actix_web::{HttpResponse, web};
use serde_json::{Map, Value, json};

use super::{
    auth::Reader,
    error_codes as codes,
    events::{event_json, load_visible},
    gateway::Gateway,
    problem::{Answer, Problem},
    schemas,
};
use crate::{model::delivery::Delivery, store::EventDetail};

/// `GET /events/{id}/explain`: the whole decision about an event.
///
/// # Errors
/// `not_found`.
#[utoipa::path(get, path = "/events/{id}/explain", responses((status = 200, body = schemas::Explanation)))]
pub async fn explain(Reader(caller): Reader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let detail = load_visible(&gateway, &caller, &id).await?;
    Ok(HttpResponse::Ok().json(explanation(&detail)?))
}

/// The decision about an event as it is shown, and where each delivery stands now.
///
/// # Errors
/// `internal_error` if the stored decision is unreadable.
pub fn explanation(detail: &EventDetail) -> Result<Value, Problem> {
    let decision = serde_json::from_str::<Map<String, Value>>(&detail.decision);
    let mut shown = decision.map_err(|error| {
        Problem::new(&codes::INTERNAL_ERROR)
            .caused_by(format!("the decision of {} is unreadable: {error}", detail.event.id))
    })?;
    let mut considered = match shown.remove("considered") {
        Some(Value::Array(considered)) => considered,
        _ => Vec::new(),
    };
    for entry in &mut considered {
        let integration = entry["integrationId"].as_str().unwrap_or_default();
        let own: Vec<_> =
            detail.deliveries.iter().filter(|delivery| delivery.integration.as_str() == integration).collect();
        if let Some(newest) = own.last()
            && entry["reason"] == "routed"
        {
            entry["reason"] = json!(newest.status);
        }
        entry["deliveries"] = own.iter().map(|delivery| delivery_json(delivery)).collect();
    }
    // A replay may reach integrations that the decision did not know.
    let mut unknown: Vec<&Delivery> = Vec::new();
    for delivery in &detail.deliveries {
        let known = considered.iter().any(|entry| entry["integrationId"] == delivery.integration.as_str());
        if !known {
            unknown.push(delivery);
        }
    }
    for delivery in unknown {
        let entry = considered.iter_mut().find(|entry| entry["integrationId"] == delivery.integration.as_str());
        if let Some(entry) = entry {
            entry["reason"] = json!(delivery.status);
            if let Value::Array(deliveries) = &mut entry["deliveries"] {
                deliveries.push(delivery_json(delivery));
            }
        } else {
            considered.push(json!({
                "integrationId": delivery.integration,
                "workspaceId": delivery.workspace,
                "resourceId": delivery.resource,
                "reason": delivery.status,
                "deliveries": [delivery_json(delivery)],
            }));
        }
    }
    shown.insert("considered".into(), considered.into());
    shown.insert("event".into(), event_json(&detail.event));
    shown.insert("eventId".into(), json!(detail.event.id));
    shown.insert("outcome".into(), json!(detail.event.outcome));
    shown.insert("reason".into(), json!(detail.event.reason));
    let verdict = if detail.event.possible_replay { "possible_replay" } else { "new" };
    shown.insert("dedup".into(), json!({"verdict": verdict, "deliveryId": detail.event.provider_delivery_id}));
    Ok(Value::Object(shown))
}

fn delivery_json(delivery: &Delivery) -> Value {
    json!({
        "id": delivery.id,
        "status": delivery.status,
        "reason": delivery.reason,
        "replay": delivery.replay,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        clock::EpochMs,
        delivery::DeliveryStatus,
        event::{Event, EventOutcome},
        ids::{DeliveryId, EventId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        provider::ProviderSlug,
    };

    fn delivery(id: &str, integration: &str, status: DeliveryStatus) -> Delivery {
        Delivery {
            id: DeliveryId::from_raw(id),
            event: EventId::from_raw("evt_1"),
            integration: IntegrationId::from_raw(integration),
            resource: ResourceId::from_raw("res_1"),
            workspace: WorkspaceId::from_raw("ws_1"),
            org: OrgId::from_raw("org_1"),
            destination: None,
            status,
            reason: None,
            attempts: 0,
            attempts_before_retry: 0,
            due_at: EpochMs(0),
            lease_until: None,
            replay: false,
            created_at: EpochMs(0),
            finished_at: None,
        }
    }

    fn detail(decision: &Value, deliveries: Vec<Delivery>) -> EventDetail {
        EventDetail {
            event: Event {
                outcome: EventOutcome::Routed,
                ..Event::ignored(EventId::from_raw("evt_1"), ProviderSlug("github"))
            },
            headers: "{}".into(),
            content_type: None,
            decision: decision.to_string(),
            deliveries,
            attempts: Vec::new(),
        }
    }

    #[test]
    fn a_routed_integration_shows_where_its_newest_delivery_stands_and_the_others_their_reason() {
        let decision = json!({
            "verifiedBy": {"secret": {"index": 1}},
            "considered": [
                {"integrationId": "int_1", "reason": "routed"},
                {"integrationId": "int_2", "reason": "filtered:event_not_allowed"},
            ],
        });
        let deliveries = vec![
            delivery("dlv_1", "int_1", DeliveryStatus::Dead),
            delivery("dlv_2", "int_1", DeliveryStatus::Delivered),
            delivery("dlv_3", "int_9", DeliveryStatus::Pending),
            delivery("dlv_4", "int_9", DeliveryStatus::Held),
            Delivery { replay: true, ..delivery("dlv_5", "int_2", DeliveryStatus::Delivered) },
        ];
        let shown = explanation(&detail(&decision, deliveries)).expect("explained");
        let reasons: Vec<_> =
            shown["considered"].as_array().expect("a list").iter().map(|e| e["reason"].clone()).collect();
        assert_eq!(reasons, [json!("delivered"), json!("filtered:event_not_allowed"), json!("held")]);
        assert_eq!(shown["considered"][0]["deliveries"].as_array().expect("a list").len(), 2);
        assert_eq!(shown["considered"][1]["deliveries"][0]["status"], "delivered", "replayed since");
        assert_eq!(shown["considered"][2]["deliveries"].as_array().expect("a list").len(), 2);
        assert_eq!(shown["verifiedBy"], decision["verifiedBy"]);
        assert_eq!(shown["dedup"]["verdict"], "new");
    }
}
