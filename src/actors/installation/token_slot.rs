//! Who waits for a token, and what a token's row allows: pure, no clock, no I/O.
//!
//! **Invariants**: one search at a time; the first asker starts it, later ones attach; an asker who refused a token
//! never gets that one; every asker is answered, however a search ends; a token that is being replaced is not handed
//! out while its replacement may still come.

use std::time::Duration;

use crate::{
    actors::tokens::AccessToken,
    model::{clock::EpochMs, token::SealedToken},
};

/// The longest time before its end at which a token is renewed.
pub const LONGEST_MARGIN: Duration = Duration::from_mins(5);
/// The part of its life at whose beginning of the end it is renewed, where that is sooner.
const MARGIN_PART: u32 = 5;

/// How long before its end a token is renewed.
pub fn renewal_margin(issued_at: EpochMs, expires_at: EpochMs) -> Duration {
    LONGEST_MARGIN.min(expires_at.since(issued_at) / MARGIN_PART)
}

/// When a token should be renewed; never, if it does not end by itself.
fn renewal_due(issued_at: EpochMs, expires_at: Option<EpochMs>) -> Option<EpochMs> {
    expires_at.map(|end| end.minus(renewal_margin(issued_at, end)))
}

/// A token that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// It.
    pub token: AccessToken,
    /// When it was given to us.
    pub issued_at: EpochMs,
    /// The sealed text it was opened from, where it has a row: the row that says the same needs no opening.
    pub sealed: Option<String>,
}

impl Found {
    /// Whether it lives and this asker has not refused it.
    pub fn is_usable(&self, rejected: Option<u64>, now: EpochMs) -> bool {
        rejected != Some(self.token.generation) && self.token.expires_at.is_none_or(|end| now < end)
    }

    /// Whether it will live for a while, too.
    pub fn is_fresh(&self, rejected: Option<u64>, now: EpochMs) -> bool {
        self.is_usable(rejected, now) && renewal_due(self.issued_at, self.token.expires_at).is_none_or(|due| now < due)
    }
}

/// What the row of a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighed {
    /// It can be handed out.
    HandOut,
    /// Somebody replaces it: look again in a moment.
    Wait,
    /// It has to be renewed; `suspect` if somebody began to and never wrote how it ended.
    Renew {
        /// Whether the provider may have replaced it already.
        suspect: bool,
    },
}

/// Judges a row for an asker who refused the token of generation `rejected`. Until `eased_until` a token that lives is
/// good enough, because the provider could not be asked a moment ago.
pub fn weigh(row: &SealedToken, rejected: Option<u64>, eased_until: Option<EpochMs>, now: EpochMs) -> Weighed {
    match &row.claim {
        Some(claim) if now < claim.until => Weighed::Wait,
        Some(_lapsed) => Weighed::Renew { suspect: true },
        None => {
            // What cannot be renewed is good until its end.
            let is_renewable = row.refresh.is_some();
            let is_due = is_renewable && renewal_due(row.updated_at, row.expires_at).is_some_and(|due| due <= now);
            let is_eased = eased_until.is_some_and(|until| now < until);
            if is_usable(row, rejected, now) && (!is_due || is_eased) {
                Weighed::HandOut
            } else {
                Weighed::Renew { suspect: false }
            }
        }
    }
}

/// Whether a row's token lives by the clock and this asker has not refused it.
pub fn is_usable(row: &SealedToken, rejected: Option<u64>, now: EpochMs) -> bool {
    rejected != Some(row.generation) && row.expires_at.is_none_or(|end| now < end)
}

/// Begin a search for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartSearch {
    /// The generation that will not do.
    pub rejected: Option<u64>,
}

/// How an asker is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As the search ended.
    AsFound,
    /// The search found the very token that the asker refused, twice: there is no other.
    NoOther,
}

