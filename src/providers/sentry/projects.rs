//! Sentry's projects, and the calls its proxy may make.
//!
//! **Invariants**: a page lists a project once; a list ends, whatever the provider says. Protocol source: Sentry's API
//! reference. Quirks worth knowing: `Link` always names a next page, and says with `results="false"` that it is empty;
//! events name projects by slug as well as by id.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::connect::{RESET_HEADER, SentryConnector};
use crate::{
    model::{provider::ProviderResourceId, secret::Secret},
    providers::{
        ConnectorError,
        answers::{self, PageCursor, id_of},
        api_url::encode_segment,
        connector::{Grant, ProxyEndpoint, ResourcePage, VisibleResource},
        facts::{self, facts},
        http::Call,
    },
};

/// The most that Sentry gives.
const PER_PAGE: &str = "100";

/// What the proxy may ask. All of it reads.
#[rustfmt::skip]
pub(super) const PROXY_ENDPOINTS: &[ProxyEndpoint] = &[
    ProxyEndpoint { id: "list-organizations", method: "GET", path: "/api/0/organizations/", description: "The organisation of this installation." },
    ProxyEndpoint { id: "list-projects", method: "GET", path: "/api/0/projects/", description: "The projects the token sees." },
    ProxyEndpoint { id: "list-organization-projects", method: "GET", path: "/api/0/organizations/{organizationSlug}/projects/", description: "The projects of an organisation." },
    ProxyEndpoint { id: "get-issue", method: "GET", path: "/api/0/organizations/{organizationSlug}/issues/{issueId}/", description: "One issue." },
];

#[derive(Deserialize)]
struct Project {
    id: Value,
    slug: Option<String>,
    name: Option<String>,
    platform: Option<String>,
}

impl SentryConnector {
    /// One page of the organisation's projects. An organisation that is not found may have a new slug: its installation
    /// knows.
    pub(super) async fn list_projects(
        &self,
        grant: &Grant,
        access: &Secret,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, ConnectorError> {
        let known = grant.metadata.get("organizationSlug").and_then(Value::as_str).or(grant.account_login.as_deref());
        if let Some(known) = known {
            match self.list_projects_of(Some(known), grant, access, cursor).await {
                Err(ConnectorError::NotAccessible) => {}
                listed => return listed,
            }
        }
        let current = match self.read_installation(&grant.external_id, access, grant.now).await {
            Ok(installed) => installed.slug().map(str::to_owned),
            Err(ConnectorError::NotAccessible) => None,
            Err(error) => return Err(error),
        };
        if current.is_some() && current.as_deref() == known {
            return Err(ConnectorError::NotAccessible);
        }
        self.list_projects_of(current.as_deref(), grant, access, cursor).await
    }

    /// One page of the projects of an organisation; of all that the token sees, if no organisation is known.
    async fn list_projects_of(
        &self,
        slug: Option<&str>,
        grant: &Grant,
        access: &Secret,
        cursor: Option<&str>,
    ) -> Result<ResourcePage, ConnectorError> {
        let path = match slug.map(encode_segment) {
            None => "/api/0/projects/".to_owned(),
            Some(Ok(slug)) => format!("/api/0/organizations/{slug}/projects/"),
            Some(Err(_)) => return Err(ConnectorError::NotAccessible),
        };
        let cursor = PageCursor::read(cursor)?;
        let mut url: Url = self.data_url(grant).at(&path);
        url.query_pairs_mut()
            .append_pair("per_page", PER_PAGE)
            .extend_pairs(cursor.token.as_deref().map(|token| ("cursor", token)));
        let reply = answers::ask(&self.http, Call::new("GET", url).bearer(access)).await?;
        if !reply.is_success() {
            return Err(cursor.judge(answers::refusal(&reply, RESET_HEADER, grant.now)));
        }
        let next = reply.header("link").and_then(next_cursor);
        let page: Vec<Project> = reply.json("a list of projects")?;
        let mut seen = HashSet::new();
        let items = page.into_iter().filter_map(visible).filter(|project| seen.insert(project.id.clone())).collect();
        Ok(ResourcePage { items, next_cursor: cursor.after(next), total: None })
    }
}

fn visible(project: Project) -> Option<VisibleResource> {
    let id = id_of(&project.id)?;
    Some(VisibleResource {
        name: project.name.or_else(|| project.slug.clone()).unwrap_or_else(|| id.clone()),
        id: ProviderResourceId::new(id),
        full_name: None,
        attrs: facts([("projectSlug", facts::text(project.slug.clone())), ("platform", facts::text(project.platform))]),
        slug: project.slug,
        private: None,
        archived: None,
        default_branch: None,
    })
}

/// The cursor of the next page: of the link with `rel="next"`, if it says that there are results.
fn next_cursor(header: &str) -> Option<String> {
    // A link's URL may hold commas and semicolons; what follows its `>` holds none.
    header.split('<').skip(1).find_map(|link| {
        let (_, parameters) = link.split_once('>')?;
        let parameter = |name: &str| {
            parameters.split([';', ',']).find_map(|pair| {
                let (key, value) = pair.trim().split_once('=')?;
                (key == name).then(|| value.trim_matches('"'))
            })
        };
        let goes_on = parameter("rel") == Some("next") && parameter("results") == Some("true");
        parameter("cursor").filter(|_| goes_on).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_followed_only_where_it_says_that_there_are_results() {
        let header = |results: &str| {
            format!(
                "<https://sentry.io/api/0/projects/?cursor=0:0:1>; rel=\"previous\"; results=\"true\"; cursor=\"0:0:1\", \
                 <https://sentry.io/api/0/projects/?a=1,2;3&cursor=0:100:0>; rel=\"next\"; results=\"{results}\"; \
                 cursor=\"0:100:0\""
            )
        };
        assert_eq!(next_cursor(&header("true")).as_deref(), Some("0:100:0"));
        assert_eq!(next_cursor(&header("false")), None);
        assert_eq!(next_cursor(""), None);
    }

    #[test]
    fn a_project_is_known_by_id_as_text_and_by_slug() {
        let project = |text: &str| visible(serde_json::from_str(text).expect("a project"));
        let api = project(r#"{"id":4507,"slug":"tide-api","name":null,"platform":"rust"}"#).expect("visible");
        assert_eq!((api.id.as_str(), api.slug.as_deref(), api.name.as_str()), ("4507", Some("tide-api"), "tide-api"));
        assert_eq!(api.attrs["platform"], "rust");
        assert!(project(r#"{"id":null,"slug":"x"}"#).is_none());
    }
}
