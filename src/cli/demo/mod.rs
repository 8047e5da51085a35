//! `signalbox demo`: the whole system in one process, no accounts needed.
//!
//! A gateway on a throw-away SQLite file, the providers' simulators, two workspaces and a sink that receives. A browser
//! connects all four providers through the real OAuth routes; then every event is shown on its way from webhook to
//! delivery. Everything goes through HTTP, exactly as in production; only the gateway's start is a function call.
//!
//! **Invariants.** Nothing outlives the command: database, key file and ports go with it. With `--once` the exit code
//! says whether every expected delivery arrived, genuine and to the right workspace, and nothing else did.

mod connecting;
mod script;
mod stage;
mod telling;

use std::{path::Path, time::Duration};

use anyhow::Context;
use clap::Args;

use self::{stage::Stage, telling::Teller};
use crate::{
    app,
    config::Config,
    crypto::api_key,
    providers::Registry,
    shutdown::StopSignals,
    sim::{
        sink::Sink,
        world::{Options, Simulators},
    },
};

/// How long `--once` may take in all.
const DEADLINE: Duration = Duration::from_mins(1);
/// How far apart the events are that keep the demo alive.
const PAUSE: Duration = Duration::from_secs(5);

/// `signalbox demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Exit when every expected delivery has arrived (0), or when one is missing or wrong (1)
    #[arg(long)]
    pub once: bool,
}

/// Runs the demo until it is interrupted, or once through its script.
///
/// # Errors
/// If the gateway does not start, refuses a call, or a delivery is missing or wrong.
pub async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    // However it is ended, it takes its files with it.
    let mut signals = StopSignals::listen().context("cannot wait for signals")?;
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let service_key = api_key::generate();
    let service_key = service_key.expose_str().context("the service key is not text")?;
    let specs: Vec<_> = Registry::built_in().iter().map(|registered| registered.spec).collect();
    let world = Simulators::start(&Options::default()).await.context("cannot start the simulated providers")?;
    let config = Config::load(None, settings(directory.path(), service_key, &world), &specs)?;

    let sink = Sink::start().await.context("cannot start the sink")?;
    let gateway = app::start(config, None).await?;
    world.gateway_is_at(&format!("http://{}", gateway.address));
    let teller = Teller::on_stdout();
    let shown = async {
        let mut stage = Stage::set(gateway.address, service_key, &sink, world, teller).await?;
        stage.play_script().await?;
        if !args.once {
            stage.tell_where_to_look(service_key, gateway.console_url.as_ref()).await?;
            stage.keep_playing(PAUSE).await?;
        }
        anyhow::Ok(())
    };
    let deadline = async {
        if !args.once {
            return std::future::pending().await;
        }
        tokio::time::sleep(DEADLINE).await;
    };
    let shown = tokio::select! {
        shown = shown => shown,
        () = deadline => Err(anyhow::anyhow!("not every expected delivery arrived within {} s", DEADLINE.as_secs())),
        _ = signals.next() => {
            if args.once { Err(anyhow::anyhow!("stopped before every expected delivery had arrived")) } else { Ok(()) }
        }
    };
    gateway.stop().await;
    shown
}

/// The demo's configuration, given as an operator would give it: through the environment.
fn settings(directory: &Path, service_key: &str, world: &Simulators) -> Vec<(String, String)> {
    let in_directory = |name: &str| directory.join(name).display().to_string();
    let own = [
        ("SIGNALBOX_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
        ("SIGNALBOX_DATABASE__URL", format!("sqlite://{}", in_directory("demo.db"))),
        ("SIGNALBOX_VAULT__KEY_FILE", in_directory("demo.key")),
        ("SIGNALBOX_AUTH__SERVICE_KEY", service_key.to_owned()),
        // The sink is on loopback, and its first refusal is retried while people still watch.
        ("SIGNALBOX_DELIVERY__ALLOW_PRIVATE_NETWORKS", "true".to_owned()),
        ("SIGNALBOX_DELIVERY__RETRY_SCHEDULE_S", "1,5,30,120,600".to_owned()),
        ("SIGNALBOX_TELEMETRY__LOG_FILTER", "warn".to_owned()),
    ];
    own.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(world.environment()).collect()
}
