//! Keeping webhooks that cannot become events: wrongly signed ones, and those whose handling fails. One writer takes
//! them from a bounded queue, a few in one transaction, and of the wrongly signed ones no more than an allowance, so that
//! a flood of bad signatures costs the flood, not the database.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    crypto::hmac::sha256,
    model::{
        clock::{Clock, EpochMs, Ids},
        ids::QuarantineId,
        provider::ProviderSlug,
        webhook::{Headers, ReceivedWebhook},
    },
    store::{QuarantineBounds, Quarantined, SharedStore, StoreError},
    telemetry::metrics::Metrics,
};

/// Webhooks waiting for the writer.
const QUEUE: usize = 256;

/// Webhooks kept in one transaction: so few that honest ones, which wait for it, hardly notice.
const BATCH: usize = 8;

/// How long a refused provider waits for its webhook to be kept: the answer is no in any case.
const PATIENCE: Duration = Duration::from_millis(250);

/// How many seconds' worth of the allowance may be used at once: a secret that does not match makes every webhook of an
/// ordinary burst a wrongly signed one, and those are wanted when the secret is put right.
const AT_ONCE_S: f64 = 10.0;

/// How many wrongly signed webhooks of each provider are kept: so many in a second, and some more at once after a quiet
/// time. Keeping one costs a commit's share; refusing one, an HMAC.
#[derive(Debug)]
struct Allowance {
    per_s: f64,
    /// What each provider has left, and since when.
    left: Mutex<HashMap<ProviderSlug, (f64, Instant)>>,
}

impl Allowance {
    /// Takes one of a provider's, if there is one left.
    fn take(&self, provider: ProviderSlug, now: Instant) -> bool {
        let most = self.per_s * AT_ONCE_S;
        // A count is as good after a panic as before.
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, since) = left.entry(provider).or_insert((most, now));
        *left = (*left + now.duration_since(*since).as_secs_f64() * self.per_s).min(most);
        *since = now;
        let granted = *left >= 1.0;
        if granted {
            *left -= 1.0;
        }
        granted
    }
}

/// What may be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuarantineLimits {
    pub bounds: QuarantineBounds,
    /// Wrongly signed webhooks of a provider, in a second.
    pub per_s: u64,
}

/// Where a webhook was kept.
#[derive(Debug, Clone)]
pub(super) struct SetAside {
    /// Its id: that of the first time the same body came.
    pub id: QuarantineId,
    /// How often it has come.
    pub times: u32,
}

struct Item {
    webhook: Quarantined,
    /// Told under which id it is kept, and how often it has come.
    done: oneshot::Sender<Result<(QuarantineId, u32), StoreError>>,
}

/// The sending side of the queue.
#[derive(Clone)]
pub(super) struct QuarantineWriter {
    queue: mpsc::Sender<Item>,
    allowance: Arc<Allowance>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    ids: Ids,
}

impl QuarantineWriter {
    /// Starts the writer on the current runtime.
    pub fn start(
        store: SharedStore,
        limits: QuarantineLimits,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        ids: Ids,
    ) -> Self {
        let (queue, mut items) = mpsc::channel::<Item>(QUEUE);
        tokio::spawn(async move {
            let mut waiting = Vec::with_capacity(BATCH);
            while items.recv_many(&mut waiting, BATCH).await > 0 {
                keep_all(&store, limits.bounds, std::mem::take(&mut waiting)).await;
            }
        });
        #[expect(clippy::cast_precision_loss, reason = "at most a million")]
        let allowance = Allowance { per_s: limits.per_s as f64, left: Mutex::default() };
        Self { queue, allowance: Arc::new(allowance), metrics, clock, ids }
    }

    /// Keeps a webhook that nobody vouches for, unless too many of its provider come.
    pub async fn keep_unverified(&self, webhook: &ReceivedWebhook, cause: &str) {
        if self.allowance.take(webhook.provider, Instant::now()) {
            self.keep(webhook, cause).await;
        } else {
            self.metrics.webhook_not_quarantined(webhook.provider);
        }
    }

    /// Keeps a webhook if there is room in the queue.
    pub async fn keep(&self, webhook: &ReceivedWebhook, cause: &str) {
        let (done, kept) = oneshot::channel();
        let row = self.row_of(webhook, cause);
        match self.queue.try_send(Item { webhook: row, done }) {
            Ok(()) => {
                if tokio::time::timeout(PATIENCE, kept).await.is_err() {
                    tracing::debug!("the quarantine is slow");
                }
            }
            Err(_full) => tracing::debug!(provider = %webhook.provider, cause, "the quarantine's queue is full"),
        }
    }

