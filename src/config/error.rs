//! Mistakes in the configuration: what they say, and how all of them are said at once.
//!
//! **Invariants**: a mistake names the setting and the environment variable that sets it; it never repeats a value
//! that could be a secret.

use std::fmt;

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The setting, `section.key`; or the section, or the file.
    pub setting: String,
    /// The environment variable that sets it, when it is a setting.
    pub variable: Option<String>,
    /// What is wrong, and where it is cheap, what to do.
    pub problem: String,
}

impl Mistake {
    /// A mistake in one setting.
    pub(super) fn in_setting(section: &str, key: &str, problem: impl Into<String>) -> Self {
        Self { setting: format!("{section}.{key}"), variable: Some(variable_of(section, key)), problem: problem.into() }
    }

    /// A mistake in a section, a file or an environment variable.
    pub(super) fn in_source(source: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: source.into(), variable: None, problem: problem.into() }
    }

    /// Whether it concerns this section.
    pub fn concerns(&self, section: &str) -> bool {
        self.setting.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.variable {
            Some(variable) => write!(f, "{} ({variable}): {}", self.setting, self.problem),
            None => write!(f, "{}: {}", self.setting, self.problem),
        }
    }
}

/// The configuration cannot be used: every mistake in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub mistakes: Vec<Mistake>,
}

impl ConfigError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        "invalid_configuration"
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.len() {
            1 => f.write_str("the configuration has a mistake:")?,
            count => write!(f, "the configuration has {count} mistakes:")?,
        }
        self.mistakes.iter().try_for_each(|mistake| write!(f, "\n  - {mistake}"))
    }
}

impl std::error::Error for ConfigError {}

/// The environment variable of a setting: `SIGNALBOX_SECTION__KEY`.
pub(super) fn variable_of(section: &str, key: &str) -> String {
    format!("SIGNALBOX_{}__{}", section.replace('.', "__"), key).to_uppercase()
}

/// The candidate that `word` was probably meant to be: the nearest within two edits.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (edits_between(word, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= 2 && *edits < candidate.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn edits_between(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_recognised_and_a_far_one_is_not() {
        let known = ["timeout_ms", "url", "secret"];
        assert_eq!(nearest("timeout", known.into_iter()), None);
        assert_eq!(nearest("timeout_m", known.into_iter()), Some("timeout_ms"));
        assert_eq!(nearest("secert", known.into_iter()), Some("secret"));
        assert_eq!(nearest("xyz", known.into_iter()), None);
        assert_eq!(edits_between("kitten", "sitting"), 3);
    }
}
