//! The gateway's own sections: names, defaults and bounds of their settings, one function each.
//!
//! `signalbox.example.toml` repeats every name and default for people; a test compares the two.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tracing_subscriber::EnvFilter;
use url::Url;

use super::{
    AuthConfig, BackfillConfig, ConfigFilesConfig, ConsoleConfig, DatabaseConfig, DeliveryConfig, HealingConfig,
    IngestConfig, LateBinding, LogFormat, ReplayPolicy, ResourcesConfig, RetentionConfig, ServerConfig,
    TelemetryConfig, VaultConfig, VaultKey,
    section::{Reader, Section, page_url},
};
use crate::model::secret::{Secret, signing_bytes};

/// The shortest service key anybody may configure, characters: shorter ones can be guessed.
const SERVICE_KEY_MIN_CHARS: usize = 32;
/// Retention of events, and of dead letters, is at least this, so that dedup memory outlives every provider's redelivery window.
const DEDUP_MIN_DAYS: u32 = 7;
/// How long an open circuit waits before its first probe unless retries wait less, seconds.
const DEFAULT_PROBE_WAIT_S: u32 = 5;
/// Where on the console a connect flow ends unless configured otherwise.
const CONNECTED_PATH: &str = "/{provider}/connected";
/// Where a repository's config file is looked for.
const CONFIG_FILES: [&str; 4] = ["lightfast.yml", ".lightfast.yml", "lightfast.yaml", ".lightfast.yaml"];
/// Each candidate costs a call of the provider's API.
const MAX_CONFIG_FILES: usize = 16;
const MIB: u32 = 1024 * 1024;

impl ServerConfig {
    /// `None` only beside a mistake.
    pub(super) fn read(reader: &mut Reader) -> Option<Self> {
        reader.section("server", |section| {
            let listen = section.parsed("listen", "127.0.0.1:4110", |text| {
                text.parse::<SocketAddr>()
                    .map_err(|_| "must be an address and a port, such as 127.0.0.1:4110 or [::]:4110".to_owned())
            });
            let follows_listen = section.is_absent("public_url");
            let public_url = section.parsed("public_url", "http://127.0.0.1:4110", page_url);
            let public_url = match listen {
                Some(listen) if follows_listen => url_of_listener(listen).or(public_url),
                _ => public_url,
            };
            if let Some(url) = &public_url {
                section.follows("public_url", url.as_str().trim_end_matches('/'));
            }
            Some(Self {
                listen: listen?,
                public_url: public_url?,
                max_body_bytes: section.size("max_body_bytes", 25 * MIB, 1024 * MIB),
                workers: workers(section),
                body_idle_timeout: section.millis("body_idle_timeout_ms", 10_000),
                body_timeout: section.millis("body_timeout_ms", 60_000),
                shutdown_deadline: section.millis("shutdown_deadline_ms", 25_000),
            })
        })
    }
}

/// One worker for each core unless told otherwise: the only default that depends on the machine.
fn workers(section: &mut Section<'_>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let given = section.optional_count("workers", 1..=1024);
    section.follows("workers", i64::try_from(cores).unwrap_or(i64::MAX));
    given.map_or(cores, |workers| usize::try_from(workers).unwrap_or(cores))
}

/// Where this machine reaches a listener of its own.
fn url_of_listener(listen: SocketAddr) -> Option<Url> {
    let host = match listen {
        SocketAddr::V4(address) if address.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V6(address) if address.ip().is_unspecified() => "[::1]".to_owned(),
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    Url::parse(&format!("http://{host}:{}", listen.port())).ok()
}

impl DatabaseConfig {
    /// `None` only beside a mistake.
    pub(super) fn read(reader: &mut Reader) -> Option<Self> {
        reader.section("database", |section| {
            let url = section.secret_or("url", "sqlite://signalbox.db");
            if let Some(problem) = url.as_ref().and_then(problem_of_database_url) {
                section.mistake("url", problem);
            }
            Some(Self {
                max_connections: u32::try_from(section.count("max_connections", 10, 1..=10_000)).unwrap_or(10),
                acquire_timeout: section.millis("acquire_timeout_ms", 800),
                migrate: section.flag("migrate", true),
                url: url?,
            })
        })
    }
}

fn problem_of_database_url(url: &Secret) -> Option<&'static str> {
    match url.expose_str() {
        Some(url) if url.starts_with("sqlite:") && url.contains(":memory:") => {
            Some("must be a file: an in-memory database keeps nothing")
        }
        Some(url) if url.starts_with("sqlite:") => {
            let path = url.trim_start_matches("sqlite:").trim_start_matches('/');
            (path.is_empty() || path.starts_with('?')).then_some("names no file; write sqlite://path/to/file.db")
        }
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Url::parse(url).is_err().then_some("is not a URL; write postgres://user:password@host/database")
        }
        _ => Some("must begin with sqlite:// or postgres://"),
    }
}

