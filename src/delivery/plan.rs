//! Who gets an event, and why the others do not. Pure: the route table in, the decision out.

use serde::{Deserialize, Serialize};

use crate::model::{
    event::{EventKey, EventOutcome},
    ids::{DestinationId, InstallationId, IntegrationId, ResourceId, WorkspaceId},
    installation::InstallationStatus,
    integration::IntegrationStatus,
    provider::ProviderResourceId,
    resource::ResourceStatus,
    routes::{IntegrationRoute, ResourceRoute, RouteTable},
};

/// What vouches for an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VerifiedBy {
    /// The live secret at this index made its signature; 0 is the newest.
    Secret {
        /// The index.
        index: usize,
    },
    /// A service key posted it.
    ServiceKey,
}

/// How the installation was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchedBy {
    /// The payload names its account.
    ExternalId,
    /// The payload names its alternate id.
    AlternateExternalId,
    /// The payload names no account, and exactly one routing installation has the resource.
    Resource,
    /// The service path names it.
    ConnectionId,
}

/// The whole routing decision, stored with the event; `GET /events/{id}/explain` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// What vouches for the event.
    pub verified_by: VerifiedBy,
    /// The installation it was routed within.
    pub installation: Option<DecidedInstallation>,
    /// The linked resources it concerns.
    pub resources: Vec<DecidedResource>,
    /// Every integration of those resources.
    pub considered: Vec<Considered>,
}

/// The installation of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecidedInstallation {
    /// Which.
    pub id: InstallationId,
    /// Its state then.
    pub status: InstallationStatus,
    /// How it was found.
    pub matched_by: MatchedBy,
}

/// A resource of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecidedResource {
    /// Ours.
    pub id: ResourceId,
    /// The provider's.
    pub provider_resource_id: ProviderResourceId,
}

/// An integration of a decision with its one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Considered {
    /// Which.
    pub integration_id: IntegrationId,
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// Through which resource.
    pub resource_id: ResourceId,
    /// `routed`, `filtered:event_not_allowed`, `filtered:paused` or `inactive_integration`.
    pub reason: String,
}

/// The facts of an event that decide.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What vouches for it.
    pub verified_by: &'a VerifiedBy,
    /// Our name of it.
    pub key: Option<&'a EventKey>,
    /// Other keys under which rules may name it.
    pub also_keys: &'a [EventKey],
    /// The category of its key.
    pub category: &'a str,
    /// A test message.
    pub ping: bool,
    /// Whether it changed the state of an installation or resource.
    pub control: bool,
    /// The provider ids of the resources it concerns; `None` is all of them.
    pub resources: Option<&'a [ProviderResourceId]>,
    /// What somebody who replays it insists on.
    pub insistence: Insistence<'a>,
}

/// What is asked for beyond the webhook itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insistence<'a> {
    /// Nothing: the rules decide.
    Nothing,
    /// A replay to everybody who wants such events: an integration that was paused when the event came (or still is) was
    /// to get it later, and this is later.
    PastPauses,
    /// A replay to these integrations, whatever their rules say.
    On(&'a [IntegrationId]),
}

/// One delivery to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDelivery {
    /// To whom.
    pub integration: IntegrationId,
    /// Whose workspace.
    pub workspace: WorkspaceId,
    /// Through which resource.
    pub resource: ResourceId,
    /// Where to.
    pub destination: Option<DestinationId>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The one outcome.
    pub outcome: EventOutcome,
    /// Why, where the outcome needs a reason.
    pub reason: Option<&'static str>,
    /// Everything that was considered.
    pub decision: Decision,
    /// Who gets it.
    pub deliveries: Vec<PlannedDelivery>,
}

