//! Repositories and what is in them: listing, renaming, the contents endpoint with its size rules.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{GitHub, account_id, api::problem};
use crate::{
    crypto::hmac::sha256,
    sim::{
        PROVIDERS,
        world::call::{Answer, Call},
    },
};

/// JSON answers hold files up to here.
const JSON_LIMIT: usize = 1024 * 1024;
/// Raw answers hold files up to here.
const RAW_LIMIT: usize = 100 * 1024 * 1024;
/// Base64 comes in lines of this length.
const LINE: usize = 60;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file.
    File(Vec<u8>),
    /// A symbolic link, and where to.
    Symlink(String),
    /// A submodule, and its repository.
    Submodule(String),
}

/// A repository.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Its id.
    pub id: u64,
    /// The number of the account that owns it.
    pub account: u32,
    /// Its name.
    pub name: String,
    /// Its names before, `owner/name`: calls with them are redirected.
    pub former_names: Vec<String>,
    /// Whether it is private.
    pub private: bool,
    /// Whether it is archived.
    pub archived: bool,
    /// Its default branch: the only one it has.
    pub default_branch: String,
    /// Whether the installation may see it where the selection is `selected`.
    pub granted: bool,
    /// What is in it, by path.
    pub entries: BTreeMap<String, Entry>,
    pub(super) owner_login: String,
}

impl Repository {
    /// The repository number `index` of a new account; 0 is the one that its provider's facts name.
    pub(super) fn invent(account: u32, index: u32) -> Self {
        let facts = PROVIDERS[0].facts(account, 0, crate::model::clock::EpochMs(0));
        let first = index == 0;
        let id = 880_000_000 + u64::from(account) * 10_000 + u64::from(index);
        Self {
            id: if first { facts.resource_id.parse().unwrap_or(id) } else { id },
            account,
            name: if first { facts.resource_name } else { format!("harbor-{index:03}") },
            former_names: Vec::new(),
            private: index % 3 != 2,
            archived: false,
            default_branch: "main".to_owned(),
            granted: true,
            entries: BTreeMap::from([("README.md".to_owned(), Entry::File(b"# Harbor\n".to_vec()))]),
            owner_login: format!("harborworks-{account}"),
        }
    }

    /// `owner/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.owner_login, self.name)
    }

    pub(super) fn lite_json(&self) -> Value {
        json!({"id": self.id, "node_id": format!("R_kgDO{}", self.id), "name": self.name, "full_name": self.full_name(),
            "private": self.private})
    }

    pub(super) fn json(&self) -> Value {
        let full_name = self.full_name();
        json!({"id": self.id, "node_id": format!("R_kgDO{}", self.id), "name": self.name, "full_name": full_name,
            "private": self.private, "visibility": if self.private { "private" } else { "public" },
            "archived": self.archived, "disabled": false, "default_branch": self.default_branch,
            "owner": {"id": account_id(self.account), "login": self.owner_login, "type": "Organization",
                "avatar_url": format!("https://avatars.example/u/{}", account_id(self.account))},
            "html_url": format!("https://github.com/{full_name}"), "url": format!("https://api.github.com/repos/{full_name}"),
            "description": "What the tide does next", "language": "Rust", "stargazers_count": 41, "fork": false,
            "created_at": "2024-03-01T00:00:00Z", "updated_at": "2026-08-14T09:12:45Z", "pushed_at": "2026-08-14T09:12:43Z"})
    }
}

impl GitHub {
    /// What an installation may see.
    pub(super) fn visible(&mut self, installation: u64) -> Vec<Repository> {
        let Some(installation) = self.installations.get(&installation).cloned() else { return Vec::new() };
        let all = installation.selection == "all";
        let owner = self.owner(installation.account);
        let login = owner.login.clone();
        owner
            .repositories
            .iter_mut()
            .filter(|repository| all || repository.granted)
            .map(|repository| {
                repository.owner_login.clone_from(&login);
                repository.clone()
            })
            .collect()
    }

    /// `GET /repos/{owner}/{repo}[/…]` and `GET /repositories/{id}` with what a token may see.
    pub(super) fn repository(
        call: &Call,
        visible: &[Repository],
        narrowed: Option<&BTreeSet<u64>>,
        route: &[&str],
    ) -> Answer {
        let may = |repository: &&Repository| narrowed.is_none_or(|only| only.contains(&repository.id));
        let (found, rest) = match route {
            ["repositories", id, rest @ ..] => {
                (visible.iter().filter(may).find(|repository| repository.id.to_string() == *id), rest)
            }
            ["repos", owner, name, rest @ ..] => {
                let wanted = format!("{owner}/{name}");
                let same = |full_name: &str| full_name.eq_ignore_ascii_case(&wanted);
                let found = visible.iter().filter(may).find(|repository| same(&repository.full_name()));
                let moved = || visible.iter().filter(may).find(|r| r.former_names.iter().any(|name| same(name)));
                if found.is_none()
                    && let Some(moved) = moved()
                {
                    let mut location = format!("{}/repositories/{}", call.base, moved.id);
                    for segment in rest {
                        location.push('/');
                        location.push_str(segment);
                    }
                    let query: Vec<_> = call.query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                    let location = crate::sim::world::call::with_query(&location, query);
                    let body = json!({"message": "Moved Permanently", "url": location,
                        "documentation_url": "https://docs.github.com/rest/guides/best-practices-for-using-the-rest-api#follow-redirects"});
                    return Answer::json(301, &body).with("location", location);
                }
                (found, rest)
            }
            _ => (None, &[][..]),
        };
        let Some(repository) = found else { return problem(404, "Not Found") };
        match rest {
            [] => Answer::json(200, &repository.json()),
            ["contents", path @ ..] => contents(call, repository, path),
            ["issues" | "pulls" | "commits" | "branches" | "releases"] => Answer::json(200, &json!([])),
            _ => problem(404, "Not Found"),
        }
    }
}

