//! Binding: gives a proved grant (or one that an operator vouches for) its row. One installation at a provider belongs
//! to one org.
//!
//! **Invariants**: the live row of the same org keeps its id; a row of the same org that was revoked lives again under
//! its id; another org's live row is refused, never moved; of two orgs at the same moment the store's unique index
//! chooses one. A token is sealed for its row before it leaves here; the token of a refused grant is dropped, not
//! revoked, because revoking it could end the grant of the org that has the account. **Must not know** HTTP or how a
//! grant was proved.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    actors::{
        AskError,
        directory::Directory,
        installation::{
            InstallationError, ProviderState,
            binding::{ProvedGrant, reconnect},
            control,
        },
        tokens::{access_token_place, refresh_token_place},
    },
    model::{
        clock::{Clock, EpochMs, Ids},
        ids::{InstallationId, OrgId},
        installation::{Installation, InstallationStatus},
        log_entry::{Actor, LogEntry},
        provider::{ExternalId, ProviderSlug},
        token::SealedToken,
    },
    providers::connector::{Account, FreshToken},
    store::{SharedStore, StoreError},
    vault::{Vault, VaultError},
};

/// How often rows that change under our hands are looked at again.
const MAX_LOOKS: usize = 4;

/// A grant to be bound.
#[derive(Debug, Clone)]
pub struct BindGrant {
    /// At which provider.
    pub provider: ProviderSlug,
    /// Its id there.
    pub external_id: ExternalId,
    /// The second id some payloads name (Vercel: configuration id).
    pub alternate_external_id: Option<ExternalId>,
    /// For which org.
    pub org: OrgId,
    /// By whom.
    pub connected_by: String,
    /// The account behind it.
    pub account: Account,
    /// `Active`, or `Pending` if the provider has yet to confirm it.
    pub status: InstallationStatus,
    /// Its first token, where the provider gave one to keep.
    pub token: Option<FreshToken>,
    /// Whether only what the installation covers was changed.
    pub is_update: bool,
    /// Who asks.
    pub actor: Actor,
}

/// `POST /admin/connections`: an operator vouches for an installation that exists at the provider.
#[derive(Debug, Clone)]
pub struct AdoptInstallation {
    /// At which provider.
    pub provider: ProviderSlug,
    /// Its id there.
    pub external_id: ExternalId,
    /// A second id some payloads name (Vercel: configuration id).
    pub alternate_external_id: Option<ExternalId>,
    /// For which org.
    pub org: OrgId,
    /// By whom.
    pub connected_by: String,
    /// The account's login.
    pub account_login: Option<String>,
    /// Who asks.
    pub actor: Actor,
}

/// What a binding did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// A new row.
    New,
    /// The row that the org had already, live or revoked.
    Reactivated,
    /// Nothing: the org has it, and there was nothing to add.
    Unchanged,
}

/// On whose word a grant is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// The provider's: a person came back from it.
    Providers,
    /// An operator's.
    Operators,
}

impl Word {
    fn action_on_insert(self) -> &'static str {
        match self {
            Self::Providers => "installation.connected",
            Self::Operators => "installation.adopted",
        }
    }

    fn action_on_reuse(self) -> &'static str {
        match self {
            Self::Providers => "installation.reconnected",
            Self::Operators => "installation.adopted",
        }
    }
}

/// Binds grants to rows.
#[derive(Clone)]
pub struct Binder {
    /// The rows.
    pub store: SharedStore,
    /// Seals tokens.
    pub vault: Arc<Vault>,
    /// Edits rows that exist, and tells of links.
    pub directory: Directory,
    /// New ids.
    pub ids: Ids,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Binder {
    /// Binds a proved grant.
    ///
    /// # Errors
    /// [`InstallationError::AlreadyBound`] if another org has the installation; or the store, the vault or the
    /// supervisor fails.
    pub async fn bind(&self, grant: &BindGrant) -> Result<(Installation, Bound), AskError<InstallationError>> {
        self.place(grant, Word::Providers).await
    }

    /// Adopts an installation. The same org's live row is answered as it is.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub async fn adopt(
        &self,
        request: AdoptInstallation,
    ) -> Result<(Installation, Bound), AskError<InstallationError>> {
        let grant = BindGrant {
            provider: request.provider,
            external_id: request.external_id,
            alternate_external_id: request.alternate_external_id,
            org: request.org,
            connected_by: request.connected_by,
            account: Account { login: request.account_login, ..Account::default() },
            status: InstallationStatus::Active,
            token: None,
            is_update: false,
            actor: request.actor,
        };
        self.place(&grant, Word::Operators).await
    }

    /// Finds the row the grant belongs to, or makes it.
    async fn place(&self, grant: &BindGrant, word: Word) -> Result<(Installation, Bound), AskError<InstallationError>> {
        for _look in 0..MAX_LOOKS {
            let outcome = match self.find_live(grant).await? {
                Some(row) if row.org != grant.org => break,
                Some(row) if word == Word::Operators => return Ok((row, Bound::Unchanged)),
                Some(row) => self.reuse(&row.id, grant, word).await,
                None => match self.find_ended(grant, Some(&grant.org)).await? {
                    Some(row) => self.reuse(&row.id, grant, word).await,
                    None => self.insert(grant, word).await,
                },
            };
            match outcome {
                // Somebody bound it at the same moment: look again.
                Err(AskError::Reply(InstallationError::Store(StoreError::NotUnique { .. }))) => {}
                outcome => return outcome,
            }
        }
        Err(AskError::Reply(InstallationError::AlreadyBound))
    }

