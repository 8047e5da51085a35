//! The store: every row Signalbox keeps, on SQLite or PostgreSQL, behind one trait.
//!
//! **Owns** the schema, the queries and the writer that commits many webhooks in one transaction. **Invariants**: an
//! operation is a whole transaction; what it answered is durable; secrets are ciphertext here (the vault seals and
//! opens them); payloads are bytes, never parsed. **Must not know** actors, HTTP or providers' payloads.
//!
//! # Adding an operation
//! 1. Add a method below, in the group of its table, saying what it answers when nothing is found.
//! 2. Write its query once, in `queries/<table>.rs`: `$1` placeholders, times as BIGINT milliseconds, JSON as TEXT. It
//!    is compiled for both databases.
//! 3. Name it in the list of `backend.rs` (of `connections_table.rs` or `overview_table.rs`, for a [`ConnectionStore`] or
//!    [`OverviewStore`] operation), under reads,
//!    snapshots or writes.
//! 4. Add a case to `tests/store`: it runs on both databases.
//!
//! Four things to note: a query that routes or claims needs an index (`tests/store/plans.rs` asks the planner); only
//! `sqlite/` and `postgres/` may differ by dialect; an edit of an installation's record goes through
//! [`Store::change_installation`], nowhere else (inserting it, and notes that nothing is decided by, have operations of their
//! own); nothing here reads the clock: `now` is an argument.

#[macro_use]
mod backend;
mod changes;
mod connection_store;
#[macro_use]
mod connections_table;
mod driver_error;
mod error;
mod known;
pub mod lightfast;
mod overview_store;
#[macro_use]
mod overview_table;
mod payload;
mod postgres;
mod quarantined;
mod setback;
mod sqlite;
mod writer;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

pub use self::{
    connection_store::{ConnectionStore, Rhythm, SealedCursor, SealedValue},
    error::StoreError,
    overview_store::{BoundedCount, DeliveryFilter, Found, OrgSummary, OverviewStore, WorkspaceSummary},
    quarantined::{QuarantineBounds, Quarantined},
    setback::{BacklogPlace, Hastened, Setback},
};
use crate::model::{
    clock::EpochMs,
    delivery::{Attempt, Delivery, DeliveryStatus},
    destination::{Destination, DestinationScope},
    event::{Event, EventOutcome},
    ids::{DeliveryId, DestinationId, EventId, InstallationId, IntegrationId, KeyId, OrgId, QuarantineId, WorkspaceId},
    installation::{Installation, InstallationStatus},
    integration::{Integration, IntegrationStatus},
    log_entry::LogEntry,
    provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug},
    resource::Resource,
    session::{ConsoleSession, SessionHash},
    teardown::Teardown,
    token::TokenEdit,
};

/// Opens the store named by `options.url`. Creates the SQLite file (0600) if there is none; applies no migration.
///
/// # Errors
/// [`StoreError::Unavailable`] if the database does not answer, or if another process serves from the SQLite file or
/// under the node's name; [`StoreError::Driver`] if the URL is none we know.
pub async fn open(options: OpenOptions, observer: Arc<dyn BatchObserver>) -> StoreResult<SharedStore> {
    let scheme = options.url.split(':').next().unwrap_or_default();
    match scheme {
        "sqlite" => Ok(Arc::new(sqlite::SqliteStore::open(&options, observer).await?)),
        "postgres" | "postgresql" => Ok(Arc::new(postgres::PostgresStore::open(&options, observer).await?)),
        _ => Err(StoreError::Driver("the database URL begins with neither sqlite:// nor postgres://".into())),
    }
}

/// The file of a SQLite database; `None` for a database on a server.
pub fn database_file(url: &str) -> Option<PathBuf> {
    sqlite::file_of(url)
}

/// The statements that route, claim or are paid for by every webhook, with their names, as `backend` runs them.
/// `tests/store/plans.rs` asks the planner whether each of them uses an index.
#[doc(hidden)]
pub fn hot_statements(backend: &str) -> Vec<(&'static str, &'static str)> {
    if backend == "sqlite" { sqlite::hot_statements() } else { postgres::hot_statements() }
}

