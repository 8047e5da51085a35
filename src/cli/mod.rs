//! The command line: one file for each command.
//!
//! **Owns** the arguments and what is printed: standard output holds what the contract promises (`listening on …`, a key
//! shown once, lists), everything else goes to standard error. **Invariants**: 0 is success, 1 failure, 2 a wrong
//! command line. May name every room: it is where they are wired for short commands, as `app` does for `serve`.

pub mod demo;
mod doctor;
mod import;
pub mod keys;
mod listen;
mod migrate;
mod serve;
mod terminal;
mod vault;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::{
    config::{Config, process_environment},
    model::provider::ProviderSpec,
    providers::Registry,
    store::{self, BatchObserver, OpenOptions, SharedStore},
};

/// A self-hosted webhook gateway: verifies, stores, routes and delivers provider webhooks, and loses none.
#[derive(Debug, Parser)]
#[command(name = "signalbox", version, propagate_version = true)]
pub struct CommandLine {
    /// The TOML file with the settings; `SIGNALBOX_SECTION__KEY` in the environment wins over it.
    #[arg(long, global = true, value_name = "FILE", env = "SIGNALBOX_CONFIG")]
    config: Option<PathBuf>,
    /// Without a command: serve.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (what happens without a command, too).
    Serve,
    /// Show the whole way of webhooks on this machine, without any account; it has a configuration of its own.
    Demo(demo::DemoArgs),
    /// Apply database migrations and exit.
    Migrate,
    /// Check configuration, database, vault key and credentials; report every mistake at once.
    Doctor,
    /// Create, list and revoke API keys; works while the gateway runs.
    Keys {
        /// What to do with them.
        #[command(subcommand)]
        command: keys::KeysCommand,
    },
    /// For local development: follow an org's events and forward each delivery to a local URL, signed.
    Listen(Box<listen::ListenArgs>),
    /// Care for the secrets in the database; works while the gateway runs.
    Vault {
        /// What to do with them.
        #[command(subcommand)]
        command: vault::VaultCommand,
    },
    /// Bring connections over from another system.
    Import {
        /// From which.
        #[command(subcommand)]
        command: import::ImportCommand,
    },
}

