//! The only place that knows every room: builds them bottom-up, and stops them top-down.
//!
//! **Invariants**: everything that can be wrong is found before the listener is bound; stopping goes readiness → webhooks
//! and attempts in flight → listener → routers → dispatcher → supervisors → store, each with what is left of one deadline,
//! so that whoever asks is told, no acknowledged event is lost and no lease outlives its node in silence.

mod opening;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{App, HttpServer, dev::ServerHandle, middleware::from_fn, web};
use anyhow::Context as _;
use tokio::{sync::mpsc, task::JoinHandle};
use url::Url;

use self::opening::open_store;
pub use self::opening::{check_vault, make_vault, read_vault};
use crate::{
    actors::{
        backfill::{BackfillDeps, BackfillHook},
        binding::Binder,
        connecting::{ConnectingDeps, ConnectingHandle, PublicUrl},
        destinations::{DestinationsDeps, DestinationsHandle},
        directory::{Directory, DirectoryDeps},
        dispatcher::{DispatcherDeps, DispatcherHandle},
        healing::{HealingDeps, HealingHandle},
        janitor::{JanitorDeps, JanitorHandle},
        webhook_router::{RouterDeps, RouterPool},
    },
    cache::RouteCache,
    cli::keys::create_first_service_key,
    config::{Config, ProviderConfig},
    console,
    delivery::schedule::longest_wait,
    model::{
        clock::{Clock, Ids, SystemClock},
        ids::DestinationId,
        secret::Secret,
    },
    providers::{ConnectorSettings, HttpClient, ProviderSettings, Registry},
    routes::{self, BodyBudget, Brake, Gateway, KeyRing, Readiness, session::Sessions},
    shutdown::{Shutdown, Stage, StopCause},
    store::SharedStore,
    telemetry::{metrics::Metrics, traces::Traces},
    vault::Vault,
};

/// How long a connection may stay without a request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send its request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// One part in this many of the time to stop in is kept back, so that stopping in order ends before it is aborted.
const RESERVE: u32 = 10;
/// One part in this many of the time to stop in is left to open requests, however long attempts took.
const CLOSING: u32 = 4;
/// How long the listener's thread may take to notice that it is to take nobody any more.
const LISTENER_NOTICES: Duration = Duration::from_millis(50);
/// Connections held at once, per worker.
const MAX_CONNECTIONS: usize = 20_000;
/// How long the last spans may take to their collector when stopping, within what is left of the deadline.
const TRACES_TIME: Duration = Duration::from_secs(2);

/// A gateway that serves.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// The service key made by the very first start, to be shown once.
    pub first_service_key: Option<Secret>,
    /// Where browsers reach the built-in console, if it is enabled.
    pub console_url: Option<Url>,
    server: ServerHandle,
    served: JoinHandle<std::io::Result<()>>,
    readiness: Readiness,
    routers: RouterPool,
    dispatcher: DispatcherHandle,
    directory: Directory,
    janitor: JanitorHandle,
    healing: HealingHandle,
    store: SharedStore,
    traces: Traces,
    deadline: Duration,
}

