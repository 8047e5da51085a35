//! What was sent, acknowledged and delivered, kept outside the gateway.
//!
//! **Owns** one [`Book`] for each stream of events; a book's place in the ledger is part of its events' delivery ids.
//!
//! **Invariants.** Memory is bounded by the events themselves: four bytes and a bit each, four more for each delivery.
//! An arrival with a `webhook-id` other than its delivery's first is counted apart from mere repeats.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::event_id;

/// Latencies up to ten minutes, three digits.
pub fn empty_histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

const CELLS: usize = 1 << 16;
const CHUNKS: usize = 1 << 13;

/// A long row of numbers of which only the chunks in use are there.
#[derive(Debug)]
struct Cells(Vec<OnceLock<Box<[AtomicU32]>>>);

impl Cells {
    fn new() -> Self {
        Self(std::iter::repeat_with(OnceLock::new).take(CHUNKS).collect())
    }

    /// The cell of that number; `None` beyond the end, five hundred million away.
    fn at(&self, number: u64) -> Option<&AtomicU32> {
        let number = usize::try_from(number).ok()?;
        let chunk = self.0.get(number / CELLS)?;
        chunk.get_or_init(|| std::iter::repeat_with(AtomicU32::default).take(CELLS).collect()).get(number % CELLS)
    }

    fn read(&self, number: u64) -> u32 {
        let Ok(number) = usize::try_from(number) else { return 0 };
        let chunk = self.0.get(number / CELLS).and_then(OnceLock::get);
        chunk.and_then(|chunk| chunk.get(number % CELLS)).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

/// Counts of the whole run, for whoever watches.
#[derive(Debug, Default)]
pub struct Counts {
    /// Answers 200.
    pub acked: AtomicU64,
    /// Other answers, and none.
    pub refused: AtomicU64,
    /// Deliveries, repeats not counted.
    pub delivered: AtomicU64,
}

/// All books of a run.
#[derive(Debug)]
pub struct Ledger {
    origin: Instant,
    books: RwLock<Vec<Arc<Book>>>,
    /// Sentry sends no id that survives a retry: digest of the webhook → stream and number.
    digests: Mutex<HashMap<[u8; 64], (u16, u64)>>,
    /// Counts of the whole run.
    pub counts: Counts,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            books: RwLock::new(Vec::new()),
            digests: Mutex::new(HashMap::new()),
            counts: Counts::default(),
        }
    }

    /// A new book for a stream whose every event goes to `workspaces` integrations; with `is_delivered` they are
    /// expected to arrive.
    pub fn open(&self, workspaces: usize, is_delivered: bool) -> anyhow::Result<Arc<Book>> {
        let mut books = self.books.write().unwrap_or_else(PoisonError::into_inner);
        let book = Arc::new(Book {
            stream: u16::try_from(books.len())?,
            origin: self.origin,
            workspaces: workspaces as u64,
            is_delivered,
            end: AtomicU64::new(0),
            sent_us: Cells::new(),
            acked: Cells::new(),
            arrived: Cells::new(),
            acked_events: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            renamed: AtomicU64::new(0),
            end_to_end_us: Mutex::new(empty_histogram()?),
        });
        books.push(Arc::clone(&book));
        Ok(book)
    }

    /// All books.
    pub fn books(&self) -> Vec<Arc<Book>> {
        self.books.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Deliveries of acknowledged events for whose arrival nobody waits: what must be in the database instead.
    pub fn due_in_rows(&self) -> u64 {
        self.books().iter().filter(|book| !book.is_delivered()).map(|book| book.due()).sum()
    }

    /// Remembers which event a digest is.
    pub fn record_digest(&self, digest: [u8; 64], stream: u16, number: u64) {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, (stream, number));
    }

    /// It was answered with 200.
    pub fn record_acked(&self, book: &Book, number: u64) {
        book.record_acked(number);
        self.counts.acked.fetch_add(1, Ordering::Relaxed);
    }

