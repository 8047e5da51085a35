//! Problems: the one place that turns errors into HTTP answers (`application/problem+json`).
//!
//! **Owns** the mapping from an error's kind to a status and from every room's errors to a [`Problem`]. **Invariants**:
//! a body of a 5xx says nothing but its code and title; what caused it goes to the log under the request id; a 503 has
//! `Retry-After`. **Must not know** the requests that fail.

use std::fmt;

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use serde_json::{Map, Value, json};

use super::error_codes::{self as codes, Code};
use crate::{
    actors::{
        AskError,
        config_files::{ConfigFileError, MAX_CONFIG_BYTES},
        connecting::ConnectingError,
        destinations::DestinationsError,
        healing::HealError,
        installation::InstallationError,
        provider_calls::ProviderCallError,
        proxy::ProxyError,
        tokens::TokenError,
        webhook_router::RouteError,
    },
    model::{error_kind::ErrorKind, provider::ProviderSlug},
    providers::ExtractError,
    store::StoreError,
};

/// The longest unknown provider name that is echoed, characters.
const MAX_ECHOED_CHARS: usize = 64;

/// What a handler answers.
pub type Answer = Result<HttpResponse, Problem>;

/// An error answer in the making. `request_frame` renders it, because only it knows the request id.
#[derive(Debug, Clone)]
pub struct Problem {
    code: &'static Code,
    detail: Option<String>,
    members: Map<String, Value>,
    cause: Option<String>,
}

impl Problem {
    /// A problem with this code.
    pub fn new(code: &'static Code) -> Self {
        Self { code, detail: None, members: Map::new(), cause: None }
    }

    /// A problem of another room's error: its code where the table has it, else what its kind allows to say. `cause`
    /// goes to the log.
    pub fn of(kind: ErrorKind, code: &str, cause: &dyn fmt::Display) -> Self {
        let known = codes::find(code).filter(|known| known.status == status_of(kind));
        Self::new(known.unwrap_or_else(|| code_of(kind))).caused_by(cause)
    }

    /// The problem behind an answer of the HTTP library that has none of ours.
    pub fn of_status(status: StatusCode) -> Self {
        Self::new(match status.as_u16() {
            404 => &codes::NOT_FOUND,
            405 => &codes::METHOD_NOT_ALLOWED,
            408 => &codes::REQUEST_TIMEOUT,
            413 => &codes::PAYLOAD_TOO_LARGE,
            503 => &codes::TEMPORARILY_UNAVAILABLE,
            400..=499 => &codes::BAD_REQUEST,
            _ => &codes::INTERNAL_ERROR,
        })
    }

    /// Says more than the title does. Never shown for a 5xx.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a member; the four that every problem has cannot be replaced.
    #[must_use]
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// A name that is no provider's; not all of a long one is repeated.
    pub fn unknown_provider(name: &str) -> Self {
        let echoed: String = name.chars().take(MAX_ECHOED_CHARS).collect();
        Self::new(&codes::UNKNOWN_PROVIDER).member("provider", echoed)
    }

    /// Names the provider, where that is what the problem is about.
    #[must_use]
    pub fn about_provider(self, provider: ProviderSlug) -> Self {
        if self.code.members.contains(&"provider") { self.member("provider", provider.as_str()) } else { self }
    }

    /// Says what keeps a provider from being asked: a text that begins with the setting's name, where it is one.
    fn about_setting(self, why: String) -> Self {
        let setting = why.split(' ').next().filter(|word| word.starts_with("providers.")).map(str::to_owned);
        match setting {
            Some(setting) => self.member("setting", setting).detail(why),
            None => self.detail(why),
        }
    }

    /// Names the endpoint of the proxy, where that is what the problem is about.
    #[must_use]
    pub fn about_endpoint(self, endpoint: &str) -> Self {
        if self.code.members.contains(&"endpointId") { self.member("endpointId", endpoint) } else { self }
    }

    /// Notes what the log shall say about it.
    #[must_use]
    pub fn caused_by(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Its entry in the table.
    pub fn code(&self) -> &'static Code {
        self.code
    }

