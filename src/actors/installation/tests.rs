//! Edits and control changes on records, and the property that no order of them leaks an event to a foreign org.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{
    InstallationError,
    binding::{ProvedGrant, reconnect},
    confirmation, control,
    state::{self, Edit},
    teardown::{self, Tried},
};
use crate::{
    actors::{
        directory::{IntegrationPatch, LinkResource, SubscribeWorkspace, sole_owner},
        tokens::GrantVerdict,
    },
    delivery::plan::{MatchedBy, Question, VerifiedBy, plan},
    model::{
        clock::{EpochMs, Ids, ManualClock},
        event::{EventKey, EventOutcome},
        ids::{InstallationId, IntegrationId, OrgId, WorkspaceId},
        installation::{Installation, InstallationStatus},
        integration::IntegrationStatus,
        log_entry::Actor,
        provider::{ExternalId, ProviderDeliveryId, ProviderResourceId, ProviderSlug},
        resource::ResourceStatus,
        teardown::{StepStatus, TeardownStatus, TeardownStep},
        token::TokenEdit,
        webhook::Headers,
    },
    providers::{
        Category, ControlChange, Digest, EventSpec, ExtractError, Inbound, Provider, RemovalReason, ResourceFacts,
        SignatureScheme, connector::Account,
    },
    store::InstallationRecord,
};

const SCHEME: SignatureScheme =
    SignatureScheme { header: "x-acme", prefix: "", digest: Digest::Sha256, signed_timestamp: None };

/// A provider that only knows shapes.
pub(super) struct Acme;

impl Provider for Acme {
    fn slug(&self) -> ProviderSlug {
        ProviderSlug("acme")
    }
    fn name(&self) -> &'static str {
        "Acme"
    }
    fn resource_label(&self) -> &'static str {
        "repository"
    }
    fn events(&self) -> &'static [EventSpec] {
        &[]
    }
    fn categories(&self) -> &'static [Category] {
        &[]
    }
    fn scheme(&self) -> &SignatureScheme {
        &SCHEME
    }
    fn default_max_body_bytes(&self) -> usize {
        1024
    }
    fn delivery_id_is_unsigned(&self) -> bool {
        false
    }
    fn extract(&self, _headers: &Headers, _body: &Bytes) -> Result<Inbound, ExtractError> {
        Err(ExtractError::MissingHeader("x-acme"))
    }
    fn extract_trusted(&self, _: &str, _: &ProviderDeliveryId, _: &Bytes) -> Result<Inbound, ExtractError> {
        Err(ExtractError::MissingHeader("x-acme"))
    }
    fn source_config(&self, of: &ResourceFacts<'_>) -> Map<String, Value> {
        let mut config = Map::new();
        config.insert("repoId".into(), of.provider_resource_id.as_str().into());
        config.insert("repoFullName".into(), of.name.map_or(Value::Null, Value::from));
        config
    }
}

struct World {
    ids: Ids,
    actor: Actor,
    tells_backfill: bool,
}

impl World {
    fn new() -> Self {
        Self {
            ids: Ids::new(Arc::new(ManualClock::starting_at(EpochMs(1_000)))),
            actor: Actor::system(),
            tells_backfill: false,
        }
    }

    fn edit(&self) -> Edit<'_> {
        Edit {
            now: EpochMs(2_000),
            ids: &self.ids,
            actor: &self.actor,
            provider: &Acme,
            tells_backfill: self.tells_backfill,
        }
    }

    fn record(&self, org: &str, external_id: &str) -> InstallationRecord {
        InstallationRecord {
            installation: Installation {
                id: self.ids.installation(),
                provider: ProviderSlug("acme"),
                external_id: ExternalId::new(external_id),
                alternate_external_id: None,
                account_login: None,
                org: OrgId::from_raw(org),
                connected_by: "user".into(),
                status: InstallationStatus::Active,
                status_reason: None,
                metadata: Map::new(),
                provider_account_info: None,
                control_at: None,
                last_event_at: None,
                created_at: EpochMs(1_000),
                updated_at: EpochMs(1_000),
            },
            resources: Vec::new(),
            integrations: Vec::new(),
            destinations: Vec::new(),
            teardown: None,
            token: TokenEdit::Keep,
            log: Vec::new(),
        }
    }
}

fn link(id: &str) -> LinkResource {
    LinkResource { provider_resource_id: ProviderResourceId::new(id), name: None, slug: None, attrs: Map::new() }
}

fn subscription(workspace: &str, resource: &str) -> SubscribeWorkspace {
    SubscribeWorkspace {
        workspace: WorkspaceId::from_raw(workspace),
        resources: vec![link(resource)],
        events: vec!["acme:push".into()],
    }
}

