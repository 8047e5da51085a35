//! The database of a run: made, filled, measured, removed.
//!
//! **Owns** seeding: rows are copied inside the database from rows that the gateway wrote itself, with new ids, so that
//! their shape is always the gateway's own and ten million take minutes.
//!
//! **Invariants.** Nothing is seeded while a gateway runs. A PostgreSQL database is made for one run and removed after
//! it.

use std::{
    ops::AddAssign,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use signalbox::{
    model::clock::{Clock, SystemClock},
    sim::SimulatedProvider,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use crate::{goal::DatabaseKind, meter, tenant_ids};

/// Rows copied by one statement.
const STEP: u64 = 50_000;
/// Between two seeded events: ten million fit into a day.
const MS_APART: u64 = 8;
/// The owner of leases of a process that is gone.
const GONE: &str = "node_that_is_gone";

/// A run's database.
#[derive(Debug)]
pub struct Database {
    /// Its kind.
    pub kind: DatabaseKind,
    /// `[database] url`.
    pub url: String,
    file: PathBuf,
    /// The server it was made on, and its name there.
    made_on: Option<(String, String)>,
    /// Rows copied so far, so that ids differ.
    copied: u64,
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sizes {
    /// Everything, write-ahead logs left out.
    pub all: f64,
    /// The table of events with the payloads, without its indexes.
    pub events: f64,
    /// The indexes of the table of events.
    pub event_indexes: f64,
    /// All indexes.
    pub indexes: f64,
    /// The payloads as they were received.
    pub payloads: f64,
    /// Events stored.
    pub count: f64,
}

impl AddAssign for Sizes {
    fn add_assign(&mut self, other: Self) {
        self.all += other.all;
        self.events += other.events;
        self.event_indexes += other.event_indexes;
        self.indexes += other.indexes;
        self.payloads += other.payloads;
        self.count += other.count;
    }
}

enum Link {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Link {
    async fn run(&mut self, sql: &str) -> anyhow::Result<u64> {
        let safe = AssertSqlSafe(sql.to_owned());
        let done = match self {
            Self::Sqlite(link) => sqlx::raw_sql(safe).execute(link).await.map(|done| done.rows_affected()),
            Self::Postgres(link) => sqlx::raw_sql(safe).execute(link).await.map(|done| done.rows_affected()),
        };
        done.with_context(|| format!("while running {sql}"))
    }

    async fn number(&mut self, sql: &str) -> anyhow::Result<i64> {
        let safe = AssertSqlSafe(sql.to_owned());
        let number = match self {
            Self::Sqlite(link) => sqlx::query_scalar::<_, Option<i64>>(safe).fetch_one(link).await,
            Self::Postgres(link) => sqlx::query_scalar::<_, Option<i64>>(safe).fetch_one(link).await,
        };
        Ok(number.with_context(|| format!("while asking {sql}"))?.unwrap_or(0))
    }

    async fn texts(&mut self, sql: &str) -> anyhow::Result<Vec<String>> {
        let safe = AssertSqlSafe(sql.to_owned());
        let texts = match self {
            Self::Sqlite(link) => sqlx::query_scalar::<_, String>(safe).fetch_all(link).await,
            Self::Postgres(link) => sqlx::query_scalar::<_, String>(safe).fetch_all(link).await,
        };
        texts.with_context(|| format!("while asking {sql}"))
    }

    async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(link) => link.close().await?,
            Self::Postgres(link) => link.close().await?,
        }
        Ok(())
    }
}

/// The server's URL with another database's name.
fn url_of(server: &str, name: &str) -> anyhow::Result<String> {
    let (scheme, rest) = server.split_once("://").context("--postgres is no URL")?;
    let (place, options) = rest.split_once('?').map_or((rest, String::new()), |(place, o)| (place, format!("?{o}")));
    let host = place.split_once('/').map_or(place, |(host, _)| host);
    Ok(format!("{scheme}://{host}/{name}{options}"))
}

impl Database {
    /// A file in `directory`, or a database of its own on the server that `postgres` names.
    pub async fn create(directory: &Path, postgres: Option<&str>) -> anyhow::Result<Self> {
        let file = directory.canonicalize()?.join("load.db");
        let Some(server) = postgres else {
            let url = format!("sqlite://{}", file.display());
            return Ok(Self { kind: DatabaseKind::Sqlite, url, file, made_on: None, copied: 0 });
        };
        let name = format!("signalbox_load_{}_{}", std::process::id(), SystemClock.now().0);
        let mut admin = Link::Postgres(PgConnection::connect(server).await.context("no PostgreSQL")?);
        admin.run(&format!("CREATE DATABASE {name}")).await?;
        admin.close().await?;
        let url = url_of(server, &name)?;
        Ok(Self { kind: DatabaseKind::Postgres, url, file, made_on: Some((server.to_owned(), name)), copied: 0 })
    }

    /// Removes it, if it is on a server; a file goes with its directory.
    pub async fn remove(self) -> anyhow::Result<()> {
        if let Some((server, name)) = &self.made_on {
            let mut admin = Link::Postgres(PgConnection::connect(server).await?);
            admin.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await?;
            admin.close().await?;
        }
        Ok(())
    }

    async fn open(&self) -> anyhow::Result<Link> {
        Ok(match self.kind {
            DatabaseKind::Sqlite => Link::Sqlite(SqliteConnection::connect(&self.url).await?),
            DatabaseKind::Postgres => Link::Postgres(PgConnection::connect(&self.url).await?),
        })
    }

    /// The first process of the server, if it is on this machine.
    pub async fn postmaster(&self) -> anyhow::Result<Option<u32>> {
        if self.kind == DatabaseKind::Sqlite {
            return Ok(None);
        }
        let mut link = self.open().await?;
        let own = link.number("SELECT pg_backend_pid()::bigint").await?;
        let postmaster = u32::try_from(own).ok().and_then(|pid| meter::parent_of(pid, "postgres"));
        link.close().await?;
        Ok(postmaster)
    }

    /// How many rows there are of what stands behind `FROM`: a table, and a condition if there is one.
    pub async fn count(&self, from: &str) -> anyhow::Result<u64> {
        let mut link = self.open().await?;
        let count = link.number(&format!("SELECT count(*) FROM {from}")).await?;
        link.close().await?;
        Ok(count.unsigned_abs())
    }

    /// Rows of deliveries of these orgs.
    pub async fn count_deliveries_of(&self, orgs: &[&str]) -> anyhow::Result<u64> {
        if orgs.is_empty() {
            return Ok(0);
        }
        self.count(&format!("gw_deliveries WHERE org_id IN ('{}')", orgs.join("', '"))).await
    }

    /// Fills the store to `goal` delivered events, copies of the newest that there is.
    pub async fn seed_events(&mut self, goal: u64) -> anyhow::Result<()> {
        let there = self.count("gw_events").await?;
        let mut seeding = self.begin().await?;
        let missing = goal.saturating_sub(there);
        let event = seeding.one("SELECT id FROM gw_events WHERE outcome = 'routed' ORDER BY id DESC LIMIT 1").await?;
        let of = format!("event_id = '{event}' AND status = 'delivered'");
        let delivery = seeding.one(&format!("SELECT id FROM gw_deliveries WHERE {of} LIMIT 1")).await?;
        let time = seeding.time(missing);
        seeding.copy_event(&event, missing, &time).await?;
        seeding
            .copy("gw_deliveries", &format!("id = '{delivery}'"), missing, &|column, sql| match column {
                "id" => Some(sql.id("dlv_", &time)),
                "event_id" => Some(sql.id("evt_", &time)),
                "due_at" | "created_at" | "finished_at" => Some(time.clone()),
                _ => None,
            })
            .await?;
        seeding
            .copy("gw_attempts", &format!("delivery_id = '{delivery}'"), missing, &|column, sql| match column {
                "id" => Some(sql.id("att_", &time)),
                "delivery_id" => Some(sql.id("dlv_", &time)),
                "started_at" => Some(time.clone()),
                _ => None,
            })
            .await?;
        self.copied = seeding.end(missing).await?;
        Ok(())
    }

    /// Adds this many deliveries of the newest event, under leases of a process that is gone.
    pub async fn seed_open_deliveries(&mut self, count: u64) -> anyhow::Result<()> {
        let mut seeding = self.begin().await?;
        let delivery = seeding.one("SELECT id FROM gw_deliveries ORDER BY id DESC LIMIT 1").await?;
        let event = seeding.one("SELECT id FROM gw_events ORDER BY id DESC LIMIT 1").await?;
        let time = seeding.time(count);
        let lease = SystemClock.now().0 + 60_000;
        seeding.copy_event(&event, count, &time).await?;
        seeding
            .copy("gw_deliveries", &format!("id = '{delivery}'"), count, &|column, sql| match column {
                "id" => Some(sql.id("dlv_", &time)),
                "event_id" => Some(sql.id("evt_", &time)),
                "status" => Some("'pending'".to_owned()),
                "attempts" => Some("0".to_owned()),
                "is_retry" => Some(sql.no()),
                "due_at" => Some(lease.to_string()),
                "lease_owner" => Some(format!("'{GONE}'")),
                "created_at" => Some(time.clone()),
                "finished_at" | "reason" => Some("NULL".to_owned()),
                _ => None,
            })
            .await?;
        self.copied = seeding.end(count).await?;
        Ok(())
    }

    /// Copies the one installation of a group, made over the API, until there are `installations`, each with its
    /// resource and its integrations.
    pub async fn seed_installations(
        &mut self,
        provider: &SimulatedProvider,
        base: usize,
        installations: u64,
    ) -> anyhow::Result<()> {
        let prefixes = tenant_ids::prefixes(provider);
        let missing = installations.saturating_sub(1);
        let mut seeding = self.begin().await?;
        let first = seeding.copied;
        let numbered = |prefix: &str| format!("'{prefix}' || CAST({base} + i - {first} + 1 AS TEXT)");
        let external = format!("{}{base:07}", prefixes.installation);
        let of = format!("provider = '{}' AND external_id = '{external}'", provider.slug);
        let installation = seeding.one(&format!("SELECT id FROM gw_installations WHERE {of}")).await?;
        let of = format!("installation_id = '{installation}'");
        let resource = seeding.one(&format!("SELECT id FROM gw_resources WHERE {of}")).await?;
        let integrations =
            seeding.link.texts(&format!("SELECT id FROM workspace_integrations WHERE {of} ORDER BY id")).await?;
        let time = seeding.time(missing);
        seeding
            .copy("gw_installations", &format!("id = '{installation}'"), missing, &|column, sql| match column {
                "id" => Some(sql.id("in_", &time)),
                "external_id" => Some(numbered(prefixes.installation)),
                "alternate_external_id" => prefixes.alternate.map(numbered),
                _ => None,
            })
            .await?;
        seeding
            .copy("gw_resources", &format!("id = '{resource}'"), missing, &|column, sql| match column {
                "id" => Some(sql.id("res_", &time)),
                "installation_id" => Some(sql.id("in_", &time)),
                "provider_resource_id" => Some(numbered(prefixes.resource)),
                _ => None,
            })
            .await?;
        for (place, integration) in integrations.iter().enumerate() {
            let prefix = format!("int_{place:02x}");
            seeding
                .copy(
                    "workspace_integrations",
                    &format!("id = '{integration}'"),
                    missing,
                    &|column, sql| match column {
                        "id" => Some(sql.id(&prefix, &time)),
                        "installation_id" => Some(sql.id("in_", &time)),
                        "resource_id" => Some(sql.id("res_", &time)),
                        _ => None,
                    },
                )
                .await?;
        }
        self.copied = seeding.end(missing).await?;
        Ok(())
    }

    /// A link that copies rows.
    pub async fn begin(&self) -> anyhow::Result<Seeding> {
        let mut link = self.open().await?;
        match self.kind {
            DatabaseKind::Sqlite => {
                // Whatever breaks here breaks a run that is begun again from nothing.
                for pragma in
                    ["journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000", "temp_store = MEMORY"]
                {
                    link.run(&format!("PRAGMA {pragma}")).await?;
                }
            }
            DatabaseKind::Postgres => {
                link.run("SET synchronous_commit = off").await?;
            }
        }
        Ok(Seeding { kind: self.kind, link, copied: self.copied, now: SystemClock.now().0 })
    }

    /// Done copying this many rows of each table.
    pub async fn end(&mut self, seeding: Seeding, count: u64) -> anyhow::Result<()> {
        self.copied = seeding.end(count).await?;
        if self.kind == DatabaseKind::Sqlite {
            // Else the gateway's first commit waits for gigabytes that it did not write.
            std::fs::File::open(&self.file)?.sync_all()?;
        }
        Ok(())
    }

    /// Its name for people.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            DatabaseKind::Sqlite => "SQLite",
            DatabaseKind::Postgres => "PostgreSQL",
        }
    }

    /// Sizes now. Call it when no gateway runs.
    pub async fn sizes(&self) -> anyhow::Result<Sizes> {
        let mut link = self.open().await?;
        if self.kind == DatabaseKind::Sqlite {
            link.run("PRAGMA wal_checkpoint(TRUNCATE)").await?;
        }
        let mut number = async |sql: &str| link.number(sql).await.map(|bytes| bytes as f64);
        let sizes = match self.kind {
            DatabaseKind::Sqlite => {
                let pages = |of: &str| format!("SELECT sum(pgsize) FROM dbstat WHERE name {of}");
                let indexes = "IN (SELECT name FROM sqlite_schema WHERE type = 'index'";
                Sizes {
                    all: std::fs::metadata(&self.file).map_or(0.0, |file| file.len() as f64),
                    events: number(&pages("= 'gw_events'")).await?,
                    event_indexes: number(&pages(&format!("{indexes} AND tbl_name = 'gw_events')"))).await?,
                    indexes: number(&pages(&format!("{indexes})"))).await?,
                    payloads: number("SELECT sum(payload_bytes) FROM gw_events").await?,
                    count: number("SELECT count(*) FROM gw_events").await?,
                }
            }
            DatabaseKind::Postgres => Sizes {
                all: number("SELECT pg_database_size(current_database())").await?,
                events: number("SELECT pg_table_size('gw_events')").await?,
                event_indexes: number("SELECT pg_indexes_size('gw_events')").await?,
                indexes: number("SELECT sum(pg_indexes_size(relid))::bigint FROM pg_stat_user_tables").await?,
                payloads: number("SELECT sum(payload_bytes)::bigint FROM gw_events").await?,
                count: number("SELECT count(*) FROM gw_events").await?,
            },
        };
        link.close().await?;
        Ok(sizes)
    }
}

