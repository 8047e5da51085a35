//! What every actor shares: isolation from panics, and asking with a time limit.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use actix::{Actor, Addr, Handler, MailboxError, Message, dev::ToEnvelope};
use futures_util::FutureExt;

use super::AskError;

/// A future panicked. The panic itself went to the log through the panic hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task panicked")]
pub struct Panicked;

/// Runs a future so that its panic becomes an error of whoever waits, and nobody else's.
pub async fn isolate<F: Future>(future: F) -> Result<F::Output, Panicked> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|_panic| Panicked)
}

/// Sends a message and waits for its reply, at the most `limit`.
pub async fn ask<A, M, T, E>(address: &Addr<A>, message: M, limit: Duration) -> Result<T, AskError<E>>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message<Result = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    match tokio::time::timeout(limit, address.send(message)).await {
        Err(_elapsed) => Err(AskError::TimedOut),
        Ok(Err(MailboxError::Closed)) => Err(AskError::Gone),
        Ok(Err(MailboxError::Timeout)) => Err(AskError::TimedOut),
        Ok(Ok(reply)) => reply.map_err(AskError::Reply),
    }
}
