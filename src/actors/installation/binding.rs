//! What a proved grant does to the rows of an installation that exists: pure edits of its record.
//!
//! **Invariants**: the row keeps its id and its org; another org's row is refused, never moved; the token arrives in the
//! same change as the state that makes use of it. Whether a revoked row may live again beside others is decided by the
//! store's unique index, not here.

use super::{
    InstallationError, control,
    state::{Edit, merge},
    teardown,
};
use crate::{
    model::{
        clock::EpochMs,
        ids::OrgId,
        installation::{Installation, InstallationStatus},
        integration::IntegrationStatus,
        provider::ExternalId,
        token::{SealedToken, TokenEdit},
    },
    providers::connector::Account,
    store::InstallationRecord,
};

/// A grant whose place is known: an org's, with its token sealed for the row it goes to.
#[derive(Debug, Clone)]
pub struct ProvedGrant {
    /// For which org.
    pub org: OrgId,
    /// The second id some payloads name.
    pub alternate_external_id: Option<ExternalId>,
    /// The account behind it.
    pub account: Account,
    /// `Active`, or `Pending` if the provider has yet to confirm it.
    pub status: InstallationStatus,
    /// Its token, sealed for this installation.
    pub token: Option<SealedToken>,
    /// Who connected it.
    pub connected_by: String,
    /// Whether only what the installation covers was changed: a live row stays that of who connected it.
    pub is_update: bool,
    /// What the log calls it.
    pub action: &'static str,
    /// Whether the provider calls one grant of an account as it calls the next, so that what it tells late of the former
    /// one comes to this row.
    pub shares_id: bool,
}

impl ProvedGrant {
    /// The state it puts an installation into, and why.
    pub fn state(&self) -> (InstallationStatus, Option<&'static str>) {
        if self.account.suspended {
            (InstallationStatus::Suspended, Some(control::PROVIDER_SUSPENDED))
        } else {
            (self.status, None)
        }
    }

    /// When it was made, so that what happened before is no news of it. `None` where every grant has an id of its own, or
    /// this one has another alternate id than the `former`: then there is no older news under that id, and what an event
    /// is dated with may be old (GitHub: when the installation was last updated, also in the event of its end).
    pub fn granted_at(&self, former: Option<&ExternalId>, now: EpochMs) -> Option<EpochMs> {
        let is_told_apart =
            former.is_some_and(|former| self.alternate_external_id.as_ref().is_some_and(|id| id != former));
        (self.shares_id && !is_told_apart).then_some(now)
    }
}

/// Puts a grant into the row it belongs to.
///
/// # Errors
/// [`InstallationError::AlreadyBound`] if the row is another org's.
pub fn reconnect(
    record: &mut InstallationRecord,
    grant: ProvedGrant,
    edit: &Edit<'_>,
) -> Result<Installation, InstallationError> {
    if record.installation.org != grant.org {
        return Err(InstallationError::AlreadyBound);
    }
    let before = record.installation.status;
    if before == InstallationStatus::Revoked
        && let Some(running) = &mut record.teardown
    {
        teardown::supersede(running, edit.now);
    }
    let granted_at = grant.granted_at(record.installation.alternate_external_id.as_ref(), edit.now);
    control::note_grant(&mut record.installation, granted_at);
    let (status, reason) = match grant.state() {
        // What is in use was confirmed before: that the provider could not be told once more takes nothing from it.
        (InstallationStatus::Pending, _) if control::is_in_use(&record.installation) => {
            (InstallationStatus::Active, None)
        }
        state => state,
    };
    if before == InstallationStatus::Revoked || !grant.is_update {
        record.installation.connected_by.clone_from(&grant.connected_by);
    }
    take_over_facts(&mut record.installation, &grant, edit.now);
    control::settle(record, status, reason);
    if status == InstallationStatus::Active {
        control::move_integrations(record, IntegrationStatus::Suspended, IntegrationStatus::Active, edit);
    } else if status == InstallationStatus::Suspended {
        control::move_integrations(record, IntegrationStatus::Active, IntegrationStatus::Suspended, edit);
    }
    if let Some(token) = grant.token {
        record.token = TokenEdit::Put(Box::new(token));
    }
    let mut entry = edit.entry(record, grant.action, Some(record.installation.external_id.to_string()));
    entry.from_state = Some(before.to_string());
    entry.to_state = Some(status.to_string());
    record.log.push(entry);
    Ok(record.installation.clone())
}

fn take_over_facts(installation: &mut Installation, grant: &ProvedGrant, now: EpochMs) {
    if grant.alternate_external_id.is_some() {
        installation.alternate_external_id.clone_from(&grant.alternate_external_id);
    }
    if grant.account.login.is_some() {
        installation.account_login.clone_from(&grant.account.login);
    }
    merge(&mut installation.metadata, &grant.account.metadata);
    if !grant.account.info.is_null() {
        installation.provider_account_info = Some(grant.account.info.clone());
    }
    installation.updated_at = now;
}
