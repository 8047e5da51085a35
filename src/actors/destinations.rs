//! Destinations: where an org wants its envelopes, and the secrets that sign them.
//!
//! **Owns** the writing of destination rows: checks, sealing, rotation, and telling everybody who delivers. Plain async
//! functions; no actor is needed, because a row is written whole, and only over what was read of it. **Invariants**: a
//! secret leaves here in the clear exactly once, to whoever created or rotated it, and signs from then on; what is stored is
//! sealed for its row and column. **Must not know** HTTP or who may do what.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    actors::{
        directory::Directory,
        dispatcher::{DispatcherHandle, TestAnswer},
    },
    delivery::{
        destination::{as_written, validate_headers, validate_url},
        sign::SigningSecret,
    },
    model::{
        clock::{Clock, EpochMs, Ids},
        destination::{Destination, DestinationScope},
        error_kind::ErrorKind,
        ids::{DestinationId, OrgId},
        log_entry::{Actor, LogEntry},
        secret::Secret,
    },
    store::{Page, PageRequest, SharedStore, StoreError},
    vault::{SealedAt, Vault, VaultError},
};

/// How long the secret before a rotation goes on signing beside the new one.
pub const ROTATION_OVERLAP: Duration = Duration::from_hours(24);

/// How often a row is read and written before other writers of the same one are given up on.
const MAX_WRITES: usize = 5;

const TABLE: &str = "gw_destinations";

/// Where the signing secret of a destination is sealed.
pub fn secret_place(id: &DestinationId) -> SealedAt<'_> {
    SealedAt { table: TABLE, row: id.as_str(), column: "secret" }
}

/// Where the signing secret before the last rotation is sealed.
pub fn previous_secret_place(id: &DestinationId) -> SealedAt<'_> {
    SealedAt { table: TABLE, row: id.as_str(), column: "previous_secret" }
}

/// Where the extra headers of a destination are sealed: a JSON object of texts.
pub fn headers_place(id: &DestinationId) -> SealedAt<'_> {
    SealedAt { table: TABLE, row: id.as_str(), column: "headers" }
}

/// What a destination serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedScope {
    /// Whose.
    pub org: OrgId,
    /// An integration, a workspace or the org.
    pub scope: DestinationScope,
    /// Which.
    pub scope_id: String,
}

/// A destination as people see it: no secret, and of its headers the names only.
#[derive(Debug, Clone)]
pub struct DestinationView {
    /// Its row.
    pub destination: Destination,
    /// The names of its extra headers.
    pub header_names: Vec<String>,
}

/// A destination that was put.
#[derive(Debug)]
pub struct PutDestination {
    /// As it is now.
    pub view: DestinationView,
    /// The signing secret, if the destination is new.
    pub secret: Option<Secret>,
}

/// A secret that was rotated.
#[derive(Debug)]
pub struct RotatedSecret {
    /// The destination as it is now: until when the old secret signs as well is in its row.
    pub view: DestinationView,
    /// The new secret.
    pub secret: Secret,
}

