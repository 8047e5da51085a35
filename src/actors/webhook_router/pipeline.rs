//! One webhook through the rooms: a function per step, in the order of `docs/path-of-a-webhook.md`.
//!
//! **Invariants**: no receipt before the commit; exactly one outcome per webhook; the service path enters at the step
//! "extract" and ends in the same rows.

use std::sync::{Arc, atomic::AtomicUsize};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Receipt, RouteError, TrustedWebhook,
    control::Controlled,
    kept_headers::kept_headers,
    quarantine::{QuarantineWriter, SetAside},
    uncommitted::Uncommitted,
};
use crate::{
    actors::{
        AskError,
        directory::Directory,
        dispatcher::{DispatcherHandle, FreshDelivery, Slot},
        installation::InstallationError,
        runtime::isolate,
    },
    cache::FailureCounts,
    config::{IngestConfig, ReplayPolicy},
    crypto::hmac::sha256,
    delivery::plan::{Insistence, MatchedBy, Plan, PlannedDelivery, Question, VerifiedBy, plan},
    model::{
        clock::{Clock, EpochMs, Ids},
        delivery::{Delivery, DeliveryStatus},
        event::{Event, EventKey, EventOutcome},
        provider::{ExternalId, ProviderResourceId, ProviderSlug},
        routes::RouteTable,
        webhook::{Headers, ReceivedWebhook},
    },
    providers::{self, ExtractError, Inbound, Provider, Registry, ResourceSelector, VerifiedWebhook, VerifyError},
    store::{Accepted, ClaimedDelivery, NewDelivery, NewEvent, SharedStore, StoreError},
    telemetry::{
        metrics::Metrics,
        traces::{Traces, WebhookSpan},
    },
};

/// How often the handling of one body may fail before it is set aside.
const FAILURES_BEFORE_SET_ASIDE: u32 = 3;

/// What the steps need of the other rooms; shared by every router of the node.
pub struct Pipeline {
    pub(super) store: SharedStore,
    pub(super) registry: Arc<Registry>,
    pub(super) directory: Directory,
    pub(super) dispatcher: DispatcherHandle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) traces: Traces,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Ids,
    pub(super) ingest: IngestConfig,
    pub(super) failures: FailureCounts,
    pub(super) quarantine: QuarantineWriter,
    /// Bytes that wait for their commit, those of webhooks that were refused meanwhile included.
    pub(super) uncommitted: Arc<AtomicUsize>,
}

/// A webhook that was understood, on its way into the store.
pub(super) struct Understood {
    pub provider: Arc<dyn Provider>,
    pub inbound: Inbound,
    pub verified_by: VerifiedBy,
    /// By which a copy under another delivery id is noticed; `None` where that id is signed, or its sender trusted.
    pub body_digest: Option<[u8; 16]>,
    pub headers: Headers,
    pub body: Bytes,
    pub received_at: EpochMs,
    pub correlation_id: String,
    pub hold: bool,
    /// When its last byte arrived here, for the acknowledgement deadline.
    pub arrived: Instant,
}

pub(super) type Found = Option<(Arc<RouteTable>, MatchedBy)>;

impl Pipeline {
    /// The provider path: every step.
    pub(super) async fn route(&self, webhook: ReceivedWebhook) -> Result<Receipt, RouteError> {
        let arrived = Instant::now();
        let verified = match self.verify(webhook) {
            Ok(verified) => verified,
            Err((webhook, error)) => {
                self.quarantine.keep_unverified(&webhook, error.code()).await;
                return Err(error.into());
            }
        };
        self.route_verified(verified, arrived).await
    }

