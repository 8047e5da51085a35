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

-- An org's events in their order, with what filters ask about: most lists are answered here, without touching rows.
DROP INDEX gw_events_of_org;
CREATE INDEX gw_events_of_org ON gw_events
    (org_id, id, provider, outcome, event_key, installation_id, held, received_at) WHERE org_id IS NOT NULL;
-- What arrived more than an hour after the time it names, as a backfill's do: a search for what was received before some
-- time begins there and goes on where events of that time are. Nothing else is in it.
CREATE INDEX gw_events_backdated ON gw_events (org_id, id, received_at)
    WHERE id > printf('evt_%012x', max(received_at, 0) + 3600000);
-- What waits for a link, of everybody.
CREATE INDEX gw_events_waiting ON gw_events (id) WHERE outcome = 'unrouted';
