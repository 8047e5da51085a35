//! Shapes of the process itself: who it is, whether it is well, which providers it knows.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::shapes;

shapes! {
    /// Who answers here.
    Name { service: String, version: String, status: String, }

    /// One word.
    Status { status: String, }

    /// Whether the gateway is well.
    Health {
        /// `ok` or `degraded`
        status: String,
        /// `connected` or `error`
        database: String,
        /// `sqlite` or `postgres`
        backend: String,
        version: String,
        #[schema(rename = "uptime_ms")]
        uptime_ms: u64,
        draining: bool,
        body_bytes_in_hand: u64,
        ledger: Ledger,
        #[schema(rename = "adds_up")]
        adds_up: bool,
    }, sometimes {
        /// Only where a deep look was asked for.
        census: Census,
    }

    /// Every webhook since the process began, each in exactly one place.
    Ledger {
        received: u64,
        refused: u64,
        duplicates: u64,
        stored: u64,
        /// Stored ones by outcome.
        outcomes: BTreeMap<String, u64>,
        in_progress: u64,
    }

    /// Every row counted.
    Census {
        /// By outcome.
        events: BTreeMap<String, u64>,
        /// By status.
        deliveries: BTreeMap<String, u64>,
        contradictions: Vec<String>,
    }

    /// The last minutes of each provider.
    ProvidersHealth { window_seconds: u64, items: Vec<ProviderHealth>, }

    /// The last minutes of a provider.
    ProviderHealth {
        provider: String,
        enabled: bool,
        accepted: u64,
        bad_signature: u64,
        duplicate: u64,
        delivered: u64,
        dead: u64,
    }

    /// The caches were read anew.
    CacheRebuilt {
        /// `rebuilt`
        status: String,
        count: u64,
    }

    /// Copies of the actors' states, for people: their members may change.
    Actors {
        #[schema(value_type = Vec<Object>)]
        supervisors: Vec<Value>,
        #[schema(value_type = Object)]
        routers: Value,
        #[schema(value_type = Object)]
        dispatcher: Value,
    }

    /// A provider.
    Provider {
        slug: String,
        name: String,
        /// Whether it is configured.
        enabled: bool,
        /// What its resources are called.
        resource_label: String,
        categories: Vec<EventCategory>,
        events: Vec<EventSpec>,
    }

    /// A category of events.
    EventCategory { key: String, label: String, description: String, }

    /// An event a provider can send.
    EventSpec {
        key: String,
        label: String,
        category: String,
        description: String,
        weight: u64,
        /// Whether a new integration wants it.
        default: bool,
    }, sometimes {
        /// The broader key that includes it.
        alias_of: String,
    }
}
