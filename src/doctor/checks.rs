//! What the doctor looks at, one function each.

use std::{fmt, os::unix::fs::PermissionsExt, path::Path};

use url::Url;

use super::Report;
use crate::{
    config::{Config, Mistake, ProviderConfig, SettingSource},
    crypto::jwt::JwtKey,
    delivery::{address, destination::literal_address},
    model::secret::Secret,
    providers::Registry,
    store::{Store, database_file},
    vault::{
        Vault, VaultError,
        rotation::{self, RotationError},
    },
};

/// A webhook secret shorter than this can be guessed from one signed webhook, bytes.
const WEBHOOK_SECRET_MIN_BYTES: usize = 16;

/// The vault that the next start will have; `None` if it will make a key first.
fn read_vault(config: &Config) -> Result<Option<Vault>, VaultError> {
    if config.vault.keys.is_empty() {
        Vault::open_key_file(&config.vault.key_file)
    } else {
        Vault::new(config.vault.live_keys()).map(Some)
    }
}

pub(super) fn check_vault(config: &Config, report: &mut Report) {
    match read_vault(config).and_then(|vault| vault.map(|vault| vault.self_test().map(|()| vault)).transpose()) {
        Ok(None) => {
            let path = config.vault.key_file.display();
            report.note("vault", format!("the first start will make a key in {path}"));
        }
        Ok(Some(vault)) => {
            let ids: Vec<&str> = vault.key_ids().collect();
            report.fine("vault", format!("seals and opens; keys, newest first: {}", ids.join(", ")));
        }
        Err(error) => report.mistake("vault", error),
    }
}

/// Whether there is a database to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseFile {
    /// There is, or it is on a server.
    MayBeOpened,
    /// There is none yet, or it cannot be read: the report says so.
    IsMissing,
}

/// Looks at the file of a SQLite database.
pub fn check_database_file(config: &Config, report: &mut Report) -> DatabaseFile {
    let url = config.database.url.expose_str().unwrap_or_default();
    let Some(path) = database_file(url) else { return DatabaseFile::MayBeOpened };
    match std::fs::metadata(&path) {
        Ok(metadata) => {
            if metadata.permissions().mode() & 0o077 != 0 {
                report.warning("database", format!("{} can be read by others; run `chmod 600` on it", path.display()));
            }
            DatabaseFile::MayBeOpened
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            check_folder_of(&path, report);
            DatabaseFile::IsMissing
        }
        Err(error) => {
            report.mistake("database", format!("{} cannot be read: {error}", path.display()));
            DatabaseFile::IsMissing
        }
    }
}

/// Looks at an open store; `migrates` says whether a start applies migrations.
pub async fn check_store(store: &dyn Store, migrates: bool, report: &mut Report) {
    match store.ping().await {
        Ok(()) => report.fine("database", format!("{} answers", store.backend())),
        Err(error) => report.mistake("database", error),
    }
    match store.count_pending_migrations().await {
        Ok(0) => report.fine("migrations", "all applied"),
        Ok(count) if migrates => report.note("migrations", format!("{count} to apply; the next start does")),
        Ok(count) => report.mistake("migrations", format!("{count} to apply; run `signalbox migrate`")),
        Err(error) => report.mistake("migrations", error),
    }
    match store.check_durability().await {
        Ok(()) => report.fine("durability", "what is acknowledged survives a crash and loss of power"),
        Err(error) => report.mistake("durability", error),
    }
}

/// Whether the vault's keys open what the store has: a start refuses to serve otherwise. Reads every sealed value.
pub async fn check_sealed(config: &Config, store: &dyn Store, report: &mut Report) {
    // A vault that cannot be read is a mistake already; tables that are not there yet hold nothing.
    let (Ok(vault), Ok(0)) = (read_vault(config), store.count_pending_migrations().await) else { return };
    match rotation::check_store(vault.as_ref(), store).await {
        Ok(()) => {}
        Err(RotationError::Vault(error)) => report.mistake(
            "vault",
            format!("the database has secrets that its keys do not open: {error}; put the key that sealed them back"),
        ),
        Err(RotationError::Store(error)) => report.mistake("database", error),
    }
}

fn check_folder_of(path: &Path, report: &mut Report) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        report.note("database", format!("the first start will make {}", path.display()));
    } else {
        report.mistake("database", format!("the folder {} does not exist", folder.display()));
    }
}

/// Whether the URL names this machine.
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => true,
    }
}

