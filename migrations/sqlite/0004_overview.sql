-- What people look at.

-- How many webhooks came and what became of them, by the minute: of each org, and of everybody as the org without a name.
CREATE TABLE gw_activity (
    org_id TEXT NOT NULL,
    minute INTEGER NOT NULL,
    provider TEXT NOT NULL,
    routed INTEGER NOT NULL,
    filtered INTEGER NOT NULL,
    unrouted INTEGER NOT NULL,
    ignored INTEGER NOT NULL,
    control INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    PRIMARY KEY (org_id, minute, provider)
) STRICT, WITHOUT ROWID;
-- The oldest go first.
CREATE INDEX gw_activity_age ON gw_activity (minute);

-- The workspaces of an org.
CREATE INDEX workspace_integrations_of_org ON workspace_integrations (org_id, workspace_id);
