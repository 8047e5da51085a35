//! Providers: everything that differs between GitHub, Vercel, Linear and Sentry, one file each.
//!
//! **Owns** the provider trait, the signature verifier, the event catalogues and the registry. **Invariants**: `verify`
//! and `extract` are functions of (headers, bytes): no I/O, no clock, no panic, whatever the bytes. A
//! [`VerifiedWebhook`] exists only if one of the live secrets signed its body. **Must not know** the store, actix or
//! HTTP.

mod answers;
mod api_url;
mod catalogue;
pub mod connector;
mod delivery_id;
mod facts;
mod form;
mod github;
pub mod http;
mod linear;
mod oauth;
mod partial;
mod proxy;
mod registry;
mod scheme;
mod sentry;
mod vercel;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

pub use self::{
    catalogue::{Category, EventSpec},
    connector::{Connector, ConnectorError, ConnectorSettingError, ConnectorSettings},
    http::HttpClient,
    registry::{ProviderSettings, Registered, Registry, RegistryError},
    scheme::{Digest, SignatureScheme, VerifyError},
};
use crate::{
    crypto::hmac::sha256,
    model::{
        clock::EpochMs,
        error_kind::ErrorKind,
        event::EventKey,
        provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug},
        secret::Secret,
        webhook::{Headers, ReceivedWebhook},
    },
};

/// A provider's receiving half: data and pure functions.
pub trait Provider: Send + Sync + 'static {
    /// Its short name.
    fn slug(&self) -> ProviderSlug;

    /// Its name as people write it (`GitHub`).
    fn name(&self) -> &'static str;

    /// What its resources are called (`repository`, `project`, `team`); also the `kind` of resource rows.
    fn resource_label(&self) -> &'static str;

    /// Every event we have a key for, the catalogue that the console and `sync.events` read.
    fn events(&self) -> &'static [EventSpec];

    /// The categories of those events.
    fn categories(&self) -> &'static [Category];

    /// How its webhooks are signed.
    fn scheme(&self) -> &SignatureScheme;

    /// The largest body accepted unless configured otherwise, bytes.
    fn default_max_body_bytes(&self) -> usize;

    /// Whether the provider delivery id comes from a header that the signature does not cover, so that a captured
    /// body could come again under another id (`promises.md` S2b).
    fn delivery_id_is_unsigned(&self) -> bool;

    /// The headers that `extract` reads, in lower case. With the body and its signature they are all that a webhook is:
    /// what came again without a difference in these is the same webhook.
    fn read_headers(&self) -> &'static [&'static str] {
        &[]
    }

    /// The header with its delivery id, in lower case, if it has one: what is left of a webhook that cannot be understood and
    /// is signed anew each time it is tried.
    fn delivery_id_header(&self) -> Option<&'static str> {
        None
    }

    /// Understands a verified webhook.
    ///
    /// # Errors
    /// [`ExtractError`] when a required header is missing or the payload is not a JSON object. A schema surprise is
    /// not an error: unknown types and missing members are extracted as far as they go.
    fn extract(&self, headers: &Headers, body: &Bytes) -> Result<Inbound, ExtractError>;

    /// Understands a webhook of the service path, whose writer names its wire type and delivery id: the same reading
    /// of `payload`, without headers. A wire type may carry the action behind a dot or a colon, as the provider's own
    /// writing has it, for payloads that do not name it.
    ///
    /// # Errors
    /// [`ExtractError::InvalidPayload`] when the payload is not a JSON object.
    fn extract_trusted(
        &self,
        wire_type: &str,
        delivery_id: &ProviderDeliveryId,
        payload: &Bytes,
    ) -> Result<Inbound, ExtractError>;

    /// The `source_config` of a new integration, without `sync`: the seed's shape for this provider.
    fn source_config(&self, of: &ResourceFacts<'_>) -> Map<String, Value>;

    /// Which account a connection of the seed belongs to. The seed kept right external ids for some providers and
    /// accidental ones for others, with the right one elsewhere in the account's facts.
    fn account_of_seed(&self, external_id: &str, _account_info: &Value) -> SeedAccount {
        SeedAccount {
            external_id: ExternalId::new(external_id),
            alternate_external_id: None,
            login: None,
            is_certain: true,
        }
    }
}

