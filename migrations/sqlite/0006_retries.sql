-- How many attempts a delivery had when somebody last asked for it to be tried again. Its schedule begins anew there, and its
-- attempts are numbered on. (It is not among the columns that a webhook writes.)
ALTER TABLE gw_deliveries ADD COLUMN attempts_before_retry INTEGER NOT NULL DEFAULT 0;
