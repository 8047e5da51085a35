//! Transfers: a resource that moves to another account of the same org takes its subscriptions along.
//!
//! **Invariants**: a subscription keeps its id, and with it its own destination and its history; nothing moves from one org
//! to another; each edit is under the lock of the installation whose rows it has, and making them again changes nothing.
//! **Must not know** how a provider tells of a transfer.

use super::{
    AskError,
    directory::{Directory, LinkResource},
    installation::{InstallationError, control, state},
};
use crate::model::{clock::EpochMs, ids::InstallationId, log_entry::Actor, provider::ProviderResourceId};

impl Directory {
    /// Links a resource of `from` at `to`, an installation of the same org, and hands its living subscriptions over. What
    /// `to` subscribes to it already stays as it is. `at` is the provider's time of the transfer: an old one does nothing.
    ///
    /// # Errors
    /// [`InstallationError::NotActive`] if `to` accepts no links; or the store or a supervisor fails.
    pub async fn hand_over(
        &self,
        resource: &ProviderResourceId,
        from: &InstallationId,
        to: &InstallationId,
        at: Option<EpochMs>,
        actor: &Actor,
    ) -> Result<(), AskError<InstallationError>> {
        let loaded = self.store().load_installation(from).await;
        let record = loaded.map_err(InstallationError::from).map_err(AskError::Reply)?;
        let linked = record.as_ref().and_then(|record| state::find_linked(record, resource));
        let Some(moving) = linked.filter(|row| !control::is_stale(at, row.control_at)).cloned() else { return Ok(()) };
        let link = LinkResource {
            provider_resource_id: moving.provider_resource_id,
            name: moving.name,
            slug: moving.slug,
            attrs: moving.attrs,
        };
        let receiver =
            self.edit(to, actor.clone(), move |record, edit| state::receive_resource(record, &link, at, edit)).await?;
        self.deps().crash_after("transfer", "receive");
        let (giving, receiving) = (moving.id, receiver.resource.clone());
        self.edit(from, actor.clone(), move |record, edit| {
            state::give_away(record, &giving, &receiver, edit);
            Ok(())
        })
        .await?;
        self.deps().crash_after("transfer", "give");
        // It has them now, and everybody learns of it.
        self.edit(to, actor.clone(), move |record, edit| {
            state::settle_received(record, &receiving, edit);
            Ok(())
        })
        .await?;
        self.deps().crash_after("transfer", "settle");
        self.announce_link(to);
        // Their names have the account's in them.
        self.look_in_background(to);
        Ok(())
    }
}
