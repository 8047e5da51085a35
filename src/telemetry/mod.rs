//! Telemetry: logs, traces, metrics.

pub mod metrics;