/// A connection that copies rows.
pub struct Seeding {
    kind: DatabaseKind,
    link: Link,
    copied: u64,
    now: i64,
}

/// What the dialects say differently. `i` is the number of the row, unlike any before.
#[derive(Debug, Clone, Copy)]
pub struct Dialect(DatabaseKind);

impl Dialect {
    /// An id that sorts by `time`, as the gateway's own do.
    pub fn id(self, prefix: &str, time: &str) -> String {
        let hex = 36 - prefix.len().clamp(4, 8);
        match self.0 {
            DatabaseKind::Sqlite => {
                format!("'{prefix}' || printf('%012x7%03x8%0{}x', {time}, i % 4096, i)", hex - 17)
            }
            DatabaseKind::Postgres => format!(
                "'{prefix}' || lpad(to_hex({time}), 12, '0') || '7' || lpad(to_hex(i % 4096), 3, '0') || '8' || \
                 lpad(to_hex(i), {}, '0')",
                hex - 17
            ),
        }
    }

    /// As random as a provider's ids are.
    pub fn random_id(self) -> String {
        match self.0 {
            DatabaseKind::Sqlite => "lower(hex(randomblob(18)))".to_owned(),
            DatabaseKind::Postgres => "gen_random_uuid()::text".to_owned(),
        }
    }