/// Runs the command and says how it went: 0 or 1.
pub fn run(line: CommandLine) -> ExitCode {
    // rustls wants one provider of cryptography per process, chosen before the first handshake. An error means that
    // it was chosen already.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    // The store and the deliveries run on a runtime with a thread for each core, and two at the least: one of them may be
    // busy. Each HTTP worker has its own thread beside it.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = move || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all().build().expect("the runtime starts")
    };
    let system = actix_web::rt::System::with_tokio_rt(runtime);
    match system.block_on(run_command(line)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("signalbox: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_command(line: CommandLine) -> anyhow::Result<ExitCode> {
    let path = line.config.as_deref();
    match line.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(load(path)?).await,
        Command::Demo(arguments) => {
            if let Some(path) = path {
                eprintln!("signalbox: the demo has a configuration of its own; {} is not read", path.display());
            }
            demo::run(&arguments).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Migrate => migrate::run(&load(path)?).await,
        Command::Doctor => doctor::run(path).await,
        Command::Listen(arguments) => listen::run(path, &arguments).await,
        Command::Keys { command } => keys::run(&load(path)?, command).await,
        Command::Vault { command } => vault::run(&load(path)?, command).await,
        Command::Import { command } => import::run(&load(path)?, command).await,
    }
}

/// What configuration needs to know of every built-in provider.
pub(crate) fn provider_specs() -> Vec<ProviderSpec> {
    Registry::built_in().iter().map(|registered| registered.spec).collect()
}

fn load(path: Option<&std::path::Path>) -> anyhow::Result<Config> {
    Ok(Config::load(path, process_environment(), &provider_specs())?)
}

/// Opens the configured store for a short command: beside a gateway that serves from it, not in its place.
async fn open_store(config: &Config) -> anyhow::Result<SharedStore> {
    let options = OpenOptions {
        url: config.database.url.expose_str().context("database.url is not text")?.to_owned(),
        max_connections: 2,
        // A person waits for a short command, not a provider: it may wait longer for a busy writer.
        acquire_timeout: config.database.acquire_timeout.max(Duration::from_secs(5)),
        providers: provider_specs().iter().map(|spec| spec.slug).collect(),
        node: format!("cli-{}", std::process::id()),
        serving: false,
    };
    let store = store::open(options, Arc::new(Unobserved)).await;
    store.context("the database cannot be opened")
}

/// Like [`open_store`], with every migration applied: `keys create` may be the first command anybody runs.
async fn open_migrated_store(config: &Config) -> anyhow::Result<SharedStore> {
    let store = open_store(config).await?;
    if store.count_pending_migrations().await? > 0 {
        anyhow::ensure!(config.database.migrate, "the database lacks migrations; run `signalbox migrate`");
        store.migrate().await?;
    }
    Ok(store)
}

/// Like [`open_store`], for a command that writes nothing: `None` where there is no database yet, or nothing in it.
async fn open_store_if_any(config: &Config) -> anyhow::Result<Option<SharedStore>> {
    if let Some(file) = store::database_file(config.database.url.expose_str().unwrap_or_default())
        && !file.try_exists().with_context(|| format!("{} cannot be read", file.display()))?
    {
        return Ok(None);
    }
    let store = open_store(config).await?;
    if store.is_blank().await? {
        store.close().await;
        return Ok(None);
    }
    let pending = store.count_pending_migrations().await?;
    anyhow::ensure!(pending == 0, "the database lacks migrations, and none is applied now; run `signalbox migrate`");
    Ok(Some(store))
}

/// Short commands count nothing.
struct Unobserved;

impl BatchObserver for Unobserved {
    fn batch_committed(&self, _events: usize, _attempts: usize, _took: Duration) {}
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn no_command_at_all_is_serve_and_every_command_with_a_configuration_takes_the_file() {
        let parse = |words: &[&str]| {
            CommandLine::try_parse_from([&["signalbox"], words].concat()).map_err(|error| error.to_string())
        };
        let bare = parse(&["--config", "a.toml"]).expect("parses");
        assert!(bare.command.is_none() && bare.config == Some(PathBuf::from("a.toml")));
        for words in [
            &["serve", "--config", "a.toml"][..],
            &["migrate", "--config", "a.toml"],
            &["doctor", "--config", "a.toml"],
            &["keys", "create", "--name", "n", "--org", "o", "--scope", "read", "--config", "a.toml"],
            &["keys", "list", "--json", "--config", "a.toml"],
            &["keys", "revoke", "key_1", "--config", "a.toml"],
            &["listen", "--forward", "http://localhost:3000/hooks", "--org", "acme", "--config", "a.toml"],
            &["vault", "rotate", "--config", "a.toml"],
            &["import", "lightfast", "--from", "postgres://x", "--encryption-key", "ab", "--config", "a.toml"],
            &[
                "import",
                "lightfast",
                "--from",
                "u",
                "--encryption-key",
                "k",
                "--dry-run",
                "--json",
                "--config",
                "a.toml",
            ],
        ] {
            let line = parse(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            assert_eq!(line.config, Some(PathBuf::from("a.toml")), "{words:?}");
        }
        assert!(parse(&["keys", "create"]).is_err(), "a key needs a name");
        assert!(parse(&["keys", "create", "--name", "n", "--scope", "admin"]).is_err());
        assert!(parse(&["listen"]).is_err(), "there is nowhere to forward to");
        for wrong in ["localhost:3000", "ftp://localhost", "/hooks"] {
            assert!(parse(&["listen", "--forward", wrong]).is_err(), "{wrong}");
        }
    }
}
