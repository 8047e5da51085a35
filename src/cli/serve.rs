//! `signalbox serve`: begins logging and hands over to `app`.

use std::process::ExitCode;

use crate::{
    config::{Config, LogFormat},
    telemetry::{LogOptions, begin_logging},
};

/// Serves until it is told to stop.
pub(super) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    begin_logging(LogOptions {
        json: config.telemetry.log_format == LogFormat::Json,
        filter: &config.telemetry.log_filter,
    })?;
    if config.telemetry.otlp_endpoint.is_some() {
        tracing::warn!("telemetry.otlp_endpoint is set, and this version does not export traces yet");
    }
    // STUB: `crate::app::serve(config).await` when `app.rs` is there; then delete the function below.
    app_serve(config).await?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::unused_async, reason = "stub of app::serve")]
async fn app_serve(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("`serve` is not wired in this branch")
}