    /// Keeps a webhook and says how often it has come: for those whose bytes must not be lost.
    pub async fn keep_now(&self, webhook: &ReceivedWebhook, cause: &str) -> Result<SetAside, StoreError> {
        let (done, kept) = oneshot::channel();
        let row = self.row_of(webhook, cause);
        let gone = || StoreError::Unavailable("the quarantine does not answer".into());
        self.queue.send(Item { webhook: row, done }).await.map_err(|_closed| gone())?;
        let (id, times) = kept.await.map_err(|_closed| gone())??;
        Ok(SetAside { id, times })
    }

    fn row_of(&self, webhook: &ReceivedWebhook, cause: &str) -> Quarantined {
        Quarantined {
            id: self.ids.quarantine(),
            provider: webhook.provider,
            cause: cause.to_owned(),
            headers: headers_to_json(&webhook.headers),
            body: webhook.body.clone(),
            body_sha256: hex::encode(sha256(&webhook.body)),
            attempts: 1,
            received_at: webhook.received_at,
            last_at: self.clock.now(),
        }
    }
}

/// Keeps webhooks and tells whoever waits for each; if they cannot be kept together, one by one, so that one of them that
/// cannot be stored costs the others nothing.
async fn keep_all(store: &SharedStore, bounds: QuarantineBounds, items: Vec<Item>) {
    let (webhooks, waiting): (Vec<_>, Vec<_>) = items.into_iter().map(|item| (item.webhook, item.done)).unzip();
    let kept = match store.quarantine(&webhooks, bounds).await {
        Ok(kept) => kept.into_iter().map(Ok).collect(),
        Err(StoreError::Unavailable(why)) => {
            webhooks.iter().map(|_| Err(StoreError::Unavailable(why.clone()))).collect()
        }
        Err(error) if webhooks.len() == 1 => vec![Err(error)],
        Err(_) => {
            for (webhook, done) in webhooks.into_iter().zip(waiting) {
                Box::pin(keep_all(store, bounds, vec![Item { webhook, done }])).await;
            }
            return;
        }
    };
    for (kept, done) in kept.into_iter().zip(waiting) {
        if let Err(error) = &kept {
            tracing::warn!(%error, "a webhook could not be quarantined");
        }
        if done.send(kept).is_err() {
            tracing::trace!("nobody waited for the quarantine");
        }
    }
}

/// Every header as `[name, value]`; a value that is not UTF-8 as `[name, null, hex]`.
fn headers_to_json(headers: &Headers) -> String {
    let pairs: Vec<Value> = headers
        .iter()
        .map(|(name, value)| match std::str::from_utf8(value) {
            Ok(text) => serde_json::json!([name, text]),
            Err(_not_text) => serde_json::json!([name, null, hex::encode(value)]),
        })
        .collect();
    Value::Array(pairs).to_string()
}

/// The webhook that a quarantined row holds.
pub(super) fn webhook_of(row: &Quarantined) -> Option<ReceivedWebhook> {
    let pairs: Vec<Vec<Option<String>>> = serde_json::from_str(&row.headers).ok()?;
    let mut headers = Headers::new();
    for pair in &pairs {
        match pair.as_slice() {
            [Some(name), Some(text)] => headers.append(name, text.as_bytes()),
            [Some(name), None, Some(encoded)] => headers.append(name, hex::decode(encoded).ok()?),
            _ => return None,
        }
    }
    Some(received(row.provider, headers, row.body.clone(), row.received_at, row.id.to_string()))
}

fn received(
    provider: ProviderSlug,
    headers: Headers,
    body: bytes::Bytes,
    received_at: EpochMs,
    correlation_id: String,
) -> ReceivedWebhook {
    ReceivedWebhook { provider, headers, body, received_at, correlation_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_uses_up_its_own_providers_allowance_which_time_restores() {
        let allowance = Allowance { per_s: 2.0, left: Mutex::default() };
        let (acme, other, start) = (ProviderSlug("acme"), ProviderSlug("other"), Instant::now());
        let kept_at = |provider, now| (0..100).filter(|_| allowance.take(provider, now)).count();
        assert_eq!(kept_at(acme, start), 20);
        assert_eq!(kept_at(acme, start + Duration::from_millis(1500)), 3);
        assert_eq!(kept_at(other, start + Duration::from_millis(1500)), 20);
        assert_eq!(kept_at(acme, start + Duration::from_mins(1)), 20);
    }

    #[test]
    fn headers_survive_the_quarantine_whatever_their_bytes() {
        let mut headers = Headers::new();
        headers.append("X-One", &b"a"[..]);
        headers.append("x-one", &b"b"[..]);
        headers.append("x-odd", &[0xff, 0xfe][..]);
        let row = Quarantined {
            id: QuarantineId::from_raw("qtn_1"),
            provider: ProviderSlug("acme"),
            cause: "invalid_signature".into(),
            headers: headers_to_json(&headers),
            body: bytes::Bytes::from_static(b"{}"),
            body_sha256: String::new(),
            attempts: 1,
            received_at: EpochMs(1),
            last_at: EpochMs(1),
        };
        assert_eq!(webhook_of(&row).expect("readable").headers, headers);
    }
}
