//! Published route tables, by the account that webhooks name.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;

use crate::model::{
    ids::InstallationId,
    provider::{ExternalId, ProviderSlug},
    routes::RouteTable,
};

/// How many installations are kept.
const MAX_INSTALLATIONS: u64 = 200_000;

/// How old a table may get before it is read again, whatever was or was not notified. Whoever posts every few minutes shall
/// be known: reading a table costs a third of a webhook. Where changes may have been missed, everything is forgotten at
/// once, so that this is the age only of what somebody changed behind the gateway's back.
const MAX_AGE: Duration = Duration::from_mins(10);

type AccountKey = (ProviderSlug, ExternalId);

/// The tables that routers read. Lock-free to read; written by supervisors only.
#[derive(Debug, Clone)]
pub struct RouteCache {
    tables: Cache<AccountKey, Arc<RouteTable>>,
    accounts: Cache<InstallationId, AccountKey>,
    enabled: bool,
}

impl RouteCache {
    /// An empty cache; one that is not `enabled` forgets at once.
    pub fn new(enabled: bool) -> Self {
        Self {
            tables: Cache::builder().max_capacity(MAX_INSTALLATIONS).time_to_live(MAX_AGE).build(),
            accounts: Cache::builder().max_capacity(MAX_INSTALLATIONS).time_to_live(MAX_AGE).build(),
            enabled,
        }
    }

    /// The table of the installation with this external id.
    pub fn get(&self, provider: ProviderSlug, external_id: &ExternalId) -> Option<Arc<RouteTable>> {
        self.tables.get(&(provider, external_id.clone()))
    }

    /// The table of this installation.
    pub fn get_by_id(&self, id: &InstallationId) -> Option<Arc<RouteTable>> {
        self.accounts.get(id).and_then(|account| self.tables.get(&account)).filter(|table| table.installation == *id)
    }

    /// Makes a table the one that routers read.
    pub fn publish(&self, table: Arc<RouteTable>) {
        if self.enabled {
            let account = (table.provider, table.external_id.clone());
            if let Some(former) = self.accounts.get(&table.installation)
                && former != account
            {
                self.tables.invalidate(&former);
            }
            self.accounts.insert(table.installation.clone(), account.clone());
            self.tables.insert(account, table);
        }
    }

    /// Forgets an installation's table.
    pub fn forget(&self, id: &InstallationId) {
        if let Some(account) = self.accounts.get(id) {
            self.tables.invalidate(&account);
            self.accounts.invalidate(id);
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.tables.invalidate_all();
        self.accounts.invalidate_all();
    }

    /// How many tables are kept, roughly.
    pub fn len(&self) -> u64 {
        self.tables.entry_count()
    }

    /// Whether none is kept, roughly.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
