//! The runner of a teardown: takes its lease, does the next step, writes how it ended, and goes on until nothing is due.
//!
//! **Invariants**: a step is worked on under the row's lease and settled in one transaction, together with what it does
//! to our own rows; a step that was done and not written is done again, which every step bears; only the grant of an
//! installation that is revoked is ended, never that of one connected again meanwhile; what others say is written as one
//! of our codes. **Must not know** how a provider ends a grant.

use std::{sync::Arc, time::Duration};

use super::{
    InstallationHandle, SupervisorDeps,
    renewal::{Renewal, Renewed, open_held},
    teardown::{RECONNECTED, Tried, next_step, settle, without_help},
};
use crate::{
    actors::{
        runtime::isolate,
        tokens::{GrantVerdict, TokenError, find_connector},
    },
    model::{
        ids::InstallationId,
        installation::InstallationStatus,
        log_entry::Actor,
        teardown::{Teardown, TeardownStep},
        token::SealedToken,
    },
    providers::{
        Connector, ConnectorError,
        connector::{Ended, Grant, HeldToken},
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

/// A turn of the runner.
pub(super) struct TeardownRun {
    pub deps: SupervisorDeps,
    pub id: InstallationId,
    pub supervisor: InstallationHandle,
}

impl TeardownRun {
    /// Works until nothing is due, or somebody else has the lease.
    pub async fn run(self) {
        self.crash_after(TeardownStep::CloseGate);
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
                    self.crash_after(step);
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

    /// For tests: the end of the process at a chosen place.
    fn crash_after(&self, step: TeardownStep) {
        let chosen = self.deps.crash_after.as_deref().and_then(|point| point.strip_prefix("teardown."));
        if chosen == Some(step.as_str()) {
            std::process::abort();
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
        if installation.status != InstallationStatus::Revoked {
            return Ok(Tried::Skipped(RECONNECTED));
        }
        let Ok(connector) = find_connector(&self.deps.registry, installation.provider) else {
            return Ok(Tried::Skipped("not_configured"));
        };
        let now = self.deps.clock.now();
        let grant = Grant::of(&installation, now);
        if !connector.keeps_tokens() {
            return Ok(of_end(&connector.end_grant(&grant, None).await));
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
            let ended = connector.end_grant(&grant, Some(&held)).await;
            let is_refused = matches!(ended, Err(ConnectorError::Unauthorized | ConnectorError::Rejected));
            if !is_refused || held.refresh.is_none() {
                return Ok(of_end(&ended));
            }
        }
        self.end_with_a_renewed_token(connector, grant, &row).await
    }

    /// The grant may live although its access token does not: revoking wants one that does.
    async fn end_with_a_renewed_token(
        &self,
        connector: Arc<dyn Connector>,
        grant: Grant,
        row: &SealedToken,
    ) -> Result<Tried, TokenError> {
        let renewal = Renewal { deps: &self.deps, grant: grant.clone(), connector: connector.clone() };
        match renewal.renew(row, false).await? {
            Renewed::Refused(GrantVerdict::Dead | GrantVerdict::Gone) => return Ok(Tried::Done(Some("already_gone"))),
            Renewed::Refused(GrantVerdict::Suspended) => return Ok(Tried::Failed("suspended")),
            Renewed::Unavailable { .. } => return Ok(Tried::Failed(PROVIDER_UNAVAILABLE)),
            Renewed::Written(_) | Renewed::Overtaken => {}
        }
        let Some(row) = self.deps.store.find_token(&self.id).await? else { return Ok(Tried::Skipped("no_token")) };
        if row.claim.is_some() {
            return Ok(Tried::Failed(TOKEN_BEING_RENEWED));
        }
        let installation = self.deps.store.find_installation(&self.id).await?;
        if installation.is_none_or(|installation| installation.status != InstallationStatus::Revoked) {
            return Ok(Tried::Skipped(RECONNECTED));
        }
        let held: HeldToken = open_held(&self.deps, &row)?;
        Ok(of_end(&connector.end_grant(&grant, Some(&held)).await))
    }
}

/// What a try comes to by what the provider answered.
fn of_end(ended: &Result<Ended, ConnectorError>) -> Tried {
    match ended {
        Ok(Ended::Revoked) => Tried::Done(Some("revoked")),
        Ok(Ended::AlreadyGone)
        | Err(ConnectorError::Gone | ConnectorError::Rejected | ConnectorError::Unauthorized) => {
            Tried::Done(Some("already_gone"))
        }
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

fn word_of(tried: Tried) -> &'static str {
    match tried {
        Tried::Done(_) => "done",
        Tried::Skipped(_) => "skipped",
        Tried::Impossible(_) => "impossible",
        Tried::Failed(_) => "failed",
    }
}