    fn random_bytes(self) -> String {
        match self.0 {
            DatabaseKind::Sqlite => "randomblob(32)".to_owned(),
            DatabaseKind::Postgres => "decode(md5(random()::text) || md5(i::text), 'hex')".to_owned(),
        }
    }

    fn no(self) -> String {
        match self.0 {
            DatabaseKind::Sqlite => "0".to_owned(),
            DatabaseKind::Postgres => "false".to_owned(),
        }
    }

    /// A condition as a value.
    pub fn is(self, condition: &str) -> String {
        match self.0 {
            DatabaseKind::Sqlite => format!("CASE WHEN {condition} THEN 1 ELSE 0 END"),
            DatabaseKind::Postgres => format!("({condition})"),
        }
    }

    fn rows(self, from: u64, to: u64) -> String {
        match self.0 {
            DatabaseKind::Sqlite => format!(
                "WITH RECURSIVE series(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM series WHERE i < {to} - 1)"
            ),
            DatabaseKind::Postgres => {
                format!("WITH series(i) AS (SELECT generate_series({from}::bigint, {to}::bigint - 1))")
            }
        }
    }
}

impl Seeding {
    /// The one text that a statement finds.
    pub async fn one(&mut self, sql: &str) -> anyhow::Result<String> {
        let found = self.link.texts(sql).await?;
        found.into_iter().next().with_context(|| format!("there is no row to copy: {sql}"))
    }

