-- Removes everything that 0001_pillarbox.up.sql created. Not removed: outbox tables, publication,
-- slot. Drop the slot too when no relay will come back, or it keeps WAL for ever:
--   SELECT pg_drop_replication_slot('pillarbox_<pipeline>');
--   DROP PUBLICATION pillarbox_<pipeline>;

DROP TABLE pillarbox.lineage;
DROP TABLE pillarbox.migrations;
DROP SCHEMA pillarbox;
