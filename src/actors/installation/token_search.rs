//! The search for a token: reads the rows, asks the provider where it has to, writes what it got. Run by the supervisor,
//! one at a time.
//!
//! **Invariants**: across nodes only the holder of the row's claim asks the provider; what it writes is fenced by the
//! generation it began from; a token that the provider gave is written before anybody gets it; a pending installation's
//! token is used to have it confirmed before anybody gets it; silence, 5xx and 429 change no state. **Must not know** how
//! any provider gives tokens.

use std::{sync::Arc, time::Duration};

use super::{
    InstallationError, InstallationHandle, ProviderState, SupervisorDeps,
    confirmation::PENDING,
    control,
    renewal::{Renewal, Renewed},
    state::{self, Edit},
    token_slot::{Found, Weighed, is_usable, weigh},
};
use crate::{
    actors::{
        AskError,
        tokens::{AccessToken, GrantVerdict, TokenError, access_token_place, get_connector},
    },
    model::{
        clock::EpochMs,
        ids::InstallationId,
        installation::{Installation, InstallationStatus},
        log_entry::Actor,
        pauses::Pauses,
        token::SealedToken,
    },
    providers::{Connector, ConnectorError, connector::Grant},
    store::InstallationRecord,
};

/// How long somebody waits for the token that another node is getting.
const OTHERS_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a row that another node will change.
const PAUSES: Pauses = Pauses::doubling(Duration::from_millis(25), Duration::from_millis(400));
/// How long a token that lives is good enough after the provider could not be asked for its successor.
const EASE: Duration = Duration::from_secs(15);
/// The most that a provider's own wish for a pause is heeded.
const LONGEST_EASE: Duration = Duration::from_mins(1);

/// How a search ended.
pub(super) struct SearchEnd {
    /// The token, or why there is none.
    pub outcome: Result<Found, TokenError>,
    /// Until when a living token is good enough.
    pub eased_until: Option<EpochMs>,
}

/// A search.
pub(super) struct Search {
    pub deps: Arc<SupervisorDeps>,
    pub id: InstallationId,
    pub supervisor: InstallationHandle,
    /// The generation that will not do.
    pub rejected: Option<u64>,
    /// What the last search found.
    pub known: Option<Found>,
    pub eased_until: Option<EpochMs>,
}

/// One look at the rows ended with nothing to hand out.
pub(super) enum Turn {
    /// Look again now: they have changed.
    Again,
    /// Look again after a pause: another node is about to change them.
    Wait(Box<SealedToken>),
}

impl Search {
    /// Searches.
    pub async fn run(mut self) -> SearchEnd {
        let outcome = self.find().await;
        SearchEnd { outcome, eased_until: self.eased_until }
    }

    async fn find(&mut self) -> Result<Found, TokenError> {
        let mut pauses = PAUSES;
        let mut waited = Duration::ZERO;
        // Every turn but the waiting ones follows a change of the rows by somebody else.
        for _turn in 0..64 {
            let installation = self.usable_installation().await?;
            let is_pending = installation.status == InstallationStatus::Pending;
            let connector = match get_connector(&self.deps.registry, installation.provider) {
                Err(_nobody_to_confirm_it) if is_pending => return Err(PENDING),
                found => found?,
            };
            let looked = if is_pending {
                self.look_at_pending(&installation, connector).await?
            } else if connector.keeps_tokens() {
                self.look(&installation, connector).await?
            } else {
                return self.mint(&installation, connector).await;
            };
            match looked {
                Ok(found) => return Ok(found),
                Err(Turn::Again) => {}
                Err(Turn::Wait(_)) if is_pending && waited >= OTHERS_PATIENCE => return Err(PENDING),
                Err(Turn::Wait(row)) if waited >= OTHERS_PATIENCE => {
                    // Nobody has said that it is dead; whoever replaces it has not come to an end.
                    return if is_usable(&row, self.rejected, self.now()) {
                        self.open(&row)
                    } else {
                        Err(TokenError::ProviderUnavailable("another node is still renewing the token".into()))
                    };
                }
                Err(Turn::Wait(_)) => {
                    let pause = pauses.next_pause();
                    tokio::time::sleep(pause).await;
                    waited += pause;
                }
            }
        }
        Err(TokenError::ProviderUnavailable("the token keeps changing".into()))
    }

