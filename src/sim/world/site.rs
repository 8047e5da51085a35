//! What a simulated provider has to be, and what it is given while it answers a call.
//!
//! **Invariants.** A site answers without waiting: everything that takes time (webhooks, faults) is done around it. All
//! it invents follows from the seed.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    call::{Answer, Call, Surface},
    visit::Visit,
};
use crate::{
    model::clock::EpochMs,
    sim::{Dice, Draft, Facts, SignedRequest, SimulatedProvider},
};

/// How a provider sends webhooks.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// How long it waits for the answer, milliseconds.
    pub timeout_ms: u64,
    /// When it tries again by itself, milliseconds after the try before.
    pub retries_ms: &'static [u64],
    /// Whether it takes nothing but 200 for success.
    pub only_200: bool,
    /// Whether it tries again only after a 5xx or no answer at all; otherwise after everything that is no success.
    pub refusal_is_final: bool,
}

/// A simulated provider's pages and API.
pub trait Site: Send + Sized + 'static {
    /// What else can be set about it.
    type Knobs: Clone + Default + Serialize + DeserializeOwned + Send;

    /// Its sending half.
    const PROVIDER: &'static SimulatedProvider;
    /// Where below the origin its API begins (`/api/v3`); empty if pages and API share a base (Sentry).
    const API_BASE: &'static str;
    /// How it sends.
    const MANNERS: Manners;

    /// A provider that nobody has connected yet.
    fn new() -> Self;
    /// What can be set.
    fn knobs(&mut self) -> &mut Self::Knobs;
    /// Answers a call.
    fn answer(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer;
    /// Does what people do at the provider (`uninstall`, `suspend`, …); the error names what it does not know.
    fn act(&mut self, act: &str, account: u32, details: &Value, scene: &mut Scene<'_>) -> Result<Value, String>;
    /// The facts of an event of that account as it is connected now.
    fn facts(&self, account: u32, facts: Facts) -> Facts;
    /// What is new about another try of the same webhook.
    fn restamp(_draft: &mut Draft, _now: EpochMs, _dice: &mut Dice) {}
    /// Learns how a webhook was answered.
    fn sent(&mut self, _sent: &Sent, _request: &SignedRequest, _scene: &mut Scene<'_>) {}
    /// Whether webhooks about this flow now.
    fn sends(&self, _kind: &str, _facts: &Facts) -> bool {
        true
    }
}

/// What becomes of webhooks on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// They are delivered.
    #[default]
    None,
    /// They are lost, and the provider knows (its log says so).
    Known,
    /// They are lost without a trace: not even the log has them.
    Traceless,
}

/// What can be set about any provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ambient {
    /// What the next people do on its pages.
    pub visit: Visit,
    /// How far its clock is from ours, milliseconds.
    pub skew_ms: i64,
    /// What becomes of its webhooks.
    pub loss: Loss,
    /// How long it waits for a webhook's answer, milliseconds.
    pub timeout_ms: u64,
    /// When it tries a webhook again, milliseconds after the try before.
    pub retries_ms: Vec<u64>,
    /// After how many webhooks in a row that failed for good it sends no more, until this is set anew (Linear and Sentry
    /// do so, at figures they do not publish or may change); never, unless it is set.
    pub disable_after: Option<u32>,
    /// Callback URLs registered with it beside the gateway's own.
    pub callbacks: Vec<String>,
}

/// A webhook on its way.
#[derive(Debug, Clone)]
pub struct Posting {
    /// What it tells: an event key or a control event's name.
    pub kind: String,
    /// Of what.
    pub facts: Facts,
    /// JSON merged into its payload (RFC 7396).
    pub edit: Value,
    /// Whether the call that caused it is answered only after this was delivered.
    pub first: bool,
    /// Exactly this instead, signed already: a redelivery.
    pub verbatim: Option<SignedRequest>,
}

/// A webhook that was sent, or lost.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its position among everything sent, from 0.
    pub number: usize,
    /// What it told.
    pub kind: String,
    /// The installation's external id.
    pub external_id: String,
    /// The resource's id.
    pub resource_id: String,
    /// The provider's id of the webhook.
    pub delivery_id: String,
    /// When.
    pub at: EpochMs,
    /// Whether somebody asked for it again.
    pub redelivery: bool,
    /// The gateway's status; `None` if there was no answer in time or it was lost.
    pub status: Option<u16>,
    /// The gateway's answer.
    pub answer: Value,
    /// Whether it was lost on the way.
    pub loss: Loss,
}

