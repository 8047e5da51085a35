//! The words for a provider and for the things it owns.

use std::fmt;

use serde::Serialize;

use super::opaque_text::opaque_text;

/// The short name of a provider, such as `github`: a path segment, a column value, a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ProviderSlug(pub &'static str);

impl ProviderSlug {
    /// The slug as text.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ProviderSlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

opaque_text! {
    fn new;

    /// An installation's id at the provider (GitHub installation id, Vercel team or user id, Linear
    /// organization id, Sentry installation uuid).
    ExternalId;
    /// A resource's id at the provider (repository, project, team).
    ProviderResourceId;
    /// The provider's id of one webhook, the basis of dedup; `deliveryId` on the wire.
    ProviderDeliveryId;
}

/// A setting a provider's `[providers.X]` table may hold, beside `webhook_secrets`, `max_body_bytes` and
/// `timestamp_tolerance_s`, which every provider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingSpec {
    /// Its name.
    pub name: &'static str,
    /// One line for the documentation.
    pub doc: &'static str,
    /// Whether it is a secret: hidden, and also readable from `<name>_file`. A secret is always required.
    pub secret: bool,
    /// Its default; `None` and not secret means optional.
    pub default: Option<&'static str>,
}

/// What configuration needs to know of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderSpec {
    /// Its slug: the table's name.
    pub slug: ProviderSlug,
    /// Its settings.
    pub settings: &'static [SettingSpec],
    /// Whether the client secret signs webhooks (Vercel, Sentry); then `webhook_secrets` is optional and adds to it.
    pub client_secret_signs: bool,
}