/// The account of a connection that is taken over from the seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedAccount {
    /// Its id at the provider.
    pub external_id: ExternalId,
    /// The second id some payloads name.
    pub alternate_external_id: Option<ExternalId>,
    /// Its login or slug, where the facts tell it.
    pub login: Option<String>,
    /// Whether the facts leave no doubt; otherwise its webhooks may not find it until it is connected again.
    pub is_certain: bool,
}

impl SeedAccount {
    /// Reads the first text (or number) that one of these pointers leads to.
    fn fact(account_info: &Value, pointers: &[&str]) -> Option<String> {
        pointers.iter().find_map(|pointer| match account_info.pointer(pointer)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    }
}

/// What is known of a resource when an integration is made of it.
#[derive(Debug, Clone, Copy)]
pub struct ResourceFacts<'a> {
    /// The installation's id at the provider.
    pub external_id: &'a ExternalId,
    /// The second id some payloads name (Vercel's configuration id).
    pub alternate_external_id: Option<&'a ExternalId>,
    /// The account's login or slug.
    pub account_login: Option<&'a str>,
    /// The resource's id at the provider.
    pub provider_resource_id: &'a ProviderResourceId,
    /// Its slug.
    pub slug: Option<&'a str>,
    /// Its name.
    pub name: Option<&'a str>,
    /// Its small facts.
    pub attrs: &'a Map<String, Value>,
}

/// A webhook one of whose live secrets signed it. Only [`verify`] makes one.
#[derive(Debug, Clone)]
pub struct VerifiedWebhook {
    webhook: ReceivedWebhook,
    secret_index: usize,
    body_digest: [u8; 16],
}

impl VerifiedWebhook {
    /// The webhook.
    pub fn webhook(&self) -> &ReceivedWebhook {
        &self.webhook
    }

    /// Which of the live secrets verified it: 0 is the newest.
    pub fn secret_index(&self) -> usize {
        self.secret_index
    }

    /// What a copy of it under another delivery id has too: a digest of its signature, which is a keyed hash of its body
    /// (`promises.md` S2b). Who captured a webhook cannot sign it anew, and the body need not be hashed a second time.
    pub fn body_digest(&self) -> [u8; 16] {
        self.body_digest
    }
}

/// Verifies a webhook over its raw bytes, in constant work over all live `secrets`, then checks the signed timestamp
/// (where the provider signs one) against `received_at` and `tolerance`.
///
/// # Errors
/// Returns the webhook beside the reason, so that it can be quarantined.
pub fn verify(
    provider: &dyn Provider,
    webhook: ReceivedWebhook,
    secrets: &[Secret],
    tolerance: Duration,
) -> Result<VerifiedWebhook, (ReceivedWebhook, VerifyError)> {
    let scheme = provider.scheme();
    let verdict = scheme.verify(&webhook.headers, &webhook.body, secrets).and_then(|secret_index| {
        scheme.check_timestamp(&webhook.body, webhook.received_at, tolerance).map(|()| secret_index)
    });
    match verdict {
        Ok(secret_index) => {
            let body_digest = digest_of(webhook.headers.all(scheme.header).next().unwrap_or_default());
            Ok(VerifiedWebhook { webhook, secret_index, body_digest })
        }
        Err(error) => Err((webhook, error)),
    }
}

fn digest_of(bytes: &[u8]) -> [u8; 16] {
    let digest = sha256(bytes);
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&digest[..16]);
    prefix
}

/// What a verified webhook says.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// The provider's id of it, never random.
    pub delivery_id: ProviderDeliveryId,
    /// A digest of what is signed and no other event has, where the delivery id is not signed and a retry may come under
    /// another: what has the same is the same event.
    pub identity: Option<[u8; 16]>,
    /// The provider's name of it: `pull_request`, `deployment.created`, `Issue:create`, `issue`.
    pub wire_type: String,
    /// What `sync.events` compares with; `None` when the catalogue has no such event.
    pub key: Option<EventKey>,
    /// Further keys under which `sync.events` may name it: narrower ones (`sentry:metric-alert.critical` beside
    /// `sentry:metric-alert`). They filter; the envelope carries `key` alone.
    pub also_keys: Vec<EventKey>,
    /// The account it belongs to, when the payload names one.
    pub installation: Option<ExternalId>,
    /// Second ids of the account, tried one after the other when `installation` finds nothing (Vercel: configuration ids).
    pub alternate_installations: Vec<ExternalId>,
    /// The resources it concerns.
    pub resources: ResourceSelector,
    /// Whether it can tell of nothing but the grant. Not each of these changes anything.
    pub is_of_the_grant: bool,
    /// State changes to make before routing; empty for ordinary events.
    pub control: Vec<ControlChange>,
    /// The provider's own time of the event, to order control events by; `None` when it does not say.
    pub control_at: Option<EpochMs>,
    /// A test message, to be acknowledged and recorded only.
    pub ping: bool,
    /// The JSON text of the event: the body itself, or the `payload` field of a form.
    pub payload: Bytes,
}

