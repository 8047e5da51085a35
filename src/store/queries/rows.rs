//! Rows as the model's words. Reads columns in the order of `columns.rs`.

use super::{Fields, StoreResult};
use crate::{
    model::{
        delivery::{Attempt, Delivery, DeliveryStatus},
        destination::{Destination, DestinationScope},
        event::{Event, EventKey, EventOutcome},
        ids::{
            AttemptId, DeliveryId, DestinationId, EventId, InstallationId, IntegrationId, OrgId, ResourceId,
            WorkspaceId,
        },
        installation::{Installation, InstallationStatus},
        integration::{Integration, IntegrationStatus},
        provider::{ExternalId, ProviderDeliveryId, ProviderResourceId},
        resource::{Resource, ResourceStatus},
        teardown::{Teardown, TeardownStatus},
    },
    store::known::KnownProviders,
};

impl Fields<'_> {
    pub(super) fn event(&mut self, known: &KnownProviders) -> StoreResult<Event> {
        Ok(Event {
            id: EventId::from_raw(self.begin("gw_events")?),
            provider: self.word("provider", |word| known.find(word))?,
            provider_delivery_id: ProviderDeliveryId::new(self.get::<&str>()?),
            wire_type: self.get()?,
            key: self.get::<Option<&str>>()?.map(EventKey::new),
            installation: self.get::<Option<&str>>()?.map(InstallationId::from_raw),
            org: self.get::<Option<&str>>()?.map(OrgId::from_raw),
            external_id: self.get::<Option<&str>>()?.map(ExternalId::new),
            resources: self.json("resources")?,
            outcome: self.word("outcome", EventOutcome::parse)?,
            reason: self.get()?,
            possible_replay: self.get()?,
            held: self.get()?,
            received_at: self.time()?,
            correlation_id: self.get()?,
            trace_id: self.get()?,
        })
    }

    pub(super) fn delivery(&mut self) -> StoreResult<Delivery> {
        let id = DeliveryId::from_raw(self.begin("gw_deliveries")?);
        let event = EventId::from_raw(self.get::<&str>()?);
        let integration = IntegrationId::from_raw(self.get::<&str>()?);
        let resource = ResourceId::from_raw(self.get::<&str>()?);
        let workspace = WorkspaceId::from_raw(self.get::<&str>()?);
        let org = OrgId::from_raw(self.get::<&str>()?);
        let destination = self.get::<Option<&str>>()?.map(DestinationId::from_raw);
        let status = self.word("status", DeliveryStatus::parse)?;
        let reason = self.get()?;
        let attempts = self.number("attempts")?;
        let attempts_before_retry = self.number("attempts_before_retry")?;
        let due_at = self.time()?;
        // A leased delivery falls due when its lease ends: the two times are one column.
        let lease_until = self.get::<Option<&str>>()?.map(|_| due_at);
        Ok(Delivery {
            id,
            event,
            integration,
            resource,
            workspace,
            org,
            destination,
            status,
            reason,
            attempts,
            attempts_before_retry,
            due_at,
            lease_until,
            replay: self.get()?,
            created_at: self.time()?,
            finished_at: self.maybe_time()?,
        })
    }

    pub(super) fn attempt(&mut self) -> StoreResult<Attempt> {
        Ok(Attempt {
            id: AttemptId::from_raw(self.begin("gw_attempts")?),
            delivery: DeliveryId::from_raw(self.get::<&str>()?),
            number: self.number("number")?,
            started_at: self.time()?,
            duration_ms: self.number("duration_ms")?,
            result: self.get()?,
            status_code: match self.get::<Option<i64>>()? {
                Some(code) => Some(u16::try_from(code).map_err(|_| self.inconsistent("status_code"))?),
                None => None,
            },
            error: self.get()?,
            response_body: self.get()?,
        })
    }

    pub(super) fn installation(&mut self, known: &KnownProviders) -> StoreResult<Installation> {
        Ok(Installation {
            id: InstallationId::from_raw(self.begin("gw_installations")?),
            provider: self.word("provider", |word| known.find(word))?,
            external_id: ExternalId::new(self.get::<&str>()?),
            alternate_external_id: self.get::<Option<&str>>()?.map(ExternalId::new),
            account_login: self.get()?,
            org: OrgId::from_raw(self.get::<&str>()?),
            connected_by: self.get()?,
            status: self.word("status", InstallationStatus::parse)?,
            status_reason: self.get()?,
            metadata: self.json("metadata")?,
            provider_account_info: self.maybe_json("provider_account_info")?,
            control_at: self.maybe_time()?,
            last_event_at: self.maybe_time()?,
            created_at: self.time()?,
            updated_at: self.time()?,
        })
    }

    pub(super) fn resource(&mut self) -> StoreResult<Resource> {
        Ok(Resource {
            id: ResourceId::from_raw(self.begin("gw_resources")?),
            installation: InstallationId::from_raw(self.get::<&str>()?),
            provider_resource_id: ProviderResourceId::new(self.get::<&str>()?),
            kind: self.get()?,
            slug: self.get()?,
            name: self.get()?,
            attrs: self.json("attrs")?,
            status: self.word("status", ResourceStatus::parse)?,
            status_reason: self.get()?,
            control_at: self.maybe_time()?,
            created_at: self.time()?,
            updated_at: self.time()?,
        })
    }

    pub(super) fn integration(&mut self, known: &KnownProviders) -> StoreResult<Integration> {
        Ok(Integration {
            id: IntegrationId::from_raw(self.begin("workspace_integrations")?),
            org: OrgId::from_raw(self.get::<&str>()?),
            workspace: WorkspaceId::from_raw(self.get::<&str>()?),
            provider: self.word("provider", |word| known.find(word))?,
            installation: InstallationId::from_raw(self.get::<&str>()?),
            resource: ResourceId::from_raw(self.get::<&str>()?),
            source_config: self.json("source_config")?,
            status: self.word("status", IntegrationStatus::parse)?,
            status_reason: self.get()?,
            last_event_at: self.maybe_time()?,
            created_at: self.time()?,
            updated_at: self.time()?,
        })
    }

    pub(super) fn destination(&mut self) -> StoreResult<Destination> {
        Ok(Destination {
            id: DestinationId::from_raw(self.begin("gw_destinations")?),
            org: OrgId::from_raw(self.get::<&str>()?),
            scope: self.word("scope", DestinationScope::parse)?,
            scope_id: self.get()?,
            url: self.get()?,
            headers_sealed: self.get()?,
            secret_sealed: self.get()?,
            previous_secret_sealed: self.get()?,
            previous_until: self.maybe_time()?,
            disabled_reason: self.get()?,
            failing_since: self.maybe_time()?,
            created_at: self.time()?,
            updated_at: self.time()?,
        })
    }

    pub(super) fn teardown(&mut self) -> StoreResult<Teardown> {
        Ok(Teardown {
            installation: InstallationId::from_raw(self.begin("gw_teardowns")?),
            org: OrgId::from_raw(self.get::<&str>()?),
            reason: self.get()?,
            status: self.word("status", TeardownStatus::parse)?,
            steps: self.json("steps")?,
            due_at: self.time()?,
            lease_owner: self.get()?,
            started_at: self.time()?,
            finished_at: self.maybe_time()?,
            updated_at: self.time()?,
        })
    }
}
