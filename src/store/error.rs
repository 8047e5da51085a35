//! What can go wrong in the store.

use crate::model::error_kind::ErrorKind;

/// A failure of the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A row with that unique key exists.
    #[error("a row with that key exists already in {table}")]
    NotUnique {
        /// The table.
        table: &'static str,
    },
    /// A row holds something its column cannot mean.
    #[error("inconsistent row in {table}: column {column} of {row}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's id.
        row: String,
    },
    /// The database cannot be reached, is locked, full, or did not answer in time. Worth trying again.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// Anything else the driver reported.
    #[error("the database refused: {0}")]
    Driver(String),
    /// The database cannot keep what it acknowledges.
    #[error("the database is not durable: {0}")]
    NotDurable(String),
    /// The database belongs to a newer Signalbox, or a migration failed.
    #[error("migrations: {0}")]
    Migration(String),
}

impl StoreError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotUnique { .. } => "already_exists",
            Self::Unavailable(_) => "store_unavailable",
            Self::Inconsistent { .. } | Self::Driver(_) | Self::NotDurable(_) | Self::Migration(_) => "internal_error",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotUnique { .. } => ErrorKind::Conflict,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Inconsistent { .. } | Self::Driver(_) | Self::NotDurable(_) | Self::Migration(_) => {
                ErrorKind::Internal
            }
        }
    }
}