pub(super) fn check_public_url(config: &Config, url: &Url, report: &mut Report) {
    let shown = Reached(url);
    let is_local = is_local(url);
    match (is_local, url.scheme()) {
        (true, _) if config.providers.is_empty() => report.fine("public_url", format!("{shown}, this machine only")),
        (true, _) => report.warning("public_url", format!("{shown} is this machine only: no provider can reach it")),
        (false, "https") => report.fine("public_url", shown),
        (false, _) => report.warning("public_url", format!("{shown} is not https: providers refuse it or should")),
    }
    if !is_local && config.delivery.allow_private_networks {
        report.warning(
            "delivery",
            "allow_private_networks is on: whoever sets a destination can reach this machine's own network",
        );
    }
}

/// The default destination is dialled by the rules of all others. A name is not resolved: it may answer otherwise later.
pub(super) fn check_default_destination(config: &Config, report: &mut Report) {
    let Some(url) = &config.delivery.url else { return };
    let allow_private_networks = config.delivery.allow_private_networks;
    let is_refused = literal_address(url).is_some_and(|at| !address::is_allowed(at, allow_private_networks));
    if is_refused || (is_local(url) && !allow_private_networks) {
        report.warning(
            "delivery",
            if allow_private_networks {
                "url is at a reserved address: nothing is sent there"
            } else {
                "url is at a private, local or reserved address, and allow_private_networks is off: nothing is sent there"
            },
        );
    }
}

/// A URL as it is reported: port 0 is no port, the gateway chooses one when it starts.
struct Reached<'a>(&'a Url);

impl fmt::Display for Reached<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        if url.port() == Some(0) && url.set_port(None).is_ok() {
            return write!(f, "{url} with a port that is chosen at the start");
        }
        write!(f, "{url}")
    }
}

pub(super) fn check_timing(config: &Config, report: &mut Report) {
    if config.database.acquire_timeout >= config.ingest.ack_deadline {
        report.warning(
            "database",
            "acquire_timeout_ms is not shorter than ingest.ack_deadline_ms: webhooks time out before their store does",
        );
    }
    if config.server.body_idle_timeout > config.server.body_timeout {
        report.warning("server", "body_idle_timeout_ms is longer than body_timeout_ms and never counts");
    }
}

pub(super) fn check_provider(provider: &ProviderConfig, mistakes: &[Mistake], report: &mut Report) {
    let section = format!("providers.{}", provider.slug);
    let mut sound = !mistakes.iter().any(|mistake| mistake.concerns(&section));
    if let Some(key) = provider.secrets.get("private_key")
        && let Err(problem) = JwtKey::read(key)
    {
        report.mistake(&section, format!("private_key: {problem}"));
        sound = false;
    }
    if provider.webhook_secrets.iter().any(|secret| secret.expose().len() < WEBHOOK_SECRET_MIN_BYTES) {
        let problem = format!("a webhook secret has fewer than {WEBHOOK_SECRET_MIN_BYTES} characters");
        report.warning(&section, problem);
    }
    let padded = provider.secrets.values().chain(&provider.webhook_secrets).any(has_outer_whitespace);
    if padded {
        report.warning(&section, "a secret begins or ends with whitespace: probably copied along with it");
    }
    if sound {
        report.fine(&section, format!("{} live webhook secret(s)", provider.webhook_secrets.len()));
    }
}

/// `own_limit` is the provider's own, bytes. Raised for all, a limit would be expected to be.
pub(super) fn check_body_limit(config: &Config, provider: &ProviderConfig, own_limit: usize, report: &mut Report) {
    let is_raised = config.settings.iter().any(|setting| {
        (setting.section.as_str(), setting.key.as_str()) == ("server", "max_body_bytes")
            && setting.source != SettingSource::Default
            && config.server.max_body_bytes > own_limit
    });
    let limit = config.server.max_webhook_bytes(provider.max_body_bytes, own_limit);
    if is_raised && provider.max_body_bytes.is_none() {
        let section = format!("providers.{}", provider.slug);
        report.warning(
            &section,
            format!("larger webhooks than {limit} bytes are refused: server.max_body_bytes does not raise that, {section}.max_body_bytes does"),
        );
    }
}

/// A provider that lacks a setting receives webhooks all the same, so this is no mistake.
pub fn check_connecting(registry: &Registry, report: &mut Report) {
    for registered in Registry::built_in() {
        if let Some(Err(missing)) = registry.find_connector(registered.spec.slug) {
            let section = format!("providers.{}", registered.spec.slug);
            report.warning(section, format!("webhooks are received, but nobody can connect: {missing}"));
        }
    }
}

fn has_outer_whitespace(secret: &Secret) -> bool {
    let text = secret.expose();
    // A private key ends with a line end, rightly.
    let is_pem = text.starts_with(b"-----BEGIN");
    !is_pem && text.trim_ascii().len() != text.len()
}
