//! Mending: stored events go their way again. Replays, reroutes, releases, and the quarantine checked anew.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    CatchUp, CaughtUp, Receipt, Replayed, Rerouted, Reverified,
    pipeline::{Found, Pipeline, decision_json, unavailable},
    quarantine::webhook_of,
    turns::Turns,
};
use crate::{
    delivery::plan::{Decision, Insistence, MatchedBy, Plan, VerifiedBy},
    model::{
        clock::EpochMs,
        delivery::{Delivery, DeliveryStatus},
        event::{Event, EventOutcome},
        ids::{DeliveryId, EventId, InstallationId, IntegrationId, OrgId, QuarantineId},
        log_entry::{Actor, LogEntry},
        provider::{ProviderDeliveryId, ProviderResourceId},
        routes::RouteTable,
        webhook::Headers,
    },
    providers::{ExtractError, Inbound, ResourceSelector},
    store::{EventDetail, Quarantined, Rerouting, StoreError, UnroutedFilter},
};

/// Events looked at in one read.
const CHUNK: u32 = 100;

/// How long before now the first of many released events falls due, at one event for each millisecond.
const LONGEST_RELEASE: Duration = Duration::from_hours(1);

/// Unrouted events beyond its batch that a catch-up looks through to count those that remain. It goes on until one does.
const COUNTED_AMONG: u64 = 1_000;

/// What a stored event says, and by what it was known to be genuine when it came.
struct UnderstoodAgain {
    verified_by: VerifiedBy,
    inbound: Inbound,
}

/// Replays, reroutes and releases of stored events; shared by every worker.
#[derive(Clone)]
pub struct MendingHandle {
    pipeline: Arc<Pipeline>,
    /// One mending of an installation's unrouted events at a time, so that two do not do, and count, the same work.
    rerouting: Arc<Turns>,
}

impl MendingHandle {
    pub(super) fn new(pipeline: Arc<Pipeline>) -> Self {
        Self { pipeline, rerouting: Arc::default() }
    }

    fn entry(&self, event: &Event, action: &str, actor: &Actor) -> LogEntry {
        LogEntry {
            org: event.org.clone(),
            installation: event.installation.clone(),
            subject: Some(event.id.to_string()),
            from_state: Some(event.outcome.to_string()),
            ..LogEntry::new(self.pipeline.ids.log(), action, actor.clone(), self.pipeline.clock.now())
        }
    }

    /// New deliveries of an event: to `only`, whatever their rules say, or to every integration that matches it now, the
    /// paused ones among them. `None` if there is no such event.
    pub async fn replay_event(
        &self,
        event: &EventId,
        only: Option<&[IntegrationId]>,
        actor: &Actor,
    ) -> Result<Option<Replayed>, StoreError> {
        let Some(detail) = self.pipeline.store.find_event_detail(event).await? else { return Ok(None) };
        let event = &detail.event;
        let understood = self.understand_again(&detail).await?;
        let found = match &event.installation {
            Some(id) => self.routes_by_id(id).await?.map(|table| (table, MatchedBy::ConnectionId)),
            None => self.find_routes(event, &understood).await?,
        };
        let Some((table, matched_by)) = found else { return Ok(Some(Replayed { deliveries: Vec::new() })) };
        let insistence = only.map_or(Insistence::PastPauses, Insistence::On);
        let plan = self.plan_again(&understood, (table.clone(), matched_by), insistence);
        if plan.deliveries.is_empty() {
            return Ok(Some(Replayed { deliveries: Vec::new() }));
        }
        // A replay adds deliveries; the decision that was made when the event came stays readable.
        let replayed = self.reroute_one(event, &table, plan, true, actor).await?;
        Ok(replayed.map(|deliveries| Replayed { deliveries }))
    }

