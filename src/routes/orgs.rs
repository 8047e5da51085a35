//! `GET /orgs`: which orgs there are, for those who act for any.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{
    auth::{ServiceReader, is_org_id},
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    query::{Query, page_json},
    schemas,
};
use crate::store::OrgSummary;

fn org_json(summary: &OrgSummary) -> Value {
    let in_all: u64 = summary.installations.values().sum();
    json!({
        "id": summary.org,
        "connections": {"total": in_all, "byStatus": summary.installations},
        "destinations": summary.destinations,
    })
}

/// `GET /orgs?prefix`: orgs that have a connection, a destination or a key, by id. With `X-Org-Id` only that one.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/orgs",
    params(("prefix" = Option<String>, Query, description = "How their ids begin."), schemas::Paging),
    responses((status = 200, body = schemas::Page<schemas::Org>)),
)]
pub async fn list(ServiceReader(caller): ServiceReader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    if let Some(org) = &caller.org {
        let summary = gateway.store.summarize_org(org).await?;
        return Ok(HttpResponse::Ok().json(json!({"items": [org_json(&summary)], "nextCursor": null})));
    }
    for parameter in ["prefix", "cursor"] {
        if query.get(parameter).is_some_and(|text| !is_org_id(text)) {
            return Err(Problem::new(&codes::INVALID_PARAMETER).member("parameter", parameter));
        }
    }
    let prefix = query.get("prefix").unwrap_or_default();
    let page = gateway.store.list_orgs(prefix, query.page_after_name()).await?;
    Ok(HttpResponse::Ok().json(page_json(&page, org_json)))
}