impl Sent {
    /// Whether the provider takes it for received.
    pub fn succeeded(&self, manners: Manners) -> bool {
        self.status.is_some_and(|status| if manners.only_200 { status == 200 } else { (200..300).contains(&status) })
    }
}

impl Manners {
    /// Whether it tries a webhook again that ended so, if it has tries left.
    pub(super) fn tries_again(self, sent: &Sent) -> bool {
        !sent.succeeded(self) && (!self.refusal_is_final || sent.status.is_none_or(|status| status >= 500))
    }
}

/// What a site is given while it answers.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The provider's clock.
    pub now: EpochMs,
    /// Chance.
    pub dice: &'a mut Dice,
    /// What is set.
    pub ambient: &'a Ambient,
    /// `http://127.0.0.1:port` of the provider.
    pub origin: &'a str,
    /// As whom the call was accepted.
    pub accepted_as: Option<&'static str>,
    pub(super) slug: &'static str,
    pub(super) gateway: Option<&'a str>,
    pub(super) outbox: &'a mut Vec<Posting>,
    pub(super) issued: &'a mut Vec<String>,
}

impl Scene<'_> {
    /// The gateway's callback, which is registered with the provider; `None` until the provider knows the gateway.
    pub fn callback(&self) -> Option<String> {
        self.gateway.map(|gateway| format!("{gateway}/connections/{}/callback", self.slug))
    }

    /// The callback for a page to return to, or the page that says why there is none.
    ///
    /// # Errors
    /// The page.
    pub fn landing(&self) -> Result<String, Answer> {
        self.callback().ok_or_else(|| {
            Answer::refusal(
                "Nowhere to return to",
                "The simulator was not told where the gateway is (`gateway_is_at`).",
            )
        })
    }

    /// Whether a redirect URI is registered, compared as text.
    pub fn is_registered(&self, redirect_uri: &str) -> bool {
        self.callback().as_deref() == Some(redirect_uri) || self.ambient.callbacks.iter().any(|own| own == redirect_uri)
    }

    /// A new secret: a prefix and that many letters and digits.
    pub fn issue(&mut self, prefix: &str, length: usize) -> String {
        let secret = format!("{prefix}{}", self.dice.token(length));
        self.issued.push(secret.clone());
        secret
    }

    /// Remembers a secret of another form as issued.
    pub fn note_issued(&mut self, secret: &str) {
        self.issued.push(secret.to_owned());
    }

    /// Sends a webhook before the call is answered.
    pub fn tell_first(&mut self, kind: &str, facts: Facts, edit: Value) {
        self.outbox.push(Posting { kind: kind.to_owned(), facts, edit, first: true, verbatim: None });
    }

    /// Sends a webhook after the call is answered.
    pub fn tell(&mut self, kind: &str, facts: Facts, edit: Value) {
        self.outbox.push(Posting { kind: kind.to_owned(), facts, edit, first: false, verbatim: None });
    }

    /// Sends a webhook again, byte for byte.
    pub fn tell_again(&mut self, kind: &str, facts: Facts, request: SignedRequest) {
        let posting =
            Posting { kind: kind.to_owned(), facts, edit: Value::Null, first: false, verbatim: Some(request) };
        self.outbox.push(posting);
    }
}

/// Which half of a provider a path belongs to, and the path below its base.
pub(super) fn surface_of<'a>(api_base: &str, path: &'a str) -> (Surface, &'a str) {
    if api_base.is_empty() {
        return (if path.starts_with("/api/") { Surface::Api } else { Surface::Web }, path);
    }
    match path.strip_prefix(api_base) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => (Surface::Api, rest),
        _ => (Surface::Web, path),
    }
}

/// Merges `edit` into `target` (RFC 7396).
pub(super) fn merge(target: &mut Value, edit: &Value) {
    let Value::Object(members) = edit else {
        if !edit.is_null() {
            *target = edit.clone();
        }
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(own) = target {
        for (name, value) in members {
            if value.is_null() {
                own.remove(name);
            } else {
                merge(own.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }
}
