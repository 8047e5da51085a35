//! `signalbox import`: takes connections over from another system. The only one so far is Lightfast, whose gateway
//! Signalbox grew from.
//!
//! **Invariants**: the other system's database is only read; a second run changes nothing that the first wrote, and
//! carries over what has been added since; a dry run writes nothing, and makes no database, table or key; a token is sealed
//! only by a vault that opens what is sealed here already; whatever is not carried over is reported with its
//! reason; opened tokens exist only between the two ciphers.

mod convert;
mod report;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use self::{
    convert::{
        INSTALLATION_TABLE, INSTALLATIONS, INTEGRATION_TABLE, INTEGRATIONS, Imported, ImportedToken, RESOURCE_TABLE,
        RESOURCES, TOKEN_TABLE, TOKENS, connection_left_out, convert,
    },
    report::Report,
};
use crate::{
    app::{check_vault, make_vault, read_vault, registry_of},
    config::Config,
    crypto::lightfast::LightfastKey,
    model::{
        clock::{Clock, EpochMs, Ids, SystemClock},
        ids::{InstallationId, OrgId},
        installation::{Installation, InstallationStatus},
        integration::Integration,
        log_entry::{Actor, LogEntry},
        resource::Resource,
        token::{SealedToken, TokenEdit},
    },
    store::{InstallationRecord, SharedStore, StoreError, lightfast},
    vault::{SealedAt, Vault, VaultError},
};

/// From which system.
#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// Copy connections, tokens, resources and integrations from a Lightfast database.
    Lightfast(LightfastArgs),
}

/// Where from, and how.
#[derive(Args)]
pub(super) struct LightfastArgs {
    /// Its PostgreSQL database; only read.
    #[arg(long, value_name = "URL")]
    from: String,
    /// The key its tokens are encrypted with: 64 hex digits.
    #[arg(long, value_name = "HEX", env = "SIGNALBOX_IMPORT_ENCRYPTION_KEY", hide_env_values = true)]
    encryption_key: String,
    /// Report what would be done and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl std::fmt::Debug for LightfastArgs {
    /// The address may hold a password, and the key is one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LightfastArgs").field("dry_run", &self.dry_run).finish_non_exhaustive()
    }
}

/// Imports, and prints the report. Rows that are left out are no failure: an old database is full of them.
pub(super) async fn run(config: &Config, command: ImportCommand) -> anyhow::Result<ExitCode> {
    let ImportCommand::Lightfast(LightfastArgs { from, encryption_key, dry_run, json }) = command;
    let key = LightfastKey::from_hex(&encryption_key).context("--encryption-key is not 64 hex digits (32 bytes)")?;
    let rows = lightfast::read(&from).await.context("the Lightfast database (--from)")?;
    let registry = registry_of(config)?;
    let found = read_vault(config)?;
    let here =
        if dry_run { super::open_store_if_any(config).await? } else { Some(super::open_migrated_store(config).await?) };
    if let Some(store) = &here {
        check_vault(config, found.as_ref(), store).await?;
    }
    let vault = if dry_run { None } else { Some(found.map_or_else(|| make_vault(config), Ok)?) };
    let clock = Arc::new(SystemClock);
    let mut import = Import {
        here,
        vault,
        key,
        now: clock.now(),
        ids: Ids::new(clock),
        report: Report { dry_run, legacy_sources: rows.legacy_sources, ..Report::default() },
    };
    let plan = convert(&rows, &registry, import.now, &mut import.report);
    for imported in plan {
        import.carry_over(imported).await?;
    }
    import.report.settle();
    if let Some(store) = &import.here {
        store.close().await;
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&import.report)?);
    } else {
        print!("{}", import.report);
    }
    Ok(ExitCode::SUCCESS)
}

struct Import {
    /// `None` where a dry run finds nothing.
    here: Option<SharedStore>,
    /// `None` in a dry run, which seals nothing.
    vault: Option<Vault>,
    key: LightfastKey,
    now: EpochMs,
    ids: Ids,
    report: Report,
}

impl Import {
    /// Carries one connection over: its row first, then what belongs to it, each in a transaction. An import that was
    /// cut off between the two goes on there.
    async fn carry_over(&mut self, mut imported: Imported) -> anyhow::Result<()> {
        let id = imported.installation.id.clone();
        let known = match &self.here {
            Some(store) => store.load_installation(&id).await?,
            None => None,
        };
        if let Some((code, why)) = self.find_hindrance(&imported.installation, known.as_ref()).await? {
            self.report.leave_out(INSTALLATION_TABLE, id.as_str(), code, why);
            self.leave_out_belongings(&imported, "installation_left_out", &connection_left_out(&id));
            return Ok(());
        }
        match &known {
            Some(record) => self.leave_what_is_here(&mut imported, record).await?,
            None => self.report.of(INSTALLATIONS).carried += 1,
        }
        if known.as_ref().is_some_and(|known| known.installation.status == InstallationStatus::Revoked) {
            // What ended here is not added to: connected again, it would route what nobody linked here.
            self.leave_out_belongings(&imported, "connection_ended", "its connection has ended here");
            return Ok(());
        }
        let Imported { installation, token, resources, integrations } = imported;
        let token = token.and_then(|token| self.open(token));
        self.report.of(TOKENS).carried += usize::from(token.is_some());
        self.report.of(RESOURCES).carried += resources.len();
        self.report.of(INTEGRATIONS).carried += integrations.len();
        let (Some(store), Some(vault)) = (&self.here, &self.vault) else { return Ok(()) };
        let mut token = token.map(|opened| opened.seal(vault, &id)).transpose()?;
        if known.is_none() {
            let entry = self.entry(&installation.org, &id, installation.status);
            store.insert_connection(&installation, token.take().as_ref(), &entry).await?;
        }
        if token.is_some() || !resources.is_empty() || !integrations.is_empty() {
            let change = move |record: &mut InstallationRecord| {
                record.resources.extend(resources);
                record.integrations.extend(integrations);
                if let Some(token) = token {
                    record.token = TokenEdit::Put(Box::new(token));
                }
                true
            };
            store.change_installation(&id, Box::new(change)).await?;
        }
        Ok(())
    }

