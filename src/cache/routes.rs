//! Published route tables, by the account that webhooks name.

use std::{sync::Arc, time::Duration};

use moka::{policy::EvictionPolicy, sync::Cache};

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

/// The tables that routers read. Lock-free to read; written by supervisors only. **Invariant**: a table that is kept can be
/// forgotten by its installation's id. The index is asked for seldom, however often its table is read, and would be the first
/// to make room: what leaves it takes its table along.
#[derive(Debug, Clone)]
pub struct RouteCache {
    tables: Cache<AccountKey, Arc<RouteTable>>,
    accounts: Cache<InstallationId, AccountKey>,
    enabled: bool,
}

impl RouteCache {
    /// An empty cache; one that is not `enabled` forgets at once.
    pub fn new(enabled: bool) -> Self {
        Self::holding(MAX_INSTALLATIONS, enabled)
    }

    fn holding(installations: u64, enabled: bool) -> Self {
        let tables: Cache<AccountKey, Arc<RouteTable>> =
            Cache::builder().max_capacity(installations).time_to_live(MAX_AGE).build();
        let indexed = tables.clone();
        // It has no age of its own, so that no table outlives its entry; the one that was published longest ago makes room.
        let accounts = Cache::builder()
            .max_capacity(installations)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |_id, account: AccountKey, cause| {
                if cause.was_evicted() {
                    indexed.invalidate(&account);
                }
            })
            .build();
        Self { tables, accounts, enabled }
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
            // The table first: an entry that is evicted at once finds it.
            let id = table.installation.clone();
            self.tables.insert(account.clone(), table);
            self.accounts.insert(id, account);
        }
    }

    /// Forgets an installation's table.
    pub fn forget(&self, id: &InstallationId) {
        match self.accounts.get(id) {
            Some(account) => {
                self.tables.invalidate(&account);
                self.accounts.invalidate(id);
            }
            // An entry that is just being evicted may not have taken its table along yet: this waits for it.
            None => self.accounts.run_pending_tasks(),
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::{ids::OrgId, installation::InstallationStatus};

    const KEPT: u64 = 8;

    fn table(number: u64) -> Arc<RouteTable> {
        Arc::new(RouteTable {
            installation: InstallationId::from_raw(format!("in_{number}")),
            provider: ProviderSlug("acme"),
            external_id: ExternalId::new(number.to_string()),
            alternate_external_id: None,
            org: OrgId::from_raw("org"),
            status: InstallationStatus::Active,
            resources: HashMap::new(),
            slugs: HashMap::new(),
        })
    }

    #[test]
    fn a_table_is_forgotten_by_its_id_however_often_it_is_read_and_whatever_was_published_since() {
        let cache = RouteCache::holding(KEPT, true);
        for number in 0..KEPT * 20 {
            cache.publish(table(number));
            // The first are read by every webhook.
            for hot in 0..KEPT / 2 {
                let hot = table(hot);
                cache.get(hot.provider, &hot.external_id);
            }
            cache.tables.run_pending_tasks();
            cache.accounts.run_pending_tasks();
        }
        for number in 0..KEPT * 20 {
            let table = table(number);
            cache.forget(&table.installation);
            assert!(cache.get(table.provider, &table.external_id).is_none(), "{number} goes on routing");
        }
    }
}
