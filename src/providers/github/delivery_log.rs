//! The App's log of the webhooks it sent us: listed newest first, kept and redeliverable for three days.
//!
//! Protocol source: GitHub's "Repository webhook deliveries" for Apps. An entry's `id` names one attempt, its `guid` the
//! webhook: it is what `X-GitHub-Delivery` says on every attempt.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use super::api::{Api, Id, Speaker, next_page_parameter, wait_of};
use crate::{
    model::{clock::EpochMs, provider::ProviderDeliveryId},
    providers::{
        ConnectorError,
        connector::{DeliveryLog, LogPage, LoggedDelivery},
    },
};

const REACH: Duration = Duration::from_hours(3 * 24);

#[derive(Debug, Deserialize)]
struct Entry {
    id: Id,
    guid: String,
    delivered_at: String,
    /// 0 where nothing answered.
    #[serde(default)]
    status_code: Option<u16>,
}

impl Entry {
    fn into_logged(self) -> Option<LoggedDelivery> {
        Some(LoggedDelivery {
            at: EpochMs::parse_rfc3339(&self.delivered_at)?,
            succeeded: self.status_code.is_some_and(|status| (200..300).contains(&status)),
            log_id: self.id.0,
            delivery_id: ProviderDeliveryId::new(self.guid),
        })
    }
}

#[async_trait]
impl DeliveryLog for Api {
    fn reach(&self) -> Duration {
        REACH
    }

    async fn list(&self, now: EpochMs, cursor: Option<&str>) -> Result<LogPage, ConnectorError> {
        let mut url = self.base.at("/app/hook/deliveries");
        url.query_pairs_mut().append_pair("per_page", "100");
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        let reply = self.get(url, Speaker::App(now)).await?;
        if !reply.is_success() {
            return Err(ConnectorError::unavailable(format!("answered {}", reply.status)));
        }
        let entries: Vec<Entry> = reply.json("the delivery log")?;
        Ok(LogPage {
            items: entries.into_iter().filter_map(Entry::into_logged).collect(),
            next_cursor: next_page_parameter(&reply, "cursor"),
            wait: wait_of(&reply, now),
        })
    }

    async fn redeliver(&self, now: EpochMs, log_id: &str) -> Result<bool, ConnectorError> {
        let url = self
            .base
            .below(["app", "hook", "deliveries", log_id, "attempts"])
            .map_err(|_| ConnectorError::Malformed("our own id of a delivery"))?;
        let reply = self.change("POST", url, Speaker::App(now)).await?;
        match reply.status {
            200..300 => Ok(true),
            400 | 404 | 422 => Ok(false),
            status => Err(ConnectorError::unavailable(format!("answered {status}"))),
        }
    }
}