/// Who is told of every batch the writer commits.
pub trait BatchObserver: Send + Sync + 'static {
    /// One transaction committed this many events and attempt records.
    fn batch_committed(&self, events: usize, attempts: usize, took: Duration);
}

/// An observer that does not look; for tests and short-lived commands.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl BatchObserver for NoObserver {
    fn batch_committed(&self, _events: usize, _attempts: usize, _took: Duration) {}
}

/// The result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// A handle on the store, shared by every room.
pub type SharedStore = Arc<dyn Store>;

/// An installation with everything that belongs to it: what a supervisor caches, and what
/// [`Store::change_installation`] lets a closure edit.
#[derive(Debug, Clone, PartialEq)]
pub struct InstallationRecord {
    /// Its row.
    pub installation: Installation,
    /// Its resources, removed ones included, oldest first.
    pub resources: Vec<Resource>,
    /// Its integrations, ended ones included, oldest first.
    pub integrations: Vec<Integration>,
    /// The destinations that may serve them: the org's, its workspaces', these integrations' own.
    pub destinations: Vec<Destination>,
    /// Its teardown, running or ended.
    pub teardown: Option<Teardown>,
    /// What to do to its token's row with this change; [`TokenEdit::Keep`] when loaded.
    pub token: TokenEdit,
    /// Log entries to append with this change; empty when loaded.
    pub log: Vec<LogEntry>,
}

/// The decision inside [`Store::change_installation`]: edits the record and says whether to keep the edit. Pure and
/// quick: it runs inside the transaction.
pub type ChangeFn = Box<dyn FnOnce(&mut InstallationRecord) -> bool + Send>;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next_cursor: Option<String>,
}

/// Which page is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest<'a> {
    /// 1..=100.
    pub limit: u32,
    /// The id after which (in the list's order) the page begins; a cursor that is no id yields an empty or full page,
    /// never an error.
    pub cursor: Option<&'a str>,
}

/// A new event with its decision and deliveries, to be committed at once.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Its row; `possible_replay` is decided by the store.
    pub event: Event,
    /// Headers worth keeping, a JSON object; no secrets.
    pub headers: String,
    /// The original content type.
    pub content_type: Option<String>,
    /// The raw body as received. The store compresses it.
    pub body: Bytes,
    /// Equal for equal bodies of one sender, when replays under another id should be noticed.
    pub body_digest: Option<[u8; 16]>,
    /// The routing decision, JSON (see `delivery::plan`).
    pub decision: String,
    /// One per integration that gets it.
    pub deliveries: Vec<NewDelivery>,
    /// What a possible replay is worth: false flags it, true drops its deliveries and records it as filtered.
    pub drop_possible_replay: bool,
}

/// A delivery to insert.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Its row. A leased one has `lease_until` set and `due_at` equal to it.
    pub delivery: Delivery,
    /// The node that will try it at once; `None` leaves it to be claimed.
    pub lease_owner: Option<String>,
}

/// What [`Store::accept_event`] answers, after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// Stored, with its deliveries.
    New {
        /// Whether its body was seen before under another id.
        possible_replay: bool,
    },
    /// An event with this provider delivery id is stored already; nothing was written.
    Duplicate {
        /// That event.
        of: EventId,
    },
}

/// An event with what `GET /events/{id}` shows beside it.
#[derive(Debug, Clone)]
pub struct EventDetail {
    /// Its row.
    pub event: Event,
    /// Kept headers, a JSON object.
    pub headers: String,
    /// The original content type.
    pub content_type: Option<String>,
    /// The routing decision, JSON.
    pub decision: String,
    /// Its deliveries, oldest first.
    pub deliveries: Vec<Delivery>,
    /// Their attempts, oldest first.
    pub attempts: Vec<Attempt>,
}

