//! What a run needs around it: database, gateways, sink, tenants.
//!
//! **Owns** starting and stopping the nodes, the stores that they run on, one at a time, and putting the tenants in place: a
//! few over the API, many by copying.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use signalbox::sim::{self, operator::Operator};
use tempfile::TempDir;

use crate::{
    database::{Database, Sizes},
    gateway::{GatewayCommand, SERVICE_KEY, Server},
    generator::Nodes,
    ledger::Ledger,
    meter::Meter,
    pool,
    scenario::{Ending, Scenario, Tenants},
    sink::Sink,
    tenant_ids,
};

/// More installations than this are copied inside the database instead of made over the API.
const MADE_OVER_THE_API: usize = 50;

/// Where and on what a scenario runs.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The gateway's binary, if not the one beside this.
    pub binary: Option<PathBuf>,
    /// A PostgreSQL server; without it SQLite.
    pub postgres: Option<String>,
    /// Where the run's directory is made.
    pub directory: PathBuf,
    /// Further settings of the gateway.
    pub settings: Vec<(String, String)>,
}

/// Everything but the load.
#[derive(Debug)]
pub struct Stage {
    /// The databases, each with the name that phases know it by.
    stores: Vec<(Option<String>, Database)>,
    /// Which of them is in use.
    current: usize,
    /// The server that databases are made on, if it is PostgreSQL.
    postgres: Option<String>,
    /// Who remembers.
    pub ledger: Arc<Ledger>,
    /// Who looks at processes.
    pub meter: Meter,
    servers: Vec<Option<Server>>,
    command: GatewayCommand,
    directory: TempDir,
    /// Receives for as long as the stage stands.
    sink: Sink,
}

impl Stage {
    /// Sets a scenario up; answers how long the first start took too.
    pub async fn set(scenario: &Scenario, options: &Options) -> anyhow::Result<(Self, Duration)> {
        let directory = tempfile::Builder::new().prefix("loadtest-").tempdir_in(&options.directory)?;
        let database = Database::create(directory.path(), options.postgres.as_deref()).await?;
        let meter = Meter::new(database.postmaster().await?);
        let ledger = Arc::new(Ledger::new());
        let sink = Sink::start(Arc::clone(&ledger)).await?;
        let of_scenario = scenario.settings.iter().map(|(name, value)| (name.clone(), value.clone()));
        let command = GatewayCommand {
            binary: GatewayCommand::find(options.binary.as_deref())?,
            directory: directory.path().canonicalize()?,
            database: database.url.clone(),
            settings: of_scenario.chain(options.settings.iter().cloned()).collect(),
        };
        let mut stage = Self {
            stores: vec![(None, database)],
            current: 0,
            postgres: options.postgres.clone(),
            ledger,
            meter,
            servers: Vec::new(),
            command,
            directory,
            sink,
        };
        let took = stage.furnish(scenario).await?;
        stage.start(scenario.nodes).await?;
        Ok((stage, took))
    }

    /// Puts the tenants into an empty store; answers how long the first start took.
    async fn furnish(&mut self, scenario: &Scenario) -> anyhow::Result<Duration> {
        let took = self.start(1).await?;
        let first = self.servers.iter().flatten().next().context("no node")?;
        for (place, tenants) in scenario.tenants.iter().enumerate() {
            connect(first, &self.sink, scenario, place, tenants).await?;
        }
        let copied: Vec<_> = scenario.tenants.iter().enumerate().filter(|(_, group)| is_copied(group)).collect();
        if !copied.is_empty() {
            self.stop(Ending::Term).await?;
            for (place, tenants) in copied {
                for slug in scenario.events.providers.keys() {
                    let provider = sim::find(slug).context("an unknown provider")?;
                    let base = tenant_ids::base_of_group(place);
                    self.database_mut().seed_installations(provider, base, tenants.installations as u64).await?;
                }
            }
        }
        Ok(took)
    }

    /// The name of the store in use.
    pub fn store(&self) -> Option<&str> {
        self.stores[self.current].0.as_deref()
    }

    /// The store in use.
    pub fn database_mut(&mut self) -> &mut Database {
        &mut self.stores[self.current].1
    }