/// Serves until it is told to stop: what `signalbox serve` does.
///
/// # Errors
/// Everything that keeps it from starting.
pub async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new(config.server.shutdown_deadline);
    let watching = {
        let shutdown = shutdown.clone();
        tokio::spawn(async move { shutdown.watch_signals().await })
    };
    let public_url = config.server.public_url.clone();
    let file = config.file.as_ref().map(|file| file.display().to_string());
    let providers = config.providers.keys().map(String::as_str).collect::<Vec<_>>().join(",");
    let mut token = shutdown.token();
    let mut running = tokio::select! {
        started = Box::pin(start(config, None)) => started?,
        () = token.draining() => return Ok(ExitCode::SUCCESS),
    };
    if let Some(key) = &running.first_service_key {
        println!("first service key, shown once: {}", key.expose_str().unwrap_or_default());
    }
    println!("listening on http://{}", running.address);
    if let Some(console) = &running.console_url {
        println!("console: {console}");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = file,
        address = %running.address,
        %public_url,
        providers,
        store = running.store.backend(),
        "serving"
    );
    let mut token = shutdown.token();
    tokio::select! {
        error = running.failed() => {
            tracing::error!("{error:#}");
            shutdown.drain(StopCause::Crashed);
        }
        () = token.draining() => {}
    }
    let mut token = shutdown.token();
    tokio::select! {
        () = running.stop() => {}
        () = token.aborting() => {}
    }
    watching.abort();
    let in_order = shutdown.stage() < Stage::Aborting && shutdown.cause() == StopCause::Asked;
    tracing::info!(in_order, "stopped");
    Ok(if in_order { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds a gateway and starts serving. `registry` replaces the built-in providers in tests.
///
/// # Errors
/// Everything that would keep it from serving well, before anything is served.
#[expect(clippy::too_many_lines, reason = "the wiring reads as one list, bottom up")]
pub async fn start(config: Config, registry: Option<Registry>) -> anyhow::Result<Running> {
    let config = Arc::new(config);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ids = Ids::new(clock.clone());
    let metrics = Arc::new(Metrics::default());
    let registry = Arc::new(registry.map_or_else(|| registry_of(&config), Ok)?);
    let vault = read_vault(&config)?;
    let node = format!("node-{}", ids.log().as_str().trim_start_matches("log_"));
    let store = open_store(&config, &registry, vault.as_ref(), node.clone(), metrics.clone()).await?;
    let vault = Arc::new(vault.map_or_else(|| make_vault(&config), Ok)?);

    let traces = begin_traces(&config, node.clone())?;
    let fallback_destination = config.delivery.url.as_ref().map(|_| DestinationId::configured_default());
    let remembers_destinations = !caches_are_off();
    let dispatcher = DispatcherHandle::start(DispatcherDeps {
        store: store.clone(),
        vault: vault.clone(),
        metrics: metrics.clone(),
        traces: traces.clone(),
        clock: clock.clone(),
        ids: ids.clone(),
        config: config.delivery.clone(),
        node: node.clone(),
        remembers_destinations,
    })?;
    dispatcher.follow_server_clock().await?;
    let (linked_sender, linked) = mpsc::unbounded_channel();
    let backfill = backfill_hook(&config, &store, &clock, &ids)?;
    let directory = Directory::start(DirectoryDeps {
        store: store.clone(),
        routes: RouteCache::new(!caches_are_off()),
        registry: registry.clone(),
        dispatcher: dispatcher.clone(),
        fallback_destination: fallback_destination.clone(),
        config_files: config.config_files.candidates.clone(),
        clock: clock.clone(),
        ids: ids.clone(),
        vault: vault.clone(),
        metrics: metrics.clone(),
        node: node.clone(),
        backfill: backfill.clone(),
        crash_after: crash_point(),
        linked: linked_sender,
    });
    let routers = RouterPool::new(RouterDeps {
        store: store.clone(),
        registry: registry.clone(),
        directory: directory.clone(),
        dispatcher: dispatcher.clone(),
        metrics: metrics.clone(),
        traces: traces.clone(),
        clock: clock.clone(),
        ids: ids.clone(),
        ingest: config.ingest.clone(),
    });
    let healing = healing(&config, &store, &registry, &ids, &clock, &node);
    let janitor = JanitorHandle::start(
        JanitorDeps {
            store: store.clone(),
            directory: directory.clone(),
            dispatcher: dispatcher.clone(),
            mending: routers.mending(),
            healing: healing.clone(),
            relist: config.resources.relist,
            retention: config.retention.clone(),
            ingest: config.ingest.clone(),
            longest_wait: longest_wait(&config.delivery.retry_schedule),
            fallback_destination,
            backfill,
            metrics: metrics.clone(),
            clock: clock.clone(),
            node,
        },
        linked,
    );
    let readiness = Readiness::new();
    let connecting = connecting(&config, &store, &registry, &vault, &directory, &ids, &clock);
    let public_url = connecting.public_url().clone();
    let gateway = Arc::new(Gateway {
        store: store.clone(),
        registry,
        directory: directory.clone(),
        mending: routers.mending(),
        dispatcher: dispatcher.clone(),
        destinations: destinations(&config, &store, vault, &directory, &dispatcher, &ids, &clock),
        routers: routers.clone(),
        connecting,
        brake: Brake::default(),
        followers: Arc::default(),
        healing: healing.clone(),
        metrics,
        ids: ids.clone(),
        keys: key_ring(&store, &clock, &config),
        sessions: Sessions::new(store.clone(), clock.clone(), ids.clone(), &config.console),
        readiness: readiness.clone(),
        bodies: BodyBudget::new(config.ingest.max_in_flight_bytes),
        clock: clock.clone(),
        config: config.clone(),
    });
    let (address, server, serving) = bind(&config, gateway, routers.clone(), ids, &public_url)?;
    // Only now that nothing can keep the start from showing it: a key that was made and not shown locks everybody out.
    let first_service_key = create_first_service_key(store.as_ref(), &config.auth, &clock).await?;
    Ok(Running {
        address,
        first_service_key,
        console_url: config.console.enabled.then(|| public_url.join("/console")),
        server,
        served: serving,
        readiness,
        routers,
        dispatcher,
        directory,
        janitor,
        healing,
        store,
        traces,
        deadline: config.server.shutdown_deadline,
    })
}

fn healing(
    config: &Config,
    store: &SharedStore,
    registry: &Arc<Registry>,
    ids: &Ids,
    clock: &Arc<dyn Clock>,
    node: &str,
) -> HealingHandle {
    HealingHandle::new(HealingDeps {
        store: store.clone(),
        registry: registry.clone(),
        config: config.healing.clone(),
        clock: clock.clone(),
        ids: ids.clone(),
        node: node.to_owned(),
    })
}

fn destinations(
    config: &Config,
    store: &SharedStore,
    vault: Arc<Vault>,
    directory: &Directory,
    dispatcher: &DispatcherHandle,
    ids: &Ids,
    clock: &Arc<dyn Clock>,
) -> DestinationsHandle {
    DestinationsHandle::new(DestinationsDeps {
        store: store.clone(),
        vault,
        directory: directory.clone(),
        dispatcher: dispatcher.clone(),
        clock: clock.clone(),
        ids: ids.clone(),
        allow_private_networks: config.delivery.allow_private_networks,
    })
}

fn connecting(
    config: &Config,
    store: &SharedStore,
    registry: &Arc<Registry>,
    vault: &Arc<Vault>,
    directory: &Directory,
    ids: &Ids,
    clock: &Arc<dyn Clock>,
) -> ConnectingHandle {
    ConnectingHandle::new(ConnectingDeps {
        store: store.clone(),
        registry: registry.clone(),
        vault: vault.clone(),
        binder: Binder {
            store: store.clone(),
            vault: vault.clone(),
            directory: directory.clone(),
            ids: ids.clone(),
            clock: clock.clone(),
        },
        public_url: PublicUrl::new(config.server.public_url.clone()),
        console: config.console.clone(),
        clock: clock.clone(),
        ids: ids.clone(),
    })
}

fn bind(
    config: &Config,
    gateway: Arc<Gateway>,
    routers: RouterPool,
    ids: Ids,
    public_url: &PublicUrl,
) -> anyhow::Result<(SocketAddr, ServerHandle, JoinHandle<std::io::Result<()>>)> {
    let gateway = web::Data::from(gateway);
    let has_console = config.console.enabled;
    let server = HttpServer::new(move || {
        App::new()
            .wrap(from_fn(routes::frame))
            .app_data(gateway.clone())
            .app_data(web::Data::new(ids.clone()))
            // One router per worker, on the worker's own thread.
            .app_data(web::Data::new(routers.start_router()))
            .configure(routes::configure)
            .configure(move |routes| {
                if has_console {
                    console::configure(routes);
                }
            })
    })
    .workers(config.server.workers)
    .keep_alive(KEEP_ALIVE)
    .client_request_timeout(HEAD_TIMEOUT)
    .max_connections(MAX_CONNECTIONS)
    .shutdown_timeout(intake_time(config.server.shutdown_deadline).as_secs().max(1))
    .disable_signals()
    .bind(config.server.listen)
    .with_context(|| format!("cannot listen on {} (server.listen)", config.server.listen))?;
    let address = server.addrs().first().copied().context("the server has no address")?;
    public_url.listener_has(address.port());
    let running = server.run();
    let handle = running.handle();
    Ok((address, handle, tokio::task::spawn_local(running)))
}

impl Running {
    /// Waits until the server ends by itself, which it does only by failing.
    ///
    /// # Errors
    /// What it failed of.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.served).await {
            Ok(Ok(())) => anyhow::anyhow!("the server ended by itself"),
            Ok(Err(error)) => anyhow::Error::new(error).context("the server failed"),
            Err(error) => anyhow::Error::new(error).context("the server panicked"),
        }
    }

    /// Stops in order, within the configured deadline.
    pub async fn stop(self) {
        let began = Instant::now();
        let planned = self.deadline.saturating_sub(self.deadline / RESERVE);
        let left = || planned.saturating_sub(began.elapsed());
        let intake_left = || intake_time(self.deadline).saturating_sub(began.elapsed());
        self.readiness.begin_drain();
        // The listener stays open for what is in flight: a load balancer that asks is told that this node is going, and
        // providers are told to come again, instead of finding the port closed.
        let in_flight = async {
            self.routers.drain(left()).await;
            self.dispatcher.drain(left()).await;
        };
        if tokio::time::timeout(intake_left(), in_flight).await.is_err() {
            tracing::info!("webhooks or attempts are still in flight; the listener closes all the same");
        }
        if began.elapsed() > LISTENER_NOTICES {
            // It took connections until now. One that it hands on to workers which have ended is an error in the log.
            self.server.pause().await;
            tokio::time::sleep(LISTENER_NOTICES).await;
        }
        let closing = intake_left().max(self.deadline / CLOSING);
        if tokio::time::timeout(closing, self.server.stop(true)).await.is_err() {
            tracing::warn!("requests were still open at the deadline");
        }
        // Again: what was still being received has come in since, and the rest of the time is for attempts.
        self.routers.drain(left()).await;
        self.dispatcher.drain(left()).await;
        if let Err(error) = self.janitor.drain().await {
            tracing::warn!(%error, "the janitor did not stop in order");
        }
        self.healing.drain().await;
        self.directory.drain(left().max(Duration::from_millis(500))).await;
        if tokio::time::timeout(left().max(Duration::from_millis(500)), self.store.close()).await.is_err() {
            tracing::warn!("the database did not let go of its connections in time");
        }
        self.traces.drain(left().min(TRACES_TIME)).await;
    }
}