/// Which events are listed, newest first.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only this org's; `None` is every org.
    pub org: Option<OrgId>,
    /// Only this provider's.
    pub provider: Option<String>,
    /// Only this installation's.
    pub installation: Option<InstallationId>,
    /// Only these ending so.
    pub outcome: Option<EventOutcome>,
    /// Only this key.
    pub key: Option<String>,
    /// Only this provider delivery id.
    pub provider_delivery_id: Option<String>,
    /// Received at or after.
    pub since: Option<EpochMs>,
    /// Received before.
    pub until: Option<EpochMs>,
    /// Only held ones.
    pub held: Option<bool>,
}

/// Which deliveries are readdressed.
#[derive(Debug, Clone, Copy)]
pub enum ToReaddress<'o> {
    /// This org's.
    OfOrg(&'o OrgId),
    /// Everybody's that have no destination; with a time only those that fall due then or later, and retries.
    Undirected {
        /// That time.
        since: Option<EpochMs>,
    },
}

/// Which unrouted events [`Store::list_unrouted`] looks at, oldest first.
#[derive(Debug, Clone)]
pub struct UnroutedFilter {
    /// The provider.
    pub provider: ProviderSlug,
    /// Events of this installation, or …
    pub installation: InstallationId,
    /// … that named this account when it was not known, or …
    pub external_id: ExternalId,
    /// … this second id of it, or no account at all (or several second ids) and a resource that the installation has
    /// linked. Whose it is then, the caller has to look: another may have linked the resource too.
    pub alternate_external_id: Option<ExternalId>,
    /// Received at or after. One that arrived longer than a day before that and named a later time may be left out.
    pub since: EpochMs,
    /// Only after this event.
    pub after: Option<EventId>,
    /// How many at the most.
    pub limit: u32,
}

/// A new routing of a stored event: a replay, a reroute or a release.
#[derive(Debug, Clone)]
pub struct Rerouting {
    /// The event.
    pub event: EventId,
    /// Its installation and org, when they were not known before.
    pub installation: Option<(InstallationId, OrgId)>,
    /// Only while it still ends so: of two that route the same event at once, one does.
    pub only_if: Option<EventOutcome>,
    /// Its new outcome.
    pub outcome: EventOutcome,
    /// Its new reason.
    pub reason: Option<String>,
    /// Its new decision.
    pub decision: Option<String>,
    /// Deliveries to add; a held one only to an event that still is.
    pub deliveries: Vec<NewDelivery>,
    /// The log entry to append with this change, if somebody asked for it.
    pub entry: Option<LogEntry>,
}

/// Who claims deliveries and which.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// To which destination.
    pub destination: DestinationId,
    /// The claiming node.
    pub owner: String,
    /// The present.
    pub now: EpochMs,
    /// The lease: `due_at` becomes this, so that an abandoned delivery falls due by itself.
    pub lease_until: EpochMs,
    /// First tries (of a schedule) at the most.
    pub first_tries: u32,
    /// Retries at the most.
    pub retries: u32,
    /// Both together at the most; first tries get what retries leave.
    pub in_all: u32,
    /// Bytes of bodies, as they were received, at the most, and never more than [`MAX_CLAIMED_BYTES`]; the deliveries of a
    /// single larger event are claimed without any others.
    pub bytes: usize,
}

/// Bytes of bodies that one claim leases at the most, whatever is asked for: they are read within the time of one operation.
pub const MAX_CLAIMED_BYTES: usize = 64 * 1024 * 1024;

/// What [`Store::claim_deliveries`] leased.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// First tries before retries, oldest due first.
    pub deliveries: Vec<ClaimedDelivery>,
    /// Whether fewer than asked for means that there are no more. Not so when some were left for the next claim because
    /// of their size, or were leased and could not be read.
    pub is_all: bool,
}

/// A claimed delivery with what its envelope needs.
#[derive(Debug, Clone)]
pub struct ClaimedDelivery {
    /// Its row, leased.
    pub delivery: Delivery,
    /// Its event.
    pub event: Event,
    /// The original content type of the body.
    pub content_type: Option<String>,
    /// The raw body as received.
    pub body: Bytes,
}