    /// The number of the first row it copies.
    pub fn first_row(&self) -> u64 {
        self.copied
    }

    /// When it began, milliseconds.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// The time of row `i`: the last is now.
    fn time(&self, count: u64) -> String {
        let first = self.now - (count * MS_APART).cast_signed();
        format!("({first} + (i - {}) * {MS_APART})", self.copied)
    }

    /// Inserts `count` copies of an event, each as fresh as one of a provider's.
    async fn copy_event(&mut self, event: &str, count: u64, time: &str) -> anyhow::Result<()> {
        self.copy("gw_events", &format!("id = '{event}'"), count, &|column, sql| match column {
            "id" => Some(sql.id("evt_", time)),
            "provider_delivery_id" => Some(sql.random_id()),
            "body_digest" => Some(sql.random_bytes()),
            "received_at" => Some(time.to_owned()),
            _ => None,
        })
        .await
    }

    /// Inserts `count` copies of the row that `of` finds, with other values where `other` gives some.
    pub async fn copy(
        &mut self,
        table: &str,
        of: &str,
        count: u64,
        other: &(dyn Fn(&str, Dialect) -> Option<String> + Sync),
    ) -> anyhow::Result<()> {
        let dialect = Dialect(self.kind);
        let columns = match self.kind {
            DatabaseKind::Sqlite => format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid"),
            DatabaseKind::Postgres => format!(
                "SELECT column_name::text FROM information_schema.columns WHERE table_name = '{table}' \
                 ORDER BY ordinal_position"
            ),
        };
        let columns = self.link.texts(&columns).await?;
        if columns.is_empty() {
            bail!("there is no table {table}");
        }
        let values: Vec<String> = columns
            .iter()
            .map(|column| other(column, dialect).unwrap_or_else(|| format!("template.{column}")))
            .collect();
        let (columns, values) = (columns.join(", "), values.join(", "));
        let mut done = 0;
        while done < count {
            let step = STEP.min(count - done);
            let rows = dialect.rows(self.copied + done, self.copied + done + step);
            self.link
                .run(&format!(
                    "{rows} INSERT INTO {table} ({columns}) SELECT {values} FROM series, \
                     (SELECT * FROM {table} WHERE {of}) AS template"
                ))
                .await?;
            done += step;
            if count >= 10 * STEP {
                eprint!("\r  seeding {table}: {done} of {count} ");
            }
        }
        if count >= 10 * STEP {
            eprintln!();
        }
        Ok(())
    }