fn contents(call: &Call, repository: &Repository, path: &[&str]) -> Answer {
    if let Some(git_ref) = call.parameter("ref") {
        let branch = git_ref.strip_prefix("refs/heads/").unwrap_or(git_ref);
        if branch != repository.default_branch {
            return problem(404, &format!("No commit found for the ref {git_ref}"));
        }
    }
    let path = path.join("/");
    let path = path.trim_matches('/');
    if let Some(entry) = repository.entries.get(path) {
        return file(call, repository, path, entry);
    }
    let below = if path.is_empty() { String::new() } else { format!("{path}/") };
    let mut names = BTreeSet::new();
    let mut listed = Vec::new();
    for (full, entry) in repository.entries.range(below.clone()..).take_while(|(full, _)| full.starts_with(&below)) {
        let (name, is_directory) = match full[below.len()..].split_once('/') {
            Some((directory, _)) => (directory, true),
            None => (&full[below.len()..], false),
        };
        if names.insert(name.to_owned()) {
            let kind = if is_directory { "dir" } else { kind_of(entry) };
            let mut item = frame(repository, &format!("{below}{name}"), kind);
            item["size"] = json!(if is_directory { 0 } else { size_of(entry) });
            listed.push(item);
        }
    }
    if listed.is_empty() { problem(404, "Not Found") } else { Answer::json(200, &Value::Array(listed)) }
}

fn file(call: &Call, repository: &Repository, path: &str, entry: &Entry) -> Answer {
    let raw = call.headers.get("accept").is_some_and(|accept| accept.contains("raw"));
    let mut answer = frame(repository, path, kind_of(entry));
    answer["size"] = json!(size_of(entry));
    match entry {
        Entry::File(bytes) if bytes.len() > RAW_LIMIT => {
            let body = json!({"message": "This API returns blobs up to 100 MB in size. The requested blob is too large to fetch via the API.",
                "errors": [{"resource": "Blob", "field": "data", "code": "too_large"}]});
            return Answer::json(403, &body);
        }
        Entry::File(bytes) if raw => {
            let mut answer = Answer::empty(200).with("content-type", "application/vnd.github.raw; charset=utf-8");
            answer.body = bytes.clone().into();
            return answer;
        }
        Entry::File(bytes) if bytes.len() > JSON_LIMIT => {
            answer["encoding"] = json!("none");
            answer["content"] = json!("");
        }
        Entry::File(bytes) => {
            let mut wrapped = String::new();
            let packed = STANDARD.encode(bytes);
            for (at, char) in packed.chars().enumerate() {
                wrapped.push(char);
                if (at + 1) % LINE == 0 || at + 1 == packed.len() {
                    wrapped.push('\n');
                }
            }
            answer["encoding"] = json!("base64");
            answer["content"] = json!(wrapped);
        }
        Entry::Symlink(target) => answer["target"] = json!(target),
        Entry::Submodule(url) => answer["submodule_git_url"] = json!(url),
    }
    Answer::json(200, &answer)
}

fn kind_of(entry: &Entry) -> &'static str {
    match entry {
        Entry::File(_) => "file",
        Entry::Symlink(_) => "symlink",
        Entry::Submodule(_) => "submodule",
    }
}

fn size_of(entry: &Entry) -> usize {
    match entry {
        Entry::File(bytes) => bytes.len(),
        Entry::Symlink(target) => target.len(),
        Entry::Submodule(_) => 0,
    }
}

fn frame(repository: &Repository, path: &str, kind: &str) -> Value {
    let content = repository.entries.get(path).map(|entry| format!("{entry:?}")).unwrap_or_default();
    let sha = hex::encode(&sha256(format!("{}\0{path}\0{content}", repository.id).as_bytes())[..20]);
    let full_name = repository.full_name();
    let url = format!("https://api.github.com/repos/{full_name}/contents/{path}?ref={}", repository.default_branch);
    let html_url = format!("https://github.com/{full_name}/blob/{}/{path}", repository.default_branch);
    let git_url = format!("https://api.github.com/repos/{full_name}/git/blobs/{sha}");
    json!({"type": kind, "name": path.rsplit('/').next(), "path": path, "sha": sha, "url": url, "git_url": git_url,
        "html_url": html_url, "download_url": (kind == "file").then(|| format!("https://raw.example/{full_name}/{path}")),
        "_links": {"self": url, "git": git_url, "html": html_url}})
}