/// Which resources of its installation an event concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceSelector {
    /// Organisation-level: every linked resource.
    All,
    /// Those with these provider ids.
    Ids(Vec<ProviderResourceId>),
    /// Those with these slugs (Sentry metric alerts and comments).
    Slugs(Vec<String>),
}

impl Inbound {
    /// Whether it tells of the grant or of what belongs to it.
    pub fn is_control(&self) -> bool {
        self.is_of_the_grant || !self.control.is_empty()
    }

    /// Makes it tell nothing of the grant: an event of the past must not change the present.
    pub(crate) fn forget_control(&mut self) {
        self.is_of_the_grant = false;
        self.control.clear();
    }
}

impl ResourceSelector {
    /// Those with these ids; every linked resource if there are none.
    fn of_ids(ids: Vec<String>) -> Self {
        if ids.is_empty() { Self::All } else { Self::Ids(ids.into_iter().map(ProviderResourceId::new).collect()) }
    }

    /// Those with these slugs; every linked resource if there are none.
    fn of_slugs(slugs: Vec<String>) -> Self {
        if slugs.is_empty() { Self::All } else { Self::Slugs(slugs) }
    }
}

/// A change of state that a control event asks for. Every change is idempotent.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlChange {
    /// The grant exists; learn the account's login and facts. Does not create an installation.
    InstallationConfirmed {
        /// The account's login or slug.
        account_login: Option<String>,
        /// Facts to merge into the installation's metadata.
        metadata: Map<String, Value>,
    },
    /// The grant ended at the provider: teardown with reason `provider_revoked`.
    InstallationRevoked,
    /// Paused.
    InstallationSuspended,
    /// No longer paused.
    InstallationResumed,
    /// A person's grant ended: access is lost if it is the one who connected.
    InstallationNeedsReauth {
        /// The provider's id of the person.
        person: String,
    },
    /// The account moved to another external id (Vercel transfer).
    InstallationMoved {
        /// Its new external id.
        to: ExternalId,
    },
    /// Resources left the grant's reach or were deleted.
    ResourcesRemoved {
        /// Which.
        ids: Vec<ProviderResourceId>,
        /// Why.
        reason: RemovalReason,
    },
    /// Resources came into reach: linkable, and noted in the log; nothing is linked by itself.
    ResourcesAdded {
        /// Which.
        ids: Vec<ProviderResourceId>,
    },
    /// A resource's facts changed.
    ResourceChanged {
        /// Which.
        id: ProviderResourceId,
        /// Its new name.
        name: Option<String>,
        /// Its new slug.
        slug: Option<String>,
        /// Facts to merge into its attrs and into the `source_config` of its integrations.
        attrs: Map<String, Value>,
    },
}

/// Why resources left routing, in the provider's words about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalReason {
    /// The grant no longer reaches them.
    AccessLost,
    /// They are no more.
    Deleted,
    /// They belong to another account now.
    Transferred,
}

impl RemovalReason {
    /// The word in the log and in `status_reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessLost => "access_lost",
            Self::Deleted => "deleted",
            Self::Transferred => "transferred",
        }
    }
}

/// Why a verified webhook could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtractError {
    /// A header that the provider always sends is missing.
    #[error("the required header {0} is missing")]
    MissingHeader(&'static str),
    /// The body (or a form's `payload`) is not a JSON object.
    #[error("the payload is not a JSON object: {0}")]
    InvalidPayload(String),
}

impl ExtractError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingHeader(_) => "missing_required_headers",
            Self::InvalidPayload(_) => "invalid_payload",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::BadRequest
    }
}
