//! The two layers, file and environment, before anybody knows what their values mean.
//!
//! **Owns** reading the file and taking `SIGNALBOX_SECTION__KEY` apart. **Invariants**: the environment wins; nothing
//! of a value is repeated in a mistake, because it could be a secret.

use std::{collections::BTreeMap, path::Path};

use toml::{Table, Value};

use super::error::Mistake;

/// Where a value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the file.
    File,
    /// In the environment: always text.
    Environment,
}

/// A value somebody gave.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// As TOML has it; text when it comes from the environment.
    pub value: Value,
    /// From where.
    pub origin: Origin,
}

/// Values by section (`server`, `providers.acme`) and key.
#[derive(Debug, Default)]
pub(super) struct Layers {
    sections: BTreeMap<String, BTreeMap<String, Given>>,
    /// Variables that begin like ours and have no `__`: perhaps meant for us, see `Reader::finish`.
    stray_variables: Vec<String>,
}

impl Layers {
    /// Reads the file, if there is one, and lays the environment over it.
    pub fn collect(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let mut layers = Self::default();
        if let Some(path) = path {
            match read_file(path) {
                Ok(table) => layers.add_file(table, mistakes),
                Err(problem) => mistakes.push(Mistake::in_source(path.display().to_string(), problem)),
            }
        }
        for (name, value) in environment {
            layers.add_variable(&name, value, mistakes);
        }
        layers
    }

    /// Whether anybody gave a value in this section, or its header.
    pub fn has(&self, section: &str) -> bool {
        self.sections.contains_key(section)
    }

    /// The values of a section; they are gone from here afterwards.
    pub fn take(&mut self, section: &str) -> BTreeMap<String, Given> {
        self.sections.remove(section).unwrap_or_default()
    }

    /// Sections that nobody took, and stray variables.
    pub fn into_rest(self) -> (Vec<String>, Vec<String>) {
        (self.sections.into_keys().collect(), self.stray_variables)
    }

    fn add_file(&mut self, table: Table, mistakes: &mut Vec<Mistake>) {
        for (name, value) in table {
            match value {
                Value::Table(providers) if name == "providers" => {
                    for (slug, value) in providers {
                        let section = format!("providers.{slug}");
                        match value {
                            Value::Table(settings) => self.add_section(section, settings),
                            _ => mistakes.push(Mistake::in_source(section, "must be a section, not a value")),
                        }
                    }
                }
                Value::Table(settings) => self.add_section(name, settings),
                _ => mistakes.push(Mistake::in_source(name, "stands outside any section")),
            }
        }
    }

    fn add_section(&mut self, section: String, settings: Table) {
        let values = settings.into_iter().map(|(key, value)| (key, Given { value, origin: Origin::File }));
        self.sections.entry(section).or_default().extend(values);
    }

    fn add_variable(&mut self, name: &str, value: String, mistakes: &mut Vec<Mistake>) {
        let Some(rest) = name.strip_prefix("SIGNALBOX_") else { return };
        let rest = rest.to_lowercase();
        let parts: Vec<&str> = rest.split("__").collect();
        let (section, key) = match parts[..] {
            [_] => {
                self.stray_variables.push(name.to_owned());
                return;
            }
            ["providers", slug, key] => (format!("providers.{slug}"), key),
            [section, key] => (section.to_owned(), key),
            _ => {
                mistakes.push(Mistake::in_source(
                    name,
                    "names no setting: it is SIGNALBOX_SECTION__KEY or SIGNALBOX_PROVIDERS__NAME__KEY",
                ));
                return;
            }
        };
        let given = Given { value: Value::String(value), origin: Origin::Environment };
        self.sections.entry(section).or_default().insert(key.to_owned(), given);
    }
}

fn read_file(path: &Path) -> Result<Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    text.parse::<Table>().map_err(|error| {
        // Not the error's own rendering: it quotes the line, which may hold a secret.
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("line {line} is not TOML: {}", error.message())
    })
}
