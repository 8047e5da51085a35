//! API keys: made and revoked, over HTTP and from the command line alike.
//!
//! Plain functions; no actor is needed, because a row is written once and ends once. **Invariants**: a key leaves here in
//! the clear exactly once, to whoever made it; the store gets its hash; each change leaves an audit row. **Must not know**
//! HTTP or who may do what.

use std::sync::Arc;

use crate::{
    crypto::api_key,
    model::{
        clock::{Clock, Ids},
        ids::{KeyId, OrgId},
        log_entry::{Actor, LogEntry},
        secret::Secret,
    },
    store::{ApiKey, Store, StoreError},
};

/// A key somebody wants.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What it is for.
    pub name: String,
    /// The org it is bound to; `None` makes a service key.
    pub org: Option<OrgId>,
    /// Whether it may change anything.
    pub can_write: bool,
}

/// Makes and revokes keys in a store.
pub struct ApiKeys<'a> {
    /// The rows.
    pub store: &'a dyn Store,
    /// Fresh ids.
    pub ids: &'a Ids,
    /// The time.
    pub clock: &'a Arc<dyn Clock>,
}

impl ApiKeys<'_> {
    /// Makes a key: its row, and the key itself, to be shown once.
    ///
    /// # Errors
    /// If the store cannot take it.
    pub async fn create(&self, wanted: NewKey, actor: &Actor) -> Result<(ApiKey, Secret), StoreError> {
        let key = api_key::generate();
        let text = key.expose_str().unwrap_or_default();
        let row = ApiKey {
            id: self.ids.key(),
            name: wanted.name,
            hash: api_key::hash(text),
            prefix: api_key::recognisable_part(text),
            org: wanted.org,
            can_write: wanted.can_write,
            created_at: self.clock.now(),
            last_used_at: None,
            revoked_at: None,
        };
        let entry = self.entry(&row.id, row.org.clone(), "key.created", actor);
        self.store.insert_key(&row, &entry).await?;
        Ok((row, key))
    }

    /// The key of that id, if it was not revoked.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub async fn find_live(&self, id: &KeyId) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.store.list_keys().await?.into_iter().find(|key| key.id == *id && key.revoked_at.is_none()))
    }

    /// Ends a key; false if somebody else has just done so.
    ///
    /// # Errors
    /// If the store cannot be told.
    pub async fn revoke(&self, key: &ApiKey, actor: &Actor) -> Result<bool, StoreError> {
        let entry = self.entry(&key.id, key.org.clone(), "key.revoked", actor);
        self.store.revoke_key(&key.id, self.clock.now(), &entry).await
    }

    fn entry(&self, key: &KeyId, org: Option<OrgId>, action: &str, actor: &Actor) -> LogEntry {
        LogEntry {
            org,
            subject: Some(key.to_string()),
            ..LogEntry::new(self.ids.log(), action, actor.clone(), self.clock.now())
        }
    }
}
