//! What the dispatcher's actor is told.

use std::convert::Infallible;

use actix::Message;

/// Something may be claimable: look at the queue and the retries that are due. Many wakes waiting are one.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Wake;

/// A copy of the state for people.
#[derive(Message)]
#[rtype(result = "Result<serde_json::Value, Infallible>")]
pub(super) struct Snapshot;

/// Panics, as a defect would.
#[cfg(test)]
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Poison;
