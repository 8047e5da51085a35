//! Typed reading of one section. Asking for a setting is what makes it known: what is left over is unknown.
//!
//! **Invariants**: a value of the wrong kind is a mistake, and its default stands in; every asked setting is recorded
//! with its default, which is what the example file is compared with.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use toml::Value;
use url::Url;

use super::{
    error::{Mistake, nearest, variable_of},
    layers::{Given, Layers, Origin},
};
use crate::model::provider::ProviderSpec;

/// A setting there is.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownSetting {
    /// Its section: `server`, `providers.acme`.
    pub section: String,
    /// Its name in the section.
    pub key: String,
    /// Its default; `None` when it has none, or one that depends on the machine.
    pub default: Option<Value>,
    /// Whether it is a secret: then `<key>_file` is understood too.
    pub secret: bool,
    /// Who set it.
    pub source: SettingSource,
    /// What it is, where it is no secret: as it was given, or the default. Passwords and queries of URLs are blotted out.
    pub value: Option<Value>,
}

/// Who set a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingSource {
    /// Nobody: it is its default, if it has one.
    Default,
    /// The file.
    File,
    /// The environment.
    Environment,
}

impl KnownSetting {
    /// `section.key`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        variable_of(&self.section, &self.key)
    }
}

/// Reads section after section and collects what it finds.
#[derive(Debug)]
pub(super) struct Reader {
    layers: Layers,
    mistakes: Vec<Mistake>,
    known: Vec<KnownSetting>,
    sections: Vec<String>,
}

impl Reader {
    /// A reader of these layers, which go on from the mistakes made so far.
    pub fn new(layers: Layers, mistakes: Vec<Mistake>) -> Self {
        Self { layers, mistakes, known: Vec::new(), sections: Vec::new() }
    }

    /// Whether the section is there at all.
    pub fn has(&self, section: &str) -> bool {
        self.layers.has(section)
    }

    /// Lets `read` ask for the settings of a section, then reports those it did not ask for.
    pub fn section<T>(&mut self, name: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let given = self.layers.take(name);
        self.sections.push(name.to_owned());
        let first_known = self.known.len();
        let mut section =
            Section { name: name.to_owned(), given, mistakes: &mut self.mistakes, known: &mut self.known };
        let value = read(&mut section);
        for key in std::mem::take(&mut section.given).into_keys() {
            let own = self.known[first_known..].iter().map(|setting| setting.key.as_str());
            let hint = nearest(&key, own).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.mistakes.push(Mistake::in_setting(name, &key, format!("there is no such setting{hint}")));
        }
        value
    }

    /// Reports sections and variables nobody asked for; answers every mistake and every known setting.
    pub fn finish(mut self, providers: &[ProviderSpec]) -> (Vec<Mistake>, Vec<KnownSetting>) {
        let (sections, stray_variables) = std::mem::take(&mut self.layers).into_rest();
        for section in sections {
            let problem = if section.starts_with("providers.") {
                let slugs: Vec<&str> = providers.iter().map(|spec| spec.slug.as_str()).collect();
                format!("there is no such provider; there are {}", slugs.join(", "))
            } else {
                let hint = nearest(&section, self.sections.iter().map(String::as_str))
                    .map_or(String::new(), |near| format!("; did you mean `[{near}]`?"));
                format!("there is no such section{hint}")
            };
            self.mistakes.push(Mistake::in_source(section, problem));
        }
        for variable in stray_variables {
            let meant = self.known.iter().map(|setting| variable_of(&setting.section, &setting.key));
            if let Some(meant) = meant.into_iter().find(|known| known.replace("__", "_") == variable) {
                self.mistakes.push(Mistake::in_source(variable, format!("did you mean {meant}?")));
            }
        }
        (self.mistakes, self.known)
    }
}

/// One section being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) name: String,
    pub(super) given: BTreeMap<String, Given>,
    mistakes: &'a mut Vec<Mistake>,
    known: &'a mut Vec<KnownSetting>,
}