    /// Leaves the database as a gateway would find it after a quiet while; how many rows have been copied in all.
    async fn end(mut self, count: u64) -> anyhow::Result<u64> {
        match self.kind {
            DatabaseKind::Sqlite => {
                self.link.run("PRAGMA optimize").await?;
                self.link.run("PRAGMA journal_mode = WAL").await?;
            }
            DatabaseKind::Postgres => {
                self.link.run("VACUUM ANALYZE").await?;
                self.link.run("CHECKPOINT").await?;
            }
        }
        self.link.close().await?;
        Ok(self.copied + count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_ones_own_has_the_servers_url_but_for_its_name() {
        for (server, expected) in [
            ("postgres://u:p@h:5432/postgres", "postgres://u:p@h:5432/mine"),
            ("postgres://h", "postgres://h/mine"),
            ("postgres://h/x?sslmode=disable", "postgres://h/mine?sslmode=disable"),
        ] {
            assert_eq!(url_of(server, "mine").expect("a URL"), expected);
        }
        assert!(url_of("nowhere", "mine").is_err());
    }

    #[tokio::test]
    async fn deliveries_are_counted_of_the_orgs_asked_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let database = Database::create(directory.path(), None).await.expect("a database");
        std::fs::write(directory.path().join("load.db"), b"").expect("a file");
        let mut link = database.open().await.expect("opened");
        link.run("CREATE TABLE gw_deliveries (org_id TEXT)").await.expect("a table");
        link.run("INSERT INTO gw_deliveries VALUES ('down'), ('down'), ('good'), ('hanging')").await.expect("rows");
        link.close().await.expect("closed");
        for (orgs, expected) in [(vec!["down", "hanging"], 3), (vec!["good"], 1), (vec![], 0)] {
            assert_eq!(database.count_deliveries_of(&orgs).await.expect("counted"), expected, "{orgs:?}");
        }
    }

    #[tokio::test]
    async fn copies_have_ids_in_order_of_time_and_everything_else_of_their_template() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut database = Database::create(directory.path(), None).await.expect("a database");
        std::fs::write(directory.path().join("load.db"), b"").expect("a file");
        let mut link = database.open().await.expect("opened");
        link.run("CREATE TABLE gw_events (id TEXT PRIMARY KEY, colour TEXT)").await.expect("a table");
        link.run("INSERT INTO gw_events VALUES ('evt_0', 'blue')").await.expect("a row");
        link.close().await.expect("closed");
        for _ in 0..2 {
            let mut seeding = database.begin().await.expect("a link");
            let time = seeding.time(1000);
            let copy = |column: &str, sql: Dialect| (column == "id").then(|| sql.id("evt_", &time));
            seeding.copy("gw_events", "id = 'evt_0'", 1000, &copy).await.expect("copied");
            database.copied = seeding.end(1000).await.expect("ended");
        }
        let mut link = database.open().await.expect("opened");
        let ids = link.texts("SELECT id FROM gw_events WHERE colour = 'blue' ORDER BY rowid").await.expect("ids");
        assert_eq!(ids.len(), 2001);
        assert!(ids[1..=1000].is_sorted() && ids[1].len() == 36, "{}", ids[1]);
    }
}
