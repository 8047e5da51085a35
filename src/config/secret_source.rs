//! Secrets: given as a value, or as `<name>_file` with the path of a file that holds it.
//!
//! **Invariants**: never both; never empty; a mistake says what is wrong with the source, nothing of the secret. A
//! file's last line ending is not part of the secret. Relative paths start at the working directory.

use std::path::PathBuf;

use toml::Value;

use super::{
    layers::{Given, Origin},
    section::{Section, list_of},
};
use crate::model::secret::Secret;

/// A mistake was noted already, so that nobody reports the same setting as missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported;

/// Where a secret is.
enum Source {
    Value(Given),
    File(PathBuf),
}

impl Section<'_> {
    /// One secret; `None` when it is not given.
    pub fn secret(&mut self, key: &str) -> Result<Option<Secret>, Reported> {
        self.know_secret(key);
        self.find_secret(key)
    }

    /// A secret that has a default, such as a database URL. The default also stands in for a mistaken one.
    pub fn secret_or(&mut self, key: &str, default: &str) -> Option<Secret> {
        self.know(key, Some(Value::String(default.to_owned())), true);
        match self.find_secret(key) {
            Ok(Some(secret)) => Some(secret),
            Ok(None) | Err(Reported) => Secret::new(default),
        }
    }

    /// Makes a secret setting known without reading it.
    pub fn know_secret(&mut self, key: &str) {
        self.know(key, None, true);
    }

    fn find_secret(&mut self, key: &str) -> Result<Option<Secret>, Reported> {
        let source = self.source_of(key)?;
        let found = match source {
            None => return Ok(None),
            Some(Source::Value(Given { value: Value::String(text), .. })) => text,
            Some(Source::Value(_)) => {
                self.mistake(key, "must be text");
                return Err(Reported);
            }
            Some(Source::File(path)) => {
                let file = self.read_secret_file(key, &path)?;
                file.trim_end_matches(['\n', '\r']).to_owned()
            }
        };
        self.wrap(key, &found).map(Some)
    }

    /// Several secrets: a list, or a file with one on each line. Empty when none is given; given as an empty list is a
    /// mistake.
    pub fn secrets(&mut self, key: &str) -> Result<Vec<Secret>, Reported> {
        self.find_secrets(key, false)
    }

    /// The same where there may be none, and an empty list says so. An empty variable or file does not: there, something
    /// is lost.
    pub fn optional_secrets(&mut self, key: &str) -> Result<Vec<Secret>, Reported> {
        self.find_secrets(key, true)
    }

    fn find_secrets(&mut self, key: &str, may_be_none: bool) -> Result<Vec<Secret>, Reported> {
        self.know_secret(key);
        let items: Vec<String> = match self.source_of(key)? {
            None => return Ok(Vec::new()),
            Some(Source::Value(given)) => {
                let list = list_of(&given).map_err(|problem| {
                    self.mistake(key, problem);
                    Reported
                })?;
                let is_blank = matches!(&given.value, Value::String(text) if text.trim().is_empty());
                if may_be_none && list.is_empty() && !is_blank {
                    return Ok(Vec::new());
                }
                let texts: Option<Vec<String>> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                texts.ok_or_else(|| {
                    self.mistake(key, "must be a list of texts");
                    Reported
                })?
            }
            Some(Source::File(path)) => {
                let file = self.read_secret_file(key, &path)?;
                file.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
            }
        };
        if items.is_empty() {
            self.mistake(key, "is empty");
            return Err(Reported);
        }
        items.iter().map(|item| self.wrap(key, item)).collect()
    }

    /// Like [`Section::secret`], and its absence is a mistake.
    pub fn required_secret(&mut self, key: &str) -> Result<Secret, Reported> {
        let given = self.secret(key)?;
        given.ok_or_else(|| {
            self.mistake(key, format!("is missing; give it, or its file as `{key}_file`"));
            Reported
        })
    }

    fn source_of(&mut self, key: &str) -> Result<Option<Source>, Reported> {
        let file_key = format!("{key}_file");
        let source = match (self.given.remove(key), self.given.remove(&file_key)) {
            (None, None) => None,
            (Some(value), None) => Some(Source::Value(value)),
            (None, Some(file)) => Some(self.path_of(&file_key, &file)?),
            // The environment wins over the file, whichever of the two names each uses.
            (Some(value), Some(file)) if value.origin != file.origin => {
                if value.origin == Origin::Environment {
                    Some(Source::Value(value))
                } else {
                    Some(self.path_of(&file_key, &file)?)
                }
            }
            (Some(_), Some(_)) => {
                self.mistake(key, format!("is given twice: as a value and as `{file_key}`"));
                return Err(Reported);
            }
        };
        Ok(source)
    }

    fn path_of(&mut self, file_key: &str, given: &Given) -> Result<Source, Reported> {
        match &given.value {
            Value::String(path) if !path.trim().is_empty() => Ok(Source::File(PathBuf::from(path))),
            _ => {
                self.mistake(file_key, "must be the path of a file");
                Err(Reported)
            }
        }
    }

    fn read_secret_file(&mut self, key: &str, path: &std::path::Path) -> Result<String, Reported> {
        std::fs::read_to_string(path).map_err(|error| {
            self.mistake(&format!("{key}_file"), format!("{} cannot be read: {error}", path.display()));
            Reported
        })
    }

    fn wrap(&mut self, key: &str, text: &str) -> Result<Secret, Reported> {
        let secret = if text.trim().is_empty() { None } else { Secret::new(text) };
        secret.ok_or_else(|| {
            self.mistake(key, "is empty");
            Reported
        })
    }
}
