//! `GET /connections/{id}/token`: an opened token, for a service that calls the provider by itself.
//!
//! **Invariants**: every read has its row in the audit log before anything is answered, refused ones too; the row never
//! holds the token; no cache on the way may keep the answer.

use actix_web::{HttpResponse, http::header, web};
use serde_json::json;

use super::{
    super::{
        auth::{Caller, Reader},
        error_codes as codes,
        gateway::Gateway,
        problem::{Answer, Problem},
        schemas,
    },
    get_visible,
};
use crate::model::{ids::InstallationId, installation::Installation, log_entry::LogEntry};

/// `GET /connections/{id}/token`: an opened token, for a service that calls the provider by itself. Every read is in the
/// audit log.
///
/// # Errors
/// `service_key_required`, `not_found`, `no_token_found`, `installation_not_active`, `token_expired`,
/// `token_generation_failed`.
#[utoipa::path(get, path = "/connections/{id}/token", responses((status = 200, body = schemas::Token)))]
pub async fn read(Reader(caller): Reader, id: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let (installation, token) = match get_visible(&gateway, &caller, &id).await {
        Ok(installation) if caller.is_service() => {
            let token = gateway.directory.token(&installation.id).await.map_err(Problem::from);
            (Some(installation), token)
        }
        // An org key is refused whatever it names: it learns nothing about what exists.
        Ok(installation) => (Some(installation), Err(Problem::new(&codes::SERVICE_KEY_REQUIRED))),
        Err(_) if !caller.is_service() => (None, Err(Problem::new(&codes::SERVICE_KEY_REQUIRED))),
        Err(problem) => (None, Err(problem)),
    };
    let refusal = token.as_ref().err().map(|problem| problem.code().code);
    record_read(&gateway, &caller, &id, installation.as_ref(), refusal).await?;
    let token = token?;
    let provider = installation.map(|installation| installation.provider);
    let access_token = token
        .access
        .expose_str()
        .ok_or_else(|| Problem::new(&codes::TOKEN_GENERATION_FAILED).caused_by("the provider's token is not text"))?;
    let now = gateway.clock.now();
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(json!({
        "accessToken": access_token,
        "provider": provider,
        "expiresIn": token.expires_at.map(|at| at.since(now).as_secs()),
    })))
}

async fn record_read(
    gateway: &Gateway,
    caller: &Caller,
    asked_for: &str,
    installation: Option<&Installation>,
    refusal: Option<&'static str>,
) -> Result<(), Problem> {
    // What was asked for is noted when it can be an id of ours, and not as free text of whoever asks.
    let is_id = asked_for.len() <= 64
        && asked_for
            .strip_prefix(InstallationId::PREFIX)
            .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let entry = LogEntry {
        org: installation.map(|installation| installation.org.clone()).or_else(|| caller.org.clone()),
        installation: installation.map(|installation| installation.id.clone()),
        subject: is_id.then(|| asked_for.to_owned()),
        to_state: Some(if refusal.is_some() { "refused" } else { "granted" }.into()),
        reason: refusal.map(str::to_owned),
        ..LogEntry::new(gateway.ids.log(), "token.read", caller.actor(), gateway.clock.now())
    };
    gateway.store.append_log(&[entry]).await?;
    Ok(())
}
