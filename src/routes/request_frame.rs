//! The frame around every request: its ids, its log line, its security headers, what pages of other origins may, and the
//! body of its error answer.
//!
//! **Invariants**: every answer carries `X-Request-Id` and `X-Correlation-Id`; every request is logged in exactly one line, with the
//! path's template and never its query string, its headers or its body. **Must not know** any single route.

use std::time::Instant;

use actix_web::{
    Error, FromRequest, HttpMessage, HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::{
        ConnectionType, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use futures_util::future::{Ready, ready};

use super::{cors::CrossOrigin, error_codes as codes, problem::Problem, unread_body::ReadingEnd};
use crate::{
    model::{clock::Ids, webhook::is_acceptable_id},
    telemetry::request_log::RequestLine,
};

/// Named by the caller or made here; echoed.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Names what several requests belong to; the request id unless the caller says otherwise.
pub static CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// What `Retry-After` says on every 503, seconds.
const RETRY_AFTER_S: &str = "1";

/// A request's ids.
#[derive(Debug, Clone)]
pub struct RequestIds {
    /// For this request alone.
    pub request: String,
    /// Stored with events and sent to destinations.
    pub correlation: String,
}

impl RequestIds {
    /// The caller's ids where they are visible ASCII of sane length, else `fresh`.
    fn read(headers: &HeaderMap, fresh: impl FnOnce() -> String) -> Self {
        let request = acceptable(headers, &REQUEST_ID).unwrap_or_else(fresh);
        let correlation = acceptable(headers, &CORRELATION_ID).unwrap_or_else(|| request.clone());
        Self { request, correlation }
    }
}

/// A header's value, if it may be echoed, stored and logged.
fn acceptable(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().filter(|id| is_acceptable_id(id)).map(str::to_owned)
}

impl FromRequest for RequestIds {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let ids = request.extensions().get::<Self>().cloned();
        ready(ids.ok_or_else(|| Problem::new(&codes::INTERNAL_ERROR).caused_by("the request frame is not installed")))
    }
}

/// What a request's log line says beyond method, route and status; left in its extensions by whoever knows.
#[derive(Debug, Default)]
pub struct RequestNotes {
    /// The id of the key used.
    pub key_id: Option<String>,
    /// The org acted for.
    pub org_id: Option<String>,
    /// The provider of a webhook.
    pub provider: Option<&'static str>,
    /// The provider's id of a webhook.
    pub provider_delivery_id: Option<String>,
    /// The event a webhook became.
    pub event_id: Option<String>,
    /// What became of it.
    pub outcome: Option<&'static str>,
    /// Bytes of a webhook's body.
    pub body_bytes: Option<usize>,
    /// The code of a problem that was answered as a page.
    pub error_code: Option<&'static str>,
}

/// Adds to a request's notes.
pub fn note(request: &HttpRequest, add: impl FnOnce(&mut RequestNotes)) {
    let mut extensions = request.extensions_mut();
    if let Some(notes) = extensions.get_mut::<RequestNotes>() {
        add(notes);
    } else {
        let mut notes = RequestNotes::default();
        add(&mut notes);
        extensions.insert(notes);
    }
}

/// The middleware, for `actix_web::middleware::from_fn`. Needs `web::Data<Ids>`.
///
/// # Errors
/// None of its own.
pub async fn frame(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let ids = RequestIds::read(request.headers(), || {
        request.app_data::<web::Data<Ids>>().map_or_else(|| "req_unframed".to_owned(), |ids| ids.request())
    });
    request.extensions_mut().insert(ids.clone());
    let reading_end = ReadingEnd::of(&mut request);

    let cross_origin = CrossOrigin::of(&request);
    let mut response = match (refuse_nul(&request), &cross_origin) {
        (Some(problem), _) => request.error_response(problem),
        (None, CrossOrigin::Preflight(_)) => request.into_response(HttpResponse::NoContent().finish()),
        (None, _) => next.call(request).await?.map_into_boxed_body(),
    };

    let problem = problem_of(&response);
    if let Some(problem) = &problem {
        log_cause(problem, &ids);
        response = write_problem(response, problem, &ids);
    }
    let is_unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE;
    set_headers(response.headers_mut(), &ids, is_unavailable);
    cross_origin.set_headers(response.headers_mut());
    log_line(&response, problem.as_ref(), &ids, started);
    Ok(match reading_end {
        Some(end) => end.keep_with(response),
        None => response,
    })
}

/// An encoded NUL names nothing, and PostgreSQL refuses text that holds one: it ends here for every route.
fn refuse_nul(request: &ServiceRequest) -> Option<Problem> {
    if request.path().contains("%00") {
        Some(Problem::new(&codes::NOT_FOUND))
    } else if request.query_string().contains("%00") {
        Some(Problem::new(&codes::INVALID_PARAMETER).detail("no parameter may contain a NUL"))
    } else {
        None
    }
}

/// Our problem behind an answer, or one for an error answer of the HTTP library.
fn problem_of(response: &ServiceResponse<BoxBody>) -> Option<Problem> {
    if let Some(error) = response.response().error() {
        let ours = error.as_error::<Problem>().cloned();
        return Some(ours.unwrap_or_else(|| Problem::of_status(response.status()).caused_by(error)));
    }
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    let is_empty = matches!(response.response().body().size(), BodySize::None | BodySize::Sized(0));
    (is_error && is_empty).then(|| Problem::of_status(response.status()))
}

fn write_problem(
    mut response: ServiceResponse<BoxBody>,
    problem: &Problem,
    ids: &RequestIds,
) -> ServiceResponse<BoxBody> {
    let status = problem.code().status;
    let body = problem.to_json(&ids.request).to_string();
    if matches!(status, 408 | 413 | 415) {
        // The rest of the body is still on its way and nobody will read it.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    response.map_body(|head, _| {
        if let Ok(status) = StatusCode::from_u16(status) {
            head.status = status;
        }
        let headers = &mut head.headers;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if problem.code() == &codes::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        BoxBody::new(body)
    })
}

