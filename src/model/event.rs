//! Events: what a webhook is once it is verified and understood.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    clock::EpochMs,
    ids::{EventId, InstallationId, OrgId},
    opaque_text::opaque_text,
    provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug},
};

opaque_text! {
    fn new;

    /// Our name of an event, `github:pull-request.opened`: `provider:entity.action`, kebab-case.
    EventKey;
}

/// What became of an event when it was routed. Recorded once, with the event; a replay or a reroute may
/// raise it to `Routed`, nothing lowers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventOutcome {
    /// At least one integration gets it.
    Routed,
    /// Integrations were considered and none allows it.
    Filtered,
    /// No installation, no resource or no integration: kept, and routable when the link appears.
    Unrouted,
    /// Nothing to route: a ping, or a wire type the catalogue does not list.
    Ignored,
    /// A control event that changed state and that nobody subscribes to.
    Control,
}

impl EventOutcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [Self::Routed, Self::Filtered, Self::Unrouted, Self::Ignored, Self::Control];

    /// The word used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Filtered => "filtered",
            Self::Unrouted => "unrouted",
            Self::Ignored => "ignored",
            Self::Control => "control",
        }
    }

    /// The outcome of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == word)
    }
}

impl fmt::Display for EventOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event as it is listed: everything but its bytes, its headers and its routing decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Our id, sortable by arrival.
    pub id: EventId,
    /// Who sent it.
    pub provider: ProviderSlug,
    /// The provider's id of it, unique per provider.
    pub provider_delivery_id: ProviderDeliveryId,
    /// The provider's name of it (`pull_request`, `Issue:create`).
    pub wire_type: String,
    /// Our name of it, when the catalogue has one.
    pub key: Option<EventKey>,
    /// The installation it belongs to, once known.
    pub installation: Option<InstallationId>,
    /// The org of that installation.
    pub org: Option<OrgId>,
    /// The account the payload named; of several second ids of which none was known, none.
    pub external_id: Option<ExternalId>,
    /// The resources the payload named, by provider id.
    pub resources: Vec<ProviderResourceId>,
    /// What became of it.
    pub outcome: EventOutcome,
    /// Why, as a `snake_case` code (`no_installation`, `event_not_allowed`), when the outcome needs one.
    pub reason: Option<String>,
    /// A body seen before under another, unsigned delivery id.
    pub possible_replay: bool,
    /// Stored by the service path with `X-Backfill-Hold`, and not yet let go.
    pub held: bool,
    /// When its last byte arrived, or what the service path said.
    pub received_at: EpochMs,
    /// The caller's or our correlation id.
    pub correlation_id: String,
    /// The trace its attempts belong to, 32 hexadecimal digits; only if it was traced when it came.
    pub trace_id: Option<String>,
}

#[cfg(test)]
impl Event {
    /// One that was ignored and belongs to nobody, for tests to say what matters to them.
    pub fn ignored(id: EventId, provider: ProviderSlug) -> Self {
        Self {
            id,
            provider,
            provider_delivery_id: ProviderDeliveryId::new("d-1"),
            wire_type: "push".to_owned(),
            key: None,
            installation: None,
            org: None,
            external_id: None,
            resources: Vec::new(),
            outcome: EventOutcome::Ignored,
            reason: None,
            possible_replay: false,
            held: false,
            received_at: EpochMs(0),
            correlation_id: "cor-1".to_owned(),
            trace_id: None,
        }
    }
}
