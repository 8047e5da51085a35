//! The headers that are stored with an event.
//!
//! **Invariants**: nothing is kept whose name says that it authenticates somebody: providers' owners may choose headers of
//! their own, and proxies add some. **Must not know** any provider.

use serde::{Serialize, Serializer};

use crate::{model::webhook::Headers, store::StoreError};

/// Words in the names of headers that authenticate somebody.
const OF_SECRETS: [&str; 8] = ["auth", "cookie", "credential", "key", "password", "secret", "signature", "token"];

fn is_kept(name: &str) -> bool {
    // What only concerned the connection is of no interest either.
    name != "connection" && !OF_SECRETS.iter().any(|word| name.contains(word))
}

/// Headers worth keeping, as a JSON object; repeated ones are joined the way HTTP allows.
pub(super) fn kept_headers(headers: &Headers) -> Result<String, StoreError> {
    serde_json::to_string(&KeptHeaders(headers))
        .map_err(|error| StoreError::Driver(format!("the headers are not JSON: {error}")))
}

struct KeptHeaders<'h>(&'h Headers);

impl Serialize for KeptHeaders<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let headers = self.0;
        let is_first = |index: usize, name: &str| headers.iter().take(index).all(|(before, _)| before != name);
        let kept = headers.iter().enumerate().filter(|(index, (name, _))| is_kept(name) && is_first(*index, name));
        serializer.collect_map(kept.map(|(_, (name, value))| {
            let mut joined = String::from_utf8_lossy(value);
            for again in headers.all(name).skip(1) {
                let joined = joined.to_mut();
                joined.push_str(", ");
                joined.push_str(&String::from_utf8_lossy(again));
            }
            (name, joined)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::Registry;

    #[test]
    fn nothing_is_kept_whose_name_says_that_it_is_secret() {
        let secret = [
            "authorization",
            "proxy-authorization",
            "cookie",
            "x-api-key",
            "x-hub-signature",
            "sentry-app-signature",
            "x-auth-token",
            "cf-access-client-secret",
        ];
        let kept: Headers = secret.into_iter().chain(["x-request-id"]).map(|name| (name, "value")).collect();
        assert_eq!(kept_headers(&kept).expect("JSON"), r#"{"x-request-id":"value"}"#);
    }

    #[test]
    fn what_a_provider_reads_is_kept_but_for_its_signature() {
        for registered in Registry::built_in() {
            let provider = (registered.make)();
            assert!(provider.read_headers().iter().all(|name| is_kept(name)), "{}", provider.slug());
            assert!(!is_kept(provider.scheme().header), "{}", provider.slug());
        }
    }
}
