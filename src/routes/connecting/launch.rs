//! `GET /connect/{provider}/{state}`: the launch page. It binds the browser that opens it and sends it to the provider.

use actix_web::{HttpRequest, web};

use super::{
    super::{gateway::Gateway, problem::Answer, request_frame::note},
    make_cookie, read_cookie, redirect, refuse,
};

/// `GET /connect/{provider}/{state}`
///
/// # Errors
/// `unknown_provider`, `connecting_not_configured`, `invalid_or_expired_state`.
pub async fn launch(request: HttpRequest, path: web::Path<(String, String)>, gateway: web::Data<Gateway>) -> Answer {
    let (provider, state) = path.into_inner();
    if let Some((known, _)) = gateway.registry.find_enabled(&provider) {
        note(&request, |notes| notes.provider = Some(known.slug().as_str()));
    }
    let cookie = read_cookie(&request, &gateway);
    match gateway.connecting.launch(&provider, &state, cookie.as_deref()).await {
        Ok(launch) => Ok(redirect(&launch.location).cookie(make_cookie(&launch.cookie, &gateway)).finish()),
        Err(error) => refuse(&request, &gateway, error).await,
    }
}
