//! Keeping webhooks that cannot become events: wrongly signed ones, and those whose handling fails. One writer takes
//! them from a bounded queue, a few in one transaction, and of the wrongly signed ones no more than an allowance, so that
//! a flood of bad signatures costs the flood, not the database.
//!
//! **Invariants**: what waits is bounded in number and in bytes, whatever the database does; what nobody vouches for
//! takes no room from what was genuinely signed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::uncommitted::Uncommitted;
use crate::{
    actors::runtime::isolate,
    crypto::hmac::{sha256, sha256_hex_of_parts},
    model::{
        clock::{Clock, EpochMs, Ids},
        ids::QuarantineId,
        provider::ProviderSlug,
        webhook::{Headers, ReceivedWebhook, is_acceptable_id},
    },
    providers::{Provider, Registry},
    store::{QuarantineBounds, Quarantined, SharedStore, StoreError},
    telemetry::metrics::Metrics,
};

/// Webhooks waiting for the writer.
const QUEUE: usize = 256;

/// Bytes that wait for the writer at the most: so many of wrongly signed webhooks, and as many of genuine ones. The
/// intake's own bound has let go of them by then, because their senders were answered.
const QUEUED_BYTES: usize = 32 * 1024 * 1024;

/// Webhooks kept in one transaction: so few that honest ones, which wait for it, hardly notice.
const BATCH: usize = 8;

/// Bytes of bodies kept in one transaction, for the same reason; a larger body is kept alone.
const BATCH_BYTES: usize = 1024 * 1024;

/// A wrongly signed body may take this part of `quarantine_max_bytes` at the most: a handful of large ones, which
/// anybody can send, would otherwise push everything else out.
const UNVERIFIED_PART: u64 = 16;

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
    /// Its id: that of the first time it came.
    pub id: QuarantineId,
    /// How often it has come; zero if it was not kept.
    pub times: u32,
}

struct Item {
    webhook: Quarantined,
    waiter: Waiter,
}

struct Waiter {
    /// Told under which id it is kept, and how often it has come.
    done: oneshot::Sender<Result<(QuarantineId, u32), StoreError>>,
    /// Given back when the database is done with it.
    _room: Uncommitted,
}

/// The sending side of the queue.
#[derive(Clone)]
pub(super) struct QuarantineWriter {
    queue: mpsc::Sender<Item>,
    allowance: Arc<Allowance>,
    /// The longest wrongly signed body that is kept.
    max_unverified: u64,
    /// Bytes that wait, of webhooks that nobody vouches for.
    unverified: Arc<AtomicUsize>,
    /// Bytes that wait, of genuine webhooks.
    genuine: Arc<AtomicUsize>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    ids: Ids,
}

impl QuarantineWriter {
    /// Starts the writer on the current runtime.
    pub fn start(
        store: SharedStore,
        registry: Arc<Registry>,
        limits: QuarantineLimits,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        ids: Ids,
    ) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        let bounds = limits.bounds;
        tokio::spawn(keep_what_comes(items, async move |together| keep_all(&store, bounds, together).await));
        Self::writing_to(queue, registry, limits, metrics, clock, ids)
    }

    fn writing_to(
        queue: mpsc::Sender<Item>,
        registry: Arc<Registry>,
        limits: QuarantineLimits,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        ids: Ids,
    ) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "at most a million")]
        let allowance = Allowance { per_s: limits.per_s as f64, left: Mutex::default() };
        Self {
            queue,
            allowance: Arc::new(allowance),
            max_unverified: limits.bounds.max_bytes / UNVERIFIED_PART,
            unverified: Arc::default(),
            genuine: Arc::default(),
            registry,
            metrics,
            clock,
            ids,
        }
    }

    /// Keeps a webhook that nobody vouches for, unless it is too large or too many of its provider come.
    pub async fn keep_unverified(&self, webhook: &ReceivedWebhook, cause: &str) {
        let is_too_large = u64::try_from(webhook.body.len()).is_ok_and(|bytes| bytes > self.max_unverified);
        if is_too_large || !self.allowance.take(webhook.provider, Instant::now()) {
            self.metrics.webhook_not_quarantined(webhook.provider);
            return;
        }
        self.keep_if_room(webhook, cause, &self.unverified).await;
    }

    /// Keeps a genuine webhook if there is room in the queue.
    pub async fn keep(&self, webhook: &ReceivedWebhook, cause: &str) {
        self.keep_if_room(webhook, cause, &self.genuine).await;
    }

    async fn keep_if_room(&self, webhook: &ReceivedWebhook, cause: &str, waiting: &Arc<AtomicUsize>) {
        let (done, kept) = oneshot::channel();
        let room = Uncommitted::add(waiting, webhook.body.len(), QUEUED_BYTES);
        let item = room.map(|room| self.item_of(webhook, cause, done, room));
        if item.is_none_or(|item| self.queue.try_send(item).is_err()) {
            self.metrics.webhook_not_quarantined(webhook.provider);
            tracing::debug!(provider = %webhook.provider, cause, "too much waits for the quarantine");
        } else if tokio::time::timeout(PATIENCE, kept).await.is_err() {
            tracing::debug!("the quarantine is slow");
        }
    }

    /// Keeps a webhook and says how often it has come: for those whose bytes must not be lost.
    pub async fn keep_now(&self, webhook: &ReceivedWebhook, cause: &str) -> Result<SetAside, StoreError> {
        let (done, kept) = oneshot::channel();
        let room = Uncommitted::add(&self.genuine, webhook.body.len(), QUEUED_BYTES)
            .ok_or_else(|| StoreError::Unavailable("too much waits for the quarantine".into()))?;
        let item = self.item_of(webhook, cause, done, room);
        let gone = || StoreError::Unavailable("the quarantine does not answer".into());
        self.queue.send(item).await.map_err(|_closed| gone())?;
        let (id, times) = kept.await.map_err(|_closed| gone())??;
        Ok(SetAside { id, times })
    }

    fn item_of(
        &self,
        webhook: &ReceivedWebhook,
        cause: &str,
        done: oneshot::Sender<Result<(QuarantineId, u32), StoreError>>,
        room: Uncommitted,
    ) -> Item {
        let provider = self.registry.find(webhook.provider.as_str());
        let row = Quarantined {
            id: self.ids.quarantine(),
            provider: webhook.provider,
            cause: cause.to_owned(),
            headers: headers_to_json(&webhook.headers),
            body: webhook.body.clone(),
            body_sha256: hex::encode(sha256(&webhook.body)),
            headers_sha256: provider.map_or_else(String::new, |provider| digest_of(&**provider, &webhook.headers)),
            attempts: 1,
            received_at: webhook.received_at,
            last_at: self.clock.now(),
        };
        Item { webhook: row, waiter: Waiter { done, _room: room } }
    }
}

