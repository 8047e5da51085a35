//! Rows for cases: valid ones, of which a case changes what it is about.

use bytes::Bytes;
use serde_json::{Map, json};
use signalbox::{
    model::{
        clock::EpochMs,
        delivery::{Attempt, Delivery, DeliveryStatus},
        destination::{Destination, DestinationScope},
        event::{Event, EventKey, EventOutcome},
        heal_run::{HealRun, HealStatus},
        ids::{DeliveryId, DestinationId, InstallationId, IntegrationId, OrgId, ResourceId, WorkspaceId},
        installation::{Installation, InstallationStatus},
        integration::{Integration, IntegrationStatus},
        log_entry::{Actor, LogEntry},
        oauth_flow::{FlowStatus, OAuthFlow},
        provider::{ExternalId, ProviderDeliveryId, ProviderResourceId},
        resource::{Resource, ResourceStatus},
        teardown::{StepRecord, StepStatus, Teardown, TeardownStatus, TeardownStep},
        token::SealedToken,
    },
    store::{AttemptRecord, ClaimRequest, ClaimedDelivery, NewDelivery, NewEvent},
};

use crate::{GITHUB, START, TestStore};

pub fn org() -> OrgId {
    OrgId::from_raw("org_1")
}

pub fn destination() -> DestinationId {
    DestinationId::from_raw("dst_1")
}

pub fn page(limit: u32) -> signalbox::store::PageRequest<'static> {
    signalbox::store::PageRequest { limit, cursor: None }
}

impl TestStore {
    pub fn now(&self) -> EpochMs {
        signalbox::model::clock::Clock::now(&self.clock)
    }

    pub fn entry(&self, action: &str) -> LogEntry {
        LogEntry { org: Some(org()), ..LogEntry::new(self.ids.log(), action, Actor::system(), self.now()) }
    }

    pub fn installation(&self, external_id: &str) -> Installation {
        Installation {
            id: self.ids.installation(),
            provider: GITHUB,
            external_id: ExternalId::new(external_id),
            alternate_external_id: None,
            account_login: Some("harborworks".into()),
            org: org(),
            connected_by: "user_1".into(),
            status: InstallationStatus::Active,
            status_reason: None,
            metadata: Map::from_iter([("scopes".to_owned(), json!(["read"]))]),
            provider_account_info: Some(json!({"login": "harborworks", "text": "\u{0}"})),
            control_at: None,
            last_event_at: None,
            created_at: self.now(),
            updated_at: self.now(),
        }
    }

    pub async fn insert_installation_of(&self, external_id: &str) -> Installation {
        let installation = self.installation(external_id);
        self.insert_connection(&installation, None, &self.entry("installation.created")).await.expect("it is inserted");
        installation
    }

    pub fn resource(&self, installation: &InstallationId, provider_resource_id: &str) -> Resource {
        Resource {
            id: self.ids.resource(),
            installation: installation.clone(),
            provider_resource_id: ProviderResourceId::new(provider_resource_id),
            kind: "repository".into(),
            slug: None,
            name: Some("harborworks/tide-clock".into()),
            attrs: Map::from_iter([("isPrivate".to_owned(), json!(true))]),
            status: ResourceStatus::Active,
            status_reason: None,
            control_at: None,
            created_at: self.now(),
            updated_at: self.now(),
        }
    }

    pub fn integration(&self, resource: &Resource, workspace: &str) -> Integration {
        Integration {
            id: self.ids.integration(),
            org: org(),
            workspace: WorkspaceId::from_raw(workspace),
            provider: GITHUB,
            installation: resource.installation.clone(),
            resource: resource.id.clone(),
            source_config: Map::from_iter([("sync".to_owned(), json!({"events": ["github:push"]}))]),
            status: IntegrationStatus::Active,
            status_reason: None,
            last_event_at: None,
            created_at: self.now(),
            updated_at: self.now(),
        }
    }

