//! The runner of a teardown: takes its lease, does the next step, writes how it ended, and goes on until nothing is due.
//!
//! **Invariants**: a step is worked on under the row's lease and settled in one transaction, together with what it does
//! to our own rows; a step that was done and not written is done again, which every step bears; only the grant of an
//! installation that is revoked is ended, never that of one connected again meanwhile, by this org or another; what
//! others say is written as one of our codes. **Must not know** how a provider ends a grant.

use std::{sync::Arc, time::Duration};

use super::{
    InstallationHandle, SupervisorDeps,
    renewal::{Renewal, Renewed, open_held},
    teardown::{RECONNECTED, Tried, next_step, settle, without_help},
};
use crate::{
    actors::{
        runtime::{beside, isolate},
        tokens::{GrantVerdict, TokenError, get_connector},
    },
    model::{
        ids::InstallationId,
        installation::{Installation, InstallationStatus},
        log_entry::Actor,
        provider::ProviderSlug,
        teardown::{Teardown, TeardownStep},
        token::SealedToken,
    },
    providers::{
        Connector, ConnectorError,
        connector::{EndOf, Ended, Grant, HeldToken},
    },
};

/// How long a lease holds: for one step.
const LEASE: Duration = Duration::from_secs(12);
/// How long a try that asks others may take, so that it ends within the lease.
const STEP_TIME: Duration = Duration::from_secs(10);

/// A code of the receipt: it could not be asked.
const PROVIDER_UNAVAILABLE: &str = "provider_unavailable";
/// Another one: the token that a renewal brings is the one to revoke.
const TOKEN_BEING_RENEWED: &str = "token_being_renewed";
/// Another one: ending it would end a connection that lives.
const CONNECTED_ELSEWHERE: &str = "connected_elsewhere";

/// A turn of the runner.
pub(super) struct TeardownRun {
    pub deps: Arc<SupervisorDeps>,
    pub id: InstallationId,
    pub supervisor: InstallationHandle,
}

