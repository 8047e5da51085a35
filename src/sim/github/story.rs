//! The payload of each event, member by member.

use serde_json::{Map, Value, json};

use super::APP_ID;
use crate::sim::{Dice, Facts, numeric_id, to_the_second};

/// Bodies asked to be at least this long, in bytes, hold everything that GitHub's do.
const WHOLE_FROM_BYTES: usize = 20 * 1024;

/// The addresses that a repository names, below its own: most of what GitHub sends is these, in every payload, and
/// they are what a stored payload's size depends on.
const REPOSITORY_URLS: [(&str, &str); 36] = [
    ("archive", "/{archive_format}{/ref}"),
    ("assignees", "/assignees{/user}"),
    ("blobs", "/git/blobs{/sha}"),
    ("branches", "/branches{/branch}"),
    ("collaborators", "/collaborators{/collaborator}"),
    ("comments", "/comments{/number}"),
    ("commits", "/commits{/sha}"),
    ("compare", "/compare/{base}...{head}"),
    ("contents", "/contents/{+path}"),
    ("contributors", "/contributors"),
    ("deployments", "/deployments"),
    ("downloads", "/downloads"),
    ("events", "/events"),
    ("forks", "/forks"),
    ("git_commits", "/git/commits{/sha}"),
    ("git_refs", "/git/refs{/sha}"),
    ("git_tags", "/git/tags{/sha}"),
    ("hooks", "/hooks"),
    ("issue_comment", "/issues/comments{/number}"),
    ("issue_events", "/issues/events{/number}"),
    ("issues", "/issues{/number}"),
    ("keys", "/keys{/key_id}"),
    ("labels", "/labels{/name}"),
    ("languages", "/languages"),
    ("merges", "/merges"),
    ("milestones", "/milestones{/number}"),
    ("notifications", "/notifications{?since,all,participating}"),
    ("pulls", "/pulls{/number}"),
    ("releases", "/releases{/id}"),
    ("stargazers", "/stargazers"),
    ("statuses", "/statuses/{sha}"),
    ("subscribers", "/subscribers"),
    ("subscription", "/subscription"),
    ("tags", "/tags"),
    ("teams", "/teams"),
    ("trees", "/git/trees{/sha}"),
];

/// The addresses that a user or an organization names, below its own.
const ACCOUNT_URLS: [(&str, &str); 9] = [
    ("events", "/events{/privacy}"),
    ("followers", "/followers"),
    ("following", "/following{/other_user}"),
    ("gists", "/gists{/gist_id}"),
    ("organizations", "/orgs"),
    ("received_events", "/received_events"),
    ("repos", "/repos"),
    ("starred", "/starred{/owner}{/repo}"),
    ("subscriptions", "/subscriptions"),
];

/// A user or an organization, as GitHub writes it wherever one stands.
fn account(login: &str, id: u64, kind: &str) -> Value {
    let api = format!("https://api.github.com/users/{login}");
    let mut account = json!({"login": login, "id": id, "node_id": "MDQ6VXNlcjYxMjA0NTg=", "type": kind, "site_admin": false,
        "avatar_url": format!("https://avatars.githubusercontent.com/u/{id}?v=4"), "gravatar_id": "", "url": api,
        "html_url": format!("https://github.com/{login}"), "user_view_type": "public"});
    if let Value::Object(members) = &mut account {
        for (name, rest) in ACCOUNT_URLS {
            members.insert(format!("{name}_url"), Value::from(format!("{api}{rest}")));
        }
    }
    account
}

/// The making of one payload.
pub(super) struct Story<'a> {
    facts: &'a Facts,
    dice: Dice,
    action: String,
}

