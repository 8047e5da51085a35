//! What a supervisor can be asked. Private to this folder; others hold an [`super::InstallationHandle`].

use std::{sync::Arc, time::Instant};

use actix::Message;

use super::{InstallationError, ProviderState, SupervisorSnapshot};
use crate::{
    actors::tokens::{AccessToken, TokenError},
    model::{ids::OrgId, routes::RouteTable},
    store::InstallationRecord,
};

/// A decision from `state.rs`, to be made on rows read under lock.
pub(super) type Decide<T> = Box<dyn FnOnce(&mut InstallationRecord) -> Result<T, InstallationError> + Send>;

/// Make a decision about the installation's rows and keep what it edits.
#[derive(Message)]
#[rtype(result = "Result<T, InstallationError>")]
pub(super) struct EditRecord<T: Send + 'static> {
    /// The decision.
    pub decide: Decide<T>,
}

/// Read the route table, as it was at `asked_at` or later.
#[derive(Message)]
#[rtype(result = "Result<Arc<RouteTable>, InstallationError>")]
pub(super) struct GetRoutes {
    /// When the asker asked.
    pub asked_at: Instant,
}

/// Rows may have changed elsewhere: read and publish them again.
#[derive(Message)]
#[rtype(result = "Result<(), InstallationError>")]
pub(super) struct Reload {
    /// Only if the installation is this org's.
    pub only_of: Option<OrgId>,
}

/// Give a token that lives, and not the one refused.
#[derive(Message)]
#[rtype(result = "Result<AccessToken, TokenError>")]
pub(super) struct GetToken {
    /// The generation that the provider did not accept.
    pub rejected: Option<u64>,
}

/// Go on with the teardown, if there is one and it is due.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ResumeTeardown;

/// A call showed how the provider's side is. Answered when the row says so.
#[derive(Message)]
#[rtype(result = "Result<(), InstallationError>")]
pub(super) struct NoteProvider {
    /// How.
    pub state: ProviderState,
}

/// Anything may have changed: keep nothing of what the rows said. Handled after the reads that are under way, so that
/// nothing of before is published after it.
#[derive(Message)]
#[rtype(result = "Result<(), InstallationError>")]
pub(super) struct ForgetRows;

/// Say what you know.
#[derive(Message)]
#[rtype(result = "Result<SupervisorSnapshot, InstallationError>")]
pub(super) struct GetSnapshot;

/// Finish what is under way and stop.
#[derive(Message)]
#[rtype(result = "Result<(), InstallationError>")]
pub(super) struct Drain;
