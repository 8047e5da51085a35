//! Signalbox: a self-hosted webhook gateway that loses nothing it acknowledged.
#![doc = ""]
#![doc = include_str!("../docs/path-of-a-webhook.md")]

pub mod actors;
pub mod app;
pub mod cache;
pub mod cli;
pub mod config;
pub mod console;
pub mod crypto;
pub mod delivery;
pub mod doctor;
pub mod model;
pub mod providers;
pub mod routes;
pub mod shutdown;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod vault;
