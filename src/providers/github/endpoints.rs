//! The calls of GitHub's REST API that the proxy may make.
//!
//! **Invariants**: reading, and the two ways to answer people (a comment, a reaction); nothing that changes code,
//! settings or access. Protocol source: GitHub's REST API reference.

use crate::providers::connector::ProxyEndpoint;

const fn get(id: &'static str, path: &'static str, description: &'static str) -> ProxyEndpoint {
    ProxyEndpoint { id, method: "GET", path, description }
}

const fn post(id: &'static str, path: &'static str, description: &'static str) -> ProxyEndpoint {
    ProxyEndpoint { id, method: "POST", path, description }
}

/// The allow-list.
#[rustfmt::skip]
pub(super) static ENDPOINTS: &[ProxyEndpoint] = &[
    get("repos.list", "/installation/repositories", "The repositories this connection reaches."),
    get("repos.get", "/repos/{owner}/{repo}", "A repository."),
    get("repos.get-by-id", "/repositories/{id}", "A repository by its id."),
    get("repos.languages", "/repos/{owner}/{repo}/languages", "The languages of a repository, in bytes."),
    get("repos.contributors", "/repos/{owner}/{repo}/contributors", "Who contributed to a repository."),
    get("repos.topics", "/repos/{owner}/{repo}/topics", "The topics of a repository."),
    get("repos.readme", "/repos/{owner}/{repo}/readme", "A repository's README."),
    get("contents.get", "/repos/{owner}/{repo}/contents/{path}", "A file or a folder."),
    get("contents.root", "/repos/{owner}/{repo}/contents", "The top folder of a repository."),
    get("git.trees.get", "/repos/{owner}/{repo}/git/trees/{sha}", "A tree."),
    get("git.blobs.get", "/repos/{owner}/{repo}/git/blobs/{sha}", "A blob."),
    get("branches.list", "/repos/{owner}/{repo}/branches", "The branches of a repository."),
    get("branches.get", "/repos/{owner}/{repo}/branches/{branch}", "A branch."),
    get("tags.list", "/repos/{owner}/{repo}/tags", "The tags of a repository."),
    get("commits.list", "/repos/{owner}/{repo}/commits", "Commits."),
    get("commits.get", "/repos/{owner}/{repo}/commits/{ref}", "A commit."),
    get("commits.compare", "/repos/{owner}/{repo}/compare/{basehead}", "What differs between two commits (BASE...HEAD)."),
    get("commits.status", "/repos/{owner}/{repo}/commits/{ref}/status", "The combined status of a commit."),
    get("commits.check-runs", "/repos/{owner}/{repo}/commits/{ref}/check-runs", "The check runs of a commit."),
    get("pulls.list", "/repos/{owner}/{repo}/pulls", "Pull requests."),
    get("pulls.get", "/repos/{owner}/{repo}/pulls/{pull_number}", "A pull request."),
    get("pulls.files", "/repos/{owner}/{repo}/pulls/{pull_number}/files", "The files a pull request changes."),
    get("pulls.commits", "/repos/{owner}/{repo}/pulls/{pull_number}/commits", "The commits of a pull request."),
    get("pulls.reviews", "/repos/{owner}/{repo}/pulls/{pull_number}/reviews", "The reviews of a pull request."),
    get("pulls.comments", "/repos/{owner}/{repo}/pulls/{pull_number}/comments", "Review comments of a pull request."),
    get("issues.list", "/repos/{owner}/{repo}/issues", "Issues."),
    get("issues.get", "/repos/{owner}/{repo}/issues/{issue_number}", "An issue."),
    get("issues.comments", "/repos/{owner}/{repo}/issues/{issue_number}/comments", "Comments of an issue or pull request."),
    get("issues.events", "/repos/{owner}/{repo}/issues/{issue_number}/events", "What happened to an issue."),
    post("issues.comments.create", "/repos/{owner}/{repo}/issues/{issue_number}/comments", "Comments on an issue or pull request."),
    post("issues.reactions.create", "/repos/{owner}/{repo}/issues/{issue_number}/reactions", "Reacts to an issue or pull request."),
    get("releases.list", "/repos/{owner}/{repo}/releases", "Releases."),
    get("releases.latest", "/repos/{owner}/{repo}/releases/latest", "The newest release."),
    get("releases.get", "/repos/{owner}/{repo}/releases/{release_id}", "A release."),
    get("deployments.list", "/repos/{owner}/{repo}/deployments", "Deployments."),
    get("deployments.statuses", "/repos/{owner}/{repo}/deployments/{deployment_id}/statuses", "The statuses of a deployment."),
    get("actions.runs.list", "/repos/{owner}/{repo}/actions/runs", "Runs of workflows."),
    get("actions.runs.get", "/repos/{owner}/{repo}/actions/runs/{run_id}", "A run of a workflow."),
    get("rate-limit.get", "/rate_limit", "What is left of the rate limit."),
];
