-- Sessions of the console: who signed in with which key. A cookie is known by its hash.
CREATE TABLE gw_sessions (
    hash BLOB PRIMARY KEY,
    key_id TEXT NOT NULL,
    masked_key_hash BLOB NOT NULL,
    user_id TEXT,
    created_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Revoking a key ends its sessions.
CREATE INDEX gw_sessions_of_key ON gw_sessions (key_id);
CREATE INDEX gw_sessions_expiring ON gw_sessions (expires_at);
