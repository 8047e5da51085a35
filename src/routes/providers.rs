//! `GET /providers`: which providers there are, and every event they can send.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{auth::Reader, gateway::Gateway, problem::Answer, schemas};
use crate::providers::{EventSpec, Provider};

/// `GET /providers`: every provider and every event it can send.
///
/// # Errors
/// None of its own.
#[utoipa::path(get, path = "/providers", responses((status = 200, body = schemas::Page<schemas::Provider>)))]
pub async fn list(_caller: Reader, gateway: web::Data<Gateway>) -> Answer {
    let items: Vec<Value> = gateway
        .registry
        .iter()
        .map(|(provider, settings)| provider_json(provider.as_ref(), settings.is_some()))
        .collect();
    Ok(HttpResponse::Ok().json(json!({"items": items, "nextCursor": null})))
}

fn provider_json(provider: &dyn Provider, enabled: bool) -> Value {
    json!({
        "slug": provider.slug(),
        "name": provider.name(),
        "enabled": enabled,
        "resourceLabel": provider.resource_label(),
        "categories": provider.categories(),
        "events": provider.events().iter().map(event_json).collect::<Vec<_>>(),
    })
}

fn event_json(spec: &EventSpec) -> Value {
    let mut event = json!({
        "key": spec.key,
        "label": spec.label,
        "category": spec.category,
        "description": spec.description,
        "weight": spec.weight,
        "default": spec.default,
    });
    if let Some(broader) = spec.alias_of {
        event["aliasOf"] = json!(broader);
    }
    event
}