/// How many of the first bodies are kept in one transaction.
fn fit_together(bodies: impl Iterator<Item = usize>) -> usize {
    let mut bytes: usize = 0;
    let fits = |(index, body): &(usize, usize)| {
        bytes = bytes.saturating_add(*body);
        *index == 0 || bytes <= BATCH_BYTES
    };
    bodies.enumerate().take_while(fits).count()
}

/// Keeps what comes, as many at a time as fit. A panic ends those: whoever waits for them is told that nobody answers.
async fn keep_what_comes(mut items: mpsc::Receiver<Item>, keep: impl AsyncFn(Vec<Item>)) {
    let mut waiting = Vec::with_capacity(BATCH);
    while items.recv_many(&mut waiting, BATCH).await > 0 {
        while !waiting.is_empty() {
            let together = fit_together(waiting.iter().map(|item| item.webhook.body.len()));
            if isolate(keep(waiting.drain(..together).collect())).await.is_err() {
                tracing::error!(webhooks = together, "keeping webhooks in the quarantine panicked");
            }
        }
    }
}

/// Keeps webhooks and tells whoever waits for each; if they cannot be kept together, one by one, so that one of them that
/// cannot be stored costs the others nothing.
async fn keep_all(store: &SharedStore, bounds: QuarantineBounds, items: Vec<Item>) {
    let (webhooks, waiting): (Vec<_>, Vec<_>) = items.into_iter().map(|item| (item.webhook, item.waiter)).unzip();
    let kept = match store.quarantine(&webhooks, bounds).await {
        Ok(kept) => kept.into_iter().map(Ok).collect(),
        Err(StoreError::Unavailable(why)) => {
            webhooks.iter().map(|_| Err(StoreError::Unavailable(why.clone()))).collect()
        }
        Err(error) if webhooks.len() == 1 => vec![Err(error)],
        Err(_) => {
            for (webhook, waiter) in webhooks.into_iter().zip(waiting) {
                Box::pin(keep_all(store, bounds, vec![Item { webhook, waiter }])).await;
            }
            return;
        }
    };
    for (kept, waiter) in kept.into_iter().zip(waiting) {
        if let Err(error) = &kept {
            tracing::warn!(%error, "a webhook could not be quarantined");
        }
        if waiter.done.send(kept).is_err() {
            tracing::trace!("nobody waited for the quarantine");
        }
    }
}