struct Waiting<W> {
    waiter: W,
    rejected: Option<u64>,
    /// Whether a search ended with the token it refuses already.
    disappointed: bool,
}

struct Search<W> {
    waiting: Vec<Waiting<W>>,
    /// Something changed since it began: later askers wait for the next one.
    is_outdated: bool,
}

/// The askers of one installation's token.
pub struct TokenSlot<W> {
    search: Option<Search<W>>,
    next: Vec<Waiting<W>>,
}

impl<W> Default for TokenSlot<W> {
    fn default() -> Self {
        Self { search: None, next: Vec::new() }
    }
}

impl<W> TokenSlot<W> {
    /// Somebody asks. The step to take, if it has not been taken for somebody before.
    #[must_use]
    pub fn ask(&mut self, rejected: Option<u64>, waiter: W) -> Option<StartSearch> {
        let asker = Waiting { waiter, rejected, disappointed: false };
        match &mut self.search {
            Some(search) if search.is_outdated => {
                self.next.push(asker);
                None
            }
            Some(search) => {
                search.waiting.push(asker);
                None
            }
            None => Some(self.begin(vec![asker])),
        }
    }

    fn begin(&mut self, waiting: Vec<Waiting<W>>) -> StartSearch {
        let rejected = waiting.iter().filter_map(|asker| asker.rejected).max();
        self.search = Some(Search { waiting, is_outdated: false });
        StartSearch { rejected }
    }

    /// The installation changed: what the search under way finds may be of before.
    pub fn outdate(&mut self) {
        if let Some(search) = &mut self.search {
            search.is_outdated = true;
        }
    }

    /// Whether what the search under way finds may be of before a change.
    pub fn is_outdated(&self) -> bool {
        self.search.as_ref().is_some_and(|search| search.is_outdated)
    }

    /// The search ended with the token of this generation, or with none. Whom to answer, and the next step.
    #[must_use]
    pub fn ended(&mut self, found: Option<u64>) -> (Vec<(W, Verdict)>, Option<StartSearch>) {
        let waiting = self.search.take().map(|search| search.waiting).unwrap_or_default();
        let mut answered = Vec::with_capacity(waiting.len());
        for mut asker in waiting {
            if found.is_none() || asker.rejected != found {
                answered.push((asker.waiter, Verdict::AsFound));
            } else if asker.disappointed {
                answered.push((asker.waiter, Verdict::NoOther));
            } else {
                asker.disappointed = true;
                self.next.push(asker);
            }
        }
        let next = std::mem::take(&mut self.next);
        let step = if next.is_empty() { None } else { Some(self.begin(next)) };
        (answered, step)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.search.as_ref().map_or(0, |search| search.waiting.len()) + self.next.len()
    }