    /// Why a connection cannot be carried over beside what is here: a code, and what it means. `known` has its id.
    async fn find_hindrance(
        &self,
        installation: &Installation,
        known: Option<&InstallationRecord>,
    ) -> Result<Option<(&'static str, String)>, StoreError> {
        if let Some(record) = known {
            let is_other =
                record.installation.provider != installation.provider || record.installation.org != installation.org;
            return Ok(is_other.then(|| ("id_taken", "a connection of another org or provider has its id here".into())));
        }
        let Some(store) = self.here.as_ref().filter(|_| installation.status != InstallationStatus::Revoked) else {
            return Ok(None);
        };
        let live = store.find_live_installation(installation.provider, &installation.external_id).await?;
        Ok(live.map(|live| {
            ("installation_already_bound", format!("its account is connected here already, as {}", live.id))
        }))
    }

    /// Takes out, and counts, what the connection has here already.
    async fn leave_what_is_here(&mut self, imported: &mut Imported, here: &InstallationRecord) -> anyhow::Result<()> {
        let Imported { installation, token, resources, integrations } = imported;
        self.report.of(INSTALLATIONS).already_here += 1;
        if let Some(store) = &self.here
            && store.find_token(&installation.id).await?.is_some()
        {
            self.report.of(TOKENS).already_here += usize::from(token.take().is_some());
        }
        let find_here = |wanted: &Resource| here.resources.iter().find(|here| same_resource(here, wanted));
        for integration in integrations.iter_mut() {
            // A resource may have a row of ours already: linked here before this run.
            if let Some(wanted) = resources.iter().find(|resource| resource.id == integration.resource)
                && let Some(here) = find_here(wanted)
            {
                integration.resource = here.id.clone();
            }
        }
        let (all_resources, all_integrations) = (resources.len(), integrations.len());
        resources.retain(|resource| find_here(resource).is_none());
        integrations.retain(|wanted| !here.integrations.iter().any(|here| same_integration(here, wanted)));
        self.report.of(RESOURCES).already_here += all_resources - resources.len();
        self.report.of(INTEGRATIONS).already_here += all_integrations - integrations.len();
        Ok(())
    }

    /// Names every row of a connection but its own.
    fn leave_out_belongings(&mut self, of: &Imported, code: &'static str, why: &str) {
        let tokens = of.token.iter().map(|token| (TOKEN_TABLE, token.row.as_str()));
        let resources = of.resources.iter().filter(|resource| !of.is_made_up(resource));
        let resources = resources.map(|resource| (RESOURCE_TABLE, resource.id.as_str()));
        let integrations = of.integrations.iter().map(|integration| (INTEGRATION_TABLE, integration.id.as_str()));
        for (table, id) in tokens.chain(resources).chain(integrations) {
            self.report.leave_out(table, id, code, why);
        }
    }

    /// Opens a token with the old cipher.
    fn open(&mut self, token: ImportedToken) -> Option<OpenedToken> {
        let mut open = |column: &str, encrypted: &str| {
            let opened = self.key.open(encrypted).ok();
            if opened.is_none() {
                let why = format!("its {column} does not open with that key");
                self.report.leave_out(TOKEN_TABLE, &token.row, "does_not_open", why);
            }
            opened
        };
        let access = open("access_token", &token.access)?;
        let refresh = match &token.refresh {
            Some(encrypted) => Some(open("refresh_token", encrypted)?),
            None => None,
        };
        Some(OpenedToken { access, refresh, row: token })
    }

    fn entry(&self, org: &OrgId, id: &InstallationId, status: InstallationStatus) -> LogEntry {
        LogEntry {
            org: Some(org.clone()),
            installation: Some(id.clone()),
            to_state: Some(status.to_string()),
            reason: Some("lightfast".into()),
            ..LogEntry::new(
                self.ids.log(),
                "installation.imported",
                Actor { who: "cli".into(), user: None, from: None },
                self.now,
            )
        }
    }
}

/// A token between the two ciphers.
struct OpenedToken {
    access: Zeroizing<Vec<u8>>,
    refresh: Option<Zeroizing<Vec<u8>>>,
    row: ImportedToken,
}

impl OpenedToken {
    /// Seals it with our cipher.
    fn seal(self, vault: &Vault, installation: &InstallationId) -> Result<SealedToken, VaultError> {
        let Self { access, refresh, row } = self;
        let seal = |column: &'static str, opened: &[u8]| {
            vault.seal(SealedAt { table: "gw_tokens", row: installation.as_str(), column }, opened)
        };
        Ok(SealedToken {
            installation: installation.clone(),
            access: seal("access_token", &access)?,
            refresh: refresh.map(|refresh| seal("refresh_token", &refresh)).transpose()?,
            token_type: row.token_type,
            scope: row.scope,
            expires_at: row.expires_at,
            refresh_expires_at: None,
            generation: 1,
            claim: None,
            created_at: row.issued_at,
            updated_at: row.issued_at,
        })
    }
}

fn same_resource(here: &Resource, wanted: &Resource) -> bool {
    here.id == wanted.id || here.provider_resource_id == wanted.provider_resource_id
}

fn same_integration(here: &Integration, wanted: &Integration) -> bool {
    here.id == wanted.id || (here.workspace == wanted.workspace && here.resource == wanted.resource)
}
