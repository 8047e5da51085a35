//! `/integrations/{id}/destination`, `/workspaces/{id}/destination` and `/orgs/{id}/destination`: where envelopes go.
//!
//! **Invariants**: a secret is in the answer that creates or rotates it and in no other; of extra headers only the names
//! are shown.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, http::StatusCode, web};
use serde_json::{Value, json};

use super::{
    auth::{Caller, Reader, Writer, is_org_id},
    connections::time_json,
    error_codes as codes,
    gateway::Gateway,
    integrations::{get_visible, served_by, workspace_id},
    problem::{Answer, Problem},
    query::Query,
    request_body::{ApiBody, Members},
    request_frame::RequestIds,
    schemas,
};
use crate::{
    actors::destinations::{DestinationView, ServedScope},
    model::{
        destination::DestinationScope,
        ids::{DestinationId, OrgId},
        secret::Secret,
    },
};

/// A destination as it is shown, with its secret if this is the one time.
pub(super) fn destination_json(view: &DestinationView, secret: Option<&Secret>) -> Value {
    let row = &view.destination;
    let mut shown = json!({
        "id": row.id,
        "orgId": row.org,
        "scope": row.scope,
        "scopeId": row.scope_id,
        "url": row.url,
        "headerNames": view.header_names,
        "disabledReason": row.disabled_reason,
        "failingSince": time_json(row.failing_since),
        "previousSecretUntil": time_json(row.previous_until),
        "createdAt": row.created_at.to_rfc3339(),
        "updatedAt": row.updated_at.to_rfc3339(),
    });
    if let Some(secret) = secret.and_then(Secret::expose_str) {
        shown["secret"] = json!(secret);
    }
    shown
}

/// Reads `{url, headers?}`.
///
/// # Errors
/// `missing_required_fields`, `invalid_destination_header`.
pub(super) fn read_destination(mut members: Members) -> Result<(String, BTreeMap<String, String>), Problem> {
    // Too long a URL is no URL of ours: whoever checks it says so.
    let url = members.required_long_text("url");
    let headers = match members.take("headers") {
        None => BTreeMap::new(),
        Some(headers) => serde_json::from_value(headers).map_err(|_| {
            Problem::new(&codes::INVALID_DESTINATION_HEADER).detail("headers must be an object of texts")
        })?,
    };
    members.finish()?;
    Ok((url, headers))
}

/// `GET /destinations`: the org's destinations of every scope, oldest first. `circuit` is what this node thinks of a destination: `closed` is well, `open`
/// waits after failures, `half_open` tries one delivery; `null` if it has not sent there lately.
///
/// # Errors
/// `missing_org_id`, `invalid_parameter`.
#[utoipa::path(
    get, path = "/destinations",
    params(schemas::Paging),
    responses((status = 200, body = schemas::Destinations)),
)]
pub async fn list(Reader(caller): Reader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let org = caller.require_org()?;
    let page = gateway.destinations.list(org, query.page(DestinationId::PREFIX)?).await?;
    let items: Vec<Value> = (page.items.iter())
        .map(|view| {
            let mut shown = destination_json(view, None);
            shown["circuit"] = json!(gateway.dispatcher.circuit(&view.destination.id));
            shown
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({
        "items": items,
        "nextCursor": page.next_cursor,
        "hasFallback": gateway.config.delivery.url.is_some(),
    })))
}

fn of_workspace(caller: &Caller, workspace: &str) -> Result<ServedScope, Problem> {
    let org = caller.require_org()?.clone();
    let workspace = workspace_id(workspace)?;
    Ok(ServedScope { org, scope: DestinationScope::Workspace, scope_id: workspace.to_string() })
}

/// The org is in the path: a service key needs no `X-Org-Id` here.
fn of_org(caller: &Caller, org: &str) -> Result<ServedScope, Problem> {
    if !is_org_id(org) {
        return Err(Problem::new(&codes::INVALID_ORG_ID));
    }
    let org = OrgId::from_raw(org);
    if !caller.sees(Some(&org)) {
        return Err(Problem::new(&codes::NOT_FOUND));
    }
    Ok(ServedScope { scope: DestinationScope::Org, scope_id: org.to_string(), org })
}

/// What a destination of this scope serves, if the caller may see it.
async fn served(gateway: &Gateway, caller: &Caller, scope: DestinationScope, id: &str) -> Result<ServedScope, Problem> {
    match scope {
        DestinationScope::Integration => Ok(served_by(&get_visible(gateway, caller, id).await?)),
        DestinationScope::Workspace => of_workspace(caller, id),
        DestinationScope::Org => of_org(caller, id),
    }
}

async fn put(gateway: &Gateway, caller: &Caller, of: ServedScope, body: &ApiBody) -> Answer {
    let (url, headers) = read_destination(body.members()?)?;
    let put = gateway.destinations.put(&of, &url, headers, &caller.actor()).await?;
    let status = if put.secret.is_some() { StatusCode::CREATED } else { StatusCode::OK };
    Ok(HttpResponse::build(status).json(destination_json(&put.view, put.secret.as_ref())))
}

async fn get(gateway: &Gateway, of: ServedScope) -> Answer {
    let view = gateway.destinations.find(&of).await?.ok_or_else(|| Problem::new(&codes::NOT_FOUND))?;
    Ok(HttpResponse::Ok().json(destination_json(&view, None)))
}