    /// Whether a search is under way.
    pub fn is_searching(&self) -> bool {
        self.search.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{ids::InstallationId, secret::Secret, token::RefreshClaim};

    const NOW: EpochMs = EpochMs(1_771_980_000_000);
    const MINUTE: Duration = Duration::from_mins(1);

    fn row(lives_for: Option<Duration>) -> SealedToken {
        SealedToken {
            installation: InstallationId::from_raw("in_1"),
            access: "sealed".into(),
            refresh: Some("sealed".into()),
            token_type: None,
            scope: None,
            expires_at: lives_for.map(|life| NOW.plus(life)),
            refresh_expires_at: None,
            generation: 7,
            claim: None,
            created_at: NOW,
            updated_at: NOW,
        }
    }

    fn claimed(until: EpochMs) -> RefreshClaim {
        RefreshClaim { owner: "node-1".into(), until }
    }

    #[test]
    fn a_token_is_renewed_five_minutes_or_a_fifth_of_its_life_before_its_end() {
        let hour = row(Some(MINUTE * 60));
        let at = |minutes: u32| weigh(&hour, None, None, NOW.plus(MINUTE * minutes));
        assert_eq!(at(54), Weighed::HandOut);
        assert_eq!(at(55), Weighed::Renew { suspect: false });
        assert_eq!(at(61), Weighed::Renew { suspect: false });
        let short = row(Some(MINUTE * 5));
        assert_eq!(weigh(&short, None, None, NOW.plus(MINUTE * 3)), Weighed::HandOut);
        assert_eq!(weigh(&short, None, None, NOW.plus(MINUTE * 4)), Weighed::Renew { suspect: false });
        assert_eq!(weigh(&row(None), None, None, NOW.plus(MINUTE * 1_000_000)), Weighed::HandOut);
    }

    #[test]
    fn a_token_that_cannot_be_renewed_is_handed_out_until_its_end() {
        let hour = SealedToken { refresh: None, ..row(Some(MINUTE * 60)) };
        assert_eq!(weigh(&hour, None, None, NOW.plus(MINUTE * 59)), Weighed::HandOut);
        assert_eq!(weigh(&hour, None, None, NOW.plus(MINUTE * 60)), Weighed::Renew { suspect: false });
    }

    #[test]
    fn a_refused_token_is_renewed_and_its_successor_is_not() {
        let row = row(None);
        assert_eq!(weigh(&row, Some(7), None, NOW), Weighed::Renew { suspect: false });
        assert_eq!(weigh(&row, Some(6), None, NOW), Weighed::HandOut);
        assert_eq!(weigh(&row, Some(7), Some(NOW.plus(MINUTE)), NOW), Weighed::Renew { suspect: false });
    }

    #[test]
    fn nobody_uses_a_token_that_somebody_replaces_or_began_to() {
        let mut row = row(Some(MINUTE * 60));
        row.claim = Some(claimed(NOW.plus(MINUTE)));
        assert_eq!(weigh(&row, None, None, NOW), Weighed::Wait);
        assert_eq!(weigh(&row, None, Some(NOW.plus(MINUTE * 9)), NOW.plus(MINUTE)), Weighed::Renew { suspect: true });
    }

    #[test]
    fn after_an_outage_a_living_token_is_good_enough_for_a_while() {
        let row = row(Some(MINUTE * 60));
        let near_its_end = NOW.plus(MINUTE * 57);
        let eased = Some(near_its_end.plus(MINUTE));
        assert_eq!(weigh(&row, None, eased, near_its_end), Weighed::HandOut);
        assert_eq!(weigh(&row, None, eased, near_its_end.plus(MINUTE)), Weighed::Renew { suspect: false });
        assert_eq!(
            weigh(&row, None, Some(NOW.plus(MINUTE * 99)), NOW.plus(MINUTE * 60)),
            Weighed::Renew { suspect: false }
        );
    }

    #[test]
    fn a_hundred_askers_are_one_search() {
        let mut slot = TokenSlot::default();
        let steps: Vec<_> = (0..100).filter_map(|asker| slot.ask(None, asker)).collect();
        assert_eq!(steps, [StartSearch { rejected: None }]);
        let (answered, next) = slot.ended(Some(1));
        assert_eq!(answered.len(), 100);
        assert_eq!((next, slot.is_searching(), slot.waiting()), (None, false, 0));
    }

    #[test]
    fn whoever_asks_after_a_change_does_not_get_what_was_found_before_it() {
        let mut slot = TokenSlot::default();
        assert!(slot.ask(None, "before").is_some() && !slot.is_outdated());
        slot.outdate();
        assert!(slot.ask(None, "after").is_none() && slot.is_outdated());
        let (answered, next) = slot.ended(Some(1));
        assert_eq!(answered, [("before", Verdict::AsFound)]);
        assert!(!slot.is_outdated());
        assert_eq!(next, Some(StartSearch { rejected: None }));
        assert_eq!(slot.ended(None).0, [("after", Verdict::AsFound)]);
    }

    #[test]
    fn a_cached_token_is_fresh_until_its_margin() {
        let token = AccessToken {
            access: Secret::new("t").expect("not empty"),
            expires_at: Some(NOW.plus(MINUTE * 60)),
            generation: 3,
        };
        let found = Found { token, issued_at: NOW, sealed: None };
        assert!(found.is_fresh(None, NOW.plus(MINUTE * 54)) && !found.is_fresh(None, NOW.plus(MINUTE * 55)));
        assert!(found.is_usable(None, NOW.plus(MINUTE * 59)) && !found.is_usable(None, NOW.plus(MINUTE * 60)));
        assert!(!found.is_usable(Some(3), NOW));
    }

    /// What may happen to a slot.
    #[derive(Debug, Clone)]
    enum Act {
        /// Somebody asks for any token.
        Ask,
        /// Somebody asks who refuses the newest token that anybody was given.
        Refuse,
        /// The search under way ends well; with a new token if it has to, or if it wants to.
        Find { renewed: bool },
        /// It fails.
        Fail,
        /// The rows change.
        Outdate,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => Just(Act::Ask),
            3 => Just(Act::Refuse),
            3 => any::<bool>().prop_map(|renewed| Act::Find { renewed }),
            1 => Just(Act::Fail),
            1 => Just(Act::Outdate),
        ];
        prop::collection::vec(act, 1..80)
    }

