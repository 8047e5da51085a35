//! Configuration: one TOML file plus `SIGNALBOX_SECTION__KEY` from the environment, checked as a whole.
//!
//! **Owns** every setting, its default and its checks. **Invariants**: all mistakes are reported at once, each with
//! the setting's name; a secret is given as a value or as `<name>_file`, never printed; an unknown setting is a
//! mistake. **Must not know** any room but the model: a provider's table is passed through untouched.

mod error;
mod layers;
mod providers;
mod secret_source;
mod section;
mod sections;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use url::Url;

pub use self::{
    error::{ConfigError, Mistake},
    section::{KnownSetting, SettingSource},
};
use self::{layers::Layers, section::Reader};
use crate::model::{
    provider::{ProviderSlug, ProviderSpec},
    secret::Secret,
};

/// Everything an operator can set.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`
    pub server: ServerConfig,
    /// `[database]`
    pub database: DatabaseConfig,
    /// `[vault]`
    pub vault: VaultConfig,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[console]`
    pub console: ConsoleConfig,
    /// `[delivery]`
    pub delivery: DeliveryConfig,
    /// `[ingest]`
    pub ingest: IngestConfig,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[resources]`
    pub resources: ResourcesConfig,
    /// `[config_files]`
    pub config_files: ConfigFilesConfig,
    /// `[healing]`
    pub healing: HealingConfig,
    /// `[backfill]`: the backfill service to notify, when there is one.
    pub backfill: Option<BackfillConfig>,
    /// `[providers.*]`: one for each section present.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Every setting there is, what it is and who set it; of secrets only whether.
    pub settings: Vec<KnownSetting>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 picks one.
    pub listen: SocketAddr,
    /// What providers and browsers call; its path has no trailing slash unless it is `/` alone. When it is not set it
    /// follows `listen`, port 0 included: whoever binds puts the chosen port in its place.
    pub public_url: Url,
    /// Largest webhook body, bytes, unless a provider's setting or its own limit says otherwise.
    pub max_body_bytes: usize,
    /// HTTP worker threads; one router actor each.
    pub workers: usize,
    /// Longest pause between two pieces of a request body.
    pub body_idle_timeout: Duration,
    /// Longest time for a whole request body.
    pub body_timeout: Duration,
    /// How long stopping may take before it is forced.
    pub shutdown_deadline: Duration,
}

impl ServerConfig {
    /// The largest webhook body of a provider, bytes: what is set for it, whatever that is; else `server.max_body_bytes`, or
    /// its own limit if that is lower.
    pub fn max_webhook_bytes(&self, set_for_it: Option<usize>, own_limit: usize) -> usize {
        set_for_it.unwrap_or_else(|| self.max_body_bytes.min(own_limit))
    }
}

/// `[database]`
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `sqlite://…` or `postgres://…`; may hold a password, so it is never logged whole.
    pub url: Secret,
    /// Connections.
    pub max_connections: u32,
    /// How long to wait for one.
    pub acquire_timeout: Duration,
    /// Whether `serve` applies migrations.
    pub migrate: bool,
}

/// `[vault]`
#[derive(Debug, Clone)]
pub struct VaultConfig {
    /// Keys, first encrypts, all decrypt. Empty: read or create `key_file`.
    pub keys: Vec<VaultKey>,
    /// The key file used when no keys are given; created 0600 by the first start.
    pub key_file: PathBuf,
}

impl VaultConfig {
    /// The keys with their ids, as a vault is made of them.
    pub fn live_keys(&self) -> Vec<(String, Secret)> {
        self.keys.iter().map(|key| (key.id.clone(), key.key.clone())).collect()
    }
}

/// One vault key.
#[derive(Debug, Clone)]
pub struct VaultKey {
    /// Its id, recorded with everything it seals.
    pub id: String,
    /// Exactly 32 bytes.
    pub key: Secret,
}

/// `[auth]`
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// The bootstrap service key, at least 32 characters.
    pub service_key: Option<Secret>,
}

