//! The frame around every page: its security headers, and problems as pages.
//!
//! **Invariants**: every answer under `/console` has the policy; a problem's page says no more than its document would; who
//! is not signed in comes to the sign-in page and from there back.

use actix_web::{
    Error, HttpMessage, HttpRequest, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
};
use askama::Template;

use super::{
    layout::{Layout, Section, base_of},
    visitor::Visitor,
};
use crate::routes::{Problem, RequestIds, error_codes as codes, log_cause, note, session};

/// No script or style but our own files, nothing from elsewhere, and in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The middleware, for `actix_web::middleware::from_fn`.
///
/// # Errors
/// None of its own.
pub async fn frame(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let response = next.call(request).await?.map_into_boxed_body();
    let mut response = match problem_of(&response).filter(|_| !wants_json(response.request())) {
        Some(problem) => {
            let (request, _) = response.into_parts();
            let page = page_of(&problem, &request);
            ServiceResponse::new(request, page)
        }
        None => response,
    };
    keep_choice(&mut response);
    set_headers(response.headers_mut());
    Ok(response)
}

fn problem_of(response: &ServiceResponse<BoxBody>) -> Option<Problem> {
    if let Some(error) = response.response().error() {
        let ours = error.as_error::<Problem>().cloned();
        return Some(ours.unwrap_or_else(|| Problem::of_status(response.status()).caused_by(error)));
    }
    (response.status() == StatusCode::METHOD_NOT_ALLOWED).then(|| Problem::new(&codes::METHOD_NOT_ALLOWED))
}

/// Whether a script asks that wants to read the problem itself.
fn wants_json(request: &HttpRequest) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

/// A link with `?org=` is a choice that the next pages keep.
fn keep_choice(response: &mut ServiceResponse<BoxBody>) {
    let request = response.request();
    let visitor = request.extensions().get::<Visitor>().cloned();
    let is_choice = session::named_org(request).is_some() && session::is_person(request);
    let Some(visitor) = visitor.filter(|visitor| is_choice && visitor.caller.is_service()) else { return };
    let cookie = session::make_org_cookie(visitor.caller.org.as_ref(), &visitor.gateway);
    if let Err(error) = response.response_mut().add_cookie(&cookie) {
        tracing::warn!(%error, "the choice of an org could not be kept");
    }
}

fn set_headers(headers: &mut HeaderMap) {
    let set: [(HeaderName, &str); 2] =
        [(header::CONTENT_SECURITY_POLICY, POLICY), (header::REFERRER_POLICY, "same-origin")];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The page of a problem.
#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    layout: Layout,
    status: u16,
    title: &'static str,
    meaning: &'static str,
    detail: Option<String>,
    code: &'static str,
    advice: &'static str,
    request_id: String,
}

/// The page of what lies within an org, for somebody who has not chosen one.
#[derive(Template)]
#[template(path = "choose_org.html")]
struct ChooseOrgPage {
    layout: Layout,
}

fn page_of(problem: &Problem, request: &HttpRequest) -> HttpResponse {
    let ids = request.extensions().get::<RequestIds>().cloned();
    let request_id = ids.as_ref().map(|ids| ids.request.clone()).unwrap_or_default();
    if let Some(ids) = &ids {
        log_cause(problem, ids);
    }
    let code = problem.code();
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
    if code == &codes::UNAUTHORIZED && is_reading && session::is_person(request) {
        return to_sign_in(request);
    }
    note(request, |notes| notes.error_code = Some(code.code));
    let visitor = request.extensions().get::<Visitor>().cloned();
    let title = if code == &codes::MISSING_ORG_ID { "Choose an org" } else { code.title };
    let layout = match visitor {
        Some(visitor) => visitor.layout(Section::None, title),
        None => Layout::outside(request, title),
    };
    let page = if code == &codes::MISSING_ORG_ID {
        ChooseOrgPage { layout }.render()
    } else {
        let page = ProblemPage {
            layout,
            status: code.status,
            title,
            meaning: code.meaning,
            detail: (code.status < 500).then(|| problem.to_json("")["detail"].as_str().map(str::to_owned)).flatten(),
            code: code.code,
            advice: advice(code.status),
            request_id,
        };
        page.render()
    };
    let status = StatusCode::from_u16(code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = HttpResponse::build(status);
    answer.insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"));
    if code.status == 503 {
        answer.insert_header((header::RETRY_AFTER, "1"));
    }
    match page {
        Ok(html) => answer.body(html),
        Err(error) => {
            tracing::error!(%error, "the page of a problem could not be shown");
            answer.body(code.title)
        }
    }
}

fn advice(status: u16) -> &'static str {
    match status {
        404 => {
            "Look at the address, or go back to the overview. What belongs to another org is not shown either: \
                choose the org above if you have the key for it."
        }
        403 => "Sign in with a key that may do this, or ask whoever runs this gateway for one.",
        503 => "Wait a moment and load the page again. Webhooks that were acknowledged are safe.",
        500..=599 => {
            "Load the page again. If it stays, tell whoever runs this gateway the request id below: its log has \
                      the cause."
        }
        _ => "Go back and try it another way.",
    }
}

/// The way to the sign-in page, and back.
fn to_sign_in(request: &HttpRequest) -> HttpResponse {
    let base = base_of(request);
    let wanted = request.uri().path_and_query().map_or("/console", |wanted| wanted.as_str());
    let next: String = form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
    let address = if wanted == "/console" {
        format!("{base}/console/login")
    } else {
        format!("{base}/console/login?next={next}")
    };
    HttpResponse::SeeOther().insert_header((header::LOCATION, address)).finish()
}
