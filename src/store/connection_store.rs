//! The store's operations on what connections are made of: tokens, OAuth flows, teardowns, backfill and heal runs.

use async_trait::async_trait;
use serde_json::Value;

use super::{Page, PageRequest, StoreResult};
use crate::model::{
    backfill_run::BackfillRun,
    clock::EpochMs,
    heal_run::HealRun,
    ids::{BackfillRunId, InstallationId, OrgId},
    installation::Installation,
    log_entry::LogEntry,
    oauth_flow::{FlowOutcome, OAuthFlow, TokenHash},
    provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug},
    teardown::Teardown,
    token::SealedToken,
};

/// A sealed value and where it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedValue {
    /// The table.
    pub table: &'static str,
    /// The row's id.
    pub row: String,
    /// The name the value was sealed under: the associated data's column.
    pub column: &'static str,
    /// The sealed value.
    pub sealed: String,
}

/// Where a walk over every sealed value has come to: the last row read of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedCursor {
    /// The table.
    pub table: &'static str,
    /// The row's id.
    pub row: String,
}

/// How often an installation's events come, judged by the newest of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// How many events were looked at; at least 2.
    pub events: u32,
    /// When the oldest of them arrived.
    pub oldest: EpochMs,
    /// When the newest arrived.
    pub newest: EpochMs,
}

