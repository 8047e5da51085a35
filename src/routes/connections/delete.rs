//! `DELETE /connections/{id}` and `DELETE /connections/{provider}/{id}`: the end of a connection.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{
    super::{
        auth::{Caller, Writer},
        error_codes as codes,
        gateway::Gateway,
        problem::{Answer, Problem},
        schemas,
    },
    get_visible,
};
use crate::model::teardown::TeardownStatus;

/// `DELETE /connections/{id}`: ends a connection. It has stopped routing when this answers; the rest goes on by itself.
///
/// # Errors
/// `not_found`.
#[utoipa::path(delete, path = "/connections/{id}", responses((status = 200, body = schemas::TeardownBegun)))]
pub async fn delete(Writer(caller): Writer, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    tear_down(&gateway, &caller, None, &id).await
}

/// `DELETE /connections/{provider}/{id}`: ends a connection, if it is a connection of that provider.
///
/// # Errors
/// `not_found`.
#[utoipa::path(
    delete, path = "/connections/{provider}/{id}",
    responses((status = 200, body = schemas::TeardownBegun)),
)]
pub async fn delete_of_provider(
    Writer(caller): Writer,
    path: web::Path<(String, String)>,
    gateway: web::Data<Gateway>,
) -> Answer {
    let (provider, id) = path.into_inner();
    tear_down(&gateway, &caller, Some(&provider), &id).await
}

async fn tear_down(gateway: &Gateway, caller: &Caller, provider: Option<&str>, id: &str) -> Answer {
    let installation = get_visible(gateway, caller, id).await?;
    if provider.is_some_and(|provider| provider != installation.provider.as_str()) {
        return Err(Problem::new(&codes::NOT_FOUND));
    }
    let teardown = gateway.directory.begin_teardown(&installation.id, "disconnected", caller.actor()).await?;
    let status = match teardown.status {
        TeardownStatus::Running => "teardown_initiated",
        TeardownStatus::Completed => "revoked",
    };
    Ok(HttpResponse::Ok().json(json!({"status": status, "installationId": installation.id})))
}
