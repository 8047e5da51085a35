//! Every query that both databases understand, written once.
//!
//! `sqlite/mod.rs` and `postgres/mod.rs` each include this folder (`#[path]`), so it is compiled for both drivers:
//! `Db` is the including module's. **Owns** the SQL and the reading of rows. **Invariants**: `$1` placeholders, times as
//! BIGINT milliseconds, JSON as TEXT; text that comes from outside goes through [`text`]; columns are read in the order
//! of the lists in `columns.rs`. **Must not know** pools and transactions: it is given a [`Session`].
//!
//! What a dialect forces comes from the including module: the macros `skip_locked!`, `lease_is_over!`, `earlier_now!`,
//! `shared_now!`, `for_update!`, `in_list!`, `by_index!`, `is_backdated!`, `table_exists!`, and the functions `notify` and
//! `unhurried`.

use std::borrow::Cow;

use sqlx::{Database, Row as _, query::Query};

use super::super::{Found, Page, PageRequest, StoreError, StoreResult, known::KnownProviders};
pub(super) use super::{Db, notify, unhurried};
use crate::model::clock::EpochMs;

#[macro_use]
mod columns;
pub(super) mod activity;
pub(super) mod backfill_runs;
pub(super) mod batch;
pub(super) mod census;
pub(super) mod claims;
pub(super) mod dead_letters;
pub(super) mod deliveries;
pub(super) mod delivery_search;
pub(super) mod destinations;
pub(super) mod event_search;
pub(super) mod events;
pub(super) mod flows;
pub(super) mod heal_runs;
pub(super) mod installations;
pub(super) mod integrations;
pub(super) mod keys;
pub(super) mod leases;
pub(super) mod log;
pub(super) mod migrations;
pub(super) mod overview;
pub(super) mod quarantine;
pub(super) mod readdress;
pub(super) mod records;
pub(super) mod retention;
mod row_statement;
mod rows;
pub(super) mod sealed;
pub(super) mod sessions;
pub(super) mod teardowns;
pub(super) mod tokens;

pub(super) type Conn = <Db as Database>::Connection;
type Row = <Db as Database>::Row;
type Arguments = <Db as Database>::Arguments;
type Builder = sqlx::QueryBuilder<Db>;

/// A connection, perhaps within a transaction, and what reading rows needs.
pub(super) struct Session<'c> {
    pub(super) conn: &'c mut Conn,
    pub(super) known: &'c KnownProviders,
}

fn query(sql: &'static str) -> Query<'static, Db, Arguments> {
    sqlx::query::<Db>(sql)
}

/// Text that came from outside, as both databases can store it: PostgreSQL has no U+0000 in its texts, so it becomes
/// U+FFFD, in stored values and in what they are compared with alike.
fn text(raw: &str) -> Cow<'_, str> {
    if raw.contains('\0') { Cow::Owned(raw.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(raw) }
}

/// Ids for `in_list!`: a JSON array of texts.
fn list<'i>(ids: impl IntoIterator<Item = &'i str>) -> String {
    serde_json::Value::from_iter(ids).to_string()
}

/// Greater than every id.
const PAST_EVERY_ID: &str = "\u{7f}";

/// The smallest possible id of that moment, for ids that begin with their time.
fn id_floor(prefix: &str, at: EpochMs) -> String {
    format!("{prefix}{:012x}", u64::try_from(at.0).unwrap_or(0))
}

/// The time in an id that begins with one; the epoch for a text that is no such id.
fn time_of_id(prefix: &str, id: &str) -> EpochMs {
    let digits = id.strip_prefix(prefix).and_then(|rest| rest.get(..12));
    EpochMs(digits.and_then(|digits| i64::from_str_radix(digits, 16).ok()).unwrap_or(0))
}

/// Of these conditions, each the beginning of one and what it compares with, those whose value is given.
fn push_given<const N: usize>(sql: &mut Builder, conditions: [(&'static str, Option<&str>); N]) {
    for (condition, value) in conditions {
        if let Some(value) = value {
            sql.push(condition).push_bind(text(value).into_owned());
        }
    }
}

/// One row more than asked for tells whether there is a next page.
fn rows_wanted(page: PageRequest<'_>) -> i64 {
    i64::from(page.limit.clamp(1, 100)) + 1
}

fn page<T>(mut items: Vec<T>, request: PageRequest<'_>, id: impl Fn(&T) -> &str) -> Page<T> {
    let limit = request.limit.clamp(1, 100) as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|last| id(last).to_owned());
    Page { items, next_cursor }
}

/// What a search found: a page, or else what was on the way to the last entry that it looked at, if there are more.
fn found<T>(page: Page<T>, stopped_at: Option<String>, prefix: &str) -> Found<T> {
    if page.next_cursor.is_some() {
        return Found { items: page.items, next_cursor: page.next_cursor, searched_back_to: None };
    }
    let searched_back_to = stopped_at.as_deref().map(|id| time_of_id(prefix, id));
    Found { items: page.items, next_cursor: stopped_at, searched_back_to }
}

/// Counts are never negative and never near 2^63.
fn count(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}

/// Reads a row's columns from left to right.
struct Fields<'r> {
    row: &'r Row,
    next: usize,
    table: &'static str,
    id: String,
}

impl<'r> Fields<'r> {
    fn new(row: &'r Row) -> Self {
        Self { row, next: 0, table: "", id: String::new() }
    }