    /// Routes an installation's unrouted events received at or after `since`.
    pub async fn reroute(
        &self,
        id: &InstallationId,
        since: Option<EpochMs>,
        actor: &Actor,
    ) -> Result<Rerouted, StoreError> {
        let _turn = self.rerouting.take(id).await;
        let mut done = Rerouted::default();
        let Some(table) = self.routes_by_id(id).await? else { return Ok(done) };
        let mut filter = unrouted_of(&table, since);
        loop {
            let events = self.pipeline.store.list_unrouted(&filter).await?;
            let Some(last) = events.last() else { break };
            filter.after = Some(last.id.clone());
            for event in &events {
                done.considered += 1;
                match self.reroute_unrouted(event, &table, actor).await? {
                    Some(EventOutcome::Routed) => done.routed += 1,
                    Some(EventOutcome::Filtered) => done.filtered += 1,
                    _ => {}
                }
            }
        }
        Ok(done)
    }

    /// Routes one unrouted event if its installation has a place for it now.
    async fn reroute_unrouted(
        &self,
        event: &Event,
        table: &Arc<RouteTable>,
        actor: &Actor,
    ) -> Result<Option<EventOutcome>, StoreError> {
        let Some(plan) = self.plan_unrouted(event, table).await? else { return Ok(None) };
        match plan.outcome {
            outcome @ (EventOutcome::Routed | EventOutcome::Filtered) => {
                // Somebody else, here or on another node, may have been quicker.
                let rerouted = self.reroute_one(event, table, plan, false, actor).await?;
                Ok(rerouted.map(|_added| outcome))
            }
            _ => Ok(None),
        }
    }

    /// What would become of an unrouted event now, if it is this installation's.
    async fn plan_unrouted(&self, event: &Event, table: &Arc<RouteTable>) -> Result<Option<Plan>, StoreError> {
        let Some(detail) = self.pipeline.store.find_event_detail(&event.id).await? else { return Ok(None) };
        let understood = self.understand_again(&detail).await?;
        let found = if event.installation.is_some() {
            let matched_by = if event.external_id.is_some() { MatchedBy::ExternalId } else { MatchedBy::Resource };
            Some((table.clone(), matched_by))
        } else {
            let found = self.find_routes(event, &understood).await?;
            found.filter(|(found, _)| found.installation == table.installation)
        };
        Ok(found.map(|found| self.plan_again(&understood, found, Insistence::Nothing)))
    }

    /// Lets an installation's held events go in the order in which their provider sent them; answers how many.
    pub async fn release_held(&self, id: &InstallationId, actor: &Actor) -> Result<u64, StoreError> {
        let mut released = 0;
        // Claiming goes by due time: the chunks follow each other in it, however quickly they are released.
        let mut due_at = self.pipeline.dispatcher.due_now().minus(LONGEST_RELEASE);
        loop {
            let held = self.pipeline.store.list_held(id, CHUNK).await?;
            if held.is_empty() {
                break;
            }
            // Retention was quicker: what is held now begins with another.
            let Some(first) = self.pipeline.store.find_event(&held[0]).await? else { continue };
            due_at = due_at.plus(Duration::from_millis(u64::from(CHUNK)));
            let entry = self.entry(&first, "events.released", actor);
            released += self.pipeline.store.release_held(&held, due_at, &entry).await?;
            self.pipeline.dispatcher.try_now(first.org.as_ref());
        }
        Ok(released)
    }

    /// Tries every dead delivery again whose event has this provider delivery id.
    pub async fn replay_dead(
        &self,
        org: Option<&OrgId>,
        provider: &str,
        delivery_id: &ProviderDeliveryId,
        actor: &Actor,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        let dead = self.pipeline.store.find_dead_letters(org, provider, delivery_id).await?;
        let mut retried = Vec::new();
        for letter in dead {
            if self.retry_delivery(&letter.delivery, &letter.event, actor).await? {
                retried.push(letter.delivery.id);
            }
        }
        Ok(retried)
    }

