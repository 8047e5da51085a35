//! What waits for its commit, as an event or in quarantine: bounded, because a database may stand still for longer than
//! any provider waits.
//!
//! **Owns** the count of those bytes. **Invariants**: what was added is given back by dropping it. **Must not know** what
//! waits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What a webhook weighs beside its body while it waits.
const WEBHOOK_BYTES: usize = 4096;

/// The weight of one webhook that waits for its commit; given back when dropped.
pub(super) struct Uncommitted {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Uncommitted {
    /// Adds a body, unless too much waits already. One alone is let in whatever its size.
    pub(super) fn add(total: &Arc<AtomicUsize>, body: usize, limit: usize) -> Option<Self> {
        let bytes = body.saturating_add(WEBHOOK_BYTES);
        let waiting = Self { total: total.clone(), bytes };
        let others = total.fetch_add(bytes, Ordering::AcqRel);
        (others == 0 || others.saturating_add(bytes) <= limit).then_some(waiting)
    }
}

impl Drop for Uncommitted {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
