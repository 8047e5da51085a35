//! `[providers.X]`: what every provider has, and whatever its own list of settings asks for.
//!
//! **Invariants**: a provider without a section is disabled; a section with a missing or empty secret is a mistake;
//! nothing here knows any provider by name.

use std::collections::BTreeMap;

use super::{
    ProviderConfig,
    section::{Reader, Section, base_url},
};
use crate::model::provider::{ProviderSpec, SettingSpec};

/// The secret that signs webhooks where the provider has no webhook secret of its own.
const CLIENT_SECRET: &str = "client_secret";
/// How far a signed timestamp may be from the present, seconds: what the providers that sign one recommend.
const TIMESTAMP_TOLERANCE_S: u32 = 60;

impl ProviderConfig {
    /// Reads the provider's section; `None` when there is none. Its settings are made known either way.
    pub(super) fn read(reader: &mut Reader, spec: &ProviderSpec) -> Option<Self> {
        let name = format!("providers.{}", spec.slug);
        let enabled = reader.has(&name);
        reader.section(&name, |section| {
            let mut provider = Self {
                slug: spec.slug,
                webhook_secrets: Vec::new(),
                max_body_bytes: section
                    .optional_count("max_body_bytes", 1..=1 << 30)
                    .and_then(|bytes| usize::try_from(bytes).ok()),
                timestamp_tolerance: section.seconds("timestamp_tolerance_s", TIMESTAMP_TOLERANCE_S),
                settings: BTreeMap::new(),
                secrets: BTreeMap::new(),
            };
            for setting in spec.settings {
                provider.read_setting(section, setting, enabled);
            }
            provider.read_webhook_secrets(section, spec, enabled);
            enabled.then_some(provider)
        })
    }

    fn read_setting(&mut self, section: &mut Section<'_>, setting: &SettingSpec, enabled: bool) {
        if setting.secret {
            if !enabled {
                return section.know_secret(setting.name);
            }
            if let Ok(secret) = section.required_secret(setting.name) {
                self.secrets.insert(setting.name.to_owned(), secret);
            }
            return;
        }
        let Some(text) = section.text(setting.name, setting.default) else { return };
        let text = if setting.name.ends_with("_url") {
            // A base to which paths are appended.
            match base_url(&text) {
                Ok(url) => url.as_str().trim_end_matches('/').to_owned(),
                Err(problem) => return section.mistake(setting.name, problem),
            }
        } else {
            text
        };
        self.settings.insert(setting.name.to_owned(), text);
    }

    fn read_webhook_secrets(&mut self, section: &mut Section<'_>, spec: &ProviderSpec, enabled: bool) {
        let read = if spec.client_secret_signs { Section::optional_secrets } else { Section::secrets };
        let listed = read(section, "webhook_secrets");
        if spec.client_secret_signs {
            self.webhook_secrets.extend(self.secrets.get(CLIENT_SECRET).cloned());
        }
        match listed {
            Ok(listed) if listed.is_empty() && enabled && !spec.client_secret_signs => {
                section.mistake(
                    "webhook_secrets",
                    "is missing; list the live ones, newest first, or name a file with one on each line as \
                     `webhook_secrets_file`",
                );
            }
            Ok(listed) => self.webhook_secrets.extend(listed),
            // Reported where it was read.
            Err(_) => {}
        }
    }
}
