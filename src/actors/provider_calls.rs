//! Calls to a provider on behalf of an installation: with a token that lives, renewed once if the provider refuses it.
//!
//! **Invariants**: a call is made at most twice; only a token that was renewed for it and refused again makes the
//! installation `needs_reauth`; an outage never does; a verdict is applied to the grant it was given about and to none
//! that came since; what an error says is ours. **Must not know** what is called.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{
    AskError,
    directory::Directory,
    installation::{InstallationError, ProviderState},
    runtime::{Panicked, isolate},
    tokens::{AccessToken, GrantVerdict, TokenError},
};
use crate::{
    model::{
        error_kind::ErrorKind,
        ids::InstallationId,
        installation::{Installation, InstallationStatus},
    },
    providers::{Connector, ConnectorError, connector::Grant},
    store::StoreError,
};

/// Why a call to a provider gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProviderCallError {
    /// No such installation.
    #[error("not found")]
    NotFound,
    /// No token is kept for it.
    #[error("no token is kept for this connection")]
    NoToken,
    /// It is pending, suspended or revoked; perhaps since this call.
    #[error("the connection is {0}")]
    NotActive(InstallationStatus),
    /// The provider refused a token that was fresh: the installation is `needs_reauth` now, or was before.
    #[error("the grant is dead; connect again")]
    ConnectionExpired,
    /// The grant does not reach what was asked for.
    #[error("not accessible with this grant")]
    NotAccessible,
    /// The provider has no such thing.
    #[error("this provider has no such thing")]
    NotSupported,
    /// A cursor (or another parameter) that no former answer gave.
    #[error("a parameter cannot be read")]
    InvalidParameter,
    /// The provider could not be asked, or answered nonsense. A short text of ours.
    #[error("the provider could not be asked: {0}")]
    ProviderUnavailable(String),
    /// The provider is not enabled, or a setting is missing that connecting needs.
    #[error("{0}")]
    NotConfigured(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The call panicked, or the token's record cannot be opened.
    #[error("the request failed")]
    Crashed,
}

impl ProviderCallError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::NoToken => "no_token_found",
            Self::NotActive(_) => "installation_not_active",
            Self::ConnectionExpired => "connection_expired",
            Self::NotAccessible => "resource_not_accessible",
            Self::NotSupported => "not_supported",
            Self::InvalidParameter => "invalid_parameter",
            Self::ProviderUnavailable(_) => "provider_unavailable",
            Self::NotConfigured(_) => "connecting_not_configured",
            Self::Store(error) => error.code(),
            Self::Crashed => "internal_error",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound | Self::NoToken | Self::NotAccessible => ErrorKind::NotFound,
            Self::NotActive(_) | Self::NotSupported | Self::InvalidParameter | Self::NotConfigured(_) => {
                ErrorKind::BadRequest
            }
            Self::ConnectionExpired => ErrorKind::Unauthorized,
            Self::ProviderUnavailable(_) => ErrorKind::Upstream,
            Self::Store(error) => error.kind(),
            Self::Crashed => ErrorKind::Internal,
        }
    }
}

impl From<TokenError> for ProviderCallError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::NotFound => Self::NotFound,
            TokenError::NoToken => Self::NoToken,
            TokenError::NotActive(status) => Self::NotActive(status),
            TokenError::Expired => Self::ConnectionExpired,
            TokenError::ProviderUnavailable(why) => Self::ProviderUnavailable(why),
            TokenError::NotConfigured(why) => Self::NotConfigured(why),
            TokenError::Store(error) => Self::Store(error),
            TokenError::Vault | TokenError::Crashed => Self::Crashed,
        }
    }
}

/// A call that was made.
struct Tried<T> {
    /// The installation as it was before.
    seen: Installation,
    /// Which token it was made with.
    generation: u64,
    outcome: Result<Result<T, ConnectorError>, Panicked>,
}

impl Directory {
    /// Calls an installation's provider with a token that lives. If the provider does not accept it, once more with a
    /// renewed one; if that is not accepted either, the installation becomes `needs_reauth`.
    pub async fn ask_provider<T>(
        &self,
        id: &InstallationId,
        call: impl Fn(Arc<dyn Connector>, Grant, AccessToken) -> BoxFuture<'static, Result<T, ConnectorError>>,
    ) -> Result<T, AskError<ProviderCallError>> {
        let mut tried = self.try_call(id, None, &call).await?;
        if matches!(tried.outcome, Ok(Err(ConnectorError::Unauthorized))) {
            tried = self.try_call(id, Some(tried.generation), &call).await?;
        }
        match tried.outcome {
            Err(_panicked) => Err(AskError::Reply(ProviderCallError::Crashed)),
            Ok(Ok(answer)) => {
                self.note_provider(id, ProviderState::Answers).await;
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.judge_call(&tried.seen, error).await),
        }
    }