    /// Tries a delivery again, from the beginning of its schedule, at what serves its integration now. False if it is
    /// delivered, held or in flight.
    pub async fn retry_delivery(&self, delivery: &Delivery, event: &Event, actor: &Actor) -> Result<bool, StoreError> {
        let mut entry = self.entry(event, "delivery.retried", actor);
        entry.org = Some(delivery.org.clone());
        entry.subject = Some(delivery.id.to_string());
        entry.from_state = Some(delivery.status.to_string());
        entry.to_state = Some(DeliveryStatus::Pending.to_string());
        let (fallback, now) = (self.pipeline.directory.fallback_destination(), self.pipeline.dispatcher.due_now());
        let retried = self.pipeline.store.retry_delivery(&delivery.id, fallback, now, &entry).await?;
        if retried {
            // It may have another destination than before.
            self.pipeline.dispatcher.try_now(Some(&delivery.org));
        }
        Ok(retried)
    }

    /// Replays what an installation's integrations missed: dead deliveries, and unrouted events that route now, however many
    /// there are before them that do not.
    pub async fn catch_up(&self, request: CatchUp, actor: &Actor) -> Result<CaughtUp, StoreError> {
        let _turn = self.rerouting.take(&request.installation).await;
        let mut done = CaughtUp::default();
        let (dead, events_in_all) = self
            .pipeline
            .store
            .list_dead_of_installation(&request.installation, request.since, request.until, request.batch_size)
            .await?;
        for letter in &dead {
            // Whatever cannot be retried is delivered or on its way by now: somebody else has replayed it.
            self.retry_delivery(&letter.delivery, &letter.event, actor).await?;
            if done.replayed.last().is_none_or(|(event, _)| *event != letter.event.id) {
                done.replayed.push((letter.event.id.clone(), letter.event.provider_delivery_id.clone()));
            }
        }
        done.remaining = events_in_all.saturating_sub(done.replayed.len() as u64);
        let Some(table) = self.routes_by_id(&request.installation).await? else { return Ok(done) };
        let mut filter = unrouted_of(&table, request.since);
        let mut looked_beyond = 0;
        loop {
            let events = self.pipeline.store.list_unrouted(&filter).await?;
            let Some(last) = events.last() else { break };
            filter.after = Some(last.id.clone());
            let is_asked_for = |event: &&Event| request.until.is_none_or(|until| event.received_at < until);
            for event in events.iter().filter(is_asked_for) {
                if done.replayed.len() < request.batch_size as usize {
                    if self.reroute_unrouted(event, &table, actor).await? == Some(EventOutcome::Routed) {
                        done.replayed.push((event.id.clone(), event.provider_delivery_id.clone()));
                    }
                } else {
                    looked_beyond += 1;
                    let plan = self.plan_unrouted(event, &table).await?;
                    done.remaining += u64::from(plan.is_some_and(|plan| plan.outcome == EventOutcome::Routed));
                }
            }
            if looked_beyond >= COUNTED_AMONG && done.remaining > 0 {
                break;
            }
        }
        Ok(done)
    }