    /// A slot, the world it searches, and everything that was observed of it.
    #[derive(Default)]
    struct Play {
        slot: TokenSlot<usize>,
        refused_by: Vec<Option<u64>>,
        answers: Vec<Option<Result<u64, ()>>>,
        searching: Option<StartSearch>,
        current: u64,
        newest_given: Option<u64>,
    }

    impl Play {
        fn start(&mut self, step: Option<StartSearch>) {
            if let Some(step) = step {
                assert!(self.searching.replace(step).is_none(), "two searches in flight");
            }
        }

        fn ask(&mut self, rejected: Option<u64>) {
            let asker = self.answers.len();
            self.answers.push(None);
            self.refused_by.push(rejected);
            let step = self.slot.ask(rejected, asker);
            self.start(step);
        }

        fn end(&mut self, outcome: Result<bool, ()>) {
            let Some(step) = self.searching.take() else { return };
            let found = outcome.map(|renewed| {
                // A search never ends well with the token it was told will not do.
                if renewed || step.rejected == Some(self.current) {
                    self.current += 1;
                }
                self.current
            });
            let (answered, next) = self.slot.ended(found.ok());
            for (asker, verdict) in answered {
                let answer = if verdict == Verdict::AsFound { found } else { Err(()) };
                if let Ok(generation) = answer {
                    assert_ne!(self.refused_by[asker], Some(generation), "it was given what it refused");
                    assert!(self.newest_given.is_none_or(|newest| newest <= generation), "a generation went back");
                    self.newest_given = Some(generation);
                }
                assert!(self.answers[asker].replace(answer).is_none(), "it was answered twice");
            }
            self.start(next);
        }

        fn act(&mut self, act: &Act) {
            match act {
                Act::Ask => self.ask(None),
                Act::Refuse => self.ask(self.newest_given),
                Act::Find { renewed } => self.end(Ok(*renewed)),
                Act::Fail => self.end(Err(())),
                Act::Outdate => self.slot.outdate(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn in_any_order_there_is_one_search_and_everybody_is_answered_with_no_older_and_no_refused_token(acts in acts()) {
            let mut play = Play::default();
            for act in &acts {
                play.act(act);
                prop_assert_eq!(play.slot.is_searching(), play.searching.is_some());
                let unanswered = play.answers.iter().filter(|answer| answer.is_none()).count();
                prop_assert_eq!(play.slot.waiting(), unanswered);
            }
            for _ in 0..3 {
                play.end(Ok(false));
            }
            prop_assert!(play.answers.iter().all(Option::is_some), "somebody still waits");
        }
    }
}
