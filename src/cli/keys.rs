//! `signalbox keys`: API keys. Also the first service key, which `serve` makes for itself.
//!
//! **Invariants**: a key is shown once, alone on the last line of standard output; the store gets its hash; each change
//! leaves an audit row.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::{
    actors::api_keys::{ApiKeys, NewKey},
    config::{AuthConfig, Config},
    model::{
        clock::{Clock, EpochMs, Ids, SystemClock},
        ids::{KeyId, OrgId},
        log_entry::Actor,
        secret::Secret,
    },
    store::{ApiKey, Store},
};

/// What may be done with keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Create a key and show it, once, on the last line.
    Create {
        /// What it is for; shown in lists.
        #[arg(long)]
        name: String,
        /// The org it is bound to; without it, it is a service key and acts for any org.
        #[arg(long)]
        org: Option<String>,
        /// Whether it may change anything.
        #[arg(long, value_enum, default_value = "write")]
        scope: Scope,
    },
    /// List every key; the keys themselves are not kept.
    List {
        /// As a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key; the gateway refuses it within a second.
    Revoke {
        /// Its id, `key_…`.
        id: String,
    },
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scope {
    /// Look.
    Read,
    /// Look and change.
    Write,
}

/// Does one of them.
pub(super) async fn run(config: &Config, command: KeysCommand) -> anyhow::Result<ExitCode> {
    let store = super::open_migrated_store(config).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ids = Ids::new(clock.clone());
    let api_keys = ApiKeys { store: store.as_ref(), ids: &ids, clock: &clock };
    match command {
        KeysCommand::Create { name, org, scope } => {
            let org = org.map(checked_org).transpose()?;
            anyhow::ensure!(!name.trim().is_empty(), "a key needs a name");
            let wanted = NewKey { name, org, can_write: scope == Scope::Write };
            let (row, key) = api_keys.create(wanted, &actor("cli")).await?;
            let kind = row.org.as_ref().map_or("service key".to_owned(), |org| format!("key of org {org}"));
            println!("{} ({kind}), shown only this once:", row.id);
            println!("{}", key.expose_str().context("a key is text")?);
        }
        KeysCommand::List { json } => {
            let keys = store.list_keys().await?;
            if json {
                println!("{:#}", Value::Array(keys.iter().map(key_as_json).collect()));
            } else {
                print_table(&keys);
            }
        }
        KeysCommand::Revoke { id } => {
            let id = KeyId::from_raw(id);
            let revoked = match api_keys.find_live(&id).await? {
                Some(key) => api_keys.revoke(&key, &actor("cli")).await?,
                None => false,
            };
            anyhow::ensure!(revoked, "there is no live key {id}");
            println!("{id} is revoked");
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

/// The service key of a gateway that has none: neither in its configuration nor, live, in its store. Answers the key if
/// one was made; whoever asked shows it, once.
///
/// # Errors
/// If the store cannot be asked or told.
pub async fn create_first_service_key(
    store: &dyn Store,
    auth: &AuthConfig,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Option<Secret>> {
    if auth.service_key.is_some() {
        return Ok(None);
    }
    let has_one = |keys: Vec<ApiKey>| keys.iter().any(|key| key.org.is_none() && key.revoked_at.is_none());
    if has_one(store.list_keys().await?) {
        return Ok(None);
    }
    let api_keys = ApiKeys { store, ids: &Ids::new(clock.clone()), clock };
    let wanted = NewKey { name: "first service key".into(), org: None, can_write: true };
    let (_, key) = api_keys.create(wanted, &Actor::system()).await?;
    Ok(Some(key))
}

fn actor(who: &str) -> Actor {
    Actor { who: who.to_owned(), user: None, from: None }
}

/// An org id as requests may name it.
fn checked_org(org: String) -> anyhow::Result<OrgId> {
    let is_plain = org.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    anyhow::ensure!((1..=191).contains(&org.len()) && is_plain, "an org id is 1 to 191 letters, digits, `-` or `_`");
    Ok(OrgId::from_raw(org))
}

fn scope_of(key: &ApiKey) -> &'static str {
    if key.can_write { "write" } else { "read" }
}

fn key_as_json(key: &ApiKey) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "orgId": key.org,
        "scope": scope_of(key),
        "createdAt": key.created_at.to_rfc3339(),
        "lastUsedAt": key.last_used_at.map(EpochMs::to_rfc3339),
        "revokedAt": key.revoked_at.map(EpochMs::to_rfc3339),
    })
}

fn print_table(keys: &[ApiKey]) {
    if keys.is_empty() {
        println!("there are no keys");
        return;
    }
    println!(
        "{:<36}  {:<12}  {:<20}  {:<6}  {:<24}  {:<24}  NAME",
        "ID", "KEY", "ORG", "SCOPE", "CREATED", "LAST USED"
    );
    for key in keys {
        let used = match (key.revoked_at, key.last_used_at) {
            (Some(_), _) => "revoked".to_owned(),
            (None, Some(at)) => at.to_rfc3339(),
            (None, None) => "never".to_owned(),
        };
        println!(
            "{:<36}  {:<12}  {:<20}  {:<6}  {:<24}  {used:<24}  {}",
            key.id.as_str(),
            format!("{}…", key.prefix),
            key.org.as_ref().map_or("(service key)", OrgId::as_str),
            scope_of(key),
            key.created_at.to_rfc3339(),
            key.name
        );
    }
}
