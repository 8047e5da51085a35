//! The providers' own sites in miniature: pages, token endpoints and APIs over real HTTP, as strict as the real ones.
//!
//! How a test uses it:
//!
//! ```text
//! let world = Simulators::start(&Options::default()).await?;
//! let app = App::start(backend, options_with(world.urls())).await;     // 8 settings: web_url and api_url of each
//! world.gateway_is_at(&format!("http://{}", app.address()));           // again after every restart
//!
//! let mut browser = Browser::new().stopping_at("http://localhost:4107");
//! let page = browser.visit(&url_from_authorize).await?;                // a person who agrees
//! world.github.visitors_will(Visit::default().choosing(Choice::Deny)); // the next one does not
//! world.linear.fail(FaultRule::once("POST /oauth/token", Fault::LoseAnswer));
//! world.sentry.tune(|knobs| knobs.token_lifetime_s = 2);
//! world.github.act("uninstall", 1, &json!({})).await?;                 // … and the webhook that follows
//! world.github.send("github:push", &world.github.facts(1, 7)).await;   // a signed event, noted in the delivery log
//! assert_eq!(world.github.calls("POST /app/installations/*/access_tokens").len(), 1);
//! ```
//!
//! Other processes do the same with JSON below `/_sim/` of each provider (see `admin`). A browser of a person can click
//! too: with `?interactive=1`, or `visit.interactive` set, the pages wait.
//!
//! **Owns** the framework ([`site::Site`] and what is around it); what a provider does is in `sim::github::site` and
//! its like. **Invariants.** A journal entry exists before the call is acted on; faults are set by call pattern; ids
//! and tokens follow from the seed. **Must not know** the gateway's connectors: both are written from the providers'
//! documentation, so that one can prove the other.

mod admin;
pub mod call;
pub mod faults;
pub mod journal;
mod limit;
mod server;
mod simulator;
pub mod site;
pub mod visit;

use std::{io, sync::Arc};

pub use self::{
    faults::{Fault, FaultRule},
    journal::JournalEntry,
    limit::Limit,
    simulator::{NotInTime, Simulator},
    site::{Ambient, Loss, Sent},
    visit::{Choice, Visit},
};
use super::{Facts, github::site::GitHub, linear::site::Linear, sentry::site::Sentry, vercel::site::Vercel};
use crate::model::clock::{Clock, SystemClock};

/// How a world begins.
#[derive(Clone)]
pub struct Options {
    /// What ids, codes and tokens follow from.
    pub seed: u64,
    /// The providers' clock.
    pub clock: Arc<dyn Clock>,
    /// Webhooks wait 30 s for their answer instead of the documented time (Sentry's is one second), so that a busy
    /// machine fails no test.
    pub patient: bool,
    /// Webhooks that fail are tried again when the provider would, the first time a minute later.
    pub retries: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, clock: Arc::new(SystemClock), patient: true, retries: false }
    }
}

/// The simulated providers, running.
#[derive(Debug, Clone)]
pub struct Simulators {
    /// GitHub.
    pub github: Simulator<GitHub>,
    /// Vercel.
    pub vercel: Simulator<Vercel>,
    /// Linear.
    pub linear: Simulator<Linear>,
    /// Sentry.
    pub sentry: Simulator<Sentry>,
}

impl Simulators {
    /// Starts every provider on a port of its own.
    ///
    /// # Errors
    /// If a port cannot be bound.
    pub async fn start(options: &Options) -> io::Result<Self> {
        Ok(Self {
            github: Simulator::start(options).await?,
            vercel: Simulator::start(options).await?,
            linear: Simulator::start(options).await?,
            sentry: Simulator::start(options).await?,
        })
    }

    /// Tells every provider where the gateway is (`http://127.0.0.1:4110`).
    pub fn gateway_is_at(&self, url: &str) {
        self.github.gateway_is_at(url);
        self.vercel.gateway_is_at(url);
        self.linear.gateway_is_at(url);
        self.sentry.gateway_is_at(url);
    }

    /// The settings that send a gateway here; beside them it needs [`super::gateway_settings`].
    pub fn urls(&self) -> Vec<(&'static str, String)> {
        vec![
            ("SIGNALBOX_PROVIDERS__GITHUB__WEB_URL", self.github.web_url()),
            ("SIGNALBOX_PROVIDERS__GITHUB__API_URL", self.github.api_url()),
            ("SIGNALBOX_PROVIDERS__VERCEL__WEB_URL", self.vercel.web_url()),
            ("SIGNALBOX_PROVIDERS__VERCEL__API_URL", self.vercel.api_url()),
            ("SIGNALBOX_PROVIDERS__LINEAR__WEB_URL", self.linear.web_url()),
            ("SIGNALBOX_PROVIDERS__LINEAR__API_URL", self.linear.api_url()),
            ("SIGNALBOX_PROVIDERS__SENTRY__WEB_URL", self.sentry.web_url()),
            ("SIGNALBOX_PROVIDERS__SENTRY__API_URL", self.sentry.api_url()),
        ]
    }

    /// Everything a gateway needs to know of the simulated providers: [`super::gateway_settings`] and [`Self::urls`].
    pub fn environment(&self) -> Vec<(String, String)> {
        let urls = self.urls().into_iter().map(|(name, value)| (name.to_owned(), value));
        super::gateway_settings().chain(urls).collect()
    }

    /// The facts of a new event of an account, as the provider of that slug has it now.
    pub fn facts(&self, slug: &str, account: u32, seed: u64) -> Option<Facts> {
        match slug {
            "github" => Some(self.github.facts(account, seed)),
            "vercel" => Some(self.vercel.facts(account, seed)),
            "linear" => Some(self.linear.facts(account, seed)),
            "sentry" => Some(self.sentry.facts(account, seed)),
            _ => None,
        }
    }

    /// What people who say nothing themselves do on every provider's pages from now on.
    pub fn visitors_will(&self, visit: &Visit) {
        self.github.visitors_will(visit.clone());
        self.vercel.visitors_will(visit.clone());
        self.linear.visitors_will(visit.clone());
        self.sentry.visitors_will(visit.clone());
    }

    /// Every secret issued so far by any provider.
    pub fn issued(&self) -> Vec<String> {
        [self.github.issued(), self.vercel.issued(), self.linear.issued(), self.sentry.issued()].concat()
    }
}

#[cfg(test)]
pub(crate) mod tests;