/// Decides who gets an event.
pub fn plan(question: &Question<'_>, found: Option<(&RouteTable, MatchedBy)>) -> Plan {
    let mut decision = Decision {
        verified_by: question.verified_by.clone(),
        installation: found.map(|(table, matched_by)| DecidedInstallation {
            id: table.installation.clone(),
            status: table.status,
            matched_by,
        }),
        resources: Vec::new(),
        considered: Vec::new(),
    };
    let mut deliveries = Vec::new();
    let (outcome, reason) = if question.ping {
        (EventOutcome::Ignored, Some("ping"))
    } else {
        match found {
            None => (EventOutcome::Unrouted, Some("no_installation")),
            Some((table, _)) if !table.status.routes() => (EventOutcome::Unrouted, Some(inactive_reason(table.status))),
            Some((table, _)) => consider_integrations(question, table, &mut decision, &mut deliveries),
        }
    };
    let (outcome, reason) = match outcome {
        EventOutcome::Routed => (outcome, reason),
        _ if question.control => (EventOutcome::Control, reason),
        EventOutcome::Unrouted if question.key.is_none() => (EventOutcome::Ignored, Some("unmapped_event")),
        _ => (outcome, reason),
    };
    Plan { outcome, reason, decision, deliveries }
}

fn inactive_reason(status: InstallationStatus) -> &'static str {
    match status {
        InstallationStatus::Pending => "installation_pending",
        InstallationStatus::Suspended => "installation_suspended",
        InstallationStatus::Revoked => "installation_revoked",
        InstallationStatus::Active | InstallationStatus::NeedsReauth => "no_resource",
    }
}

fn consider_integrations(
    question: &Question<'_>,
    table: &RouteTable,
    decision: &mut Decision,
    deliveries: &mut Vec<PlannedDelivery>,
) -> (EventOutcome, Option<&'static str>) {
    let Some(key) = question.key else {
        return (EventOutcome::Ignored, Some("unmapped_event"));
    };
    let resources = matched_resources(question.resources, table);
    if resources.is_empty() {
        return (EventOutcome::Unrouted, Some("no_resource"));
    }
    let (mut any_active, mut any_paused) = (false, false);
    for resource in resources {
        decision.resources.push(DecidedResource {
            id: resource.id.clone(),
            provider_resource_id: resource.provider_resource_id.clone(),
        });
        for integration in &resource.integrations {
            let reason = reason_for(question, key, integration);
            any_active |= integration.status == IntegrationStatus::Active;
            any_paused |= reason == "filtered:paused";
            decision.considered.push(Considered {
                integration_id: integration.id.clone(),
                workspace_id: integration.workspace.clone(),
                resource_id: resource.id.clone(),
                reason: reason.to_owned(),
            });
            if reason == "routed" {
                deliveries.push(PlannedDelivery {
                    integration: integration.id.clone(),
                    workspace: integration.workspace.clone(),
                    resource: resource.id.clone(),
                    destination: integration.destination.clone(),
                });
            }
        }
    }
    if !deliveries.is_empty() {
        (EventOutcome::Routed, None)
    } else if decision.considered.is_empty() {
        (EventOutcome::Unrouted, Some("no_integration"))
    } else if any_paused {
        (EventOutcome::Filtered, Some("paused"))
    } else if any_active {
        (EventOutcome::Filtered, Some("event_not_allowed"))
    } else {
        (EventOutcome::Unrouted, Some("no_active_integration"))
    }
}

fn matched_resources<'t>(wanted: Option<&[ProviderResourceId]>, table: &'t RouteTable) -> Vec<&'t ResourceRoute> {
    let mut matched: Vec<&ResourceRoute> = match wanted {
        Some(ids) => ids.iter().filter_map(|id| table.resources.get(id)).collect(),
        None => table.resources.values().collect(),
    };
    matched.retain(|resource| resource.status == ResourceStatus::Active);
    matched.sort_by(|a, b| a.id.cmp(&b.id));
    matched.dedup_by(|a, b| a.id == b.id);
    matched
}

