//! The providers whose rows this process may read.
//!
//! **Owns** the way from a column's text to a [`ProviderSlug`]. **Invariants**: a slug that is not listed is never
//! invented. **Must not know** the registry: the list comes with [`super::OpenOptions`].

use crate::model::provider::ProviderSlug;

/// The listed slugs; a handful, so a scan beats a map.
#[derive(Debug, Clone)]
pub(crate) struct KnownProviders(Vec<ProviderSlug>);

impl KnownProviders {
    pub(crate) fn new(slugs: Vec<ProviderSlug>) -> Self {
        Self(slugs)
    }

    /// The slug of that text, if it is listed.
    pub(crate) fn find(&self, text: &str) -> Option<ProviderSlug> {
        self.0.iter().copied().find(|slug| slug.as_str() == text)
    }
}
