//! `impl OverviewStore`, written once for both backends: a table of operations and the queries that answer them.
//!
//! **Owns** nothing but the table; `backend.rs` has what each kind of operation means. **Must not know** SQL.

/// Implements [`super::OverviewStore`] for a backend.
macro_rules! impl_overview_store {
    ($store:ident) => {
        impl_operations! { OverviewStore for $store {}
            lookups {}
            reads {
                list_destinations_page(org: &OrgId, page: PageRequest<'_>) -> Page<Destination>
                    = destinations::list_page;
                list_disabled_destinations(org: Option<&OrgId>, page: PageRequest<'_>) -> Page<Destination>
                    = destinations::list_disabled;
                search_deliveries(filter: &DeliveryFilter, page: PageRequest<'_>) -> Found<(Delivery, Event)>
                    = delivery_search::find;
                count_deliveries(filter: &DeliveryFilter, limit: u32) -> BoundedCount = delivery_search::count_found;
                list_attempts(delivery: &DeliveryId) -> Vec<Attempt> = deliveries::attempts_of;
                list_keys_page(org: Option<&OrgId>, page: PageRequest<'_>) -> Page<ApiKey> = keys::list_page;
                find_quarantined(id: &QuarantineId) -> Option<Quarantined> = quarantine::find;
                list_activity(org: Option<&OrgId>, since: EpochMs, until: EpochMs, minutes: u32) -> Vec<Activity>
                    = activity::list;
            }
            snapshots {
                list_orgs(prefix: &str, page: PageRequest<'_>) -> Page<OrgSummary> = overview::list_orgs;
                summarize_org(org: &OrgId) -> OrgSummary = overview::summarize_org;
                list_workspaces(org: &OrgId, page: PageRequest<'_>) -> Page<WorkspaceSummary>
                    = overview::list_workspaces;
            }
            writes {
                add_activity(counted: &[Activity]) -> () = activity::add;
            }
        }
    };
}