fn set_headers(headers: &mut HeaderMap, ids: &RequestIds, is_unavailable: bool) {
    for (name, value) in [(&REQUEST_ID, &ids.request), (&CORRELATION_ID, &ids.correlation)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name.clone(), value);
        }
    }
    if is_unavailable {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let unless_set = [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in unless_set {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

fn log_line(response: &ServiceResponse<BoxBody>, problem: Option<&Problem>, ids: &RequestIds, started: Instant) {
    if !RequestLine::is_wanted() {
        return;
    }
    let request = response.request();
    let extensions = request.extensions();
    let none = RequestNotes::default();
    let notes = extensions.get::<RequestNotes>().unwrap_or(&none);
    let route = request.match_pattern();
    let line = RequestLine {
        method: request.method().as_str(),
        route: route.as_deref().unwrap_or("unmatched"),
        status: response.status().as_u16(),
        took: started.elapsed(),
        request_id: &ids.request,
        correlation_id: Some(&ids.correlation),
        error_code: problem.map(|problem| problem.code().code).or(notes.error_code),
        provider: notes.provider,
        event_id: notes.event_id.as_deref(),
        provider_delivery_id: notes.provider_delivery_id.as_deref(),
        outcome: notes.outcome,
        key_id: notes.key_id.as_deref(),
        org_id: notes.org_id.as_deref(),
        body_bytes: notes.body_bytes,
    };
    line.log();
}

/// The answer to a server error says nothing of its cause; this does, under the same request id.
pub fn log_cause(problem: &Problem, ids: &RequestIds) {
    let Some(cause) = problem.cause() else { return };
    if problem.code().status >= 500 {
        tracing::error!(request.id = ids.request, error.code = problem.code().code, cause, "a request failed");
    } else {
        tracing::debug!(request.id = ids.request, error.code = problem.code().code, cause, "a request was refused");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix_web::{App, HttpResponse, http::StatusCode, middleware::from_fn, test, web};
    use serde_json::Value;

    use super::*;
    use crate::model::{
        clock::{EpochMs, ManualClock},
        webhook::MAX_ID_CHARS,
    };

    async fn fails() -> Result<HttpResponse, Problem> {
        Err(Problem::new(&codes::STORE_UNAVAILABLE).caused_by("disk full on /var/lib"))
    }

    async fn ids(ids: RequestIds) -> HttpResponse {
        HttpResponse::Ok().body(ids.correlation)
    }

    macro_rules! app {
        () => {
            test::init_service(
                App::new()
                    .wrap(from_fn(frame))
                    .app_data(web::Data::new(Ids::new(Arc::new(ManualClock::starting_at(EpochMs(1))))))
                    .service(web::resource("/fails").route(web::get().to(fails)))
                    .service(web::resource("/ids/{name}").route(web::get().to(ids))),
            )
            .await
        };
    }

    #[actix_web::test]
    async fn an_error_is_a_problem_document_with_the_request_id_and_no_internal_detail() {
        let app = app!();
        let request = test::TestRequest::get().uri("/fails").insert_header(("x-request-id", "abc")).to_request();
        let response = test::call_service(&app, request).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers().get("content-type").expect("a type"), "application/problem+json");
        assert_eq!(response.headers().get("retry-after").expect("a wait"), "1");
        assert_eq!(response.headers().get("x-request-id").expect("an id"), "abc");
        assert_eq!(response.headers().get("x-content-type-options").expect("nosniff"), "nosniff");
        let body = test::read_body(response).await;
        assert!(!String::from_utf8_lossy(&body).contains("disk"));
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["error"], "store_unavailable");
        assert_eq!(body["requestId"], "abc");
    }

    #[actix_web::test]
    async fn unknown_routes_and_methods_are_problem_documents_too() {
        let app = app!();
        for (request, status, code) in [
            (test::TestRequest::get().uri("/nowhere"), 404, "not_found"),
            (test::TestRequest::get().uri("/ids/%00"), 404, "not_found"),
            (test::TestRequest::get().uri("/ids/a?b=%00"), 400, "invalid_parameter"),
            (test::TestRequest::post().uri("/fails"), 405, "method_not_allowed"),
        ] {
            let response = test::call_service(&app, request.to_request()).await;
            assert_eq!(response.status().as_u16(), status);
            let body: Value = test::read_body_json(response).await;
            assert_eq!(body["error"], code);
            assert_eq!(body["status"], status);
        }
    }

    #[actix_web::test]
    async fn ids_are_echoed_only_if_they_are_short_visible_ascii() {
        let app = app!();
        let long = "x".repeat(MAX_ID_CHARS + 1);
        for unacceptable in ["", "two words", "naïve", long.as_str()] {
            let request =
                test::TestRequest::get().uri("/ids/1").insert_header(("x-request-id", unacceptable)).to_request();
            let response = test::call_service(&app, request).await;
            let id = response.headers().get("x-request-id").expect("an id").to_str().expect("text").to_owned();
            assert!(id.starts_with("req_") && id.len() > 20, "{id}");
            assert_eq!(test::read_body(response).await, id, "the correlation id defaults to the request id");
        }
        let request = test::TestRequest::get()
            .uri("/ids/1")
            .insert_header(("x-request-id", "r-1"))
            .insert_header(("x-correlation-id", "c-1"))
            .to_request();
        let response = test::call_service(&app, request).await;
        assert_eq!(response.headers().get("x-correlation-id").expect("an id"), "c-1");
        assert_eq!(test::read_body(response).await, "c-1");
    }
}
