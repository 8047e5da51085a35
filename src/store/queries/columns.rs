//! The column lists, in the order in which `rows.rs` reads them. Each table has its own letter in every query.

macro_rules! event_columns {
    () => {
        "e.id, e.provider, e.provider_delivery_id, e.wire_type, e.event_key, e.installation_id, e.org_id, \
         e.external_id, e.resources, e.outcome, e.reason, e.possible_replay, e.held, e.received_at, e.correlation_id, \
         e.trace_id"
    };
}

macro_rules! delivery_columns {
    () => {
        "d.id, d.event_id, d.integration_id, d.resource_id, d.workspace_id, d.org_id, d.destination_id, d.status, \
         d.reason, d.attempts, d.attempts_before_retry, d.due_at, d.lease_owner, d.replay, d.created_at, d.finished_at"
    };
}

macro_rules! attempt_columns {
    () => {
        "a.id, a.delivery_id, a.number, a.started_at, a.duration_ms, a.result, a.status_code, a.error, a.response_body"
    };
}

macro_rules! installation_columns {
    () => {
        "i.id, i.provider, i.external_id, i.alternate_external_id, i.account_login, i.org_id, i.connected_by, \
         i.status, i.status_reason, i.metadata, i.provider_account_info, i.control_at, i.last_event_at, i.created_at, \
         i.updated_at"
    };
}

macro_rules! resource_columns {
    () => {
        "r.id, r.installation_id, r.provider_resource_id, r.kind, r.slug, r.resource_name, r.attrs, r.status, \
         r.status_reason, r.control_at, r.created_at, r.updated_at"
    };
}

macro_rules! integration_columns {
    () => {
        "g.id, g.org_id, g.workspace_id, g.provider, g.installation_id, g.resource_id, g.source_config, g.status, \
         g.status_reason, g.last_event_at, g.created_at, g.updated_at"
    };
}

macro_rules! destination_columns {
    () => {
        "x.id, x.org_id, x.scope, x.scope_id, x.url, x.headers_sealed, x.secret_sealed, x.previous_secret_sealed, \
         x.previous_until, x.disabled_reason, x.failing_since, x.created_at, x.updated_at"
    };
}

macro_rules! teardown_columns {
    () => {
        "t.installation_id, t.org_id, t.reason, t.status, t.steps, t.due_at, t.lease_owner, t.started_at, \
         t.finished_at, t.updated_at"
    };
}

/// How many columns such a list has.
pub(super) const fn width(columns: &str) -> usize {
    let (names, mut commas, mut at) = (columns.as_bytes(), 0, 0);
    while at < names.len() {
        if names[at] == b',' {
            commas += 1;
        }
        at += 1;
    }
    commas + 1
}

/// The beginning of a statement that steps from one destination with something pending to the next, through the index: it
/// costs one look per destination, and not one per delivery.
macro_rules! with_waiting_after {
    ($after:literal) => {
        concat!(
            "WITH RECURSIVE waiting (destination_id) AS ( \
             SELECT (SELECT d.destination_id FROM gw_deliveries d WHERE d.status = 'pending' AND d.destination_id > ",
            $after,
            " ORDER BY d.destination_id LIMIT 1) \
             UNION ALL \
             SELECT (SELECT d.destination_id FROM gw_deliveries d WHERE d.status = 'pending' \
                 AND d.destination_id > waiting.destination_id ORDER BY d.destination_id LIMIT 1) \
             FROM waiting WHERE waiting.destination_id IS NOT NULL)"
        )
    };
}

/// The beginning of the destination that serves a delivery's integration: its own, its workspace's, its org's, else what
/// follows, and a closing bracket.
macro_rules! target_else {
    () => {
        "COALESCE((SELECT x.id FROM gw_destinations x WHERE x.org_id = d.org_id AND x.scope = 'integration' \
         AND x.scope_id = d.integration_id), \
         (SELECT x.id FROM gw_destinations x WHERE x.org_id = d.org_id AND x.scope = 'workspace' \
         AND x.scope_id = d.workspace_id), \
         (SELECT x.id FROM gw_destinations x WHERE x.org_id = d.org_id AND x.scope = 'org' \
         AND x.scope_id = d.org_id), "
    };
}
