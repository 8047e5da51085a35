//! One renewal of a kept token: claim, ask, write.
//!
//! **Invariants**: the provider is asked only under the row's claim; what came is written with the claim's fence, again
//! and again for minutes, because nobody else has it, and longer than the claim holds, because the fence holds on; an
//! answer that got lost is asked after before it is taken for anything; a refusal is no verdict about a row that has a
//! newer token.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    SupervisorDeps,
    token_search::{result_word, verdict_of},
    token_slot::Found,
};
use crate::{
    actors::{
        runtime::isolate,
        tokens::{AccessToken, GrantVerdict, TokenError, access_token_place, refresh_token_place},
    },
    model::{clock::EpochMs, pauses::Pauses, token::SealedToken},
    providers::{
        Connector, ConnectorError,
        connector::{FreshToken, Grant, HeldToken},
    },
    store::StoreError,
};

/// How long a claim holds.
const CLAIM: Duration = Duration::from_secs(30);
/// How long the provider gets, within the claim; the rest is for writing.
const PROVIDER_TIME: Duration = Duration::from_secs(22);
/// How long a token that only this process has is tried to be written: a database that fails over or restarts is back
/// by then. Shorter than a supervisor lives that nobody asks.
const WRITE_TIME: Duration = Duration::from_mins(5);
/// Between two tries to write it.
const WRITE_PAUSES: Pauses = Pauses::doubling(Duration::from_millis(50), Duration::from_secs(2));

/// A renewal about to be made.
pub(super) struct Renewal<'a> {
    pub deps: &'a SupervisorDeps,
    pub grant: Grant,
    pub connector: Arc<dyn Connector>,
}

/// How it ended.
pub(super) enum Renewed {
    /// The new token is in its row.
    Written(Found),
    /// Somebody else was faster, or the row is gone.
    Overtaken,
    /// The provider gave its verdict about the grant.
    Refused(GrantVerdict),
    /// The provider could not be asked.
    Unavailable {
        /// Why.
        error: ConnectorError,
        /// Whether the old token was refused when it was tried.
        is_dead: bool,
    },
}

impl Renewed {
    /// The word it is counted under.
    pub fn result(&self) -> &'static str {
        match self {
            Self::Written(_) => "renewed",
            Self::Overtaken => "overtaken",
            Self::Refused(GrantVerdict::Dead) => "rejected",
            Self::Refused(GrantVerdict::Gone) => "gone",
            Self::Refused(GrantVerdict::Suspended) => "suspended",
            Self::Unavailable { error, .. } => result_word(error),
        }
    }
}

/// What the provider said.
struct Said {
    outcome: Result<FreshToken, ConnectorError>,
    is_dead: bool,
}

