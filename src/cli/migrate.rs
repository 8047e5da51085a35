//! `signalbox migrate`: applies migrations and exits.

use std::process::ExitCode;

use crate::config::Config;

/// Applies what is missing and says how much that was.
pub(super) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let store = super::open_store(config).await?;
    let applied = store.migrate().await?;
    store.close().await;
    match applied {
        0 => println!("the database is up to date"),
        1 => println!("1 migration applied"),
        more => println!("{more} migrations applied"),
    }
    Ok(ExitCode::SUCCESS)
}
