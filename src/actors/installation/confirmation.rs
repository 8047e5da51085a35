//! The confirmation that a pending installation waits for: its provider sends nothing before it has heard that it arrived.
//! Whoever needs the installation's token brings it about; the janitor is one of them.
//!
//! **Invariants**: asked again until the provider confirms, refuses, or ends the grant; a refusal is written down, so that
//! only people ask after it; an outage changes nothing. **Must not know** which providers want to be told.

use std::{sync::Arc, time::Duration};

use super::{
    ProviderState, control,
    state::Edit,
    token_search::{Search, Turn, verdict_of},
    token_slot::Found,
};
use crate::{
    actors::tokens::{GrantVerdict, TokenError},
    model::{
        clock::EpochMs,
        installation::{Installation, InstallationStatus},
    },
    providers::{Connector, ConnectorError, connector::Grant},
    store::InstallationRecord,
};

/// The reason of an installation that its provider did not confirm.
const REFUSED: &str = "confirmation_refused";
/// In so many turns at first the janitor asks every time.
const EAGER_TURNS: u128 = 8;
const HOUR: Duration = Duration::from_hours(1);

/// Nobody is handed the token before the confirmation.
pub(super) const PENDING: TokenError = TokenError::NotActive(InstallationStatus::Pending);

impl Search {
    /// One look at the rows of a pending installation. Where there is a token, it is used to have the installation
    /// confirmed; then the rows are to be looked at again.
    pub(super) async fn look_at_pending(
        &mut self,
        seen: &Installation,
        connector: Arc<dyn Connector>,
    ) -> Result<Result<Found, Turn>, TokenError> {
        if !connector.keeps_tokens() {
            return Err(PENDING);
        }
        match self.look(seen, Arc::clone(&connector)).await {
            Ok(Ok(found)) => self.confirm(seen, connector.as_ref(), &found).await.map(|()| Err(Turn::Again)),
            Err(TokenError::NoToken | TokenError::ProviderUnavailable(_)) => Err(PENDING),
            looked => looked,
        }
    }

    /// Has a pending installation confirmed with its token. `Ok` says that it is active now, or changed meanwhile, or that
    /// another token has to be tried.
    async fn confirm(
        &mut self,
        seen: &Installation,
        connector: &dyn Connector,
        found: &Found,
    ) -> Result<(), TokenError> {
        let generation = found.token.generation;
        match connector.confirm_arrival(&Grant::of(seen, self.now()), &found.token.access).await {
            Ok(()) => {
                self.note(ProviderState::Answers).await;
                self.edit_as_seen(seen, accept).await.map(drop)
            }
            Err(ConnectorError::Refused(code)) => {
                self.note(ProviderState::Answers).await;
                self.edit_as_seen(seen, move |record, edit| refuse(record, code, edit)).await?;
                Err(PENDING)
            }
            Err(ConnectorError::NotSupported) => Err(PENDING),
            // This one was renewed because the one before it was not accepted.
            Err(ConnectorError::Unauthorized) if self.rejected.is_some_and(|rejected| rejected < generation) => {
                self.judge(seen, GrantVerdict::Dead).await
            }
            Err(ConnectorError::Unauthorized) => {
                self.rejected = Some(generation);
                Ok(())
            }
            Err(error) => {
                if let Some(verdict) = verdict_of(&error) {
                    return self.judge(seen, verdict).await;
                }
                self.note(ProviderState::Unreachable).await;
                tracing::debug!(installation.id = %seen.id, %error, "the installation is not confirmed yet");
                Err(PENDING)
            }
        }
    }
}

/// Whether the janitor asks in this turn of its own: the first times in every one, then after twice the time, and at least
/// once an hour; after a refusal no more.
pub fn is_awaited(installation: &Installation, now: EpochMs, turn: Duration) -> bool {
    let in_turns = |time: Duration| time.as_millis() / turn.as_millis().max(1);
    let turns = in_turns(now.since(installation.updated_at));
    let is_its_turn = turns < EAGER_TURNS || turns.is_power_of_two() || turns.is_multiple_of(in_turns(HOUR).max(1));
    installation.status == InstallationStatus::Pending
        && installation.status_reason.as_deref() != Some(REFUSED)
        && is_its_turn
}

fn accept(record: &mut InstallationRecord, edit: &Edit<'_>) {
    control::set_status(record, InstallationStatus::Active, Some("confirmed"), edit);
}

/// The provider may think better of it, but not by itself: until somebody asks again it stays pending.
fn refuse(record: &mut InstallationRecord, code: &str, edit: &Edit<'_>) {
    if record.installation.status_reason.as_deref() == Some(REFUSED) {
        return;
    }
    record.installation.status_reason = Some(REFUSED.to_owned());
    record.installation.updated_at = edit.now;
    let mut entry = edit.entry(record, "installation.not_confirmed", None);
    entry.reason = Some(code.to_owned());
    record.log.push(entry);
}
