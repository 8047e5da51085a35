-- What people look at.

-- How many webhooks came and what became of them, by the minute: of each org, and of everybody as the org without a name.
CREATE TABLE gw_activity (
    org_id TEXT COLLATE "C" NOT NULL,
    minute BIGINT NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    routed BIGINT NOT NULL,
    filtered BIGINT NOT NULL,
    unrouted BIGINT NOT NULL,
    ignored BIGINT NOT NULL,
    control BIGINT NOT NULL,
    duplicates BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    delivered BIGINT NOT NULL,
    dead BIGINT NOT NULL,
    PRIMARY KEY (org_id, minute, provider)
);
-- The oldest go first.
CREATE INDEX gw_activity_age ON gw_activity (minute);

-- The workspaces of an org.
CREATE INDEX workspace_integrations_of_org ON workspace_integrations (org_id, workspace_id);
