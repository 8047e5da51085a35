//! `GET /activity`: what came and what became of it, for charts.
//!
//! **Invariants**: every bucket of the window is there, empty ones too; the cost does not depend on how many events are
//! stored. **Must not know** how it is counted.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{auth::Reader, gateway::Gateway, problem::Answer, query::Query, schemas};
use crate::model::{
    activity::{Activity, ActivityCounts, MINUTE_MS, bucket_of},
    clock::EpochMs,
    ids::OrgId,
};
use crate::store::StoreError;

/// How far a chart looks back, and how finely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Sixty minutes.
    Hour,
    /// Ninety-six quarters of an hour.
    Day,
}

impl Window {
    /// The window of that word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "hour" => Some(Self::Hour),
            "day" => Some(Self::Day),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// How many buckets, and of how many minutes.
    fn buckets(self) -> (i64, u32) {
        match self {
            Self::Hour => (60, 1),
            Self::Day => (96, 15),
        }
    }
}

/// A bucket of a chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// When it begins.
    pub at: EpochMs,
    /// What was counted in it.
    pub counts: ActivityCounts,
    /// The same by provider, of those of which anything was.
    pub providers: BTreeMap<String, ActivityCounts>,
}

/// What was counted in a window, oldest bucket first.
///
/// # Errors
/// If the store cannot be asked.
pub async fn chart(gateway: &Gateway, org: Option<&OrgId>, window: Window) -> Result<Vec<Bucket>, StoreError> {
    let (count, minutes) = window.buckets();
    let length = i64::from(minutes) * MINUTE_MS;
    let newest = bucket_of(gateway.clock.now(), length);
    let since = EpochMs(newest.0 - (count - 1) * length);
    let until = EpochMs(newest.0 + length);
    // This node's last seconds first: whoever writes them down meanwhile shows them twice for a moment, never not at all.
    let unwritten = gateway.metrics.activity().of(org);
    let mut rows = gateway.store.list_activity(org, since, until, minutes).await?;
    rows.extend(unwritten);
    Ok(fill(since, count, length, &rows))
}

fn fill(since: EpochMs, count: i64, length: i64, rows: &[Activity]) -> Vec<Bucket> {
    let empty = |number: i64| Bucket {
        at: EpochMs(since.0 + number * length),
        counts: ActivityCounts::default(),
        providers: BTreeMap::new(),
    };
    let mut buckets: Vec<Bucket> = (0..count).map(empty).collect();
    for row in rows {
        let place = usize::try_from((row.at.0 - since.0).div_euclid(length)).ok();
        if let Some(bucket) = place.and_then(|place| buckets.get_mut(place)) {
            bucket.counts.add(&row.counts);
            bucket.providers.entry(row.provider.clone()).or_default().add(&row.counts);
        }
    }
    buckets
}

fn bucket_json(bucket: &Bucket) -> Value {
    json!({"at": bucket.at.to_rfc3339(), "counts": bucket.counts, "providers": bucket.providers})
}

/// `GET /activity?window`: what came and what became of it, in buckets, oldest first. For charts: counted beside the work
/// and written down every ten seconds, so that other nodes' last seconds are missing, and a node's that was killed stay so. Without an org, of everybody.
///
/// # Errors
/// `invalid_parameter`.
#[utoipa::path(
    get, path = "/activity",
    params(("window" = Option<String>, Query, description = "`hour` (sixty minutes, if absent) or `day` (96 quarters of an hour).")),
    responses((status = 200, body = schemas::Chart)),
)]
pub async fn show(Reader(caller): Reader, query: Query, gateway: web::Data<Gateway>) -> Answer {
    let window = query.read("window", Window::parse)?.unwrap_or(Window::Hour);
    let buckets = chart(&gateway, caller.org.as_ref(), window).await?;
    let mut total = ActivityCounts::default();
    for bucket in &buckets {
        total.add(&bucket.counts);
    }
    Ok(HttpResponse::Ok().json(json!({
        "window": window.as_str(),
        "bucketSeconds": i64::from(window.buckets().1) * MINUTE_MS / 1000,
        "total": total,
        "buckets": buckets.iter().map(bucket_json).collect::<Vec<_>>(),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_is_there_and_what_lies_outside_is_left_out() {
        let row = |at: i64, provider: &str| Activity {
            org: None,
            at: EpochMs(at),
            provider: provider.into(),
            counts: ActivityCounts { delivered: 1, ..ActivityCounts::default() },
        };
        let rows = [row(900, "acme"), row(1000, "acme"), row(1500, "other"), row(2999, "acme"), row(3000, "acme")];
        let buckets = fill(EpochMs(1000), 2, 1000, &rows);
        assert_eq!(buckets.iter().map(|bucket| bucket.counts.delivered).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(buckets[0].providers.len(), 2);
        assert_eq!(buckets[1].at, EpochMs(2000));
    }
}
