//! Delivering: who gets an event and why the others do not, what is sent, how it is signed, where it may go, how a try can end and what follows from it.
//!
//! **Owns** the signature, the retry schedule, the address rules and the one HTTP client that talks to destinations.
//! **Invariants**: the bytes that are signed are the bytes that are sent; the address that was checked is the address
//! that is dialled; every way a POST can end is an [`AttemptResult`](crate::model::delivery::AttemptResult), never an
//! error to be propagated; secrets and header values never reach a log. **Must not know** actors, leases or who asked
//! for a delivery: everything here takes what it needs as arguments.

pub mod address;
pub mod client;
pub mod destination;
pub mod payload;
pub mod plan;
pub mod schedule;
pub mod sign;