/// Which integrations an `acme:push` of this account and resource reaches, over all records.
fn deliver(
    records: &[InstallationRecord],
    account: Option<&str>,
    resource: &str,
) -> Vec<(InstallationId, IntegrationId)> {
    let resource = ProviderResourceId::new(resource);
    let key = EventKey::new("acme:push");
    let live = records.iter().filter(|r| r.installation.status != InstallationStatus::Revoked);
    let found = match account {
        Some(account) => live.into_iter().find(|r| r.installation.external_id.as_str() == account),
        None => sole_owner(
            live.filter(|r| r.installation.status.routes())
                .filter(|r| {
                    r.resources
                        .iter()
                        .any(|known| known.provider_resource_id == resource && known.status == ResourceStatus::Active)
                })
                .collect(),
        ),
    };
    let table = found.map(|record| state::route_table(record, None));
    let resources = [resource];
    let question = Question {
        verified_by: &VerifiedBy::ServiceKey,
        key: Some(&key),
        also_keys: &[],
        category: "push",
        ping: false,
        control: false,
        resources: Some(&resources),
        insistence: crate::delivery::plan::Insistence::Nothing,
    };
    let plan = plan(&question, table.as_ref().map(|table| (table, MatchedBy::ExternalId)));
    assert_eq!(plan.outcome == EventOutcome::Routed, !plan.deliveries.is_empty());
    let installation = plan.decision.installation.map(|decided| decided.id);
    plan.deliveries
        .into_iter()
        .map(|d| (installation.clone().expect("a delivery has an installation"), d.integration))
        .collect()
}

#[test]
fn linking_twice_is_a_conflict_and_linking_again_after_unlinking_revives_the_row() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    let first = state::link_resource(&mut record, &link("r"), &world.edit()).expect("linked");
    let again = state::link_resource(&mut record, &link("r"), &world.edit());
    assert!(matches!(again, Err(InstallationError::ResourceAlreadyLinked(id)) if id == first.id));
    state::unlink_resource(&mut record, &first.id, &world.edit()).expect("unlinked");
    let gone = state::unlink_resource(&mut record, &first.id, &world.edit());
    assert!(matches!(gone, Err(InstallationError::AlreadyRemoved)));
    let revived = state::link_resource(&mut record, &link("r"), &world.edit()).expect("linked again");
    assert_eq!(revived.id, first.id);
    assert_eq!(record.resources.len(), 1);
}

#[test]
fn an_edit_of_what_was_seen_is_made_only_while_nothing_has_changed_since() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    let seen = record.installation.clone();
    let dead = |record: &mut InstallationRecord, edit: &Edit<'_>| control::judge(record, GrantVerdict::Dead, edit);
    record.installation.updated_at = EpochMs(1_001);
    let connected_anew = record.clone();
    assert!(!state::if_as_seen(&seen, dead)(&mut record, &world.edit()).expect("no refusal"));
    assert_eq!(record, connected_anew);
    assert!(state::if_as_seen(&record.installation.clone(), dead)(&mut record, &world.edit()).expect("no refusal"));
    assert_eq!(record.installation.status, InstallationStatus::NeedsReauth);
}

#[test]
fn a_slug_is_that_of_the_linked_resource_and_not_of_one_that_was_removed() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    let slugged = |id: &str| LinkResource { slug: Some("web".into()), ..link(id) };
    state::link_resource(&mut record, &slugged("live"), &world.edit()).expect("linked");
    let removed = state::link_resource(&mut record, &slugged("removed"), &world.edit()).expect("linked");
    state::unlink_resource(&mut record, &removed.id, &world.edit()).expect("unlinked");
    let table = state::route_table(&record, None);
    assert_eq!(table.slugs.get("web"), Some(&ProviderResourceId::new("live")));
}

#[test]
fn only_an_active_installation_accepts_links() {
    let world = World::new();
    for status in [InstallationStatus::Pending, InstallationStatus::Suspended, InstallationStatus::Revoked] {
        let mut record = world.record("org_a", "1");
        record.installation.status = status;
        let refused = state::link_resource(&mut record, &link("r"), &world.edit());
        assert!(matches!(refused, Err(InstallationError::NotActive(of)) if of == status));
    }
}

#[test]
fn a_patch_keeps_everything_else_of_the_source_config() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    let done = state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    let id = done.integrations[0].0.id.clone();
    record.integrations[0].source_config.insert("status".into(), json!({"configStatus": "configured"}));
    let patch = IntegrationPatch { events: None, auto_sync: Some(false) };
    let patched = state::patch_integration(&mut record, &id, &patch, &world.edit()).expect("patched");
    assert_eq!(patched.source_config["status"], json!({"configStatus": "configured"}));
    assert_eq!(patched.source_config["sync"], json!({"events": ["acme:push"], "autoSync": false}));
}

#[test]
fn subscribing_again_skips_the_active_and_revives_the_ended() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    let first = state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    let second = state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    assert_eq!((second.created, second.reactivated, second.skipped), (0, 0, 1));
    let id = &first.integrations[0].0.id;
    state::end_integration(&mut record, id, IntegrationStatus::Disconnected, &world.edit()).expect("ended");
    let third = state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    assert_eq!((third.created, third.reactivated, third.skipped), (0, 1, 0));
    assert_eq!(third.integrations[0].0.id, *id);
}

