//! The `signalbox` command. Everything is in the library; this turns its answer into an exit code.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use signalbox::cli::{self, CommandLine};

/// Also for SQLite and zstd (the crate's feature `override`): a webhook costs some hundred allocations of all sizes on
/// three threads, which the system's allocator takes a fifth of its time for (docs/adr/0011).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::run(CommandLine::parse())
}
