//! Step 5 for control events: what a provider says about installations and resources changes state before the event is
//! routed like any other.
//!
//! **Invariants**: state changes are idempotent and survive any order (`actors/installation/control.rs`); a crash
//! between the change and the commit is mended by the provider's retry, which finds the change made (and has nobody
//! left to tell of a resource's end).

use super::{
    Receipt, RouteError,
    pipeline::{Found, Pipeline, Understood, unavailable},
};
use crate::{
    actors::{AskError, installation::InstallationError},
    delivery::plan::MatchedBy,
    model::{
        clock::EpochMs,
        ids::InstallationId,
        log_entry::Actor,
        provider::{ProviderResourceId, ProviderSlug},
        routes::RouteTable,
    },
    providers::{ControlChange, Inbound, RemovalReason},
    store::StoreError,
};

impl Pipeline {
    /// Step 5 for control events: state first, then routing. A redelivered control event changes nothing.
    pub(super) async fn apply_control(&self, understood: &Understood) -> Result<Controlled, RouteError> {
        let provider = understood.provider.slug();
        let inbound = &understood.inbound;
        let found = self.find_routes(provider, inbound).await?;
        if inbound.control.is_empty() {
            return Ok(Controlled::Routable(found));
        }
        if let Some(known) = self.store.find_event_by_delivery_id(provider, &inbound.delivery_id).await? {
            return Ok(Controlled::Duplicate(Receipt::Duplicate {
                delivery_id: inbound.delivery_id.clone(),
                event: known.id,
            }));
        }
        let told_by = found.as_ref().filter(|(_, matched_by)| *matched_by != MatchedBy::Resource);
        self.release_transferred(provider, inbound, told_by.map(|(table, _)| table.as_ref())).await?;
        let Some((table, matched_by)) = found else { return Ok(Controlled::Routable(None)) };
        let is_old = concerns_former_grant(&table, inbound);
        // What moved to the teller is at home there, and may have been linked there long before this webhook came.
        let is_for_others = |change: &ControlChange| is_transfer(change) || (is_old && is_of_grant(change));
        let changes: Vec<_> = inbound.control.iter().filter(|change| !is_for_others(change)).cloned().collect();
        let ends_resource = changes.iter().any(is_deletion);
        if !changes.is_empty() {
            self.change_state(&table.installation, changes, inbound.control_at, provider).await?;
        }
        let fresh = self.directory.routes_by_id(&table.installation).await.map_err(unavailable)?;
        // Whoever subscribed to the end of a resource is told of it, though it is not routed to any more.
        let routes = fresh.map(|fresh| if ends_resource && fresh.status.routes() { table } else { fresh });
        Ok(Controlled::Routable(routes.map(|table| (table, matched_by))))
    }

    async fn change_state(
        &self,
        installation: &InstallationId,
        changes: Vec<ControlChange>,
        at: Option<EpochMs>,
        provider: ProviderSlug,
    ) -> Result<(), RouteError> {
        match self.directory.apply_control(installation, changes, at, provider).await {
            Ok(()) => Ok(()),
            // Two rows would claim one account (a transfer onto an account that is connected): the state stays, the
            // event is kept, a person decides.
            Err(AskError::Reply(InstallationError::Store(StoreError::NotUnique { .. }))) => {
                tracing::error!(installation.id = %installation, "a control event collides with another connection");
                Ok(())
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn hand_over(
        &self,
        resource: &ProviderResourceId,
        from: &InstallationId,
        to: &InstallationId,
        at: Option<EpochMs>,
        provider: ProviderSlug,
    ) -> Result<(), RouteError> {
        match self.directory.hand_over(resource, from, to, at, &Actor::provider(provider)).await {
            // Nothing can be linked there: it ends here all the same.
            Ok(()) | Err(AskError::Reply(InstallationError::NotActive(_))) => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// A transfer is told by the receiving side, while the resource is linked at the giving one:
    /// every other installation that has it loses it, and the teller keeps what it has linked. If it is the same org's, it
    /// gets the subscriptions as well.
    async fn release_transferred(
        &self,
        provider: ProviderSlug,
        inbound: &Inbound,
        told_by: Option<&RouteTable>,
    ) -> Result<(), RouteError> {
        for change in &inbound.control {
            let ControlChange::ResourcesRemoved { ids, reason: RemovalReason::Transferred } = change else { continue };
            for id in ids {
                for owner in self.store.find_installations_by_resource(provider, id).await? {
                    if told_by.is_some_and(|teller| teller.installation == owner.id) {
                        continue;
                    }
                    if let Some(teller) = told_by.filter(|teller| teller.org == owner.org) {
                        self.hand_over(id, &owner.id, &teller.installation, inbound.control_at, provider).await?;
                    }
                    self.change_state(&owner.id, vec![change.clone()], inbound.control_at, provider).await?;
                }
            }
        }
        Ok(())
    }
}

fn is_transfer(change: &ControlChange) -> bool {
    matches!(change, ControlChange::ResourcesRemoved { reason: RemovalReason::Transferred, .. })
}

fn is_deletion(change: &ControlChange) -> bool {
    matches!(change, ControlChange::ResourcesRemoved { reason: RemovalReason::Deleted, .. })
}

/// Whether a change is one of the grant, and not of a resource itself, which is what it is whoever reaches it.
fn is_of_grant(change: &ControlChange) -> bool {
    match change {
        ControlChange::ResourceChanged { .. } => false,
        ControlChange::ResourcesRemoved { reason, .. } => *reason == RemovalReason::AccessLost,
        _ => true,
    }
}

/// Whether an event names only other grants of the same account than the one we hold: the account was connected anew
/// since (Vercel: another configuration id), and what becomes of the old grant is nothing to the new.
fn concerns_former_grant(table: &RouteTable, inbound: &Inbound) -> bool {
    let named = &inbound.alternate_installations;
    !named.is_empty() && table.alternate_external_id.as_ref().is_some_and(|held| !named.contains(held))
}

/// What the control step found.
pub(super) enum Controlled {
    /// Go on with this installation.
    Routable(Found),
    /// It was stored before.
    Duplicate(Receipt),
}
