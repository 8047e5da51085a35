//! Tokens and the end of connections, as other rooms ask for them. The supervisor of the installation does the work.
//!
//! **Invariants**: one refresh at a time, in the process and across nodes; nobody is handed a token that is known to be
//! dead; only an explicit verdict of the provider makes an installation `needs_reauth`. **Must not know** how any
//! provider gives tokens.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;

use crate::{
    actors::{
        AskError,
        directory::Directory,
        installation::{
            InstallationError, LONGEST_MARGIN, ProviderState, confirmation, control,
            state::{self, Edit},
            teardown,
        },
    },
    model::{
        clock::EpochMs,
        error_kind::ErrorKind,
        ids::InstallationId,
        installation::{Installation, InstallationStatus},
        log_entry::Actor,
        provider::ProviderSlug,
        secret::Secret,
        teardown::Teardown,
    },
    providers::{Connector, Registry},
    store::{InstallationRecord, PageRequest, StoreError},
    vault::SealedAt,
};

/// The table that tokens are kept, and sealed, in.
const TABLE: &str = "gw_tokens";
/// Due teardowns taken up at one turn.
const TEARDOWNS_AT_ONCE: u32 = 64;
/// Tokens renewed ahead at one turn.
const RENEWALS_A_TURN: u32 = 256;
/// How many of them are asked for at once.
const RENEWALS_AT_ONCE: usize = 4;
/// Installations read at once.
const PAGE: u32 = 100;
/// How many pending ones are confirmed at the same time.
const CONFIRMATIONS_AT_ONCE: usize = 4;

/// Where the access token of an installation is sealed.
pub fn access_token_place(id: &InstallationId) -> SealedAt<'_> {
    SealedAt { table: TABLE, row: id.as_str(), column: "access_token" }
}

/// Where its refresh token is sealed.
pub fn refresh_token_place(id: &InstallationId) -> SealedAt<'_> {
    SealedAt { table: TABLE, row: id.as_str(), column: "refresh_token" }
}

/// An opened access token.
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// The token.
    pub access: Secret,
    /// When it dies; `None` if it does not by itself.
    pub expires_at: Option<EpochMs>,
    /// Which token of its installation it is: [`Directory::renew_token`] takes it to know whether somebody renewed it
    /// in the meantime.
    pub generation: u64,
}

/// Why there is no token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// No such installation.
    #[error("not found")]
    NotFound,
    /// The installation is not one that has a token (adopted, or connected before tokens were kept).
    #[error("no token is kept for this connection")]
    NoToken,
    /// The installation is pending, suspended or revoked; perhaps since the provider was asked.
    #[error("the connection is {0}")]
    NotActive(InstallationStatus),
    /// The grant is dead: the installation is `needs_reauth`.
    #[error("the grant is dead; connect again")]
    Expired,
    /// The provider could not be asked, and no token that still lives is at hand.
    #[error("the provider could not be asked for a token: {0}")]
    ProviderUnavailable(String),
    /// The provider is not enabled, or a setting is missing that tokens need.
    #[error("{0}")]
    NotConfigured(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The vault could not open or seal it.
    #[error("the token's record cannot be opened")]
    Vault,
    /// The work panicked.
    #[error("the request failed")]
    Crashed,
}

impl TokenError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::NoToken => "no_token_found",
            Self::NotActive(_) => "installation_not_active",
            Self::Expired => "token_expired",
            Self::ProviderUnavailable(_) | Self::NotConfigured(_) => "token_generation_failed",
            Self::Store(error) => error.code(),
            Self::Vault | Self::Crashed => "internal_error",
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound | Self::NoToken => ErrorKind::NotFound,
            Self::NotActive(_) => ErrorKind::BadRequest,
            Self::Expired => ErrorKind::Unauthorized,
            Self::ProviderUnavailable(_) | Self::NotConfigured(_) => ErrorKind::Upstream,
            Self::Store(error) => error.kind(),
            Self::Vault | Self::Crashed => ErrorKind::Internal,
        }
    }
}

/// The asking half of a provider.
pub(super) fn get_connector(registry: &Registry, provider: ProviderSlug) -> Result<Arc<dyn Connector>, TokenError> {
    match registry.find_connector(provider) {
        Some(Ok(connector)) => Ok(connector.clone()),
        Some(Err(missing)) => Err(TokenError::NotConfigured(missing.to_string())),
        None => Err(TokenError::NotConfigured(format!("the provider {provider} is not enabled"))),
    }
}

/// What the provider said about a grant while it was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantVerdict {
    /// A freshly renewed token was refused: `needs_reauth`.
    Dead,
    /// The installation does not exist any more: teardown with reason `provider_revoked`.
    Gone,
    /// Paused there: `suspended`.
    Suspended,
}

