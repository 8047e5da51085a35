//! The ending of an installation, as pure edits of its record and of its teardown's row: what begins it, which step is
//! next, what becomes of a try, when a step is given up. No clock, no I/O.
//!
//! **Invariants**: the gate is closed in the transaction that makes the row; steps are settled in order, each once; a
//! settled step never changes; the row is the receipt once every step is settled.

use std::time::Duration;

use super::{
    control,
    state::{Edit, end_integrations, remove_resources},
};
use crate::{
    model::{
        clock::EpochMs,
        installation::InstallationStatus,
        integration::IntegrationStatus,
        resource::ResourceStatus,
        teardown::{StepRecord, StepStatus, Teardown, TeardownStatus, TeardownStep},
        token::TokenEdit,
    },
    store::InstallationRecord,
};

/// The reason of a teardown that somebody asked for.
pub const DISCONNECTED: &str = "disconnected";
/// The reason of a teardown that the provider began: there is nothing left to revoke.
pub const PROVIDER_REVOKED: &str = "provider_revoked";
/// Why steps of a teardown were skipped that a new connection ended.
pub(super) const RECONNECTED: &str = "reconnected";

/// The pauses after the tries of a step that others have to help with: two minutes in all, then it is given up.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
    Duration::from_secs(45),
];

/// How a try of a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It is done; a code that says how, where there is something to say.
    Done(Option<&'static str>),
    /// There was nothing to do, and why.
    Skipped(&'static str),
    /// It cannot be done, however often it is tried.
    Impossible(&'static str),
    /// It failed for now.
    Failed(&'static str),
}

/// Begins the ending of an installation: from the commit on it does not route. One that is ending, or has ended, is
/// answered as it is.
pub fn begin(record: &mut InstallationRecord, reason: &str, edit: &Edit<'_>) -> Teardown {
    let is_closed = record.installation.status == InstallationStatus::Revoked;
    if let Some(known) = record.teardown.as_ref().filter(|_| is_closed) {
        return known.clone();
    }
    control::set_status(record, InstallationStatus::Revoked, Some(reason), edit);
    let steps = TeardownStep::ALL.into_iter().map(|step| first_record(step, reason, edit.now)).collect();
    let teardown = Teardown {
        installation: record.installation.id.clone(),
        org: record.installation.org.clone(),
        reason: reason.to_owned(),
        status: TeardownStatus::Running,
        steps,
        due_at: edit.now,
        lease_owner: None,
        started_at: edit.now,
        finished_at: None,
        updated_at: edit.now,
    };
    record.teardown = Some(teardown.clone());
    if reason == PROVIDER_REVOKED { finish_alone(record, teardown, edit) } else { teardown }
}

/// Settles what nobody else has to help with: what the provider ended is over at once, unless the backfill service has
/// to hear of it.
fn finish_alone(record: &mut InstallationRecord, mut teardown: Teardown, edit: &Edit<'_>) -> Teardown {
    while let Some(step) = next_step(&teardown) {
        let Some(tried) = without_help(step, edit.tells_backfill) else { break };
        write_try(&mut teardown, step, tried, edit.now);
        apply_step(record, &teardown, step, edit);
    }
    record.teardown = Some(teardown.clone());
    teardown
}

/// How a step ends that nobody else has to help with.
pub fn without_help(step: TeardownStep, tells_backfill: bool) -> Option<Tried> {
    match step {
        TeardownStep::CancelBackfill => (!tells_backfill).then_some(Tried::Skipped("not_configured")),
        TeardownStep::RevokeToken => None,
        // All four providers send the webhooks of an installation to the app's own address.
        TeardownStep::DeregisterWebhook => Some(Tried::Skipped("none_registered")),
        // Done by the transaction that writes it.
        TeardownStep::CloseGate | TeardownStep::RemoveResources | TeardownStep::DeleteToken => Some(Tried::Done(None)),
    }
}

fn first_record(step: TeardownStep, reason: &str, now: EpochMs) -> StepRecord {
    let (status, attempts, detail) = match step {
        TeardownStep::CloseGate => (StepStatus::Done, 1, None),
        TeardownStep::RevokeToken if reason == PROVIDER_REVOKED => (StepStatus::Skipped, 0, Some(PROVIDER_REVOKED)),
        _ => (StepStatus::Pending, 0, None),
    };
    let at = (status != StepStatus::Pending).then_some(now);
    StepRecord { step, status, attempts, at, detail: detail.map(str::to_owned) }
}

/// Ends a running teardown because the installation was connected again: what it had left to do is skipped.
pub fn supersede(teardown: &mut Teardown, now: EpochMs) {
    if teardown.status == TeardownStatus::Completed {
        return;
    }
    for step in teardown.steps.iter_mut().filter(|step| step.status == StepStatus::Pending) {
        step.status = StepStatus::Skipped;
        step.at = Some(now);
        step.detail = Some(RECONNECTED.to_owned());
    }
    complete(teardown, now);
    teardown.updated_at = now;
}

/// The step to work on.
pub fn next_step(teardown: &Teardown) -> Option<TeardownStep> {
    if teardown.status == TeardownStatus::Completed {
        return None;
    }
    teardown.steps.iter().find(|step| step.status == StepStatus::Pending).map(|step| step.step)
}

/// Writes down how a try ended, by the node that has the lease; gives the lease back. False, with nothing changed, if
/// the step is not the next one or the lease is somebody else's.
pub fn record_try(teardown: &mut Teardown, step: TeardownStep, tried: Tried, owner: &str, now: EpochMs) -> bool {
    if next_step(teardown) != Some(step) || teardown.lease_owner.as_deref() != Some(owner) {
        return false;
    }
    write_try(teardown, step, tried, now);
    true
}

fn write_try(teardown: &mut Teardown, step: TeardownStep, tried: Tried, now: EpochMs) {
    let Some(record) = teardown.steps.iter_mut().find(|record| record.step == step) else { return };
    let mut due_at = now;
    let (status, detail) = match tried {
        Tried::Done(detail) => (StepStatus::Done, detail),
        Tried::Skipped(why) => (StepStatus::Skipped, Some(why)),
        Tried::Impossible(why) => (StepStatus::GaveUp, Some(why)),
        Tried::Failed(why) => match PAUSES.get(usize::try_from(record.attempts).unwrap_or(usize::MAX)) {
            Some(pause) => {
                due_at = now.plus(*pause);
                (StepStatus::Pending, Some(why))
            }
            None => (StepStatus::GaveUp, Some(why)),
        },
    };
    if !matches!(tried, Tried::Skipped(_)) {
        record.attempts = record.attempts.saturating_add(1);
    }
    record.status = status;
    record.at = Some(now);
    record.detail = detail.map(str::to_owned);
    teardown.due_at = due_at;
    teardown.lease_owner = None;
    teardown.updated_at = now;
    if teardown.steps.iter().all(|record| record.status != StepStatus::Pending) {
        complete(teardown, now);
    }
}

fn complete(teardown: &mut Teardown, now: EpochMs) {
    teardown.status = TeardownStatus::Completed;
    teardown.finished_at = Some(now);
    teardown.lease_owner = None;
}

/// Settles a try inside the transaction that does what the step does to our own rows. Answers whether it was settled.
pub fn settle(record: &mut InstallationRecord, step: TeardownStep, tried: Tried, owner: &str, edit: &Edit<'_>) -> bool {
    let Some(mut teardown) = record.teardown.clone() else { return false };
    if record.installation.status != InstallationStatus::Revoked
        || !record_try(&mut teardown, step, tried, owner, edit.now)
    {
        return false;
    }
    apply_step(record, &teardown, step, edit);
    record.teardown = Some(teardown);
    true
}

/// Does to our own rows what a step just written does to them, and logs what there is to say.
fn apply_step(record: &mut InstallationRecord, teardown: &Teardown, step: TeardownStep, edit: &Edit<'_>) {
    match step {
        TeardownStep::RemoveResources => remove_everything(record, &teardown.reason, edit),
        TeardownStep::DeleteToken => record.token = TokenEdit::Delete,
        _ => {}
    }
    let settled = teardown.steps.iter().find(|settled| settled.step == step);
    if let Some(given_up) = settled.filter(|settled| settled.status == StepStatus::GaveUp) {
        let mut entry = edit.entry(record, "teardown.step_given_up", Some(step.as_str().to_owned()));
        entry.reason.clone_from(&given_up.detail);
        record.log.push(entry);
    }
    if teardown.status == TeardownStatus::Completed {
        let mut entry = edit.entry(record, "teardown.completed", None);
        entry.reason = Some(teardown.reason.clone());
        record.log.push(entry);
    }
}

/// Takes everything out of use that lived from the installation.
fn remove_everything(record: &mut InstallationRecord, reason: &str, edit: &Edit<'_>) {
    let linked = record.resources.iter().filter(|r| r.status == ResourceStatus::Active).map(|r| r.id.clone()).collect();
    remove_resources(record, &linked, reason, IntegrationStatus::Revoked, edit);
    end_integrations(record, reason, edit);
}
