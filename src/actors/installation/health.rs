//! How a connection is doing, in one word: its own state first, then what is wrong at the provider, then silence. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    model::{clock::EpochMs, installation::InstallationStatus},
    store::Rhythm,
};

/// Silence shorter than this is never remarkable.
const SILENCE_MIN: Duration = Duration::from_hours(24);
/// How many usual pauses between events make a remarkable silence.
const SILENCE_PAUSES: u32 = 10;

/// What the last call showed of a provider's side of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderState {
    /// It answers.
    Answers,
    /// It could not be asked: unreachable, 5xx, rate limited, or nonsense.
    Unreachable,
}

impl ProviderState {
    /// Why it is not well, as a code.
    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Answers => None,
            Self::Unreachable => Some("provider_unavailable"),
        }
    }

    /// What to keep of it in place of `kept`; `None` if that says the same already.
    pub fn to_keep(self, kept: Option<&Value>, now: EpochMs) -> Option<Value> {
        let state = if self == Self::Answers { "ok" } else { "degraded" };
        let known = kept.and_then(|kept| kept.get("state")).and_then(Value::as_str).unwrap_or("ok");
        (known != state).then(|| json!({"state": state, "reason": self.reason(), "since": now.to_rfc3339()}))
    }
}

/// The `health` of a connection: `ok`, `degraded` (the provider cannot be asked), `silent` (no events for far longer
/// than usual), or the state that keeps it from being well.
pub fn installation_health(
    status: InstallationStatus,
    provider_health: Option<&Value>,
    rhythm: Option<&Rhythm>,
    now: EpochMs,
) -> &'static str {
    if status != InstallationStatus::Active {
        return status.as_str();
    }
    let is_degraded = provider_health.and_then(|kept| kept.get("state")).and_then(Value::as_str) == Some("degraded");
    if is_degraded {
        "degraded"
    } else if rhythm.is_some_and(|rhythm| is_silent(rhythm, now)) {
        "silent"
    } else {
        "ok"
    }
}

fn is_silent(rhythm: &Rhythm, now: EpochMs) -> bool {
    let pauses = rhythm.events.saturating_sub(1).max(1);
    let usual = rhythm.newest.since(rhythm.oldest) / pauses;
    now.since(rhythm.newest) > SILENCE_MIN.max(usual.saturating_mul(SILENCE_PAUSES))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const START: EpochMs = EpochMs(1_771_980_000_000);

    /// Eleven events, `pause` apart, the last of them at `START`.
    fn every(pause: Duration) -> Rhythm {
        Rhythm { events: 11, oldest: START.minus(pause * 10), newest: START }
    }

    fn health(provider: Option<&Value>, rhythm: Option<&Rhythm>, after: Duration) -> &'static str {
        installation_health(InstallationStatus::Active, provider, rhythm, START.plus(after))
    }

    #[test]
    fn silence_is_told_when_it_is_far_beyond_the_usual_rhythm() {
        let (busy, calm) = (every(HOUR / 60), every(HOUR * 24));
        assert_eq!(health(None, Some(&busy), HOUR * 24), "ok");
        assert_eq!(health(None, Some(&busy), HOUR * 25), "silent");
        assert_eq!(health(None, Some(&calm), HOUR * 240), "ok");
        assert_eq!(health(None, Some(&calm), HOUR * 241), "silent");
        assert_eq!(health(None, None, HOUR * 10_000), "ok", "nothing is usual yet");
    }

    #[test]
    fn the_connections_own_state_comes_first_and_the_providers_second() {
        let degraded = ProviderState::Unreachable.to_keep(None, START);
        assert_eq!(health(degraded.as_ref(), Some(&every(HOUR)), HOUR * 1000), "degraded");
        for status in InstallationStatus::ALL.into_iter().filter(|s| *s != InstallationStatus::Active) {
            assert_eq!(installation_health(status, degraded.as_ref(), None, START), status.as_str());
        }
    }

    #[test]
    fn what_is_kept_changes_only_when_the_provider_does() {
        let (answers, unreachable) = (ProviderState::Answers, ProviderState::Unreachable);
        assert_eq!(answers.to_keep(None, START), None, "well is what nobody wrote about");
        let degraded = unreachable.to_keep(None, START).expect("a change");
        assert_eq!(degraded["reason"], "provider_unavailable");
        assert_eq!(unreachable.to_keep(Some(&degraded), START.plus(HOUR)), None, "since when is kept");
        let well = answers.to_keep(Some(&degraded), START).expect("a change");
        assert_eq!(health(Some(&well), None, HOUR), "ok");
    }
}