    /// Checks quarantined webhooks again; those that verify enter at the step "extract".
    pub async fn reverify(&self, provider: Option<&str>, actor: &Actor) -> Result<Reverified, StoreError> {
        let mut done = Reverified::default();
        let mut after = None;
        loop {
            let rows = self.pipeline.store.list_quarantined_bodies(provider, after.as_ref(), CHUNK).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.id.clone());
            for row in &rows {
                self.reverify_row(row, &mut done).await?;
            }
        }
        self.note_reverified(provider, &done, actor).await?;
        Ok(done)
    }

    /// Checks one quarantined webhook again. `None` if there is no such webhook.
    pub async fn reverify_one(&self, id: &QuarantineId, actor: &Actor) -> Result<Option<Reverified>, StoreError> {
        let Some(row) = self.pipeline.store.find_quarantined(id).await? else { return Ok(None) };
        let mut done = Reverified::default();
        self.reverify_row(&row, &mut done).await?;
        self.note_reverified(Some(id.as_str()), &done, actor).await?;
        Ok(Some(done))
    }

    async fn reverify_row(&self, row: &Quarantined, done: &mut Reverified) -> Result<(), StoreError> {
        done.considered += 1;
        let verified = webhook_of(row).map(|webhook| self.pipeline.verify(webhook));
        let Some(Ok(verified)) = verified else {
            done.rejected += 1;
            return Ok(());
        };
        // It was counted as refused when it came; now it comes again.
        self.pipeline.metrics.webhook_received(row.provider);
        let routed = self.pipeline.route_verified(verified, Instant::now()).await;
        match &routed {
            Ok(receipt) => receipt.count(row.provider, &self.pipeline.metrics),
            Err(error) => self.pipeline.metrics.webhook_refused(row.provider, error.code()),
        }
        match routed {
            Ok(Receipt::Accepted { .. }) => done.accepted += 1,
            Ok(Receipt::Duplicate { .. }) => done.duplicates += 1,
            Ok(Receipt::SetAside { .. }) | Err(_) => {
                done.rejected += 1;
                return Ok(());
            }
        }
        self.pipeline.store.delete_quarantined(std::slice::from_ref(&row.id), None).await?;
        Ok(())
    }

    async fn note_reverified(&self, subject: Option<&str>, done: &Reverified, actor: &Actor) -> Result<(), StoreError> {
        let reason = format!("{} accepted, {} rejected", done.accepted, done.rejected);
        let entry = self.quarantine_entry("quarantine.reverified", subject, Some(reason), actor);
        self.pipeline.store.append_log(&[entry]).await
    }

    /// Forgets a quarantined webhook. False if there is no such webhook.
    pub async fn discard_quarantined(&self, id: &QuarantineId, actor: &Actor) -> Result<bool, StoreError> {
        let entry = self.quarantine_entry("quarantine.discarded", Some(id.as_str()), None, actor);
        let deleted = self.pipeline.store.delete_quarantined(std::slice::from_ref(id), Some(&entry)).await?;
        Ok(deleted > 0)
    }

    fn quarantine_entry(&self, action: &str, subject: Option<&str>, reason: Option<String>, actor: &Actor) -> LogEntry {
        LogEntry {
            subject: subject.map(str::to_owned),
            reason,
            ..LogEntry::new(self.pipeline.ids.log(), action, actor.clone(), self.pipeline.clock.now())
        }
    }

    async fn routes_by_id(&self, id: &InstallationId) -> Result<Option<Arc<RouteTable>>, StoreError> {
        self.pipeline.directory.routes_by_id(id).await.map_err(|error| store_error(unavailable(error)))
    }

    /// The installation that an event names which was not known when it came.
    async fn find_routes(&self, event: &Event, understood: &UnderstoodAgain) -> Result<Found, StoreError> {
        self.pipeline.find_routes(event.provider, &understood.inbound).await.map_err(store_error)
    }

    /// What a stored event says, from its stored bytes.
    async fn understand_again(&self, detail: &EventDetail) -> Result<UnderstoodAgain, StoreError> {
        let event = &detail.event;
        let verified_by = serde_json::from_str::<Decision>(&detail.decision)
            .map_or(VerifiedBy::ServiceKey, |decision| decision.verified_by);
        let body = self.pipeline.store.find_event_body(&event.id).await?.map(|(_, body)| body).unwrap_or_default();
        let extracted = match (self.pipeline.registry.find(event.provider.as_str()), &verified_by) {
            (Some(provider), VerifiedBy::ServiceKey) => {
                provider.extract_trusted(&event.wire_type, &event.provider_delivery_id, &body)
            }
            (Some(provider), VerifiedBy::Secret { .. }) => provider.extract(&stored_headers(detail), &body),
            (None, _) => Err(ExtractError::MissingHeader("provider")),
        };
        // What was understood when the event came stands if it cannot be understood again.
        let mut inbound = extracted.unwrap_or_else(|_error| as_stored(event));
        // State changes were made when the event came; they are not made again.
        inbound.forget_control();
        Ok(UnderstoodAgain { verified_by, inbound })
    }

    /// Plans a stored event against today's table.
    fn plan_again(
        &self,
        understood: &UnderstoodAgain,
        found: (Arc<RouteTable>, MatchedBy),
        insistence: Insistence<'_>,
    ) -> Plan {
        self.pipeline.decide(&understood.inbound, &understood.verified_by, &Some(found), insistence)
    }

    /// Adds deliveries to a stored event, with the log entry that says who did, and tells the dispatcher. `None` if the
    /// event is gone or, unless this is a replay, is not unrouted any more.
    async fn reroute_one(
        &self,
        event: &Event,
        table: &RouteTable,
        plan: Plan,
        replay: bool,
        actor: &Actor,
    ) -> Result<Option<Vec<(DeliveryId, IntegrationId)>>, StoreError> {
        let mut addressed = event.clone();
        addressed.org = Some(table.org.clone());
        addressed.installation = Some(table.installation.clone());
        // Whoever replays a held event wants this one now; a link that appears lets none go.
        let mut deliveries = self.pipeline.deliveries_of(&addressed, plan.deliveries, event.held && !replay);
        for new in &mut deliveries {
            new.delivery.replay = replay;
        }
        let added: Vec<(DeliveryId, IntegrationId)> =
            deliveries.iter().map(|new| (new.delivery.id.clone(), new.delivery.integration.clone())).collect();
        let action = if replay { "event.replayed" } else { "event.rerouted" };
        // An event that matches and is not wanted was not sent anywhere: there is nothing to tell.
        let is_told = replay || plan.outcome == EventOutcome::Routed;
        let rerouting = Rerouting {
            entry: is_told.then(|| self.entry(&addressed, action, actor)),
            event: event.id.clone(),
            installation: event.installation.is_none().then(|| (table.installation.clone(), table.org.clone())),
            only_if: (!replay).then_some(EventOutcome::Unrouted),
            outcome: plan.outcome,
            reason: plan.reason.map(str::to_owned),
            decision: if replay { None } else { Some(decision_json(&plan.decision)?) },
            deliveries,
        };
        let rerouted = self.pipeline.store.reroute_event(rerouting).await?;
        if rerouted {
            let heard = added.iter().map(|(_, integration)| integration);
            self.pipeline.directory.note_seen(&table.installation, heard, event.received_at);
            self.pipeline.dispatcher.try_now(Some(&table.org));
        }
        Ok(rerouted.then_some(added))
    }
}