impl Renewal<'_> {
    /// Renews the token of a row. `suspect`: somebody began to and never wrote how it ended.
    pub async fn renew(&self, row: &SealedToken, suspect: bool) -> Result<Renewed, TokenError> {
        let (store, id, node) = (&self.deps.store, &row.installation, &self.deps.node);
        let now = self.deps.clock.now();
        if !store.claim_token_refresh(id, row.generation, node, now, now.plus(CLAIM)).await? {
            return Ok(Renewed::Overtaken);
        }
        let held = match open_held(self.deps, row) {
            Ok(held) => held,
            Err(error) => {
                self.release(row).await;
                return Err(error);
            }
        };
        let asking = tokio::time::timeout(PROVIDER_TIME, isolate(self.ask_provider(&held, suspect)));
        let said = match asking.await {
            Ok(Ok(said)) => said,
            Ok(Err(_panicked)) => {
                self.release(row).await;
                return Err(TokenError::Crashed);
            }
            Err(_elapsed) => Said { outcome: Err(ConnectorError::AnswerLost), is_dead: false },
        };
        match said.outcome {
            Ok(fresh) => self.write(row, &fresh).await,
            Err(error) => {
                // Also after a lost answer: the next try begins with the same refresh token, claim or no claim.
                self.release(row).await;
                Ok(match verdict_of(&error) {
                    // A refresh token is refused, too, because another node has used it.
                    Some(GrantVerdict::Dead) if self.is_overtaken(row).await? => Renewed::Overtaken,
                    Some(verdict) => Renewed::Refused(verdict),
                    None => Renewed::Unavailable { error, is_dead: said.is_dead },
                })
            }
        }
    }

    /// Asks for a new token. After a lost answer the old one is tried first: if it lives, or if the provider says that
    /// it does not, asking once more is safe or the last hope; if that cannot be found out, nothing is.
    async fn ask_provider(&self, held: &HeldToken, suspect: bool) -> Said {
        if !suspect {
            match self.connector.renew_token(&self.grant, Some(held)).await {
                Err(ConnectorError::AnswerLost) => {}
                outcome => return Said { outcome, is_dead: false },
            }
        }
        let is_dead = match self.connector.read_account(&self.grant, &held.access).await {
            Ok(_account) => false,
            Err(ConnectorError::Unauthorized | ConnectorError::Rejected) => true,
            Err(error @ (ConnectorError::Gone | ConnectorError::Suspended)) => {
                return Said { outcome: Err(error), is_dead: true };
            }
            Err(error) => return Said { outcome: Err(error), is_dead: false },
        };
        Said { outcome: self.connector.renew_token(&self.grant, Some(held)).await, is_dead }
    }

    /// Whether the row has another token by now, or is gone.
    async fn is_overtaken(&self, row: &SealedToken) -> Result<bool, StoreError> {
        let present = self.deps.store.find_token(&row.installation).await?;
        Ok(present.is_none_or(|present| present.generation != row.generation))
    }

    async fn release(&self, row: &SealedToken) {
        if let Err(error) = self.deps.store.release_token_refresh(&row.installation, &self.deps.node).await {
            tracing::warn!(installation.id = %row.installation, %error, "a claim on a token lapses by itself");
        }
    }

    /// Writes what the provider gave. Only this process has it now.
    async fn write(&self, row: &SealedToken, fresh: &FreshToken) -> Result<Renewed, TokenError> {
        let now = self.deps.clock.now();
        let sealed = self.seal(row, fresh, now)?;
        let began = Instant::now();
        let mut pauses = WRITE_PAUSES;
        loop {
            match self.deps.store.save_refreshed_token(&sealed, &self.deps.node).await {
                Ok(true) => {
                    let token = AccessToken {
                        access: fresh.access.clone(),
                        expires_at: sealed.expires_at,
                        generation: sealed.generation,
                    };
                    return Ok(Renewed::Written(Found { token, issued_at: now, sealed: Some(sealed.access) }));
                }
                Ok(false) => return self.written_before(row, &sealed, fresh).await,
                Err(StoreError::Unavailable(_)) if began.elapsed() < WRITE_TIME => {
                    tokio::time::sleep(pauses.next_pause()).await;
                }
                Err(error) => {
                    tracing::error!(installation.id = %row.installation, %error, "a renewed token cannot be written");
                    return Err(error.into());
                }
            }
        }
    }

    /// Nothing was written: somebody overtook us, unless it was a try of ours whose answer got lost.
    async fn written_before(
        &self,
        row: &SealedToken,
        sealed: &SealedToken,
        fresh: &FreshToken,
    ) -> Result<Renewed, TokenError> {
        let present = self.deps.store.find_token(&row.installation).await?;
        Ok(match present.filter(|present| present.access == sealed.access) {
            Some(present) => {
                let token = AccessToken {
                    access: fresh.access.clone(),
                    expires_at: present.expires_at,
                    generation: present.generation,
                };
                Renewed::Written(Found { token, issued_at: present.updated_at, sealed: Some(present.access) })
            }
            None => Renewed::Overtaken,
        })
    }

    /// The row after the renewal. What the provider did not give again stays as it was.
    fn seal(&self, row: &SealedToken, fresh: &FreshToken, now: EpochMs) -> Result<SealedToken, TokenError> {
        let (vault, id) = (&self.deps.vault, &row.installation);
        let fail = |error| {
            tracing::error!(installation.id = %id, %error, "a token cannot be sealed");
            TokenError::Vault
        };
        let refresh = fresh.refresh.as_ref();
        let new_refresh = refresh.map(|refresh| vault.seal(refresh_token_place(id), refresh.expose())).transpose();
        let new_refresh = new_refresh.map_err(fail)?;
        let keeps_refresh = new_refresh.is_none();
        Ok(SealedToken {
            installation: id.clone(),
            access: vault.seal(access_token_place(id), fresh.access.expose()).map_err(fail)?,
            refresh: new_refresh.or_else(|| row.refresh.clone()),
            token_type: fresh.token_type.clone().or_else(|| row.token_type.clone()),
            scope: fresh.scope.clone().or_else(|| row.scope.clone()),
            expires_at: fresh.expires_at,
            refresh_expires_at: if keeps_refresh {
                fresh.refresh_expires_at.or(row.refresh_expires_at)
            } else {
                fresh.refresh_expires_at
            },
            generation: row.generation.saturating_add(1),
            claim: None,
            created_at: row.created_at,
            updated_at: now,
        })
    }
}

/// Opens both tokens of a row.
pub(super) fn open_held(deps: &SupervisorDeps, row: &SealedToken) -> Result<HeldToken, TokenError> {
    let id = &row.installation;
    let fail = |error| {
        tracing::error!(installation.id = %id, %error, "a token's record does not open");
        TokenError::Vault
    };
    let access = deps.vault.open(access_token_place(id), &row.access).map_err(fail)?;
    let refresh = row.refresh.as_ref().map(|sealed| deps.vault.open(refresh_token_place(id), sealed)).transpose();
    Ok(HeldToken { access, refresh: refresh.map_err(fail)? })
}