    /// From the step "extract" on; also where a webhook enters that verifies after its secret was corrected.
    pub(super) async fn route_verified(
        &self,
        verified: VerifiedWebhook,
        arrived: Instant,
    ) -> Result<Receipt, RouteError> {
        let webhook = verified.webhook().clone();
        let mut span = self.traces.begin_webhook(webhook.provider);
        let handled = isolate(async {
            let (provider, inbound) = self.extract(&verified)?;
            let body_digest = inbound.identity.unwrap_or_else(|| verified.body_digest());
            let understood = Understood {
                body_digest: provider.delivery_id_is_unsigned().then_some(body_digest),
                provider,
                inbound,
                verified_by: VerifiedBy::Secret { index: verified.secret_index() },
                headers: webhook.headers.clone(),
                body: webhook.body.clone(),
                received_at: webhook.received_at,
                correlation_id: webhook.correlation_id.clone(),
                hold: false,
                arrived,
            };
            let found = self.apply_control(&understood).await?;
            match found {
                Controlled::Duplicate(receipt) => Ok(receipt),
                Controlled::Routable(found) => self.accept(understood, found, &mut span).await,
            }
        })
        .await;
        let routed = match handled {
            Ok(Err(RouteError::Extract(error))) => {
                self.count_failure(&webhook, &error).await;
                Err(error.into())
            }
            Ok(result) => result,
            Err(_panicked) => self.set_aside(&webhook).await,
        };
        self.end_span(span, &routed, arrived);
        routed
    }

    /// The service path: trusted, addressed to a connection, and not a control event.
    pub(super) async fn route_trusted(&self, webhook: TrustedWebhook) -> Result<Receipt, RouteError> {
        let arrived = Instant::now();
        let provider = self.registry.find(webhook.provider.as_str()).ok_or(RouteError::UnknownInstallation)?.clone();
        let mut span = self.traces.begin_webhook(webhook.provider);
        let handled = isolate(async {
            let table = self
                .directory
                .routes_by_id(&webhook.installation)
                .await
                .map_err(unavailable)?
                .filter(|table| table.provider == webhook.provider)
                .ok_or(RouteError::UnknownInstallation)?;
            if table.org != webhook.org {
                return Err(RouteError::ForeignInstallation);
            }
            let mut inbound = provider.extract_trusted(&webhook.event_type, &webhook.delivery_id, &webhook.payload)?;
            // History must not change the present.
            inbound.forget_control();
            let understood = Understood {
                provider: provider.clone(),
                inbound,
                verified_by: VerifiedBy::ServiceKey,
                body_digest: None,
                // The writer's own headers are of the whole request; the payload in it is JSON.
                headers: [("content-type", "application/json")].into_iter().collect(),
                body: webhook.payload.clone(),
                received_at: webhook.received_at,
                correlation_id: webhook.correlation_id.clone(),
                hold: webhook.hold,
                arrived,
            };
            self.accept(understood, Some((table, MatchedBy::ConnectionId)), &mut span).await
        })
        .await;
        let routed = handled.unwrap_or(Err(RouteError::Panicked));
        self.end_span(span, &routed, arrived);
        routed
    }

    /// Step 3: is it genuine? Over the raw bytes, against every live secret. The quarantine asks again after a secret was
    /// corrected.
    pub(super) fn verify(&self, webhook: ReceivedWebhook) -> Result<VerifiedWebhook, (ReceivedWebhook, VerifyError)> {
        match self.registry.find_enabled(webhook.provider.as_str()) {
            None => Err((webhook, VerifyError::NoSecret)),
            Some((provider, settings)) => {
                providers::verify(provider.as_ref(), webhook, &settings.webhook_secrets, settings.timestamp_tolerance)
            }
        }
    }

    /// Step 4: what does it say?
    fn extract(&self, verified: &VerifiedWebhook) -> Result<(Arc<dyn Provider>, Inbound), RouteError> {
        let webhook = verified.webhook();
        let (provider, _) =
            self.registry.find_enabled(webhook.provider.as_str()).ok_or(RouteError::Verify(VerifyError::NoSecret))?;
        Ok((provider.clone(), provider.extract(&webhook.headers, &webhook.body)?))
    }

    /// Step 5: whose is it? From the published table; the database is asked only for an installation that is not known
    /// here yet.
    pub(super) async fn find_routes(&self, provider: ProviderSlug, inbound: &Inbound) -> Result<Found, RouteError> {
        let resources: &[ProviderResourceId] = match &inbound.resources {
            ResourceSelector::Ids(ids) => ids,
            ResourceSelector::All | ResourceSelector::Slugs(_) => &[],
        };
        self.directory
            .find_routes(provider, inbound.installation.as_ref(), &inbound.alternate_installations, resources)
            .await
            .map_err(unavailable)
    }