fn reason_for(question: &Question<'_>, key: &EventKey, integration: &IntegrationRoute) -> &'static str {
    if let Insistence::On(wanted) = question.insistence {
        return match integration.status {
            _ if !wanted.contains(&integration.id) => "not_asked_for",
            IntegrationStatus::Active | IntegrationStatus::Paused => "routed",
            _ => "inactive_integration",
        };
    }
    let paused = integration.status == IntegrationStatus::Paused || !integration.rules.auto_sync;
    match integration.status {
        IntegrationStatus::Active | IntegrationStatus::Paused => {
            if paused && question.insistence != Insistence::PastPauses {
                "filtered:paused"
            } else if integration.rules.allows(key, question.also_keys, question.category) {
                "routed"
            } else {
                "filtered:event_not_allowed"
            }
        }
        _ => "inactive_integration",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::{
        ids::OrgId,
        integration::SyncRules,
        provider::{ExternalId, ProviderSlug},
    };

    fn integration(id: &str, status: IntegrationStatus, auto_sync: bool, events: &[&str]) -> IntegrationRoute {
        IntegrationRoute {
            id: IntegrationId::from_raw(id),
            workspace: WorkspaceId::from_raw("ws"),
            status,
            rules: SyncRules { events: events.iter().map(ToString::to_string).collect(), auto_sync },
            destination: None,
        }
    }

    fn table(status: InstallationStatus, resources: Vec<(&str, ResourceStatus, Vec<IntegrationRoute>)>) -> RouteTable {
        RouteTable {
            installation: InstallationId::from_raw("in_1"),
            provider: ProviderSlug("acme"),
            external_id: ExternalId::new("1"),
            alternate_external_id: None,
            org: OrgId::from_raw("org"),
            status,
            resources: resources
                .into_iter()
                .map(|(id, status, integrations)| {
                    let provider_resource_id = ProviderResourceId::new(id);
                    let route = ResourceRoute {
                        id: ResourceId::from_raw(format!("res_{id}")),
                        provider_resource_id: provider_resource_id.clone(),
                        status,
                        integrations,
                    };
                    (provider_resource_id, route)
                })
                .collect(),
            slugs: HashMap::new(),
        }
    }

    fn ask(table: Option<&RouteTable>, key: Option<&str>, resources: Option<&[&str]>, control: bool) -> Plan {
        ask_insisting(table, key, resources, control, Insistence::Nothing)
    }

    fn ask_insisting(
        table: Option<&RouteTable>,
        key: Option<&str>,
        resources: Option<&[&str]>,
        control: bool,
        insistence: Insistence<'_>,
    ) -> Plan {
        let key = key.map(EventKey::new);
        let ids: Option<Vec<_>> = resources.map(|ids| ids.iter().map(|id| ProviderResourceId::new(*id)).collect());
        plan(
            &Question {
                verified_by: &VerifiedBy::ServiceKey,
                key: key.as_ref(),
                also_keys: &[],
                category: "push",
                ping: false,
                control,
                resources: ids.as_deref(),
                insistence,
            },
            table.map(|table| (table, MatchedBy::ExternalId)),
        )
    }

    #[test]
    fn every_allowed_integration_of_every_workspace_gets_the_event_and_each_other_has_its_reason() {
        let table = table(
            InstallationStatus::Active,
            vec![(
                "r",
                ResourceStatus::Active,
                vec![
                    integration("int_a", IntegrationStatus::Active, true, &["acme:push"]),
                    integration("int_b", IntegrationStatus::Active, true, &["push"]),
                    integration("int_c", IntegrationStatus::Active, true, &[]),
                    integration("int_d", IntegrationStatus::Active, false, &["acme:push"]),
                    integration("int_e", IntegrationStatus::Disconnected, true, &["acme:push"]),
                ],
            )],
        );
        let plan = ask(Some(&table), Some("acme:push"), Some(&["r"]), false);
        assert_eq!(plan.outcome, EventOutcome::Routed);
        let to: Vec<_> = plan.deliveries.iter().map(|delivery| delivery.integration.as_str()).collect();
        assert_eq!(to, ["int_a", "int_b"]);
        let reasons: Vec<_> = plan.decision.considered.iter().map(|c| c.reason.as_str()).collect();
        assert_eq!(
            reasons,
            ["routed", "routed", "filtered:event_not_allowed", "filtered:paused", "inactive_integration"]
        );
    }

    #[test]
    fn a_replay_reaches_what_is_paused_and_still_asks_the_rules_unless_it_names_the_integration() {
        let table = table(
            InstallationStatus::Active,
            vec![(
                "r",
                ResourceStatus::Active,
                vec![
                    integration("int_a", IntegrationStatus::Active, false, &["acme:push"]),
                    integration("int_b", IntegrationStatus::Paused, true, &["acme:push"]),
                    integration("int_c", IntegrationStatus::Active, false, &["acme:other"]),
                    integration("int_d", IntegrationStatus::Disconnected, false, &["acme:push"]),
                ],
            )],
        );
        let named = ["int_b", "int_c", "int_d"].map(IntegrationId::from_raw);
        for (insistence, expected) in [
            (Insistence::Nothing, &[][..]),
            (Insistence::PastPauses, &["int_a", "int_b"]),
            (Insistence::On(&named), &["int_b", "int_c"]),
        ] {
            let plan = ask_insisting(Some(&table), Some("acme:push"), Some(&["r"]), false, insistence);
            let to: Vec<_> = plan.deliveries.iter().map(|delivery| delivery.integration.as_str()).collect();
            assert_eq!(to, expected, "{insistence:?}");
        }
    }

    #[test]
    fn each_way_of_not_being_routed_has_its_own_reason() {
        let active =
            |integrations| table(InstallationStatus::Active, vec![("r", ResourceStatus::Active, integrations)]);
        let cases = [
            (None, "no_installation"),
            (Some(table(InstallationStatus::Suspended, vec![])), "installation_suspended"),
            (Some(table(InstallationStatus::Active, vec![])), "no_resource"),
            (Some(table(InstallationStatus::Active, vec![("r", ResourceStatus::Removed, vec![])])), "no_resource"),
            (Some(active(vec![])), "no_integration"),
            (
                Some(active(vec![integration("int_a", IntegrationStatus::Removed, true, &["acme:push"])])),
                "no_active_integration",
            ),
        ];
        for (table, reason) in cases {
            let plan = ask(table.as_ref(), Some("acme:push"), Some(&["r"]), false);
            assert_eq!((plan.outcome, plan.reason), (EventOutcome::Unrouted, Some(reason)));
        }
    }

    #[test]
    fn an_event_that_names_no_resource_reaches_every_linked_one() {
        let subscriber = |id| integration(id, IntegrationStatus::Active, true, &["acme:push"]);
        let table = table(
            InstallationStatus::NeedsReauth,
            vec![
                ("r1", ResourceStatus::Active, vec![subscriber("int_1")]),
                ("r2", ResourceStatus::Active, vec![subscriber("int_2")]),
                ("r3", ResourceStatus::Removed, vec![subscriber("int_3")]),
            ],
        );
        let plan = ask(Some(&table), Some("acme:push"), None, false);
        let to: Vec<_> = plan.deliveries.iter().map(|delivery| delivery.integration.as_str()).collect();
        assert_eq!(to, ["int_1", "int_2"]);
    }

    #[test]
    fn an_unlisted_event_is_ignored_and_a_control_event_nobody_wants_is_control() {
        let table = table(InstallationStatus::Active, vec![]);
        assert_eq!(ask(Some(&table), None, None, false).outcome, EventOutcome::Ignored);
        assert_eq!(ask(None, None, None, false).outcome, EventOutcome::Ignored);
        assert_eq!(ask(Some(&table), None, None, true).outcome, EventOutcome::Control);
    }
}
