//! `impl Store`, written once for both backends: a table of operations and the queries that answer them.
//!
//! **Owns** the transaction around each operation and the time it may take. **Invariants**: a write commits before it
//! answers; nothing waits for ever on a database that does not answer. **Must not know** SQL.
//!
//! A backend has the fields `known`, `writer` and `home`, the connections `reading`, `snapshot` and `writing`, and
//! inherent methods for what is its own: see `sqlite/mod.rs`.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::runtime::Handle;

use super::{StoreError, StoreResult};

/// How long an operation may take on top of waiting for a connection or a lock: what a statement needs when the disk
/// is slow, and not so long that a caller would have given up.
const STATEMENT_TIME: Duration = Duration::from_secs(5);

/// How long reading everything may take.
pub(crate) const CENSUS_TIME: Duration = Duration::from_mins(5);

/// The time an operation may take: for a connection, for a lock, and for its statements.
pub(crate) fn patience(acquire_timeout: Duration) -> Duration {
    acquire_timeout.saturating_mul(2).saturating_add(STATEMENT_TIME)
}

/// Bounds an operation. One that is cut off is rolled back, or its commit was under way and its outcome is unknown:
/// either way it may be tried again.
pub(crate) async fn in_time<T>(time: Duration, operation: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
    tokio::time::timeout(time, operation)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {time:?}"))))
}

/// The runtime that opened the store, and the time an operation may take.
///
/// Whoever asks, connections are opened, waited for and given back on that runtime. A connection belongs to the runtime
/// it was opened on: one that an HTTP worker's runtime had opened would be dead for everybody else when the worker stops,
/// which is when the dispatcher still has to record its attempts.
#[derive(Debug)]
pub(crate) struct Home {
    runtime: Handle,
    patience: Duration,
}

impl Home {
    /// The runtime of the caller.
    pub(crate) fn here(patience: Duration) -> Self {
        Self { runtime: Handle::current(), patience }
    }

    /// Runs an operation on the store's runtime, for at most its patience.
    pub(crate) fn in_time<T>(
        &self,
        operation: impl Future<Output = StoreResult<T>>,
    ) -> impl Future<Output = StoreResult<T>> {
        self.within(self.patience, operation)
    }

    /// Runs an operation on the store's runtime, for at most that time.
    pub(crate) fn within<T>(
        &self,
        time: Duration,
        operation: impl Future<Output = StoreResult<T>>,
    ) -> impl Future<Output = StoreResult<T>> {
        AtHome { runtime: &self.runtime, operation: Some(Box::pin(in_time(time, operation))) }
    }
}

/// An operation that is polled, and dropped, within the store's runtime.
struct AtHome<'h, F> {
    runtime: &'h Handle,
    operation: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for AtHome<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _home = self.runtime.enter();
        // Nothing takes the operation away but the drop.
        self.operation.as_mut().map_or(Poll::Pending, |operation| operation.as_mut().poll(context))
    }
}

impl<F> Drop for AtHome<'_, F> {
    fn drop(&mut self) {
        // A connection that is given back pings its server on the way.
        let _home = self.runtime.enter();
        self.operation = None;
    }
}

/// Asks on a connection for reading, within the time of an operation.
macro_rules! on_reader {
    ($store:expr, |$db:ident| $question:expr) => {
        $store
            .home
            .in_time(async {
                let mut conn = $store.reading().await?;
                let $db = &mut Session { conn: &mut conn, known: &$store.known };
                $question
            })
            .await
    };
}

/// Changes rows in one transaction, within the time of an operation.
macro_rules! in_transaction {
    ($store:expr, |$db:ident| $change:expr) => {
        $store
            .home
            .in_time(async {
                let mut transaction = $store.writing().await?;
                let $db = &mut Session { conn: &mut transaction, known: &$store.known };
                let answer = $change?;
                transaction.commit().await?;
                Ok(answer)
            })
            .await
    };
}