/// Why a destination could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum DestinationsError {
    /// There is none for this scope.
    #[error("no such destination")]
    NotFound,
    /// Its URL is refused.
    #[error("the URL is refused: {0}")]
    UrlRefused(String),
    /// One of its headers is refused.
    #[error("a header is refused: {0}")]
    HeaderRefused(String),
    /// What is sealed does not open, or cannot be sealed.
    #[error("sealing: {0}")]
    Sealing(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DestinationsError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::UrlRefused(_) => "invalid_destination_url",
            Self::HeaderRefused(_) => "invalid_destination_header",
            Self::Sealing(_) => "internal_error",
            Self::Store(error) => error.code(),
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::UrlRefused(_) | Self::HeaderRefused(_) => ErrorKind::BadRequest,
            Self::Sealing(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

impl From<VaultError> for DestinationsError {
    fn from(error: VaultError) -> Self {
        Self::Sealing(error.to_string())
    }
}

/// What destinations need of the other rooms.
pub struct DestinationsDeps {
    /// The rows.
    pub store: SharedStore,
    /// Seals and opens.
    pub vault: Arc<Vault>,
    /// New ids.
    pub ids: Ids,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Readdresses deliveries and tells routes and dispatcher.
    pub directory: Directory,
    /// Sends test envelopes.
    pub dispatcher: DispatcherHandle,
    /// `delivery.allow_private_networks`
    pub allow_private_networks: bool,
}

/// Writes and reads destinations.
#[derive(Clone)]
pub struct DestinationsHandle {
    shared: Arc<Shared>,
}

struct Shared {
    deps: DestinationsDeps,
    /// One writer at a time in this process, so that only other nodes make a write be repeated.
    writing: tokio::sync::Mutex<()>,
}

impl DestinationsHandle {
    /// A handle over these.
    pub fn new(deps: DestinationsDeps) -> Self {
        Self { shared: Arc::new(Shared { deps, writing: tokio::sync::Mutex::new(()) }) }
    }

    fn deps(&self) -> &DestinationsDeps {
        &self.shared.deps
    }

    /// The destination of exactly this scope.
    ///
    /// # Errors
    /// [`DestinationsError`] if the store fails or the headers do not open.
    pub async fn find(&self, of: &ServedScope) -> Result<Option<DestinationView>, DestinationsError> {
        self.find_row(of).await?.map(|row| self.view(row)).transpose()
    }

    /// An org's destinations, of every scope, oldest first.
    ///
    /// # Errors
    /// [`DestinationsError`] if the store fails or headers do not open.
    pub async fn list(
        &self,
        org: &OrgId,
        request: PageRequest<'_>,
    ) -> Result<Page<DestinationView>, DestinationsError> {
        let page = self.deps().store.list_destinations_page(org, request).await?;
        let items = page.items.into_iter().map(|row| self.view(row)).collect::<Result<_, _>>()?;
        Ok(Page { items, next_cursor: page.next_cursor })
    }

    /// Looks at a URL and headers that somebody wants to set; the URL as it is written down.
    ///
    /// # Errors
    /// [`DestinationsError`] if the URL or a header is refused.
    pub fn check(&self, url: &str, headers: &BTreeMap<String, String>) -> Result<String, DestinationsError> {
        let checked = validate_url(url, self.deps().allow_private_networks)
            .map_err(|why| DestinationsError::UrlRefused(why.to_string()))?;
        validate_headers(headers).map_err(|why| DestinationsError::HeaderRefused(why.to_string()))?;
        Ok(as_written(url, &checked))
    }

    /// Creates or replaces the destination of this scope. A replaced one keeps its secret, loses the headers that are
    /// not given again, and is in use again if it was disabled.
    ///
    /// # Errors
    /// [`DestinationsError`] if the URL or a header is refused, or the vault or the store fails.
    pub async fn put(
        &self,
        of: &ServedScope,
        url: &str,
        headers: BTreeMap<String, String>,
        actor: &Actor,
    ) -> Result<PutDestination, DestinationsError> {
        let url = self.check(url, &headers)?;
        let _writing = self.shared.writing.lock().await;
        for _write in 0..MAX_WRITES {
            let now = self.deps().clock.now();
            let seen = self.find_row(of).await?;
            let (row, secret, action) = if let Some(seen) = &seen {
                let row = Destination {
                    url: url.clone(),
                    headers_sealed: self.seal_headers(&seen.id, &headers)?,
                    disabled_reason: None,
                    failing_since: None,
                    updated_at: now,
                    ..seen.clone()
                };
                (row, None, "destination.replaced")
            } else {
                let (row, secret) = self.new_row(of, &url, &headers, now)?;
                (row, Some(secret), "destination.created")
            };
            if self.save(&row, seen.as_ref(), action, actor).await? {
                let header_names = headers.into_keys().collect();
                return Ok(PutDestination { view: DestinationView { destination: row, header_names }, secret });
            }
        }
        Err(written_elsewhere().into())
    }

    fn new_row(
        &self,
        of: &ServedScope,
        url: &str,
        headers: &BTreeMap<String, String>,
        now: EpochMs,
    ) -> Result<(Destination, Secret), DestinationsError> {
        let secret = fresh_secret()?;
        let id = self.deps().ids.destination();
        let row = Destination {
            headers_sealed: self.seal_headers(&id, headers)?,
            secret_sealed: self.deps().vault.seal(secret_place(&id), secret.expose())?,
            id,
            org: of.org.clone(),
            scope: of.scope,
            scope_id: of.scope_id.clone(),
            url: url.to_owned(),
            previous_secret_sealed: None,
            previous_until: None,
            disabled_reason: None,
            failing_since: None,
            created_at: now,
            updated_at: now,
        };
        Ok((row, secret))
    }

    /// Writes a row over the one that was seen, and tells everybody. False if that one is another by now: a node beside this
    /// one wrote it, or found out how it fares.
    async fn save(
        &self,
        row: &Destination,
        seen: Option<&Destination>,
        action: &str,
        actor: &Actor,
    ) -> Result<bool, StoreError> {
        let saved = self.deps().store.save_destination(row, seen, &self.entry(row, action, actor)).await?;
        if saved {
            self.tell(&row.org, row.updated_at).await;
        }
        Ok(saved)
    }

    /// Deletes the destination of this scope: its deliveries go where the wider scope says.
    ///
    /// # Errors
    /// [`DestinationsError::NotFound`] if there is none; or the store fails.
    pub async fn delete(&self, of: &ServedScope, actor: &Actor) -> Result<DestinationId, DestinationsError> {
        let _writing = self.shared.writing.lock().await;
        let row = self.find_row(of).await?.ok_or(DestinationsError::NotFound)?;
        let entry = self.entry(&row, "destination.deleted", actor);
        if !self.deps().store.delete_destination(&row.id, &entry).await? {
            return Err(DestinationsError::NotFound);
        }
        self.tell(&of.org, self.deps().clock.now()).await;
        Ok(row.id)
    }

    /// Gives the destination of this scope a new secret; the old one signs beside it for [`ROTATION_OVERLAP`].
    ///
    /// # Errors
    /// [`DestinationsError::NotFound`] if there is none; or the vault or the store fails.
    pub async fn rotate_secret(&self, of: &ServedScope, actor: &Actor) -> Result<RotatedSecret, DestinationsError> {
        let _writing = self.shared.writing.lock().await;
        let vault = &self.deps().vault;
        for _write in 0..MAX_WRITES {
            let now = self.deps().clock.now();
            let seen = self.find_row(of).await?.ok_or(DestinationsError::NotFound)?;
            let old = vault.open(secret_place(&seen.id), &seen.secret_sealed)?;
            let secret = fresh_secret()?;
            let row = Destination {
                previous_secret_sealed: Some(vault.seal(previous_secret_place(&seen.id), old.expose())?),
                previous_until: Some(now.plus(ROTATION_OVERLAP)),
                secret_sealed: vault.seal(secret_place(&seen.id), secret.expose())?,
                updated_at: now,
                ..seen.clone()
            };
            if self.save(&row, Some(&seen), "destination.secret_rotated", actor).await? {
                return Ok(RotatedSecret { view: self.view(row)?, secret });
            }
        }
        Err(written_elsewhere().into())
    }

    /// Sends a signed test envelope to the destination of this scope, once.
    ///
    /// # Errors
    /// [`DestinationsError::NotFound`] if there is none; or the store fails.
    pub async fn send_test(&self, of: &ServedScope, correlation_id: &str) -> Result<TestAnswer, DestinationsError> {
        let row = self.find_row(of).await?.ok_or(DestinationsError::NotFound)?;
        self.deps().dispatcher.send_test(&row.id, correlation_id).await.ok_or(DestinationsError::NotFound)
    }

    async fn find_row(&self, of: &ServedScope) -> Result<Option<Destination>, StoreError> {
        self.deps().store.find_destination_of(&of.org, of.scope, &of.scope_id).await
    }

    fn view(&self, destination: Destination) -> Result<DestinationView, DestinationsError> {
        let header_names = match &destination.headers_sealed {
            None => Vec::new(),
            Some(sealed) => {
                let opened = self.deps().vault.open(headers_place(&destination.id), sealed)?;
                let headers: BTreeMap<String, String> = serde_json::from_slice(opened.expose())
                    .map_err(|_| DestinationsError::Sealing("sealed headers are not an object of texts".into()))?;
                headers.into_keys().collect()
            }
        };
        Ok(DestinationView { destination, header_names })
    }

    fn seal_headers(
        &self,
        id: &DestinationId,
        headers: &BTreeMap<String, String>,
    ) -> Result<Option<String>, DestinationsError> {
        if headers.is_empty() {
            return Ok(None);
        }
        let json = serde_json::to_vec(headers).map_err(|error| DestinationsError::Sealing(error.to_string()))?;
        Ok(Some(self.deps().vault.seal(headers_place(id), &json)?))
    }

    /// The row is committed and its secret may be about to be shown for the only time: whoever cannot be told now
    /// hears of it from the store, so this is not a reason to fail.
    async fn tell(&self, org: &OrgId, now: EpochMs) {
        if let Err(error) = self.deps().directory.destinations_changed(org, now).await {
            tracing::warn!(org.id = %org, %error, "a change of destinations was not spread at once");
        }
    }

    fn entry(&self, row: &Destination, action: &str, actor: &Actor) -> LogEntry {
        LogEntry {
            org: Some(row.org.clone()),
            subject: Some(row.id.to_string()),
            reason: Some(format!("{}:{}", row.scope, row.scope_id)),
            ..LogEntry::new(self.deps().ids.log(), action, actor.clone(), self.deps().clock.now())
        }
    }
}

fn written_elsewhere() -> StoreError {
    StoreError::Unavailable("the same destination is being written elsewhere".into())
}

fn fresh_secret() -> Result<Secret, DestinationsError> {
    let text = SigningSecret::generate().to_text();
    Secret::new(text.as_bytes()).ok_or_else(|| DestinationsError::Sealing("an empty secret was generated".into()))
}
