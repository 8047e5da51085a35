//! What the demo plays: who subscribes to what, and which events come in which order.

/// The org everything belongs to.
pub(super) const ORG: &str = "harborworks";

/// The number of the simulated account that is connected.
pub(super) const ACCOUNT: u32 = 1;

/// A workspace and what it wants.
pub(super) struct Workspace {
    /// Its id.
    pub name: &'static str,
    /// For each provider it subscribes to: event keys, or `None` for the provider's defaults.
    pub wants: &'static [(&'static str, Option<&'static [&'static str]>)],
}

impl Workspace {
    /// Whether it should get events of that key.
    pub fn expects(&self, provider: &str, key: &str) -> bool {
        self.wants
            .iter()
            .any(|(of, keys)| *of == provider && keys.map_or_else(|| is_default(key), |keys| keys.contains(&key)))
    }
}

/// New links subscribe to the keys that Lightfast knew, but for one.
fn is_default(key: &str) -> bool {
    key != "vercel:deployment.check-rerequested"
        && crate::sim::PROVIDERS.iter().any(|provider| provider.seed_keys().contains(&key))
}

/// The workspaces: one is curious, the other wants only what breaks or ships.
pub(super) const WORKSPACES: [Workspace; 2] = [
    Workspace { name: "tides", wants: &[("github", None), ("vercel", None), ("linear", None), ("sentry", None)] },
    Workspace {
        name: "on-call",
        wants: &[
            ("github", Some(&["github:release.published"])),
            ("vercel", Some(&["vercel:deployment.error"])),
            ("sentry", Some(&["sentry:issue.created", "sentry:event-alert"])),
        ],
    },
];

/// The workspace whose destination refuses its first delivery, to show the retry.
pub(super) const REFUSES_ONCE: &str = "on-call";

/// The events, in order.
pub(super) const EVENTS: [&str; 12] = [
    "github:pull-request.opened",
    "github:pull-request.merged",
    "github:push",
    "vercel:deployment.created",
    "vercel:deployment.error",
    "sentry:issue.created",
    "linear:issue.created",
    "linear:comment.created",
    "github:issue-comment.created",
    "vercel:deployment.succeeded",
    "sentry:issue.resolved",
    "github:release.published",
];
