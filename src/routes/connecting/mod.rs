//! Connecting over HTTP: `authorize`, the launch page, the callback, and the status of a flow.
//!
//! **Invariants**: states and codes are in no log (the frame logs a route's pattern, never its path or query) and in no
//! page; a browser that brings a bad state gets a page, an API client a problem document, both 400, and whoever does it
//! again and again waits for it. **Must not know** any provider.

pub mod assets;
pub mod authorize;
pub mod callback;
pub mod launch;
mod page;
pub mod status;

use actix_web::{
    HttpRequest, HttpResponse,
    cookie::{Cookie, SameSite, time::Duration},
    http::{StatusCode, header},
};

use self::page::Page;
pub use self::page::escaped;
use super::{
    gateway::Gateway,
    problem::{Answer, Problem},
    request_frame::note,
};
use crate::{actors::connecting::ConnectingError, model::secret::Secret};

/// How long a browser keeps our cookie; each launch begins it anew.
const COOKIE_LIFE: Duration = Duration::hours(1);

/// The cookie that binds a browser to its flows. Over TLS its prefix makes browsers refuse one that was set by another
/// host or without TLS.
fn cookie_name(gateway: &Gateway) -> &'static str {
    if gateway.connecting.public_url().is_secure() { "__Host-signalbox_connect" } else { "signalbox_connect" }
}

/// What the browser has.
fn read_cookie(request: &HttpRequest, gateway: &Gateway) -> Option<String> {
    request.cookie(cookie_name(gateway)).map(|cookie| cookie.value().to_owned())
}

fn make_cookie(value: &Secret, gateway: &Gateway) -> Cookie<'static> {
    let value = value.expose_str().unwrap_or_default().to_owned();
    Cookie::build(cookie_name(gateway), value)
        .path("/")
        .http_only(true)
        .secure(gateway.connecting.public_url().is_secure())
        .same_site(SameSite::Lax)
        .max_age(COOKIE_LIFE)
        .finish()
}

/// Whether a browser asks, rather than an API client.
fn wants_page(request: &HttpRequest) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.to_ascii_lowercase().contains("text/html"))
}

/// Refuses what a browser brought: as a page for people, as a problem document for everybody else.
async fn refuse(request: &HttpRequest, gateway: &Gateway, provider: &str, error: ConnectingError) -> Answer {
    if matches!(error, ConnectingError::UnknownProvider) {
        return Err(Problem::unknown_provider(provider));
    }
    let is_bad_state = matches!(error, ConnectingError::BadState);
    if is_bad_state {
        gateway.brake.refused(request).await;
    }
    let problem = Problem::from(error);
    if !is_bad_state || !wants_page(request) {
        return Err(problem);
    }
    note(request, |notes| notes.outcome = Some(problem.code().code));
    Ok(Page {
        title: "Please finish in the console",
        lines: &[
            "This address is not valid, was used before, or belongs to another browser. Nothing was connected by it.",
            "Go back to the console and look at your connections there. If what you wanted is missing, connect it again.",
        ],
        code: Some(problem.code().code),
        outcome: None,
    }
    .answer(StatusCode::BAD_REQUEST, gateway))
}

/// Sends the browser on.
fn redirect(to: &url::Url) -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::Found();
    response.insert_header((header::LOCATION, to.as_str()));
    response
}