    /// What caused it, for the log.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The body.
    pub fn to_json(&self, request_id: &str) -> Value {
        let mut body = self.members.clone();
        if self.code.status < 500
            && let Some(detail) = &self.detail
        {
            body.insert("detail".into(), json!(detail));
        }
        body.insert("error".into(), json!(self.code.code));
        body.insert("title".into(), json!(self.code.title));
        body.insert("status".into(), json!(self.code.status));
        body.insert("requestId".into(), json!(request_id));
        Value::Object(body)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.code)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Without a body: the frame around every request writes it.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

/// The status of a kind.
fn status_of(kind: ErrorKind) -> u16 {
    code_of(kind).status
}

/// What can be said of an error when only its kind is known.
fn code_of(kind: ErrorKind) -> &'static Code {
    match kind {
        ErrorKind::BadRequest => &codes::BAD_REQUEST,
        ErrorKind::Unauthorized => &codes::UNAUTHORIZED,
        ErrorKind::Forbidden => &codes::FORBIDDEN,
        ErrorKind::NotFound => &codes::NOT_FOUND,
        ErrorKind::Conflict => &codes::ALREADY_EXISTS,
        ErrorKind::TooLarge => &codes::PAYLOAD_TOO_LARGE,
        ErrorKind::Internal => &codes::INTERNAL_ERROR,
        ErrorKind::Upstream => &codes::UPSTREAM_FAILED,
        ErrorKind::Unavailable => &codes::TEMPORARILY_UNAVAILABLE,
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::of(error.kind(), error.code(), &error)
    }
}

impl From<InstallationError> for Problem {
    fn from(error: InstallationError) -> Self {
        let problem = Self::of(error.kind(), error.code(), &error);
        match error {
            InstallationError::NotActive(status) => problem.member("connectionStatus", status.as_str()),
            InstallationError::ResourceAlreadyLinked(resource) => problem.member("resourceId", resource.as_str()),
            _ => problem,
        }
    }
}

impl From<RouteError> for Problem {
    fn from(error: RouteError) -> Self {
        match &error {
            RouteError::Extract(ExtractError::MissingHeader(name)) => {
                Self::of(error.kind(), error.code(), &error).member("headers", json!([name]))
            }
            // Parsers quote what they choke on, and payloads are not for logs.
            RouteError::Extract(ExtractError::InvalidPayload(_)) => Self::new(&codes::INVALID_PAYLOAD),
            // Whatever kept the store from committing, a retry of the same webhook is welcome and will be taken.
            RouteError::Store(cause) => Self::new(&codes::STORE_UNAVAILABLE).caused_by(cause),
            _ => Self::of(error.kind(), error.code(), &error),
        }
    }
}

impl From<ConnectingError> for Problem {
    fn from(error: ConnectingError) -> Self {
        let problem = Self::of(error.kind(), error.code(), &error);
        match error {
            ConnectingError::NotConfigured(missing) => {
                problem.detail(missing.to_string()).member("setting", missing.name())
            }
            _ => problem,
        }
    }
}

