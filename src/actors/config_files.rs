//! Config files of repositories: finding the first candidate that exists, and noting on integrations whether there is one.
//!
//! **Invariants**: a file is never expanded or interpreted, only checked to be YAML; detection is best effort, bounded,
//! and changes nothing but `source_config.status`. **Must not know** how any provider stores files.

use std::sync::Arc;

use futures_util::FutureExt;
use saphyr_parser::Parser;
use serde_json::json;

use super::{AskError, directory::Directory, installation::state, provider_calls::ProviderCallError};
use crate::{
    model::{
        ids::{InstallationId, ResourceId},
        log_entry::Actor,
        provider::ProviderResourceId,
    },
    providers::connector::RepositoryFile,
    store::InstallationRecord,
};

/// The largest config file, bytes.
pub const MAX_CONFIG_BYTES: u64 = 50 * 1024;

/// A config file that is fit to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it was found.
    pub path: String,
    /// What is in it.
    pub content: String,
    /// The provider's hash of this version.
    pub sha: String,
}

/// Why there is no fit config file to show.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The provider could not be asked, or the connection does not reach the repository.
    #[error(transparent)]
    Call(#[from] ProviderCallError),
    /// It is larger than [`MAX_CONFIG_BYTES`].
    #[error("the config file is too large")]
    TooLarge {
        /// Where it is.
        path: String,
    },
    /// It is not YAML.
    #[error("the config file is not YAML")]
    Invalid {
        /// Where it is.
        path: String,
    },
}

impl Directory {
    /// The first candidate that exists in a repository, at `git_ref` or the default branch.
    pub async fn find_config(
        &self,
        id: &InstallationId,
        resource: &ProviderResourceId,
        git_ref: Option<&str>,
    ) -> Result<Option<ConfigFile>, AskError<ConfigFileError>> {
        let found = self.find_candidate(id, resource, git_ref).await.map_err(|error| match error {
            AskError::Busy => AskError::Busy,
            AskError::Gone => AskError::Gone,
            AskError::TimedOut => AskError::TimedOut,
            AskError::Reply(error) => AskError::Reply(ConfigFileError::Call(error)),
        })?;
        found.map(check).transpose().map_err(AskError::Reply)
    }

    async fn find_candidate(
        &self,
        id: &InstallationId,
        resource: &ProviderResourceId,
        git_ref: Option<&str>,
    ) -> Result<Option<RepositoryFile>, AskError<ProviderCallError>> {
        let candidates = self.config_candidates();
        let (resource, git_ref) = (resource.clone(), git_ref.map(str::to_owned));
        self.ask_provider(id, move |connector, grant, token| {
            let (candidates, resource, git_ref) = (Arc::clone(&candidates), resource.clone(), git_ref.clone());
            async move {
                for path in candidates.iter() {
                    let (access, git_ref) = (&token.access, git_ref.as_deref());
                    let file = connector.find_file(&grant, access, &resource, path, git_ref, MAX_CONFIG_BYTES).await?;
                    if file.is_some() {
                        return Ok(file);
                    }
                }
                Ok(None)
            }
            .boxed()
        })
        .await
    }

    /// Looks, beside whatever goes on, whether these linked repositories have a config file, and notes it on their
    /// integrations.
    pub(super) fn detect_configs(&self, id: &InstallationId, resources: Vec<(ResourceId, ProviderResourceId)>) {
        if resources.is_empty() {
            return;
        }
        let (directory, id) = (self.clone(), id.clone());
        self.in_background(async move {
            for (resource, provider_resource_id) in resources {
                if !directory.detect_config(&id, resource, &provider_resource_id).await {
                    break;
                }
            }
        });
    }