    /// Steps 6 and 7: who gets it, and why do the others not? Pure, on the published table.
    pub(super) fn decide(
        &self,
        inbound: &Inbound,
        verified_by: &VerifiedBy,
        found: &Found,
        insistence: Insistence<'_>,
    ) -> Plan {
        let by_slug: Vec<ProviderResourceId>;
        let resources = match &inbound.resources {
            ResourceSelector::All => None,
            ResourceSelector::Ids(ids) => Some(ids.as_slice()),
            ResourceSelector::Slugs(slugs) => {
                let known = found.as_ref().map(|(table, _)| &table.slugs);
                by_slug = slugs.iter().filter_map(|slug| known.and_then(|known| known.get(slug)).cloned()).collect();
                Some(by_slug.as_slice())
            }
        };
        let spec = inbound.key.as_ref().and_then(|key| self.registry.find_event(key.as_str()));
        let also_keys: Vec<EventKey> = spec
            .and_then(|spec| spec.alias_of)
            .map(EventKey::new)
            .into_iter()
            .chain(inbound.also_keys.iter().cloned())
            .collect();
        let question = Question {
            verified_by,
            key: inbound.key.as_ref(),
            also_keys: &also_keys,
            category: spec.map_or("", |spec| spec.category),
            ping: inbound.ping,
            control: inbound.is_control(),
            resources,
            insistence,
        };
        plan(&question, found.as_ref().map(|(table, matched_by)| (table.as_ref(), *matched_by)))
    }

    /// Steps 8 and 9: commit the event and its deliveries in one transaction, then answer, then send.
    async fn accept(
        &self,
        understood: Understood,
        found: Found,
        span: &mut WebhookSpan,
    ) -> Result<Receipt, RouteError> {
        let plan = self.decide(&understood.inbound, &understood.verified_by, &found, Insistence::Nothing);
        let event = Event { trace_id: span.trace_id(), ..self.event_of(&understood, &plan, &found) };
        let (event_id, delivery_id) = (event.id.clone(), event.provider_delivery_id.clone());
        let org = event.org.clone();
        let outcome = plan.outcome;
        let mut deliveries = self.deliveries_of(&event, plan.deliveries, understood.hold);
        let slots = self.lease(&mut deliveries, understood.body.len());
        let new_event = NewEvent {
            headers: kept_headers(&understood.headers)?,
            content_type: understood.headers.get("content-type").map(str::to_owned),
            body_digest: understood.body_digest,
            body: understood.body.clone(),
            decision: decision_json(&plan.decision)?,
            deliveries,
            drop_possible_replay: self.ingest.possible_replay == ReplayPolicy::Drop,
            event,
        };
        let delivery_count = new_event.deliveries.len();
        span.planned(new_event.event.key.as_ref(), delivery_count);
        let held = understood.hold;
        let before_commit = understood.arrived.elapsed();
        let committed = self.commit(new_event, slots, understood.arrived).await;
        span.committed(before_commit, understood.arrived.elapsed().saturating_sub(before_commit));
        let accepted = committed?;
        match accepted {
            Accepted::New { possible_replay } => {
                let dropped = possible_replay && self.ingest.possible_replay == ReplayPolicy::Drop;
                let outcome = if dropped { EventOutcome::Filtered } else { outcome };
                let took = understood.arrived.elapsed();
                let deliveries = if dropped { 0 } else { delivery_count };
                Ok(Receipt::Accepted { delivery_id, event: event_id, outcome, held, org, deliveries, took })
            }
            Accepted::Duplicate { of } => Ok(Receipt::Duplicate { delivery_id, event: of }),
        }
    }

