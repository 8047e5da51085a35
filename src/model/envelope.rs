//! The envelope: the JSON body destinations receive. Its field names and their order are a wire contract.

use serde::Serialize;

use super::{
    clock::EpochMs,
    event::EventKey,
    ids::{EventId, InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
    provider::ProviderDeliveryId,
};

/// What the members beside the payload usually take, bytes.
const USUAL_BYTES: usize = 512;

/// Everything of an envelope but the payload.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// The event.
    pub event_id: EventId,
    /// The provider's id of it.
    pub delivery_id: ProviderDeliveryId,
    /// The installation, in the wire's word.
    pub connection_id: Option<InstallationId>,
    /// The org.
    pub org_id: OrgId,
    /// The provider's slug.
    pub provider: String,
    /// The provider's name of the event.
    pub event_type: String,
    /// Our name of the event.
    pub event_key: Option<EventKey>,
    /// The subscribing workspace.
    pub workspace_id: WorkspaceId,
    /// Its integration.
    pub integration_id: IntegrationId,
    /// The resource matched.
    pub resource_id: ResourceId,
    /// Epoch milliseconds.
    pub received_at: EpochMs,
}

impl Envelope {
    /// The body to send: this envelope with `payload` as its last member, byte for byte. `payload` is a JSON
    /// text; nothing here parses it, because valid JSON exists that parsers refuse.
    ///
    /// # Errors
    /// Only if the envelope itself cannot be serialised.
    pub fn to_body(&self, payload: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        const LAST_MEMBER: &[u8] = b",\"payload\":";
        // One allocation, of the size of all but unusually long names; the payload is copied once.
        let mut body = Vec::with_capacity(USUAL_BYTES + LAST_MEMBER.len() + payload.len() + 1);
        serde_json::to_writer(&mut body, self)?;
        body.pop();
        body.extend_from_slice(LAST_MEMBER);
        body.extend_from_slice(payload);
        body.push(b'}');
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_carried_byte_for_byte_as_the_last_member() {
        let envelope = Envelope {
            event_id: EventId::from_raw("evt_1"),
            delivery_id: ProviderDeliveryId::new("5f2c"),
            connection_id: Some(InstallationId::from_raw("in_1")),
            org_id: OrgId::from_raw("org_1"),
            provider: "github".into(),
            event_type: "pull_request".into(),
            event_key: Some(EventKey::new("github:pull-request.opened")),
            workspace_id: WorkspaceId::from_raw("ws_1"),
            integration_id: IntegrationId::from_raw("int_1"),
            resource_id: ResourceId::from_raw("res_1"),
            received_at: EpochMs(1_771_980_000_000),
        };
        let body = envelope.to_body(br#"{ "n" : 1e400, "s":"\ud800" }"#).expect("serialisable");
        assert_eq!(
            String::from_utf8(body).expect("UTF-8"),
            concat!(
                r#"{"eventId":"evt_1","deliveryId":"5f2c","connectionId":"in_1","orgId":"org_1","provider":"github","#,
                r#""eventType":"pull_request","eventKey":"github:pull-request.opened","workspaceId":"ws_1","#,
                r#""integrationId":"int_1","resourceId":"res_1","receivedAt":1771980000000,"#,
                r#""payload":{ "n" : 1e400, "s":"\ud800" }}"#
            )
        );
    }
}
