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

/// Runs a future as a task of its own on this thread, isolated; what it answers with is waited for.
///
/// For work that holds something others need (a database's lock) and is begun by an actor whose handlers make it wait:
/// while an actor waits for one future it polls none of its others, and one of those that holds the lock which the first
/// is waiting for would never give it back.
pub fn beside<F>(future: F) -> impl Future<Output = Result<F::Output, Panicked>>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let task = actix::spawn(isolate(future));
    async move { task.await.unwrap_or(Err(Panicked)) }
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use actix::Context;

    use super::*;

    struct Parrot;

    impl Actor for Parrot {
        type Context = Context<Self>;
    }

    /// What to do about it.
    #[derive(Message)]
    #[rtype(result = "Result<u8, Infallible>")]
    enum Say {
        Repeat(u8),
        Panic,
        Nothing,
    }

    impl Handler<Say> for Parrot {
        type Result = actix::ResponseFuture<Result<u8, Infallible>>;

        fn handle(&mut self, message: Say, _: &mut Context<Self>) -> Self::Result {
            match message {
                Say::Repeat(word) => Box::pin(async move { Ok(word) }),
                Say::Panic => panic!("the test's own"),
                Say::Nothing => Box::pin(std::future::pending()),
            }
        }
    }

    const PATIENT: Duration = Duration::from_secs(30);

    #[actix::test]
    async fn a_panic_becomes_an_error() {
        assert_eq!(isolate(async { 7 }).await, Ok(7));
        assert_eq!(isolate(async { panic!("the test's own") }).await, Err::<(), _>(Panicked));
    }

    #[actix::test]
    async fn an_ask_ends_with_the_reply_or_with_why_there_is_none() {
        let parrot = Parrot.start();
        assert_eq!(ask(&parrot, Say::Repeat(7), PATIENT).await, Ok(7));
        assert_eq!(ask(&parrot, Say::Nothing, Duration::from_millis(10)).await, Err(AskError::TimedOut));
        assert_eq!(ask(&parrot, Say::Panic, PATIENT).await, Err(AskError::Gone));
        assert_eq!(ask(&parrot, Say::Repeat(7), PATIENT).await, Err(AskError::Gone));
    }
}
