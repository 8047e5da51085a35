//! What people do at GitHub after connecting, and what GitHub tells of it.

use serde_json::{Value, json};

use super::{GitHub, Repository, account_of, person_json};
use crate::sim::{
    Facts,
    world::{site::Scene, visit::Visit},
};

impl GitHub {
    /// Facts of an event about a repository of an account, now.
    pub(super) fn facts_of(&mut self, account: u32, index: usize, scene: &mut Scene<'_>) -> Facts {
        let seed = scene.dice.bits();
        self.owner(account);
        self.facts_about(account, index, super::PROVIDER.facts(account, seed, scene.now))
    }

    /// Ends an installation and tells of it.
    pub(super) fn uninstall(&mut self, id: u64, scene: &mut Scene<'_>) {
        let Some(account) = self.installations.get(&id).map(|installation| installation.account) else { return };
        let facts = self.facts_of(account, 0, scene);
        let repositories: Vec<Value> = self.visible(id).iter().map(Repository::lite_json).collect();
        let edit = json!({"installation": self.installation_json(id), "repositories": repositories});
        self.installations.remove(&id);
        self.tokens.retain(|_, token| token.installation != id);
        scene.tell("github:installation.deleted", facts, edit);
    }

    /// Suspends an account's installation, or ends that.
    pub(super) fn suspend(&mut self, account: u32, suspended: bool, scene: &mut Scene<'_>) {
        let facts = self.facts_of(account, 0, scene);
        let found = self.installations.values_mut().find(|installation| installation.account == account);
        let Some(installation) = found else { return };
        installation.suspended_at = suspended.then_some(scene.now);
        installation.updated_at = scene.now;
        let id = installation.id;
        let kind = if suspended { "github:installation.suspend" } else { "github:installation.unsuspend" };
        let edit = json!({"installation": self.installation_json(id)});
        scene.tell(kind, facts, edit);
    }

    pub(super) fn perform(
        &mut self,
        act: &str,
        account: u32,
        details: &Value,
        scene: &mut Scene<'_>,
    ) -> Result<Value, String> {
        let index = usize::try_from(details["index"].as_u64().unwrap_or(0)).unwrap_or(0);
        let text = |name: &str| details[name].as_str().map(str::to_owned);
        let installed = self.installation_of(account).map(|installation| installation.id);
        match act {
            "approve_request" => return self.approve_request(account, scene),
            "revoke_authorization" => {
                let person = details["person"].as_u64().and_then(|person| u32::try_from(person).ok()).unwrap_or(1);
                self.people.revoke(person);
                let facts = self.facts_of(account, 0, scene);
                scene.tell("github:app-authorization.revoked", facts, json!({"sender": person_json(person)}));
                return Ok(json!({}));
            }
            _ => {}
        }
        let id = installed.ok_or_else(|| format!("the App is not installed on account {account}"))?;
        match act {
            "uninstall" => self.uninstall(id, scene),
            "suspend" => self.suspend(account, true, scene),
            "unsuspend" => self.suspend(account, false, scene),
            "accept_permissions" => {
                let facts = self.facts_of(account, 0, scene);
                if let Some(installation) = self.installations.get_mut(&id) {
                    installation.permissions["checks"] = json!("read");
                    installation.updated_at = scene.now;
                }
                let edit = json!({"installation": self.installation_json(id)});
                scene.tell("github:installation.new-permissions-accepted", facts, edit);
            }
            "add_repositories" | "remove_repositories" => {
                let granted = act == "add_repositories";
                let mut changed = Vec::new();
                for index in details["repositories"].as_array().into_iter().flatten().filter_map(Value::as_u64) {
                    let index = usize::try_from(index).unwrap_or(usize::MAX);
                    let repository = self.repositories(account).get_mut(index).ok_or("there is no such repository")?;
                    repository.granted = granted;
                    changed.push(repository.lite_json());
                }
                let facts = self.facts_of(account, 0, scene);
                let (kind, list) = if granted {
                    ("github:installation-repositories.added", "repositories_added")
                } else {
                    ("github:installation-repositories.removed", "repositories_removed")
                };
                let mut edit = json!({"installation": self.installation_json(id)});
                edit[list] = Value::Array(changed);
                scene.tell(kind, facts, edit);
            }
            "rename_account" => {
                let login = text("login").ok_or("`login` is missing")?;
                let from = std::mem::replace(&mut self.owner(account).login, login.clone());
                for repository in self.repositories(account) {
                    let former = repository.full_name();
                    repository.former_names.push(former);
                    repository.owner_login.clone_from(&login);
                }
                let facts = self.facts_of(account, 0, scene);
                let edit = json!({"account": self.account_json(account), "changes": {"login": {"from": from}}});
                scene.tell("github:installation-target.renamed", facts, edit);
            }
            _ => return self.act_on_repository(act, account, index, details, scene),
        }
        Ok(json!({"installationId": id}))
    }

