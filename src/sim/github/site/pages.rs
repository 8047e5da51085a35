//! What people see: the App's installation pages and the authorization page.

use serde_json::{Value, json};

use super::{APP_SLUG, CLIENT_ID, GitHub, InstallRequest, Repository, account_of, person_json};
use crate::sim::world::{
    call::{Answer, Call, with_query},
    site::Scene,
    visit::{Choice, Visit},
};

impl GitHub {
    /// Answers a page.
    pub(super) fn web(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        match (call.method.as_str(), call.route().as_slice()) {
            (
                "GET",
                ["apps", APP_SLUG, "installations", "new" | "select_target"]
                | ["apps", APP_SLUG, "installations", "new", "permissions"],
            ) => self.installation_page(call, scene),
            ("GET", ["login", "oauth", "authorize"]) => self.authorization_page(call, scene),
            ("POST", ["login", "oauth", "access_token"]) => self.exchange(call, scene),
            _ => Answer::page(404, "Page not found", "<p>This is not the page you are looking for.</p>"),
        }
    }

    fn installation_page(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        let offers = [Choice::Approve, Choice::Request, Choice::Close];
        let visit = match scene.ambient.visit.on(call, "Install Signalbox (simulated GitHub)", &offers) {
            Ok(visit) => visit,
            Err(page) => return page,
        };
        let landing = match scene.landing() {
            Ok(landing) => landing,
            Err(page) => return page,
        };
        let account = account_of(&visit);
        let state = call.parameter("state").filter(|_| !visit.forget_state);
        match visit.choice {
            Choice::Close | Choice::Deny => Answer::page(200, "Window closed", "<p>Nothing was installed.</p>"),
            Choice::Request => {
                let id = self.fresh_id();
                self.owner(account);
                self.requests.push(InstallRequest { id, account, person: visit.person, at: scene.now });
                let state = state.map(|state| ("state", state));
                Answer::redirect(&with_query(&landing, [("setup_action", "request")].into_iter().chain(state)))
            }
            Choice::Approve => {
                let is_new = self.installation_of(account).is_none();
                let id = self.install(account, visit.person, scene.now);
                if let Some(installation) = self.installations.get_mut(&id) {
                    installation.seen_by.insert(visit.person);
                    installation.updated_at = scene.now;
                }
                if is_new {
                    self.tell_created(id, &visit, &Value::Null, scene);
                }
                // Where the App is already, the page is its settings, and saving them is an update.
                let action = if is_new { "install" } else { "update" };
                Answer::redirect(&self.landing_after_install(&landing, id, action, state, &visit, scene))
            }
        }
    }

    /// Where the browser lands after an installation.
    pub(super) fn landing_after_install(
        &mut self,
        landing: &str,
        id: u64,
        action: &str,
        state: Option<&str>,
        visit: &Visit,
        scene: &mut Scene<'_>,
    ) -> String {
        let id = visit.report_id.clone().unwrap_or_else(|| id.to_string());
        let code = self.knobs.code_with_install.then(|| self.people.code(visit.person, None, None, scene));
        let action = visit.report_action.as_deref().unwrap_or(action);
        let mut query = vec![("installation_id", id.as_str()), ("setup_action", action)];
        query.extend(code.as_deref().map(|code| ("code", code)));
        query.extend(state.map(|state| ("state", state)));
        with_query(landing, query)
    }

    /// Tells of a new installation, with all its repositories.
    pub(super) fn tell_created(&mut self, id: u64, visit: &Visit, requester: &Value, scene: &mut Scene<'_>) {
        let account = account_of(visit);
        let repositories: Vec<Value> = self.visible(id).iter().map(Repository::lite_json).collect();
        let edit = json!({"installation": self.installation_json(id), "repositories": repositories,
            "requester": requester, "sender": person_json(visit.person)});
        let facts = self.facts_of(account, 0, scene);
        if self.knobs.webhook_before_callback {
            scene.tell_first("github:installation.created", facts, edit);
        } else {
            scene.tell("github:installation.created", facts, edit);
        }
    }

    fn authorization_page(&mut self, call: &Call, scene: &mut Scene<'_>) -> Answer {
        if call.parameter("client_id") != Some(CLIENT_ID) {
            return Answer::page(404, "Page not found", "<p>There is no such App.</p>");
        }
        let redirect_uri = call.parameter("redirect_uri");
        if redirect_uri.is_some_and(|uri| !scene.is_registered(uri)) {
            return Answer::refusal("Be careful!", "The redirect_uri is not associated with this application.");
        }
        let challenge = call.parameter("code_challenge");
        let method = call.parameter("code_challenge_method");
        if challenge.is_some() && method != Some("S256") || challenge.is_none() && method.is_some() {
            return Answer::refusal("Invalid request", "A code challenge needs the method S256.");
        }
        if challenge.is_some_and(|challenge| challenge.len() != 43) {
            return Answer::refusal("Invalid request", "An S256 code challenge has 43 characters.");
        }
        let visit = match scene.ambient.visit.on(
            call,
            "Authorize Signalbox (simulated GitHub)",
            &[Choice::Approve, Choice::Deny, Choice::Close],
        ) {
            Ok(visit) => visit,
            Err(page) => return page,
        };
        let landing = match redirect_uri.map_or_else(|| scene.landing(), |uri| Ok(uri.to_owned())) {
            Ok(landing) => landing,
            Err(page) => return page,
        };
        let state = call.parameter("state").filter(|_| !visit.forget_state).map(|state| ("state", state));
        match visit.choice {
            Choice::Deny => {
                let error = [
                    ("error", "access_denied"),
                    ("error_description", "The user has denied your application access."),
                    ("error_uri", "https://docs.github.com/apps/managing-oauth-apps/troubleshooting"),
                ];
                Answer::redirect(&with_query(&landing, error.into_iter().chain(state)))
            }
            Choice::Close => Answer::page(200, "Window closed", "<p>Nothing was authorized.</p>"),
            // A member who asks for an installation authorizes as anybody does.
            Choice::Approve | Choice::Request => {
                let code = self.people.code(visit.person, redirect_uri, challenge, scene);
                Answer::redirect(&with_query(&landing, [("code", code.as_str())].into_iter().chain(state)))
            }
        }
    }
}