/// What open requests get of the time to stop in: not so much that the dispatcher is left without, whose attempts would
/// be cut, and repeated, because of one client that is slow.
fn intake_time(deadline: Duration) -> Duration {
    deadline / 2
}

/// The built-in providers, enabled as configured.
///
/// # Errors
/// If the list contradicts itself.
pub fn registry_of(config: &Config) -> anyhow::Result<Registry> {
    let providers = Registry::built_in().iter().map(|registered| (registered.make)()).collect();
    let settings = config.providers.iter().map(|(slug, provider)| (slug.clone(), settings_of(provider))).collect();
    let mut registry = Registry::new(providers, settings)?;
    let http = HttpClient::new()?;
    for registered in Registry::built_in() {
        let Some(provider) = config.providers.get(registered.spec.slug.as_str()) else { continue };
        let settings = ConnectorSettings { texts: provider.settings.clone(), secrets: provider.secrets.clone() };
        registry = registry.with_connector(registered.spec.slug, (registered.connect)(&settings, &http));
    }
    Ok(registry)
}

fn settings_of(provider: &ProviderConfig) -> ProviderSettings {
    ProviderSettings {
        webhook_secrets: provider.webhook_secrets.clone(),
        max_body_bytes: provider.max_body_bytes,
        timestamp_tolerance: provider.timestamp_tolerance,
    }
}