    fn act_on_repository(
        &mut self,
        act: &str,
        account: u32,
        index: usize,
        details: &Value,
        scene: &mut Scene<'_>,
    ) -> Result<Value, String> {
        let text = |name: &str| details[name].as_str().map(str::to_owned);
        let before = self.facts_of(account, index, scene);
        let repository = self.repositories(account).get_mut(index).ok_or("there is no such repository")?;
        let (kind, edit) = match act {
            "rename_repository" => {
                let former = repository.full_name();
                repository.former_names.push(former);
                let from = std::mem::replace(&mut repository.name, text("name").ok_or("`name` is missing")?);
                ("renamed", json!({"changes": {"repository": {"name": {"from": from}}}}))
            }
            "archive_repository" => {
                repository.archived = true;
                ("archived", json!({}))
            }
            "unarchive_repository" => {
                repository.archived = false;
                ("unarchived", json!({}))
            }
            "publicize_repository" | "privatize_repository" => {
                repository.private = act == "privatize_repository";
                (if repository.private { "privatized" } else { "publicized" }, json!({}))
            }
            "default_branch" => {
                let branch = text("branch").ok_or("`branch` is missing")?;
                let from = std::mem::replace(&mut repository.default_branch, branch.clone());
                let edit =
                    json!({"changes": {"default_branch": {"from": from}}, "repository": {"default_branch": branch}});
                ("edited", edit)
            }
            "delete_repository" => {
                self.repositories(account).remove(index);
                scene.tell("github:repository.deleted", before, json!({}));
                return Ok(json!({}));
            }
            "transfer_repository" => {
                let to = details["to"].as_u64().and_then(|to| u32::try_from(to).ok()).ok_or("`to` is missing")?;
                let mut moved = self.repositories(account).remove(index);
                let from = self.account_json(account);
                let login = self.owner(to).login.clone();
                let former = moved.full_name();
                moved.former_names.push(former);
                moved.account = to;
                moved.owner_login = login;
                self.repositories(to).push(moved);
                let last = self.repositories(to).len() - 1;
                // The receiving side is told, if it has the App at all.
                if self.installation_of(to).is_some() {
                    let facts = self.facts_of(to, last, scene);
                    let edit = json!({"changes": {"owner": {"from": {"organization": from}}}});
                    scene.tell("github:repository.transferred", facts, edit);
                }
                return Ok(json!({}));
            }
            _ => return Err(format!("nobody does `{act}` at GitHub")),
        };
        let facts = self.facts_of(account, index, scene);
        let facts = Facts { delivery_id: before.delivery_id, ..facts };
        scene.tell(&format!("github:repository.{kind}"), facts, edit);
        Ok(json!({}))
    }

    /// An owner approves what a member asked for: in the owner's own browser, which knows no state of ours.
    fn approve_request(&mut self, account: u32, scene: &mut Scene<'_>) -> Result<Value, String> {
        let at = self.requests.iter().position(|request| request.account == account);
        let request = self.requests.remove(at.ok_or_else(|| format!("nobody asked for account {account}"))?);
        let owner = Visit { account, person: 90, ..Visit::default() };
        let id = self.install(account_of(&owner), owner.person, scene.now);
        self.add_member(account, request.person);
        self.tell_created(id, &owner, &person_json(request.person), scene);
        let landing = scene.callback().ok_or("the simulator was not told where the gateway is")?;
        let url = self.landing_after_install(&landing, id, "install", None, &owner, scene);
        Ok(json!({"installationId": id, "ownerLandsOn": url}))
    }
}