#[test]
fn only_the_person_who_connected_can_lose_the_connection_its_access() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    record.installation.connected_by = "me".into();
    let ended = |person: &str| [ControlChange::InstallationNeedsReauth { person: person.into() }];
    let before = record.clone();
    control::apply(&mut record, &ended("a colleague"), Some(EpochMs(20)), &world.edit());
    assert_eq!(record, before);
    control::apply(&mut record, &ended("me"), Some(EpochMs(10)), &world.edit());
    assert_eq!(record.installation.status, InstallationStatus::NeedsReauth);

    let mut record = world.record("org_a", "1");
    record.installation.metadata.insert("providerUserId".into(), json!("u1"));
    control::apply(&mut record, &ended("u1"), None, &world.edit());
    assert_eq!(record.installation.status, InstallationStatus::NeedsReauth);
}

#[test]
fn a_suspension_that_ends_does_not_mend_access_that_was_lost_before_it_or_in_it() {
    let world = World::new();
    let lost = ControlChange::InstallationNeedsReauth { person: "me".into() };
    let (suspended, resumed) = (ControlChange::InstallationSuspended, ControlChange::InstallationResumed);
    for (order, after) in [
        ([&lost, &suspended, &resumed].as_slice(), InstallationStatus::NeedsReauth),
        ([&suspended, &lost, &resumed].as_slice(), InstallationStatus::NeedsReauth),
        ([&suspended, &resumed].as_slice(), InstallationStatus::Active),
    ] {
        let mut record = world.record("org_a", "1");
        record.installation.connected_by = "me".into();
        for change in order {
            control::apply(&mut record, std::slice::from_ref(*change), None, &world.edit());
        }
        assert_eq!(record.installation.status, after, "{order:?}");
    }
}

#[test]
fn control_changes_are_idempotent_and_older_ones_do_not_undo_newer_ones() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    let suspend = [ControlChange::InstallationSuspended];
    control::apply(&mut record, &suspend, Some(EpochMs(20)), &world.edit());
    assert_eq!(record.integrations[0].status, IntegrationStatus::Suspended);
    let suspended = record.clone();
    control::apply(&mut record, &suspend, Some(EpochMs(20)), &world.edit());
    assert_eq!(record, suspended);
    // The resume of before the suspension arrives late.
    control::apply(&mut record, &[ControlChange::InstallationResumed], Some(EpochMs(10)), &world.edit());
    assert_eq!(record.installation.status, InstallationStatus::Suspended);
    control::apply(&mut record, &[ControlChange::InstallationResumed], Some(EpochMs(30)), &world.edit());
    assert_eq!(record.installation.status, InstallationStatus::Active);
    assert_eq!(record.integrations[0].status, IntegrationStatus::Active);
    control::apply(&mut record, &[ControlChange::InstallationRevoked], Some(EpochMs(40)), &world.edit());
    assert_eq!(record.installation.status, InstallationStatus::Revoked);
    finish_teardown(&mut record, &world);
    assert_eq!(record.resources[0].status, ResourceStatus::Removed);
    assert_eq!(record.integrations[0].status, IntegrationStatus::Revoked);
    control::apply(&mut record, &[ControlChange::InstallationResumed], Some(EpochMs(50)), &world.edit());
    assert_eq!(record.installation.status, InstallationStatus::Revoked);
}

#[test]
fn a_renamed_resource_carries_its_name_into_the_source_config_of_its_integrations() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    let renamed = ControlChange::ResourceChanged {
        id: ProviderResourceId::new("r"),
        name: Some("acme/new".into()),
        slug: None,
        attrs: Map::new(),
    };
    control::apply(&mut record, &[renamed], Some(EpochMs(5)), &world.edit());
    assert_eq!(record.integrations[0].source_config["repoFullName"], json!("acme/new"));
    assert_eq!(record.integrations[0].source_config["sync"]["events"], json!(["acme:push"]));
}

#[test]
fn new_facts_of_many_resources_reach_each_of_them_with_its_integrations_and_nothing_else() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    for number in 0..300 {
        for workspace in ["ws_1", "ws_2"] {
            let wanted = subscription(workspace, &number.to_string());
            state::subscribe(&mut record, &wanted, &world.edit()).expect("subscribed");
        }
    }
    record.resources[0].control_at = Some(EpochMs(7));
    let unlinked = record.resources[1].id.clone();
    state::unlink_resource(&mut record, &unlinked, &world.edit()).expect("unlinked");
    record.resources[2].name = Some("acme/2".into());
    record.log.clear();
    let before = record.clone();

    // Every second one, and one that is not linked; in an order of their own.
    let told = |number: u32| control::NewFacts {
        id: ProviderResourceId::new(number.to_string()),
        name: Some(format!("acme/{number}")),
        slug: None,
        attrs: Map::new(),
    };
    let news: Vec<_> = std::iter::once(1).chain((0..=300).rev().step_by(2)).map(told).collect();
    control::change_resources(&mut record, &news, Some(EpochMs(6)), &world.edit());

    let mut changed = Vec::new();
    for (at, (resource, was)) in record.resources.iter().zip(&before.resources).enumerate() {
        // The first is known newer, the second is not linked any more, of the third nothing is new.
        let is_changed = at % 2 == 0 && at > 2;
        let name = Some(format!("acme/{at}")).filter(|_| is_changed || at == 2);
        assert_eq!(resource.name, name, "{at}");
        let noted = Some(EpochMs(6)).filter(|_| is_changed || at == 2);
        assert_eq!(resource.control_at, noted.or(was.control_at), "{at}");
        changed.extend(is_changed.then(|| resource.id.clone()));
    }
    for (integration, was) in record.integrations.iter().zip(&before.integrations) {
        let resource = record.resources.iter().find(|row| row.id == integration.resource).expect("its resource");
        if changed.contains(&resource.id) {
            assert_eq!(integration.source_config["repoFullName"], json!(resource.name));
            assert_eq!(integration.source_config["sync"], was.source_config["sync"]);
        } else {
            assert_eq!(integration, was);
        }
    }
    let logged: Vec<_> = record.log.iter().map(|entry| (entry.action.as_str(), entry.subject.clone())).collect();
    let expected: Vec<_> = changed.iter().map(|id| ("resource.changed", Some(id.to_string()))).collect();
    assert_eq!(logged, expected);
}