/// The wire event, the body's members and the pointer of the text that may grow.
pub(super) type Told = (String, Map<String, Value>, &'static str);

impl<'a> Story<'a> {
    /// The story of an action, as our keys spell it.
    pub(super) fn new(facts: &'a Facts, action: &str) -> Self {
        Self { facts, dice: Dice::new(facts.seed), action: action.replace('-', "_") }
    }

    /// Tells it; `None` for an entity GitHub knows nothing of.
    pub(super) fn tell(mut self, entity: &str) -> Option<Told> {
        let subject = match entity {
            "push" => return Some(self.push()),
            "ping" => return Some(self.ping()),
            "app-authorization" => {
                let members = members(json!({"sender": Self::person()}));
                return Some(("github_app_authorization".to_owned(), members, "/sender/login"));
            }
            "installation" | "installation-repositories" | "installation-target" => return self.installation(entity),
            "branch" => return Some(self.branch()),
            "pull-request" | "pull-request-review" => self.pull_request(entity),
            "issue" | "issue-comment" => self.issue(entity),
            "release" => self.release(),
            "discussion" | "discussion-comment" => self.discussion(entity),
            "workflow-run" | "check-suite" | "deployment-status" => self.automation(entity),
            "repository" => self.repository_change(),
            _ => return None,
        };
        let event = if entity == "issue" { "issues".to_owned() } else { entity.replace('-', "_") };
        let (own, padding) = subject;
        Some((event, self.in_repository(own), padding))
    }

    fn person() -> Value {
        account("mirela-okt", 6_120_458, "User")
    }

    fn repository(&self) -> Value {
        let full_name = format!("{}/{}", self.facts.account, self.facts.resource_name);
        let api = format!("https://api.github.com/repos/{full_name}");
        let page = format!("https://github.com/{full_name}");
        let mut repository = json!({
            "id": numeric_id(&self.facts.resource_id), "node_id": "R_kgDOLfl", "name": self.facts.resource_name,
            "full_name": full_name, "private": true, "visibility": "private", "archived": false, "disabled": false,
            "fork": false, "default_branch": "main", "language": "Rust", "description": "What the tide does next",
            "stargazers_count": 41, "watchers_count": 41, "forks_count": 3, "open_issues_count": 17, "forks": 3,
            "watchers": 41, "open_issues": 17, "size": 20_480 + self.facts.seed % 100_000,
            "owner": account(&self.facts.account, 99_120_387, "Organization"),
            "html_url": page, "url": api, "topics": ["tides", "sensors"], "homepage": null, "mirror_url": null,
            "git_url": format!("git://github.com/{full_name}.git"), "ssh_url": format!("git@github.com:{full_name}.git"),
            "clone_url": format!("{page}.git"), "svn_url": page,
            "created_at": "2024-03-01T00:00:00Z", "updated_at": to_the_second(self.facts.at), "pushed_at": to_the_second(self.facts.at),
        });
        if let Value::Object(members) = &mut repository {
            members.extend(self::members(json!({"has_issues": true, "has_projects": true, "has_downloads": true, "has_wiki": false,
                "has_pages": false, "has_discussions": true, "license": null, "allow_forking": true, "is_template": false,
                "web_commit_signoff_required": false, "custom_properties": {}})));
            for (name, rest) in REPOSITORY_URLS {
                members.insert(format!("{name}_url"), Value::from(format!("{api}{rest}")));
            }
        }
        repository
    }

    /// The common envelope around an event's own members.
    fn in_repository(&self, own: Value) -> Map<String, Value> {
        let mut all = members(json!({
            "repository": self.repository(),
            "organization": {"id": 99_120_387, "login": self.facts.account, "description": "Boats and clocks",
                "url": format!("https://api.github.com/orgs/{}", self.facts.account)},
            "installation": {"id": numeric_id(&self.facts.external_id), "node_id": "MDIzOkludGVncmF0aW9u"},
            "sender": Self::person(),
        }));
        all.extend(members(own));
        all
    }

    fn push(&mut self) -> Told {
        let (before, after) = (self.dice.hex(40), self.dice.hex(40));
        let at = to_the_second(self.facts.at);
        let compare = format!("https://github.com/{}/compare/{before}...{after}", self.facts.resource_slug);
        let commit = json!({
            "id": after, "tree_id": self.dice.hex(40), "distinct": true, "message": self.dice.title(), "timestamp": at,
            "url": format!("https://github.com/{}/commit/{after}", self.facts.resource_slug),
            "author": {"name": "Mirela O", "email": "mirela@harborworks.example", "username": "mirela-okt"},
            "committer": {"name": "GitHub", "email": "noreply@github.com", "username": "web-flow"},
            "added": [], "removed": [], "modified": [format!("src/{}.rs", self.dice.word())],
        });
        let mut all = self.in_repository(json!({
            "ref": "refs/heads/main", "before": before, "after": after, "created": false, "deleted": false, "forced": false,
            "base_ref": null, "compare": compare, "commits": [commit], "head_commit": commit,
            "pusher": {"name": "mirela-okt", "email": "mirela@harborworks.example"},
        }));
        // In a push these two are epoch seconds, and the owner has a name.
        if let Some(Value::Object(repository)) = all.get_mut("repository") {
            repository.insert("created_at".to_owned(), Value::from(1_709_251_200));
            repository.insert("pushed_at".to_owned(), Value::from(self.facts.at.0 / 1000));
            if let Some(Value::Object(owner)) = repository.get_mut("owner") {
                owner.insert("name".to_owned(), Value::from(self.facts.account.as_str()));
            }
        }
        ("push".to_owned(), all, "/head_commit/message")
    }

    fn ping(&mut self) -> Told {
        let own = json!({"zen": self.dice.title(), "hook_id": 491_120_387,
            "hook": {"type": "App", "id": 491_120_387, "app_id": APP_ID, "active": true, "events": ["push", "pull_request"],
                "config": {"content_type": "json", "insecure_ssl": "0", "url": "https://signalbox.example/webhooks/github"},
                "deliveries_url": "https://api.github.com/app/hook/deliveries"}});
        ("ping".to_owned(), members(own), "/zen")
    }

    fn branch(&mut self) -> Told {
        let event = if self.action == "created" { "create" } else { "delete" };
        let own = json!({"ref": format!("{}-{}", self.dice.word(), self.dice.hex(6)), "ref_type": "branch",
            "master_branch": "main", "description": "What the tide does next", "pusher_type": "user"});
        (event.to_owned(), self.in_repository(own), "/description")
    }

    fn pull_request(&mut self, entity: &str) -> (Value, &'static str) {
        let merged = self.action == "merged";
        let closed = merged || self.action == "closed";
        let at = to_the_second(self.facts.at);
        let number = self.dice.between(1, 4000);
        // GitHub repeats the whole repository here, which is most of a pull request's usual 20 KB and compresses as such.
        let repository = if self.facts.body_bytes >= WHOLE_FROM_BYTES {
            self.repository()
        } else {
            json!({"id": numeric_id(&self.facts.resource_id), "name": self.facts.resource_name})
        };
        let pull_request = json!({
            "id": self.dice.between(2_900_000_000, 2_999_999_999), "node_id": "PR_kwDOLfl", "number": number,
            "state": if closed { "closed" } else { "open" }, "title": self.dice.title(), "body": self.dice.words(30),
            "user": Self::person(), "draft": self.action == "converted_to_draft", "merged": merged,
            "merged_at": merged.then_some(&at), "closed_at": closed.then_some(&at), "created_at": at, "updated_at": at,
            "merge_commit_sha": merged.then(|| self.dice.hex(40)), "merged_by": merged.then(Self::person),
            "html_url": format!("https://github.com/{}/pull/{number}", self.facts.resource_slug),
            "additions": self.dice.between(0, 900), "deletions": self.dice.between(0, 300), "changed_files": 3, "commits": 2,
            "labels": [], "assignees": [], "requested_reviewers": [],
            "head": {"ref": self.dice.word(), "sha": self.dice.hex(40), "repo": repository},
            "base": {"ref": "main", "sha": self.dice.hex(40), "repo": repository},
        });
        let mut own = json!({"number": number, "pull_request": pull_request});
        match self.action.as_str() {
            // Merging is closing on the wire; the flag tells them apart.
            "merged" => own["action"] = Value::from("closed"),
            "synchronize" => {
                own["before"] = Value::from(self.dice.hex(40));
                own["after"] = Value::from(self.dice.hex(40));
            }
            "review_requested" => own["requested_reviewer"] = Self::person(),
            _ => {}
        }
        if entity == "pull-request-review" {
            own["review"] = json!({"id": self.dice.between(1, 1 << 31), "user": Self::person(), "body": self.dice.words(9),
                "state": if self.action == "dismissed" { "dismissed" } else { "approved" }, "submitted_at": at});
        }
        (own, "/pull_request/body")
    }

    fn issue(&mut self, entity: &str) -> (Value, &'static str) {
        let at = to_the_second(self.facts.at);
        let number = self.dice.between(1, 4000);
        let closed = self.action == "closed";
        let issue = json!({"id": self.dice.between(3_300_000_000, 3_399_999_999), "number": number, "title": self.dice.title(),
            "body": self.dice.words(40), "state": if closed { "closed" } else { "open" },
            "state_reason": closed.then_some("completed"), "user": Self::person(), "labels": [], "assignees": [], "comments": 2,
            "html_url": format!("https://github.com/{}/issues/{number}", self.facts.resource_slug),
            "created_at": at, "updated_at": at, "closed_at": closed.then_some(&at)});
        let mut own = json!({"issue": issue});
        match (entity, self.action.as_str()) {
            ("issue-comment", _) => {
                own["comment"] = json!({"id": self.dice.between(1, 1 << 31), "body": self.dice.words(12), "user": Self::person(),
                    "created_at": at, "updated_at": at});
            }
            (_, "assigned") => own["assignee"] = Self::person(),
            (_, "labeled") => own["label"] = json!({"id": 5511, "name": "bug", "color": "d73a4a"}),
            (_, "transferred") => {
                own["changes"] = json!({"new_issue": {"id": self.dice.between(1, 1 << 31), "number": 3},
                    "new_repository": {"id": 771_999_999, "name": "tidepool"}});
            }
            _ => {}
        }
        (own, "/issue/body")
    }

    fn release(&mut self) -> (Value, &'static str) {
        let at = to_the_second(self.facts.at);
        let tag = format!("v{}.{}.0", self.dice.between(1, 9), self.dice.between(0, 40));
        let release = json!({"id": self.dice.between(188_000_000, 188_999_999), "tag_name": tag, "target_commitish": "main",
            "name": tag, "body": self.dice.words(60), "draft": false, "prerelease": self.action == "prereleased",
            "author": Self::person(), "assets": [], "created_at": at, "published_at": at,
            "html_url": format!("https://github.com/{}/releases/tag/{tag}", self.facts.resource_slug)});
        (json!({"release": release}), "/release/body")
    }

    fn discussion(&mut self, entity: &str) -> (Value, &'static str) {
        let at = to_the_second(self.facts.at);
        let number = self.dice.between(1, 400);
        let url = format!("https://github.com/{}/discussions/{number}", self.facts.resource_slug);
        let answered = self.action == "answered";
        let discussion = json!({"id": self.dice.between(7_700_000, 7_799_999), "number": number, "title": self.dice.title(),
            "body": self.dice.words(40), "state": if self.action == "closed" { "closed" } else { "open" }, "user": Self::person(),
            "category": {"id": 90_011, "name": "Q&A", "slug": "q-a", "is_answerable": true}, "html_url": url,
            "answer_html_url": answered.then(|| format!("{url}#discussioncomment-5")),
            "answer_chosen_at": answered.then_some(&at), "created_at": at, "updated_at": at});
        let said = json!({"id": self.dice.between(1, 1 << 31), "body": self.dice.words(12), "user": Self::person()});
        let mut own = json!({"discussion": discussion});
        match (entity, self.action.as_str()) {
            ("discussion-comment", _) => own["comment"] = said,
            (_, "answered") => own["answer"] = said,
            (_, "unanswered") => own["old_answer"] = said,
            _ => {}
        }
        (own, "/discussion/body")
    }

    fn automation(&mut self, entity: &str) -> (Value, &'static str) {
        let at = to_the_second(self.facts.at);
        let id = self.dice.between(1, 1 << 40);
        let sha = self.dice.hex(40);
        match entity {
            "workflow-run" => {
                let own = json!({"workflow": {"id": 33, "name": "ci", "path": ".github/workflows/ci.yml"},
                    "workflow_run": {"id": id, "name": "ci", "head_branch": "main", "head_sha": sha, "run_number": 88,
                        "event": "push", "status": "completed", "conclusion": "success", "display_title": self.dice.title(),
                        "created_at": at, "updated_at": at}});
                (own, "/workflow_run/display_title")
            }
            "check-suite" => {
                let own = json!({"check_suite": {"id": id, "head_branch": "main", "head_sha": sha, "status": "completed",
                    "conclusion": "success", "head_commit": {"id": sha, "message": self.dice.title()}, "created_at": at}});
                (own, "/check_suite/head_commit/message")
            }
            _ => {
                let own = json!({"deployment": {"id": id, "ref": "main", "sha": sha, "environment": "production"},
                    "deployment_status": {"id": id + 1, "state": "success", "description": self.dice.title(),
                        "environment": "production", "created_at": at}});
                (own, "/deployment_status/description")
            }
        }
    }

    fn repository_change(&mut self) -> (Value, &'static str) {
        let mut repository = self.repository();
        let mut own = json!({});
        match self.action.as_str() {
            "renamed" => own["changes"] = json!({"repository": {"name": {"from": "before-the-renaming"}}}),
            "transferred" => {
                own["changes"] = json!({"owner": {"from": {"organization": {"id": 5, "login": "old-harbor"}}}});
            }
            "archived" => repository["archived"] = Value::from(true),
            "publicized" => {
                repository["private"] = Value::from(false);
                repository["visibility"] = Value::from("public");
            }
            "edited" => {
                own["changes"] = json!({"default_branch": {"from": "main"}});
                repository["default_branch"] = Value::from("trunk");
            }
            _ => {}
        }
        own["repository"] = repository;
        (own, "/repository/description")
    }

    /// Installation events carry the full installation, and no `repository`.
    fn installation(&mut self, entity: &str) -> Option<Told> {
        let at = to_the_second(self.facts.at);
        let suspended = self.action == "suspend";
        let account = json!({"id": 99_120_387, "login": self.facts.account, "type": "Organization",
            "avatar_url": "https://avatars.example/u/99120387"});
        let installation = json!({"id": numeric_id(&self.facts.external_id), "account": account, "repository_selection": "selected",
            "app_id": APP_ID, "app_slug": super::site::APP_SLUG, "client_id": super::site::CLIENT_ID, "target_id": 99_120_387,
            "target_type": "Organization", "events": ["discussion", "issues", "pull_request", "push", "release", "repository"],
            "permissions": {"metadata": "read", "contents": "read", "issues": "read", "pull_requests": "read"},
            "created_at": "2026-01-01T10:00:00Z", "updated_at": at, "single_file_name": null,
            "suspended_at": suspended.then_some(&at), "suspended_by": suspended.then(Self::person)});
        let repository = json!({"id": numeric_id(&self.facts.resource_id), "node_id": "R_kgDOLfl", "name": self.facts.resource_name,
            "full_name": format!("{}/{}", self.facts.account, self.facts.resource_name), "private": true});
        let mut own = json!({"installation": installation, "sender": Self::person()});
        match entity {
            "installation" => {
                if !self.action.contains("suspend") {
                    own["repositories"] = json!([repository]);
                }
                own["requester"] = Value::Null;
            }
            "installation-repositories" => {
                let (added, removed) = if self.action == "added" {
                    (json!([repository]), json!([]))
                } else {
                    (json!([]), json!([repository]))
                };
                own["repositories_added"] = added;
                own["repositories_removed"] = removed;
                own["repository_selection"] = Value::from("selected");
                own["requester"] = Value::Null;
            }
            "installation-target" => {
                own = json!({"account": account, "target_type": "Organization", "changes": {"login": {"from": "old-harbor"}},
                    "installation": {"id": numeric_id(&self.facts.external_id), "node_id": "MDIzOkludGVncmF0aW9u"},
                    "sender": Self::person()});
            }
            _ => return None,
        }
        Some((entity.replace('-', "_"), members(own), "/sender/login"))
    }
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
