//! When installations and integrations last had an event: gathered in memory, and written in batches.
//!
//! **Invariants**: a time that was noted is told from here until the rows have told it for a whole round, so that whoever
//! asks after the answer to a webhook hears of it; a time never moves back; what could not be written is written the next
//! time. **Must not know** who writes the rows, or when.

use std::hash::Hash;

use dashmap::DashMap;

use crate::model::{
    clock::EpochMs,
    ids::{InstallationId, IntegrationId},
};

/// What was noted of everybody.
#[derive(Default)]
pub(super) struct LastSeen {
    pub(super) installations: Noted<InstallationId>,
    pub(super) integrations: Noted<IntegrationId>,
}

/// What was noted of one kind.
pub(super) struct Noted<K>(DashMap<K, Note>);

#[derive(Clone, Copy)]
struct Note {
    at: EpochMs,
    /// Whether its row says so, too.
    is_written: bool,
}

impl<K: Eq + Hash> Default for Noted<K> {
    fn default() -> Self {
        Self(DashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Noted<K> {
    /// An event came.
    pub(super) fn note(&self, id: &K, at: EpochMs) {
        let note = Note { at, is_written: false };
        let later = |known: &mut Note| {
            if at > known.at {
                *known = note;
            }
        };
        self.0.entry(id.clone()).and_modify(later).or_insert(note);
    }

    /// When the last one came, if its row does not tell for sure yet.
    pub(super) fn find(&self, id: &K) -> Option<EpochMs> {
        self.0.get(id).map(|note| note.at)
    }

    /// What is to be written. What was written before is forgotten: whoever read its row since has it.
    pub(super) fn unwritten(&self) -> Vec<(K, EpochMs)> {
        self.0.retain(|_, note| !note.is_written);
        self.0.iter().map(|note| (note.key().clone(), note.at)).collect()
    }

    /// The rows tell these now.
    pub(super) fn written(&self, written: &[(K, EpochMs)]) {
        for (id, at) in written {
            if let Some(mut note) = self.0.get_mut(id)
                && note.at == *at
            {
                note.is_written = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_told_until_its_row_has_told_it_for_a_round() {
        let noted = Noted::<&str>::default();
        assert_eq!(noted.find(&"a"), None);
        noted.note(&"a", EpochMs(5));
        noted.note(&"a", EpochMs(3));
        assert_eq!(noted.find(&"a"), Some(EpochMs(5)));

        let batch = noted.unwritten();
        assert_eq!(batch, [("a", EpochMs(5))]);
        assert_eq!(noted.find(&"a"), Some(EpochMs(5)), "on its way");
        assert_eq!(noted.unwritten(), batch, "it was not written");
        noted.written(&batch);
        assert_eq!(noted.find(&"a"), Some(EpochMs(5)), "whoever read the row before it was written asks now");
        assert_eq!(noted.unwritten(), []);
        assert_eq!(noted.find(&"a"), None);
    }

    #[test]
    fn what_came_while_the_one_before_was_written_is_still_to_be_written() {
        let noted = Noted::<&str>::default();
        noted.note(&"a", EpochMs(5));
        let batch = noted.unwritten();
        noted.note(&"a", EpochMs(6));
        noted.written(&batch);
        assert_eq!(noted.unwritten(), [("a", EpochMs(6))]);
    }
}
