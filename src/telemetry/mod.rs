//! Telemetry: logs, metrics, traces, and how the providers fared lately.
//!
//! **Owns** the log subscriber, every metric's and span's name, and the shape of a request's log line. **Invariants**: logs
//! go to standard error (standard output belongs to the lines the contract promises: `listening on …`, keys shown once);
//! nothing here is handed payloads, tokens, secrets or signatures. **Must not know** what the numbers lead to.

pub mod activity;
pub mod metrics;
pub mod provider_health;
pub mod request_log;
pub mod traces;

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How to log.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions<'a> {
    /// One JSON object a line; otherwise for people.
    pub json: bool,
    /// A `tracing` filter such as `info,signalbox=debug`.
    pub filter: &'a str,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("the log filter is not one: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else in this process logs already.
    #[error("logging has begun already")]
    AlreadyBegun,
}

/// Begins logging for the whole process, once.
///
/// # Errors
/// [`TelemetryError`] if the filter is not one, or logging has begun already.
pub fn begin_logging(options: LogOptions<'_>) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(options.filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let begun = if options.json {
        let lines = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(std::io::stderr);
        registry.with(lines).try_init()
    } else {
        let lines = fmt::layer().with_target(false).with_writer(std::io::stderr);
        // Colours are for a terminal only, and not even there if `NO_COLOR` is set.
        let lines = if std::io::stderr().is_terminal() { lines } else { lines.with_ansi(false) };
        registry.with(lines).try_init()
    };
    begun.map_err(|_| TelemetryError::AlreadyBegun)
}