    /// Calls once; with another token than that of generation `rejected`. The installation is read before its token, so
    /// that it has changed since if the token is a newer grant's.
    async fn try_call<T>(
        &self,
        id: &InstallationId,
        rejected: Option<u64>,
        call: impl Fn(Arc<dyn Connector>, Grant, AccessToken) -> BoxFuture<'static, Result<T, ConnectorError>>,
    ) -> Result<Tried<T>, AskError<ProviderCallError>> {
        let seen = self.see(id).await?;
        let token = match rejected {
            None => self.token(id).await,
            Some(rejected) => self.renew_token(id, rejected).await,
        };
        let token = token.map_err(of_token)?;
        let connector = self.connector_of(seen.provider).map_err(of_token_error)?;
        let generation = token.generation;
        let outcome = isolate(call(connector, Grant::of(&seen, self.now()), token)).await;
        Ok(Tried { seen, generation, outcome })
    }

    /// An installation as it is before its provider is asked.
    pub(super) async fn see(&self, id: &InstallationId) -> Result<Installation, AskError<ProviderCallError>> {
        let found = self.store().find_installation(id).await;
        let found = found.map_err(|error| AskError::Reply(error.into()))?;
        found.ok_or(AskError::Reply(ProviderCallError::NotFound))
    }

    /// What a failed call says about the grant is acted on before the caller hears of it.
    pub(super) async fn judge_call(&self, seen: &Installation, error: ConnectorError) -> AskError<ProviderCallError> {
        let (verdict, told) = match error {
            ConnectorError::Unauthorized | ConnectorError::Rejected => {
                (Some(GrantVerdict::Dead), ProviderCallError::ConnectionExpired)
            }
            ConnectorError::Gone => {
                (Some(GrantVerdict::Gone), ProviderCallError::NotActive(InstallationStatus::Revoked))
            }
            ConnectorError::Suspended => {
                (Some(GrantVerdict::Suspended), ProviderCallError::NotActive(InstallationStatus::Suspended))
            }
            ConnectorError::NotAccessible => (None, ProviderCallError::NotAccessible),
            ConnectorError::NotSupported => (None, ProviderCallError::NotSupported),
            // Nothing was asked: the caller's word could not be.
            ConnectorError::Refused("invalid_parameter") => (None, ProviderCallError::InvalidParameter),
            ConnectorError::AnswerLost
            | ConnectorError::Unavailable { .. }
            | ConnectorError::Malformed(_)
            | ConnectorError::Refused(_) => {
                self.note_provider(&seen.id, ProviderState::Unreachable).await;
                (None, ProviderCallError::ProviderUnavailable(error.to_string()))
            }
        };
        match verdict {
            Some(verdict) => self.judge_and_tell(seen, verdict, told).await,
            None => AskError::Reply(told),
        }
    }

    /// Acts on a verdict; what the caller hears then.
    pub(super) async fn judge_and_tell(
        &self,
        seen: &Installation,
        verdict: GrantVerdict,
        told: ProviderCallError,
    ) -> AskError<ProviderCallError> {
        match self.judge_grant(seen, verdict).await {
            Ok(true) => AskError::Reply(told),
            Ok(false) => {
                let why = "the connection changed meanwhile".to_owned();
                AskError::Reply(ProviderCallError::ProviderUnavailable(why))
            }
            Err(error) => of_installation(error),
        }
    }
}

fn of_token(error: AskError<TokenError>) -> AskError<ProviderCallError> {
    match error {
        AskError::Busy => AskError::Busy,
        AskError::Gone => AskError::Gone,
        AskError::TimedOut => AskError::TimedOut,
        AskError::Reply(error) => of_token_error(error),
    }
}

fn of_token_error(error: TokenError) -> AskError<ProviderCallError> {
    AskError::Reply(error.into())
}

fn of_installation(error: AskError<InstallationError>) -> AskError<ProviderCallError> {
    match error {
        AskError::Busy => AskError::Busy,
        AskError::Gone => AskError::Gone,
        AskError::TimedOut => AskError::TimedOut,
        AskError::Reply(InstallationError::NotFound) => AskError::Reply(ProviderCallError::NotFound),
        AskError::Reply(InstallationError::Store(error)) => AskError::Reply(error.into()),
        AskError::Reply(_) => AskError::Reply(ProviderCallError::Crashed),
    }
}