    /// It was answered otherwise, or not at all.
    pub fn record_refused(&self) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A delivery has arrived for the workspace with that number.
    pub fn record_arrival(&self, delivery_id: &[u8], workspace: u64, webhook_id: &[u8], at: Instant) {
        let of_digest = || {
            let digest: [u8; 64] = delivery_id.try_into().ok()?;
            self.digests.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).copied()
        };
        let Some((stream, number)) = event_id::parse(delivery_id).or_else(of_digest) else { return };
        let book = self.books.read().unwrap_or_else(PoisonError::into_inner).get(usize::from(stream)).cloned();
        if book.is_some_and(|book| book.record_arrival(number, workspace, webhook_id, at)) {
            self.counts.delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What is known of one stream of events.
#[derive(Debug)]
pub struct Book {
    /// Its place in the ledger.
    pub stream: u16,
    origin: Instant,
    workspaces: u64,
    is_delivered: bool,
    /// One more than the highest number sent.
    end: AtomicU64,
    /// Microseconds after the origin at which it was due or sent; the low 32 bits, which say enough for an hour.
    sent_us: Cells,
    acked: Cells,
    /// By event and workspace: 0, or the hash of the `webhook-id` that came first.
    arrived: Cells,
    acked_events: AtomicU64,
    delivered: AtomicU64,
    repeated: AtomicU64,
    renamed: AtomicU64,
    end_to_end_us: Mutex<Histogram<u64>>,
}

impl Book {
    /// It is on its way.
    pub fn record_sent(&self, number: u64, due: Instant) {
        self.end.fetch_max(number + 1, Ordering::Relaxed);
        if let Some(cell) = self.sent_us.at(number) {
            cell.store(self.micros(due), Ordering::Relaxed);
        }
    }

    fn micros(&self, at: Instant) -> u32 {
        at.saturating_duration_since(self.origin).as_micros() as u32
    }

    fn record_acked(&self, number: u64) {
        let bit = 1 << (number % 32);
        let known = self.acked.at(number / 32).map_or(bit, |cell| cell.fetch_or(bit, Ordering::Relaxed));
        if known & bit == 0 {
            self.acked_events.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it is the delivery's first arrival.
    fn record_arrival(&self, number: u64, workspace: u64, webhook_id: &[u8], at: Instant) -> bool {
        if workspace >= self.workspaces || number >= self.end.load(Ordering::Relaxed) {
            return false;
        }
        let name = hash(webhook_id);
        let Some(cell) = self.arrived.at(number * self.workspaces + workspace) else { return false };
        if let Err(first) = cell.compare_exchange(0, name, Ordering::Relaxed, Ordering::Relaxed) {
            self.repeated.fetch_add(1, Ordering::Relaxed);
            if first != name {
                self.renamed.fetch_add(1, Ordering::Relaxed);
            }
            return false;
        }
        let took = self.micros(at).wrapping_sub(self.sent_us.read(number));
        self.end_to_end_us.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(u64::from(took));
        self.delivered.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Forgets what was acknowledged: it was no gateway that did.
    pub fn forget(&self) {
        self.acked_events.store(0, Ordering::Relaxed);
        self.end.store(0, Ordering::Relaxed);
    }

    /// Different events that were acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked_events.load(Ordering::Relaxed)
    }

    /// Deliveries that are due to acknowledged events.
    pub fn due(&self) -> u64 {
        self.acked() * self.workspaces
    }

    /// Whether its deliveries are expected to arrive.
    pub fn is_delivered(&self) -> bool {
        self.is_delivered
    }

    /// Deliveries that arrived, repeats not counted.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Arrivals of a delivery that had arrived before.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Repeats under another `webhook-id`, which a receiver cannot recognise.
    pub fn renamed(&self) -> u64 {
        self.renamed.load(Ordering::Relaxed)
    }

    /// Deliveries that are due to acknowledged events and did not arrive.
    pub fn lost(&self) -> u64 {
        if !self.is_delivered {
            return 0;
        }
        let acked = (0..self.end.load(Ordering::Relaxed))
            .filter(|number| self.acked.read(number / 32) & (1 << (number % 32)) != 0);
        acked
            .map(|number| {
                let slots = number * self.workspaces..(number + 1) * self.workspaces;
                slots.filter(|slot| self.arrived.read(*slot) == 0).count() as u64
            })
            .sum()
    }

    /// Waits until nothing is missing; whether that came.
    pub async fn wait_for_all(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        loop {
            if self.delivered() >= self.due() && self.lost() == 0 {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end-to-end latencies, first arrivals only, microseconds.
    pub fn end_to_end(&self) -> Histogram<u64> {
        self.end_to_end_us.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// FNV-1a, never 0.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(ledger: &Ledger, book: &Book, number: u64, workspace: u64, webhook_id: &str) {
        let id = event_id::uuid(book.stream, number);
        ledger.record_arrival(id.as_bytes(), workspace, webhook_id.as_bytes(), Instant::now());
    }

    #[test]
    fn what_was_acknowledged_and_not_delivered_is_lost_and_what_was_refused_is_not() {
        let ledger = Ledger::new();
        let book = ledger.open(2, true).expect("a book");
        for number in 0..100 {
            book.record_sent(number, Instant::now());
            if number != 50 {
                ledger.record_acked(&book, number);
            }
        }
        for number in 0..99 {
            arrive(&ledger, &book, number, 0, &format!("a{number}"));
            arrive(&ledger, &book, number, 1, &format!("b{number}"));
        }
        assert_eq!((book.acked(), book.due(), book.lost()), (99, 198, 2));
        arrive(&ledger, &book, 99, 0, "a99");
        assert_eq!(book.lost(), 1);
        arrive(&ledger, &book, 99, 1, "b99");
        assert_eq!((book.lost(), book.repeated(), book.delivered()), (0, 0, 200));
    }

    #[test]
    fn a_repeat_is_counted_and_one_under_another_name_apart() {
        let ledger = Ledger::new();
        let book = ledger.open(1, true).expect("a book");
        book.record_sent(0, Instant::now());
        ledger.record_acked(&book, 0);
        ledger.record_acked(&book, 0);
        for name in ["dlv_1", "dlv_1", "dlv_2"] {
            arrive(&ledger, &book, 0, 0, name);
        }
        assert_eq!((book.acked(), book.delivered(), book.repeated(), book.renamed(), book.lost()), (1, 1, 2, 1, 0));
    }

    #[test]
    fn what_is_not_expected_to_arrive_is_due_in_rows() {
        let ledger = Ledger::new();
        for (workspaces, is_delivered) in [(1, true), (2, false), (50, false)] {
            let book = ledger.open(workspaces, is_delivered).expect("a book");
            for number in 0..3 {
                book.record_sent(number, Instant::now());
            }
            ledger.record_acked(&book, 0);
            ledger.record_acked(&book, 2);
        }
        assert_eq!(ledger.due_in_rows(), 2 * 2 + 2 * 50);
    }

    #[test]
    fn streams_are_kept_apart_and_strangers_are_ignored() {
        let ledger = Ledger::new();
        let (first, second) = (ledger.open(1, true).expect("a book"), ledger.open(1, false).expect("a book"));
        for book in [&first, &second] {
            book.record_sent(3, Instant::now());
            ledger.record_acked(book, 3);
        }
        ledger.record_digest([b'7'; 64], 0, 3);
        ledger.record_arrival(b"5f2c", 0, b"x", Instant::now());
        ledger.record_arrival(&[b'8'; 64], 0, b"x", Instant::now());
        assert_eq!((first.lost(), second.lost()), (1, 0), "nothing is expected of the second");
        ledger.record_arrival(&[b'7'; 64], 0, b"x", Instant::now());
        assert_eq!((first.lost(), first.end_to_end().len(), second.delivered()), (0, 1, 0));
    }

    #[test]
    fn histograms_add_up() {
        let mut all = empty_histogram().expect("a histogram");
        for range in [0..500_u64, 500..1000] {
            let mut part = empty_histogram().expect("a histogram");
            for number in range {
                part.saturating_record(number * 1000 + 1);
            }
            all.add(&part).expect("the same bounds");
        }
        assert_eq!(all.len(), 1000);
        assert!((499_000..=501_000).contains(&all.value_at_quantile(0.5)), "{}", all.value_at_quantile(0.5));
    }
}
