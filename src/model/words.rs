//! The words in rows and answers that say why: reasons, health, and what the log calls what happened, each in a sentence.
//!
//! `docs/words.md` is made from these tables, the console says the sentences, and the OpenAPI document has the lists that
//! are closed. **Invariants**: a word is once in its list, and once released keeps its meaning; what the code writes is
//! here (`tests/architecture.rs` looks). **Must not know** when a word is written.

use std::fmt::Write as _;

/// A word, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// As it stands in rows and answers.
    pub word: &'static str,
    /// A sentence.
    pub says: &'static str,
}

/// The words that may stand in one place.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// What they are.
    pub title: &'static str,
    /// Where they stand, for `docs/words.md`.
    pub place: &'static str,
    /// Each of them.
    pub all: &'static [Word],
}

impl Words {
    /// What a word says; `None` for one that is not ours, as in rows that were imported.
    pub fn says(&self, word: &str) -> Option<&'static str> {
        self.all.iter().find(|it| it.word == word).map(|it| it.says)
    }

    /// The words alone.
    pub fn list(&self) -> impl Iterator<Item = &'static str> {
        self.all.iter().map(|it| it.word)
    }
}

macro_rules! words {
    ($($(#[doc = $doc:literal])* $name:ident = $title:literal, $place:literal, { $($word:literal: $says:literal,)* };)*) => {
        $(
            $(#[doc = $doc])*
            pub static $name: Words =
                Words { title: $title, place: $place, all: &[$(Word { word: $word, says: $says }),*] };
        )*

        /// Every list.
        pub static ALL: &[&Words] = &[$(&$name),*];
    };
}

words! {
    /// Why an event ended as it did.
    EVENT_REASONS = "Why an event ended as it did", "`reason` of an event; `null` where it was routed and has its deliveries", {
        "ping": "It is a test message of the provider, and for nobody.",
        "unmapped_event": "No event of the catalogue has this name, so nobody can subscribe to it.",
        "no_installation": "No connection has the account that it names.",
        "installation_pending": "Its connection is not granted yet.",
        "installation_suspended": "Its connection is suspended at the provider.",
        "installation_revoked": "Its connection has ended.",
        "no_resource": "Nothing that it is about is linked.",
        "no_integration": "No workspace is subscribed to what it is about.",
        "no_active_integration": "No subscription to what it is about is active.",
        "dead_letters_expired": "It was routed; its deliveries ended as dead letters, and those have expired.",
        "event_not_allowed": "No subscription chose this event.",
        "paused": "The subscription that would get it was paused.",
        "possible_replay": "The same bytes, or of Linear the same event, came before under another delivery id, and `ingest.possible_replay` is `drop`.",
    };
    /// Why an integration does or does not get an event.
    CONSIDERED_REASONS = "Why an integration does or does not get an event",
        "`considered[].reason` of `GET /events/{id}/explain`; where it was routed, the state of its newest delivery", {
        "routed": "It gets the event.",
        "pending": "On its way.",
        "held": "Held until it is released.",
        "delivered": "Delivered.",
        "dead": "Given up: a dead letter.",
        "filtered:event_not_allowed": "Its workspace did not choose this event.",
        "filtered:paused": "It was paused; a replay sends it.",
        "inactive_integration": "The subscription was not active.",
        "not_asked_for": "The replay did not ask for it.",
    };
    /// Why a delivery is where it is, and how an attempt ended.
    DELIVERY_REASONS = "Why a delivery is not there yet, or was given up",
        "`reason` of a delivery; `result` of an attempt or of a test, which may also be `delivered` or `destination_disabled`", {
        "no_destination": "There is no destination; it waits for one.",
        "released": "It was held and is released: it goes out after those released before it.",
        "http_status": "It was answered with an error.",
        "gone": "It was answered 410, gone: the destination is disabled.",
        "timeout": "There was no answer in time.",
        "connection_failed": "The destination could not be reached, or the connection broke.",
        "address_refused": "The destination is at an address that nothing is sent to.",
        "invalid_destination": "The destination's URL or one of its headers cannot be sent.",
        "failing": "The destination had failed for so long that it is disabled.",
    };
    /// Why a destination is disabled.
    DISABLED_REASONS = "Why a destination is disabled", "`disabledReason` of a destination", {
        "gone": "It answered 410 Gone, so nothing is sent to it any more; its deliveries are dead letters.",
        "failing": "It failed for too long, so nothing is sent to it any more; its deliveries are dead letters.",
    };
    /// How a connection is doing.
    HEALTH = "How a connection is doing", "`health` of a connection", {
        "ok": "Nothing is known to be wrong: the provider did not fail to answer, and events have not become rare.",
        "degraded": "The provider could not be asked lately. What it sends is routed all the same; nothing to do here.",
        "silent": "No event has come for far longer than usual. Look at the app's webhook settings at the provider.",
        "pending": "It was asked for and is not granted yet.",
        "needs_reauth": "The provider does not renew our token any more. Events are still routed; connect again to use its API.",
        "suspended": "The connection was suspended at the provider, and routes nothing until it is lifted there.",
        "revoked": "The connection has ended and routes nothing. Connect again to go on under the same id.",
    };
    /// Why a connection, a resource or an integration is in its state.
    STATUS_REASONS = "Why a connection or an integration is in its state",
        "`statusReason` of either, `reason` in the log; imported rows keep the words they had", {
        "active": "Somebody asked for it.",
        "paused": "Somebody asked for it.",
        "confirmed": "The provider granted what was asked for.",
        "confirmation_refused": "The provider did not grant what was asked for.",
        "disconnected": "Somebody here ended it.",
        "reconnected": "The account was connected again.",
        "provider_revoked": "It was ended at the provider.",
        "provider_suspended": "It was suspended at the provider.",
        "provider_resumed": "The provider lifted the suspension.",
        "token_rejected": "The provider does not accept our token any more.",
        "access_lost": "The provider took away our access.",
        "granted": "The provider lets us see it.",
        "unlinked": "Its resource was unlinked here.",
        "deleted": "Its resource was deleted at the provider.",
        "transferred": "Its resource belongs to another account now.",
        "imported": "It came from another system in this state.",
    };
    /// What the log calls what happened.
    ACTIONS = "What happened", "`action` in the log of a connection and in `GET /admin/audit`", {
        "connecting.began": "Somebody began to connect a provider; `reason` says which.",
        "installation.connected": "An account was connected.",
        "installation.reconnected": "The account was connected again, under the same id.",
        "installation.adopted": "A connection that exists at the provider was taken over.",
        "installation.imported": "A connection came from another system.",
        "installation.moved": "Its account has another id at the provider.",
        "installation.not_confirmed": "The provider refused what was asked for.",
        "installation.pending": "The connection waits to be granted.",
        "installation.active": "The connection works.",
        "installation.needs_reauth": "The connection's token is dead.",
        "installation.suspended": "The connection was suspended.",
        "installation.revoked": "The connection ended.",
        "resource.linked": "A resource was linked.",
        "resource.removed": "A resource left the routing.",
        "resource.changed": "A resource has another name, or other facts.",
        "resource.in_reach": "A resource came into reach and can be linked.",
        "integration.created": "A workspace subscribed to a resource.",
        "integration.moved": "A subscription followed its resource to another connection of the org.",
        "integration.changed": "A subscription has other events or settings.",
        "integration.active": "A subscription gets events.",
        "integration.paused": "A subscription was paused.",
        "integration.disconnected": "A workspace ended its subscription.",
        "integration.removed": "A subscription ended with its resource's link.",
        "integration.deleted": "A subscription ended with its resource.",
        "integration.suspended": "A subscription was suspended with its connection.",
        "integration.revoked": "A subscription ended with its connection.",
        "integration.error": "Something is wrong with a subscription.",
        "teardown.step_given_up": "A step of ending the connection could not be done.",
        "teardown.completed": "Everything that ends with the connection has ended.",
        "token.read": "Somebody read the connection's token.",
        "proxy.called": "Somebody called the provider's API with our token.",
        "backfill_run.asked_for": "The backfill service is asked for the connection's history.",
        "backfill_run.reported": "The backfill service, or whoever writes for it, began a run or reported on one.",
        "backfill_run.ended": "A run that nobody heard of, or nobody wants any more, was ended.",
        "event.replayed": "An event was delivered once more.",
        "event.rerouted": "An event that waited was routed.",
        "events.released": "Held events were released.",
        "delivery.retried": "A delivery was tried again.",
        "destination.created": "A destination was set.",
        "destination.replaced": "A destination was changed.",
        "destination.deleted": "A destination was deleted.",
        "destination.secret_rotated": "A destination's signing secret was replaced.",
        "destination.failing": "Every attempt at a destination fails.",
        "destination.recovered": "A destination works again.",
        "destination.disabled": "Nothing is sent to a destination any more.",
        "quarantine.reverified": "Quarantined webhooks were verified again.",
        "quarantine.discarded": "A quarantined webhook was deleted.",
        "key.created": "An API key was made.",
        "key.revoked": "An API key was revoked.",
        "session.began": "Somebody signed in to the console.",
        "session.ended": "Somebody signed out.",
        "heal.asked_for": "A comparison with the provider's delivery log was asked for.",
    };
}

/// `docs/words.md`.
pub fn words_page() -> String {
    let mut page = String::from(
        "# Words that say why\n\n\
         <!-- Made from src/model/words.rs by `cargo test --test words_doc -- --ignored`; do not edit. -->\n\n\
         Rows and answers say why in words that are stable; the sentences may be reworded. Error codes have\n\
         [a page of their own](errors.md), states are in [openapi.json](openapi.json).\n",
    );
    for words in ALL {
        // Writing to a String cannot fail.
        let written = write!(page, "\n## {}\n\n{}.\n\n| word | meaning |\n|---|---|\n", words.title, words.place)
            .and_then(|()| words.all.iter().try_for_each(|it| writeln!(page, "| `{}` | {} |", it.word, it.says)));
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{delivery::AttemptResult, installation::InstallationStatus, integration::IntegrationStatus};

    #[test]
    fn a_word_is_once_in_its_list_and_says_a_sentence() {
        for words in ALL {
            assert_eq!(words.list().collect::<BTreeSet<_>>().len(), words.all.len(), "{}", words.title);
            for it in words.all {
                assert!(it.says.ends_with('.'), "{}: {}", it.word, it.says);
            }
        }
    }

    #[test]
    fn every_state_and_every_way_an_attempt_ends_has_its_words() {
        for status in InstallationStatus::ALL {
            assert!(ACTIONS.says(&format!("installation.{status}")).is_some(), "{status}");
            assert!(HEALTH.says(status.as_str()).is_some() || status == InstallationStatus::Active, "{status}");
        }
        for status in IntegrationStatus::ALL {
            assert!(ACTIONS.says(&format!("integration.{status}")).is_some(), "{status}");
        }
        let ends = [
            AttemptResult::Answered { status: 410, retry_after_s: None },
            AttemptResult::Answered { status: 500, retry_after_s: None },
            AttemptResult::TimedOut,
            AttemptResult::ConnectionFailed,
            AttemptResult::AddressRefused,
            AttemptResult::InvalidDestination,
        ];
        for end in ends {
            assert!(DELIVERY_REASONS.says(end.code()).is_some(), "{}", end.code());
        }
    }
}