    /// Waits for the commit until the acknowledgement deadline. The commit itself is not cut short: if it comes too
    /// late for the answer, its deliveries go out all the same, and the provider's retry is a duplicate.
    async fn commit(
        &self,
        new_event: NewEvent,
        slots: Vec<(usize, Slot)>,
        arrived: Instant,
    ) -> Result<Accepted, RouteError> {
        let deadline = arrived + self.ingest.ack_deadline;
        if Instant::now() >= deadline {
            return Err(StoreError::Unavailable("the acknowledgement deadline passed before the commit".into()).into());
        }
        // The database may stand still for longer than any provider waits. What was refused in that time is still on its
        // way to it, and must not pile up.
        let uncommitted = Uncommitted::add(&self.uncommitted, new_event.body.len(), self.ingest.max_in_flight_bytes)
            .ok_or_else(|| StoreError::Unavailable("too much waits for the database".into()))?;
        let (store, dispatcher, directory) = (self.store.clone(), self.dispatcher.clone(), self.directory.clone());
        let committing = tokio::spawn(async move {
            let _uncommitted = uncommitted;
            let event = new_event.event.clone();
            let (content_type, body) = (new_event.content_type.clone(), new_event.body.clone());
            let deliveries: Vec<Delivery> = new_event.deliveries.iter().map(|new| new.delivery.clone()).collect();
            let dropping = new_event.drop_possible_replay;
            let accepted = store.accept_event(new_event).await?;
            if let Accepted::New { possible_replay } = accepted
                && !(possible_replay && dropping)
            {
                if let Some(installation) = &event.installation {
                    directory.note_seen(installation, deliveries.iter().map(|d| &d.integration), event.received_at);
                }
                let mut leased = vec![false; deliveries.len()];
                let fresh: Vec<FreshDelivery> = slots
                    .into_iter()
                    .map(|(index, slot)| {
                        leased[index] = true;
                        let claimed = ClaimedDelivery {
                            delivery: deliveries[index].clone(),
                            event: event.clone(),
                            content_type: content_type.clone(),
                            body: body.clone(),
                        };
                        FreshDelivery { claimed, slot }
                    })
                    .collect();
                if !fresh.is_empty() {
                    dispatcher.send(fresh);
                }
                for (delivery, leased) in deliveries.iter().zip(leased) {
                    if !leased && delivery.status == DeliveryStatus::Pending && delivery.destination.is_some() {
                        dispatcher.nudge(delivery.destination.as_ref());
                    }
                }
            }
            Ok::<_, StoreError>(accepted)
        });
        match tokio::time::timeout_at(deadline, committing).await {
            Err(_elapsed) => {
                Err(StoreError::Unavailable("no commit within the acknowledgement deadline".into()).into())
            }
            Ok(Err(_join)) => Err(RouteError::Panicked),
            Ok(Ok(accepted)) => Ok(accepted?),
        }
    }

    fn event_of(&self, understood: &Understood, plan: &Plan, found: &Found) -> Event {
        let table = found.as_ref().map(|(table, _)| table);
        let resources = match &understood.inbound.resources {
            ResourceSelector::All => Vec::new(),
            ResourceSelector::Ids(ids) => ids.clone(),
            ResourceSelector::Slugs(slugs) => slugs.iter().map(|slug| ProviderResourceId::new(slug.as_str())).collect(),
        };
        Event {
            id: self.ids.event(),
            provider: understood.provider.slug(),
            provider_delivery_id: understood.inbound.delivery_id.clone(),
            wire_type: understood.inbound.wire_type.clone(),
            key: understood.inbound.key.clone(),
            installation: table.map(|table| table.installation.clone()),
            org: table.map(|table| table.org.clone()),
            external_id: account_of(&understood.inbound, table.map(Arc::as_ref)),
            resources,
            outcome: plan.outcome,
            reason: plan.reason.map(str::to_owned),
            possible_replay: false,
            held: understood.hold,
            received_at: understood.received_at,
            correlation_id: understood.correlation_id.clone(),
            trace_id: None,
        }
    }

    /// The rows of planned deliveries, waiting to be claimed (or, on `hold`, to be released).
    pub(super) fn deliveries_of(&self, event: &Event, planned: Vec<PlannedDelivery>, hold: bool) -> Vec<NewDelivery> {
        let (now, due_at) = (self.clock.now(), self.dispatcher.due_now());
        planned
            .into_iter()
            .map(|planned| {
                let delivery = Delivery {
                    id: self.ids.delivery(),
                    event: event.id.clone(),
                    integration: planned.integration,
                    resource: planned.resource,
                    workspace: planned.workspace,
                    org: event.org.clone().unwrap_or_else(|| crate::model::ids::OrgId::from_raw("")),
                    reason: planned.destination.is_none().then(|| "no_destination".to_owned()),
                    destination: planned.destination,
                    status: if hold { DeliveryStatus::Held } else { DeliveryStatus::Pending },
                    attempts: 0,
                    attempts_before_retry: 0,
                    due_at,
                    lease_until: None,
                    replay: false,
                    created_at: now,
                    finished_at: None,
                };
                NewDelivery { delivery, lease_owner: None }
            })
            .collect()
    }

