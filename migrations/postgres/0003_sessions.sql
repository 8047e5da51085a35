-- Sessions of the console: who signed in with which key. A cookie is known by its hash.
CREATE TABLE gw_sessions (
    hash BYTEA PRIMARY KEY,
    key_id TEXT COLLATE "C" NOT NULL,
    masked_key_hash BYTEA NOT NULL,
    user_id TEXT,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
-- Revoking a key ends its sessions.
CREATE INDEX gw_sessions_of_key ON gw_sessions (key_id);
CREATE INDEX gw_sessions_expiring ON gw_sessions (expires_at);