#[test]
fn a_deleted_resource_ends_its_integrations_as_deleted() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    let deleted =
        ControlChange::ResourcesRemoved { ids: vec![ProviderResourceId::new("r")], reason: RemovalReason::Deleted };
    control::apply(&mut record, &[deleted], None, &world.edit());
    assert_eq!(record.integrations[0].status, IntegrationStatus::Deleted);
    assert!(deliver(&[record], Some("1"), "r").is_empty());
}

#[test]
fn a_pending_installation_is_asked_after_ever_more_seldom_and_never_again_once_it_is_refused() {
    const TURN: Duration = Duration::from_secs(15);
    let mut installation = World::new().record("org", "1").installation;
    let awaited = |installation: &Installation, turns: u32| {
        confirmation::is_awaited(installation, installation.updated_at.plus(TURN * turns), TURN)
    };
    assert!(!awaited(&installation, 0), "it is active");
    installation.status = InstallationStatus::Pending;
    installation.status_reason = Some("imported_pending".into());
    let asked: Vec<u32> = (0..=720).filter(|turns| awaited(&installation, *turns)).collect();
    assert_eq!(asked, [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 240, 256, 480, 512, 720]);
    installation.status_reason = Some("confirmation_refused".into());
    assert!((0..=720).all(|turns| !awaited(&installation, turns)));
}

/// What GitHub says when repositories come into the grant's reach or leave it: about the installation first.
fn reach_changed(change: ControlChange) -> [ControlChange; 2] {
    [ControlChange::InstallationConfirmed { account_login: None, metadata: Map::new() }, change]
}

#[test]
fn a_resource_that_leaves_the_grants_reach_is_removed_however_lately_it_changed_itself() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    let id = ProviderResourceId::new("r");
    let renamed = |name: &str| ControlChange::ResourceChanged {
        id: id.clone(),
        name: Some(name.into()),
        slug: None,
        attrs: Map::new(),
    };
    control::apply(&mut record, &[renamed("acme/new")], Some(EpochMs(50)), &world.edit());
    let lost = ControlChange::ResourcesRemoved { ids: vec![id.clone()], reason: RemovalReason::AccessLost };
    control::apply(&mut record, &reach_changed(lost), Some(EpochMs(80)), &world.edit());
    let lost = (record.resources[0].status, record.integrations[0].status);
    assert_eq!(lost, (ResourceStatus::Removed, IntegrationStatus::Removed));

    // Linked again: its own changes are compared with each other, not with the grant's.
    state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    control::apply(&mut record, &[renamed("acme/old")], Some(EpochMs(40)), &world.edit());
    assert_eq!(record.resources[0].name.as_deref(), Some("acme/new"));
    control::apply(&mut record, &[renamed("acme/newer")], Some(EpochMs(60)), &world.edit());
    assert_eq!(record.resources[0].name.as_deref(), Some("acme/newer"));

    let lost = ControlChange::ResourcesRemoved { ids: vec![id.clone()], reason: RemovalReason::AccessLost };
    control::apply(&mut record, &[renamed("acme/newest")], Some(EpochMs(200)), &world.edit());
    control::apply(&mut record, &reach_changed(lost), Some(EpochMs(90)), &world.edit());
    assert_eq!(record.resources[0].status, ResourceStatus::Removed, "the repository's clock does not count");
}