    /// A routed event without deliveries: add some with [`Self::with_delivery`], or change its outcome.
    pub fn event(&self, provider_delivery_id: &str) -> NewEvent {
        NewEvent {
            event: Event {
                id: self.ids.event(),
                provider: GITHUB,
                provider_delivery_id: ProviderDeliveryId::new(provider_delivery_id),
                wire_type: "push".into(),
                key: Some(EventKey::new("github:push")),
                installation: Some(InstallationId::from_raw("in_1")),
                org: Some(org()),
                external_id: Some(ExternalId::new("4711")),
                resources: vec![ProviderResourceId::new("r1"), ProviderResourceId::new("r2")],
                outcome: EventOutcome::Routed,
                reason: None,
                possible_replay: false,
                held: false,
                received_at: self.now(),
                correlation_id: "corr-1".into(),
                trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            },
            headers: r#"{"x-github-event":"push"}"#.into(),
            content_type: Some("application/json".into()),
            body: Bytes::from(format!("{{\"delivery\":\"{provider_delivery_id}\",\"s\":\"\\ud800\"}}").repeat(20)),
            body_digest: None,
            decision: r#"{"integrations":[]}"#.into(),
            deliveries: Vec::new(),
            drop_possible_replay: false,
        }
    }

    pub fn delivery_of(&self, event: &Event) -> Delivery {
        Delivery {
            id: self.ids.delivery(),
            event: event.id.clone(),
            integration: IntegrationId::from_raw("int_1"),
            resource: ResourceId::from_raw("res_1"),
            workspace: WorkspaceId::from_raw("ws_1"),
            org: org(),
            destination: Some(destination()),
            status: DeliveryStatus::Pending,
            reason: None,
            attempts: 0,
            attempts_before_retry: 0,
            due_at: self.now(),
            lease_until: None,
            replay: false,
            created_at: self.now(),
            finished_at: None,
        }
    }

    /// Adds a delivery that is due now.
    pub fn with_delivery(&self, mut event: NewEvent) -> NewEvent {
        let delivery = self.delivery_of(&event.event);
        event.deliveries.push(NewDelivery { delivery, lease_owner: None });
        event
    }

    /// Stores a routed event with one delivery that is due now; answers the delivery.
    pub async fn accept_one(&self, provider_delivery_id: &str) -> Delivery {
        let event = self.with_delivery(self.event(provider_delivery_id));
        let delivery = event.deliveries[0].delivery.clone();
        self.accept_event(event).await.expect("it is stored");
        delivery
    }

    /// Stores a routed event with one delivery that has no destination; answers the delivery.
    pub async fn undirected(&self, provider_delivery_id: &str) -> DeliveryId {
        let mut event = self.with_delivery(self.event(provider_delivery_id));
        let delivery = &mut event.deliveries[0].delivery;
        (delivery.destination, delivery.reason) = (None, Some("no_destination".into()));
        let id = delivery.id.clone();
        self.accept_event(event).await.expect("it is stored");
        id
    }

