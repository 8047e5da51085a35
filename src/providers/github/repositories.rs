//! The repositories an installation reaches, and files in them.
//!
//! **Invariants**: a repository is named by its id, its name is looked up when needed; a file is only fetched up to the
//! size asked for. Protocol source: GitHub's "Repository contents", whose answer depends on the size: up to 1 MB with
//! the content, up to 100 MB without, above that refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::api::{Api, Id, RAW_MEDIA_TYPE, Speaker, next_page_parameter};
use crate::{
    model::{provider::ProviderResourceId, secret::Secret},
    providers::{
        ConnectorError,
        connector::{Grant, RepositoryFile, ResourcePage, VisibleResource},
        facts::{self, facts},
        http::Reply,
    },
};

const PAGE_SIZE: usize = 100;
/// An installation reaches at most so many pages when a repository is looked up by walking them.
const MAX_PAGES: usize = 200;
/// The size from which on GitHub refuses to give a file, bytes.
const REFUSED_FROM_BYTES: u64 = 100 << 20;

#[derive(Debug, Deserialize)]
struct RepositoryList {
    total_count: usize,
    repositories: Vec<Repository>,
}

/// One page of them.
struct RepositoryPage {
    repositories: Vec<Repository>,
    has_next: bool,
    /// How many there are on all pages.
    total: usize,
}

#[derive(Debug, Deserialize)]
struct Repository {
    id: Id,
    name: String,
    full_name: Option<String>,
    private: Option<bool>,
    archived: Option<bool>,
    default_branch: Option<String>,
}

impl Repository {
    fn into_visible(self) -> VisibleResource {
        VisibleResource {
            attrs: facts([
                ("repoName", facts::text(Some(self.name.clone()))),
                ("repoFullName", facts::text(self.full_name.clone())),
                ("defaultBranch", facts::text(self.default_branch.clone())),
                ("isPrivate", self.private.map(Value::Bool)),
                ("isArchived", self.archived.map(Value::Bool)),
            ]),
            id: ProviderResourceId::new(self.id.0),
            name: self.name,
            full_name: self.full_name,
            slug: None,
            private: self.private,
            archived: self.archived,
            default_branch: self.default_branch,
        }
    }
}

/// A file as the contents endpoint describes it.
#[derive(Debug, Deserialize)]
struct Contents {
    #[serde(rename = "type")]
    kind: String,
    encoding: Option<String>,
    #[serde(default)]
    size: u64,
    path: Option<String>,
    content: Option<String>,
    #[serde(default)]
    sha: String,
}

