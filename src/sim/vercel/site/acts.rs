//! What people do at Vercel after connecting, and what Vercel tells of it.

use serde_json::{Value, json};

use super::{Vercel, external_id, user_id};
use crate::sim::{
    Facts,
    world::site::{Scene, Site},
};

impl Vercel {
    fn facts_of(&self, account: u32, scene: &mut Scene<'_>) -> Facts {
        let seed = scene.dice.bits();
        self.facts(account, super::PROVIDER.facts(account, seed, scene.now))
    }

    /// Ends a configuration and tells of it.
    pub(super) fn uninstall(&mut self, id: &str, scene: &mut Scene<'_>) {
        let Some(configuration) = self.configurations.get(id).cloned() else { return };
        let facts = self.facts_of(configuration.account, scene);
        let projects: Vec<String> = self.visible(&configuration).into_iter().map(|project| project.id).collect();
        let edit = json!({"payload": {"user": {"id": user_id(configuration.person)},
            "configuration": {"projectSelection": configuration.selection, "projects": projects}}});
        self.remove(id);
        scene.tell("vercel:integration-configuration.removed", facts, edit);
    }

    pub(super) fn perform(
        &mut self,
        act: &str,
        account: u32,
        details: &Value,
        scene: &mut Scene<'_>,
    ) -> Result<Value, String> {
        let id = self.configuration_id(account).ok_or_else(|| format!("nothing is installed on account {account}"))?;
        let index = usize::try_from(details["index"].as_u64().unwrap_or(0)).unwrap_or(0);
        let facts = self.facts_of(account, scene);
        match act {
            "uninstall" => self.uninstall(&id, scene),
            "disable" | "enable" => {
                if let Some(configuration) = self.configurations.get_mut(&id) {
                    configuration.disabled_at = (act == "disable").then_some(scene.now);
                }
            }
            "add_projects" | "remove_projects" => {
                let granted = act == "add_projects";
                let mut changed = Vec::new();
                for index in details["projects"].as_array().into_iter().flatten().filter_map(Value::as_u64) {
                    let index = usize::try_from(index).unwrap_or(usize::MAX);
                    let project = self.projects(account).get_mut(index).ok_or("there is no such project")?;
                    project.granted = granted;
                    changed.push(project.id.clone());
                }
                let configuration = self.configurations.get(&id).cloned().ok_or("gone")?;
                let all: Vec<String> = self.visible(&configuration).into_iter().map(|project| project.id).collect();
                let (added, removed) = if granted { (changed, Vec::new()) } else { (Vec::new(), changed) };
                let edit = json!({"payload": {"configuration": {"projects": all}, "projects": {"added": added, "removed": removed}}});
                scene.tell("vercel:integration-configuration.permission-upgraded", facts, edit);
            }
            "rename_project" | "remove_project" => {
                let projects = self.projects(account);
                let project = projects.get_mut(index).ok_or("there is no such project")?;
                let facts = Facts { resource_id: project.id.clone(), ..facts };
                if act == "remove_project" {
                    let facts = Facts { resource_name: project.name.clone(), ..facts };
                    projects.remove(index);
                    scene.tell("vercel:project.removed", facts, Value::Null);
                } else {
                    let name = details["name"].as_str().ok_or("`name` is missing")?;
                    let previous = std::mem::replace(&mut project.name, name.to_owned());
                    let facts = Facts { resource_name: name.to_owned(), ..facts };
                    scene.tell("vercel:project.renamed", facts, json!({"payload": {"previousName": previous}}));
                }
            }
            "transfer" => {
                let to = details["to"].as_u64().and_then(|to| u32::try_from(to).ok()).ok_or("`to` is missing")?;
                let projects = self.projects(account).clone();
                self.projects.insert(to, projects);
                if let Some(configuration) = self.configurations.get_mut(&id) {
                    configuration.account = to;
                }
                let facts = Facts {
                    external_id: external_id(to),
                    previous_external_id: Some(external_id(account)),
                    alternate_external_id: id.clone(),
                    ..facts
                };
                scene.tell("vercel:integration-configuration.transferred", facts, Value::Null);
            }
            _ => return Err(format!("nobody does `{act}` at Vercel")),
        }
        Ok(json!({"configurationId": id}))
    }
}