#[test]
fn what_comes_late_about_the_grants_reach_does_not_undo_what_was_said_since() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    let ids = vec![ProviderResourceId::new("r")];
    let added = reach_changed(ControlChange::ResourcesAdded { ids: ids.clone() });
    let lost = reach_changed(ControlChange::ResourcesRemoved { ids, reason: RemovalReason::AccessLost });
    let subscribe = |record: &mut InstallationRecord| {
        state::subscribe(record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    };
    let tell = |record: &mut InstallationRecord, changes: &[ControlChange], at: i64| {
        control::apply(record, changes, Some(EpochMs(at)), &world.edit());
        record.resources[0].status
    };
    subscribe(&mut record);
    assert_eq!(tell(&mut record, &lost, 20), ResourceStatus::Removed);
    assert_eq!(tell(&mut record, &added, 10), ResourceStatus::Removed, "an addition links nothing");
    assert_eq!(tell(&mut record, &added, 40), ResourceStatus::Removed);
    subscribe(&mut record);
    assert_eq!(tell(&mut record, &lost, 30), ResourceStatus::Active, "it was added again since");
    // Both in one saving of the selection, in any order.
    assert_eq!(tell(&mut record, &added, 50), ResourceStatus::Active);
    assert_eq!(tell(&mut record, &lost, 50), ResourceStatus::Removed);

    // What was said of another resource, or of the whole grant, is no later word on this one.
    let other = ControlChange::ResourcesRemoved {
        ids: vec![ProviderResourceId::new("other")],
        reason: RemovalReason::AccessLost,
    };
    subscribe(&mut record);
    assert_eq!(tell(&mut record, &reach_changed(other), 90), ResourceStatus::Active);
    assert_eq!(tell(&mut record, &lost, 60), ResourceStatus::Removed);

    // Where a removal says nothing else (Linear), it is remembered all the same.
    subscribe(&mut record);
    assert_eq!(tell(&mut record, &lost[1..], 70), ResourceStatus::Removed);
    subscribe(&mut record);
    assert_eq!(tell(&mut record, &lost[1..], 60), ResourceStatus::Active);
}

/// Settles every step that is left, as the node that has the lease.
fn finish_teardown(record: &mut InstallationRecord, world: &World) {
    while let Some(step) = record.teardown.as_ref().and_then(teardown::next_step) {
        lease(record);
        assert!(teardown::settle(record, step, Tried::Done(None), "node-1", &world.edit()));
    }
}

fn lease(record: &mut InstallationRecord) {
    record.teardown.as_mut().expect("a teardown").lease_owner = Some("node-1".into());
}

#[test]
fn a_teardown_closes_the_gate_first_and_its_last_step_makes_it_the_receipt() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    let begun = teardown::begin(&mut record, teardown::DISCONNECTED, &world.edit());
    assert_eq!(record.installation.status, InstallationStatus::Revoked);
    assert_eq!(record.installation.status_reason.as_deref(), Some("disconnected"));
    assert!(deliver(std::slice::from_ref(&record), Some("1"), "r").is_empty());
    assert_eq!(begun.steps[0].status, StepStatus::Done);
    assert!(begun.steps[1..].iter().all(|step| step.status == StepStatus::Pending));
    assert_eq!(record.integrations[0].status, IntegrationStatus::Active, "not its turn yet");
    // Whoever asks again, and whoever comes without the lease, changes nothing.
    assert_eq!(teardown::begin(&mut record, "another", &world.edit()), begun);
    assert!(!teardown::settle(&mut record, TeardownStep::CancelBackfill, Tried::Done(None), "node-1", &world.edit()));
    lease(&mut record);
    assert!(!teardown::settle(&mut record, TeardownStep::DeleteToken, Tried::Done(None), "node-1", &world.edit()));
    assert_eq!(record.token, TokenEdit::Keep);
    finish_teardown(&mut record, &world);
    let receipt = record.teardown.clone().expect("the receipt");
    assert_eq!((receipt.status, receipt.finished_at), (TeardownStatus::Completed, Some(EpochMs(2_000))));
    assert_eq!((record.token.clone(), record.resources[0].status), (TokenEdit::Delete, ResourceStatus::Removed));
    assert_eq!(record.integrations[0].status, IntegrationStatus::Revoked);
    let told: Vec<_> = record.log.iter().filter(|entry| entry.action == "teardown.completed").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(teardown::begin(&mut record, "another", &world.edit()), receipt, "an ended one is answered as it is");
}

#[test]
fn nothing_is_revoked_at_a_provider_that_ended_the_grant_itself() {
    for tells_backfill in [false, true] {
        let world = World { tells_backfill, ..World::new() };
        let mut record = world.record("org_a", "1");
        state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
        control::apply(&mut record, &[ControlChange::InstallationRevoked], None, &world.edit());
        let teardown = record.teardown.expect("a teardown");
        let revoke = teardown.steps.iter().find(|step| step.step == TeardownStep::RevokeToken).expect("the step");
        assert_eq!((revoke.status, revoke.detail.as_deref()), (StepStatus::Skipped, Some("provider_revoked")));
        // Nobody has to help with the rest, except the backfill service where there is one.
        let is_over = teardown.status == TeardownStatus::Completed;
        assert_eq!(
            (is_over, record.resources[0].status == ResourceStatus::Removed),
            (!tells_backfill, !tells_backfill)
        );
        assert_eq!(record.token, if tells_backfill { TokenEdit::Keep } else { TokenEdit::Delete });
    }
}