impl Directory {
    /// The asking half of a provider.
    pub(super) fn connector_of(&self, provider: ProviderSlug) -> Result<Arc<dyn Connector>, TokenError> {
        get_connector(self.registry(), provider)
    }

    /// Notes what a call showed of the provider's side, for the connection's health.
    pub(super) async fn note_provider(&self, id: &InstallationId, state: ProviderState) {
        self.locate(id).note_provider(state).await;
    }

    /// A token that lives, renewed if it has to be.
    pub async fn token(&self, id: &InstallationId) -> Result<AccessToken, AskError<TokenError>> {
        self.locate(id).token(None).await
    }

    /// A token newer than the one of generation `rejected`, which the provider did not accept.
    pub async fn renew_token(&self, id: &InstallationId, rejected: u64) -> Result<AccessToken, AskError<TokenError>> {
        self.locate(id).token(Some(rejected)).await
    }

    /// Acts on what the provider said about the grant, if the installation is still as it was `seen` before the provider
    /// was asked: it may have been connected anew since, and the verdict is not about that grant. Answers whether it was.
    pub(super) async fn judge_grant(
        &self,
        seen: &Installation,
        verdict: GrantVerdict,
    ) -> Result<bool, AskError<InstallationError>> {
        self.edit_as_seen(seen, Actor::system(), move |record, edit| control::judge(record, verdict, edit)).await
    }

    /// Edits an installation if it is still as it was `seen`; answers whether it was.
    pub(super) async fn edit_as_seen(
        &self,
        seen: &Installation,
        actor: Actor,
        edit_record: impl FnOnce(&mut InstallationRecord, &Edit<'_>) + Send + 'static,
    ) -> Result<bool, AskError<InstallationError>> {
        self.edit(&seen.id, actor, state::if_as_seen(seen, edit_record)).await
    }

    /// Ends an installation: routing has stopped when this answers, the rest goes on by itself and survives a crash.
    /// One that is ending, or has ended, is answered as it is.
    pub async fn begin_teardown(
        &self,
        id: &InstallationId,
        reason: &'static str,
        actor: Actor,
    ) -> Result<Teardown, AskError<InstallationError>> {
        self.edit(id, actor, move |record, edit| Ok(teardown::begin(record, reason, edit))).await
    }

    /// Goes on with every teardown that is due: those that waited, and those of nodes that are gone.
    pub async fn resume_teardowns(&self) -> Result<(), StoreError> {
        for id in self.store().list_due_teardowns(self.now(), TEARDOWNS_AT_ONCE).await? {
            self.locate(&id).resume_teardown();
        }
        Ok(())
    }

    /// Has every pending installation confirmed that has not been refused and whose turn it is (turns are so far apart), and
    /// reads what could not be read of it when it was connected.
    pub async fn confirm_pending(&self, turn: Duration) -> Result<(), StoreError> {
        let now = self.now();
        let pending = self.list_in(InstallationStatus::Pending).await?.into_iter();
        let awaited = pending.filter(|pending| confirmation::is_awaited(pending, now, turn));
        futures_util::stream::iter(awaited)
            .for_each_concurrent(CONFIRMATIONS_AT_ONCE, |installation| async move {
                // Whatever asks the provider has it confirmed first.
                if let Err(error) = self.look_again(&installation.id, Actor::system()).await {
                    tracing::debug!(installation.id = %installation.id, %error, "an installation is pending still");
                }
            })
            .await;
        Ok(())
    }

    /// Every installation in a state that few are in.
    pub(super) async fn list_in(&self, status: InstallationStatus) -> Result<Vec<Installation>, StoreError> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let request = PageRequest { limit: PAGE, cursor: cursor.as_deref() };
            let page = self.store().list_installations(None, None, Some(status), request).await?;
            all.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Renews a provider's tokens that are about to end, so that nobody waits for it who needs one. One that does not answer
    /// takes its time for each of them: no other provider's tokens wait for that.
    pub async fn renew_expiring_tokens(&self, provider: ProviderSlug) -> Result<(), StoreError> {
        let now = self.now();
        let end = now.plus(LONGEST_MARGIN);
        let expiring = self.store().list_expiring_tokens(provider, end, now, RENEWALS_A_TURN).await?;
        let renewals = futures_util::stream::iter(expiring);
        renewals
            .for_each_concurrent(RENEWALS_AT_ONCE, |id| async move {
                // The supervisor decides by the token's own margin whether it is time.
                if let Err(error) = self.token(&id).await {
                    tracing::info!(installation.id = %id, %error, "a token was not renewed ahead of its end");
                }
            })
            .await;
        Ok(())
    }
}