/// A digest of the headers that make a webhook what it is. Without them in its identity, whoever has the bytes of a genuine
/// webhook could send them with another signature, or under another delivery id, and would take its place.
fn digest_of(provider: &dyn Provider, headers: &Headers) -> String {
    let names = std::iter::once(&provider.scheme().header).chain(provider.read_headers());
    let parts: Vec<&[u8]> = names.flat_map(|name| std::iter::once(name.as_bytes()).chain(headers.all(name))).collect();
    sha256_hex_of_parts(&parts)
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
    // As it was when it came: what it belongs to, if its sender said so.
    let named = ["x-correlation-id", "x-request-id"].into_iter().filter_map(|name| headers.get(name));
    let correlation_id = named.filter(|id| is_acceptable_id(id)).map(str::to_owned).next();
    let correlation_id = correlation_id.unwrap_or_else(|| row.id.to_string());
    Some(received(row.provider, headers, row.body.clone(), row.received_at, correlation_id))
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
    use crate::model::clock::ManualClock;

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

    fn writer_to(queue: mpsc::Sender<Item>, max_bytes: u64) -> QuarantineWriter {
        let clock = Arc::new(ManualClock::starting_at(EpochMs(1)));
        let limits = QuarantineLimits { bounds: QuarantineBounds { max_count: 100, max_bytes }, per_s: 100 };
        let nobody = Arc::new(Registry::new(Vec::new(), Vec::new()).expect("a registry"));
        QuarantineWriter::writing_to(queue, nobody, limits, Arc::default(), clock.clone(), Ids::new(clock))
    }

    fn webhook_of_bytes(bytes: usize) -> ReceivedWebhook {
        received(ProviderSlug("acme"), Headers::new(), vec![b'x'; bytes].into(), EpochMs(1), "req".into())
    }

    fn is_counted(writer: &QuarantineWriter, times: usize) -> bool {
        let line = format!("webhooks_not_quarantined_total{{provider=\"acme\"}} {times}\n");
        writer.metrics.render().contains(&line)
    }

    #[tokio::test]
    async fn what_waits_for_a_stalled_database_is_bounded_in_bytes_and_the_unsigned_leaves_room_for_the_genuine() {
        let (queue, mut stalled) = mpsc::channel(QUEUE);
        let writer = writer_to(queue, u64::MAX);
        let large = webhook_of_bytes(QUEUED_BYTES / 3);
        for _ in 0..5 {
            writer.keep_unverified(&large, "invalid_signature").await;
        }
        assert_eq!(stalled.len(), 2, "each weighs a little more than its body");
        assert!(is_counted(&writer, 3), "{}", writer.metrics.render());
        for _ in 0..3 {
            writer.keep(&large, "invalid_payload").await;
        }
        assert_eq!(stalled.len(), 4);
        assert!(is_counted(&writer, 4), "{}", writer.metrics.render());
        let refused = writer.keep_now(&large, "handling_panicked").await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "its provider tries again");

        // The database goes on.
        drop(stalled.recv().await);
        writer.keep_unverified(&large, "invalid_signature").await;
        assert_eq!(stalled.len(), 4);
        assert!(is_counted(&writer, 4), "{}", writer.metrics.render());
    }

    #[tokio::test]
    async fn a_wrongly_signed_body_that_would_fill_much_of_the_quarantine_is_only_counted() {
        let (queue, stalled) = mpsc::channel(QUEUE);
        let writer = writer_to(queue, 10 * UNVERIFIED_PART);
        writer.keep_unverified(&webhook_of_bytes(11), "invalid_signature").await;
        assert_eq!((stalled.len(), is_counted(&writer, 1)), (0, true));
        writer.keep_unverified(&webhook_of_bytes(10), "invalid_signature").await;
        writer.keep(&webhook_of_bytes(11), "invalid_payload").await;
        assert_eq!((stalled.len(), is_counted(&writer, 1)), (2, true));
    }

    #[tokio::test]
    async fn what_panics_while_it_is_kept_keeps_no_later_webhook_out() {
        let (queue, items) = mpsc::channel(QUEUE);
        let writer = writer_to(queue, u64::MAX);
        tokio::spawn(keep_what_comes(items, async |together| {
            for item in together {
                assert_ne!(item.webhook.cause, "poison", "the test's own");
                item.waiter.done.send(Ok((item.webhook.id, 1))).expect("somebody waits");
            }
        }));
        let poison = writer.keep_now(&webhook_of_bytes(1), "poison").await;
        assert!(matches!(poison, Err(StoreError::Unavailable(_))), "its provider tries again");
        assert_eq!(writer.keep_now(&webhook_of_bytes(1), "handling_panicked").await.expect("kept").times, 1);
    }

    #[test]
    fn a_transaction_keeps_few_bodies_and_few_bytes_and_a_large_body_alone() {
        let mebibyte = 1024 * 1024;
        assert_eq!(fit_together([25 * mebibyte; 8].into_iter()), 1);
        assert_eq!(fit_together([mebibyte / 2; 8].into_iter()), 2);
        assert_eq!(fit_together([1000, 25 * mebibyte, 1000].into_iter()), 1);
        assert_eq!(fit_together([1000; BATCH].into_iter()), BATCH);
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
            headers_sha256: String::new(),
            attempts: 1,
            received_at: EpochMs(1),
            last_at: EpochMs(1),
        };
        assert_eq!(webhook_of(&row).expect("readable").headers, headers);
    }
}
