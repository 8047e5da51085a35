-- Held events are let go by when their provider sent them, and a backfill may bring the newest first.
DROP INDEX gw_events_held;
CREATE INDEX gw_events_held ON gw_events (installation_id, received_at, id) WHERE held;
