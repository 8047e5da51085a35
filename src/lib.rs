//! Signalbox.

pub mod actors;
pub mod app;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod model;
pub mod providers;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod vault;