#[test]
fn a_step_that_others_have_to_help_with_is_given_up_after_about_two_minutes() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    let mut teardown = teardown::begin(&mut record, teardown::DISCONNECTED, &world.edit());
    let (mut now, mut pauses_s) = (teardown.started_at, Vec::new());
    loop {
        teardown.lease_owner = Some("node-1".into());
        assert!(teardown::record_try(&mut teardown, TeardownStep::CancelBackfill, Tried::Failed("no"), "node-1", now));
        assert_eq!(teardown.lease_owner, None);
        if teardown.steps[1].status == StepStatus::GaveUp {
            break;
        }
        pauses_s.push(teardown.due_at.since(now).as_secs());
        now = teardown.due_at;
    }
    assert_eq!(pauses_s, [2, 5, 10, 20, 40, 45]);
    assert_eq!((teardown.steps[1].attempts, teardown.steps[1].detail.as_deref()), (7, Some("no")));
    assert_eq!(teardown::next_step(&teardown), Some(TeardownStep::RevokeToken), "the others are not given up with it");
}

#[test]
fn connecting_again_ends_a_teardown_and_its_runner_settles_nothing_more() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    teardown::begin(&mut record, teardown::DISCONNECTED, &world.edit());
    lease(&mut record);
    let ended = record.teardown.as_mut().expect("a teardown");
    teardown::supersede(ended, EpochMs(9));
    assert_eq!((ended.status, ended.finished_at), (TeardownStatus::Completed, Some(EpochMs(9))));
    assert!(ended.steps[1..].iter().all(|step| step.detail.as_deref() == Some("reconnected")));
    let receipt = ended.clone();
    teardown::supersede(ended, EpochMs(10));
    assert_eq!(*ended, receipt, "once");
    assert!(!teardown::settle(&mut record, TeardownStep::CancelBackfill, Tried::Done(None), "node-1", &world.edit()));
}

#[test]
fn a_verdict_about_the_grant_moves_the_installation_and_says_why() {
    for (verdict, status, reason) in [
        (GrantVerdict::Dead, InstallationStatus::NeedsReauth, "token_rejected"),
        (GrantVerdict::Suspended, InstallationStatus::Suspended, "provider_suspended"),
        (GrantVerdict::Gone, InstallationStatus::Revoked, "provider_revoked"),
    ] {
        let world = World::new();
        let mut record = world.record("org_a", "1");
        for _again in 0..2 {
            control::judge(&mut record, verdict, &world.edit());
        }
        assert_eq!(record.installation.status, status);
        assert_eq!(record.installation.status_reason.as_deref(), Some(reason));
        let told: Vec<_> = record.log.iter().filter(|entry| entry.to_state.is_some()).collect();
        assert_eq!(told.len(), 1, "once in the log");
        assert_eq!(record.teardown.is_some(), verdict == GrantVerdict::Gone);
    }
}

