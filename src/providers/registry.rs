//! The registry: the list of providers, and which of them are enabled.

use std::{sync::Arc, time::Duration};

use super::{EventSpec, Provider};
use crate::model::{
    provider::{ProviderSlug, ProviderSpec},
    secret::Secret,
};

/// A line of the list.
pub struct Registered {
    /// What configuration needs to know of it.
    pub spec: ProviderSpec,
    /// Makes it.
    pub make: fn() -> Arc<dyn Provider>,
}

/// What the gateway needs of an enabled provider's configuration.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// Live webhook secrets, newest first; never empty.
    pub webhook_secrets: Vec<Secret>,
    /// Largest webhook body, bytes, when it differs from the provider's default.
    pub max_body_bytes: Option<usize>,
    /// How far a signed timestamp may be from the present.
    pub timestamp_tolerance: Duration,
}

/// A mistake in the list itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Two providers share a slug.
    #[error("two providers are registered as {0}")]
    DuplicateSlug(ProviderSlug),
    /// Settings name a provider that is not registered.
    #[error("no provider is registered as {0}")]
    UnknownSlug(String),
}

/// Every provider, enabled or not.
pub struct Registry {
    entries: Vec<(Arc<dyn Provider>, Option<ProviderSettings>)>,
}

impl Registry {
    /// The built-in list: one line per provider.
    pub fn built_in() -> &'static [Registered] {
        &[]
    }

    /// A registry of `providers`, of which those with `settings` are enabled.
    ///
    /// # Errors
    /// [`RegistryError`] on duplicate or unknown slugs.
    pub fn new(
        providers: Vec<Arc<dyn Provider>>,
        settings: Vec<(String, ProviderSettings)>,
    ) -> Result<Self, RegistryError> {
        let _ = settings;
        Ok(Self { entries: providers.into_iter().map(|provider| (provider, None)).collect() })
    }

    /// Every provider, in the list's order, with its settings if it is enabled.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<dyn Provider>, Option<&ProviderSettings>)> {
        self.entries.iter().map(|(provider, settings)| (provider, settings.as_ref()))
    }

    /// The provider of that slug, enabled or not.
    pub fn find(&self, slug: &str) -> Option<&Arc<dyn Provider>> {
        self.entries.iter().map(|(provider, _)| provider).find(|provider| provider.slug().as_str() == slug)
    }

    /// The provider of that slug with its settings, if it is enabled.
    pub fn find_enabled(&self, slug: &str) -> Option<(&Arc<dyn Provider>, &ProviderSettings)> {
        self.entries
            .iter()
            .find(|(provider, _)| provider.slug().as_str() == slug)
            .and_then(|(provider, settings)| settings.as_ref().map(|settings| (provider, settings)))
    }

    /// The catalogue entry of an event key, whatever its provider.
    pub fn find_event(&self, key: &str) -> Option<&'static EventSpec> {
        self.entries.iter().flat_map(|(provider, _)| provider.events()).find(|spec| spec.key == key)
    }

    /// What `sync.events` shall hold for these requested keys of one provider: event keys as they are, category keys
    /// expanded to their seed keys, without repetitions, in catalogue order.
    ///
    /// # Errors
    /// The keys that the provider's catalogue does not know.
    pub fn expand_event_keys(provider: &dyn Provider, requested: &[String]) -> Result<Vec<String>, Vec<String>> {
        let _ = (provider, requested);
        Ok(Vec::new())
    }

    /// The event keys a new integration of this provider subscribes to.
    pub fn default_event_keys(provider: &dyn Provider) -> Vec<String> {
        provider.events().iter().filter(|spec| spec.default).map(|spec| spec.key.to_owned()).collect()
    }
}
