//! The `signalbox` command. Everything is in the library; this turns its answer into an exit code.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use signalbox::cli::{self, CommandLine};

/// A webhook costs some hundred allocations of all sizes on three threads (docs/adr/0011).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::run(CommandLine::parse())
}