    /// Makes so many copies of a delivery, past the store, which would take its time. They are of the same event.
    pub async fn copy_delivery(&self, id: &DeliveryId, copies: usize) {
        const COPY: &str = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {copies}) \
             INSERT INTO gw_deliveries (id, event_id, integration_id, resource_id, workspace_id, org_id, destination_id, \
             status, reason, attempts, is_retry, due_at, lease_owner, replay, created_at, finished_at) \
             SELECT d.id || '_' || n, event_id, integration_id, resource_id, workspace_id, org_id, destination_id, status, \
             reason, attempts, is_retry, due_at, lease_owner, replay, created_at, finished_at \
             FROM gw_deliveries d, number WHERE d.id = '{id}'";
        self.meddle(COPY.replace("{copies}", &copies.to_string()).replace("{id}", id.as_str())).await;
    }

    pub fn claim_of(&self, owner: &str) -> ClaimRequest {
        ClaimRequest {
            destination: destination(),
            owner: owner.into(),
            now: self.now(),
            lease_until: EpochMs(self.now().0 + 30_000),
            first_tries: 100,
            retries: 100,
            in_all: 200,
            bytes: usize::MAX,
        }
    }

    pub async fn claim(&self, owner: &str) -> Vec<ClaimedDelivery> {
        self.claim_deliveries(&self.claim_of(owner)).await.expect("claiming works").deliveries
    }

    /// An attempt of a delivery that is over now, with the state it leads to.
    pub fn attempt(&self, delivery: &DeliveryId, number: u32, owner: &str, status: DeliveryStatus) -> AttemptRecord {
        let result = if status == DeliveryStatus::Delivered { "delivered" } else { "http_status" };
        let finished = matches!(status, DeliveryStatus::Delivered | DeliveryStatus::Dead);
        AttemptRecord {
            attempt: Attempt {
                id: self.ids.attempt(),
                delivery: delivery.clone(),
                number,
                started_at: self.now(),
                duration_ms: 12,
                result: result.into(),
                status_code: Some(if status == DeliveryStatus::Delivered { 204 } else { 500 }),
                error: None,
                response_body: Some("with a zero \u{0}".into()),
            },
            owner: owner.into(),
            attempts_before_retry: 0,
            status,
            reason: (status != DeliveryStatus::Delivered).then(|| "http_status".into()),
            due_at: EpochMs(self.now().0 + 5_000),
            finished_at: finished.then(|| self.now()),
        }
    }

    /// Claims everything and lets it die.
    pub async fn let_everything_die(&self) {
        for claimed in self.claim("node-a").await {
            let number = claimed.delivery.attempts + 1;
            let record = self.attempt(&claimed.delivery.id, number, "node-a", DeliveryStatus::Dead);
            self.record_attempts(vec![record]).await.expect("it is recorded");
        }
    }

    pub fn destination_for(&self, scope: DestinationScope, scope_id: &str) -> Destination {
        Destination {
            id: self.ids.destination(),
            org: org(),
            scope,
            scope_id: scope_id.into(),
            url: "https://sink.example/hooks".into(),
            headers_sealed: Some("sealed headers".into()),
            secret_sealed: "sealed secret".into(),
            previous_secret_sealed: None,
            previous_until: None,
            disabled_reason: None,
            failing_since: None,
            created_at: START,
            updated_at: self.now(),
        }
    }

    pub fn token(&self, installation: &InstallationId) -> SealedToken {
        SealedToken {
            installation: installation.clone(),
            access: "sealed access".into(),
            refresh: Some("sealed refresh".into()),
            token_type: Some("bearer".into()),
            scope: Some("read write".into()),
            expires_at: Some(self.at(60_000)),
            refresh_expires_at: Some(self.at(600_000)),
            generation: 1,
            claim: None,
            created_at: self.now(),
            updated_at: self.now(),
        }
    }

    /// An installation with a token.
    pub async fn insert_connected(&self, external_id: &str) -> SealedToken {
        let installation = self.installation(external_id);
        let token = self.token(&installation.id);
        self.insert_connection(&installation, Some(&token), &self.entry("installation.created"))
            .await
            .expect("inserted");
        token
    }

    /// So many milliseconds from now.
    pub fn at(&self, ms: i64) -> EpochMs {
        EpochMs(self.now().0 + ms)
    }

    /// A flow whose state's hash begins with that byte; for ten seconds.
    pub fn flow(&self, state: u8) -> OAuthFlow {
        OAuthFlow {
            state_hash: [state; 32],
            root_hash: None,
            provider: GITHUB,
            org: org(),
            user: Some("user_1".into()),
            actor: Actor { who: "key:key_1".into(), user: Some("user_1".into()), from: None },
            cookie_hash: None,
            pkce_verifier_sealed: Some("sealed verifier".into()),
            redirect_to: Some("inline".into()),
            context: Some(json!({"account": 7})),
            status: FlowStatus::Pending,
            error: None,
            installation: None,
            result: Map::new(),
            created_at: self.now(),
            expires_at: self.at(10_000),
            taken_at: None,
            finished_at: None,
        }
    }

    pub fn teardown(&self, installation: &InstallationId) -> Teardown {
        let steps = TeardownStep::ALL.map(|step| StepRecord {
            step,
            status: if step == TeardownStep::CloseGate { StepStatus::Done } else { StepStatus::Pending },
            attempts: 0,
            at: None,
            detail: None,
        });
        Teardown {
            installation: installation.clone(),
            org: org(),
            reason: "disconnected".into(),
            status: TeardownStatus::Running,
            steps: steps.to_vec(),
            due_at: self.now(),
            lease_owner: None,
            started_at: self.now(),
            finished_at: None,
            updated_at: self.now(),
        }
    }

    pub fn heal_run(&self, owner: &str) -> HealRun {
        HealRun {
            id: self.ids.heal_run(),
            provider: GITHUB,
            since: START,
            until: self.now(),
            status: HealStatus::Running,
            cause: "on_demand".into(),
            examined: 5,
            missing: 4,
            requested: 3,
            healed: 2,
            refused: 1,
            error: None,
            owner: owner.into(),
            finished_at: None,
            updated_at: self.now(),
        }
    }

    pub async fn delivery(&self, id: &DeliveryId) -> Delivery {
        self.find_delivery(id).await.expect("it is read").expect("it is there").0
    }
}