impl Api {
    /// One page of the repositories; `cursor` is the number of the page.
    pub async fn list_repositories(
        &self,
        grant: &Grant,
        access: &Secret,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, ConnectorError> {
        let page: usize = match cursor {
            None => 1,
            Some(text) => {
                text.parse().ok().filter(|page| *page > 0).ok_or(ConnectorError::Refused("invalid_parameter"))?
            }
        };
        let RepositoryPage { repositories, has_next, total } = self.repository_page(grant, access, page).await?;
        Ok(ResourcePage {
            items: repositories.into_iter().map(Repository::into_visible).collect(),
            next_cursor: has_next.then(|| page.saturating_add(1).to_string()),
            total: Some(total),
        })
    }

    async fn repository_page(
        &self,
        grant: &Grant,
        access: &Secret,
        page: usize,
    ) -> Result<RepositoryPage, ConnectorError> {
        let mut url = self.base.at("/installation/repositories");
        url.set_query(Some(&format!("per_page={PAGE_SIZE}&page={page}")));
        let reply = self.get(url, Speaker::Holder(access, grant.now)).await?;
        if !reply.is_success() {
            return Err(self.explain_refusal(grant, ConnectorError::NotAccessible).await);
        }
        let list: RepositoryList = reply.json("the installation's repositories")?;
        let seen = (page - 1).saturating_mul(PAGE_SIZE).saturating_add(list.repositories.len());
        let is_counted_further = list.repositories.len() == PAGE_SIZE && seen < list.total_count;
        let has_next = next_page_parameter(&reply, "page").is_some() || is_counted_further;
        Ok(RepositoryPage { repositories: list.repositories, has_next, total: list.total_count })
    }

    /// A file of a repository.
    pub async fn find_repository_file(
        &self,
        grant: &Grant,
        access: &Secret,
        repository: &ProviderResourceId,
        path: &str,
        git_ref: Option<&str>,
        max_bytes: u64,
    ) -> Result<Option<RepositoryFile>, ConnectorError> {
        let full_name = self.find_full_name(grant, access, repository).await?;
        let segments = ["repos"].into_iter().chain(full_name.split('/')).chain(["contents"]).chain(path.split('/'));
        // No file has such a path.
        let Ok(mut url) = self.base.below(segments) else { return Ok(None) };
        if let Some(git_ref) = git_ref {
            url.query_pairs_mut().append_pair("ref", git_ref);
        }
        let speaker = Speaker::Holder(access, grant.now);
        let reply = self.get(url.clone(), speaker).await?;
        match reply.status {
            200 => {}
            // The repository was there a moment ago: it is the file that is missing.
            404 => return Ok(None),
            403 if is_too_large(&reply) => {
                return Ok(Some(RepositoryFile {
                    path: path.to_owned(),
                    size: REFUSED_FROM_BYTES,
                    content: None,
                    sha: String::new(),
                }));
            }
            401 | 403 => return Err(ConnectorError::NotAccessible),
            status => return Err(ConnectorError::unavailable(format!("answered {status}"))),
        }
        let described: Value = reply.json("a repository's contents")?;
        if described.is_array() {
            return Ok(None);
        }
        let file: Contents =
            serde_json::from_value(described).map_err(|_| ConnectorError::Malformed("a repository's contents"))?;
        if file.kind != "file" {
            return Ok(None);
        }
        let content =
            if file.size > max_bytes { None } else { Some(self.content_of(&file, url, speaker, max_bytes).await?) };
        let content = content.filter(|content| content.len() as u64 <= max_bytes);
        Ok(Some(RepositoryFile {
            path: file.path.unwrap_or_else(|| path.to_owned()),
            size: file.size,
            content,
            sha: file.sha,
        }))
    }

    /// What is in a file: in the description already, unless it is large.
    async fn content_of(
        &self,
        file: &Contents,
        url: Url,
        speaker: Speaker<'_>,
        max_bytes: u64,
    ) -> Result<Bytes, ConnectorError> {
        let given = file.content.as_deref().filter(|content| !content.is_empty() || file.size == 0);
        if let (Some("base64"), Some(content)) = (file.encoding.as_deref(), given) {
            // It comes wrapped into lines.
            let packed: String = content.split_ascii_whitespace().collect();
            let decoded = STANDARD.decode(packed).map_err(|_| ConnectorError::Malformed("a file's content"))?;
            return Ok(decoded.into());
        }
        let at_most = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let reply = self.get_as(url, speaker, RAW_MEDIA_TYPE, Some(at_most)).await?;
        match reply.status {
            200 => Ok(reply.body),
            403 | 404 => Err(ConnectorError::NotAccessible),
            status => Err(ConnectorError::unavailable(format!("answered {status}"))),
        }
    }

    /// What a repository is called now.
    async fn find_full_name(
        &self,
        grant: &Grant,
        access: &Secret,
        repository: &ProviderResourceId,
    ) -> Result<String, ConnectorError> {
        let url = self.base.below(["repositories", repository.as_str()]).map_err(|_| ConnectorError::NotAccessible)?;
        let reply = self.get(url, Speaker::Holder(access, grant.now)).await?;
        if reply.is_success() {
            let named: Repository = reply.json("a repository")?;
            return named.full_name.ok_or(ConnectorError::Malformed("a repository without its name"));
        }
        // Some installations of GitHub answer by id only through the list.
        for page in 1..=MAX_PAGES {
            let RepositoryPage { repositories, has_next, .. } = self.repository_page(grant, access, page).await?;
            let found = repositories.into_iter().find(|listed| listed.id.0 == repository.as_str());
            if let Some(full_name) = found.and_then(|found| found.full_name) {
                return Ok(full_name);
            }
            if !has_next {
                break;
            }
        }
        Err(ConnectorError::NotAccessible)
    }
}

/// GitHub's way to say that a file is above 100 MB.
fn is_too_large(reply: &Reply) -> bool {
    let Ok(body) = serde_json::from_slice::<Value>(&reply.body) else { return false };
    let errors = body.get("errors").and_then(Value::as_array);
    errors.is_some_and(|errors| errors.iter().any(|error| error["code"] == "too_large"))
}
