//! Pages of other origins that may call the API: `console.allowed_origins`, and the origin of `console.url`.
//!
//! **Invariants**: an origin is compared whole, byte for byte; cookies never come along (no `Allow-Credentials`), a
//! caller has its key; the answer to a page of any other origin says nothing of this. What is not the API is left alone:
//! webhooks, the built-in console, the pages of a connect flow.

use actix_web::{
    dev::ServiceRequest,
    http::{
        Method,
        header::{self, HeaderMap, HeaderValue},
    },
    web,
};

use super::gateway::Gateway;

/// First segments of the paths that are not the API.
const NOT_THE_API: [&str; 5] = ["webhooks", "console", "connect", "assets", "metrics"];
/// The methods of the URL table.
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
/// What callers send beside what any page may.
const HEADERS: &str = "X-API-Key, Authorization, X-Org-Id, X-User-Id, Content-Type, X-Request-Id, X-Correlation-Id, \
                       Last-Event-ID";
/// What pages may read beside what any page may.
const EXPOSED: &str = "X-Request-Id, Retry-After";
/// How long a browser may remember the answer to a preflight, seconds: Chromium's limit.
const MAX_AGE_S: &str = "7200";

/// What a request has to do with other origins.
#[derive(Debug)]
pub(super) enum CrossOrigin {
    /// Nothing: no origin is allowed, or this is not the API.
    Unconcerned,
    /// It comes from no page, or from one that is not allowed.
    NotAllowed,
    /// It comes from a page of this origin.
    Allowed(HeaderValue),
    /// The browser of a page of this origin asks first.
    Preflight(HeaderValue),
}

impl CrossOrigin {
    pub fn of(request: &ServiceRequest) -> Self {
        let Some(gateway) = request.app_data::<web::Data<Gateway>>() else { return Self::Unconcerned };
        let allowed = &gateway.config.console.allowed_origins;
        let first_segment = request.path().trim_start_matches('/').split('/').next().unwrap_or_default();
        if allowed.is_empty() || NOT_THE_API.contains(&first_segment) {
            return Self::Unconcerned;
        }
        let headers = request.headers();
        let mut origins = headers.get_all(header::ORIGIN);
        let (Some(origin), None) = (origins.next(), origins.next()) else { return Self::NotAllowed };
        if !allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            return Self::NotAllowed;
        }
        let asks_first =
            request.method() == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if asks_first { Self::Preflight(origin.clone()) } else { Self::Allowed(origin.clone()) }
    }

    /// Completes an answer, whatever it is.
    pub fn set_headers(self, headers: &mut HeaderMap) {
        let mut say = |name, value| headers.insert(name, HeaderValue::from_static(value));
        match &self {
            Self::Unconcerned => return,
            Self::NotAllowed => {}
            Self::Allowed(_) => {
                say(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            }
            Self::Preflight(_) => {
                say(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                say(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
                say(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
            }
        }
        if let Self::Allowed(origin) | Self::Preflight(origin) = self {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}
