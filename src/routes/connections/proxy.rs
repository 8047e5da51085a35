//! `/connections/{id}/proxy`: allow-listed calls of the provider's API with the connection's token.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, http::header, web};
use serde_json::{Map, Value, json};

use super::{
    super::{
        auth::{ServiceReader, ServiceWriter},
        gateway::Gateway,
        problem::{Answer, Problem},
        request_body::ApiBody,
        schemas,
    },
    get_visible,
};
use crate::{actors::proxy::ProxyRequest, model::log_entry::LogEntry};

/// Parameters of one call at the most.
const MAX_PARAMETERS: usize = 64;

/// `GET /connections/{id}/proxy/endpoints`: which calls of the provider's API the proxy makes.
///
/// # Errors
/// `not_found`, `connecting_not_configured`.
#[utoipa::path(
    get, path = "/connections/{id}/proxy/endpoints",
    responses((status = 200, body = schemas::ProxyEndpoints)),
)]
pub async fn endpoints(
    ServiceReader(caller): ServiceReader,
    id: web::Path<String>,
    gateway: web::Data<Gateway>,
) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let endpoints = gateway
        .directory
        .proxy_endpoints(installation.provider)
        .map_err(|error| Problem::from(error).about_provider(installation.provider))?;
    let items: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "id": endpoint.id,
                "method": endpoint.method,
                "path": endpoint.path,
                "description": endpoint.description,
            })
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({"items": items})))
}

/// `POST /connections/{id}/proxy/execute {endpointId, pathParams?, queryParams?, body?}`: calls the
/// provider's API with the connection's token.
///
/// # Errors
/// `not_found`, `invalid_json`, `missing_required_fields`, `invalid_fields`, `unknown_endpoint`,
/// `missing_path_parameters`, `unknown_path_parameters`, `no_token_found`, `installation_not_active`,
/// `connecting_not_configured`, `connection_expired`, `provider_unavailable`.
#[utoipa::path(
    post, path = "/connections/{id}/proxy/execute",
    request_body = schemas::ProxyCall,
    responses((status = 200, body = schemas::ProxyAnswer)),
)]
pub async fn execute(
    ServiceWriter(caller): ServiceWriter,
    id: web::Path<String>,
    body: ApiBody,
    gateway: web::Data<Gateway>,
) -> Answer {
    let installation = get_visible(&gateway, &caller, &id).await?;
    let mut members = body.members()?;
    let endpoint_id = members.required_text("endpointId");
    let path_parameters = members.optional("pathParams", path_parameters).unwrap_or_default();
    let query = members.optional("queryParams", query_parameters).unwrap_or_default();
    let body = members.optional("body", |body| (body.is_object() || body.is_array()).then_some(body));
    members.finish()?;
    let request = ProxyRequest { endpoint_id: endpoint_id.clone(), path_parameters, query, body };
    let answered = gateway.directory.execute_proxy(&installation.id, installation.provider, request).await;
    let answered = answered
        .map_err(|error| Problem::from(error).about_provider(installation.provider).about_endpoint(&endpoint_id));
    let how_it_went = match &answered {
        Ok(answer) => format!("answered {}", answer.status),
        Err(problem) => problem.code().code.to_owned(),
    };
    gateway
        .store
        .append_log(&[LogEntry {
            org: Some(installation.org),
            installation: Some(installation.id),
            subject: answered.is_ok().then_some(endpoint_id),
            reason: Some(how_it_went),
            ..LogEntry::new(gateway.ids.log(), "proxy.called", caller.actor(), gateway.clock.now())
        }])
        .await?;
    let answer = answered?;
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(json!({
        "status": answer.status, "data": answer.data, "headers": answer.headers,
    })))
}

/// A text, a number or a boolean, as text.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn small_object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(members) if members.len() <= MAX_PARAMETERS => Some(members),
        _ => None,
    }
}

fn path_parameters(value: Value) -> Option<BTreeMap<String, String>> {
    small_object(value)?.into_iter().map(|(name, value)| Some((name, scalar(&value)?))).collect()
}

/// A list is the same parameter several times; `null` is as good as absent.
fn query_parameters(value: Value) -> Option<Vec<(String, String)>> {
    let mut parameters = Vec::new();
    for (name, value) in small_object(value)? {
        match value {
            Value::Null => {}
            Value::Array(values) => {
                for value in &values {
                    parameters.push((name.clone(), scalar(value)?));
                }
            }
            value => parameters.push((name, scalar(&value)?)),
        }
    }
    (parameters.len() <= MAX_PARAMETERS).then_some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_scalars_and_a_list_repeats_its_parameter() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let read = query_parameters(json!({"page": 2, "state": ["open", "closed"], "all": true, "none": null}));
        let read = read.expect("readable");
        assert_eq!(read, [pair("all", "true"), pair("page", "2"), pair("state", "open"), pair("state", "closed")]);
        assert_eq!(query_parameters(json!({"a": {"b": 1}})), None);
        assert_eq!(query_parameters(json!(["a"])), None);
        assert_eq!(path_parameters(json!({"number": 7})), Some(BTreeMap::from([pair("number", "7")])));
        assert_eq!(path_parameters(json!({"number": [7]})), None);
        let many: Map<String, Value> = (0..=MAX_PARAMETERS).map(|n| (n.to_string(), json!(1))).collect();
        assert_eq!(query_parameters(Value::Object(many)), None);
    }
}
