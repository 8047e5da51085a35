//! The database under a test.

use std::path::Path;

use super::postgres;

/// A database of this test alone.
#[derive(Debug)]
pub enum Backend {
    /// A file in the test's directory.
    Sqlite,
    /// A database on a server that others use too.
    Postgres(postgres::Database),
}

impl Backend {
    /// A fresh SQLite file.
    pub fn sqlite() -> Self {
        Self::Sqlite
    }

    /// A fresh PostgreSQL database, or `None`, said aloud, on a machine without a server. With `REQUIRE_POSTGRES=1`
    /// that is a failure.
    pub async fn postgres() -> Option<Self> {
        let database = postgres::fresh_database().await;
        if database.is_none() {
            let required = std::env::var_os("REQUIRE_POSTGRES").is_some_and(|value| value == "1");
            assert!(!required, "REQUIRE_POSTGRES=1 and there is no PostgreSQL");
            eprintln!("SKIPPED: no PostgreSQL on this machine");
        }
        database.map(Self::Postgres)
    }

    /// What `[database] url` must say.
    pub fn url(&self, directory: &Path) -> String {
        match self {
            Self::Sqlite => format!("sqlite://{}", directory.join("signalbox.db").display()),
            Self::Postgres(database) => database.url.clone(),
        }
    }

    /// Its name, for what a test prints.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        }
    }
}