fn unrouted_of(table: &RouteTable, since: Option<EpochMs>) -> UnroutedFilter {
    UnroutedFilter {
        provider: table.provider,
        installation: table.installation.clone(),
        external_id: table.external_id.clone(),
        alternate_external_id: table.alternate_external_id.clone(),
        since: since.unwrap_or(EpochMs(0)),
        after: None,
        limit: CHUNK,
    }
}

fn store_error(error: super::RouteError) -> StoreError {
    match error {
        super::RouteError::Store(error) => error,
        other => StoreError::Unavailable(other.to_string()),
    }
}

fn stored_headers(detail: &EventDetail) -> Headers {
    let stored: serde_json::Map<String, Value> = serde_json::from_str(&detail.headers).unwrap_or_default();
    stored.iter().filter_map(|(name, value)| value.as_str().map(|value| (name.as_str(), value))).collect()
}

/// What an event's row says of it, without its bytes.
fn as_stored(event: &Event) -> Inbound {
    Inbound {
        delivery_id: event.provider_delivery_id.clone(),
        identity: None,
        wire_type: event.wire_type.clone(),
        key: event.key.clone(),
        also_keys: Vec::new(),
        installation: event.external_id.clone(),
        alternate_installations: Vec::new(),
        resources: if event.resources.is_empty() {
            ResourceSelector::All
        } else {
            ResourceSelector::Ids(event.resources.iter().map(|id| ProviderResourceId::new(id.as_str())).collect())
        },
        is_of_the_grant: false,
        control: Vec::new(),
        control_at: None,
        ping: false,
        payload: bytes::Bytes::new(),
    }
}