/// Implements one of the store's traits for a backend: what is written out between the first braces, and
/// `operation(arguments) -> answer = query`, where a *lookup* only looks up keys (its plans are made once), a *read* has a
/// connection, a *snapshot* sees one moment across several statements, and a *write* is a transaction.
macro_rules! impl_operations {
    ($trait:ident for $store:ident { $($own:tt)* }
        lookups { $($lookup:ident($($lookup_arg:ident: $lookup_type:ty),*) -> $lookup_answer:ty = $lookup_query:path;)* }
        reads { $($read:ident($($read_arg:ident: $read_type:ty),*) -> $read_answer:ty = $read_query:path;)* }
        snapshots { $($look:ident($($look_arg:ident: $look_type:ty),*) -> $look_answer:ty = $look_query:path;)* }
        writes { $($write:ident($($write_arg:ident: $write_type:ty),*) -> $write_answer:ty = $write_query:path;)* }
    ) => {
        #[async_trait]
        impl $trait for $store {
            $($own)*

            $(async fn $lookup(&self, $($lookup_arg: $lookup_type),*) -> StoreResult<$lookup_answer> {
                self.home.in_time(async {
                    let mut conn = self.looking().await?;
                    let db = &mut Session { conn: &mut conn, known: &self.known };
                    let found = $lookup_query(db, $($lookup_arg),*).await?;
                    self.looked(conn);
                    Ok(found)
                })
                .await
            })*

            $(async fn $read(&self, $($read_arg: $read_type),*) -> StoreResult<$read_answer> {
                on_reader!(self, |db| $read_query(db, $($read_arg),*).await)
            })*

            $(async fn $look(&self, $($look_arg: $look_type),*) -> StoreResult<$look_answer> {
                self.home.in_time(async {
                    let mut moment = self.snapshot().await?;
                    $look_query(&mut Session { conn: &mut moment, known: &self.known }, $($look_arg),*).await
                })
                .await
            })*

            $(async fn $write(&self, $($write_arg: $write_type),*) -> StoreResult<$write_answer> {
                in_transaction!(self, |db| $write_query(db, $($write_arg),*).await)
            })*
        }
    };
}