impl TeardownRun {
    /// Works until nothing is due, or somebody else has the lease.
    pub async fn run(self) {
        self.deps.crash_after("teardown", TeardownStep::CloseGate.as_str());
        loop {
            let teardown = match self.claim().await {
                Ok(Some(teardown)) => teardown,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(installation.id = %self.id, %error, "a teardown waits for the database");
                    return;
                }
            };
            let Some(step) = next_step(&teardown) else { return };
            let tried = self.try_step(step).await;
            self.deps.metrics.teardown_step_tried(step.as_str(), word_of(tried));
            if !self.write(step, tried).await {
                return;
            }
        }
    }

    async fn claim(&self) -> crate::store::StoreResult<Option<Teardown>> {
        let now = self.deps.clock.now();
        self.deps.store.claim_teardown(&self.id, &self.deps.node, now, now.plus(LEASE)).await
    }

    /// Writes how a try ended; false if it is not ours to write any more, or cannot be written now.
    async fn write(&self, step: TeardownStep, tried: Tried) -> bool {
        let node = self.deps.node.clone();
        let decide =
            self.deps.decision(Actor::system(), move |record, edit| Ok(settle(record, step, tried, &node, edit)));
        match self.supervisor.edit(decide).await {
            Ok(true) => {
                if !matches!(tried, Tried::Failed(_)) {
                    self.deps.crash_after("teardown", step.as_str());
                }
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(installation.id = %self.id, step = step.as_str(), %error, "a step was not written");
                false
            }
        }
    }

    async fn try_step(&self, step: TeardownStep) -> Tried {
        if let Some(tried) = without_help(step, self.deps.backfill.is_some()) {
            return tried;
        }
        match step {
            TeardownStep::CancelBackfill => self.within_the_lease(self.cancel_backfill()).await,
            _ => self.within_the_lease(self.revoke_token()).await,
        }
    }

    async fn within_the_lease(&self, trying: impl Future<Output = Tried>) -> Tried {
        match tokio::time::timeout(STEP_TIME, isolate(trying)).await {
            Ok(Ok(tried)) => tried,
            Ok(Err(_panicked)) => Tried::Failed("internal_error"),
            Err(_elapsed) => Tried::Failed("timed_out"),
        }
    }

    async fn cancel_backfill(&self) -> Tried {
        let Some(backfill) = &self.deps.backfill else { return Tried::Skipped("not_configured") };
        match backfill.cancel(&self.id).await {
            Ok(()) => Tried::Done(None),
            Err(error) => Tried::Failed(error.code()),
        }
    }

    async fn revoke_token(&self) -> Tried {
        match self.end_grant().await {
            Ok(tried) => tried,
            Err(error) => {
                tracing::warn!(installation.id = %self.id, %error, "a grant was not ended");
                Tried::Failed(match error {
                    TokenError::ProviderUnavailable(_) => PROVIDER_UNAVAILABLE,
                    TokenError::Store(_) => "temporarily_unavailable",
                    _ => "internal_error",
                })
            }
        }
    }

    pub(super) async fn end_grant(&self) -> Result<Tried, TokenError> {
        let store = &self.deps.store;
        // The token first: if the installation is revoked after that, it is not the token of a new connection.
        let row = store.find_token(&self.id).await?;
        let Some(installation) = store.find_installation(&self.id).await? else {
            return Ok(Tried::Skipped("not_found"));
        };
        let Ok(connector) = get_connector(&self.deps.registry, installation.provider) else {
            return Ok(Tried::Skipped("not_configured"));
        };
        let now = self.deps.clock.now();
        let ending = Ending { provider: installation.provider, grant: Grant::of(&installation, now), connector };
        if let Some(why) = self.lives_on(&ending).await? {
            return Ok(Tried::Skipped(why));
        }
        if !ending.connector.keeps_tokens() {
            return Ok(ending.tried(&ending.connector.end_grant(&ending.grant, None).await));
        }
        let Some(row) = row else { return Ok(Tried::Skipped("no_token")) };
        if row.claim.as_ref().is_some_and(|claim| now < claim.until) {
            return Ok(Tried::Failed(TOKEN_BEING_RENEWED));
        }
        let Ok(held) = open_held(&self.deps, &row) else {
            return Ok(Tried::Impossible("sealed_record_unreadable"));
        };
        let is_over = row.expires_at.is_some_and(|end| end <= now);
        if !is_over || held.refresh.is_none() {
            let ended = ending.connector.end_grant(&ending.grant, Some(&held)).await;
            let is_refused = matches!(ended, Err(ConnectorError::Unauthorized | ConnectorError::Rejected));
            if !is_refused || held.refresh.is_none() {
                return Ok(ending.tried(&ended));
            }
        }
        self.end_with_a_renewed_token(&ending, &row).await
    }

    /// The grant may live although its access token does not: revoking wants one that does.
    async fn end_with_a_renewed_token(&self, ending: &Ending, row: &SealedToken) -> Result<Tried, TokenError> {
        let Ending { grant, connector, .. } = ending;
        let renewing = {
            let (deps, row) = (Arc::clone(&self.deps), row.clone());
            let (grant, connector) = (grant.clone(), connector.clone());
            // Beside the step, whose time may end first: what the provider gives, nobody else has.
            beside(async move { Renewal { deps: &deps, grant, connector }.renew(&row, row.claim.is_some()).await })
        };
        match renewing.await.unwrap_or(Err(TokenError::Crashed))? {
            Renewed::Refused(GrantVerdict::Dead) => return Ok(ending.tried(&Err(ConnectorError::Rejected))),
            Renewed::Refused(GrantVerdict::Gone) => return Ok(ending.tried(&Err(ConnectorError::Gone))),
            Renewed::Refused(GrantVerdict::Suspended) => return Ok(ending.tried(&Err(ConnectorError::Suspended))),
            Renewed::Unavailable { .. } => return Ok(Tried::Failed(PROVIDER_UNAVAILABLE)),
            Renewed::Written(_) | Renewed::Overtaken => {}
        }
        let Some(row) = self.deps.store.find_token(&self.id).await? else { return Ok(Tried::Skipped("no_token")) };
        if row.claim.is_some() {
            return Ok(Tried::Failed(TOKEN_BEING_RENEWED));
        }
        if let Some(why) = self.lives_on(ending).await? {
            return Ok(Tried::Skipped(why));
        }
        let held: HeldToken = open_held(&self.deps, &row)?;
        Ok(ending.tried(&connector.end_grant(grant, Some(&held)).await))
    }

    /// Why the grant is not to be ended, if it is not: its installation was connected again, or what the provider would
    /// end is by now another row's, of another org even, which may connect the account as soon as this one is revoked.
    async fn lives_on(&self, ending: &Ending) -> Result<Option<&'static str>, TokenError> {
        let own = self.deps.store.find_installation(&self.id).await?;
        if own.is_none_or(|own| own.status != InstallationStatus::Revoked) {
            return Ok(Some(RECONNECTED));
        }
        let EndOf::Installation(ended) = ending.connector.end_of(&ending.grant) else { return Ok(None) };
        for id in [&ended, &ending.grant.external_id] {
            let live = self.deps.store.find_live_installation(ending.provider, id).await?;
            // One that does not say which second id it has may have this one.
            let is_ended = |live: &Installation| {
                live.external_id == ended || live.alternate_external_id.as_ref().is_none_or(|known| *known == ended)
            };
            if live.as_ref().is_some_and(is_ended) {
                return Ok(Some(CONNECTED_ELSEWHERE));
            }
        }
        Ok(None)
    }
}

/// A grant to be ended, and who can end it.
struct Ending {
    provider: ProviderSlug,
    grant: Grant,
    connector: Arc<dyn Connector>,
}

impl Ending {
    /// What a try comes to by what the provider answered.
    fn tried(&self, ended: &Result<Ended, ConnectorError>) -> Tried {
        match ended {
            Ok(Ended::Revoked) => Tried::Done(Some("revoked")),
            Ok(Ended::AlreadyGone) | Err(ConnectorError::Gone) => Tried::Done(Some("already_gone")),
            Err(ConnectorError::Rejected | ConnectorError::Unauthorized) => match self.connector.end_of(&self.grant) {
                EndOf::Token => Tried::Done(Some("already_gone")),
                // It is installed there as before; only people can remove it.
                EndOf::Installation(_) => Tried::Impossible("token_not_accepted"),
            },
            Ok(Ended::NotPossible(why)) => Tried::Impossible(why),
            Err(ConnectorError::NotAccessible) => Tried::Impossible("missing_scope"),
            Err(ConnectorError::NotSupported) => Tried::Skipped("not_supported"),
            Err(ConnectorError::Suspended) => Tried::Failed("suspended"),
            Err(
                ConnectorError::AnswerLost
                | ConnectorError::Unavailable { .. }
                | ConnectorError::Malformed(_)
                | ConnectorError::Refused(_),
            ) => Tried::Failed(PROVIDER_UNAVAILABLE),
        }
    }
}

fn word_of(tried: Tried) -> &'static str {
    match tried {
        Tried::Done(_) => "done",
        Tried::Skipped(_) => "skipped",
        Tried::Impossible(_) => "impossible",
        Tried::Failed(_) => "failed",
    }
}
