//! Load on a real gateway: the release binary as a child process, signed events from many kept-alive connections, a
//! sink that receives, a ledger that compares. `README.md` says how to run it and how to read it.
//!
//! **Invariants.** Latencies of an open loop count from the moment an event was due, not from the moment somebody was
//! free to send it. A run that loses an acknowledged event fails, however fast it was.

mod beside;
mod campaign;
mod commands;
mod database;
mod event_id;
mod floor;
mod gateway;
mod generator;
mod goal;
mod history;
mod ledger;
mod lists;
mod meter;
mod plot;
mod pool;
mod report;
mod run;
mod sampler;
mod scenario;
mod sink;
mod stage;
mod tenant_ids;
mod wire;
mod zipf;

use std::process::ExitCode;

use clap::Parser;

fn main() -> anyhow::Result<ExitCode> {
    commands::CommandLine::parse().run()
}