/// `[console]`
#[derive(Debug, Clone)]
pub struct ConsoleConfig {
    /// The external console's origin; `None` is the built-in one.
    pub url: Option<Url>,
    /// Where on the console a connect flow ends; `{provider}` stands for the provider's name.
    pub connected_path: String,
    /// Origins whose pages may call the API, as browsers name them: those configured, and that of `url`.
    pub allowed_origins: Vec<String>,
    /// Whether the built-in console is served.
    pub enabled: bool,
    /// How long a session of the built-in console lives without being used.
    pub session_idle: Duration,
    /// How long it lives at the most.
    pub session_max: Duration,
}

/// `[delivery]`
#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    /// Default destination.
    pub url: Option<Url>,
    /// Its signing secret, `whsec_…`.
    pub secret: Option<Secret>,
    /// Longest time for one attempt, answer included.
    pub timeout: Duration,
    /// Waits before each retry; as many retries as entries.
    pub retry_schedule: Vec<Duration>,
    /// Whether destinations may be on loopback and private networks.
    pub allow_private_networks: bool,
    /// Attempts in flight in all; one counts as several whose body is larger than 128 KiB.
    pub max_in_flight: usize,
    /// Attempts in flight to one destination; never more than half of what is free of those in all.
    pub max_in_flight_per_destination: usize,
    /// Failures in a row that open a destination's circuit.
    pub circuit_failures: u32,
    /// How long an open circuit waits before its first probe; doubles up to 16 times that, or the longest wait of
    /// `retry_schedule` if that is shorter. By default 5 seconds, likewise.
    pub circuit_probe: Duration,
    /// Continuous failure after which a destination is disabled.
    pub disable_after: Duration,
}

/// What happens to unrouted events when their link appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateBinding {
    /// They wait for `POST /connections/{id}/reroute`.
    Manual,
    /// Those younger than `late_binding_max_age` are routed by themselves.
    Auto,
}

/// What happens to a body seen before under another, unsigned delivery id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayPolicy {
    /// Flagged `possible_replay` and delivered.
    Flag,
    /// Stored as filtered, not delivered.
    Drop,
}

/// `[ingest]`
#[derive(Debug, Clone)]
pub struct IngestConfig {
    /// Whether unrouted events are routed by themselves when their link appears.
    pub late_binding: LateBinding,
    /// Up to which age.
    pub late_binding_max_age: Duration,
    /// What a possible replay is worth.
    pub possible_replay: ReplayPolicy,
    /// How long a webhook may wait for its commit before 503.
    pub ack_deadline: Duration,
    /// Webhooks being handled at once, per worker, before 503.
    pub max_in_flight: usize,
    /// Bytes of webhook bodies being handled at once, in all, before 503; bodies larger than 256 KiB have three quarters of it.
    pub max_in_flight_bytes: usize,
    /// Quarantined webhooks at the most.
    pub quarantine_max_count: u64,
    /// Bytes of quarantined bodies at the most.
    pub quarantine_max_bytes: u64,
    /// Wrongly signed webhooks of a provider kept in a second, in the long run.
    pub quarantine_per_s: u64,
}

/// `[retention]`, ages in whole days.
#[derive(Debug, Clone)]
pub struct RetentionConfig {
    /// Events; at least 7, so that dedup outlives every provider's redelivery window.
    pub events: Duration,
    /// Dead letters: longer than events, whose events stay with them, or shorter.
    pub dead_letters: Duration,
    /// Quarantined webhooks.
    pub quarantine: Duration,
    /// Lifecycle and audit log.
    pub log: Duration,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `[telemetry]`
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged: a `tracing` filter such as `info,signalbox=debug`.
    pub log_filter: String,
    /// Where traces go: the base URL of an OTLP/HTTP collector; `None` is nowhere.
    pub otlp_endpoint: Option<Url>,
}

/// `[resources]`
#[derive(Debug, Clone)]
pub struct ResourcesConfig {
    /// How long between two looks at what each connection's provider lists for it; zero never looks by itself.
    pub relist: Duration,
}

/// `[config_files]`
#[derive(Debug, Clone)]
pub struct ConfigFilesConfig {
    /// Paths at which a repository's config file is looked for, in this order.
    pub candidates: Vec<String>,
}