/// The outcome of one attempt, to be recorded.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// The attempt.
    pub attempt: Attempt,
    /// The node that holds the lease. A row leased to somebody else by now keeps their state; the attempt is recorded
    /// all the same.
    pub owner: String,
    /// [`Delivery::attempts_before_retry`] when it was claimed: a failure that is recorded after somebody asked for another
    /// try does not take that back.
    pub attempts_before_retry: u32,
    /// The delivery's new state.
    pub status: DeliveryStatus,
    /// The delivery's new reason.
    pub reason: Option<String>,
    /// When it is due again, while pending.
    pub due_at: EpochMs,
    /// When it was delivered or died.
    pub finished_at: Option<EpochMs>,
}

/// What the dispatcher found out about a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationHealth {
    /// Nothing has succeeded since then.
    FailingSince(EpochMs),
    /// It works again.
    Recovered,
    /// Nothing is to be sent to it, for this reason.
    Disabled(&'static str),
}

/// A destination with something due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDestination {
    /// Which.
    pub destination: DestinationId,
    /// Its earliest due time.
    pub due_at: EpochMs,
}

/// An API key's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Our id of it.
    pub id: KeyId,
    /// Its name.
    pub name: String,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// The first characters, to recognise it by.
    pub prefix: String,
    /// The org it is bound to; `None` is a service key.
    pub org: Option<OrgId>,
    /// Whether it may change anything.
    pub can_write: bool,
    /// When it was made.
    pub created_at: EpochMs,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<EpochMs>,
    /// When it was revoked.
    pub revoked_at: Option<EpochMs>,
}

/// A dead letter as the DLQ lists it.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The dead delivery.
    pub delivery: Delivery,
    /// Its event.
    pub event: Event,
}

/// Ages past which rows are deleted.
#[derive(Debug, Clone, Copy)]
pub struct RetentionCutoffs {
    /// Events that arrived before this go, unless a delivery of theirs is open or a dead letter that does not go yet.
    pub events: EpochMs,
    /// Dead letters that died before this go, of events that stay too.
    pub dead_letters: EpochMs,
    /// Quarantined webhooks last seen before this go.
    pub quarantine: EpochMs,
    /// Log entries before this go, and so do backfill and heal runs that have ended.
    pub log: EpochMs,
    /// OAuth flows that were void before this go.
    pub flows: EpochMs,
    /// What was counted in minutes before this goes.
    pub activity: EpochMs,
}

/// What one pass over old events came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedEvents {
    /// How many were deleted (with deliveries, attempts and bodies).
    pub deleted: u64,
    /// Where the next pass goes on; `None` at the end: it begins anew.
    pub looked_up_to: Option<EventId>,
}

/// What one pass of retention deleted beside events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Quarantined webhooks.
    pub quarantined: u64,
    /// Log entries.
    pub log_entries: u64,
    /// OAuth flows.
    pub flows: u64,
    /// Backfill and heal runs.
    pub runs: u64,
}

/// A change another node (or another process) made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Rows of this installation.
    Installation(InstallationId),
    /// Destinations of this org.
    Destinations(OrgId),
    /// API keys.
    Keys,
    /// The stream of changes was interrupted: anything may have changed.
    Unknown,
}

/// Row counts by state, for the self-check and the metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Events by outcome word.
    pub events: BTreeMap<String, u64>,
    /// Deliveries by status word.
    pub deliveries: BTreeMap<String, u64>,
    /// Sentences about rows that contradict each other: a routed event without a delivery, a delivery without an
    /// event, a delivered one without a successful attempt. Empty when all is well.
    pub contradictions: Vec<String>,
}

/// Everything Signalbox keeps. See the module's documentation for how to add an operation.
#[async_trait]
pub trait Store: ConnectionStore + OverviewStore {
    // --- the store itself ---------------------------------------------------------------------------------------

    /// `sqlite` or `postgres`.
    fn backend(&self) -> &'static str;

    /// Answers if the database does.
    async fn ping(&self) -> StoreResult<()>;

