//! Turns: the mendings of one installation follow each other, those of different ones do not.
//!
//! **Invariants**: whose turn is over and who is not waited for is forgotten. That no event is routed twice is the store's
//! doing (`Rerouting::only_if`): other nodes mend, too.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

use crate::model::ids::InstallationId;

/// Who waits for whom.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<InstallationId, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn of this installation's mending; it ends with what is answered.
    pub(super) async fn take(&self, id: &InstallationId) -> OwnedMutexGuard<()> {
        self.find(id).lock_owned().await
    }

    fn find(&self, id: &InstallationId) -> Arc<tokio::sync::Mutex<()>> {
        // Whatever a panicking thread left is as good as ever.
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(id).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(id.clone(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_mending_of_one_installation_keeps_only_its_own_waiting() {
        let turns = Turns::default();
        let [one, two] = ["in_1", "in_2"].map(InstallationId::from_raw);
        let turn = turns.take(&one).now_or_never().expect("nobody is at it");
        assert!(turns.take(&one).now_or_never().is_none(), "one at a time");
        let other = turns.take(&two).now_or_never().expect("another's is nobody's concern");
        drop((turn, other));
        drop(turns.take(&one).now_or_never().expect("it is over"));
        turns.find(&two);
        assert_eq!(turns.0.lock().expect("no panic").len(), 1, "what is over is forgotten");
    }
}
