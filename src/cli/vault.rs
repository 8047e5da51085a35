//! `signalbox vault`: the secrets in the database, sealed anew when keys are rotated.
//!
//! **Invariants**: what it does not open it leaves alone and names, by table and row, never by value; it makes no key; it
//! may be killed and run again.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Context;
use clap::Subcommand;

use crate::{
    app::read_vault,
    config::Config,
    vault::{
        Vault,
        rotation::{self, Rotation, TableCounts},
    },
};

/// What may be done with the vault's secrets.
#[derive(Debug, Subcommand)]
pub(super) enum VaultCommand {
    /// Encrypt every secret anew with the newest key, the first in the configuration; says which keys may go.
    Rotate,
}

/// Does it.
pub(super) async fn run(config: &Config, command: VaultCommand) -> anyhow::Result<ExitCode> {
    match command {
        VaultCommand::Rotate => rotate(config).await,
    }
}

async fn rotate(config: &Config) -> anyhow::Result<ExitCode> {
    // A key file that is made now would not open anything.
    let vault = read_vault(config)?
        .with_context(|| format!("there is no vault key file {} (vault.key_file)", config.vault.key_file.display()))?;
    let store = super::open_migrated_store(config).await?;
    let rotating = rotation::rotate(&vault, &*store, |tables| eprintln!("{}", progress_line(tables))).await;
    store.close().await;
    let rotation = rotating.context("the rotation stopped; run it again to go on where it was")?;
    print_report(&vault, &rotation);
    let clean = rotation.unopened.is_empty() && rotation.still_used.is_empty();
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn progress_line(tables: &BTreeMap<&'static str, TableCounts>) -> String {
    let done: Vec<String> = tables
        .iter()
        .map(|(table, counts)| {
            format!("{table} {} of {}", counts.resealed, counts.resealed + counts.current + counts.failed)
        })
        .collect();
    format!("sealed anew so far: {}", done.join(", "))
}

fn print_report(vault: &Vault, rotation: &Rotation) {
    let ids: Vec<&str> = vault.key_ids().collect();
    let newest = ids.first().copied().unwrap_or_default();
    if rotation.tables.is_empty() {
        println!("the database has no secrets");
    }
    for (table, counts) in &rotation.tables {
        println!(
            "{table}: {} sealed anew with {newest}, {} were already, {} not opened",
            counts.resealed, counts.current, counts.failed
        );
    }
    for value in &rotation.unopened {
        println!("not opened: {} {} {}: {}", value.table, value.row, value.column, value.cause);
    }
    let (kept, free): (Vec<&str>, Vec<&str>) =
        ids.iter().skip(1).copied().partition(|id| rotation.still_used.contains(*id));
    if !free.is_empty() {
        println!(
            "no record is sealed with these keys any more; if every gateway has {newest} as its first, they can be \
             removed: {}",
            free.join(", ")
        );
    }
    if !kept.is_empty() {
        println!("these keys are still used, keep them: {}", kept.join(", "));
        if rotation.unopened.is_empty() {
            println!(
                "a gateway still seals with an older key: give all of them {newest} as their first, and run this again"
            );
        }
    }
}