/// Implements [`super::Store`] for a backend.
macro_rules! impl_store {
    ($store:ident, $word:literal) => {
        impl $store {
            async fn readdress_pile(
                &self,
                pile: &readdress::Pile,
                org: Option<&OrgId>,
                since: Option<EpochMs>,
                fallback: Option<&DestinationId>,
                now: EpochMs,
            ) -> StoreResult<u64> {
                let mut readdressed = 0;
                for _pass in 0..readdress::PASSES {
                    let (mut changed, mut steps) = (0, 0);
                    let mut from = Some(readdress::Place::first(since));
                    while let Some(place) = from {
                        let (astray, next) =
                            on_reader!(self, |db| readdress::look(db, pile, org, fallback, &place).await)?;
                        for portion in astray.chunks(readdress::PORTION) {
                            changed += in_transaction!(self, |db| readdress::change(db, portion, fallback, now).await)?;
                        }
                        steps += 1;
                        from = next;
                    }
                    readdressed += changed;
                    if changed == 0 || steps == 1 {
                        break;
                    }
                }
                Ok(readdressed)
            }

            /// Gives up all leases of an owner; of another node only while it is gone.
            async fn release_all(&self, owner: &str, is_other: bool, now: EpochMs) -> StoreResult<u64> {
                let mut released = 0;
                loop {
                    let portion = in_transaction!(self, |db| {
                        if is_other && !is_still_gone(db, owner).await? {
                            return Ok(0);
                        }
                        leases::release_some(db, owner, now).await
                    })?;
                    released += portion;
                    if portion < u64::from(leases::PORTION) {
                        return Ok(released);
                    }
                }
            }
        }

        impl_operations! { Store for $store {
            fn backend(&self) -> &'static str {
                $word
            }

            async fn ping(&self) -> StoreResult<()> {
                self.home.in_time(async {
                    self.reading().await?.ping().await?;
                    Ok(())
                })
                .await
            }

            async fn migrate(&self) -> StoreResult<u32> {
                self.apply_migrations().await
            }

            async fn count_pending_migrations(&self) -> StoreResult<u32> {
                on_reader!(self, |db| migrations::count_pending(db, &MIGRATOR).await)
            }

            async fn is_blank(&self) -> StoreResult<bool> {
                on_reader!(self, |db| Ok(migrations::list_applied(db).await?.is_empty()))
            }

            async fn check_durability(&self) -> StoreResult<()> {
                self.home.in_time(self.read_durability_settings()).await
            }

            async fn next_change(&self) -> Change {
                self.receive_change().await
            }

            fn is_present(&self) -> watch::Receiver<bool> {
                self.presence()
            }

            async fn close(&self) {
                self.writer.close().await;
                self.close_connections().await;
            }

            async fn take_census(&self) -> StoreResult<Census> {
                self.home.within(CENSUS_TIME, async {
                    let mut moment = self.snapshot().await?;
                    census::take(&mut Session { conn: &mut moment, known: &self.known }).await
                })
                .await
            }

            async fn accept_event(&self, event: NewEvent) -> StoreResult<Accepted> {
                self.writer.accept(event).await
            }

            async fn record_attempts(&self, records: Vec<AttemptRecord>) -> StoreResult<()> {
                self.writer.record(records).await
            }

            async fn claim_deliveries(&self, request: &ClaimRequest) -> StoreResult<Claimed> {
                let leased = in_transaction!(self, |db| claims::lease(db, request).await)?;
                if leased.ids.is_empty() {
                    return Ok(super::Claimed { deliveries: Vec::new(), is_all: true });
                }
                // Bodies are read after the commit, so that the writer is free meanwhile.
                let read = self.home.in_time(async {
                    let mut conn = self.reading().await?;
                    let mut db = Session { conn: &mut conn, known: &self.known };
                    let stored = claims::read_leased(&mut db, &leased.ids).await?;
                    drop(conn);
                    stored.decode().await
                })
                .await;
                if read.is_err() {
                    // Nobody will try them: let them be claimed again before the lease ends, if that works at all.
                    if let Err(error) = self.release_leases(&request.owner, Some(&leased.ids), request.now).await {
                        tracing::warn!(error = %error, "claimed deliveries wait for their leases to end");
                    }
                }
                read.map(|deliveries| super::Claimed {
                    is_all: !leased.left_some && deliveries.len() == leased.ids.len(),
                    deliveries,
                })
            }

            async fn release_leases(
                &self,
                owner: &str,
                only: Option<&[DeliveryId]>,
                now: EpochMs,
            ) -> StoreResult<u64> {
                match only {
                    Some(ids) => in_transaction!(self, |db| leases::release_these(db, owner, ids, now).await),
                    None => self.release_all(owner, false, now).await,
                }
            }

            async fn release_leases_of_the_gone(&self, owner: &str, now: EpochMs) -> StoreResult<u64> {
                let mut released = 0;
                let absent = on_reader!(self, |db| list_absent(db, owner).await)?;
                for gone in self.confirm_gone(&absent) {
                    released += self.release_all(&gone, true, now).await?;
                }
                Ok(released)
            }

            async fn readdress_deliveries(
                &self,
                which: ToReaddress<'_>,
                fallback: Option<&DestinationId>,
                now: EpochMs,
            ) -> StoreResult<u64> {
                let (org, since) = match which {
                    ToReaddress::OfOrg(org) => (Some(org), None),
                    ToReaddress::Undirected { since } => (None, since),
                };
                let mut readdressed = self.readdress_pile(&readdress::Pile::Held, org, since, fallback, now).await?;
                let piles = on_reader!(self, |db| readdress::list_pending_piles(db, org).await)?;
                for pile in &piles {
                    readdressed += self.readdress_pile(pile, org, since, fallback, now).await?;
                }
                Ok(readdressed)
            }

            async fn delete_expired_events(
                &self, cutoffs: &RetentionCutoffs, after: Option<&EventId>, limit: u32
            ) -> StoreResult<super::DeletedEvents> {
                self.home.in_time(async {
                    let mut conn = self.reading().await?;
                    let mut db = Session { conn: &mut conn, known: &self.known };
                    let (expired, looked_up_to) =
                        retention::find_expired_events(&mut db, cutoffs, after, limit).await?;
                    drop(conn);
                    if expired.len() == 0 {
                        return Ok(super::DeletedEvents { deleted: 0, looked_up_to });
                    }
                    let mut transaction = self.writing().await?;
                    let mut db = Session { conn: &mut transaction, known: &self.known };
                    let deleted = retention::delete_events(&mut db, cutoffs, &expired).await?;
                    transaction.commit().await?;
                    Ok(super::DeletedEvents { deleted, looked_up_to })
                })
                .await
            }
            }
            lookups {
                load_installation(id: &InstallationId) -> Option<InstallationRecord> = records::load;
                find_live_installation(provider: ProviderSlug, external_id: &ExternalId) -> Option<Installation>
                    = installations::find_live;
                find_installations_by_resource(provider: ProviderSlug, resource: &ProviderResourceId)
                    -> Vec<Installation> = installations::find_by_resource;
            }
            reads {
                find_installation(id: &InstallationId) -> Option<Installation> = installations::find;
                list_installations(
                    org: Option<&OrgId>, provider: Option<&str>, status: Option<InstallationStatus>,
                    page: PageRequest<'_>
                ) -> Page<Installation> = installations::list;
                list_routing_installations() -> Vec<InstallationId> = installations::list_routing;
                find_integration(id: &IntegrationId) -> Option<Integration> = integrations::find;
                list_workspace_integrations(
                    org: &OrgId, workspace: &WorkspaceId, status: Option<IntegrationStatus>
                ) -> Vec<(Integration, Resource)> = integrations::list_of_workspace;
                list_events(filter: &EventFilter, page: PageRequest<'_>) -> Found<Event> = event_search::find;
                list_events_after(org: Option<&OrgId>, after: &EventId, limit: u32) -> Vec<Event>
                    = events::list_after;
                find_event(id: &EventId) -> Option<Event> = events::find;
                find_event_by_delivery_id(provider: ProviderSlug, id: &ProviderDeliveryId) -> Option<Event>
                    = events::find_by_delivery_id;
                find_event_body(id: &EventId) -> Option<(Option<String>, Bytes)> = events::find_body;
                list_unrouted(filter: &UnroutedFilter) -> Vec<Event> = events::list_unrouted;
                list_held(installation: &InstallationId, limit: u32) -> Vec<EventId> = events::list_held;
                find_delivery(id: &DeliveryId) -> Option<(Delivery, Event)> = deliveries::find;
                list_due_destinations(now: EpochMs, after: Option<&DestinationId>, limit: u32) -> Vec<DueDestination>
                    = claims::list_due_destinations;
                list_dead_letters(org: Option<&OrgId>, provider: Option<&str>, limit: u32, offset: u32)
                    -> Vec<DeadLetter> = dead_letters::list;
                find_dead_letters(org: Option<&OrgId>, provider: &str, id: &ProviderDeliveryId) -> Vec<DeadLetter>
                    = dead_letters::find;
                find_destination(id: &DestinationId) -> Option<Destination> = destinations::find;
                find_destination_of(org: &OrgId, scope: DestinationScope, scope_id: &str) -> Option<Destination>
                    = destinations::find_of;
                list_destinations(org: &OrgId) -> Vec<Destination> = destinations::list;
                server_time() -> Option<EpochMs> = server_time;
                find_key(hash: &[u8; 32]) -> Option<ApiKey> = keys::find;
                find_session(hash: &SessionHash) -> Option<ConsoleSession> = sessions::find;
                list_keys() -> Vec<ApiKey> = keys::list;
                list_quarantined(provider: Option<&str>, page: PageRequest<'_>) -> Page<Quarantined>
                    = quarantine::list_kept;
                list_quarantined_bodies(provider: Option<&str>, after: Option<&QuarantineId>, limit: u32)
                    -> Vec<Quarantined> = quarantine::list_bodies;
                list_log(org: Option<&OrgId>, installation: Option<&InstallationId>, page: PageRequest<'_>)
                    -> Page<LogEntry> = log::list;
            }
            snapshots {
                find_event_detail(id: &EventId) -> Option<EventDetail> = events::find_detail;
                list_dead_of_installation(
                    installation: &InstallationId, since: Option<EpochMs>, until: Option<EpochMs>, limit: u32
                ) -> (Vec<DeadLetter>, u64) = dead_letters::list_of_installation;
            }
            writes {
                change_installation(id: &InstallationId, change: ChangeFn) -> Option<InstallationRecord>
                    = records::change;
                touch_last_event(
                    installations: Vec<(InstallationId, EpochMs)>, integrations: Vec<(IntegrationId, EpochMs)>
                ) -> () = installations::touch_last_event;
                release_held(events: &[EventId], now: EpochMs, entry: &LogEntry) -> u64 = events::release_held;
                reroute_event(rerouting: Rerouting) -> bool = events::reroute;
                hasten_deliveries(
                    setback: &super::Setback, after: Option<&super::BacklogPlace>, now: EpochMs
                ) -> super::Hastened = leases::hasten_some;
                retry_delivery(
                    id: &DeliveryId, fallback: Option<&DestinationId>, now: EpochMs, entry: &LogEntry
                ) -> bool = deliveries::retry;
                save_destination(
                    destination: &Destination, replaces: Option<&Destination>, entry: &LogEntry
                ) -> bool = destinations::save;
                note_destination_health(
                    id: &DestinationId, url: &str, health: DestinationHealth, now: EpochMs, entry: &LogEntry
                ) -> bool = destinations::note_health;
                delete_destination(id: &DestinationId, entry: &LogEntry) -> bool = destinations::delete;
                insert_key(key: &ApiKey, entry: &LogEntry) -> () = keys::insert;
                revoke_key(id: &KeyId, now: EpochMs, entry: &LogEntry) -> bool = keys::revoke;
                touch_keys(used: Vec<(KeyId, EpochMs)>) -> () = keys::touch;
                insert_session(session: &ConsoleSession, entry: &LogEntry) -> () = sessions::insert;
                touch_session(hash: &SessionHash, seen_at: EpochMs, expires_at: EpochMs) -> () = sessions::touch;
                end_session(hash: &SessionHash, entry: &LogEntry) -> bool = sessions::end;
                delete_expired_sessions(now: EpochMs, limit: u32) -> u64 = sessions::delete_expired;
                quarantine(webhooks: &[Quarantined], bounds: QuarantineBounds) -> Vec<(QuarantineId, u32)>
                    = quarantine::keep;
                delete_quarantined(ids: &[QuarantineId], entry: Option<&LogEntry>) -> u64 = quarantine::delete;
                append_log(entries: &[LogEntry]) -> () = log::append;
                delete_expired(cutoffs: &RetentionCutoffs, limit: u32) -> Deleted = retention::delete;
            }
        }
    };
}
