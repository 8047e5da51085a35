//! How often the handling of the same webhook has failed.

use std::time::Duration;

use moka::sync::Cache;

/// Webhooks remembered at once.
const MAX_WEBHOOKS: u64 = 10_000;

/// How long a failing webhook is remembered: longer than the slowest provider's last retry (Linear: six hours).
const MAX_AGE: Duration = Duration::from_hours(12);

/// Counts failures by a digest of what a webhook has in common with its retries. Losing it means that a webhook is set aside
/// a few failures later.
#[derive(Debug, Clone)]
pub struct FailureCounts(Cache<[u8; 32], u32>);

impl Default for FailureCounts {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_WEBHOOKS).time_to_idle(MAX_AGE).build())
    }
}

impl FailureCounts {
    /// Counts one more failure of this webhook and answers how many there were.
    pub fn count(&self, webhook_sha256: [u8; 32]) -> u32 {
        self.0.entry(webhook_sha256).and_upsert_with(|seen| seen.map_or(0, moka::Entry::into_value) + 1).into_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_webhook_add_up_and_those_of_another_do_not() {
        let counts = FailureCounts::default();
        assert_eq!((counts.count([1; 32]), counts.count([1; 32]), counts.count([2; 32])), (1, 2, 1));
    }
}