    /// Changes to another store, which is made if it is not there yet; whether it was made. No node may run.
    pub async fn change_store(&mut self, scenario: &Scenario, name: Option<&str>) -> anyhow::Result<bool> {
        let known = self.stores.iter().position(|(known, _)| known.as_deref() == name);
        let is_new = known.is_none();
        self.current = if let Some(place) = known {
            place
        } else {
            let directory = self.directory.path().join(name.unwrap_or_default());
            std::fs::create_dir(&directory)?;
            let database = Database::create(&directory, self.postgres.as_deref()).await?;
            self.stores.push((name.map(str::to_owned), database));
            self.stores.len() - 1
        };
        self.command.database.clone_from(&self.stores[self.current].1.url);
        if is_new {
            self.furnish(scenario).await?;
            self.stop(Ending::Term).await?;
        }
        Ok(is_new)
    }

    /// Sizes of all stores together. No node may run.
    pub async fn sizes(&self) -> anyhow::Result<Sizes> {
        let mut sizes = Sizes::default();
        for (_, database) in &self.stores {
            sizes += database.sizes().await?;
        }
        Ok(sizes)
    }

    /// Rows of deliveries of these orgs in all stores.
    pub async fn count_deliveries_of(&self, orgs: &[&str]) -> anyhow::Result<u64> {
        let mut count = 0;
        for (_, database) in &self.stores {
            count += database.count_deliveries_of(orgs).await?;
        }
        Ok(count)
    }

    /// Starts what is missing of `nodes`; how long the last took.
    pub async fn start(&mut self, nodes: usize) -> anyhow::Result<Duration> {
        let mut took = Duration::ZERO;
        while self.servers.len() < nodes {
            let (server, its) = self.command.start().await?;
            self.meter.watch(server.pid());
            self.servers.push(Some(server));
            took = its;
        }
        Ok(took)
    }

    /// Stops every node.
    pub async fn stop(&mut self, how: Ending) -> anyhow::Result<()> {
        // What they used until now counts.
        self.meter.cpu();
        for server in self.servers.drain(..).flatten() {
            server.stop(how).await?;
        }
        Ok(())
    }

    /// Kills one node.
    pub async fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        self.meter.cpu();
        let server = self.servers.get_mut(node).and_then(Option::take).context("no such node")?;
        server.stop(Ending::Kill).await
    }

    /// The nodes behind a balancer.
    pub fn nodes(&self) -> Nodes {
        Nodes::new(self.servers.iter().flatten().map(|server| server.address).collect())
    }

    /// Where floors write.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// What the gateways complained about last.
    pub fn last_words(&self) -> String {
        self.command.last_words()
    }

    /// Takes it down; the database must have been measured before.
    pub async fn strike(mut self) -> anyhow::Result<()> {
        self.stop(Ending::Kill).await?;
        for (_, database) in self.stores {
            database.remove().await?;
        }
        Ok(())
    }
}

fn is_copied(tenants: &Tenants) -> bool {
    tenants.resources == 1 && tenants.installations > MADE_OVER_THE_API
}

async fn connect(
    server: &Server,
    sink: &Sink,
    scenario: &Scenario,
    place: usize,
    tenants: &Tenants,
) -> anyhow::Result<()> {
    let mut operator = Operator::new(server.address, SERVICE_KEY, &tenants.name);
    if let Some(url) = sink.url(tenants.destination) {
        operator.set_destination(None, &url).await?;
    }
    let base = tenant_ids::base_of_group(place);
    let installations = if is_copied(tenants) { 1 } else { tenants.installations };
    for slug in scenario.events.providers.keys() {
        let provider = sim::find(slug).context("an unknown provider")?;
        for installation in 0..installations {
            let facts = tenant_ids::facts(provider, base + installation, base, 0);
            let connection = operator.adopt(provider, &facts).await?;
            for resource in 0..tenants.resources {
                let number = base + installation * tenants.resources + resource;
                let facts = tenant_ids::facts(provider, base + installation, number, 0);
                for workspace in 0..tenants.workspaces {
                    let workspace = format!("{}-{resource}-{workspace}", tenants.name);
                    operator.subscribe(&workspace, &connection, &facts, Some(pool::kinds(provider))).await?;
                }
            }
        }
    }
    Ok(())
}