    pub(super) fn now(&self) -> EpochMs {
        self.deps.clock.now()
    }

    /// The installation, if it may have a token, or may once it is confirmed.
    async fn usable_installation(&self) -> Result<Installation, TokenError> {
        let installation = self.deps.store.find_installation(&self.id).await?.ok_or(TokenError::NotFound)?;
        match installation.status {
            InstallationStatus::Active | InstallationStatus::Pending => Ok(installation),
            InstallationStatus::NeedsReauth => Err(TokenError::Expired),
            status => Err(TokenError::NotActive(status)),
        }
    }

    /// One look at the token's row.
    pub(super) async fn look(
        &mut self,
        installation: &Installation,
        connector: Arc<dyn Connector>,
    ) -> Result<Result<Found, Turn>, TokenError> {
        let row = self.deps.store.find_token(&self.id).await?.ok_or(TokenError::NoToken)?;
        let suspect = match weigh(&row, self.rejected, self.eased_until, self.now()) {
            Weighed::HandOut => return self.open(&row).map(Ok),
            Weighed::Wait => return Ok(Err(Turn::Wait(Box::new(row)))),
            Weighed::Renew { suspect } => suspect,
        };
        let renewal = Renewal { deps: &self.deps, grant: Grant::of(installation, self.now()), connector };
        let renewed = renewal.renew(&row, suspect).await?;
        self.count(installation, renewed.result());
        match renewed {
            Renewed::Written(found) => {
                self.eased_until = None;
                self.note(ProviderState::Answers).await;
                Ok(Ok(found))
            }
            // Lapsed by our clock and not by the database's: whoever has the claim may still be about to write.
            Renewed::Overtaken if suspect => Ok(Err(Turn::Wait(Box::new(row)))),
            Renewed::Overtaken => Ok(Err(Turn::Again)),
            Renewed::Refused(verdict) => self.judge(installation, verdict).await.map(|()| Err(Turn::Again)),
            Renewed::Unavailable { error, is_dead } => {
                self.note(ProviderState::Unreachable).await;
                let now = self.now();
                if is_usable(&row, self.rejected, now) && !is_dead {
                    self.eased_until = Some(now.plus(ease_of(&error)));
                    self.open(&row).map(Ok)
                } else {
                    Err(TokenError::ProviderUnavailable(error.to_string()))
                }
            }
        }
    }

    /// The opened token of a row; opened only if it is not the one known.
    fn open(&self, row: &SealedToken) -> Result<Found, TokenError> {
        if let Some(known) = &self.known
            && known.token.generation == row.generation
            && known.sealed.as_ref() == Some(&row.access)
        {
            return Ok(known.clone());
        }
        let access = self.deps.vault.open(access_token_place(&self.id), &row.access).map_err(|error| {
            tracing::error!(installation.id = %self.id, %error, "a token's record does not open");
            TokenError::Vault
        })?;
        let token = AccessToken { access, expires_at: row.expires_at, generation: row.generation };
        Ok(Found { token, issued_at: row.updated_at, sealed: Some(row.access.clone()) })
    }

