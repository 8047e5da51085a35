//! What providers and browsers call us.

use std::sync::{Arc, OnceLock};

use url::Url;

use crate::model::provider::ProviderSlug;

/// `server.public_url`, with the port that was chosen where it follows `listen` and `listen` asked for any.
#[derive(Debug, Clone)]
pub struct PublicUrl {
    configured: Url,
    chosen: Arc<OnceLock<Url>>,
}

impl PublicUrl {
    /// As it is configured.
    pub fn new(configured: Url) -> Self {
        Self { configured, chosen: Arc::default() }
    }

    /// Says which port the listener has, before the first request is answered.
    pub fn listener_has(&self, port: u16) {
        let mut url = self.configured.clone();
        if url.port() != Some(0) || url.set_port(Some(port)).is_err() {
            return;
        }
        if self.chosen.set(url).is_err() {
            tracing::debug!("the port was said before");
        }
    }

    /// The base; its path has no trailing slash unless it is `/` alone.
    pub fn base(&self) -> &Url {
        self.chosen.get().unwrap_or(&self.configured)
    }

    /// Whether browsers reach us over TLS.
    pub fn is_secure(&self) -> bool {
        self.base().scheme() == "https"
    }

    /// Our URL with this path below the base.
    pub fn join(&self, path: &str) -> Url {
        below(self.base(), path)
    }

    /// Where providers send browsers back to.
    pub fn callback(&self, provider: ProviderSlug) -> Url {
        self.join(&format!("/connections/{provider}/callback"))
    }
}

/// `path`, which begins with a slash, below the path of `base`; without query.
pub(super) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url.set_query(None);
    url.set_fragment(None);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(url: &str) -> PublicUrl {
        PublicUrl::new(url.parse().expect("a URL"))
    }

    #[test]
    fn the_base_path_is_kept_and_the_chosen_port_fills_in_for_none() {
        let github = ProviderSlug("github");
        let behind_a_proxy = public("https://example.test/hooks");
        behind_a_proxy.listener_has(4110);
        let callback = "https://example.test/hooks/connections/github/callback";
        assert_eq!(behind_a_proxy.callback(github).as_str(), callback);
        assert!(behind_a_proxy.is_secure());
        let local = public("http://127.0.0.1:0");
        local.listener_has(40_123);
        assert_eq!(local.join("/x").as_str(), "http://127.0.0.1:40123/x");
        let fixed = public("http://127.0.0.1:4110");
        fixed.listener_has(40_123);
        assert_eq!(fixed.base().port(), Some(4110));
    }
}
