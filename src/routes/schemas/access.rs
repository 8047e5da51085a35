//! Shapes of connecting, of what a connection reaches, and of its end.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::{BackfillStatus, HealStatus, StepStatus, TeardownStatus, TeardownStep, Time, TimeOrMillis, shapes};

shapes! {
    /// Where a person's browser goes to connect.
    BegunFlow {
        /// Open it in the person's browser.
        url: String,
        /// Ask for the flow's status with it.
        state: String,
    }

    /// How far a flow is.
    FlowStatus {
        /// `pending`, `completed`, `failed`, or `expired` for a state that nobody knows (any more).
        status: String,
    }, sometimes {
        provider: String,
        connection_id: String,
        /// Whether the connection was there before.
        reactivated: bool,
        /// The provider's word for what the person did.
        setup_action: String,
        /// A code.
        error: String,
    }

    /// A connection's opened token.
    Token {
        access_token: String,
        provider: String,
        /// Seconds; `null` if it does not expire.
        expires_in: Option<u64>,
    }

    /// What the provider lists now, compared with the last look.
    Look { added: u64, removed: u64, total: u64, }

    /// A thing at the provider that could be linked.
    AvailableResource {
        provider_resource_id: String,
        name: String,
        linked: bool,
    }, sometimes {
        full_name: String,
        slug: String,
        private: bool,
        archived: bool,
        default_branch: String,
    }

    /// A project's config file.
    ConfigFile {
        exists: bool,
        path: Option<String>,
        content: Option<String>,
        /// The provider's hash of it.
        sha: Option<String>,
    }

    /// The end of a connection has begun, or is over.
    TeardownBegun {
        /// `teardown_initiated`, or `revoked` once it is over.
        status: String,
        installation_id: String,
    }

    /// The receipt of a connection's end.
    Teardown {
        installation_id: String,
        /// `disconnected` or `provider_revoked`
        reason: String,
        status: TeardownStatus,
        started_at: Time,
        finished_at: Option<Time>,
        steps: Vec<TeardownStepRecord>,
    }

    /// A step of it.
    TeardownStepRecord {
        step: TeardownStep,
        status: StepStatus,
        attempts: u64,
        at: Option<Time>,
        detail: Option<String>,
    }

    /// What the proxy can call.
    ProxyEndpoints { items: Vec<ProxyEndpoint>, }

    /// A call of the provider's API.
    ProxyEndpoint {
        id: String,
        method: String,
        /// With `{…}` where `pathParams` go.
        path: String,
        description: String,
    }

    /// A call to make.
    ProxyCall { endpoint_id: String, }, sometimes {
        #[schema(value_type = Object)]
        path_params: Value,
        #[schema(value_type = Object)]
        query_params: Value,
        /// An object or a list.
        body: Value,
    }

    /// What the provider answered.
    ProxyAnswer {
        /// The provider's HTTP status.
        status: u16,
        /// JSON, or a text.
        data: Value,
        headers: BTreeMap<String, String>,
    }

    /// A run of the backfill service.
    BackfillRun {
        id: String,
        connection_id: String,
        org_id: String,
        provider: String,
        status: BackfillStatus,
        /// Days.
        depth: Option<u32>,
        entity_types: Vec<String>,
        counts: BTreeMap<String, f64>,
        error: Option<String>,
        started_at: Option<Time>,
        finished_at: Option<Time>,
        created_at: Time,
        updated_at: Time,
    }

    /// A report of the backfill service: what is given changes.
    BackfillReport {}, sometimes {
        /// The run; a new one if absent.
        id: String,
        status: BackfillStatus,
        depth: u32,
        entity_types: Vec<String>,
        counts: BTreeMap<String, f64>,
        error: String,
        started_at: Time,
        finished_at: Time,
    }

    /// What to compare.
    HealRequest { provider: String, }, sometimes {
        since: TimeOrMillis,
    }

    /// A comparison of a provider's delivery log with what was received.
    HealRun {
        id: String,
        provider: String,
        status: HealStatus,
        /// `on_demand`, `start` or `periodic`
        cause: String,
        since: Time,
        until: Time,
        /// Webhooks in the provider's log.
        examined: u64,
        /// Of those, the ones that never arrived.
        missing: u64,
        /// Of those, the ones the provider was asked for again.
        requested: u64,
        /// Of those, the ones that have arrived.
        healed: u64,
        outstanding: u64,
        /// The ones the provider would not deliver again.
        refused: u64,
        error: Option<String>,
        started_at: Time,
        finished_at: Option<Time>,
    }
}
