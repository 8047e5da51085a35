//! One heal run, step by step: read the log, ask for what is missing, watch it arrive.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{
    Cause, HealingHandle,
    comparison::{Comparison, Undelivered},
};
use crate::{
    model::{heal_run::HealRun, provider::ProviderDeliveryId},
    providers::{Connector, ConnectorError, connector::DeliveryLog},
    store::StoreError,
};

/// Pages of a log read at the most.
const MAX_PAGES: usize = 5_000;
/// Ids looked up in the store at once.
const BATCH: usize = 400;
/// The longest a provider's wish to wait is honoured; beyond it the run fails, and the next one covers its gap.
const MAX_WAIT: Duration = Duration::from_mins(5);
/// How long to wait before a failed call is tried again, where the provider does not say.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a call that failed for want of an answer is made.
const TRIES: u32 = 3;
/// How often a run says that it lives while it waits.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How often a run that asks writes down how far it is, in webhooks.
const SAVE_EVERY: u32 = 25;
/// How often it is looked whether what was asked for has arrived, for each [`BATCH`] of it.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// How often runs that nobody asked for ask for the same webhook at the most.
const ASK_AT_MOST: u8 = 3;

/// A run under way.
pub(super) struct Running<'a> {
    pub healing: &'a HealingHandle,
    pub connector: Arc<dyn Connector>,
    pub run: HealRun,
    pub cause: Cause,
    pub progress: &'a watch::Sender<HealRun>,
}

/// Why a run ends early: a short text of ours.
struct Failure(String);

impl From<ConnectorError> for Failure {
    fn from(error: ConnectorError) -> Self {
        Self(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(error.code().to_owned())
    }
}

impl Running<'_> {
    /// What it failed of, if it did; how far it came is in the progress.
    pub async fn run_out(&mut self) -> Option<String> {
        let ended = self.compare_ask_and_watch().await;
        self.tell();
        ended.err().map(|Failure(why)| why)
    }

    async fn compare_ask_and_watch(&mut self) -> Result<(), Failure> {
        let connector = Arc::clone(&self.connector);
        let Some(log) = connector.delivery_log() else { return Ok(()) };
        let undelivered = self.read_log(log).await?;
        let missing = self.without_received(undelivered).await?;
        self.run.missing = count(missing.len());
        self.save().await?;
        let asked = self.ask(log, missing).await;
        let (requested, failure) = match asked {
            Ok(requested) => (requested, None),
            Err((requested, failure)) => (requested, Some(failure)),
        };
        self.watch(requested).await?;
        failure.map_or(Ok(()), Err)
    }

    /// Reads the log from its newest entry down to the beginning of the gap.
    async fn read_log(&mut self, log: &dyn DeliveryLog) -> Result<Vec<Undelivered>, Failure> {
        let mut comparison = Comparison::since(self.run.since);
        let mut cursor: Option<String> = None;
        for _page in 0..MAX_PAGES {
            let mut tries = 0;
            let page = loop {
                match log.list(self.now(), cursor.as_deref()).await {
                    Ok(page) => break page,
                    Err(error) => self.wait_after(error, &mut tries).await?,
                }
            };
            let is_done = comparison.take(page.items);
            self.run.examined = count(comparison.examined());
            self.save().await?;
            let next = page.next_cursor.filter(|next| Some(next) != cursor.as_ref());
            if is_done || next.is_none() {
                return Ok(comparison.undelivered());
            }
            cursor = next;
            if let Some(wait) = page.wait {
                self.wait(wait).await?;
            }
        }
        Err(Failure("the provider's log is longer than is read".into()))
    }

    /// Those that we do not have.
    async fn without_received(&self, undelivered: Vec<Undelivered>) -> Result<Vec<Undelivered>, Failure> {
        let received = self.received(undelivered.iter().map(|webhook| &webhook.delivery_id)).await?;
        Ok(undelivered.into_iter().filter(|webhook| !received.contains(&webhook.delivery_id)).collect())
    }

    async fn received(
        &self,
        ids: impl Iterator<Item = &ProviderDeliveryId>,
    ) -> Result<HashSet<ProviderDeliveryId>, StoreError> {
        let ids: Vec<_> = ids.cloned().collect();
        let mut received = HashSet::new();
        for batch in ids.chunks(BATCH) {
            let known = self.healing.shared.deps.store.list_received(self.run.provider, batch).await?;
            received.extend(known);
        }
        Ok(received)
    }

