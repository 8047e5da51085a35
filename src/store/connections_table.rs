//! `impl ConnectionStore`, written once for both backends: a table of operations and the queries that answer them.
//!
//! **Owns** nothing but the table; `backend.rs` has what each kind of operation means. **Must not know** SQL.

/// Implements [`super::ConnectionStore`] for a backend.
macro_rules! impl_connection_store {
    ($store:ident) => {
        impl_operations! { ConnectionStore for $store {}
            lookups {}
            reads {
                find_ended_installation(provider: ProviderSlug, external_id: &ExternalId, org: Option<&OrgId>)
                    -> Option<Installation> = installations::find_ended;
                find_visible_resources(installation: &InstallationId) -> Option<Vec<ProviderResourceId>>
                    = installations::find_visible;
                find_provider_health(installation: &InstallationId) -> Option<Value> = installations::find_health;
                find_rhythm(installation: &InstallationId, limit: u32) -> Option<Rhythm> = events::find_rhythm;
                find_token(installation: &InstallationId) -> Option<SealedToken> = tokens::find;
                list_expiring_tokens(provider: ProviderSlug, before: EpochMs, now: EpochMs, limit: u32)
                    -> Vec<InstallationId> = tokens::list_expiring;
                find_flow(state: &TokenHash) -> Option<OAuthFlow> = flows::find;
                find_teardown(installation: &InstallationId) -> Option<Teardown> = teardowns::find;
                list_due_teardowns(now: EpochMs, limit: u32) -> Vec<InstallationId> = teardowns::list_due;
                find_backfill_run(id: &BackfillRunId) -> Option<BackfillRun> = backfill_runs::find;
                list_backfill_runs(installation: &InstallationId, page: PageRequest<'_>) -> Page<BackfillRun>
                    = backfill_runs::list;
                list_heal_runs(provider: Option<&str>, page: PageRequest<'_>) -> Page<HealRun> = heal_runs::list;
                list_received(provider: ProviderSlug, ids: &[ProviderDeliveryId]) -> Vec<ProviderDeliveryId>
                    = events::list_received;
                list_sealed(after: Option<&SealedCursor>, limit: u32) -> Vec<SealedValue> = sealed::list;
            }
            snapshots {}
            writes {
                insert_connection(installation: &Installation, token: Option<&SealedToken>, entry: &LogEntry) -> ()
                    = installations::insert;
                save_visible_resources(installation: &InstallationId, resources: &[ProviderResourceId], at: EpochMs)
                    -> () = installations::save_visible;
                save_provider_health(installation: &InstallationId, health: Option<&Value>) -> ()
                    = installations::save_health;
                claim_token_refresh(
                    installation: &InstallationId, generation: u64, owner: &str, now: EpochMs, until: EpochMs
                ) -> bool = tokens::claim_refresh;
                save_refreshed_token(token: &SealedToken, owner: &str) -> bool = tokens::save_refreshed;
                release_token_refresh(installation: &InstallationId, owner: &str) -> () = tokens::release_refresh;
                insert_flow(flow: &OAuthFlow, entry: Option<&LogEntry>) -> () = flows::insert;
                bind_flow(state: &TokenHash, provider: ProviderSlug, cookie: &TokenHash, now: EpochMs)
                    -> Option<OAuthFlow> = flows::bind;
                take_flow(state: &TokenHash, provider: ProviderSlug, cookie: &TokenHash, now: EpochMs)
                    -> Option<OAuthFlow> = flows::take;
                finish_flow(root: &TokenHash, outcome: &FlowOutcome, now: EpochMs, keep_until: EpochMs) -> ()
                    = flows::finish;
                claim_teardown(installation: &InstallationId, owner: &str, now: EpochMs, until: EpochMs)
                    -> Option<Teardown> = teardowns::claim;
                record_teardown(teardown: &Teardown, owner: &str) -> bool = teardowns::record;
                save_backfill_run(run: &BackfillRun, entry: Option<&LogEntry>) -> bool = backfill_runs::save;
                cancel_backfill_runs(installation: &InstallationId, now: EpochMs) -> u64 = backfill_runs::cancel;
                begin_heal_run(run: &HealRun, stale_before: EpochMs) -> bool = heal_runs::begin;
                save_heal_run(run: &HealRun) -> () = heal_runs::save;
                replace_sealed(value: &SealedValue, by: &str) -> bool = sealed::replace;
            }
        }
    };
}
