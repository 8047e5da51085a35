//! The command line.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};

use crate::{
    campaign::{self, Repeats},
    floor::{self, FloorKind},
    lists, plot,
    scenario::{Destination, Events, Floors, Phase, Scenario, Size, Tenants},
    stage::Options,
};

/// Posts signed events to a gateway and measures what it does with them.
#[derive(Debug, Parser)]
#[command(name = "signalbox-loadtest")]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario: a file, or the name of one in scenarios/
    Run(RunArgs),
    /// One phase, described by options
    Adhoc(AdhocArgs),
    /// A reference server under the same load: reads the body / and verifies / and appends to a file
    Floor(FloorArgs),
    /// All scenarios, and a table of the goals
    Campaign(CampaignArgs),
    /// How long lists take when very much is stored
    Lists(ListsArgs),
    /// The reference server itself
    #[command(hide = true)]
    FloorServer {
        /// How much it does
        kind: FloorKind,
        /// What it appends to
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// A PostgreSQL server on which databases can be made; each run makes its own and removes it. Without it: SQLite
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// The gateway's binary [default: `signalbox` beside this one]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Where to make the run's temporary directory (SQLite file, floors' file): choose the disk you mean
    #[arg(long, value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// A further setting of the gateway, `SIGNALBOX_SECTION__KEY=value`; can be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// A file, or a name
    scenario: PathBuf,
    #[command(flatten)]
    common: Common,
    /// Runs; figures are medians
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Seconds of the longest phase, instead of the scenario's own; the others are as much shorter or longer
    #[arg(long)]
    seconds: Option<f64>,
    /// Small: to see that it works, not to learn a figure
    #[arg(long)]
    quick: bool,
    /// Write text, JSON and SVG into a folder there, named by date and commit
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct AdhocArgs {
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long to post
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Bytes of each body
    #[arg(long, default_value_t = 8192)]
    body: usize,
    /// Providers in the mix, each with the same share
    #[arg(long, value_delimiter = ',', default_value = "github")]
    providers: Vec<String>,
    /// Events per second (open loop); without it every connection posts as fast as it is answered (closed loop)
    #[arg(long)]
    rate: Option<f64>,
    /// Workspaces subscribed to the resource: deliveries per event
    #[arg(long, default_value_t = 1)]
    workspaces: usize,
    /// No destination: events and deliveries are committed and nothing is sent
    #[arg(long)]
    ack_only: bool,
    /// Requests are signed beforehand up to this many megabytes; after that as they are sent
    #[arg(long, default_value_t = 512)]
    pool_megabytes: usize,
    /// How long to wait for the last deliveries
    #[arg(long, default_value_t = 60.0)]
    drain_seconds: f64,
    /// Runs; figures are medians
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Reference servers to measure in the same run
    #[arg(long, value_delimiter = ',')]
    floors: Vec<FloorKind>,
    /// Also write the figures as JSON to this file (`-`: on standard output, instead of the text)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the run
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct FloorArgs {
    /// How much the server does
    kind: FloorKind,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long to post
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Bytes of each body
    #[arg(long, default_value_t = 8192)]
    body: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct CampaignArgs {
    #[command(flatten)]
    common: Common,
    /// Runs of each scenario; figures are medians
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Small: minutes instead of hours
    #[arg(long)]
    quick: bool,
    /// Seconds of each scenario's longest phase, instead of its own; the others are as much shorter or longer
    #[arg(long)]
    seconds: Option<f64>,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "loadtest/results")]
    results: PathBuf,
}

#[derive(Debug, Args)]
struct ListsArgs {
    /// Events stored
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// How often each question is asked
    #[arg(long, default_value_t = 200)]
    times: u32,
    #[command(flatten)]
    common: Common,
}

impl Common {
    fn options(&self) -> anyhow::Result<Options> {
        let settings = self.settings.iter().map(|setting| {
            let (name, value) = setting.split_once('=').with_context(|| format!("--set {setting} has no `=`"))?;
            Ok((name.to_owned(), value.to_owned()))
        });
        Ok(Options {
            binary: self.binary.clone(),
            postgres: self.postgres.clone(),
            directory: self.directory.clone(),
            settings: settings.collect::<anyhow::Result<_>>()?,
        })
    }
}

impl CommandLine {
    /// Does what was asked for.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if let Command::FloorServer { kind, file } = &self.command {
            floor::serve(*kind, file)?;
            return Ok(ExitCode::SUCCESS);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let is_sound = runtime.block_on(async {
            match self.command {
                Command::Run(args) => run(&args).await,
                Command::Adhoc(args) => adhoc(&args).await,
                Command::Floor(args) => floor_alone(&args).await,
                Command::Campaign(args) => {
                    let repeats = Repeats { runs: args.runs, quick: args.quick, seconds: args.seconds };
                    campaign::run_all(&args.common.options()?, &repeats, &args.only, &args.results).await
                }
                Command::Lists(args) => lists::run(&args.common.options()?, args.events, args.times).await,
                Command::FloorServer { .. } => Ok(true),
            }
        })?;
        Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

async fn run(args: &RunArgs) -> anyhow::Result<bool> {
    ensure!(args.runs > 0, "at least one run");
    let mut scenario = Scenario::load(&args.scenario)?;
    if let Some(seconds) = args.seconds {
        scenario.set_seconds(seconds);
    }
    if args.quick {
        scenario.make_quick();
    }
    let options = args.common.options()?;
    let repeats = Repeats { runs: args.runs, quick: args.quick, seconds: args.seconds };
    let command = campaign::command_of(&scenario.name, &options, &repeats);
    let report = campaign::run_scenario(&scenario, &options, args.runs, command).await?;
    print!("{}", report.to_text());
    if let Some(results) = &args.results {
        let folder = campaign::folder(results);
        campaign::file(&report, &folder)?;
        eprintln!("written to {}", folder.display());
    }
    Ok(report.faults().is_empty())
}

/// A scenario of one phase.
fn single(events: Events, tenants: Tenants, phase: Phase, floors: Option<Floors>) -> anyhow::Result<Scenario> {
    let scenario = Scenario {
        name: "adhoc".to_owned(),
        proves: "One phase, described on the command line.".to_owned(),
        nodes: 1,
        postgres_only: false,
        settings: std::collections::BTreeMap::new(),
        floors,
        events,
        tenants: vec![tenants],
        phases: vec![phase],
        goals: Vec::new(),
    };
    scenario.validate()?;
    Ok(scenario)
}

fn tenants(workspaces: usize, destination: Destination) -> Tenants {
    Tenants { name: "load".to_owned(), installations: 1, resources: 1, workspaces, zipf: 0.0, destination }
}

fn phase(name: &str, seconds: f64, connections: usize) -> Phase {
    Phase {
        name: name.to_owned(),
        seconds,
        tenants: Some("load".to_owned()),
        zipf: None,
        connections,
        rate: None,
        rate_of: None,
        sizes: None,
        copies: 1,
        bad_signatures: false,
        drain_seconds: 60.0,
        store: None,
        stored_events: None,
        open_deliveries: None,
        restart: None,
        kill: None,
        beside: Vec::new(),
    }
}

async fn adhoc(args: &AdhocArgs) -> anyhow::Result<bool> {
    let events = Events {
        providers: args.providers.iter().map(|provider| (provider.clone(), 1)).collect(),
        sizes: vec![Size { bytes: args.body, weight: 1 }],
        pool_megabytes: args.pool_megabytes,
    };
    let destination = if args.ack_only { Destination::None } else { Destination::Good };
    let mut posting = phase("posting", args.seconds, args.connections);
    posting.rate = args.rate;
    posting.drain_seconds = args.drain_seconds;
    let floors = (!args.floors.is_empty()).then(|| Floors {
        kinds: args.floors.clone(),
        seconds: args.seconds,
        connections: args.connections,
    });
    let scenario = single(events, tenants(args.workspaces, destination), posting, floors)?;
    let options = args.common.options()?;
    let command = format!(
        "signalbox-loadtest adhoc --connections {} --body {} --seconds {} --workspaces {}{}{}{}",
        args.connections,
        args.body,
        args.seconds,
        args.workspaces,
        args.rate.map(|rate| format!(" --rate {rate}")).unwrap_or_default(),
        if args.ack_only { " --ack-only" } else { "" },
        campaign::words_of(&options),
    );
    let report = campaign::run_scenario(&scenario, &options, args.runs, command).await?;
    if let (Some(path), Some(run)) = (&args.svg, report.runs.last()) {
        write(path, &plot::draw("ad hoc", run))?;
    }
    let json = serde_json::to_string_pretty(&report.to_json())?;
    match &args.json {
        Some(path) if path.as_os_str() == "-" => println!("{json}"),
        Some(path) => write(path, &json)?,
        None => {}
    }
    if args.json.as_ref().is_none_or(|path| path.as_os_str() != "-") {
        print!("{}", report.to_text());
    }
    Ok(report.faults().is_empty())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

async fn floor_alone(args: &FloorArgs) -> anyhow::Result<bool> {
    let events = Events { sizes: vec![Size { bytes: args.body, weight: 1 }], ..Events::default() };
    let floors = Floors { kinds: vec![args.kind], seconds: args.seconds, connections: args.connections };
    let quiet = Phase { tenants: None, ..phase("nothing", 0.0, args.connections) };
    let scenario = single(events, tenants(1, Destination::None), quiet, Some(floors))?;
    let command = format!("signalbox-loadtest floor {}", args.kind.name());
    let report = campaign::run_scenario(&scenario, &args.common.options()?, 1, command).await?;
    print!("{}", report.to_text());
    Ok(report.faults().is_empty())
}