#[derive(Debug, Clone)]
enum Act {
    Link(usize, u8),
    Unlink(usize, u8),
    Subscribe(usize, u8),
    End(usize, u8),
    Suspend(usize),
    Resume(usize),
    Revoke(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let (side, resource) = (0..2_usize, 0..3_u8);
    prop_oneof![
        3 => (side.clone(), resource.clone()).prop_map(|(s, r)| Act::Link(s, r)),
        1 => (side.clone(), resource.clone()).prop_map(|(s, r)| Act::Unlink(s, r)),
        4 => (side.clone(), resource.clone()).prop_map(|(s, r)| Act::Subscribe(s, r)),
        1 => (side.clone(), resource).prop_map(|(s, r)| Act::End(s, r)),
        1 => side.clone().prop_map(Act::Suspend),
        1 => side.clone().prop_map(Act::Resume),
        1 => side.prop_map(Act::Revoke),
    ]
}

fn perform(world: &World, records: &mut [InstallationRecord; 2], act: &Act) {
    let name = |r: u8| format!("r{r}");
    let orgs = ["ws_a", "ws_b"];
    match act {
        Act::Link(side, r) => {
            if let Err(error) = state::link_resource(&mut records[*side], &link(&name(*r)), &world.edit()) {
                assert_ne!(error.code(), "internal_error");
            }
        }
        Act::Unlink(side, r) => {
            let id = records[*side].resources.iter().find(|k| k.provider_resource_id.as_str() == name(*r));
            if let Some(id) = id.map(|resource| resource.id.clone())
                && let Err(error) = state::unlink_resource(&mut records[*side], &id, &world.edit())
            {
                assert_eq!(error.code(), "already_removed");
            }
        }
        Act::Subscribe(side, r) => {
            let request = subscription(orgs[*side], &name(*r));
            if let Err(error) = state::subscribe(&mut records[*side], &request, &world.edit()) {
                assert_eq!(error.code(), "installation_not_active");
            }
        }
        Act::End(side, r) => {
            let id = records[*side].integrations.get(usize::from(*r)).map(|i| i.id.clone());
            if let Some(id) = id {
                state::end_integration(&mut records[*side], &id, IntegrationStatus::Disconnected, &world.edit())
                    .expect("it is there");
            }
        }
        Act::Suspend(side) => {
            control::apply(&mut records[*side], &[ControlChange::InstallationSuspended], None, &world.edit());
        }
        Act::Resume(side) => {
            control::apply(&mut records[*side], &[ControlChange::InstallationResumed], None, &world.edit());
        }
        Act::Revoke(side) => {
            control::apply(&mut records[*side], &[ControlChange::InstallationRevoked], None, &world.edit());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Two orgs link and subscribe to the same foreign ids in any order: an event that names an account reaches that
    /// account's org only; one that names none reaches nobody unless exactly one routing installation has the resource.
    #[test]
    fn no_order_of_edits_leaks_an_event_to_a_foreign_org(acts in prop::collection::vec(act(), 1..12)) {
        let world = World::new();
        let mut records = [world.record("org_a", "1"), world.record("org_b", "2")];
        for act in &acts {
            perform(&world, &mut records, act);
        }
        for resource in ["r0", "r1", "r2"] {
            for (side, account) in ["1", "2"].into_iter().enumerate() {
                let own = &records[side];
                for (installation, integration) in deliver(&records, Some(account), resource) {
                    prop_assert_eq!(&installation, &own.installation.id);
                    prop_assert!(own.integrations.iter().any(|i| i.id == integration));
                }
            }
            let owners = records
                .iter()
                .filter(|r| r.installation.status.routes())
                .filter(|r| r.resources.iter().any(|k| {
                    k.provider_resource_id.as_str() == resource && k.status == ResourceStatus::Active
                }))
                .count();
            if owners != 1 {
                prop_assert!(deliver(&records, None, resource).is_empty());
            }
        }
    }
}

fn grant(org: &str) -> ProvedGrant {
    ProvedGrant {
        org: OrgId::from_raw(org),
        alternate_external_id: Some(ExternalId::new("icfg_2")),
        account: Account { login: Some("harborworks".into()), ..Account::default() },
        status: InstallationStatus::Active,
        token: None,
        connected_by: "user_7".into(),
        is_update: false,
        action: "installation.reconnected",
        shares_id: true,
    }
}

#[test]
fn a_fresh_grant_gives_a_row_of_the_same_org_its_facts_and_its_state() {
    let world = World::new();
    for status in InstallationStatus::ALL {
        let mut record = world.record("org_a", "1");
        let id = record.installation.id.clone();
        record.installation.status = status;
        record.installation.metadata.insert("accessLost".into(), true.into());
        let row = reconnect(&mut record, grant("org_a"), &world.edit()).expect("its own");
        assert_eq!((row.id, row.status), (id, InstallationStatus::Active));
        assert_eq!(row.alternate_external_id, Some(ExternalId::new("icfg_2")));
        assert_eq!((row.account_login.as_deref(), row.connected_by.as_str()), (Some("harborworks"), "user_7"));
        assert!(!row.metadata.contains_key("accessLost"));
        assert_eq!(row.control_at, Some(EpochMs(2_000)));
        let entry = record.log.last().expect("an entry");
        assert_eq!((entry.from_state.as_deref(), entry.to_state.as_deref()), (Some(status.as_str()), Some("active")));
    }
}

#[test]
fn a_grant_that_the_provider_has_paused_pauses_what_lives_from_it_until_the_next_one() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    let mut paused = grant("org_a");
    paused.account.suspended = true;
    reconnect(&mut record, paused, &world.edit()).expect("its own");
    assert_eq!(record.installation.status, InstallationStatus::Suspended);
    assert_eq!(record.integrations[0].status, IntegrationStatus::Suspended);
    reconnect(&mut record, grant("org_a"), &world.edit()).expect("its own");
    assert_eq!(record.installation.status, InstallationStatus::Active);
    assert_eq!(record.integrations[0].status, IntegrationStatus::Active);
}

#[test]
fn a_grant_that_is_only_unconfirmed_makes_nothing_pending_that_was_confirmed_before() {
    use InstallationStatus::{Active, NeedsReauth, Pending, Revoked, Suspended};
    let world = World::new();
    for (before, expected) in
        [(Active, Active), (NeedsReauth, Active), (Pending, Pending), (Suspended, Pending), (Revoked, Pending)]
    {
        let mut record = world.record("org_a", "1");
        record.installation.status = before;
        let unconfirmed = ProvedGrant { status: Pending, ..grant("org_a") };
        let row = reconnect(&mut record, unconfirmed.clone(), &world.edit()).expect("its own");
        assert_eq!((row.status, row.status_reason), (expected, None), "{before}");
        // One whose grant died before it was confirmed has never been in use.
        control::begins(Some(Revoked), &mut record.installation);
        control::judge(&mut record, GrantVerdict::Dead, &world.edit());
        let row = reconnect(&mut record, unconfirmed, &world.edit()).expect("its own");
        assert_eq!(row.status, expected, "{before}");
    }
}

#[test]
fn a_connection_begins_once_when_it_is_active_for_the_first_time() {
    use InstallationStatus::{Active, NeedsReauth, Pending, Revoked, Suspended};
    let world = World::new();
    for (way, begun) in [
        (&[Active, NeedsReauth, Active, Suspended, Active][..], 1),
        (&[Active, Revoked, Active, Active], 2),
        (&[Pending, Pending, Active, Active], 1),
        (&[Pending, NeedsReauth, Suspended, Active, Suspended, Active], 1),
        (&[Suspended, Active], 1),
        (&[Suspended, Suspended, Revoked], 0),
        (&[Active, Revoked, Suspended, Active, Suspended, Active], 2),
    ] {
        let mut installation = world.record("org_a", "1").installation;
        let mut before = None;
        let mut count = 0;
        for status in way {
            installation.status = *status;
            count += usize::from(control::begins(before, &mut installation));
            before = Some(*status);
        }
        assert_eq!(count, begun, "{way:?}");
    }
}

#[test]
fn whoever_changes_what_a_live_installation_covers_did_not_connect_it() {
    let world = World::new();
    for (status, connected_by) in [(InstallationStatus::Active, "user"), (InstallationStatus::Revoked, "user_7")] {
        let mut record = world.record("org_a", "1");
        record.installation.status = status;
        let update = ProvedGrant { is_update: true, ..grant("org_a") };
        let row = reconnect(&mut record, update, &world.edit()).expect("its own");
        assert_eq!((row.connected_by.as_str(), row.account_login.as_deref()), (connected_by, Some("harborworks")));
    }
}

#[test]
fn a_grant_of_another_org_changes_nothing() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    let before = record.clone();
    let refused = reconnect(&mut record, grant("org_b"), &world.edit());
    assert!(matches!(refused, Err(InstallationError::AlreadyBound)));
    assert_eq!(record, before);
}

#[test]
fn a_revoked_row_that_lives_again_ends_its_teardown_and_ignores_late_news_of_its_end() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    teardown::begin(&mut record, teardown::DISCONNECTED, &world.edit());
    reconnect(&mut record, grant("org_a"), &world.edit()).expect("its own");
    let receipt = record.teardown.as_ref().expect("the receipt");
    assert_eq!(receipt.status, TeardownStatus::Completed);
    assert!(receipt.steps[1..].iter().all(|step| step.status == StepStatus::Skipped));
    control::apply(&mut record, &[ControlChange::InstallationRevoked], Some(EpochMs(1_999)), &world.edit());
    assert_eq!(record.installation.status, InstallationStatus::Active, "the provider told of the former end");
    control::apply(&mut record, &[ControlChange::InstallationRevoked], Some(EpochMs(2_001)), &world.edit());
    assert_eq!(record.installation.status, InstallationStatus::Revoked);
}

