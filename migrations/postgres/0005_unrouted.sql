-- Rerouting pages through what is unrouted, oldest first: of an installation, and of an account that was not known. Each
-- such event is in one of these, in the order that it is asked for. In the index that they replace it was not: a page had
-- to read and sort everything that was unrouted.
CREATE INDEX gw_events_unrouted_of_installation ON gw_events (provider, installation_id, id)
    WHERE outcome = 'unrouted' AND installation_id IS NOT NULL;
CREATE INDEX gw_events_unrouted_of_account ON gw_events (provider, external_id, id)
    WHERE outcome = 'unrouted' AND installation_id IS NULL;
DROP INDEX gw_events_unrouted;
