//! The outside world in miniature, over real HTTP: the four providers with their pages and APIs ([`world`]), what they
//! send, a person's [`browser`], and somebody to receive what the gateway delivers. Used by `signalbox demo`, by the
//! tests and by `loadtest/`.
//!
//! **Owns** the events a provider can send ([`SimulatedProvider`]), their signatures ([`signer`]), a receiving
//! [`sink`] that misbehaves on demand, and a small keep-alive [`client`].
//!
//! **Invariants.** The same kind and the same [`Facts`] give the same bytes. Payloads are written from the providers'
//! documentation, not with the gateway's own extraction, so that one can prove the other.
//!
//! **Must not know** any room but the model and the HMAC of crypto: to the simulators the gateway is a URL.

pub mod browser;
pub mod client;
mod dice;
mod filler;
pub mod github;
pub mod linear;
mod listening;
pub mod operator;
pub mod sentry;
pub mod signer;
pub mod sink;
mod standard_webhooks;
pub mod vercel;
pub mod world;

use serde_json::Value;

pub use self::{
    dice::Dice,
    signer::{Encoding, SignedRequest, Signing},
};
use crate::model::clock::EpochMs;

/// What an event is about. Control events describe the state after them: a renaming carries the new name.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The installation's id at the provider.
    pub external_id: String,
    /// The second id some payloads name (Vercel's configuration id); other providers ignore it.
    pub alternate_external_id: String,
    /// Where the installation was before it moved (`vercel:integration-configuration.transferred`).
    pub previous_external_id: Option<String>,
    /// The account's login or slug.
    pub account: String,
    /// The id of the repository, project or team.
    pub resource_id: String,
    /// Its slug or key.
    pub resource_slug: String,
    /// Its name.
    pub resource_name: String,
    /// The provider's id of the webhook. Sentry has none that survives a retry; there it is the attempt's `Request-ID`.
    pub delivery_id: String,
    /// When it happened, and when it was sent.
    pub at: EpochMs,
    /// What everything else (numbers, commits, titles) is drawn from.
    pub seed: u64,
    /// The JSON body is lengthened to this many bytes if it is shorter; 0 leaves it as it is.
    pub body_bytes: usize,
}

/// A payload before it is serialised and signed.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Headers other than the content type and the signature, in lower case.
    headers: Vec<(&'static str, String)>,
    /// The JSON body.
    payload: Value,
    /// JSON pointer of the text that grows when a larger body is asked for.
    padding: &'static str,
}

/// The environment under which a gateway accepts what all simulated providers send with their own secrets.
pub fn gateway_settings() -> impl Iterator<Item = (String, String)> {
    PROVIDERS.into_iter().flat_map(|provider| {
        provider.settings.iter().map(|(name, value)| {
            let variable = format!("SIGNALBOX_PROVIDERS__{}__{}", provider.slug, name).to_uppercase();
            (variable, (*value).to_owned())
        })
    })
}

/// A provider's sending half.
#[derive(Debug)]
pub struct SimulatedProvider {
    /// The gateway's name of it.
    pub slug: &'static str,
    /// The event keys it can send, seed keys first.
    pub keys: &'static [&'static str],
    /// How many of `keys`, from the front, Lightfast knew.
    pub seed_keys: usize,
    /// The control events it can send that are not subscribable.
    pub control: &'static [&'static str],
    /// How it signs.
    pub signing: Signing,
    /// The secret that signs unless a test takes another.
    pub secret: &'static str,
    /// What `[providers.X]` must hold for the gateway to know this provider and its secret.
    pub settings: &'static [(&'static str, &'static str)],
    write: fn(&str, &Facts) -> Option<Draft>,
    facts: fn(u32, &mut Dice) -> Facts,
}

/// Every simulated provider.
pub static PROVIDERS: [&SimulatedProvider; 4] =
    [&github::PROVIDER, &vercel::PROVIDER, &linear::PROVIDER, &sentry::PROVIDER];

/// The simulated provider of that slug.
pub fn find(slug: &str) -> Option<&'static SimulatedProvider> {
    PROVIDERS.into_iter().find(|provider| provider.slug == slug)
}