    /// Applies migrations; answers how many were new.
    async fn migrate(&self) -> StoreResult<u32>;

    /// Migrations that are not applied yet.
    async fn count_pending_migrations(&self) -> StoreResult<u32>;

    /// Whether no migration was ever applied: there is nothing in it, and no table to look into.
    async fn is_blank(&self) -> StoreResult<bool>;

    /// Refuses if the database would lose acknowledged rows in a crash or power loss.
    async fn check_durability(&self) -> StoreResult<()>;

    /// The next change made elsewhere; waits for ever on SQLite, which only this process writes (API keys excepted).
    async fn next_change(&self) -> Change;

    /// Whether other nodes must believe that this one is at work. False before any of them may take its leases over:
    /// whatever it does under one has to end then. Always true on SQLite.
    fn is_present(&self) -> watch::Receiver<bool>;

    /// Waits for the writer and closes every connection.
    async fn close(&self);

    /// Counts rows by state and looks for contradictions. Reads everything: for tests and `/admin/health?deep=true`.
    async fn take_census(&self) -> StoreResult<Census>;

    // --- installations, resources, integrations -------------------------------------------------------------------

    /// One installation's row.
    async fn find_installation(&self, id: &InstallationId) -> StoreResult<Option<Installation>>;

    /// The row that is not revoked with this external id, or, failing that, this alternate external id.
    async fn find_live_installation(
        &self,
        provider: ProviderSlug,
        external_id: &ExternalId,
    ) -> StoreResult<Option<Installation>>;

    /// Installations whose status routes and which have this resource active: the fallback of routing.
    async fn find_installations_by_resource(
        &self,
        provider: ProviderSlug,
        resource: &ProviderResourceId,
    ) -> StoreResult<Vec<Installation>>;

    /// Installations, newest first.
    async fn list_installations(
        &self,
        org: Option<&OrgId>,
        provider: Option<&str>,
        status: Option<InstallationStatus>,
        page: PageRequest<'_>,
    ) -> StoreResult<Page<Installation>>;

    /// Every id of an installation whose status routes; for `POST /admin/cache/rebuild`.
    async fn list_routing_installations(&self) -> StoreResult<Vec<InstallationId>>;

    /// An installation with everything that belongs to it.
    async fn load_installation(&self, id: &InstallationId) -> StoreResult<Option<InstallationRecord>>;

    /// Loads the record under a lock, lets `change` edit it, and if it says so writes every row that differs, does what
    /// `token` says, appends the log, tells the other nodes, and commits. Removing integrations or the teardown from the
    /// record is not supported: end them by status. A teardown that is ended, or begun anew, here has no lease owner:
    /// whoever works on it then no longer has the lease. Answers the record as it is now (with an empty log, and
    /// `TokenEdit::Keep`), `None` if there is no such installation.
    async fn change_installation(
        &self,
        id: &InstallationId,
        change: ChangeFn,
    ) -> StoreResult<Option<InstallationRecord>>;

    /// One integration's row.
    async fn find_integration(&self, id: &IntegrationId) -> StoreResult<Option<Integration>>;

    /// A workspace's integrations, oldest first, each with its resource.
    async fn list_workspace_integrations(
        &self,
        org: &OrgId,
        workspace: &WorkspaceId,
        status: Option<IntegrationStatus>,
    ) -> StoreResult<Vec<(Integration, Resource)>>;

    /// Moves `last_event_at` forward; never back.
    async fn touch_last_event(
        &self,
        installations: Vec<(InstallationId, EpochMs)>,
        integrations: Vec<(IntegrationId, EpochMs)>,
    ) -> StoreResult<()>;

    // --- events -----------------------------------------------------------------------------------------------------

    /// Commits an event with its deliveries, in one transaction with whatever else is waiting. Answers after the
    /// commit.
    async fn accept_event(&self, event: NewEvent) -> StoreResult<Accepted>;