async fn delete(gateway: &Gateway, caller: &Caller, of: ServedScope) -> Answer {
    let id = gateway.destinations.delete(&of, &caller.actor()).await?;
    Ok(HttpResponse::Ok().json(json!({"status": "deleted", "id": id})))
}

async fn rotate(gateway: &Gateway, caller: &Caller, of: ServedScope) -> Answer {
    let rotated = gateway.destinations.rotate_secret(&of, &caller.actor()).await?;
    Ok(HttpResponse::Ok().json(destination_json(&rotated.view, Some(&rotated.secret))))
}

async fn test(gateway: &Gateway, of: ServedScope, ids: &RequestIds) -> Answer {
    let answer = gateway.destinations.send_test(&of, &ids.correlation).await?;
    let delivered = answer.result.code() == "delivered";
    Ok(HttpResponse::Ok().json(json!({
        "status": if delivered { "delivered" } else { "failed" },
        "webhookId": answer.webhook_id,
        "result": answer.result.code(),
        "statusCode": answer.result.status(),
        "durationMs": answer.duration_ms,
        "responseBody": answer.response_body,
    })))
}

macro_rules! handlers {
    ($scope:ident, $path:literal: $put:ident $get:ident $delete:ident $rotate:ident $test:ident) => {
        /// Sets where envelopes go. 201 with the signing secret if it is new.
        ///
        /// # Errors
        /// `missing_org_id`, `not_found`, `invalid_json`, `missing_required_fields`, `invalid_destination_url`,
        /// `invalid_destination_header`, `invalid_workspace_id`.
        #[utoipa::path(
                    put, path = $path,
                    request_body = schemas::NewDestination,
                    responses((status = 200, body = schemas::Destination), (status = 201, body = schemas::Destination)),
                )]
        pub async fn $put(
            Writer(caller): Writer,
            id: web::Path<String>,
            body: ApiBody,
            gateway: web::Data<Gateway>,
        ) -> Answer {
            let of = served(&gateway, &caller, DestinationScope::$scope, &id).await?;
            put(&gateway, &caller, of, &body).await
        }

        /// Where envelopes go.
        ///
        /// # Errors
        /// `missing_org_id`, `not_found`, `invalid_workspace_id`.
        #[utoipa::path(get, path = $path, responses((status = 200, body = schemas::Destination)))]
        pub async fn $get(Reader(caller): Reader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
            let of = served(&gateway, &caller, DestinationScope::$scope, &id).await?;
            get(&gateway, of).await
        }

        /// Deletes a destination.
        ///
        /// # Errors
        /// `missing_org_id`, `not_found`, `invalid_workspace_id`.
        #[utoipa::path(delete, path = $path, responses((status = 200, body = schemas::DestinationDeleted)))]
        pub async fn $delete(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
            let of = served(&gateway, &caller, DestinationScope::$scope, &id).await?;
            delete(&gateway, &caller, of).await
        }

        /// Makes a new signing secret and shows it. The one before keeps signing beside it for a day.
        ///
        /// Only the one before: a second rotation within that day ends the first one's overlap at once. Rotate again when
        /// every receiver has the newest secret.
        ///
        /// # Errors
        /// `missing_org_id`, `not_found`, `invalid_workspace_id`.
        #[utoipa::path(
                    post, path = concat!($path, "/rotate-secret"),
                    responses((status = 200, body = schemas::Destination)),
                )]
        pub async fn $rotate(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
            let of = served(&gateway, &caller, DestinationScope::$scope, &id).await?;
            rotate(&gateway, &caller, of).await
        }

        /// Sends a signed test envelope and shows the answer.
        ///
        /// # Errors
        /// `missing_org_id`, `not_found`, `invalid_workspace_id`.
        #[utoipa::path(
                    post, path = concat!($path, "/test"),
                    responses((status = 200, body = schemas::DestinationTested)),
                )]
        pub async fn $test(
            Writer(caller): Writer,
            id: web::Path<String>,
            ids: RequestIds,
            gateway: web::Data<Gateway>,
        ) -> Answer {
            let of = served(&gateway, &caller, DestinationScope::$scope, &id).await?;
            test(&gateway, of, &ids).await
        }
    };
}

handlers!(Integration, "/integrations/{id}/destination": put_of_integration get_of_integration delete_of_integration rotate_of_integration test_of_integration);
handlers!(Workspace, "/workspaces/{id}/destination": put_of_workspace get_of_workspace delete_of_workspace rotate_of_workspace test_of_workspace);
handlers!(Org, "/orgs/{id}/destination": put_of_org get_of_org delete_of_org rotate_of_org test_of_org);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_needs_a_url_and_its_headers_are_texts() {
        let read = |body: Value| read_destination(Members::new(body.as_object().expect("an object").clone()));
        let (url, headers) = read(json!({"url": "https://sink.example/in", "headers": {"x-a": "1"}})).expect("good");
        assert_eq!((url.as_str(), headers["x-a"].as_str()), ("https://sink.example/in", "1"));
        assert_eq!(read(json!({})).expect_err("refused").code(), &codes::MISSING_REQUIRED_FIELDS);
        for headers in [json!("x"), json!({"x-a": 1}), json!([])] {
            let problem = read(json!({"url": "https://a.example", "headers": headers})).expect_err("refused");
            assert_eq!(problem.code(), &codes::INVALID_DESTINATION_HEADER);
        }
    }
}
