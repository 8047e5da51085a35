//! Events searched for, newest first, whatever is asked for.
//!
//! **Owns** how much one search looks at. There is no index for every question, because every index is paid for by every
//! webhook. One, of each org's events in their order, carries along what filters ask about, so that most questions are
//! answered by walking it, without touching rows; a walk looks at a bounded number of entries, and says how far it came.
//! **Invariants**: what was found is complete as far as was searched; going on from the cursor comes to the end.

use super::{Builder, Fields, PAST_EVERY_ID, Session, found, id_floor, page, push_given, rows_wanted, text};
use crate::{
    model::{
        clock::EpochMs,
        event::{Event, EventOutcome},
        ids::{EventId, InstallationId, OrgId},
    },
    store::{EventFilter, Found, PageRequest, StoreResult},
};

/// Entries of the orgs' index that one search looks at, and rows, where it has to look at rows: some ten milliseconds.
const ENTRIES_LOOKED_AT: u32 = 40_000;
const ROWS_LOOKED_AT: u32 = 3_000;

/// How far an event's `received_at` may be ahead of its id's time: the service path names its own times.
pub(super) const RECEIVED_AHEAD_MS: i64 = 24 * 60 * 60 * 1000;
/// What arrived longer after the time it names is in an index of its own (`gw_events_backdated`, which says the same
/// number), so that a search for what was received before some time can begin there.
const BACKDATED_MS: i64 = 60 * 60 * 1000;

/// What a filter may ask about beside the org: the orgs' index has it.
const ASKED_ABOUT: &str =
    "e.id, e.org_id, e.provider, e.outcome, e.event_key, e.installation_id, e.held, e.received_at";

pub(crate) async fn find(
    db: &mut Session<'_>,
    filter: &EventFilter,
    request: PageRequest<'_>,
) -> StoreResult<Found<Event>> {
    let mut filter = filter.clone();
    if let (None, Some(installation)) = (&filter.org, &filter.installation) {
        // An installation's events are its org's.
        filter.org = org_of(db, installation).await?;
    }
    let wanted = rows_wanted(request);
    let mut items: Vec<Event> = Vec::new();
    let mut stopped_at = None;
    for walk in walks(db, &filter, request.cursor, wanted).await? {
        let missing = wanted - i64::try_from(items.len()).unwrap_or(wanted);
        items.extend(walk.find(db, &filter, missing).await?);
        if items.len() >= usize::try_from(wanted).unwrap_or(usize::MAX) {
            break;
        }
        stopped_at = walk.last(db, &filter).await?;
        if stopped_at.is_some() {
            break;
        }
    }
    Ok(found(page(items, request, |event: &Event| event.id.as_str()), stopped_at, EventId::PREFIX))
}

async fn org_of(db: &mut Session<'_>, installation: &InstallationId) -> StoreResult<Option<OrgId>> {
    const FIND: &str = "SELECT org_id FROM gw_installations WHERE id = $1";
    let row = super::query(FIND).bind(&*text(installation.as_str())).fetch_optional(&mut *db.conn).await?;
    row.map(|row| Ok(OrgId::from_raw(Fields::new(&row).get::<&str>()?))).transpose()
}

/// Which index is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    /// An org's events, with what filters ask about.
    Org,
    /// Those of them that arrived long after the time they name; of everybody, if there is no org.
    Backdated,
    /// An installation's events.
    Installation,
    /// Those with that provider delivery id.
    DeliveryId,
    /// Those that wait for a link, of everybody.
    Unrouted,
    /// All.
    Everything,
}

/// How a statement names them, where it has to.
const NAMED: [(Index, &str); 5] = [
    (Index::Org, by_index!("gw_events_of_org")),
    (Index::Backdated, by_index!("gw_events_backdated")),
    (Index::Installation, by_index!("gw_events_of_installation")),
    (Index::DeliveryId, by_index!("gw_events_dedup")),
    (Index::Unrouted, by_index!("gw_events_waiting")),
];

/// A stretch of an index that one search walks, newest first.
struct Walk {
    index: Index,
    /// From this id on.
    from: String,
    /// Before this id.
    before: String,
    /// Entries at the most.
    rows: i64,
}

/// The stretches that hold what is asked for, newest first.
async fn walks(
    db: &mut Session<'_>,
    filter: &EventFilter,
    cursor: Option<&str>,
    wanted: i64,
) -> StoreResult<Vec<Walk>> {
    let before = text(cursor.unwrap_or(PAST_EVERY_ID)).into_owned();
    // The bound on the id ends the walk; the bound on the time is the answer.
    let since = |since: EpochMs| id_floor(EventId::PREFIX, EpochMs(since.0.saturating_sub(RECEIVED_AHEAD_MS)));
    let from = filter.since.map_or_else(String::new, since);
    let walk = |index: Index, from: &str, before: &str| {
        let rows = match index {
            Index::Org | Index::Installation | Index::Everything if !is_narrowed(filter) => wanted,
            Index::Org => i64::from(ENTRIES_LOOKED_AT),
            _ => i64::from(ROWS_LOOKED_AT),
        };
        Walk { index, from: from.to_owned(), before: before.to_owned(), rows }
    };
    if filter.provider_delivery_id.is_some() {
        return Ok(vec![walk(Index::DeliveryId, &from, &before)]);
    }
    let index = match (&filter.org, &filter.installation) {
        (Some(_), Some(_)) => {
            let own = walk(Index::Installation, &from, &before);
            // A quiet installation's events are few; a busy one's are found quicker among the org's entries.
            if !is_narrowed(filter) || own.last(db, filter).await?.is_none() { Index::Installation } else { Index::Org }
        }
        (Some(_), None) => Index::Org,
        (None, Some(_)) => Index::Installation,
        (None, None) if filter.outcome == Some(EventOutcome::Unrouted) => Index::Unrouted,
        (None, None) => Index::Everything,
    };
    let Some(until) = filter.until else { return Ok(vec![walk(index, &from, &before)]) };
    let cut = id_floor(EventId::PREFIX, EpochMs(until.0.saturating_add(BACKDATED_MS)));
    if before <= cut {
        return Ok(vec![walk(index, &from, &before)]);
    }
    Ok(vec![walk(Index::Backdated, &cut, &before), walk(index, &from, &cut)])
}

