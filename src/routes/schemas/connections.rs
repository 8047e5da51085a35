//! Shapes of connections, their resources and their log.

use utoipa::ToSchema;

use super::{ConnectionStatus, Time, shapes};

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
        status_reason: Option<String>,
        has_token: bool,
        token_expires_at: Option<Time>,
        /// `ok`, or what is wrong.
        health: String,
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
}
