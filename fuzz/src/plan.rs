//! Planning: every integration of a matched resource gets exactly one reason, and only active ones that want an event get it.

use std::collections::{BTreeSet, HashMap};

use signalbox::{
    delivery::plan::{Insistence, MatchedBy, Question, VerifiedBy, plan},
    model::{
        event::{EventKey, EventOutcome},
        ids::{InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        installation::InstallationStatus,
        integration::{IntegrationStatus, SyncRules},
        provider::{ExternalId, ProviderResourceId, ProviderSlug},
        resource::ResourceStatus,
        routes::{IntegrationRoute, ResourceRoute, RouteTable},
    },
};

const KEYS: [&str; 4] = ["github:push", "push", "github:issue.opened", ""];

/// Bytes as a source of small numbers; zeroes when they are used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % limit
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

pub fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let table = table(&mut choices);
    let key = Some(choices.of(&KEYS)).filter(|key| !key.is_empty()).map(EventKey::new);
    let also: Vec<EventKey> = (0..choices.below(3)).map(|_| EventKey::new(choices.of(&KEYS))).collect();
    let asked: Vec<ProviderResourceId> =
        (0..choices.below(6)).map(|_| ProviderResourceId::new(choices.below(6).to_string())).collect();
    let wanted: Vec<IntegrationId> =
        (0..choices.below(4)).map(|_| IntegrationId::from_raw(format!("int_{}", choices.below(8)))).collect();
    let insistence = match choices.below(3) {
        0 => Insistence::Nothing,
        1 => Insistence::PastPauses,
        _ => Insistence::On(&wanted),
    };
    let (ping, control) = (choices.below(8) == 7, choices.below(4) == 3);
    let question = Question {
        verified_by: &VerifiedBy::ServiceKey,
        key: key.as_ref(),
        also_keys: &also,
        category: choices.of(&KEYS),
        ping,
        control,
        resources: (choices.below(4) > 0).then_some(&asked),
        insistence,
    };
    let found = (choices.below(8) > 0).then_some((&table, MatchedBy::ExternalId));
    let made = plan(&question, found);
    assert_eq!(made, plan(&question, found), "the same question, another answer");

    assert_eq!(made.outcome == EventOutcome::Routed, !made.deliveries.is_empty());
    let routes: HashMap<&IntegrationId, (&ResourceRoute, &IntegrationRoute)> = table
        .resources
        .values()
        .flat_map(|resource| resource.integrations.iter().map(move |route| (&route.id, (resource, route))))
        .collect();
    let considered: BTreeSet<_> = made.decision.considered.iter().map(|one| &one.integration_id).collect();
    assert_eq!(considered.len(), made.decision.considered.len(), "an integration has two reasons");
    let said = made.decision.considered.iter().filter(|one| one.reason == "routed");
    let said: BTreeSet<_> = said.map(|one| &one.integration_id).collect();
    let planned: BTreeSet<_> = made.deliveries.iter().map(|delivery| &delivery.integration).collect();
    assert_eq!(planned.len(), made.deliveries.len(), "an integration gets it twice");
    assert_eq!(planned, said, "what is planned is what is said");
    for delivery in &made.deliveries {
        let (resource, route) = routes[&delivery.integration];
        assert!(table.status.routes() && resource.status == ResourceStatus::Active && !ping);
        assert_eq!((&delivery.workspace, &delivery.resource), (&route.workspace, &resource.id));
        match insistence {
            Insistence::Nothing => assert!(route.status == IntegrationStatus::Active && route.rules.auto_sync),
            Insistence::PastPauses => {
                assert!(matches!(route.status, IntegrationStatus::Active | IntegrationStatus::Paused));
            }
            Insistence::On(wanted) => assert!(wanted.contains(&route.id)),
        }
    }
    if found.is_some() && table.status.routes() && key.is_some() && !ping {
        for resource in &made.decision.resources {
            let route = table.resources.get(&resource.provider_resource_id).expect("one of the table");
            for integration in &route.integrations {
                assert!(considered.contains(&integration.id), "{} has no reason", integration.id);
            }
        }
    }
}

fn table(choices: &mut Choices<'_>) -> RouteTable {
    let mut next = 0;
    let resources = (0..choices.below(5))
        .map(|number| {
            let provider_resource_id = ProviderResourceId::new(number.to_string());
            let integrations = (0..choices.below(5)).map(|_| {
                next += 1;
                IntegrationRoute {
                    id: IntegrationId::from_raw(format!("int_{next}")),
                    workspace: WorkspaceId::from_raw(format!("ws_{}", choices.below(3))),
                    status: choices.of(&IntegrationStatus::ALL),
                    rules: SyncRules {
                        events: (0..choices.below(3)).map(|_| choices.of(&KEYS).to_owned()).collect(),
                        auto_sync: choices.below(2) == 0,
                    },
                    destination: None,
                }
            });
            let integrations = integrations.collect();
            let route = ResourceRoute {
                id: ResourceId::from_raw(format!("res_{}", 9 - number)),
                provider_resource_id: provider_resource_id.clone(),
                status: choices.of(&[ResourceStatus::Active, ResourceStatus::Active, ResourceStatus::Removed]),
                integrations,
            };
            (provider_resource_id, route)
        })
        .collect();
    RouteTable {
        installation: InstallationId::from_raw("in_1"),
        provider: ProviderSlug("github"),
        external_id: ExternalId::new("1"),
        alternate_external_id: None,
        org: OrgId::from_raw("org_1"),
        status: choices.of(&InstallationStatus::ALL),
        resources,
        slugs: HashMap::new(),
    }
}