/// Whether there is something to look for among an org's, an installation's or all events.
fn is_narrowed(filter: &EventFilter) -> bool {
    filter.provider.is_some()
        || filter.outcome.is_some()
        || filter.key.is_some()
        || filter.held.is_some()
        || filter.since.is_some()
        || filter.until.is_some()
}

impl Walk {
    /// The matches on the way, at the most so many.
    async fn find(&self, db: &mut Session<'_>, filter: &EventFilter, limit: i64) -> StoreResult<Vec<Event>> {
        let mut sql =
            Builder::new(concat!("SELECT ", event_columns!(), " FROM gw_events e WHERE e.id IN (SELECT e.id FROM ("));
        if self.index == Index::Backdated {
            // These are few, and PostgreSQL, which believes that they are many, keeps to their index only if it need not
            // look at rows for it.
            self.push(&mut sql, filter, "e.id");
            sql.push(" LIMIT ").push_bind(self.rows).push(") e)");
            push_conditions(&mut sql, filter);
        } else {
            self.push(&mut sql, filter, ASKED_ABOUT);
            // Whoever reads from the stretch gets its entries in its order: these are the newest that match.
            sql.push(" LIMIT ").push_bind(self.rows).push(") e WHERE e.id IS NOT NULL");
            push_conditions(&mut sql, filter);
            sql.push(" LIMIT ").push_bind(limit).push(")");
        }
        sql.push(" ORDER BY e.id DESC LIMIT ").push_bind(limit);
        let rows = sql.build().persistent(false).fetch_all(&mut *db.conn).await?;
        rows.iter().map(|row| Fields::new(row).event(db.known)).collect()
    }

    /// Its last entry, if there are as many as may be looked at: what is older was not looked at.
    async fn last(&self, db: &mut Session<'_>, filter: &EventFilter) -> StoreResult<Option<String>> {
        let mut sql = Builder::new("");
        self.push(&mut sql, filter, "e.id");
        sql.push(" LIMIT 1 OFFSET ").push_bind(self.rows - 1);
        let row = sql.build().persistent(false).fetch_optional(&mut *db.conn).await?;
        row.map(|row| Fields::new(&row).get()).transpose()
    }

    /// The stretch, newest first.
    fn push(&self, sql: &mut Builder, filter: &EventFilter, columns: &str) {
        let named = NAMED.iter().find(|(index, _)| *index == self.index).map_or("", |(_, name)| name);
        sql.push("SELECT ").push(columns).push(" FROM gw_events e").push(named);
        sql.push(" WHERE e.id < ").push_bind(self.before.clone());
        if !self.from.is_empty() {
            sql.push(" AND e.id >= ").push_bind(self.from.clone());
        }
        let (org, installation) =
            (filter.org.as_ref().map(OrgId::as_str), filter.installation.as_ref().map(InstallationId::as_str));
        let bound = match self.index {
            Index::Org => Some((" AND e.org_id = ", org)),
            Index::Installation => Some((" AND e.installation_id = ", installation)),
            Index::DeliveryId => Some((" AND e.provider_delivery_id = ", filter.provider_delivery_id.as_deref())),
            Index::Backdated if org.is_some() => Some((concat!(" AND ", is_backdated!(), " AND e.org_id = "), org)),
            Index::Backdated => {
                sql.push(concat!(" AND ", is_backdated!()));
                None
            }
            Index::Unrouted => {
                // Spelled out: the index is partial.
                sql.push(" AND e.outcome = 'unrouted'");
                None
            }
            Index::Everything => None,
        };
        if let Some((condition, value)) = bound {
            sql.push(condition).push_bind(text(value.unwrap_or_default()).into_owned());
        }
        sql.push(" ORDER BY e.id DESC");
    }
}

/// Everything that was asked for but the delivery id, whatever of it the stretch knows already.
fn push_conditions(sql: &mut Builder, filter: &EventFilter) {
    let conditions = [
        (" AND e.org_id = ", filter.org.as_ref().map(OrgId::as_str)),
        (" AND e.provider = ", filter.provider.as_deref()),
        (" AND e.installation_id = ", filter.installation.as_ref().map(InstallationId::as_str)),
        (" AND e.outcome = ", filter.outcome.map(EventOutcome::as_str)),
        (" AND e.event_key = ", filter.key.as_deref()),
    ];
    push_given(sql, conditions);
    if let Some(since) = filter.since {
        sql.push(" AND e.received_at >= ").push_bind(since.0);
    }
    if let Some(until) = filter.until {
        sql.push(" AND e.received_at < ").push_bind(until.0);
    }
    match filter.held {
        Some(true) => sql.push(" AND e.held"),
        Some(false) => sql.push(" AND NOT e.held"),
        None => sql,
    };
}
