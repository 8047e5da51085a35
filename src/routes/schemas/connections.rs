//! Shapes of connections, their resources and their log.

use utoipa::ToSchema;

use super::{ConnectionHealth, ConnectionStatus, Time, shapes};

shapes! {
    /// An org's installation at a provider.
    Connection {
        /// `in_…`
        id: String,
        /// The provider's slug.
        provider: String,
        /// The provider's id of the installation.
        external_id: String,
        account_login: Option<String>,
        org_id: String,
        connected_by: String,
        status: ConnectionStatus,
        /// Words of docs/words.md, or what another system called it.
        status_reason: Option<String>,
        has_token: bool,
        token_expires_at: Option<Time>,
        /// `ok`, or what is wrong.
        health: ConnectionHealth,
        last_event_at: Option<Time>,
        /// The active ones.
        resources: Vec<Resource>,
        created_at: Time,
        updated_at: Time,
    }, sometimes {
        /// The id again, where a connection is adopted.
        connection_id: String,
    }

    /// A thing at the provider that emits events, linked to a connection.
    Resource {
        /// `res_…`
        id: String,
        provider_resource_id: String,
        resource_name: Option<String>,
    }

    /// An installation that exists at the provider.
    AdoptedInstallation {
        /// The provider's slug.
        provider: String,
        /// The provider's id of the installation.
        external_id: String,
        org_id: String,
        /// The person who connected it.
        connected_by: String,
    }, sometimes {
        account_login: String,
        /// Another id under which the provider's webhooks may name it.
        alternate_external_id: String,
    }

    /// A resource to link. Further members that are texts, numbers or booleans are kept beside it.
    ResourceToLink {
        /// The provider's id, as text or as an integer.
        provider_resource_id: String,
    }, sometimes {
        name: String,
        /// The older word for `name`.
        resource_name: String,
        slug: String,
        private: bool,
        archived: bool,
    }

    /// A resource was linked.
    Linked {
        /// `linked`
        status: String,
        resource: Resource,
    }

    /// A resource was unlinked.
    Unlinked {
        /// `removed`
        status: String,
        resource_id: String,
    }

    /// Which stored events to route again.
    RerouteRequest {}, sometimes {
        /// Only those received since.
        since: Time,
    }

    /// What became of stored events that were routed again.
    Rerouted {
        /// `rerouted`
        status: String,
        considered: u64,
        routed: u64,
        filtered: u64,
    }

    /// Held events were let go.
    Released {
        /// `released`
        status: String,
        /// How many.
        released: u64,
    }

    /// An entry of the lifecycle and audit log.
    LogEntry {
        id: String,
        at: Time,
        /// What happened, a dotted name in the past tense: a word of docs/words.md.
        action: String,
        org_id: Option<String>,
        connection_id: Option<String>,
        /// The id of what was acted on.
        subject: Option<String>,
        from: Option<String>,
        to: Option<String>,
        reason: Option<String>,
        actor: Actor,
    }

    /// Who acted.
    Actor {
        /// `key:key_…`, `provider:…`, `system` or `cli`.
        who: String,
        /// The person a service key acted for.
        user: Option<String>,
        /// The peer's address.
        from: Option<String>,
    }
}
