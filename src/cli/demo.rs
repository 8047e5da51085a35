//! `signalbox demo`. STUB in this branch: the simulators' branch replaces this file by a folder.

/// Arguments of `signalbox demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Exit when every expected delivery has arrived; fail otherwise.
    #[arg(long)]
    pub once: bool,
}

/// STUB.
///
/// # Errors
/// Always.
#[expect(clippy::unused_async, reason = "stub")]
pub async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    anyhow::bail!("`demo` (once: {}) is not part of this branch", args.once)
}
