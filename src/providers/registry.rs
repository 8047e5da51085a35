//! The registry: the list of providers, and which of them are enabled.
//!
//! **Owns** the one list a new provider is added to. **Invariants**: no two providers share a slug; an enabled
//! provider has at least one webhook secret (configuration sees to it). **Must not know** what any provider does.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    Connector, ConnectorSettingError, ConnectorSettings, EventSpec, HttpClient, Provider, github::GitHub,
    linear::Linear, sentry::Sentry, vercel::Vercel,
};
use crate::model::{
    provider::{ProviderSlug, ProviderSpec},
    secret::Secret,
};

/// A line of the list.
pub struct Registered {
    /// What configuration needs to know of it.
    pub spec: ProviderSpec,
    /// Makes its receiving half.
    pub make: fn() -> Arc<dyn Provider>,
    /// Makes its asking half, if its settings suffice for one.
    pub connect: MakeConnector,
}

/// Makes the asking half of a provider.
pub type MakeConnector = fn(&ConnectorSettings, &HttpClient) -> Result<Arc<dyn Connector>, ConnectorSettingError>;

impl Registered {
    const fn new(spec: ProviderSpec, make: fn() -> Arc<dyn Provider>, connect: MakeConnector) -> Self {
        Self { spec, make, connect }
    }
}

/// The built-in providers, one line each, in the order the console shows them.
static BUILT_IN: &[Registered] = &[
    Registered::new(GitHub::SPEC, || Arc::new(GitHub), GitHub::connect),
    Registered::new(Vercel::SPEC, || Arc::new(Vercel), Vercel::connect),
    Registered::new(Linear::SPEC, || Arc::new(Linear), Linear::connect),
    Registered::new(Sentry::SPEC, || Arc::new(Sentry), Sentry::connect),
];

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
    connectors: Vec<(ProviderSlug, ConnectorOrReason)>,
}

/// The asking half of an enabled provider, or what keeps it from having one.
type ConnectorOrReason = Result<Arc<dyn Connector>, ConnectorSettingError>;

