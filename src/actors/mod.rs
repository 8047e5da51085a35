//! The actors, and everything that other rooms ask of the gateway while it runs.
//!
//! Four actors: a router for each HTTP worker ([`webhook_router`]), a supervisor for each installation that was asked for
//! lately ([`installation`], found or started by the [`directory`]), the [`dispatcher`] and the [`janitor`]. `app.rs` starts
//! them bottom-up, each with those it needs, and stops them top-down: routers, dispatcher, janitor, supervisors. The other
//! modules are plain async functions, on handles of their own or on the directory's.
//!
//! **Owns** every use of `actix::`. **Invariants**: other rooms hold handles, never an `Addr`; each question has a time
//! limit, and its failure says whether the actor was busy, gone or too slow, or what it answered ([`AskError`]); what an
//! actor knows is a copy of rows, so one that panicked is replaced and nothing is lost. **Must not know** HTTP's inbound
//! side or SQL.

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