impl Section<'_> {
    /// Notes a mistake in a setting of this section.
    pub fn mistake(&mut self, key: &str, problem: impl Into<String>) {
        self.mistakes.push(Mistake::in_setting(&self.name, key, problem));
    }

    /// Makes a setting known.
    pub(super) fn know(&mut self, key: &str, default: Option<Value>, secret: bool) {
        let in_file = || if secret { self.given.get(&format!("{key}_file")) } else { None };
        let given = self.given.get(key).or_else(in_file);
        let source = match given.map(|given| given.origin) {
            None => SettingSource::Default,
            Some(Origin::File) => SettingSource::File,
            Some(Origin::Environment) => SettingSource::Environment,
        };
        let value = if secret { None } else { given.map(|given| given.value.clone()).or_else(|| default.clone()) };
        let value = value.map(without_secrets);
        self.known.push(KnownSetting {
            section: self.name.clone(),
            key: key.to_owned(),
            default,
            secret,
            source,
            value,
        });
    }

    /// Says what a setting that nobody gave follows from others, or from the machine.
    pub(super) fn follows(&mut self, key: &str, value: impl Into<Value>) {
        let known = self.known.iter_mut().rev().find(|setting| setting.section == self.name && setting.key == key);
        if let Some(setting) = known.filter(|setting| setting.source == SettingSource::Default) {
            setting.value = Some(value.into());
        }
    }

    fn read<T>(
        &mut self,
        key: &str,
        default: Option<Value>,
        understand: impl FnOnce(&Given) -> Result<T, String>,
    ) -> Option<T> {
        self.know(key, default, false);
        let given = self.given.remove(key)?;
        understand(&given).map_err(|problem| self.mistake(key, problem)).ok()
    }

    /// A whole number within `range`, `default` when it is absent.
    pub fn count(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let shown = i64::try_from(default).ok().map(Value::Integer);
        self.read(key, shown, |given| whole_number(given, &range)).unwrap_or(default)
    }

    /// A whole number within `range`, without default.
    pub fn optional_count(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        self.read(key, None, |given| whole_number(given, &range))
    }

    /// A size or a number of things held in memory, from 1 to `max`.
    pub fn size(&mut self, key: &str, default: u32, max: u32) -> usize {
        let number = self.count(key, u64::from(default), 1..=u64::from(max));
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    /// A time in milliseconds, from 1 ms to a day.
    pub fn millis(&mut self, key: &str, default: u64) -> Duration {
        Duration::from_millis(self.count(key, default, 1..=86_400_000))
    }

    /// A time in seconds, fractions allowed, up to a year.
    pub fn seconds(&mut self, key: &str, default: u32) -> Duration {
        self.read(key, Some(Value::Integer(i64::from(default))), |given| seconds_of(&given.value, given.origin))
            .unwrap_or(Duration::from_secs(u64::from(default)))
    }

    /// A list of times in seconds.
    pub fn seconds_list(&mut self, key: &str, default: &[u32]) -> Vec<Duration> {
        let shown = default.iter().map(|seconds| Value::Integer(i64::from(*seconds))).collect();
        let read = self.read(key, Some(Value::Array(shown)), |given| {
            list_of(given)?.iter().map(|item| seconds_of(item, given.origin)).collect()
        });
        read.unwrap_or_else(|| default.iter().map(|seconds| Duration::from_secs(u64::from(*seconds))).collect())
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &str, default: &[&str]) -> Vec<String> {
        let shown = default.iter().map(|text| Value::String((*text).to_owned())).collect();
        let read = self.read(key, Some(Value::Array(shown)), |given| {
            let text = |item: &Value| item.as_str().map(|text| text.trim().to_owned());
            list_of(given)?.iter().map(|item| text(item).ok_or_else(|| "must be a list of texts".to_owned())).collect()
        });
        read.unwrap_or_else(|| default.iter().map(|text| (*text).to_owned()).collect())
    }

    /// An age in whole days.
    pub fn days(&mut self, key: &str, default: u32, at_least: u32) -> Duration {
        let days = self.count(key, u64::from(default), u64::from(at_least)..=36_500);
        Duration::from_secs(days * 86_400)
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        self.read(key, Some(Value::Boolean(default)), |given| match (&given.value, given.origin) {
            (Value::Boolean(flag), _) => Ok(*flag),
            (Value::String(text), Origin::Environment) if matches!(text.trim(), "true" | "1") => Ok(true),
            (Value::String(text), Origin::Environment) if matches!(text.trim(), "false" | "0") => Ok(false),
            _ => Err("must be true or false".to_owned()),
        })
        .unwrap_or(default)
    }

    /// One of a few words; the first is the default.
    pub fn choice<T: Copy>(&mut self, key: &str, choices: [(&'static str, T); 2]) -> T {
        self.read(key, Some(Value::String(choices[0].0.to_owned())), |given| {
            let word = given.value.as_str().map(str::trim);
            choices
                .iter()
                .find(|(name, _)| Some(*name) == word)
                .map(|(_, choice)| *choice)
                .ok_or_else(|| format!("must be \"{}\" or \"{}\"", choices[0].0, choices[1].0))
        })
        .unwrap_or(choices[0].1)
    }

    /// Text that `understand` makes sense of, with a default.
    pub fn parsed<T>(&mut self, key: &str, default: &str, understand: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let shown = Some(Value::String(default.to_owned()));
        let read = self.read(key, shown, |given| understand(&text_of(given)?));
        read.or_else(|| match understand(default) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.mistake(key, format!("its own default {problem}"));
                None
            }
        })
    }

    /// Text; numbers and booleans are taken as they are written.
    pub fn text(&mut self, key: &str, default: Option<&str>) -> Option<String> {
        let shown = default.map(|text| Value::String(text.to_owned()));
        self.read(key, shown, text_of).or_else(|| default.map(str::to_owned))
    }

    /// An http or https URL that is called as it is written, without default.
    pub fn url(&mut self, key: &str) -> Option<Url> {
        self.read(key, None, |given| http_url(&text_of(given)?))
    }

    /// An http or https URL to which paths are appended, without default.
    pub fn base_url(&mut self, key: &str) -> Option<Url> {
        self.read(key, None, |given| base_url(&text_of(given)?))
    }

    /// Like [`Section::base_url`], of something that browsers are sent to.
    pub fn page_url(&mut self, key: &str) -> Option<Url> {
        self.read(key, None, |given| page_url(&text_of(given)?))
    }

    /// Whether nobody gave the setting, so that a default of it may follow another setting.
    pub fn is_absent(&self, key: &str) -> bool {
        !self.given.contains_key(key)
    }
}