    /// Takes this node's lease on those pending deliveries for which the dispatcher has room: they go out from memory
    /// after the commit. Answers their positions with the room taken.
    fn lease(&self, deliveries: &mut [NewDelivery], body_bytes: usize) -> Vec<(usize, Slot)> {
        let mut slots = Vec::new();
        for (index, new) in deliveries.iter_mut().enumerate() {
            let delivery = &mut new.delivery;
            let destination = delivery.destination.as_ref().filter(|_| delivery.status == DeliveryStatus::Pending);
            if let Some(slot) = destination.and_then(|destination| self.dispatcher.reserve(destination, body_bytes)) {
                delivery.due_at = self.dispatcher.lease_until();
                delivery.lease_until = Some(delivery.due_at);
                new.lease_owner = Some(self.dispatcher.node().to_owned());
                slots.push((index, slot));
            }
        }
        slots
    }

    /// A verified webhook that could not be understood: the third time it comes, it is kept for a person.
    async fn count_failure(&self, webhook: &ReceivedWebhook, error: &ExtractError) {
        if self.failures.count(self.identity_over_retries(webhook)) >= FAILURES_BEFORE_SET_ASIDE {
            self.quarantine.keep(webhook, error.code()).await;
        }
    }

    /// A webhook whose handling panicked is kept at once, and the provider asked to try again; the third time it is set
    /// aside for good, so that one poisonous webhook does not disable a whole connection at the provider.
    async fn set_aside(&self, webhook: &ReceivedWebhook) -> Result<Receipt, RouteError> {
        let failures = self.failures.count(self.identity_over_retries(webhook));
        match self.quarantine.keep_now(webhook, "handling_panicked").await {
            // What was counted here may be forgotten; what was signed anew each time is another webhook for the quarantine.
            Ok(SetAside { id, times }) if times > 0 && times.max(failures) >= FAILURES_BEFORE_SET_ASIDE => {
                Ok(Receipt::SetAside { quarantine: id })
            }
            Ok(_) => Err(RouteError::Panicked),
            Err(error) => Err(error.into()),
        }
    }

    /// What a webhook that cannot be understood has in common with its retries: its delivery id, if a header has it, or else
    /// its body. Linear writes the time of each try into the body.
    fn identity_over_retries(&self, webhook: &ReceivedWebhook) -> [u8; 32] {
        let header = self.registry.find(webhook.provider.as_str()).and_then(|provider| provider.delivery_id_header());
        let id = header.and_then(|name| webhook.headers.get(name));
        id.map_or_else(|| sha256(&webhook.body), |id| sha256(format!("{} {id}", webhook.provider).as_bytes()))
    }
}

/// The account that an event is kept under: the one it names, or its second id. Of several second ids it is the one of the
/// installation it was found to be of; while that is none it is kept under no account, and a connection that comes later is
/// found by all of them again.
fn account_of(inbound: &Inbound, found: Option<&RouteTable>) -> Option<ExternalId> {
    let is_of = |table: &RouteTable, id: &ExternalId| {
        *id == table.external_id || Some(id) == table.alternate_external_id.as_ref()
    };
    match (&inbound.installation, inbound.alternate_installations.as_slice()) {
        (Some(account), _) => Some(account.clone()),
        (None, [only]) => Some(only.clone()),
        (None, several) => found.and_then(|table| several.iter().find(|id| is_of(table, id)).cloned()),
    }
}

pub(super) fn decision_json(decision: &crate::delivery::plan::Decision) -> Result<String, StoreError> {
    serde_json::to_string(decision).map_err(|error| StoreError::Driver(format!("the decision is not JSON: {error}")))
}

/// The part of a failed ask that matters to a provider: nothing was promised, try again.
pub(super) fn unavailable(error: AskError<InstallationError>) -> RouteError {
    match error {
        AskError::Reply(InstallationError::Store(error)) => error.into(),
        AskError::Reply(InstallationError::NotFound) => RouteError::UnknownInstallation,
        other => StoreError::Unavailable(other.to_string()).into(),
    }
}
