//! The whole gateway: the real binary as a child process, real HTTP on both sides, both databases.

mod access;
mod api;
mod belonging;
mod conformance;
mod connecting;
mod crash;
mod deliveries;
mod demo;
mod event_keys;
mod healing;
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
mod teardown_routes;
mod tenants;
mod traces;
mod two_nodes;
mod vault;
mod webhooks;