impl From<DestinationsError> for Problem {
    fn from(error: DestinationsError) -> Self {
        let problem = Self::of(error.kind(), error.code(), &error);
        match error {
            DestinationsError::UrlRefused(why) | DestinationsError::HeaderRefused(why) => problem.detail(why),
            _ => problem,
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let problem = Self::of(error.kind(), error.code(), &error);
        match error {
            TokenError::NotActive(status) => problem.member("connectionStatus", status.as_str()),
            _ => problem,
        }
    }
}

impl From<ProviderCallError> for Problem {
    fn from(error: ProviderCallError) -> Self {
        let problem = Self::of(error.kind(), error.code(), &error);
        match error {
            ProviderCallError::NotActive(status) => problem.member("connectionStatus", status.as_str()),
            ProviderCallError::NotConfigured(why) => problem.about_setting(why),
            ProviderCallError::InvalidParameter => problem.member("parameter", "cursor"),
            _ => problem,
        }
    }
}

impl From<ConfigFileError> for Problem {
    fn from(error: ConfigFileError) -> Self {
        match error {
            ConfigFileError::Call(error) => error.into(),
            ConfigFileError::TooLarge { path } => {
                Self::new(&codes::CONFIG_TOO_LARGE).member("path", path).member("maxBytes", MAX_CONFIG_BYTES)
            }
            ConfigFileError::Invalid { path } => Self::new(&codes::INVALID_CONFIG).member("path", path),
        }
    }
}

impl From<ProxyError> for Problem {
    fn from(error: ProxyError) -> Self {
        match error {
            ProxyError::Call(error) => error.into(),
            ProxyError::UnknownEndpoint => Self::new(&codes::UNKNOWN_ENDPOINT),
            ProxyError::MissingParameters(names) => {
                Self::new(&codes::MISSING_PATH_PARAMETERS).member("parameters", names)
            }
            ProxyError::UnknownParameters(names) => {
                Self::new(&codes::UNKNOWN_PATH_PARAMETERS).member("parameters", names)
            }
            ProxyError::UnusableParameters(names) => {
                let fields: Vec<_> = names.into_iter().map(|name| format!("pathParams.{name}")).collect();
                Self::new(&codes::INVALID_FIELDS).member("fields", fields)
            }
        }
    }
}

impl From<HealError> for Problem {
    fn from(error: HealError) -> Self {
        let problem = Self::of(error.kind(), error.code(), &error);
        match error {
            HealError::NotConfigured(why) => problem.about_setting(why),
            _ => problem,
        }
    }
}

impl<E> From<AskError<E>> for Problem
where
    E: fmt::Display + Into<Self>,
{
    fn from(error: AskError<E>) -> Self {
        match error {
            AskError::Reply(error) => error.into(),
            AskError::Busy | AskError::Gone | AskError::TimedOut => {
                Self::new(&codes::TEMPORARILY_UNAVAILABLE).caused_by(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ids::ResourceId, installation::InstallationStatus},
        providers::{ConnectorError, ConnectorSettingError, VerifyError},
    };

    #[test]
    fn a_server_error_shows_its_code_and_title_and_nothing_else() {
        let problem = Problem::from(StoreError::Driver("relation gw_events does not exist".into())).detail("gw_events");
        let body = problem.to_json("req_1");
        assert_eq!(
            body,
            json!({"error": "internal_error", "title": codes::INTERNAL_ERROR.title, "status": 500, "requestId": "req_1"})
        );
        assert!(problem.cause().is_some_and(|cause| cause.contains("gw_events")));
    }

    #[test]
    fn members_never_replace_the_four_that_every_problem_has() {
        let body = Problem::new(&codes::FORBIDDEN).member("status", "suspended").to_json("req_1");
        assert_eq!(body["status"], json!(403));
    }

    #[test]
    fn every_code_the_rooms_produce_is_in_the_table_with_the_status_of_its_kind() {
        let routed = [
            RouteError::Verify(VerifyError::SignatureMissing),
            RouteError::Verify(VerifyError::SignatureMalformed),
            RouteError::Verify(VerifyError::SignatureMismatch),
            RouteError::Verify(VerifyError::TimestampStale),
            RouteError::Verify(VerifyError::NoSecret),
            RouteError::Extract(ExtractError::MissingHeader("x-github-event")),
            RouteError::Extract(ExtractError::InvalidPayload(String::new())),
            RouteError::UnknownInstallation,
            RouteError::ForeignInstallation,
            RouteError::Store(StoreError::Unavailable(String::new())),
            RouteError::Panicked,
        ];
        let asked = [
            InstallationError::NotFound,
            InstallationError::NotActive(InstallationStatus::Suspended),
            InstallationError::AlreadyBound,
            InstallationError::ResourceAlreadyLinked(ResourceId::from_raw("res_1")),
            InstallationError::AlreadyRemoved,
            InstallationError::Store(StoreError::NotUnique { table: "gw_resources" }),
        ];
        let addressed = [
            DestinationsError::NotFound,
            DestinationsError::UrlRefused(String::new()),
            DestinationsError::HeaderRefused(String::new()),
            DestinationsError::Sealing(String::new()),
        ];
        let connected = [
            ConnectingError::UnknownProvider,
            ConnectingError::RedirectRefused,
            ConnectingError::BadState,
            ConnectingError::Crashed,
            ConnectingError::Provider(ConnectorError::NotSupported),
            ConnectingError::NotConfigured(ConnectorSettingError {
                provider: "acme",
                setting: "client_id",
                problem: "is missing".into(),
            }),
        ];
        let produced = (routed.iter().map(|error| (error.code(), error.kind())))
            .chain(asked.iter().map(|error| (error.code(), error.kind())))
            .chain(addressed.iter().map(|error| (error.code(), error.kind())))
            .chain(connected.iter().map(|error| (error.code(), error.kind())));
        for (code, kind) in produced {
            let entry = codes::find(code).unwrap_or_else(|| panic!("{code} is not in the table"));
            assert_eq!(entry.status, status_of(kind), "{code}");
        }
    }

    #[test]
    fn a_webhook_the_store_could_not_commit_may_come_again_whatever_the_cause() {
        for cause in [StoreError::Driver("disk full".into()), StoreError::Unavailable("locked".into())] {
            let problem = Problem::from(AskError::Reply(RouteError::Store(cause)));
            assert_eq!(problem.code(), &codes::STORE_UNAVAILABLE);
        }
    }
}
