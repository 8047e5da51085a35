//! Vercel's projects, and the calls its proxy may make.
//!
//! **Invariants**: a page lists a project once; a list ends, whatever the provider says. Protocol source: Vercel's REST
//! reference. Quirk worth knowing: the token of the next page is a number or a text.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use super::connect::{VercelConnector, refusal};
use crate::{
    model::{provider::ProviderResourceId, secret::Secret},
    providers::{
        ConnectorError,
        answers::{self, PageCursor, id_of},
        connector::{Grant, ProxyEndpoint, ResourcePage, VisibleResource},
        facts::{self, facts},
    },
};

/// The most that Vercel gives.
const PER_PAGE: &str = "100";

/// What the proxy may ask. All of it reads.
#[rustfmt::skip]
pub(super) const PROXY_ENDPOINTS: &[ProxyEndpoint] = &[
    ProxyEndpoint { id: "list-projects", method: "GET", path: "/v10/projects", description: "The projects of this installation." },
    ProxyEndpoint { id: "get-project", method: "GET", path: "/v9/projects/{idOrName}", description: "One project." },
    ProxyEndpoint { id: "list-deployments", method: "GET", path: "/v6/deployments", description: "Deployments, of all projects or one." },
    ProxyEndpoint { id: "get-configuration", method: "GET", path: "/v1/integrations/configuration/{id}", description: "The configuration behind this installation." },
    ProxyEndpoint { id: "list-teams", method: "GET", path: "/v2/teams", description: "The teams the token sees." },
    ProxyEndpoint { id: "get-team", method: "GET", path: "/v2/teams/{id}", description: "One team." },
    ProxyEndpoint { id: "get-user", method: "GET", path: "/v2/user", description: "The person who connected." },
];

#[derive(Deserialize)]
struct Projects {
    projects: Vec<Project>,
    pagination: Option<Pagination>,
}

#[derive(Deserialize)]
struct Project {
    id: String,
    name: Option<String>,
    framework: Option<String>,
}

#[derive(Deserialize)]
struct Pagination {
    next: Option<Value>,
}

impl VercelConnector {
    /// One page of the projects that the person granted.
    pub(super) async fn list_projects(
        &self,
        grant: &Grant,
        access: &Secret,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, ConnectorError> {
        let cursor = PageCursor::read(cursor)?;
        let mut query = vec![("limit", PER_PAGE)];
        query.extend(cursor.token.as_deref().map(|from| ("from", from)));
        let call = self.about("GET", "/v10/projects", &grant.external_id, &query).bearer(access);
        let reply = answers::ask(&self.http, call).await?;
        if !reply.is_success() {
            return Err(cursor.judge(refusal(&reply, grant.now)));
        }
        let page: Projects = reply.json("a list of projects")?;
        let mut seen = HashSet::new();
        let items = page.projects.into_iter().filter(|project| seen.insert(project.id.clone())).map(visible).collect();
        let next = page.pagination.and_then(|pagination| id_of(&pagination.next?));
        Ok(ResourcePage { items, next_cursor: cursor.after(next), total: None })
    }
}

fn visible(project: Project) -> VisibleResource {
    let name = project.name.unwrap_or_else(|| project.id.clone());
    VisibleResource {
        id: ProviderResourceId::new(project.id),
        full_name: None,
        slug: None,
        private: None,
        archived: None,
        default_branch: None,
        attrs: facts([("projectName", facts::text(Some(name.clone()))), ("framework", facts::text(project.framework))]),
        name,
    }
}
