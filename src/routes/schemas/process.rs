//! Shapes of the process itself: who it is, whether it is well, which providers it knows.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::{Time, shapes};

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

    /// What came and what became of it.
    Chart {
        /// `hour` or `day`
        window: String,
        bucket_seconds: u64,
        total: ActivityCounts,
        /// Oldest first, empty ones too.
        buckets: Vec<ActivityBucket>,
    }

    /// A bucket of a chart.
    ActivityBucket {
        /// When it begins.
        at: Time,
        counts: ActivityCounts,
        /// The same by provider, of those of which anything was counted.
        providers: BTreeMap<String, ActivityCounts>,
    }

    /// What was counted in some time.
    ActivityCounts {
        routed: u64,
        filtered: u64,
        unrouted: u64,
        ignored: u64,
        control: u64,
        /// Webhooks seen before; 0 for an org.
        duplicates: u64,
        /// Webhooks refused; 0 for an org.
        refused: u64,
        delivered: u64,
        dead: u64,
    }

    /// An API key, without the key.
    ApiKey {
        /// `key_…`
        id: String,
        name: String,
        /// How it begins.
        prefix: String,
        /// The org it is bound to; `null` is a service key.
        org_id: Option<String>,
        /// `read` or `write`
        scope: String,
        /// Whether this request is made with it.
        own: bool,
        created_at: Time,
        /// To about a minute.
        last_used_at: Option<Time>,
        revoked_at: Option<Time>,
    }, sometimes {
        /// The key: only where it is made.
        key: String,
    }

    /// A key to make.
    NewApiKey {
        /// What it is for.
        name: String,
    }, sometimes {
        /// The org it is bound to; `null` makes a service key.
        org_id: Option<String>,
        /// `write` (if absent) or `read`
        scope: String,
    }

    /// A key is good no more.
    ApiKeyRevoked {
        /// `revoked`
        status: String,
        id: String,
    }

    /// The configuration in force.
    Settings {
        /// The file that was read.
        file: Option<String>,
        items: Vec<Setting>,
    }

    /// A setting.
    Setting {
        /// `section.key`
        name: String,
        /// The environment variable that sets it.
        variable: String,
        /// `default`, `file` or `environment`
        source: String,
        /// Whether its value is not shown.
        secret: bool,
        is_set: bool,
        /// In the words of the configuration file.
        value: Value,
        default: Value,
    }

    /// What was found.
    DoctorReport {
        mistakes: u64,
        warnings: u64,
        findings: Vec<DoctorFinding>,
    }

    /// Something that was looked at.
    DoctorFinding {
        /// `ok`, `note`, `warning` or `mistake`
        verdict: String,
        subject: String,
        finding: String,
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
