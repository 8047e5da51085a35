//! Opening what is kept: the vault, and the database with its migrations applied.
//!
//! **Invariants**: a start waits a while for a database that does not answer, and for nothing else; a vault that does not
//! open what is stored, and a database that would lose what it acknowledged, stop it; a key is made only beside a database
//! that has nothing sealed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    config::Config,
    providers::Registry,
    store::{self, BatchObserver, OpenOptions, SharedStore, StoreError},
    telemetry::metrics::Metrics,
    vault::{Vault, VaultError, rotation},
};

/// How long a start waits for a database that does not answer: it may be starting too, or the process before this one
/// may still be stopping.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two tries.
const STORE_PAUSE: Duration = Duration::from_millis(250);

/// The vault of this configuration; `None` if there are no keys and no key file yet.
///
/// # Errors
/// If the keys cannot be read, or do not open what they sealed.
pub fn read_vault(config: &Config) -> anyhow::Result<Option<Vault>> {
    let vault = if config.vault.keys.is_empty() {
        Vault::open_key_file(&config.vault.key_file).with_context(|| name_of_key_file(config))?
    } else {
        Some(Vault::new(config.vault.live_keys()).context("vault.keys")?)
    };
    if let Some(vault) = &vault {
        vault.self_test().context("the vault does not open what it seals")?;
    }
    Ok(vault)
}

/// The vault of a key file that is made now. Only for a store that was checked to have nothing sealed.
///
/// # Errors
/// If the file cannot be made.
pub fn make_vault(config: &Config) -> anyhow::Result<Vault> {
    Vault::open_or_create_key_file(&config.vault.key_file).with_context(|| name_of_key_file(config))
}

fn name_of_key_file(config: &Config) -> String {
    format!("the vault key file {} (vault.key_file)", config.vault.key_file.display())
}

/// Opens the store of this configuration to serve from it, its migrations applied.
pub(super) async fn open_store(
    config: &Config,
    registry: &Registry,
    vault: Option<&Vault>,
    node: String,
    metrics: Arc<Metrics>,
) -> anyhow::Result<SharedStore> {
    let url = config.database.url.expose_str().context("database.url is not text")?.to_owned();
    let options = OpenOptions {
        url,
        max_connections: config.database.max_connections,
        acquire_timeout: config.database.acquire_timeout,
        providers: registry.iter().map(|(provider, _)| provider.slug()).collect(),
        node,
        serving: true,
    };
    let observer = Arc::new(CountBatches(metrics));
    let (began, mut told) = (Instant::now(), false);
    loop {
        match store::open(options.clone(), observer.clone()).await {
            Err(error @ StoreError::Unavailable(_)) if began.elapsed() < STORE_PATIENCE => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, patience_s = STORE_PATIENCE.as_secs(), "waiting for the database");
                }
                tokio::time::sleep(STORE_PAUSE).await;
            }
            opened => {
                let store = opened.context("the database (database.url)")?;
                prepare_store(&store, config, vault).await?;
                return Ok(store);
            }
        }
    }
}

/// The store tells the metrics what it committed.
struct CountBatches(Arc<Metrics>);

impl BatchObserver for CountBatches {
    fn batch_committed(&self, events: usize, attempts: usize, took: Duration) {
        self.0.batch_committed(events, attempts, took);
    }
}

async fn prepare_store(store: &SharedStore, config: &Config, vault: Option<&Vault>) -> anyhow::Result<()> {
    if config.database.migrate {
        let applied = store.migrate().await.context("migrations")?;
        if applied > 0 {
            tracing::info!(migrations = applied, "the database is up to date");
        }
    } else {
        let pending = store.count_pending_migrations().await.context("migrations")?;
        anyhow::ensure!(pending == 0, "{pending} migrations are not applied: run `signalbox migrate`");
    }
    store.check_durability().await.context("the database would lose what it acknowledged")?;
    check_vault(config, vault, store).await
}

/// Refuses to go on with secrets that cannot be opened, as after the key file got lost, or from another directory: a fresh
/// key would make every destination fail, one delivery at a time.
///
/// # Errors
/// If the store has something that the vault does not open, or cannot be read.
pub async fn check_vault(config: &Config, vault: Option<&Vault>, store: &SharedStore) -> anyhow::Result<()> {
    match rotation::check_store(vault, &**store).await {
        Ok(()) => Ok(()),
        Err(rotation::RotationError::Store(error)) => Err(error).context("the sealed values"),
        Err(rotation::RotationError::Vault(VaultError::NoKey)) => anyhow::bail!(
            "the database has secrets, and {} does not exist: put the key that sealed them back (vault.key_file or \
             vault.keys)",
            name_of_key_file(config)
        ),
        Err(rotation::RotationError::Vault(error)) => Err(error).context(
            "the database has secrets that the vault's keys do not open: put the key that sealed them back \
             (vault.key_file or vault.keys)",
        ),
    }
}
