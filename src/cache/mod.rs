//! Caches. One rule: emptying any of them changes speed, never an answer (`promises.md` P13), which the suite proves by
//! running with caches off.
//!
//! **Owns** what is kept in memory of rows that the database has. **Invariants**: everything has a bounded count and a
//! bounded age, so that a change on another node is seen even if its notification is lost. **Must not know** the store:
//! whoever misses loads and puts.

mod failures;
mod routes;

pub use self::{failures::FailureCounts, routes::RouteCache};