/// A URL's password is nobody's business who may see the URL, nor is its query, where others expect a key or a token.
fn without_secrets(value: Value) -> Value {
    let Value::String(text) = &value else { return value };
    let Ok(mut url) = Url::parse(text) else { return value };
    let mut is_blotted_out = url.password().is_some() && url.set_password(Some("***")).is_ok();
    if url.query().is_some_and(|query| !query.is_empty()) {
        url.set_query(Some("***"));
        is_blotted_out = true;
    }
    if is_blotted_out { Value::String(url.to_string()) } else { value }
}

/// Reads an http or https URL. Its value is not repeated: it may hold a password.
fn http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must be an http:// or https:// URL".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment (#…)".to_owned());
    }
    Ok(url)
}

/// Reads an http or https URL to which paths are appended: it ends without a slash.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let mut url = http_url(text)?;
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Reads a base URL that is logged, shown and sent to browsers: it may hold nothing that is secret.
pub(super) fn page_url(text: &str) -> Result<Url, String> {
    let url = base_url(text)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user name or password: everybody sees it".to_owned());
    }
    if url.query().is_some() {
        return Err("must not have a query (?…): paths are appended to it".to_owned());
    }
    Ok(url)
}

/// The items of a list: a TOML array, or in the environment a TOML array or text separated by commas, whose pieces stay
/// the text they are (a secret that looks like a number is not one).
pub(super) fn list_of(given: &Given) -> Result<Vec<Value>, String> {
    match (&given.value, given.origin) {
        (Value::Array(items), _) => Ok(items.clone()),
        (Value::String(text), Origin::Environment) if text.trim_start().starts_with('[') => match value_of_text(text) {
            Value::Array(items) => Ok(items),
            _ => Err("begins like a TOML array and is none".to_owned()),
        },
        (Value::String(text), Origin::Environment) if text.trim().is_empty() => Ok(Vec::new()),
        (Value::String(text), Origin::Environment) => {
            Ok(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect())
        }
        _ => Err("must be a list".to_owned()),
    }
}

/// Text of the environment as the TOML value it spells, else as text.
fn value_of_text(text: &str) -> Value {
    let spelled = format!("value = {}", text.trim()).parse::<toml::Table>().ok();
    spelled.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn text_of(given: &Given) -> Result<String, String> {
    let text = match &given.value {
        Value::String(text) => text.trim().to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        _ => return Err("must be text".to_owned()),
    };
    if text.is_empty() { Err("is empty; leave it out to have the default".to_owned()) } else { Ok(text) }
}

fn whole_number(given: &Given, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let number = match (&given.value, given.origin) {
        (Value::Integer(number), _) => u64::try_from(*number).ok(),
        (Value::String(text), Origin::Environment) => text.trim().replace('_', "").parse().ok(),
        _ => None,
    };
    number
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
}

fn seconds_of(value: &Value, origin: Origin) -> Result<Duration, String> {
    const YEAR: Duration = Duration::from_hours(366 * 24);
    let spelled = match (value, origin) {
        (Value::String(text), Origin::Environment) => value_of_text(text),
        _ => value.clone(),
    };
    let duration = match &spelled {
        Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        _ => None,
    };
    duration.filter(|duration| *duration <= YEAR).ok_or_else(|| "must be seconds from 0 to a year".to_owned())
}
