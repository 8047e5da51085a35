-- An org's grant at a provider.
CREATE TABLE gw_installations (
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    external_id TEXT NOT NULL,
    alternate_external_id TEXT,
    account_login TEXT,
    org_id TEXT NOT NULL,
    connected_by TEXT NOT NULL,
    status TEXT NOT NULL,
    status_reason TEXT,
    metadata TEXT NOT NULL DEFAULT '{}',
    provider_account_info TEXT,
    control_at INTEGER,
    last_event_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
-- One external installation belongs to one org at a time; an ended one makes room. Routing looks up here.
CREATE UNIQUE INDEX gw_installations_live ON gw_installations (provider, external_id) WHERE status <> 'revoked';
CREATE INDEX gw_installations_alternate ON gw_installations (provider, alternate_external_id)
    WHERE alternate_external_id IS NOT NULL;
CREATE INDEX gw_installations_org ON gw_installations (org_id, id);

-- One token per installation, sealed. `generation` fences a slow refresher.
CREATE TABLE gw_tokens (
    installation_id TEXT PRIMARY KEY REFERENCES gw_installations (id) ON DELETE CASCADE,
    access_token_sealed TEXT NOT NULL,
    refresh_token_sealed TEXT,
    token_type TEXT,
    scope TEXT,
    expires_at INTEGER,
    refresh_expires_at INTEGER,
    generation INTEGER NOT NULL DEFAULT 0,
    refreshing_owner TEXT,
    refreshing_until INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX gw_tokens_expiring ON gw_tokens (expires_at) WHERE expires_at IS NOT NULL;

-- A thing at the provider that emits events.
CREATE TABLE gw_resources (
    id TEXT PRIMARY KEY,
    installation_id TEXT NOT NULL REFERENCES gw_installations (id) ON DELETE CASCADE,
    provider_resource_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    slug TEXT,
    resource_name TEXT,
    attrs TEXT NOT NULL DEFAULT '{}',
    status TEXT NOT NULL,
    status_reason TEXT,
    control_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX gw_resources_of_installation ON gw_resources (installation_id, provider_resource_id);
-- The fallback of routing: which installation has this resource?
CREATE INDEX gw_resources_by_provider_id ON gw_resources (provider_resource_id) WHERE status = 'active';

-- One workspace's subscription to one resource.
CREATE TABLE workspace_integrations (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    installation_id TEXT NOT NULL REFERENCES gw_installations (id) ON DELETE CASCADE,
    resource_id TEXT NOT NULL REFERENCES gw_resources (id) ON DELETE CASCADE,
    source_config TEXT NOT NULL DEFAULT '{}',
    status TEXT NOT NULL,
    status_reason TEXT,
    last_event_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX workspace_integrations_of_workspace ON workspace_integrations (workspace_id, resource_id);
CREATE INDEX workspace_integrations_of_installation ON workspace_integrations (installation_id, id);
CREATE INDEX workspace_integrations_of_resource ON workspace_integrations (resource_id);

-- A verified, stored webhook. Its row is the dedup.
CREATE TABLE gw_events (
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    provider_delivery_id TEXT NOT NULL,
    wire_type TEXT NOT NULL,
    event_key TEXT,
    installation_id TEXT,
    org_id TEXT,
    external_id TEXT,
    resources TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    possible_replay INTEGER NOT NULL,
    held INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    correlation_id TEXT NOT NULL,
    -- NULL unless traces are exported; attempts made later, or elsewhere, join the webhook's trace by it.
    trace_id TEXT,
    content_type TEXT,
    headers TEXT NOT NULL,
    decision TEXT NOT NULL,
    body_digest BLOB,
    payload_encoding TEXT NOT NULL,
    payload_bytes INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
-- The delivery id first, so that a search by it alone finds it too.
CREATE UNIQUE INDEX gw_events_dedup ON gw_events (provider_delivery_id, provider);
-- The lists and the stream of an org.
CREATE INDEX gw_events_of_org ON gw_events (org_id, id) WHERE org_id IS NOT NULL;
-- The lists and the rerouting of an installation.
CREATE INDEX gw_events_of_installation ON gw_events (installation_id, id) WHERE installation_id IS NOT NULL;
-- Only providers whose delivery id is not signed have digests.
CREATE INDEX gw_events_digest ON gw_events (body_digest) WHERE body_digest IS NOT NULL;
-- Rerouting: what is unrouted of this installation, and what named its account before it was known?
CREATE INDEX gw_events_unrouted ON gw_events (provider, installation_id, external_id, id) WHERE outcome = 'unrouted';
CREATE INDEX gw_events_held ON gw_events (installation_id, id) WHERE held;

-- One event on its way to one integration. No foreign keys: the census looks for orphans, the hot path does not.
CREATE TABLE gw_deliveries (
    id TEXT PRIMARY KEY,
    event_id TEXT NOT NULL,
    integration_id TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    destination_id TEXT,
    status TEXT NOT NULL,
    reason TEXT,
    attempts INTEGER NOT NULL,
    is_retry INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    lease_owner TEXT,
    replay INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    finished_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX gw_deliveries_of_event ON gw_deliveries (event_id);
-- Claiming: what is due to this destination, first tries apart from retries? The skip scan over destinations too.
CREATE INDEX gw_deliveries_due ON gw_deliveries (destination_id, is_retry, due_at) WHERE status = 'pending';
-- Giving up the leases of a node.
CREATE INDEX gw_deliveries_leased ON gw_deliveries (lease_owner) WHERE lease_owner IS NOT NULL;
CREATE INDEX gw_deliveries_held ON gw_deliveries (org_id) WHERE status = 'held';
-- The dead letter queue: of everybody, and of an org.
CREATE INDEX gw_deliveries_dead ON gw_deliveries (id) WHERE status = 'dead';
CREATE INDEX gw_deliveries_dead_of_org ON gw_deliveries (org_id, id) WHERE status = 'dead';

-- One HTTP try of a delivery.
CREATE TABLE gw_attempts (
    delivery_id TEXT NOT NULL,
    id TEXT NOT NULL,
    number INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    result TEXT NOT NULL,
    status_code INTEGER,
    error TEXT,
    response_body TEXT,
    PRIMARY KEY (delivery_id, id)
) STRICT, WITHOUT ROWID;

-- Where envelopes are sent. Secrets and header values are sealed.
CREATE TABLE gw_destinations (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    url TEXT NOT NULL,
    headers_sealed TEXT,
    secret_sealed TEXT NOT NULL,
    previous_secret_sealed TEXT,
    previous_until INTEGER,
    disabled_reason TEXT,
    failing_since INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX gw_destinations_scope ON gw_destinations (org_id, scope, scope_id);

-- OAuth flows: the state's hash, taken once.
CREATE TABLE gw_oauth_states (
    state_hash BLOB PRIMARY KEY,
    provider TEXT NOT NULL,
    org_id TEXT NOT NULL,
    user_id TEXT,
    cookie_hash BLOB,
    pkce_verifier_sealed TEXT,
    redirect_to TEXT,
    status TEXT NOT NULL,
    error TEXT,
    installation_id TEXT,
    result TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    taken_at INTEGER,
    finished_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX gw_oauth_states_expiring ON gw_oauth_states (expires_at);

-- The ending of an installation: its cursor and, afterwards, its receipt.
CREATE TABLE gw_teardowns (
    installation_id TEXT PRIMARY KEY REFERENCES gw_installations (id) ON DELETE CASCADE,
    org_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    status TEXT NOT NULL,
    current_step TEXT,
    steps TEXT NOT NULL DEFAULT '[]',
    due_at INTEGER NOT NULL,
    lease_owner TEXT,
    started_at INTEGER NOT NULL,
    finished_at INTEGER,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX gw_teardowns_running ON gw_teardowns (due_at) WHERE status = 'running';

-- Progress of the backfill service.
CREATE TABLE gw_backfill_runs (
    id TEXT PRIMARY KEY,
    installation_id TEXT NOT NULL REFERENCES gw_installations (id) ON DELETE CASCADE,
    org_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    status TEXT NOT NULL,
    depth_days INTEGER,
    entity_types TEXT NOT NULL DEFAULT '[]',
    counts TEXT NOT NULL DEFAULT '{}',
    error TEXT,
    started_at INTEGER,
    finished_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX gw_backfill_runs_of_installation ON gw_backfill_runs (installation_id, id);

-- Who did what, when, from where: lifecycle and audit in one.
CREATE TABLE gw_lifecycle_log (
    id TEXT PRIMARY KEY,
    org_id TEXT,
    installation_id TEXT,
    subject TEXT,
    action TEXT NOT NULL,
    from_state TEXT,
    to_state TEXT,
    reason TEXT,
    actor TEXT NOT NULL,
    actor_user TEXT,
    actor_from TEXT,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX gw_lifecycle_log_of_org ON gw_lifecycle_log (org_id, id) WHERE org_id IS NOT NULL;
CREATE INDEX gw_lifecycle_log_of_installation ON gw_lifecycle_log (installation_id, id)
    WHERE installation_id IS NOT NULL;

CREATE TABLE gw_api_keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL,
    prefix TEXT NOT NULL,
    org_id TEXT,
    can_write INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at INTEGER
) STRICT;
CREATE UNIQUE INDEX gw_api_keys_hash ON gw_api_keys (hash);

-- Webhooks set aside: wrongly signed, or ones that cannot be handled.
CREATE TABLE gw_quarantine (
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    cause TEXT NOT NULL,
    headers TEXT NOT NULL,
    body_sha256 TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    body_bytes INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX gw_quarantine_same ON gw_quarantine (provider, cause, body_sha256);
-- Counts and sizes without touching the bodies; oldest first.
CREATE INDEX gw_quarantine_sizes ON gw_quarantine (id, body_bytes);
