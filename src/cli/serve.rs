//! `signalbox serve`: begins logging and hands over to `app`.

use std::process::ExitCode;

use crate::{
    app,
    config::{Config, LogFormat},
    telemetry::{LogOptions, begin_logging},
};

/// Serves until it is told to stop.
pub(super) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    begin_logging(LogOptions {
        json: config.telemetry.log_format == LogFormat::Json,
        filter: &config.telemetry.log_filter,
    })?;
    app::serve(config).await
}
