//! Deliveries and attempts: an event on its way to an integration.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    clock::EpochMs,
    ids::{AttemptId, DeliveryId, DestinationId, EventId, IntegrationId, OrgId, ResourceId, WorkspaceId},
};

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// Waiting for its next attempt, or in flight under a lease.
    Pending,
    /// Held by the service path until released.
    Held,
    /// A destination answered 2xx.
    Delivered,
    /// Attempts are used up, or the destination is gone: a dead letter.
    Dead,
}

impl DeliveryStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Held, Self::Delivered, Self::Dead];

    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    /// The status of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for DeliveryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A delivery's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Our id; the `webhook-id` of every attempt.
    pub id: DeliveryId,
    /// What is delivered.
    pub event: EventId,
    /// To whom.
    pub integration: IntegrationId,
    /// The resource through which the integration was matched.
    pub resource: ResourceId,
    /// The integration's workspace.
    pub workspace: WorkspaceId,
    /// The integration's org.
    pub org: OrgId,
    /// Where to; `None` while no destination exists (`no_destination`).
    pub destination: Option<DestinationId>,
    /// Its state.
    pub status: DeliveryStatus,
    /// Why, as a `snake_case` code (`no_destination`, `gone`, `http_status`).
    pub reason: Option<String>,
    /// Attempts made so far, in all.
    pub attempts: u32,
    /// How many of them somebody did not leave it at: the schedule begins anew after these.
    pub attempts_before_retry: u32,
    /// When the next attempt is due; meaningful while pending.
    pub due_at: EpochMs,
    /// Until when some node holds it; absent when nobody does.
    pub lease_until: Option<EpochMs>,
    /// Whether an operator asked for it (replay), not the provider's webhook.
    pub replay: bool,
    /// When the row was made.
    pub created_at: EpochMs,
    /// When it was delivered or died.
    pub finished_at: Option<EpochMs>,
}

impl Delivery {
    /// The reason of one that was held and is released, until its first attempt has ended.
    pub const RELEASED: &'static str = "released";

    /// Attempts that count against the schedule: those since it was made, or since somebody asked for it to be tried again.
    pub fn attempts_of_schedule(&self) -> u32 {
        self.attempts.saturating_sub(self.attempts_before_retry)
    }
}

/// How one HTTP try ended. Every way it can end is one of these; see `delivery::client`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptResult {
    /// The destination answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// `Retry-After` in seconds, where it named one.
        retry_after_s: Option<u64>,
    },
    /// No complete answer within the time limit.
    TimedOut,
    /// The connection could not be made or broke.
    ConnectionFailed,
    /// The destination's address is not one we dial (private, loopback, metadata…).
    AddressRefused,
    /// The URL or a header cannot be sent at all.
    InvalidDestination,
}

impl AttemptResult {
    /// A stable `snake_case` code for rows, JSON and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Answered { status: 200..=299, .. } => "delivered",
            Self::Answered { status: 410, .. } => "gone",
            Self::Answered { .. } => "http_status",
            Self::TimedOut => "timeout",
            Self::ConnectionFailed => "connection_failed",
            Self::AddressRefused => "address_refused",
            Self::InvalidDestination => "invalid_destination",
        }
    }

    /// The HTTP status, when there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// An attempt's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Our id.
    pub id: AttemptId,
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// 1 for the first.
    pub number: u32,
    /// When it was sent.
    pub started_at: EpochMs,
    /// How long it took, milliseconds.
    pub duration_ms: u32,
    /// [`AttemptResult::code`].
    pub result: String,
    /// The HTTP status, when there was an answer.
    pub status_code: Option<u16>,
    /// What went wrong, in our words; never upstream text.
    pub error: Option<String>,
    /// The first bytes of the answer's body, lossily decoded; for the owner's eyes.
    pub response_body: Option<String>,
}
