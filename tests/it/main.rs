//! The whole gateway: the real binary as a child process, real HTTP on both sides, both databases.

mod api;
mod belonging;
mod crash;
mod deliveries;
mod demo;
mod event_keys;
mod hostile;
mod import;
mod outage;
mod poison;
mod quarantine;
mod routing;
mod secrets;
mod simulators;
mod stopping;
mod support;
mod teardown;
mod tokens;
mod traces;
mod two_nodes;
mod webhooks;
