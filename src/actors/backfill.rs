//! The backfill service as the gateway sees it: told about new connections and links, told to stop at their end.
//!
//! **Owns** the run record of each telling. **Invariants**: whoever connects or links never waits for it and never hears
//! of its failures; it is not told to begin what was ended meanwhile; what it answers is not kept. **Must not know** how
//! history is fetched.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use url::Url;

use crate::{
    config::BackfillConfig,
    model::{
        backfill_run::{BackfillRun, BackfillStatus},
        clock::{Clock, Ids},
        ids::InstallationId,
        installation::Installation,
        log_entry::{Actor, LogEntry},
        secret::Secret,
    },
    providers::{
        HttpClient,
        http::{Call, HttpError},
    },
    store::{SharedStore, StoreError},
};

/// How long one call may take: it only takes note.
const CALL_TIME: Duration = Duration::from_secs(5);
/// The pauses between tries to tell it of a connection.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

/// Why the backfill service was not told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackfillError {
    /// It cannot be reached, or its answer got lost.
    #[error("the backfill service was not reached: {0}")]
    Unreachable(HttpError),
    /// It did not take note.
    #[error("the backfill service answered {0}")]
    Refused(u16),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackfillError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "backfill_unreachable",
            Self::Refused(_) => "backfill_refused",
            Self::Store(error) => error.code(),
        }
    }

    /// Whether trying again may help.
    fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(status) => *status == 429 || *status >= 500,
            Self::Store(_) => false,
        }
    }
}

/// What the hook needs of the other rooms.
pub struct BackfillDeps {
    /// Where it is.
    pub service: BackfillConfig,
    /// How it is called.
    pub http: HttpClient,
    /// The run records.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Ids,
}

/// What other rooms hold of the backfill service. Cheap to clone.
#[derive(Clone)]
pub struct BackfillHook {
    deps: Arc<BackfillDeps>,
}

impl BackfillHook {
    /// A hook to this service.
    pub fn new(deps: BackfillDeps) -> Self {
        Self { deps: Arc::new(deps) }
    }

    /// Asks for the history of an installation, in the background.
    pub fn trigger(&self, id: InstallationId) {
        let hook = self.clone();
        tokio::spawn(async move {
            if let Err(error) = hook.tell(&id).await {
                tracing::warn!(installation.id = %id, %error, "the backfill service was not told of a link");
            }
        });
    }

    async fn tell(&self, id: &InstallationId) -> Result<(), BackfillError> {
        let store = &self.deps.store;
        let Some(installation) = store.find_installation(id).await? else { return Ok(()) };
        if !installation.status.routes() {
            return Ok(());
        }
        let run = self.pending_run(&installation);
        store.save_backfill_run(&run, Some(&self.entry(&run, None, "backfill_run.asked_for"))).await?;
        let body = json!({
            "installationId": installation.id,
            "provider": installation.provider,
            "orgId": installation.org,
        });
        let told = self.post_while_wanted(&run, &body).await;
        if let Err(error) = &told {
            self.fail(&run, error.code()).await?;
        }
        told
    }

    fn pending_run(&self, of: &Installation) -> BackfillRun {
        BackfillRun::pending(self.deps.ids.backfill_run(), of, self.deps.clock.now())
    }

    /// Ends a run that nobody heard of; one that moved all the same is left alone.
    async fn fail(&self, run: &BackfillRun, code: &'static str) -> Result<(), StoreError> {
        let present = self.deps.store.find_backfill_run(&run.id).await?;
        if present.is_none_or(|present| present.status != BackfillStatus::Pending) {
            return Ok(());
        }
        self.end(run, BackfillStatus::Failed, Some(code)).await
    }

    /// Tells the service to stop, and ends the installation's open runs. Asked again it does the same.
    pub async fn cancel(&self, id: &InstallationId) -> Result<(), BackfillError> {
        match self.post("trigger/cancel", &json!({"installationId": id})).await {
            // It knows of nothing to stop.
            Ok(()) | Err(BackfillError::Refused(404)) => {}
            Err(error) => return Err(error),
        }
        self.deps.store.cancel_backfill_runs(id, self.deps.clock.now()).await?;
        Ok(())
    }

    /// Asks for a run, until it is heard or nobody wants it any more.
    async fn post_while_wanted(&self, run: &BackfillRun, body: &serde_json::Value) -> Result<(), BackfillError> {
        let mut pauses = PAUSES.into_iter();
        while self.is_wanted(run).await? {
            match self.post("trigger", body).await {
                Err(error) if error.is_passing() => match pauses.next() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                },
                outcome => return outcome,
            }
        }
        Ok(())
    }

    /// Whether a run is still to begin: a teardown may have begun since it was asked for, or the service reported on it.
    /// A run that a teardown did not see is ended as the teardown ends the others.
    async fn is_wanted(&self, run: &BackfillRun) -> Result<bool, StoreError> {
        let store = &self.deps.store;
        let present = store.find_backfill_run(&run.id).await?;
        if present.is_none_or(|present| present.status != BackfillStatus::Pending) {
            return Ok(false);
        }
        let installation = store.find_installation(&run.installation).await?;
        let is_connected = installation.is_some_and(|installation| installation.status.routes());
        if !is_connected {
            self.end(run, BackfillStatus::Cancelled, None).await?;
        }
        Ok(is_connected)
    }

    async fn end(&self, run: &BackfillRun, status: BackfillStatus, error: Option<&str>) -> Result<(), StoreError> {
        let now = self.deps.clock.now();
        let error = error.map(str::to_owned);
        let ended = BackfillRun { status, error, finished_at: Some(now), updated_at: now, ..run.clone() };
        let entry = self.entry(&ended, Some(run.status), "backfill_run.ended");
        self.deps.store.save_backfill_run(&ended, Some(&entry)).await?;
        Ok(())
    }

    fn entry(&self, run: &BackfillRun, from: Option<BackfillStatus>, action: &str) -> LogEntry {
        run.entry(self.deps.ids.log(), action, from, Actor::system())
    }

    async fn post(&self, path: &str, body: &serde_json::Value) -> Result<(), BackfillError> {
        let BackfillConfig { url, api_key } = &self.deps.service;
        let call = Call::new("POST", below(url, path)).within(CALL_TIME).json(body);
        let reply = self.deps.http.send(call.header("x-api-key", key_text(api_key))).await;
        let reply = reply.map_err(BackfillError::Unreachable)?;
        if reply.is_success() { Ok(()) } else { Err(BackfillError::Refused(reply.status)) }
    }
}

fn key_text(key: &Secret) -> &str {
    key.expose_str().unwrap_or_default()
}

/// A path below a base that may or may not end with a slash.
fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_appended_to_the_base_with_and_without_a_slash() {
        for base in ["http://backfill.test/api", "http://backfill.test/api/"] {
            let base = base.parse().expect("a URL");
            assert_eq!(below(&base, "trigger/cancel").as_str(), "http://backfill.test/api/trigger/cancel");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert!(BackfillError::Refused(503).is_passing() && BackfillError::Refused(429).is_passing());
        assert!(!BackfillError::Refused(401).is_passing());
    }
}
