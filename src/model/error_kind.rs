//! The nine kinds of failure. Each room's error enum says which kind a variant is; `routes::problem` alone turns
//! a kind into an HTTP status.

/// What sort of failure an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong: 400.
    BadRequest,
    /// Nobody we know: 401.
    Unauthorized,
    /// Known, but not allowed: 403.
    Forbidden,
    /// No such thing, or none the caller may know of: 404.
    NotFound,
    /// It collides with what exists: 409.
    Conflict,
    /// Too large: 413.
    TooLarge,
    /// Our fault: 500, and the detail stays in the log.
    Internal,
    /// Somebody upstream failed: 502.
    Upstream,
    /// Not now: 503 with `Retry-After`.
    Unavailable,
}