    /// Events, newest first. Looks at a bounded number of rows.
    async fn list_events(&self, filter: &EventFilter, page: PageRequest<'_>) -> StoreResult<Found<Event>>;

    /// Events of an org (or of all) after `after`, oldest first: what the stream follows.
    async fn list_events_after(&self, org: Option<&OrgId>, after: &EventId, limit: u32) -> StoreResult<Vec<Event>>;

    /// One event's row.
    async fn find_event(&self, id: &EventId) -> StoreResult<Option<Event>>;

    /// The event with this provider delivery id.
    async fn find_event_by_delivery_id(
        &self,
        provider: ProviderSlug,
        id: &ProviderDeliveryId,
    ) -> StoreResult<Option<Event>>;

    /// One event with its headers, decision, deliveries and attempts.
    async fn find_event_detail(&self, id: &EventId) -> StoreResult<Option<EventDetail>>;

    /// An event's original content type and raw body.
    async fn find_event_body(&self, id: &EventId) -> StoreResult<Option<(Option<String>, Bytes)>>;

    /// Unrouted events that might have an installation now, oldest first.
    async fn list_unrouted(&self, filter: &UnroutedFilter) -> StoreResult<Vec<Event>>;

    /// Held events of an installation, in the order in which their provider sent them.
    async fn list_held(&self, installation: &InstallationId, limit: u32) -> StoreResult<Vec<EventId>>;

    /// Lets held events go: their held deliveries become pending, due at `now` and claimed in the order given (the
    /// earlier ones a few milliseconds before `now`). Answers how many events were let go; of none there is no entry.
    async fn release_held(&self, events: &[EventId], now: EpochMs, entry: &LogEntry) -> StoreResult<u64>;

    /// Adds deliveries to a stored event and raises its outcome; a routed one stays routed. False, and nothing happens,
    /// without the event or if it does not end as `only_if` says.
    async fn reroute_event(&self, rerouting: Rerouting) -> StoreResult<bool>;

    // --- deliveries -------------------------------------------------------------------------------------------------

    /// One delivery with its event.
    async fn find_delivery(&self, id: &DeliveryId) -> StoreResult<Option<(Delivery, Event)>>;

    /// Destinations with a pending delivery due at or before `now`, at the most `limit`, after `after` in id order.
    async fn list_due_destinations(
        &self,
        now: EpochMs,
        after: Option<&DestinationId>,
        limit: u32,
    ) -> StoreResult<Vec<DueDestination>>;

    /// Leases due deliveries of one destination, oldest due first, no more than [`MAX_CLAIMED_BYTES`] of bodies.
    /// Committed before it answers: never send before the database knows. One whose rows cannot be read is logged, left
    /// out and left leased, so that it is out of the others' way until the lease ends.
    async fn claim_deliveries(&self, request: &ClaimRequest) -> StoreResult<Claimed>;

    /// Records attempts and their deliveries' new state, batched with whatever else is waiting.
    async fn record_attempts(&self, records: Vec<AttemptRecord>) -> StoreResult<()>;

    /// Gives up this node's leases on these deliveries (or on all): they fall due at `now`.
    async fn release_leases(&self, owner: &str, only: Option<&[DeliveryId]>, now: EpochMs) -> StoreResult<u64>;

    /// Gives up leases of nodes that are gone, so that their deliveries fall due at `now` rather than when the lease
    /// ends. On SQLite that is everybody but `owner`; on PostgreSQL nodes of which this one has seen no presence
    /// lock for ten seconds.
    async fn release_leases_of_the_gone(&self, owner: &str, now: EpochMs) -> StoreResult<u64>;

    /// The time by the clock that all nodes have in common, by which leases of other nodes are judged. `None` on SQLite,
    /// where there are none.
    async fn server_time(&self) -> StoreResult<Option<EpochMs>>;

    /// Makes some of what waits late because the clock was set back due that much earlier, but not before `now`; what is
    /// leased is left alone. Who goes on from what it answers does so to each delivery once, unless it is tried meanwhile.
    async fn hasten_deliveries(
        &self,
        setback: &Setback,
        after: Option<&BacklogPlace>,
        now: EpochMs,
    ) -> StoreResult<Hastened>;

    /// Sets the destination of pending and held deliveries to what serves their integration now: the integration's
    /// own, its workspace's, its org's, else `fallback`.
    async fn readdress_deliveries(
        &self,
        which: ToReaddress<'_>,
        fallback: Option<&DestinationId>,
        now: EpochMs,
    ) -> StoreResult<u64>;

    /// Makes a delivery pending, due at `now`, with all of its schedule before it, to what serves its integration now (see
    /// [`Store::readdress_deliveries`]); its attempts are numbered on. False if it is delivered, held or in flight.
    async fn retry_delivery(
        &self,
        id: &DeliveryId,
        fallback: Option<&DestinationId>,
        now: EpochMs,
        entry: &LogEntry,
    ) -> StoreResult<bool>;

    /// Dead deliveries with their events, oldest first.
    async fn list_dead_letters(
        &self,
        org: Option<&OrgId>,
        provider: Option<&str>,
        limit: u32,
        offset: u32,
    ) -> StoreResult<Vec<DeadLetter>>;

    /// Dead deliveries of the event with this provider delivery id.
    async fn find_dead_letters(
        &self,
        org: Option<&OrgId>,
        provider: &str,
        id: &ProviderDeliveryId,
    ) -> StoreResult<Vec<DeadLetter>>;

    /// What died of an installation's events received in `since..until` and would not go to a disabled destination now: all
    /// such deliveries of the oldest `limit` events that have any, and how many such events there are in all.
    async fn list_dead_of_installation(
        &self,
        installation: &InstallationId,
        since: Option<EpochMs>,
        until: Option<EpochMs>,
        limit: u32,
    ) -> StoreResult<(Vec<DeadLetter>, u64)>;

    // --- destinations -----------------------------------------------------------------------------------------------

    /// Inserts a destination, or writes it over the row that was read as `replaces`. False, and nothing is written, if there
    /// is one of its org, scope and scope id by now, or the row is no longer as it was read. Tells the other nodes.
    async fn save_destination(
        &self,
        destination: &Destination,
        replaces: Option<&Destination>,
        entry: &LogEntry,
    ) -> StoreResult<bool>;

    /// Notes what was found out about a destination under its `url`, and nothing else of its row: its owner may be writing it
    /// at the same moment. False if the row says so already, has another URL or is gone. Tells the other nodes.
    async fn note_destination_health(
        &self,
        id: &DestinationId,
        url: &str,
        health: DestinationHealth,
        now: EpochMs,
        entry: &LogEntry,
    ) -> StoreResult<bool>;

    /// Deletes a destination and tells the other nodes.
    async fn delete_destination(&self, id: &DestinationId, entry: &LogEntry) -> StoreResult<bool>;

    /// One destination's row.
    async fn find_destination(&self, id: &DestinationId) -> StoreResult<Option<Destination>>;

    /// The destination of exactly this scope.
    async fn find_destination_of(
        &self,
        org: &OrgId,
        scope: DestinationScope,
        scope_id: &str,
    ) -> StoreResult<Option<Destination>>;

    /// An org's destinations, oldest first.
    async fn list_destinations(&self, org: &OrgId) -> StoreResult<Vec<Destination>>;

    // --- API keys ---------------------------------------------------------------------------------------------------

    /// Inserts a key.
    async fn insert_key(&self, key: &ApiKey, entry: &LogEntry) -> StoreResult<()>;

    /// The key with this hash, revoked or not.
    async fn find_key(&self, hash: &[u8; 32]) -> StoreResult<Option<ApiKey>>;

    /// Every key, oldest first.
    async fn list_keys(&self) -> StoreResult<Vec<ApiKey>>;

    /// Revokes a key; false if there is none or it is revoked already.
    async fn revoke_key(&self, id: &KeyId, now: EpochMs, entry: &LogEntry) -> StoreResult<bool>;

    /// Notes that keys were used.
    async fn touch_keys(&self, used: Vec<(KeyId, EpochMs)>) -> StoreResult<()>;

    // --- sessions of the console ------------------------------------------------------------------------------------

    /// Inserts a session.
    async fn insert_session(&self, session: &ConsoleSession, entry: &LogEntry) -> StoreResult<()>;

    /// The session with this hash, expired or not.
    async fn find_session(&self, hash: &SessionHash) -> StoreResult<Option<ConsoleSession>>;

    /// Notes that a session is used, and until when it is good for it; never takes it back.
    async fn touch_session(&self, hash: &SessionHash, seen_at: EpochMs, expires_at: EpochMs) -> StoreResult<()>;

    /// Ends a session; false if there is none. Revoking a key ends its sessions too.
    async fn end_session(&self, hash: &SessionHash, entry: &LogEntry) -> StoreResult<bool>;

    /// Deletes at the most `limit` sessions that expired before `now`.
    async fn delete_expired_sessions(&self, now: EpochMs, limit: u32) -> StoreResult<u64>;

    // --- quarantine -------------------------------------------------------------------------------------------------

    /// Keeps webhooks in one transaction, or counts those whose body is kept for the same cause; the oldest make room.
    /// Answers, in order, under which id each is kept (the first one's) and how often it has come; zero for one that was not
    /// kept, because the bounds have no room for it.
    async fn quarantine(
        &self,
        webhooks: &[Quarantined],
        bounds: QuarantineBounds,
    ) -> StoreResult<Vec<(QuarantineId, u32)>>;

    /// Quarantined webhooks, newest first, bodies left out (empty).
    async fn list_quarantined(&self, provider: Option<&str>, page: PageRequest<'_>) -> StoreResult<Page<Quarantined>>;

    /// Quarantined webhooks with their bodies, oldest first, after `after`.
    async fn list_quarantined_bodies(
        &self,
        provider: Option<&str>,
        after: Option<&QuarantineId>,
        limit: u32,
    ) -> StoreResult<Vec<Quarantined>>;

    /// Forgets quarantined webhooks; if there are any of these, with `entry`. Answers how many.
    async fn delete_quarantined(&self, ids: &[QuarantineId], entry: Option<&LogEntry>) -> StoreResult<u64>;

    // --- log --------------------------------------------------------------------------------------------------------

    /// Appends to the log.
    async fn append_log(&self, entries: &[LogEntry]) -> StoreResult<()>;

    /// The log, newest first, of an installation or an org or everything.
    async fn list_log(
        &self,
        org: Option<&OrgId>,
        installation: Option<&InstallationId>,
        page: PageRequest<'_>,
    ) -> StoreResult<Page<LogEntry>>;

    // --- retention --------------------------------------------------------------------------------------------------

    /// Looks at a bounded number of old events after `after`, oldest first, and deletes at the most `limit` of them, or of
    /// those that stay the dead letters, in one short transaction. Who goes on from what it answers, and from the beginning
    /// at the end, deletes everything that expired.
    async fn delete_expired_events(
        &self,
        cutoffs: &RetentionCutoffs,
        after: Option<&EventId>,
        limit: u32,
    ) -> StoreResult<DeletedEvents>;

    /// Deletes at the most `limit` expired rows of each other kind, in one short transaction.
    async fn delete_expired(&self, cutoffs: &RetentionCutoffs, limit: u32) -> StoreResult<Deleted>;
}

/// How to open a store.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// `sqlite://path`, `sqlite::memory:` is refused (nothing would survive), or `postgres://…`.
    pub url: String,
    /// Connections for reading (SQLite) or in all (PostgreSQL).
    pub max_connections: u32,
    /// How long to wait for a connection or a lock before answering `Unavailable`.
    pub acquire_timeout: Duration,
    /// The providers whose rows may be read; a row of another provider is `Inconsistent`.
    pub providers: Vec<ProviderSlug>,
    /// This process's name in leases, unique among nodes and restarts.
    pub node: String,
    /// Whether this process serves (holds the presence lock; on SQLite the only one to do so) or only looks.
    pub serving: bool,
}
