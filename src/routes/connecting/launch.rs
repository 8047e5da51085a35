//! `GET /connect/{provider}/{state}`: the launch page. It binds the browser that opens it and sends it to the provider.

use actix_web::{HttpRequest, web};

use super::{
    super::{gateway::Gateway, problem::Answer, request_frame::note},
    make_cookie, read_cookie, redirect, refuse,
};

/// `GET /connect/{provider}/{state}`: binds the browser that opens it to the flow and sends it to the provider. A bad state is
/// told to a browser (`Accept: text/html`) as a page.
///
/// # Errors
/// `unknown_provider`, `connecting_not_configured`, `invalid_or_expired_state`, `store_unavailable`,
/// `temporarily_unavailable`.
#[utoipa::path(
    get, path = "/connect/{provider}/{state}",
    responses(
        (status = 302, description = "To the provider"),
        (status = 400, description = "For browsers, a page", content_type = "text/html", body = String),
    ),
)]
pub async fn launch(request: HttpRequest, path: web::Path<(String, String)>, gateway: web::Data<Gateway>) -> Answer {
    let (provider, state) = path.into_inner();
    if let Some((known, _)) = gateway.registry.find_enabled(&provider) {
        note(&request, |notes| notes.provider = Some(known.slug().as_str()));
    }
    let cookie = read_cookie(&request, &gateway);
    match gateway.connecting.launch(&provider, &state, cookie.as_deref()).await {
        Ok(launch) => Ok(redirect(&launch.location).cookie(make_cookie(&launch.cookie, &gateway)).finish()),
        Err(error) => refuse(&request, &gateway, &provider, error).await,
    }
}
