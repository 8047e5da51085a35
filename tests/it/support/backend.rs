//! The database under a test.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

use super::postgres;

/// A database of this test alone.
#[derive(Debug)]
pub enum Backend {
    /// A file in the test's directory.
    Sqlite,
    /// A database on a server that others use too.
    Postgres(postgres::Database),
    /// The database of another node, which removes it.
    Shared {
        /// Where it is.
        url: String,
    },
}

impl Backend {
    /// A fresh SQLite file.
    pub fn sqlite() -> Self {
        Self::Sqlite
    }

    /// A fresh PostgreSQL database, or `None`, said aloud, on a machine without a server. With `REQUIRE_POSTGRES=1`
    /// that is a failure.
    pub async fn postgres() -> Option<Self> {
        postgres::Database::create(true).await.map(Self::Postgres)
    }

    /// The same without any tables: the first start makes them.
    pub async fn empty_postgres() -> Option<Self> {
        postgres::Database::create(false).await.map(Self::Postgres)
    }

    /// The database at that address, which its owner removes.
    pub fn at(url: String) -> Self {
        Self::Shared { url }
    }

    /// Removes the database, which nobody uses any more.
    pub async fn remove(self) {
        if let Self::Postgres(database) = self {
            database.drop_it().await;
        }
    }

    /// The same database for another node; `None` for a file, which one process serves from.
    pub fn shared(&self) -> Option<Self> {
        match self {
            Self::Sqlite => None,
            Self::Postgres(database) => Some(Self::Shared { url: database.url.clone() }),
            Self::Shared { url } => Some(Self::Shared { url: url.clone() }),
        }
    }

    /// What `[database] url` must say.
    pub fn url(&self, directory: &Path) -> String {
        match self {
            Self::Sqlite => format!("sqlite://{}", directory.join("signalbox.db").display()),
            Self::Postgres(database) => database.url.clone(),
            Self::Shared { url } => url.clone(),
        }
    }

    /// Executes statements on the database, whoever else uses it.
    pub async fn execute(&self, directory: &Path, sql: &str) {
        let url = self.url(directory);
        let done = match self {
            Self::Sqlite => {
                let mut connection = SqliteConnection::connect(&url).await.expect("opens");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.map(|_| ())
            }
            Self::Postgres(_) | Self::Shared { .. } => {
                let mut connection = PgConnection::connect(&url).await.expect("connects");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.map(|_| ())
            }
        };
        done.unwrap_or_else(|error| panic!("{error} in\n{sql}"));
    }

    /// What a statement that counts answers.
    pub async fn count(&self, directory: &Path, sql: &str) -> i64 {
        let (url, statement) = (self.url(directory), AssertSqlSafe(sql));
        let counted = match self {
            Self::Sqlite => {
                let mut connection = SqliteConnection::connect(&url).await.expect("opens");
                sqlx::query_scalar(statement).fetch_one(&mut connection).await
            }
            Self::Postgres(_) | Self::Shared { .. } => {
                let mut connection = PgConnection::connect(&url).await.expect("connects");
                sqlx::query_scalar(statement).fetch_one(&mut connection).await
            }
        };
        counted.unwrap_or_else(|error| panic!("{error} in\n{sql}"))
    }

    /// Everything in the database as text: the bytes of the file, or every row of every table.
    pub async fn dump(&self, directory: &Path) -> String {
        const ROWS: &str = "SELECT COALESCE(string_agg(xml.dump, ' '), '') FROM information_schema.tables t,
            LATERAL (SELECT query_to_xml(format('SELECT t::text FROM %I t', t.table_name), false, true, '')::text AS dump)
            xml WHERE t.table_schema = 'public'";
        if let Self::Sqlite = self {
            // Payloads are what the provider wrote, codes of its own included, and are kept as they came.
            self.execute(
                directory,
                "UPDATE gw_events SET payload = zeroblob(length(payload)); VACUUM; PRAGMA wal_checkpoint(TRUNCATE)",
            )
            .await;
            let files = ["signalbox.db", "signalbox.db-wal"].map(|name| std::fs::read(directory.join(name)));
            return files.into_iter().flatten().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
        }
        let mut connection = PgConnection::connect(&self.url(directory)).await.expect("connects");
        sqlx::query_scalar(ROWS).fetch_one(&mut connection).await.expect("a dump")
    }

    /// Its name, for what a test prints.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres(_) | Self::Shared { .. } => "PostgreSQL",
        }
    }
}