    /// A token that no row has: the known one, or a new one.
    async fn mint(&mut self, installation: &Installation, connector: Arc<dyn Connector>) -> Result<Found, TokenError> {
        let now = self.now();
        let known = self.known.take().filter(|known| known.sealed.is_none());
        let is_eased = self.eased_until.is_some_and(|until| now < until);
        if let Some(known) = &known
            && (known.is_fresh(self.rejected, now) || is_eased && known.is_usable(self.rejected, now))
        {
            return Ok(known.clone());
        }
        let minted = connector.renew_token(&Grant::of(installation, now), None).await;
        self.count(installation, minted.as_ref().map_or_else(result_word, |_| "minted"));
        match minted {
            Ok(fresh) => {
                self.note(ProviderState::Answers).await;
                self.eased_until = None;
                // Above the last one, and above what a supervisor before this one may have given.
                let above = known.map_or(0, |known| known.token.generation).max(self.rejected.unwrap_or(0)) + 1;
                let generation = above.max(u64::try_from(now.0).unwrap_or(0));
                let token = AccessToken { access: fresh.access, expires_at: fresh.expires_at, generation };
                Ok(Found { token, issued_at: now, sealed: None })
            }
            Err(error) => {
                if let Some(verdict) = verdict_of(&error) {
                    self.judge(installation, verdict).await?;
                    return Err(TokenError::ProviderUnavailable("the connection changed meanwhile".into()));
                }
                self.note(ProviderState::Unreachable).await;
                let known = known.filter(|known| known.is_usable(self.rejected, now));
                let known = known.ok_or_else(|| TokenError::ProviderUnavailable(error.to_string()))?;
                self.eased_until = Some(now.plus(ease_of(&error)));
                Ok(known)
            }
        }
    }

    /// Acts on the provider's verdict about the grant; only if the installation is still as it was when the provider
    /// was asked, because a new connection may have come in between: `Ok` says that it did, and to look again.
    pub(super) async fn judge(&self, seen: &Installation, verdict: GrantVerdict) -> Result<(), TokenError> {
        if !self.edit_as_seen(seen, move |record, edit| control::judge(record, verdict, edit)).await? {
            return Ok(());
        }
        Err(match verdict {
            GrantVerdict::Dead => TokenError::Expired,
            GrantVerdict::Gone => TokenError::NotActive(InstallationStatus::Revoked),
            GrantVerdict::Suspended => TokenError::NotActive(InstallationStatus::Suspended),
        })
    }

    /// Edits the installation if it is still as it was `seen`; answers whether it was.
    pub(super) async fn edit_as_seen(
        &self,
        seen: &Installation,
        edit_record: impl FnOnce(&mut InstallationRecord, &Edit<'_>) + Send + 'static,
    ) -> Result<bool, TokenError> {
        let decide = self.deps.decision(Actor::system(), state::if_as_seen(seen, edit_record));
        self.supervisor.edit(decide).await.map_err(|error| match error {
            AskError::Reply(InstallationError::NotFound) => TokenError::NotFound,
            AskError::Reply(InstallationError::Store(error)) => error.into(),
            _ => TokenError::Crashed,
        })
    }

    fn count(&self, installation: &Installation, result: &'static str) {
        self.deps.metrics.token_renewed(installation.provider, result);
    }

    pub(super) async fn note(&self, state: ProviderState) {
        self.supervisor.note_provider(state).await;
    }
}

/// The verdict in a failed renewal, if the provider gave one.
pub(super) fn verdict_of(error: &ConnectorError) -> Option<GrantVerdict> {
    match error {
        ConnectorError::Rejected => Some(GrantVerdict::Dead),
        ConnectorError::Gone => Some(GrantVerdict::Gone),
        ConnectorError::Suspended => Some(GrantVerdict::Suspended),
        _ => None,
    }
}

/// The word that a failed renewal is counted under.
pub(super) fn result_word(error: &ConnectorError) -> &'static str {
    match error {
        ConnectorError::Rejected => "rejected",
        ConnectorError::Gone => "gone",
        ConnectorError::Suspended => "suspended",
        ConnectorError::AnswerLost => "answer_lost",
        ConnectorError::Unavailable { .. } => "unavailable",
        _ => "failed",
    }
}

fn ease_of(error: &ConnectorError) -> Duration {
    match error {
        ConnectorError::Unavailable { retry_after: Some(wish), .. } => (*wish).clamp(EASE, LONGEST_EASE),
        _ => EASE,
    }
}

#[cfg(test)]
mod tests;