fn begin_traces(config: &Config, node: String) -> anyhow::Result<Traces> {
    match &config.telemetry.otlp_endpoint {
        Some(endpoint) => Traces::export_to(endpoint, node).context("traces (telemetry.otlp_endpoint)"),
        None => Ok(Traces::default()),
    }
}

/// The backfill service, if one is configured.
fn backfill_hook(
    config: &Config,
    store: &SharedStore,
    clock: &Arc<dyn Clock>,
    ids: &Ids,
) -> anyhow::Result<Option<BackfillHook>> {
    let Some(service) = &config.backfill else { return Ok(None) };
    let http = HttpClient::new()?;
    let (store, clock, ids) = (store.clone(), clock.clone(), ids.clone());
    Ok(Some(BackfillHook::new(BackfillDeps { service: service.clone(), http, store, clock, ids })))
}

fn key_ring(store: &SharedStore, clock: &Arc<dyn Clock>, config: &Config) -> KeyRing {
    KeyRing::new(store.clone(), clock.clone(), config.auth.service_key.as_ref()).remembering(!caches_are_off())
}

/// The suite runs once with `SIGNALBOX_TEST_NO_CACHE=1`: every answer must be the same.
#[expect(clippy::disallowed_methods, reason = "a switch of the test suite, not a setting")]
fn caches_are_off() -> bool {
    std::env::var("SIGNALBOX_TEST_NO_CACHE").is_ok_and(|value| value == "1")
}

/// With `SIGNALBOX_TEST_CRASH_AFTER=<work>.<step>` (a teardown, a transfer) the process ends right after that step's commit,
/// as if killed.
#[expect(clippy::disallowed_methods, reason = "a switch of the test suite, not a setting")]
fn crash_point() -> Option<String> {
    std::env::var("SIGNALBOX_TEST_CRASH_AFTER").ok()
}
