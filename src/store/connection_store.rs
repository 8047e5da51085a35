//! The store's operations on what connections are made of: tokens, OAuth flows, teardowns, backfill and heal runs.

use async_trait::async_trait;
use serde_json::Value;

use super::{Page, PageRequest, StoreError, StoreResult};
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
        _installation: &Installation,
        _token: Option<&SealedToken>,
        _entry: &LogEntry,
    ) -> StoreResult<()> {
        unwritten()
    }

    /// The org's newest revoked row with this external id: reconnecting revives it.
    async fn find_ended_installation(
        &self,
        _provider: ProviderSlug,
        _external_id: &ExternalId,
        _org: &OrgId,
    ) -> StoreResult<Option<Installation>> {
        unwritten()
    }

    /// Keeps what the last look at the provider showed, and when.
    async fn save_visible_resources(
        &self,
        _installation: &InstallationId,
        _resources: &[ProviderResourceId],
        _at: EpochMs,
    ) -> StoreResult<()> {
        unwritten()
    }

    /// What the last look at the provider showed; `None` if nobody looked yet.
    async fn find_visible_resources(
        &self,
        _installation: &InstallationId,
    ) -> StoreResult<Option<Vec<ProviderResourceId>>> {
        unwritten()
    }

    /// Keeps what is known of the provider's side of an installation (a small JSON object; `None` for nothing).
    /// Changes neither `updated_at` nor anything that routes.
    async fn save_provider_health(&self, _installation: &InstallationId, _health: Option<&Value>) -> StoreResult<()> {
        unwritten()
    }

    /// What was kept by [`Self::save_provider_health`].
    async fn find_provider_health(&self, _installation: &InstallationId) -> StoreResult<Option<Value>> {
        unwritten()
    }

    /// The rhythm of the newest `limit` events of an installation; `None` with fewer than two.
    async fn find_rhythm(&self, _installation: &InstallationId, _limit: u32) -> StoreResult<Option<Rhythm>> {
        unwritten()
    }

    // --- tokens ---------------------------------------------------------------------------------------------------

    /// An installation's token.
    async fn find_token(&self, _installation: &InstallationId) -> StoreResult<Option<SealedToken>> {
        unwritten()
    }

    /// Claims the right to refresh a token: only if it is still of this generation and nobody's claim on it is live.
    async fn claim_token_refresh(
        &self,
        _installation: &InstallationId,
        _generation: u64,
        _owner: &str,
        _now: EpochMs,
        _until: EpochMs,
    ) -> StoreResult<bool> {
        unwritten()
    }

    /// Writes a refreshed token, one generation above the one it came from, and ends the claim; false, with nothing
    /// written, if the row is gone, of another generation, or claimed by somebody else.
    async fn save_refreshed_token(&self, _token: &SealedToken, _owner: &str) -> StoreResult<bool> {
        unwritten()
    }

    /// Gives a claim back after the provider said no, so that nobody waits for it.
    async fn release_token_refresh(&self, _installation: &InstallationId, _owner: &str) -> StoreResult<()> {
        unwritten()
    }

    /// Active installations whose token has a refresh token and expires before `before`, soonest first; those with a
    /// live claim are left out.
    async fn list_expiring_tokens(
        &self,
        _before: EpochMs,
        _now: EpochMs,
        _limit: u32,
    ) -> StoreResult<Vec<InstallationId>> {
        unwritten()
    }

    // --- OAuth flows ------------------------------------------------------------------------------------------------

    /// Inserts a leg of a flow.
    async fn insert_flow(&self, _flow: &OAuthFlow) -> StoreResult<()> {
        unwritten()
    }

    /// The flow of that state, whatever its status and age.
    async fn find_flow(&self, _state: &TokenHash) -> StoreResult<Option<OAuthFlow>> {
        unwritten()
    }

    /// Binds a flow to the browser that opens it: only if its state is neither taken nor expired, and no other browser
    /// has opened it.
    async fn bind_flow(
        &self,
        _state: &TokenHash,
        _provider: ProviderSlug,
        _cookie: &TokenHash,
        _now: EpochMs,
    ) -> StoreResult<Option<OAuthFlow>> {
        unwritten()
    }

    /// Takes a state, once: one statement decides among any number of concurrent callbacks. Only if it is this
    /// provider's, this browser's, and neither taken nor expired.
    async fn take_flow(
        &self,
        _state: &TokenHash,
        _provider: ProviderSlug,
        _cookie: &TokenHash,
        _now: EpochMs,
    ) -> StoreResult<Option<OAuthFlow>> {
        unwritten()
    }

    /// Writes how a flow ended to the row of its first leg (`root`), to be kept until `keep_until`.
    async fn finish_flow(
        &self,
        _root: &TokenHash,
        _outcome: &FlowOutcome,
        _now: EpochMs,
        _keep_until: EpochMs,
    ) -> StoreResult<()> {
        unwritten()
    }

    // --- teardowns --------------------------------------------------------------------------------------------------

    /// The teardown of an installation: its cursor or its receipt.
    async fn find_teardown(&self, _installation: &InstallationId) -> StoreResult<Option<Teardown>> {
        unwritten()
    }

    /// Running teardowns that are due, the longest due first.
    async fn list_due_teardowns(&self, _now: EpochMs, _limit: u32) -> StoreResult<Vec<InstallationId>> {
        unwritten()
    }

    /// Leases a running teardown that is due until `until`.
    async fn claim_teardown(
        &self,
        _installation: &InstallationId,
        _owner: &str,
        _now: EpochMs,
        _until: EpochMs,
    ) -> StoreResult<Option<Teardown>> {
        unwritten()
    }

    /// Writes the progress of a leased teardown (steps, status, times, and the lease as `teardown` has it); false, with
    /// nothing written, if `owner` no longer has the lease.
    async fn record_teardown(&self, _teardown: &Teardown, _owner: &str) -> StoreResult<bool> {
        unwritten()
    }

    // --- backfill runs ----------------------------------------------------------------------------------------------

    /// Inserts or replaces a run.
    async fn save_backfill_run(&self, _run: &BackfillRun) -> StoreResult<()> {
        unwritten()
    }

    /// One run.
    async fn find_backfill_run(&self, _id: &BackfillRunId) -> StoreResult<Option<BackfillRun>> {
        unwritten()
    }

    /// The runs of an installation, newest first.
    async fn list_backfill_runs(
        &self,
        _installation: &InstallationId,
        _page: PageRequest<'_>,
    ) -> StoreResult<Page<BackfillRun>> {
        unwritten()
    }

    /// Ends an installation's open runs as `cancelled`; answers how many.
    async fn cancel_backfill_runs(&self, _installation: &InstallationId, _now: EpochMs) -> StoreResult<u64> {
        unwritten()
    }

    // --- gap healing ------------------------------------------------------------------------------------------------

    /// Begins a run unless one of the same provider is running and changed after `stale_before`; an older running one
    /// becomes `failed`.
    async fn begin_heal_run(&self, _run: &HealRun, _stale_before: EpochMs) -> StoreResult<bool> {
        unwritten()
    }

    /// Writes a run's progress.
    async fn save_heal_run(&self, _run: &HealRun) -> StoreResult<()> {
        unwritten()
    }

    /// The newest runs, newest first.
    async fn list_heal_runs(&self, _provider: Option<&str>, _page: PageRequest<'_>) -> StoreResult<Page<HealRun>> {
        unwritten()
    }

    /// Which of these provider delivery ids have an event.
    async fn list_received(
        &self,
        _provider: ProviderSlug,
        _ids: &[ProviderDeliveryId],
    ) -> StoreResult<Vec<ProviderDeliveryId>> {
        unwritten()
    }

    // --- the vault's records ------------------------------------------------------------------------------------------

    /// Every sealed value of the next `limit` rows after `after`, over all tables that hold any; empty at the end. The
    /// cursor of the next call is the last value's table and row.
    async fn list_sealed(&self, _after: Option<&SealedCursor>, _limit: u32) -> StoreResult<Vec<SealedValue>> {
        unwritten()
    }

    /// Replaces a sealed value by another, only if it is still the one given; false if it has changed or gone.
    async fn replace_sealed(&self, _value: &SealedValue, _by: &str) -> StoreResult<bool> {
        unwritten()
    }
}

fn unwritten<T>() -> StoreResult<T> {
    Err(StoreError::Unavailable("this operation is not written yet".into()))
}