/// `[healing]`
#[derive(Debug, Clone)]
pub struct HealingConfig {
    /// Whether gaps are looked for at start and from time to time. On demand they are looked for in any case.
    pub enabled: bool,
    /// How long between two looks.
    pub interval: Duration,
    /// How far a look reaches back over the end of the one before: a provider's log lags.
    pub lag: Duration,
    /// Redeliveries asked for in a second at the most.
    pub max_per_second: u32,
}

/// `[backfill]`
#[derive(Debug, Clone)]
pub struct BackfillConfig {
    /// The base to which `/trigger` and `/trigger/cancel` are appended.
    pub url: Url,
    /// Sent as `X-API-Key`.
    pub api_key: Secret,
}

/// `[providers.X]`: what every provider has, and its own table.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// Which provider.
    pub slug: ProviderSlug,
    /// Live webhook secrets, newest first; never empty. For Vercel and Sentry the client secret comes first.
    pub webhook_secrets: Vec<Secret>,
    /// Largest webhook body, bytes, when it differs from the provider's default.
    pub max_body_bytes: Option<usize>,
    /// How far a signed timestamp may be from the present.
    pub timestamp_tolerance: Duration,
    /// Text settings (`app_slug`, `app_id`, `client_id`, `web_url`, `api_url`, …).
    pub settings: BTreeMap<String, String>,
    /// Secret settings other than the webhook secrets (`client_secret`, `private_key`).
    pub secrets: BTreeMap<String, Secret>,
}

/// What an examination of the configuration found: the settings as far as they could be read (defaults stand in for
/// mistaken ones), every mistake, and every setting there is.
#[derive(Debug)]
pub struct Examination {
    /// The settings, with defaults in the place of mistaken ones: not to be served from while there are mistakes.
    /// `None` when something that everything needs could not be read.
    pub config: Option<Config>,
    /// What is wrong, in the order of the sections.
    pub mistakes: Vec<Mistake>,
    /// Every setting the gateway knows, those of providers without a section included.
    pub settings: Vec<KnownSetting>,
}

impl Config {
    /// Reads the file, if there is one, and the environment over it.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake there is.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        providers: &[ProviderSpec],
    ) -> Result<Self, ConfigError> {
        match Self::examine(path, environment, providers) {
            Examination { config: Some(config), mistakes, .. } if mistakes.is_empty() => Ok(config),
            Examination { mistakes, .. } => Err(ConfigError { mistakes }),
        }
    }

    /// Like [`Config::load`], for those who want to go on after a mistake (`signalbox doctor`).
    pub fn examine(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        providers: &[ProviderSpec],
    ) -> Examination {
        let mut mistakes = Vec::new();
        let layers = Layers::collect(path, environment, &mut mistakes);
        let mut reader = Reader::new(layers, mistakes);
        let server = ServerConfig::read(&mut reader);
        let database = DatabaseConfig::read(&mut reader);
        let vault = VaultConfig::read(&mut reader);
        let auth = AuthConfig::read(&mut reader);
        let console = ConsoleConfig::read(&mut reader);
        let delivery = DeliveryConfig::read(&mut reader);
        let ingest = IngestConfig::read(&mut reader);
        let retention = RetentionConfig::read(&mut reader);
        let telemetry = TelemetryConfig::read(&mut reader);
        let resources = ResourcesConfig::read(&mut reader);
        let config_files = ConfigFilesConfig::read(&mut reader);
        let healing = HealingConfig::read(&mut reader);
        let backfill = BackfillConfig::read(&mut reader);
        let providers_read = providers
            .iter()
            .filter_map(|spec| ProviderConfig::read(&mut reader, spec))
            .map(|provider| (provider.slug.as_str().to_owned(), provider))
            .collect();
        let mut config = server.zip(database).map(|(server, database)| Self {
            server,
            database,
            vault,
            auth,
            console,
            delivery,
            ingest,
            retention,
            telemetry,
            resources,
            config_files,
            healing,
            backfill,
            providers: providers_read,
            settings: Vec::new(),
            file: path.map(Path::to_owned),
        });
        let (mistakes, settings) = reader.finish(providers);
        if let Some(config) = &mut config {
            config.settings.clone_from(&settings);
        }
        Examination { config, mistakes, settings }
    }
}

/// The process's environment, for [`Config::load`]: the only place where it is read. Values that are not Unicode are
/// read as far as they are.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}
