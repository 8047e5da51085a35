//! `signalbox demo`. STUB in this branch: the simulators' branch replaces this file.

use std::process::ExitCode;

/// Arguments of `signalbox demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArguments {
    /// Exit when every expected delivery has arrived; fail otherwise.
    #[arg(long)]
    once: bool,
}

#[expect(clippy::unused_async, reason = "stub")]
pub(super) async fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`demo` (once: {}) is not part of this branch", arguments.once)
}
