//! The words of the domain: ids, rows, states and rules. No I/O, no framework, no clock but the trait for one.
//!
//! **Invariants.** Nothing here imports another room. A status has exactly one word, used in the database and on the
//! wire alike.

pub mod activity;
pub mod backfill_run;
pub mod clock;
pub mod delivery;
pub mod destination;
pub mod envelope;
pub mod error_kind;
pub mod event;
pub mod heal_run;
pub mod ids;
pub mod installation;
pub mod integration;
pub mod log_entry;
pub mod oauth_flow;
mod opaque_text;
pub mod pauses;
pub mod provider;
pub mod resource;
pub mod routes;
pub mod secret;
pub mod session;
pub mod teardown;
pub mod token;
pub mod webhook;
pub mod words;