impl VaultConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("vault", |section| {
            let given = section.secrets("keys").unwrap_or_default();
            let mut keys: Vec<VaultKey> = Vec::new();
            for (index, text) in given.iter().enumerate() {
                match vault_key(text) {
                    Ok(key) if keys.iter().any(|other| other.id == key.id) => {
                        section.mistake("keys", format!("two keys have the id `{}`", key.id));
                    }
                    Ok(key) => keys.push(key),
                    Err(problem) => section.mistake("keys", format!("key {}: {problem}", index + 1)),
                }
            }
            Self {
                keys,
                key_file: section
                    .text("key_file", Some("signalbox.key"))
                    .map_or_else(|| PathBuf::from("signalbox.key"), PathBuf::from),
            }
        })
    }
}

/// Reads `id:64 hex digits`.
fn vault_key(text: &Secret) -> Result<VaultKey, &'static str> {
    const FORM: &str = "must be `id:` and 64 hex digits (32 bytes)";
    let (id, digits) = text.expose_str().and_then(|text| text.trim().split_once(':')).ok_or(FORM)?;
    let id_is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if id.is_empty() || id.len() > 64 || !id_is_plain {
        return Err("its id must be 1 to 64 letters, digits, `-` or `_`");
    }
    let key = hex::decode(digits).ok().filter(|bytes| bytes.len() == 32).and_then(Secret::new).ok_or(FORM)?;
    Ok(VaultKey { id: id.to_owned(), key })
}

impl AuthConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("auth", |section| {
            let service_key = section.secret("service_key").ok().flatten();
            let chars = service_key.as_ref().map(|key| String::from_utf8_lossy(key.expose()).chars().count());
            if chars.is_some_and(|chars| chars < SERVICE_KEY_MIN_CHARS) {
                section.mistake("service_key", format!("must have at least {SERVICE_KEY_MIN_CHARS} characters"));
            }
            Self { service_key }
        })
    }
}

impl ConsoleConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("console", |section| {
            let url = section.page_url("url");
            Self {
                allowed_origins: allowed_origins(section, url.as_ref()),
                url,
                connected_path: section
                    .parsed("connected_path", CONNECTED_PATH, connected_path)
                    .unwrap_or_else(|| CONNECTED_PATH.to_owned()),
                enabled: section.flag("enabled", true),
                session_idle: Duration::from_mins(section.count("session_idle_minutes", 480, 1..=525_600)),
                session_max: Duration::from_hours(section.count("session_max_hours", 168, 1..=8760)),
            }
        })
    }
}

/// Origins of pages that may call the API: those given, and that of the external console.
fn allowed_origins(section: &mut Section<'_>, console: Option<&Url>) -> Vec<String> {
    let mut origins: Vec<String> = console.map(|url| url.origin().ascii_serialization()).into_iter().collect();
    for (index, text) in section.texts("allowed_origins", &[]).into_iter().enumerate() {
        match origin(&text) {
            Some(origin) if origins.contains(&origin) => {}
            Some(origin) => origins.push(origin),
            None => {
                const FORM: &str = "must be an origin such as https://console.example.com, without path or wildcard";
                section.mistake("allowed_origins", format!("entry {} {FORM}", index + 1));
            }
        }
    }
    origins
}

/// An origin as browsers name it in `Origin`.
fn origin(text: &str) -> Option<String> {
    let url = page_url(text).ok()?;
    let is_bare = matches!(url.path(), "" | "/") && !text.contains(['*', '@']);
    is_bare.then(|| url.origin().ascii_serialization())
}

/// A path below the console's URL, and nothing that could lead elsewhere.
fn connected_path(text: &str) -> Result<String, String> {
    let filled_in = text.replace("{provider}", "x");
    let is_path = filled_in.starts_with('/')
        && !filled_in.contains("//")
        && !filled_in.split('/').any(|segment| matches!(segment, "." | ".."))
        && filled_in.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte));
    if is_path {
        Ok(text.to_owned())
    } else {
        Err("must be a path such as /{provider}/connected, without query or fragment".to_owned())
    }
}