impl Registry {
    /// The built-in list: one line per provider.
    pub fn built_in() -> &'static [Registered] {
        BUILT_IN
    }

    /// A registry of `providers`, of which those with `settings` are enabled.
    ///
    /// # Errors
    /// [`RegistryError`] on duplicate or unknown slugs.
    pub fn new(
        providers: Vec<Arc<dyn Provider>>,
        settings: Vec<(String, ProviderSettings)>,
    ) -> Result<Self, RegistryError> {
        let mut entries: Vec<(Arc<dyn Provider>, Option<ProviderSettings>)> = Vec::with_capacity(providers.len());
        for provider in providers {
            if entries.iter().any(|(known, _)| known.slug() == provider.slug()) {
                return Err(RegistryError::DuplicateSlug(provider.slug()));
            }
            entries.push((provider, None));
        }
        for (slug, settings) in settings {
            let Some((provider, enabled)) = entries.iter_mut().find(|(known, _)| known.slug().as_str() == slug) else {
                return Err(RegistryError::UnknownSlug(slug));
            };
            if enabled.replace(settings).is_some() {
                return Err(RegistryError::DuplicateSlug(provider.slug()));
            }
        }
        Ok(Self { entries, connectors: Vec::new() })
    }

    /// The registry with the asking half of a provider, or with what keeps it from having one.
    #[must_use]
    pub fn with_connector(
        mut self,
        slug: ProviderSlug,
        connector: Result<Arc<dyn Connector>, ConnectorSettingError>,
    ) -> Self {
        self.connectors.retain(|(known, _)| *known != slug);
        self.connectors.push((slug, connector));
        self
    }

    /// The asking half of an enabled provider, or the setting that is missing for it; `None` if it is not enabled.
    pub fn find_connector(&self, slug: ProviderSlug) -> Option<Result<&Arc<dyn Connector>, &ConnectorSettingError>> {
        self.connectors.iter().find(|(known, _)| *known == slug).map(|(_, connector)| connector.as_ref())
    }

    /// Every provider, in the list's order, with its settings if it is enabled.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<dyn Provider>, Option<&ProviderSettings>)> {
        self.entries.iter().map(|(provider, settings)| (provider, settings.as_ref()))
    }

    /// The provider of that slug, enabled or not.
    pub fn find(&self, slug: &str) -> Option<&Arc<dyn Provider>> {
        self.entries.iter().map(|(provider, _)| provider).find(|provider| provider.slug().as_str() == slug)
    }

    /// What people call a provider.
    pub fn name_of(&self, slug: ProviderSlug) -> &'static str {
        self.find(slug.as_str()).map_or(slug.as_str(), |provider| provider.name())
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
    /// expanded to every key of the category, without repetitions, in catalogue order.
    ///
    /// # Errors
    /// The keys that the provider's catalogue does not know.
    pub fn expand_event_keys(provider: &dyn Provider, requested: &[String]) -> Result<Vec<String>, Vec<String>> {
        let (events, categories) = (provider.events(), provider.categories());
        let mut wanted = HashSet::new();
        let mut unknown = Vec::new();
        for key in requested {
            if let Some(spec) = events.iter().find(|spec| spec.key == key) {
                wanted.insert(spec.key);
            } else if let Some(category) = categories.iter().find(|category| category.key == key) {
                let members = events.iter().filter(|spec| spec.category == category.key);
                wanted.extend(members.map(|spec| spec.key));
            } else if !unknown.contains(key) {
                unknown.push(key.clone());
            }
        }
        if !unknown.is_empty() {
            return Err(unknown);
        }
        Ok(events.iter().filter(|spec| wanted.contains(spec.key)).map(|spec| spec.key.to_owned()).collect())
    }

    /// The event keys a new integration of this provider subscribes to.
    pub fn default_event_keys(provider: &dyn Provider) -> Vec<String> {
        provider.events().iter().filter(|spec| spec.default).map(|spec| spec.key.to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;

    fn built_in() -> Vec<Arc<dyn Provider>> {
        Registry::built_in().iter().map(|registered| (registered.make)()).collect()
    }

    fn settings() -> ProviderSettings {
        ProviderSettings {
            webhook_secrets: Secret::new("whsec-test-key").into_iter().collect(),
            max_body_bytes: None,
            timestamp_tolerance: Duration::from_mins(1),
        }
    }

    fn provider(slug: &str) -> Arc<dyn Provider> {
        built_in().into_iter().find(|provider| provider.slug().as_str() == slug).expect("built in")
    }

    fn expand(slug: &str, keys: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        Registry::expand_event_keys(&*provider(slug), &keys)
    }

    #[test]
    fn only_providers_with_settings_are_enabled() {
        let registry = Registry::new(built_in(), vec![("linear".into(), settings())]).expect("no mistake");
        assert!(registry.find("github").is_some() && registry.find_enabled("github").is_none());
        assert!(registry.find_enabled("linear").is_some());
        assert!(registry.find("gitlab").is_none() && registry.find_enabled("gitlab").is_none());
        assert_eq!(registry.iter().count(), 4);
        assert_eq!(registry.find_event("vercel:deployment.error").map(|spec| spec.weight), Some(70));
        assert_eq!(registry.find_event("vercel:deployment.exploded"), None);
    }

    #[test]
    fn a_slug_is_registered_once_and_settings_name_a_registered_one() {
        let twice = [built_in(), built_in()].concat();
        assert_eq!(Registry::new(twice, vec![]).err(), Some(RegistryError::DuplicateSlug(ProviderSlug("github"))));
        assert_eq!(
            Registry::new(built_in(), vec![("gitlab".into(), settings())]).err(),
            Some(RegistryError::UnknownSlug("gitlab".into()))
        );
        let settings_twice = vec![("sentry".into(), settings()), ("sentry".into(), settings())];
        assert_eq!(
            Registry::new(built_in(), settings_twice).err(),
            Some(RegistryError::DuplicateSlug(ProviderSlug("sentry")))
        );
    }

    #[test]
    fn the_spec_of_each_provider_names_that_provider_and_no_setting_twice() {
        for registered in Registry::built_in() {
            assert_eq!(registered.spec.slug, (registered.make)().slug());
            let names: HashSet<_> = registered.spec.settings.iter().map(|setting| setting.name).collect();
            assert_eq!(names.len(), registered.spec.settings.len());
            for needed in ["web_url", "api_url", "client_id", "client_secret"] {
                assert!(names.contains(needed), "{} of {}", needed, registered.spec.slug);
            }
        }
    }

    #[test]
    fn the_seed_has_41_keys_in_20_categories() {
        let counts: Vec<_> = built_in()
            .iter()
            .map(|provider| {
                let seed = || provider.events().iter().filter(|spec| spec.seed);
                (seed().count(), seed().map(|spec| spec.category).collect::<HashSet<_>>().len())
            })
            .collect();
        assert_eq!(counts, [(13, 5), (6, 6), (15, 5), (7, 4)]);
    }

    #[test]
    fn every_catalogue_is_consistent() {
        for provider in built_in() {
            let (events, categories) = (provider.events(), provider.categories());
            let keys: HashSet<_> = events.iter().map(|spec| spec.key).collect();
            assert_eq!(keys.len(), events.len(), "a key of {} is listed twice", provider.slug());
            let category_keys: HashSet<_> = categories.iter().map(|category| category.key).collect();
            assert_eq!(category_keys.len(), categories.len(), "a category of {} is listed twice", provider.slug());
            assert!(keys.is_disjoint(&category_keys));
            for spec in events {
                assert!(spec.key.starts_with(&format!("{}:", provider.slug())), "{}", spec.key);
                assert!(category_keys.contains(spec.category), "{} has no category", spec.key);
                assert!(spec.weight <= 100 && (spec.seed || !spec.default), "{}", spec.key);
                assert!(!spec.label.is_empty() && spec.description.ends_with('.'), "{}", spec.key);
                assert!(spec.alias_of.is_none_or(|broader| keys.contains(broader)), "{}", spec.key);
            }
            for category in categories {
                assert!(events.iter().any(|spec| spec.category == category.key), "{} is empty", category.key);
                assert!(category.description.ends_with('.'), "{}", category.key);
            }
        }
    }

    #[test]
    fn a_category_expands_to_all_of_its_keys_and_keys_stay_as_they_are() {
        assert_eq!(
            expand("github", &["pull_request"]).expect("known"),
            [
                "github:pull-request.opened",
                "github:pull-request.closed",
                "github:pull-request.merged",
                "github:pull-request.reopened",
                "github:pull-request.ready-for-review",
                "github:pull-request.synchronize",
                "github:pull-request.converted-to-draft",
                "github:pull-request.review-requested"
            ]
        );
        assert_eq!(
            expand("github", &["github:release.edited", "push", "github:push", "push"]).expect("known"),
            ["github:push", "github:release.edited"]
        );
        assert_eq!(expand("linear", &["ProjectUpdate"]).expect("known").len(), 3);
        assert_eq!(expand("sentry", &["metric_alert"]).expect("known").len(), 4, "the narrower names, too");
        assert_eq!(expand("vercel", &["deployment.created"]).expect("known"), ["vercel:deployment.created"]);
        assert_eq!(expand("github", &[]).expect("nothing is nothing"), [""; 0]);
    }

    #[test]
    fn a_category_the_seed_did_not_have_expands_to_all_of_its_keys() {
        assert_eq!(
            expand("github", &["issue_comment"]).expect("known"),
            ["github:issue-comment.created", "github:issue-comment.edited", "github:issue-comment.deleted"]
        );
    }

    #[test]
    fn unknown_keys_are_all_named_and_nothing_is_expanded() {
        assert_eq!(
            expand("github", &["push", "github:nope", "linear:issue.created", "github:nope"]),
            Err(vec!["github:nope".to_owned(), "linear:issue.created".to_owned()])
        );
    }

    #[test]
    fn the_defaults_are_the_seeds() {
        let defaults = |slug| Registry::default_event_keys(&*provider(slug));
        assert_eq!(defaults("github").len(), 13);
        assert_eq!(
            defaults("vercel"),
            [
                "vercel:deployment.created",
                "vercel:deployment.succeeded",
                "vercel:deployment.ready",
                "vercel:deployment.error",
                "vercel:deployment.canceled"
            ]
        );
        assert_eq!(defaults("sentry").len(), 7);
        assert_eq!(defaults("linear").len(), 15);
    }
}
