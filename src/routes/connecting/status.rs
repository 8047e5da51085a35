//! `GET /connections/oauth/status?state=`: how far a flow is, for a console or a script that waits for it.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::super::{
    auth::Reader,
    error_codes as codes,
    gateway::Gateway,
    problem::{Answer, Problem},
    query::Query,
    schemas,
};
use crate::actors::connecting::FlowState;

/// `GET /connections/oauth/status?state=`: how far a flow is. Another org's state is as unknown as one that nobody has.
///
/// # Errors
/// `missing_state`.
#[utoipa::path(
    get, path = "/connections/oauth/status",
    params(("state" = String, Query, description = "What `authorize` answered.")),
    responses((status = 200, body = schemas::FlowStatus)),
)]
pub async fn status(Reader(caller): Reader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let state = query.get("state").ok_or_else(|| Problem::new(&codes::MISSING_STATE))?;
    let flow = gateway.connecting.status(state, caller.org.as_ref()).await?;
    Ok(HttpResponse::Ok().json(match flow {
        FlowState::Expired => json!({"status": "expired"}),
        FlowState::Failed { provider, error } => json!({"status": "failed", "provider": provider, "error": error}),
        FlowState::Pending { mut result } => {
            result.insert("status".into(), "pending".into());
            Value::Object(result)
        }
        FlowState::Completed { provider, installation, mut result } => {
            result.insert("status".into(), "completed".into());
            result.insert("provider".into(), json!(provider));
            result.insert("connectionId".into(), json!(installation));
            Value::Object(result)
        }
    }))
}
