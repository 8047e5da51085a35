//! The test envelope: sent at once, once, whatever the state of the destination.
//!
//! **Invariants**: it is signed and addressed as a real one; its result is told and not recorded; it takes no slot and
//! moves no circuit, but after one that arrived an open circuit may probe at once. **Must not know** deliveries.

use std::sync::Arc;

use super::{
    TestAnswer,
    attempt::millis,
    destinations::{Found, Target},
    shared::Shared,
    state::Verdict,
};
use crate::{
    delivery::{
        client::{Answer, Post},
        destination::ExtraHeaders,
        sign,
    },
    model::{
        delivery::AttemptResult,
        envelope::Envelope,
        event::EventKey,
        ids::{DeliveryId, DestinationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        provider::ProviderDeliveryId,
    },
};

/// The payload of a test envelope.
const PAYLOAD: &[u8] = br#"{"test":true,"message":"Signalbox can reach this destination."}"#;

impl Shared {
    /// Sends a test envelope; `None` if there is no such destination or it cannot be looked up.
    pub(super) async fn send_test(
        self: &Arc<Self>,
        destination: &DestinationId,
        correlation_id: &str,
    ) -> Option<TestAnswer> {
        let webhook_id = self.ids.delivery();
        let answer = match self.load_target(destination).await {
            Found::Target(target) => self.post_test(&webhook_id, &target, correlation_id).await,
            Found::Unusable { why, .. } => not_sendable(why),
            Found::Missing | Found::Unknown => return None,
        };
        if Verdict::of(&answer.result) == Verdict::Delivered {
            self.works_again(destination);
        }
        Some(TestAnswer {
            webhook_id,
            duration_ms: millis(answer.took),
            response_body: answer.response_body.or_else(|| answer.error.map(str::to_owned)),
            result: answer.result,
        })
    }

    async fn post_test(&self, webhook_id: &DeliveryId, target: &Target, correlation_id: &str) -> Answer {
        let now = self.clock.now();
        let envelope = Envelope {
            event_id: self.ids.event(),
            delivery_id: ProviderDeliveryId::new(format!("test-{webhook_id}")),
            connection_id: None,
            org_id: target.org.clone().unwrap_or_else(|| OrgId::from_raw("")),
            provider: "signalbox".to_owned(),
            event_type: "test".to_owned(),
            event_key: Some(EventKey::new("signalbox:test.sent")),
            workspace_id: WorkspaceId::from_raw(""),
            integration_id: IntegrationId::from_raw(""),
            resource_id: ResourceId::from_raw(""),
            received_at: now,
        };
        let Ok(body) = envelope.to_body(PAYLOAD) else { return not_sendable("the envelope cannot be written") };
        let timestamp_s = now.0 / 1000;
        let signature = sign::signature(target.secrets(now), webhook_id.as_str(), timestamp_s, &body);
        let extra_headers: &ExtraHeaders = &target.headers;
        let post = Post {
            url: &target.url,
            extra_headers,
            webhook_id: webhook_id.as_str(),
            timestamp_s,
            signature: signature.as_deref(),
            correlation_id,
            body: body.into(),
        };
        self.client.post(post).await
    }
}

fn not_sendable(why: &'static str) -> Answer {
    Answer {
        result: AttemptResult::InvalidDestination,
        error: Some(why),
        response_body: None,
        took: std::time::Duration::ZERO,
    }
}
