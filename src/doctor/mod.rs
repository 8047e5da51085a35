//! The doctor: checks of a configuration and of what it names, for the command line and for a gateway that runs.
//!
//! **Invariants**: every mistake in one report; it makes nothing (no database file, no vault key, no migration); no
//! finding holds a secret. **Must not know** how a report is shown, and how a store or a registry is opened.

mod checks;

use std::fmt::Display;

use serde::Serialize;
use url::Url;

pub use self::checks::{DatabaseFile, check_connecting, check_database_file, check_sealed, check_store};
use crate::{
    config::{Config, Mistake},
    providers::Registry,
    store::Store,
};

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, and may not for long or not for everybody.
    Warning,
    /// It does not work.
    Mistake,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it means.
    pub verdict: Verdict,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub finding: String,
}

/// What was found, in the order in which it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// All of it.
    pub findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, verdict: Verdict, subject: impl Display, finding: impl Display) {
        self.findings.push(Finding { verdict, subject: subject.to_string(), finding: finding.to_string() });
    }

    /// All is well.
    pub fn fine(&mut self, subject: impl Display, finding: impl Display) {
        self.add(Verdict::Ok, subject, finding);
    }

    /// Worth knowing.
    pub fn note(&mut self, subject: impl Display, finding: impl Display) {
        self.add(Verdict::Note, subject, finding);
    }

    /// It works, and may not for long or not for everybody.
    pub fn warning(&mut self, subject: impl Display, finding: impl Display) {
        self.add(Verdict::Warning, subject, finding);
    }

    /// It does not work.
    pub fn mistake(&mut self, subject: impl Display, finding: impl Display) {
        self.add(Verdict::Mistake, subject, finding);
    }

    /// How many findings have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }
}

/// Looks at everything that can be judged by the settings and this machine alone. `mistakes` are those of the settings:
/// what they concern is not looked at. `public_url` is where the gateway is reached, as far as that is known.
pub fn check_settings(config: &Config, public_url: &Url, mistakes: &[Mistake], report: &mut Report) {
    let is_sound = |section: &str| !mistakes.iter().any(|mistake| mistake.concerns(section));
    if is_sound("vault") {
        checks::check_vault(config, report);
    }
    if is_sound("server") {
        checks::check_public_url(config, public_url, report);
    }
    checks::check_default_destination(config, report);
    checks::check_timing(config, report);
    for registered in Registry::built_in() {
        let slug = registered.spec.slug;
        match config.providers.get(slug.as_str()) {
            Some(provider) => {
                checks::check_provider(provider, mistakes, report);
                checks::check_body_limit(config, provider, (registered.make)().default_max_body_bytes(), report);
            }
            None => report.note(slug, "disabled: it has no section"),
        }
    }
}

/// Examines a gateway that runs: its settings have no mistakes, its store is open, and the port it listens on is known.
pub async fn examine_running(config: &Config, public_url: &Url, store: &dyn Store, registry: &Registry) -> Report {
    let mut report = Report::default();
    check_settings(config, public_url, &[], &mut report);
    check_connecting(registry, &mut report);
    if check_database_file(config, &mut report) == DatabaseFile::MayBeOpened {
        check_store(store, config.database.migrate, &mut report).await;
    }
    report
}
