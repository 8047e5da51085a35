//! The installation supervisor's handle.

use crate::{
    model::{error_kind::ErrorKind, ids::ResourceId, installation::InstallationStatus},
    store::StoreError,
};

/// Why a supervisor refused.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// No such installation, resource or integration.
    #[error("not found")]
    NotFound,
    /// The installation does not accept links in this state.
    #[error("the connection is {0}")]
    NotActive(InstallationStatus),
    /// The external id belongs to another org's live installation.
    #[error("another organisation has connected this installation")]
    AlreadyBound,
    /// The resource is linked.
    #[error("the resource is linked already")]
    ResourceAlreadyLinked(ResourceId),
    /// The resource was unlinked before.
    #[error("the resource was removed already")]
    AlreadyRemoved,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl InstallationError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::NotActive(_) => "installation_not_active",
            Self::AlreadyBound => "installation_already_bound",
            Self::ResourceAlreadyLinked(_) => "resource_already_linked",
            Self::AlreadyRemoved => "already_removed",
            Self::Store(error) => error.code(),
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::NotActive(_) | Self::AlreadyRemoved => ErrorKind::BadRequest,
            Self::AlreadyBound | Self::ResourceAlreadyLinked(_) => ErrorKind::Conflict,
            Self::Store(error) => error.kind(),
        }
    }
}
