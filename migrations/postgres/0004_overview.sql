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

-- An org's events in their order, with what filters ask about: most lists are answered here, without touching rows.
DROP INDEX gw_events_of_org;
CREATE INDEX gw_events_of_org ON gw_events (org_id, id)
    INCLUDE (provider, outcome, event_key, installation_id, held, received_at) WHERE org_id IS NOT NULL;
-- That holds for pages that a vacuum has seen. Events are inserted and not touched any more, so it is told to look often.
ALTER TABLE gw_events SET (autovacuum_vacuum_insert_scale_factor = 0.02);
-- What arrived more than an hour after the time it names, as a backfill's do: a search for what was received before some
-- time begins there and goes on where events of that time are. Nothing else is in it.
CREATE INDEX gw_events_backdated ON gw_events (org_id, id, received_at)
    WHERE id > 'evt_' || lpad(to_hex(GREATEST(received_at, 0) + 3600000), 12, '0');
-- What waits for a link, of everybody.
CREATE INDEX gw_events_waiting ON gw_events (id) WHERE outcome = 'unrouted';