    /// Asks for each once, oldest first; answers those that the provider agreed to send, also when it fails.
    async fn ask(
        &mut self,
        log: &dyn DeliveryLog,
        missing: Vec<Undelivered>,
    ) -> Result<HashSet<ProviderDeliveryId>, (HashSet<ProviderDeliveryId>, Failure)> {
        let mut requested = HashSet::new();
        let pace = Duration::from_secs(1) / self.healing.shared.deps.config.max_per_second.max(1);
        let mut next_at = Instant::now();
        for webhook in missing {
            let is_automatic = self.cause != Cause::OnDemand;
            if is_automatic && !self.healing.may_ask(self.run.provider, &webhook.delivery_id, ASK_AT_MOST) {
                continue;
            }
            tokio::time::sleep_until(next_at).await;
            next_at = Instant::now() + pace;
            match self.ask_for(log, &webhook).await {
                Ok(true) => {
                    requested.insert(webhook.delivery_id);
                    self.run.requested += 1;
                }
                Ok(false) => self.run.refused += 1,
                Err(failure) => return Err((requested, failure)),
            }
            self.tell();
            if (self.run.requested + self.run.refused).is_multiple_of(SAVE_EVERY)
                && let Err(error) = self.save().await
            {
                return Err((requested, error.into()));
            }
        }
        Ok(requested)
    }

    async fn ask_for(&mut self, log: &dyn DeliveryLog, webhook: &Undelivered) -> Result<bool, Failure> {
        let mut tries = 0;
        loop {
            match log.redeliver(self.now(), &webhook.log_id).await {
                Ok(agreed) => return Ok(agreed),
                // It may well come; asked again it would come twice.
                Err(ConnectorError::AnswerLost) => return Ok(true),
                Err(ConnectorError::NotAccessible | ConnectorError::Gone) => return Ok(false),
                Err(error) => self.wait_after(error, &mut tries).await?,
            }
        }
    }

    /// Watches the store until everything requested is there, or for as long as the run has patience.
    async fn watch(&mut self, requested: HashSet<ProviderDeliveryId>) -> Result<(), Failure> {
        let (mut outstanding, all) = (requested.clone(), requested.len());
        let deadline = Instant::now() + self.cause.patience();
        let mut saved_at = Instant::now();
        while !outstanding.is_empty() {
            for id in self.received(outstanding.clone().iter()).await? {
                outstanding.remove(&id);
            }
            self.run.healed = count(all - outstanding.len());
            self.tell();
            if outstanding.is_empty() || Instant::now() >= deadline {
                break;
            }
            if saved_at.elapsed() >= HEARTBEAT {
                self.save().await?;
                saved_at = Instant::now();
            }
            // Five looks in a second, however many there are to be made: the backlog needs the database more than this does.
            let batches = count(outstanding.len().div_ceil(BATCH));
            let pause = (WATCH_EVERY * batches).min(deadline.saturating_duration_since(Instant::now()));
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// After a call that may go better the next time: waits as long as the provider wishes. Fails with any other, and
    /// when it has been tried often enough.
    async fn wait_after(&mut self, error: ConnectorError, tries: &mut u32) -> Result<(), Failure> {
        *tries += 1;
        let wait = match &error {
            ConnectorError::Unavailable { retry_after, .. } => retry_after.unwrap_or(PAUSE * *tries),
            ConnectorError::AnswerLost => PAUSE * *tries,
            _ => return Err(error.into()),
        };
        if *tries >= TRIES || wait > MAX_WAIT {
            return Err(error.into());
        }
        self.wait(wait).await
    }

    /// Waits, saying now and then that the run lives.
    async fn wait(&mut self, wait: Duration) -> Result<(), Failure> {
        if wait > MAX_WAIT {
            return Err(Failure("the provider's rate limit is used up".into()));
        }
        let until = Instant::now() + wait;
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + HEARTBEAT)).await;
            self.save().await?;
        }
        Ok(())
    }

    fn now(&self) -> crate::model::clock::EpochMs {
        self.healing.shared.deps.clock.now()
    }

    fn tell(&self) {
        self.progress.send_replace(self.run.clone());
    }

    async fn save(&self) -> Result<(), StoreError> {
        self.tell();
        self.healing.save(&self.run).await
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}