    async fn find_live(&self, grant: &BindGrant) -> Result<Option<Installation>, AskError<InstallationError>> {
        self.store.find_live_installation(grant.provider, &grant.external_id).await.map_err(store_error)
    }

    /// The newest row of a grant of the same account that has ended, of one org or of any.
    async fn find_ended(
        &self,
        grant: &BindGrant,
        org: Option<&OrgId>,
    ) -> Result<Option<Installation>, AskError<InstallationError>> {
        let found = self.store.find_ended_installation(grant.provider, &grant.external_id, org).await;
        found.map_err(store_error)
    }

    /// Puts the grant into a row of the same org, through its supervisor.
    async fn reuse(
        &self,
        id: &InstallationId,
        grant: &BindGrant,
        word: Word,
    ) -> Result<(Installation, Bound), AskError<InstallationError>> {
        let proved = self.proved(id, grant, word.action_on_reuse())?;
        let installation =
            self.directory.edit(id, grant.actor.clone(), move |record, edit| reconnect(record, proved, edit)).await?;
        if word == Word::Providers {
            self.directory.note_provider(id, ProviderState::Answers).await;
        }
        if grant.is_update {
            self.directory.look_in_background(id);
        }
        Ok((installation, Bound::Reactivated))
    }

    async fn insert(
        &self,
        grant: &BindGrant,
        word: Word,
    ) -> Result<(Installation, Bound), AskError<InstallationError>> {
        let id = self.ids.installation();
        let now = self.clock.now();
        let action = word.action_on_insert();
        let proved = self.proved(&id, grant, action)?;
        let (status, reason) = proved.state();
        // Of the first grant of an account that we know there is no older news, however old it says that it is.
        let former = self.find_ended(grant, None).await?;
        let granted_at = former.and_then(|former| proved.granted_at(former.alternate_external_id.as_ref(), now));
        let mut installation = Installation {
            id,
            provider: grant.provider,
            external_id: grant.external_id.clone(),
            alternate_external_id: grant.alternate_external_id.clone(),
            account_login: grant.account.login.clone(),
            org: grant.org.clone(),
            connected_by: grant.connected_by.clone(),
            status,
            status_reason: reason.map(str::to_owned),
            metadata: grant.account.metadata.clone(),
            provider_account_info: Some(grant.account.info.clone()).filter(|info| *info != Value::Null),
            control_at: None,
            last_event_at: None,
            created_at: now,
            updated_at: now,
        };
        control::note_grant(&mut installation, granted_at);
        let begins = control::begins(None, &mut installation);
        let entry = LogEntry {
            org: Some(installation.org.clone()),
            installation: Some(installation.id.clone()),
            subject: Some(installation.external_id.to_string()),
            to_state: Some(status.to_string()),
            ..LogEntry::new(self.ids.log(), action, grant.actor.clone(), now)
        };
        self.store.insert_connection(&installation, proved.token.as_ref(), &entry).await.map_err(store_error)?;
        if begins {
            self.directory.announce_link(&installation.id);
        }
        Ok((installation, Bound::New))
    }

    /// The grant with its token sealed for this row.
    fn proved(
        &self,
        id: &InstallationId,
        grant: &BindGrant,
        action: &'static str,
    ) -> Result<ProvedGrant, AskError<InstallationError>> {
        let token = grant.token.as_ref().map(|token| seal_token(&self.vault, id, token, self.clock.now())).transpose();
        let token = token.map_err(|error| {
            tracing::error!(installation.id = %id, %error, "a token cannot be sealed");
            AskError::Reply(InstallationError::Crashed)
        })?;
        Ok(ProvedGrant {
            org: grant.org.clone(),
            alternate_external_id: grant.alternate_external_id.clone(),
            account: grant.account.clone(),
            status: grant.status,
            token,
            connected_by: grant.connected_by.clone(),
            is_update: grant.is_update,
            action,
            // What mints its tokens from the installation's id gives every grant a new one.
            shares_id: self.directory.connector_of(grant.provider).is_ok_and(|connector| connector.keeps_tokens()),
        })
    }
}

/// The row of an installation's first token.
///
/// # Errors
/// [`VaultError`] if it cannot be sealed.
fn seal_token(vault: &Vault, id: &InstallationId, token: &FreshToken, now: EpochMs) -> Result<SealedToken, VaultError> {
    let refresh = token.refresh.as_ref().map(|refresh| vault.seal(refresh_token_place(id), refresh.expose()));
    Ok(SealedToken {
        installation: id.clone(),
        access: vault.seal(access_token_place(id), token.access.expose())?,
        refresh: refresh.transpose()?,
        token_type: token.token_type.clone(),
        scope: token.scope.clone(),
        expires_at: token.expires_at,
        refresh_expires_at: token.refresh_expires_at,
        generation: 1,
        claim: None,
        created_at: now,
        updated_at: now,
    })
}

fn store_error(error: StoreError) -> AskError<InstallationError> {
    AskError::Reply(InstallationError::Store(error))
}