    /// False if there is no use in going on.
    async fn detect_config(&self, id: &InstallationId, row: ResourceId, resource: &ProviderResourceId) -> bool {
        let (is_fit, path) = match self.find_config(id, resource, None).await {
            Ok(found) => (found.is_some(), found.map(|file| file.path)),
            Err(AskError::Reply(ConfigFileError::TooLarge { path } | ConfigFileError::Invalid { path })) => {
                (false, Some(path))
            }
            // One repository out of reach says nothing about the next.
            Err(AskError::Reply(ConfigFileError::Call(ProviderCallError::NotAccessible))) => return true,
            Err(error) => {
                tracing::debug!(installation.id = %id, %error, "config files could not be looked for");
                return false;
            }
        };
        let noted = self
            .edit(id, Actor::system(), move |record, edit| {
                note_config(record, &row, is_fit, path.as_deref(), edit);
                Ok(())
            })
            .await;
        if let Err(error) = noted {
            tracing::debug!(installation.id = %id, %error, "what was found of config files could not be noted");
        }
        true
    }
}

/// Writes `source_config.status` of a resource's integrations.
fn note_config(
    record: &mut InstallationRecord,
    resource: &ResourceId,
    is_fit: bool,
    path: Option<&str>,
    edit: &state::Edit<'_>,
) {
    let status = json!({
        "configStatus": if is_fit { "configured" } else { "awaiting_config" },
        "configPath": path,
        "lastConfigCheck": edit.now.to_rfc3339(),
    });
    for integration in record.integrations.iter_mut().filter(|row| row.resource == *resource) {
        integration.source_config.insert("status".into(), status.clone());
    }
}

/// A file as it may be shown.
fn check(file: RepositoryFile) -> Result<ConfigFile, ConfigFileError> {
    let content = match file.content {
        Some(content) if file.size.max(content.len() as u64) <= MAX_CONFIG_BYTES => content,
        _ => return Err(ConfigFileError::TooLarge { path: file.path }),
    };
    let text = String::from_utf8(content.to_vec()).ok().filter(|text| is_yaml(text));
    match text {
        Some(content) => Ok(ConfigFile { path: file.path, content, sha: file.sha }),
        None => Err(ConfigFileError::Invalid { path: file.path }),
    }
}

/// Whether a text is well-formed YAML. Only read, never built: aliases that would unfold to gigabytes cost nothing.
fn is_yaml(text: &str) -> bool {
    Parser::new_from_str(text).all(|event| event.is_ok())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn file(content: &[u8]) -> RepositoryFile {
        RepositoryFile {
            path: "a.yml".into(),
            size: content.len() as u64,
            content: Some(Bytes::copy_from_slice(content)),
            sha: "5ca1ab1e".into(),
        }
    }

    #[test]
    fn a_config_file_is_yaml_of_at_most_fifty_kilobytes() {
        assert_eq!(check(file(b"include:\n  - src/**\n")).expect("fit").path, "a.yml");
        let full = [b"a: ".as_slice(), &vec![b'x'; 50 * 1024 - 3]].concat();
        assert!(check(file(&full)).is_ok());
        let over = [full.as_slice(), b"x"].concat();
        assert!(matches!(check(file(&over)), Err(ConfigFileError::TooLarge { .. })));
        let unread = RepositoryFile { content: None, ..file(b"") };
        assert!(matches!(check(unread), Err(ConfigFileError::TooLarge { .. })));
        for bad in [b"a: [1, 2".as_slice(), b"a: b: c: d\n- x", b"a: \xff", b"a: *nobody"] {
            assert!(matches!(check(file(bad)), Err(ConfigFileError::Invalid { .. })), "{bad:?}");
        }
        assert!(check(file(b"")).is_ok(), "an empty file is an empty document");
    }

    #[test]
    fn a_file_of_aliases_and_one_of_brackets_are_read_and_not_built() {
        let mut laughs = String::from("a0: &a0 [x, x]\n");
        for level in 1..200 {
            let before = level - 1;
            laughs.extend([format!("a{level}: &a{level} [*a{before}, *a{before}]\n")]);
        }
        assert!(is_yaml(&laughs));
        assert!(!is_yaml(&"[".repeat(50 * 1024)));
    }
}
