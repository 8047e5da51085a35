//! Shapes of integrations and destinations.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::{AttemptResult, DestinationScope, DisabledReason, IntegrationStatus, ResourceToLink, Time, shapes};

shapes! {
    /// A workspace's subscription to a resource.
    Integration {
        /// `int_…`
        id: String,
        workspace_id: String,
        /// The provider's slug.
        provider: String,
        connection_id: String,
        resource_id: String,
        provider_resource_id: String,
        display_name: String,
        status: IntegrationStatus,
        /// Words of docs/words.md, or what another system called it.
        status_reason: Option<String>,
        /// The resource as the provider tells it, and `sync` with its rules.
        #[schema(value_type = Object)]
        source_config: Value,
        /// Event keys; empty is none.
        events: Vec<String>,
        /// Whether it is not paused.
        auto_sync: bool,
        last_event_at: Option<Time>,
        created_at: Time,
        updated_at: Time,
    }, sometimes {
        /// Its own destination, where a single integration is shown.
        destination: Option<Destination>,
    }

    /// A workspace's integrations.
    Integrations {
        workspace_id: String,
        total: u64,
        /// How many of each provider.
        by_type: BTreeMap<String, u64>,
        list: Vec<Integration>,
    }

    /// Resources to subscribe to.
    Subscription {
        connection_id: String,
        /// 1 to 50.
        resources: Vec<ResourceToLink>,
    }, sometimes {
        /// Event keys and category keys; the provider's defaults if absent, none if empty.
        events: Vec<String>,
    }

    /// What became of a subscription.
    Subscribed {
        created: u64,
        reactivated: u64,
        /// Subscribed already.
        skipped: u64,
        integrations: Vec<Integration>,
    }

    /// What to change; the rest stays.
    IntegrationChange {}, sometimes {
        events: Vec<String>,
        auto_sync: bool,
        /// `null` ends it.
        destination: Option<NewDestination>,
    }

    /// An integration ended.
    IntegrationEnded { status: IntegrationStatus, id: String, integration_id: String, }

    /// Where envelopes are sent.
    Destination {
        id: String,
        org_id: String,
        scope: DestinationScope,
        /// The id of what it serves.
        scope_id: String,
        url: String,
        /// Names of the headers sent along; their values are not shown.
        header_names: Vec<String>,
        disabled_reason: Option<DisabledReason>,
        failing_since: Option<Time>,
        /// Until then the secret before also signs.
        previous_secret_until: Option<Time>,
        created_at: Time,
        updated_at: Time,
    }, sometimes {
        /// The signing secret: only where it is made or rotated.
        secret: String,
        /// `closed`, `open` or `half_open`, as this node has it; `null` if it has sent nothing there lately. Only in the list.
        circuit: Option<String>,
    }

    /// A page of an org's destinations.
    Destinations {
        items: Vec<Destination>,
        /// The `cursor` of the next page; `null` at the end.
        next_cursor: Option<String>,
        /// Whether what no destination serves goes to one of the configuration.
        has_fallback: bool,
    }

    /// An org, by what there is of it.
    Org {
        id: String,
        connections: ConnectionCounts,
        /// Of every scope.
        destinations: u64,
    }

    /// How many connections there are.
    ConnectionCounts { total: u64, by_status: BTreeMap<String, u64>, }

    /// A workspace, by what there is of it.
    Workspace {
        id: String,
        /// Integrations that get events: active, and not paused.
        active: u64,
        /// Integrations by provider, then by status. One that `autoSync: false` pauses counts as `paused`.
        integrations: BTreeMap<String, BTreeMap<String, u64>>,
        /// Its own destination.
        destination_id: Option<String>,
    }

    /// Where to send envelopes.
    NewDestination {
        /// An absolute http(s) URL.
        url: String,
    }, sometimes {
        /// Headers to send along.
        headers: BTreeMap<String, String>,
    }

    /// A destination was deleted.
    DestinationDeleted {
        /// `deleted`
        status: String,
        id: String,
    }

    /// What a destination answered to a test.
    DestinationTested {
        /// `delivered` or `failed`
        status: String,
        webhook_id: String,
        /// As in attempts.
        result: AttemptResult,
        status_code: Option<u16>,
        duration_ms: u64,
        /// The beginning of it.
        response_body: Option<String>,
    }
}
