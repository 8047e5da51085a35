//! `signalbox import`: connections that live in another system are brought over.
//!
//! **Owns** the arguments and the order: read everything, convert it, then write installation by installation.
//! **Invariants**: the other database is only read; a row that is here already is never changed, so that running it twice
//! changes nothing; each row that could not be carried over is named with the reason; no token is printed.

mod apply;
mod convert;
mod fields;
mod report;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use self::convert::KnownProvider;
use crate::{
    app,
    config::Config,
    crypto::lightfast::LightfastKey,
    model::clock::{Clock, SystemClock},
    store::lightfast::read_lightfast,
};

/// What may be imported from.
#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// From the PostgreSQL database of a Lightfast deployment, which is only read.
    Lightfast(LightfastArgs),
}

/// Where from, and how.
#[derive(Args)]
pub(super) struct LightfastArgs {
    /// The database, `postgres://…`.
    #[arg(long, value_name = "URL")]
    from: String,
    /// The key its tokens are encrypted with, 64 hex digits.
    #[arg(long, value_name = "HEX")]
    encryption_key: String,
    /// Write nothing; say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

/// Both the address and the key are secrets.
impl std::fmt::Debug for LightfastArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LightfastArgs")
            .field("dry_run", &self.dry_run)
            .field("json", &self.json)
            .finish_non_exhaustive()
    }
}

/// Does it.
pub(super) async fn run(config: &Config, command: ImportCommand) -> anyhow::Result<ExitCode> {
    let ImportCommand::Lightfast(arguments) = command;
    let key = LightfastKey::from_hex(&arguments.encryption_key).context("--encryption-key")?;
    let known = known_providers(config)?;
    let vault = app::open_vault(config)?;
    // The target first: what it lacks is known before a big database is read.
    let store = super::open_migrated_store(config).await?;
    let rows = read_lightfast(&arguments.from).await.context("the Lightfast database (--from)")?;
    anyhow::ensure!(
        !rows.missing.contains(&convert::INSTALLATIONS),
        "the database of --from has no table {}: it is no Lightfast database, or another schema",
        convert::INSTALLATIONS
    );
    let (plans, mut report) = convert::convert(&rows, &known, &key);
    let target = apply::Target { store: &*store, vault: &vault, now: SystemClock.now(), dry_run: arguments.dry_run };
    let applied = apply::apply(&target, plans, &mut report).await;
    store.close().await;
    applied?;
    if arguments.json {
        println!("{:#}", report.to_json(arguments.dry_run));
    } else {
        print!("{}", report.to_text(arguments.dry_run));
    }
    Ok(ExitCode::SUCCESS)
}

/// Every provider there is. Of one that is not configured it is not known whether its tokens are kept; then they are.
fn known_providers(config: &Config) -> anyhow::Result<Vec<KnownProvider>> {
    let registry = app::registry_of(config)?;
    let known = registry.iter().map(|(provider, _)| KnownProvider {
        slug: provider.slug(),
        resource_kind: provider.resource_label(),
        keeps_tokens: match registry.find_connector(provider.slug()) {
            Some(Ok(connector)) => connector.keeps_tokens(),
            Some(Err(_)) | None => true,
        },
    });
    Ok(known.collect())
}