impl SimulatedProvider {
    /// The keys of Lightfast's catalogue.
    pub fn seed_keys(&self) -> &'static [&'static str] {
        self.keys.split_at(self.seed_keys).0
    }

    /// Facts of an event of the invented account number `account`: its installation and resource are the same for
    /// every `seed`, the delivery id and the rest are drawn from it.
    pub fn facts(&self, account: u32, seed: u64, at: EpochMs) -> Facts {
        let mut dice = Dice::new(seed ^ 0xd1ce_0000_0000_0000);
        Facts { at, seed, ..(self.facts)(account, &mut dice) }
    }

    /// The signed request that tells of an event, as JSON; `None` if this provider sends nothing of that kind. `kind`
    /// is an event key or a control event's name.
    pub fn event(&self, kind: &str, facts: &Facts, secret: &[u8]) -> Option<SignedRequest> {
        self.event_encoded(kind, facts, secret, Encoding::Json)
    }

    /// The same in either encoding. Only GitHub sends forms.
    pub fn event_encoded(&self, kind: &str, facts: &Facts, secret: &[u8], encoding: Encoding) -> Option<SignedRequest> {
        let Draft { headers, mut payload, padding } = (self.write)(kind, facts)?;
        filler::lengthen(&mut payload, padding, facts.body_bytes, facts.seed);
        Some(self.signing.sign(headers, payload.to_string().into_bytes(), secret, encoding))
    }
}

/// JSON number where the id is one, as GitHub and Sentry send it; text otherwise.
fn numeric_id(id: &str) -> Value {
    id.parse::<u64>().map_or_else(|_| Value::from(id), Value::from)
}

/// RFC 3339 to the second, as GitHub writes times.
fn to_the_second(at: EpochMs) -> String {
    let text = at.to_rfc3339();
    text.split_once('.').map_or_else(|| text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const AT: EpochMs = EpochMs(1_771_980_000_123);

    #[test]
    fn every_kind_can_be_sent_and_the_seed_has_forty_one_keys() {
        let mut seed_keys = 0;
        for provider in PROVIDERS {
            seed_keys += provider.seed_keys().len();
            let mut kinds = HashSet::new();
            for kind in provider.keys.iter().chain(provider.control) {
                assert!(kinds.insert(kind), "{kind} is listed twice");
                assert!(kind.starts_with(&format!("{}:", provider.slug)), "{kind}");
                let request = provider.event(kind, &provider.facts(1, 7, AT), b"secret").expect(kind);
                let payload: Value = serde_json::from_slice(&request.body).expect(kind);
                assert!(payload.is_object(), "{kind}");
            }
            assert!(
                provider.event(&format!("{}:no-such.thing", provider.slug), &provider.facts(1, 7, AT), b"s").is_none()
            );
        }
        assert_eq!(seed_keys, 41);
    }

    #[test]
    fn the_same_facts_give_the_same_bytes_and_another_seed_gives_others() {
        for provider in PROVIDERS {
            for kind in provider.keys {
                let of = |seed| provider.event(kind, &provider.facts(1, seed, AT), b"secret").expect("a known kind");
                assert_eq!(of(7), of(7), "{kind}");
                assert_ne!(of(7).body, of(8).body, "{kind}");
            }
            assert_ne!(provider.facts(1, 7, AT).delivery_id, provider.facts(1, 8, AT).delivery_id);
            assert_eq!(provider.facts(1, 7, AT).external_id, provider.facts(1, 8, AT).external_id);
            assert_ne!(provider.facts(1, 7, AT).external_id, provider.facts(2, 7, AT).external_id);
        }
    }

    #[test]
    fn every_catalogue_event_can_be_lengthened_to_the_byte() {
        for provider in PROVIDERS {
            for kind in provider.keys {
                for body_bytes in [24 * 1024, 100_001] {
                    let facts = Facts { body_bytes, ..provider.facts(1, 7, AT) };
                    let request = provider.event(kind, &facts, b"secret").expect("a known kind");
                    assert_eq!(request.body.len(), body_bytes, "{kind}");
                }
            }
        }
    }
}
