//! The `signalbox` command. Everything is in the library; this turns its answer into an exit code.

use std::process::ExitCode;

use clap::Parser;
use signalbox::cli::{self, CommandLine};

fn main() -> ExitCode {
    cli::run(CommandLine::parse())
}
