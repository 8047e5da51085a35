//! The envelope: any names and any payload make one JSON object with the payload's own bytes in it, and its signature is
//! the official library's.

use std::{collections::BTreeMap, sync::OnceLock};

use serde_json::value::RawValue;
use signalbox::{
    delivery::sign::{SigningSecret, signature},
    model::{
        clock::EpochMs,
        envelope::Envelope,
        event::EventKey,
        ids::{EventId, InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        provider::ProviderDeliveryId,
    },
};
use standardwebhooks::Webhook;

const SECRET: &str = "whsec_c2lnbmFsYm94IGZ1enogdGFyZ2V0IHNlY3JldCE=";

/// Nine lines of names, a line with a number, then the payload.
pub fn run(data: &[u8]) {
    static KEYS: OnceLock<(SigningSecret, Webhook)> = OnceLock::new();
    let (secret, official) = KEYS.get_or_init(|| {
        (SigningSecret::parse(SECRET).expect("a secret"), Webhook::new(SECRET).expect("the same secret"))
    });
    let mut parts = data.splitn(11, |byte| *byte == b'\n');
    let mut next = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let names: [String; 9] = std::array::from_fn(|_| next());
    let received_at: i64 = next().parse().unwrap_or_default();
    let payload = parts.next().unwrap_or(b"{}");
    let envelope = Envelope {
        event_id: EventId::from_raw(&*names[0]),
        delivery_id: ProviderDeliveryId::new(&*names[1]),
        connection_id: (!names[2].is_empty()).then(|| InstallationId::from_raw(&*names[2])),
        org_id: OrgId::from_raw(&*names[3]),
        provider: names[4].clone(),
        event_type: names[5].clone(),
        event_key: (!names[6].is_empty()).then(|| EventKey::new(&*names[6])),
        workspace_id: WorkspaceId::from_raw(&*names[7]),
        integration_id: IntegrationId::from_raw(&*names[8]),
        resource_id: ResourceId::from_raw("res_1"),
        received_at: EpochMs(received_at),
    };
    let body = envelope.to_body(payload).expect("names and numbers are serialisable");
    let end = [b",\"payload\":", payload, b"}"].concat();
    assert!(body.ends_with(&end), "the payload is not its own bytes");
    // What extraction lets through is a JSON text; then the whole is one, of exactly these members.
    if let Ok(raw) = serde_json::from_slice::<&RawValue>(payload) {
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(&body).expect("an object");
        assert_eq!(members.len(), 12);
        assert_eq!(members["payload"].get(), raw.get());
        let texts = ["eventId", "deliveryId", "orgId", "provider", "eventType", "workspaceId", "integrationId"];
        for (member, name) in texts.iter().zip([0, 1, 3, 4, 5, 7, 8].map(|at| &names[at])) {
            assert_eq!(&serde_json::from_str::<String>(members[*member].get()).expect("text"), name, "{member}");
        }
        assert_eq!(members["receivedAt"].get(), received_at.to_string());
    }

    let id = "dlv_019c9a4d2f3b7e2c8a11";
    let signed = signature([secret], id, received_at, &body).expect("one secret");
    // It would verify by the machine's clock; what it signs itself is the same without.
    // It signs text only, which every payload is that extraction lets through.
    if std::str::from_utf8(&body).is_ok() {
        assert_eq!(signed, official.sign(id, received_at, &body).expect("signed"));
    }
}
