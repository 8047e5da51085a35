//! Every metric, named once; and the last five minutes of each provider.

use std::time::Duration;

use crate::model::{delivery::DeliveryStatus, event::EventOutcome, provider::ProviderSlug};

/// The gateway's counters. Cheap to call from the hot path; shared in an `Arc`.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// A webhook's last byte arrived (either path).
    pub fn webhook_received(&self, _provider: ProviderSlug) {}

    /// It was refused with this error code. Every received webhook ends in exactly one of refused, duplicate, stored.
    pub fn webhook_refused(&self, _provider: ProviderSlug, _code: &'static str) {}

    /// It was a duplicate.
    pub fn webhook_duplicate(&self, _provider: ProviderSlug) {}

    /// It was committed with this outcome and this many deliveries, this long after its last byte.
    pub fn webhook_stored(&self, _provider: ProviderSlug, _outcome: EventOutcome, _deliveries: usize, _took: Duration) {
    }

    /// An attempt ended with this result code.
    pub fn attempt_ended(&self, _provider: ProviderSlug, _result: &'static str, _took: Duration) {}

    /// A delivery is delivered or dead.
    pub fn delivery_finished(&self, _provider: ProviderSlug, _status: DeliveryStatus) {}

    /// Attempts in flight now.
    pub fn set_in_flight(&self, _attempts: usize) {}

    /// Destinations whose circuit is open now.
    pub fn set_open_circuits(&self, _destinations: usize) {}

    /// The store committed a batch of this many events and attempt records.
    pub fn batch_committed(&self, _events: usize, _attempts: usize, _took: Duration) {}

    /// All of it in the Prometheus text format.
    pub fn render(&self) -> String {
        String::new()
    }
}