impl DeliveryConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("delivery", |section| {
            let url = section.url("url");
            let secret = section.secret("secret");
            match &secret {
                Ok(None) if url.is_some() => {
                    section.mistake("secret", "is missing: what goes to `delivery.url` is signed with it");
                }
                Ok(Some(secret)) if secret.expose_str().and_then(signing_bytes).is_none() => {
                    section.mistake("secret", "must be `whsec_` and the base64 of 24 to 64 bytes");
                }
                _ => {}
            }
            let retry_schedule = section.seconds_list("retry_schedule_s", &[5, 30, 120, 600, 3600]);
            // Who retries quickly does not wait for probes instead.
            let longest_retry_wait = retry_schedule.iter().max().map_or(u64::MAX, Duration::as_secs);
            let probe_wait_s = u32::try_from(longest_retry_wait).unwrap_or(u32::MAX).clamp(1, DEFAULT_PROBE_WAIT_S);
            Self {
                url,
                secret: secret.ok().flatten(),
                timeout: section.millis("timeout_ms", 15_000),
                retry_schedule,
                allow_private_networks: section.flag("allow_private_networks", false),
                max_in_flight: section.size("max_in_flight", 512, 100_000),
                max_in_flight_per_destination: section.size("max_in_flight_per_destination", 64, 100_000),
                circuit_failures: u32::try_from(section.count("circuit_failures", 5, 1..=1_000_000)).unwrap_or(5),
                circuit_probe: section.seconds("circuit_probe_s", probe_wait_s),
                disable_after: section.seconds("disable_after_s", 5 * 86_400),
            }
        })
    }
}

impl IngestConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("ingest", |section| Self {
            late_binding: section
                .choice("late_binding", [("manual", LateBinding::Manual), ("auto", LateBinding::Auto)]),
            late_binding_max_age: section.seconds("late_binding_max_age_s", 86_400),
            possible_replay: section
                .choice("possible_replay", [("flag", ReplayPolicy::Flag), ("drop", ReplayPolicy::Drop)]),
            ack_deadline: section.millis("ack_deadline_ms", 900),
            max_in_flight: section.size("max_in_flight", 1024, 1_000_000),
            max_in_flight_bytes: section.size("max_in_flight_bytes", 128 * MIB, u32::MAX),
            quarantine_max_count: section.count("quarantine_max_count", 10_000, 0..=100_000_000),
            quarantine_max_bytes: section.count("quarantine_max_bytes", 64 * u64::from(MIB), 0..=1 << 40),
            quarantine_per_s: section.count("quarantine_per_s", 100, 0..=1_000_000),
        })
    }
}

impl RetentionConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("retention", |section| Self {
            events: section.days("events_days", 30, DEDUP_MIN_DAYS),
            dead_letters: section.days("dead_letters_days", 90, DEDUP_MIN_DAYS),
            quarantine: section.days("quarantine_days", 7, 1),
            log: section.days("log_days", 365, 1),
        })
    }
}

impl TelemetryConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("telemetry", |section| Self {
            log_format: section.choice("log_format", [("json", LogFormat::Json), ("text", LogFormat::Text)]),
            log_filter: section
                .parsed("log_filter", "info,actix_server=warn", |text| match EnvFilter::try_new(text) {
                    Ok(_) => Ok(text.to_owned()),
                    Err(error) => Err(format!("is not a filter: {error}")),
                })
                .unwrap_or_else(|| "info".to_owned()),
            otlp_endpoint: section.base_url("otlp_endpoint"),
        })
    }
}

impl ResourcesConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("resources", |section| Self { relist: section.seconds("relist_s", 6 * 3600) })
    }
}

impl ConfigFilesConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("config_files", |section| {
            let candidates = section.texts("candidates", &CONFIG_FILES);
            if let Some(problem) = problem_of_candidates(&candidates) {
                section.mistake("candidates", problem);
            }
            Self { candidates }
        })
    }
}

fn problem_of_candidates(candidates: &[String]) -> Option<String> {
    if !(1..=MAX_CONFIG_FILES).contains(&candidates.len()) {
        return Some(format!("must name 1 to {MAX_CONFIG_FILES} files"));
    }
    let is_path = |path: &str| {
        path.len() <= 255 && path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\\')
    };
    let bad = candidates.iter().find(|path| !is_path(path) || path.chars().any(char::is_control))?;
    Some(format!("`{bad}` is not a path within a repository"))
}

impl HealingConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        reader.section("healing", |section| Self {
            enabled: section.flag("enabled", true),
            interval: section.seconds("interval_s", 900),
            lag: section.seconds("lag_s", 600),
            max_per_second: u32::try_from(section.count("max_per_second", 10, 1..=1000)).unwrap_or(10),
        })
    }
}

impl BackfillConfig {
    /// `None` when nothing is configured; half a configuration is a mistake.
    pub(super) fn read(reader: &mut Reader) -> Option<Self> {
        reader.section("backfill", |section| {
            let url_is_absent = section.is_absent("url");
            let url = section.base_url("url");
            let api_key = section.secret("api_key");
            match (url, api_key) {
                (Some(url), Ok(Some(api_key))) => Some(Self { url, api_key }),
                (Some(_), Ok(None)) => {
                    section.mistake("api_key", "is missing: `backfill.url` is called with it");
                    None
                }
                (None, Ok(Some(_))) if url_is_absent => {
                    section.mistake("url", "is missing: `backfill.api_key` has nobody to go to");
                    None
                }
                _ => None,
            }
        })
    }
}