    /// Reads a table's columns from the `first` one on, unless the row has nothing of that table.
    fn present<T>(
        row: &'r Row,
        first: usize,
        read: impl FnOnce(&mut Self) -> StoreResult<T>,
    ) -> StoreResult<Option<T>> {
        let mut fields = Self { next: first, ..Self::new(row) };
        if fields.get::<Option<&str>>()?.is_none() {
            return Ok(None);
        }
        fields.next = first;
        read(&mut fields).map(Some)
    }

    /// Begins a table's columns: the next one is its id, named in errors.
    fn begin(&mut self, table: &'static str) -> StoreResult<String> {
        self.table = table;
        self.id = self.get()?;
        Ok(self.id.clone())
    }

    fn get<'v, T>(&mut self) -> StoreResult<T>
    where
        T: sqlx::Decode<'v, Db> + sqlx::Type<Db>,
        'r: 'v,
    {
        let index = self.next;
        self.next += 1;
        Ok(self.row.try_get(index)?)
    }

    fn time(&mut self) -> StoreResult<EpochMs> {
        Ok(EpochMs(self.get()?))
    }

    fn maybe_time(&mut self) -> StoreResult<Option<EpochMs>> {
        Ok(self.get::<Option<i64>>()?.map(EpochMs))
    }

    /// A number that fits the model's type, or the row is inconsistent.
    fn number<T: TryFrom<i64>>(&mut self, column: &'static str) -> StoreResult<T> {
        let number: i64 = self.get()?;
        T::try_from(number).map_err(|_| self.inconsistent(column))
    }

    /// A word of an enum, or the row is inconsistent.
    fn word<T>(&mut self, column: &'static str, parse: impl Fn(&str) -> Option<T>) -> StoreResult<T> {
        let word: &str = self.get()?;
        parse(word).ok_or_else(|| self.inconsistent(column))
    }

    /// A JSON text of that shape, or the row is inconsistent.
    fn json<T: serde::de::DeserializeOwned>(&mut self, column: &'static str) -> StoreResult<T> {
        let json: &str = self.get()?;
        serde_json::from_str(json).map_err(|_| self.inconsistent(column))
    }

    /// A JSON text of that shape or nothing, or the row is inconsistent.
    fn maybe_json<T: serde::de::DeserializeOwned>(&mut self, column: &'static str) -> StoreResult<Option<T>> {
        let json: Option<&str> = self.get()?;
        json.map(|json| serde_json::from_str(json).map_err(|_| self.inconsistent(column))).transpose()
    }

    fn inconsistent(&self, column: &'static str) -> StoreError {
        StoreError::Inconsistent { table: self.table, column, row: self.id.clone() }
    }
}

/// The statements of `hot_statements`.
pub(super) fn hot_statements() -> Vec<(&'static str, &'static str)> {
    vec![
        ("find_live_installation", installations::FIND_BY_EXTERNAL_ID),
        ("find_live_installation by its alternate id", installations::FIND_BY_ALTERNATE_ID),
        ("find_installations_by_resource", installations::FIND_BY_RESOURCE),
        ("load_installation", records::LOAD),
        ("change_installation: destinations", records::DESTINATIONS),
        ("the existing event of a duplicate", batch::FIND_DUPLICATE),
        ("whether a body was seen under another delivery id", batch::FIND_REPLAY),
        ("claim_deliveries: first tries", claims::PICK_FIRST_TRIES),
        ("claim_deliveries: retries", claims::PICK_RETRIES),
        ("claim_deliveries: the lease", claims::LEASE),
        ("claim_deliveries: what was claimed", claims::READ_CLAIMED),
        ("claim_deliveries: its events", claims::READ_EVENTS),
        ("record_attempts: the results", batch::SET_RESULT),
        ("list_due_destinations", claims::DUE_DESTINATIONS),
        ("release_leases", leases::LIST_LEASED),
        ("hasten_deliveries", leases::LIST_BACKLOG),
        ("list_held", events::LIST_HELD),
        ("list_unrouted: of no account", events::LIST_NAMELESS),
        ("list_unrouted: a step through those", events::LAST_NAMELESS_OF_STEP),
        ("find_event_by_delivery_id", events::FIND_BY_DELIVERY_ID),
        ("find_event_detail: deliveries", deliveries::OF_EVENT),
        ("find_event_detail: attempts", deliveries::ATTEMPTS_OF_EVENT),
        ("find_key", keys::FIND),
        ("find_session", sessions::FIND),
        ("touch_session", sessions::TOUCH),
        ("revoke_key: its sessions", sessions::END_OF_KEY),
        ("delete_expired_sessions", sessions::DELETE_EXPIRED),
        ("find_teardown", teardowns::FIND),
        ("find_ended_installation", installations::FIND_ENDED),
        ("find_rhythm", events::FIND_RHYTHM),
        ("list_received", events::LIST_RECEIVED),
        ("find_token", tokens::FIND),
        ("list_expiring_tokens", tokens::LIST_EXPIRING),
        ("claim_token_refresh", tokens::CLAIM),
        ("find_flow", flows::FIND),
        ("bind_flow", flows::BIND),
        ("take_flow", flows::TAKE),
        ("list_due_teardowns", teardowns::LIST_DUE),
        ("claim_teardown", teardowns::CLAIM),
        ("cancel_backfill_runs", backfill_runs::CANCEL),
        ("begin_heal_run: the stale one", heal_runs::FAIL_THE_STALE),
        ("delete_expired: flows", retention::DELETE_FLOWS),
        ("list_activity", activity::LIST),
        ("delete_expired: activity", retention::DELETE_ACTIVITY),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_a_zero_character_is_left_alone() {
        assert!(matches!(text("plain"), Cow::Borrowed("plain")));
        assert_eq!(text("a\0b"), "a\u{fffd}b");
    }
}
