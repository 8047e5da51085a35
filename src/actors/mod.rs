//! Actors.

pub mod api_keys;
pub mod backfill;
pub mod binding;
mod clock_watch;
pub mod config_files;
pub mod connecting;
pub mod destinations;
pub mod directory;
pub mod dispatcher;
pub mod healing;
pub mod installation;
pub mod janitor;
mod last_seen;
pub mod provider_calls;
pub mod proxy;
pub mod resources;
pub mod runtime;
pub mod tokens;
mod transfers;
pub mod webhook_router;

use crate::model::error_kind::ErrorKind;

/// Why asking an actor gave no reply, or the reply's own error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError<E> {
    /// Its mailbox or its share of memory is full; try again.
    #[error("busy")]
    Busy,
    /// It stopped before it answered.
    #[error("gone")]
    Gone,
    /// It did not answer in time; whether it acted is not known.
    #[error("timed out")]
    TimedOut,
    /// It answered with an error.
    #[error(transparent)]
    Reply(E),
}

impl<E> AskError<E> {
    /// The stable code, `inner` telling the reply's.
    pub fn code(&self, inner: impl FnOnce(&E) -> &'static str) -> &'static str {
        match self {
            Self::Busy | Self::Gone | Self::TimedOut => "temporarily_unavailable",
            Self::Reply(error) => inner(error),
        }
    }

    /// The kind of failure, `inner` telling the reply's.
    pub fn kind(&self, inner: impl FnOnce(&E) -> ErrorKind) -> ErrorKind {
        match self {
            Self::Busy | Self::Gone | Self::TimedOut => ErrorKind::Unavailable,
            Self::Reply(error) => inner(error),
        }
    }
}
