//! Fixtures: webhooks as the providers send them, with what they must be understood as.
//!
//! `tests/fixtures/<slug>/<case>/` holds `headers.json` (without the signature, which is made here), the body byte for
//! byte (`body.json`, or `body.form` for a form), and `expect.json`: the reading, or `{"error": code}`.

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use signalbox::{
    crypto::hmac::{hmac_sha1, hmac_sha256},
    model::{clock::EpochMs, secret::Secret, webhook::Headers, webhook::ReceivedWebhook},
    providers::{
        ControlChange, Digest, ExtractError, Inbound, Provider, ResourceSelector, VerifiedWebhook, VerifyError, verify,
    },
};

/// When every fixture arrives: the instant its signed timestamp names, where it has one.
pub const RECEIVED_AT: EpochMs = EpochMs(1_786_701_234_567);
const TOLERANCE: Duration = Duration::from_mins(1);
const SECRET: &str = "a secret of the tests";

/// One case.
pub struct Fixture {
    pub name: String,
    pub headers: Headers,
    pub body: Bytes,
    pub expect: Value,
}

/// Every case of a provider, in the order of their names.
pub fn list_fixtures(slug: &str) -> Vec<Fixture> {
    let folder = root().join(slug);
    let mut cases: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{slug} has no fixtures in {}: {error}", folder.display()))
        .map(|case| case.expect("a readable folder").path())
        .collect();
    cases.sort();
    cases.iter().map(|case| read_fixture(slug, case)).collect()
}

/// The folder of all fixtures.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn read_fixture(slug: &str, case: &Path) -> Fixture {
    let name = format!("{slug}/{}", case.file_name().expect("a name").display());
    let read = |file: &str| fs::read(case.join(file));
    let parse = |file: &str| -> Value {
        let text = read(file).unwrap_or_else(|error| panic!("{name}/{file}: {error}"));
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}/{file}: {error}"))
    };
    let headers = parse("headers.json");
    let headers = headers.as_object().expect("an object").iter();
    let headers = headers.map(|(header, value)| (header.as_str(), value.as_str().expect("text"))).collect();
    let body = read("body.json").or_else(|_| read("body.form")).unwrap_or_else(|error| panic!("{name}: {error}"));
    Fixture { headers, body: body.into(), expect: parse("expect.json"), name }
}

/// The tests' live secret.
pub fn secret() -> Secret {
    Secret::new(SECRET).expect("not empty")
}

/// The headers with the provider's signature of `body`.
pub fn sign(provider: &dyn Provider, headers: &Headers, body: &[u8]) -> Headers {
    let scheme = provider.scheme();
    let mac = match scheme.digest {
        Digest::Sha1 => hex::encode(hmac_sha1(SECRET.as_bytes(), &[body])),
        Digest::Sha256 => hex::encode(hmac_sha256(SECRET.as_bytes(), &[body])),
    };
    let mut signed = headers.clone();
    signed.append(scheme.header, format!("{}{mac}", scheme.prefix).into_bytes());
    signed
}

/// Verifies a webhook that arrives at [`RECEIVED_AT`].
pub fn verify_at_once(
    provider: &dyn Provider,
    headers: Headers,
    body: Bytes,
    secrets: &[Secret],
) -> Result<VerifiedWebhook, VerifyError> {
    let webhook = ReceivedWebhook {
        provider: provider.slug(),
        headers,
        body,
        received_at: RECEIVED_AT,
        correlation_id: "req_test".into(),
    };
    verify(provider, webhook, secrets, TOLERANCE).map_err(|(_, error)| error)
}

/// A reading in the form of `expect.json`.
pub fn render(reading: &Result<Inbound, ExtractError>) -> Value {
    let inbound = match reading {
        Ok(inbound) => inbound,
        Err(error) => return json!({ "error": error.code() }),
    };
    json!({
        "wireType": inbound.wire_type,
        "key": inbound.key,
        "alsoKeys": inbound.also_keys,
        "installation": inbound.installation,
        "alternates": inbound.alternate_installations,
        "resources": match &inbound.resources {
            ResourceSelector::All => json!("all"),
            ResourceSelector::Ids(ids) => json!({ "ids": ids }),
            ResourceSelector::Slugs(slugs) => json!({ "slugs": slugs }),
        },
        "deliveryId": inbound.delivery_id,
        "control": inbound.control.iter().map(render_change).collect::<Vec<_>>(),
        "controlAt": inbound.control_at,
        "ping": inbound.ping,
    })
}

fn render_change(change: &ControlChange) -> Value {
    match change {
        ControlChange::InstallationConfirmed { account_login, metadata } => {
            json!({ "change": "installationConfirmed", "accountLogin": account_login, "metadata": metadata })
        }
        ControlChange::InstallationRevoked => json!({ "change": "installationRevoked" }),
        ControlChange::InstallationSuspended => json!({ "change": "installationSuspended" }),
        ControlChange::InstallationResumed => json!({ "change": "installationResumed" }),
        ControlChange::InstallationNeedsReauth { person } => {
            json!({ "change": "installationNeedsReauth", "person": person })
        }
        ControlChange::InstallationMoved { to } => json!({ "change": "installationMoved", "to": to }),
        ControlChange::ResourcesRemoved { ids, reason } => {
            json!({ "change": "resourcesRemoved", "ids": ids, "reason": reason.as_str() })
        }
        ControlChange::ResourcesAdded { ids } => json!({ "change": "resourcesAdded", "ids": ids }),
        ControlChange::ResourceChanged { id, name, slug, attrs } => {
            json!({ "change": "resourceChanged", "id": id, "name": name, "slug": slug, "attrs": attrs })
        }
    }
}