/// What connections are made of. Part of [`super::Store`].
#[async_trait]
pub trait ConnectionStore: Send + Sync + 'static {
    // --- installations ------------------------------------------------------------------------------------------

    /// Inserts an installation, with its token where it has one, and its first log entry; `NotUnique` when a row that
    /// is not revoked has the same provider and external id.
    async fn insert_connection(
        &self,
        installation: &Installation,
        token: Option<&SealedToken>,
        entry: &LogEntry,
    ) -> StoreResult<()>;

    /// The newest revoked row with this external id, of one org (reconnecting revives it) or of any.
    async fn find_ended_installation(
        &self,
        provider: ProviderSlug,
        external_id: &ExternalId,
        org: Option<&OrgId>,
    ) -> StoreResult<Option<Installation>>;

    /// Keeps what the last look at the provider showed, and when.
    async fn save_visible_resources(
        &self,
        installation: &InstallationId,
        resources: &[ProviderResourceId],
        at: EpochMs,
    ) -> StoreResult<()>;

    /// What the last look at the provider showed; `None` if nobody looked yet.
    async fn find_visible_resources(
        &self,
        installation: &InstallationId,
    ) -> StoreResult<Option<Vec<ProviderResourceId>>>;

    /// Keeps what is known of the provider's side of an installation (a small JSON object; `None` for nothing).
    /// Changes neither `updated_at` nor anything that routes.
    async fn save_provider_health(&self, installation: &InstallationId, health: Option<&Value>) -> StoreResult<()>;

    /// What was kept by [`Self::save_provider_health`].
    async fn find_provider_health(&self, installation: &InstallationId) -> StoreResult<Option<Value>>;

    /// The rhythm of the newest `limit` events of an installation; `None` with fewer than two.
    async fn find_rhythm(&self, installation: &InstallationId, limit: u32) -> StoreResult<Option<Rhythm>>;

    // --- tokens ---------------------------------------------------------------------------------------------------

    /// An installation's token.
    async fn find_token(&self, installation: &InstallationId) -> StoreResult<Option<SealedToken>>;

    /// Claims the right to refresh a token: only if it is still of this generation and nobody's claim on it is live. On
    /// PostgreSQL the claim lasts as long by the server's clock, which is the one that claims are judged by.
    async fn claim_token_refresh(
        &self,
        installation: &InstallationId,
        generation: u64,
        owner: &str,
        now: EpochMs,
        until: EpochMs,
    ) -> StoreResult<bool>;

    /// Writes a refreshed token and ends the claim. `token` is the row as it will be: its generation is one above that of
    /// the token it was refreshed from; `claim` and `created_at` are not looked at. False, with nothing written, if the
    /// row is gone, of another generation than the one below, or not claimed by `owner`.
    async fn save_refreshed_token(&self, token: &SealedToken, owner: &str) -> StoreResult<bool>;

    /// Gives a claim back after the provider said no, so that nobody waits for it.
    async fn release_token_refresh(&self, installation: &InstallationId, owner: &str) -> StoreResult<()>;

    /// A provider's active installations whose token has a refresh token and expires before `before`: soonest first, but
    /// those that have ended last; those with a live claim are left out.
    async fn list_expiring_tokens(
        &self,
        provider: ProviderSlug,
        before: EpochMs,
        now: EpochMs,
        limit: u32,
    ) -> StoreResult<Vec<InstallationId>>;

    // --- OAuth flows ------------------------------------------------------------------------------------------------

    /// Inserts a leg of a flow, with the log entry that says who began it if it is the first.
    async fn insert_flow(&self, flow: &OAuthFlow, entry: Option<&LogEntry>) -> StoreResult<()>;

    /// The flow of that state, whatever its status and age.
    async fn find_flow(&self, state: &TokenHash) -> StoreResult<Option<OAuthFlow>>;

    /// Binds a flow to the browser that opens it: only if its state is neither taken nor expired, and no other browser
    /// has opened it.
    async fn bind_flow(
        &self,
        state: &TokenHash,
        provider: ProviderSlug,
        cookie: &TokenHash,
        now: EpochMs,
    ) -> StoreResult<Option<OAuthFlow>>;

    /// Takes a state, once: one statement decides among any number of concurrent callbacks. Only if it is this
    /// provider's, this browser's, and neither taken nor expired.
    async fn take_flow(
        &self,
        state: &TokenHash,
        provider: ProviderSlug,
        cookie: &TokenHash,
        now: EpochMs,
    ) -> StoreResult<Option<OAuthFlow>>;

    /// Writes how a flow ended to the row of its first leg (`root`), to be kept until `keep_until`. One that goes on
    /// waiting for an approval has an outcome and no end.
    async fn finish_flow(
        &self,
        root: &TokenHash,
        outcome: &FlowOutcome,
        now: EpochMs,
        keep_until: EpochMs,
    ) -> StoreResult<()>;

    // --- teardowns --------------------------------------------------------------------------------------------------

    /// The teardown of an installation: its cursor or its receipt.
    async fn find_teardown(&self, installation: &InstallationId) -> StoreResult<Option<Teardown>>;

    /// Running teardowns that are due, the longest due first.
    async fn list_due_teardowns(&self, now: EpochMs, limit: u32) -> StoreResult<Vec<InstallationId>>;

    /// Leases a running teardown that is due until `until`.
    async fn claim_teardown(
        &self,
        installation: &InstallationId,
        owner: &str,
        now: EpochMs,
        until: EpochMs,
    ) -> StoreResult<Option<Teardown>>;

    /// Writes the progress of a leased teardown (steps, status, times, and the lease as `teardown` has it); false, with
    /// nothing written, if `owner` no longer has the lease or something else ended it.
    async fn record_teardown(&self, teardown: &Teardown, owner: &str) -> StoreResult<bool>;

    // --- backfill runs ----------------------------------------------------------------------------------------------

    /// Inserts a run, or replaces what may change of it; whose it is and when it was made stay. False, with nothing
    /// written, if it has ended otherwise meanwhile. Mere progress has no log entry.
    async fn save_backfill_run(&self, run: &BackfillRun, entry: Option<&LogEntry>) -> StoreResult<bool>;

    /// One run.
    async fn find_backfill_run(&self, id: &BackfillRunId) -> StoreResult<Option<BackfillRun>>;

    /// The runs of an installation, newest first.
    async fn list_backfill_runs(
        &self,
        installation: &InstallationId,
        page: PageRequest<'_>,
    ) -> StoreResult<Page<BackfillRun>>;

    /// Ends an installation's open runs as `cancelled`; answers how many.
    async fn cancel_backfill_runs(&self, installation: &InstallationId, now: EpochMs) -> StoreResult<u64>;

    // --- gap healing ------------------------------------------------------------------------------------------------

    /// Begins a run unless one of the same provider is running and changed after `stale_before`; an older running one
    /// becomes `failed` (`abandoned`).
    async fn begin_heal_run(&self, run: &HealRun, stale_before: EpochMs) -> StoreResult<bool>;

    /// Writes a run's progress; nothing happens if it is not running any more, or is another node's.
    async fn save_heal_run(&self, run: &HealRun) -> StoreResult<()>;

    /// The newest runs, newest first.
    async fn list_heal_runs(&self, provider: Option<&str>, page: PageRequest<'_>) -> StoreResult<Page<HealRun>>;

    /// Which of these provider delivery ids have an event.
    async fn list_received(
        &self,
        provider: ProviderSlug,
        ids: &[ProviderDeliveryId],
    ) -> StoreResult<Vec<ProviderDeliveryId>>;

    // --- the vault's records ------------------------------------------------------------------------------------------

    /// Every sealed value of the next `limit` rows after `after`, over all tables that hold any; empty at the end. The
    /// cursor of the next call is the last value's table and row; a row's values come together.
    async fn list_sealed(&self, after: Option<&SealedCursor>, limit: u32) -> StoreResult<Vec<SealedValue>>;

    /// Replaces a sealed value by another, only if it is still the one given; false if it has changed or gone.
    async fn replace_sealed(&self, value: &SealedValue, by: &str) -> StoreResult<bool>;
}