#[test]
fn an_end_counts_from_the_grant_on_whatever_was_told_of_it_since() {
    let world = World::new();
    let confirmed = ControlChange::InstallationConfirmed { account_login: None, metadata: Map::new() };
    for granted in [false, true] {
        let mut record = world.record("org_a", "1");
        if granted {
            reconnect(&mut record, grant("org_a"), &world.edit()).expect("its own");
        }
        control::apply(&mut record, std::slice::from_ref(&confirmed), Some(EpochMs(5_000)), &world.edit());
        control::apply(&mut record, &[ControlChange::InstallationRevoked], Some(EpochMs(2_001)), &world.edit());
        assert_eq!(record.installation.status, InstallationStatus::Revoked, "granted anew: {granted}");
    }
}

#[test]
fn what_names_a_grant_by_its_new_alternate_id_is_of_that_grant_however_old_it_says_that_it_is() {
    let world = World::new();
    for (held, expected) in [("icfg_1", InstallationStatus::Revoked), ("icfg_2", InstallationStatus::Active)] {
        let mut record = world.record("org_a", "1");
        record.installation.alternate_external_id = Some(ExternalId::new(held));
        reconnect(&mut record, grant("org_a"), &world.edit()).expect("its own");
        control::apply(&mut record, &[ControlChange::InstallationRevoked], Some(EpochMs(1_999)), &world.edit());
        assert_eq!(record.installation.status, expected, "{held}");
    }
}

#[test]
fn what_left_the_reach_of_a_former_grant_stays_linked_through_the_one_made_since() {
    let world = World::new();
    let mut record = world.record("org_a", "1");
    reconnect(&mut record, grant("org_a"), &world.edit()).expect("its own");
    state::subscribe(&mut record, &subscription("ws", "r"), &world.edit()).expect("subscribed");
    let ids = vec![ProviderResourceId::new("r")];
    let lost = [ControlChange::ResourcesRemoved { ids, reason: RemovalReason::AccessLost }];
    control::apply(&mut record, &lost, Some(EpochMs(1_999)), &world.edit());
    assert_eq!(record.resources[0].status, ResourceStatus::Active);
    control::apply(&mut record, &lost, Some(EpochMs(2_001)), &world.edit());
    assert_eq!(record.resources[0].status, ResourceStatus::Removed);
}

#[test]
fn an_end_told_late_is_that_of_the_grant_before_unless_every_grant_has_an_id_of_its_own() {
    let world = World::new();
    for status in [InstallationStatus::Active, InstallationStatus::NeedsReauth, InstallationStatus::Revoked] {
        for shares_id in [true, false] {
            let mut record = world.record("org_a", "1");
            record.installation.status = status;
            reconnect(&mut record, ProvedGrant { shares_id, ..grant("org_a") }, &world.edit()).expect("its own");
            control::apply(&mut record, &[ControlChange::InstallationRevoked], Some(EpochMs(1_999)), &world.edit());
            let expected = if shares_id { InstallationStatus::Active } else { InstallationStatus::Revoked };
            assert_eq!(record.installation.status, expected, "{status}, shares its id: {shares_id}");
        }
    }
}
