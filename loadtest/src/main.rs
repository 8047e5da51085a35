//! Load on a real gateway: the release binary as a child process, signed events from many kept-alive connections, a
//! sink that receives, a ledger that compares. `README.md` says how to run it and how to read it.
//!
//! **Invariants.** Latencies of an open loop count from the moment an event was due, not from the moment somebody was
//! free to send it. A run that loses an acknowledged event fails, however fast it was.

mod cpu;
mod gateway;
mod generator;
mod ledger;
mod pool;
mod report;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use clap::Parser;
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::{
        self,
        operator::Operator,
        sink::{Keep, Sink},
    },
};
use tokio::time::Instant;

use crate::{cpu::CpuTime, gateway::Gateway, generator::Generator, ledger::Ledger, pool::Pool, report::Report};

/// Posts signed GitHub events to a gateway and measures what it does with them.
#[derive(Debug, Parser)]
#[command(name = "signalbox-loadtest")]
struct Args {
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long to post
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Bytes of each body
    #[arg(long, default_value_t = 8192)]
    body: usize,
    /// Events per second (open loop); without it every connection posts as fast as it is answered (closed loop)
    #[arg(long)]
    rate: Option<u64>,
    /// Workspaces subscribed to the resource: deliveries per event
    #[arg(long, default_value_t = 1)]
    workspaces: usize,
    /// No destination: events and deliveries are committed and nothing is sent
    #[arg(long)]
    ack_only: bool,
    /// An empty PostgreSQL database to use; without it a fresh SQLite file
    #[arg(long)]
    postgres: Option<String>,
    /// Where to make the run's temporary directory (SQLite file, vault key): choose the disk you mean
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// The gateway's binary [default: `signalbox` beside this one]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// A further setting of the gateway, `SIGNALBOX_SECTION__KEY=value`; can be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Distinct bodies are prepared up to this many megabytes; after that they come again under new delivery ids
    #[arg(long, default_value_t = 512)]
    pool_megabytes: usize,
    /// How long to wait for the last deliveries
    #[arg(long, default_value_t = 60)]
    drain_seconds: u64,
    /// Also write the figures as JSON to this file (`-` is standard output)
    #[arg(long)]
    json: Option<PathBuf>,
}

const ORG: &str = "load";

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    ensure!(
        args.connections > 0 && args.seconds > 0 && args.workspaces > 0,
        "connections, seconds and workspaces must be positive"
    );
    let report = run(&args).await?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report.to_json(&args))?;
        if path.as_os_str() == "-" {
            println!("{json}");
        } else {
            std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if args.json.as_ref().is_none_or(|path| path.as_os_str() != "-") {
        print!("{}", report.to_text(&args));
    }
    Ok(if report.nothing_lost() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(args: &Args) -> anyhow::Result<Report> {
    let directory = tempfile::Builder::new().prefix("loadtest-").tempdir_in(&args.directory)?;
    let mut gateway =
        Gateway::start(args.binary.as_deref(), directory.path(), args.postgres.as_deref(), &args.settings)?;
    let sink = Sink::start_keeping(Keep::Nothing).await?;
    let facts = sim::github::PROVIDER.facts(1, 0, SystemClock.now());
    let mut operator = Operator::new(gateway.address, gateway::SERVICE_KEY, ORG);
    if !args.ack_only {
        operator.set_destination(None, &sink.url("/in")).await?;
    }
    let connection = operator.adopt(&sim::github::PROVIDER, &facts).await?;
    for workspace in 0..args.workspaces {
        operator.subscribe(&format!("ws-{workspace}"), &connection, &facts, None).await?;
    }

    let at_most = args.rate.unwrap_or(generator::CLOSED_LOOP_AT_MOST_PER_SECOND) * args.seconds;
    let at_most = usize::try_from(at_most).context("too many events")?;
    let pool = Arc::new(Pool::prepare(gateway.address, at_most, args.body, args.pool_megabytes << 20)?);
    let start = Instant::now() + Duration::from_millis(50);
    let ledger = Arc::new(Ledger::new(start, at_most));
    let following = tokio::spawn(Arc::clone(&ledger).follow(sink.follow()));

    let before = CpuTime::now(gateway.pid(), args.postgres.is_some());
    let generator = Generator {
        address: gateway.address,
        pool: Arc::clone(&pool),
        ledger: Arc::clone(&ledger),
        start,
        rate: args.rate,
        until: start + Duration::from_secs(args.seconds),
    };
    let posted = generator.run(args.connections, at_most).await?;
    let posting_took = start.elapsed();
    let posting_cpu = CpuTime::now(gateway.pid(), args.postgres.is_some()).since(&before);
    let due = if args.ack_only { 0 } else { posted.acked * args.workspaces as u64 };
    let drained = ledger.wait_for(due, Duration::from_secs(args.drain_seconds)).await;
    let delivering_took = start.elapsed();
    let whole_cpu = CpuTime::now(gateway.pid(), args.postgres.is_some()).since(&before);
    let peak_memory_bytes = cpu::peak_memory_bytes(gateway.pid());
    let database_bytes = gateway::size_of_files(directory.path());
    gateway.stop()?;
    following.abort();
    Ok(Report {
        posted,
        reused_bodies: pool.reused(),
        posting_took,
        posting_cpu,
        due,
        drained,
        delivering_took,
        delivered: ledger.delivered(),
        repeated: ledger.repeated(),
        lost: if args.ack_only { 0 } else { ledger.lost(args.workspaces) },
        end_to_end: ledger.end_to_end(),
        whole_cpu,
        peak_memory_bytes,
        database_bytes,
    })
}
