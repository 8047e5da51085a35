//! `GET /connections/{provider}/callback`: a browser comes back from a provider. No key: the state and the cookie say
//! who it is.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde_json::{Value, json};

use super::{
    super::{gateway::Gateway, problem::Answer, request_frame::note},
    page::Page,
    read_cookie, redirect, refuse,
};
use crate::actors::connecting::{Arrival, Arrived, Destination, FlowEnd};

/// `GET /connections/{provider}/callback`: a browser comes back from a provider. The state and the browser's cookie say whose
/// it is; the other parameters are the provider's. A bad state is told to a browser (`Accept: text/html`) as a page.
///
/// # Errors
/// `unknown_provider`, `invalid_or_expired_state`, `connecting_not_configured`, `store_unavailable`,
/// `temporarily_unavailable`. Everything else that goes wrong is told where
/// the browser ends.
#[utoipa::path(
    get, path = "/connections/{provider}/callback",
    params(
        ("state" = Option<String>, Query, description = "Names the flow."),
        ("code" = Option<String>, Query, description = "The provider's code."),
        ("error" = Option<String>, Query, description = "The provider's error."),
    ),
    responses(
        (status = 200, description = "The page a flow ends on where no console takes over", content_type = "text/html", body = String),
        (status = 302, description = "To the console, or on to the provider"),
        (status = 400, description = "For browsers, a page", content_type = "text/html", body = String),
    ),
)]
pub async fn arrive(request: HttpRequest, provider: web::Path<String>, gateway: web::Data<Gateway>) -> Answer {
    let known = gateway.registry.find_enabled(&provider).map(|(known, _)| known.clone());
    if let Some(known) = &known {
        note(&request, |notes| notes.provider = Some(known.slug().as_str()));
    }
    let mut parameters = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(request.query_string().as_bytes()).into_owned() {
        parameters.entry(name).or_insert(value);
    }
    let arrival = Arrival {
        provider: provider.clone(),
        parameters,
        cookie: read_cookie(&request, &gateway),
        from: request.peer_addr().map(|peer| peer.ip().to_string()),
    };
    match gateway.connecting.callback(arrival).await {
        Err(error) => refuse(&request, &gateway, &provider, error).await,
        Ok(Arrived::SecondLeg(url)) => Ok(redirect(&url).finish()),
        Ok(Arrived::Ended { end, destination }) => {
            note(&request, |notes| notes.outcome = Some(status_word(&end)));
            let (slug, name) = known.map_or(("", "The provider"), |known| (known.slug().as_str(), known.name()));
            Ok(match destination {
                Destination::Redirect(url) => redirect(&url).finish(),
                Destination::Page => completion_page(slug, name, &end, &gateway),
            })
        }
    }
}

fn status_word(end: &FlowEnd) -> &'static str {
    match end {
        FlowEnd::Connected { .. } => "completed",
        FlowEnd::AwaitsApproval { .. } => "pending",
        FlowEnd::Failed { .. } => "failed",
    }
}

/// The page a flow ends on where no console takes over.
fn completion_page(slug: &str, name: &str, end: &FlowEnd, gateway: &Gateway) -> HttpResponse {
    let outcome = outcome_json(slug, end);
    let (title, line, code) = match end {
        FlowEnd::Connected { reactivated: true, .. } => {
            (format!("{name} is connected again"), "You can close this window.", None)
        }
        FlowEnd::Connected { .. } => (format!("{name} is connected"), "You can close this window.", None),
        FlowEnd::AwaitsApproval { .. } => (
            format!("{name} waits for an approval"),
            "An owner has to approve the request there. Then connect again in the console.",
            None,
        ),
        FlowEnd::Failed { error } => {
            (format!("{name} was not connected"), "Go back to the console and try again.", Some(error.as_str()))
        }
    };
    Page { title: &title, lines: &[line], code, outcome: Some(&outcome) }.answer(StatusCode::OK, gateway)
}

/// What the page tells the window that opened it.
fn outcome_json(slug: &str, end: &FlowEnd) -> Value {
    let mut outcome = json!({"provider": slug, "status": status_word(end)});
    match end {
        FlowEnd::Connected { installation, reactivated, setup_action } => {
            outcome["connectionId"] = json!(installation);
            outcome["reactivated"] = json!(reactivated);
            if let Some(action) = setup_action {
                outcome["setupAction"] = json!(action);
            }
        }
        FlowEnd::AwaitsApproval { setup_action } => outcome["setupAction"] = json!(setup_action),
        FlowEnd::Failed { error } => outcome["error"] = json!(error),
    }
    outcome
}
