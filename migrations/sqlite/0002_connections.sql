-- What connecting, healing and the last look at a provider keep.

-- A later leg of a flow names the first, and keeps what the leg before it left for the provider's connector.
ALTER TABLE gw_oauth_states ADD COLUMN root_hash BLOB;
ALTER TABLE gw_oauth_states ADD COLUMN context TEXT;
ALTER TABLE gw_oauth_states ADD COLUMN actor TEXT NOT NULL DEFAULT '{"who":"system","user":null,"from":null}';

-- What the last look at the provider showed, and what is known of its side.
ALTER TABLE gw_installations ADD COLUMN visible_resources TEXT;
ALTER TABLE gw_installations ADD COLUMN visible_at INTEGER;
ALTER TABLE gw_installations ADD COLUMN provider_health TEXT;
-- Reconnecting revives the newest ended row of the org.
CREATE INDEX gw_installations_ended ON gw_installations (provider, external_id, org_id, id) WHERE status = 'revoked';

-- Only what can be refreshed is looked for before it expires.
DROP INDEX gw_tokens_expiring;
CREATE INDEX gw_tokens_refreshable ON gw_tokens (expires_at)
    WHERE expires_at IS NOT NULL AND refresh_token_sealed IS NOT NULL;

-- A comparison of a provider's delivery log with what was received.
CREATE TABLE gw_heal_runs (
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    status TEXT NOT NULL,
    cause TEXT NOT NULL,
    examined INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    requested INTEGER NOT NULL,
    healed INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    error TEXT,
    owner TEXT NOT NULL,
    finished_at INTEGER,
    updated_at INTEGER NOT NULL
) STRICT;
-- One node at a time heals a provider.
CREATE UNIQUE INDEX gw_heal_runs_running ON gw_heal_runs (provider) WHERE status = 'running';
CREATE INDEX gw_heal_runs_of_provider ON gw_heal_runs (provider, id);
